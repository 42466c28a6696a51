"""Each frame → whether its camera can be trusted: its own health, then whether the arm in it confirms the calibration.

An ill camera, and any camera that the arm contradicts, are refused. With too little of the arm in view a camera is
unchecked: that is reported, and motion goes on unless a check is required. Where something else was refused, and the
camera was unusual, the camera is named first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.camera_verdict import CameraChecked, CameraVerdict
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.messages import CameraFrame, Cause, ImageBox, Observation, Outcome, Plan
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.agreement import check_cameras
from qwen2vl_robot.perception.camera_check import check_camera
from qwen2vl_robot.perception.camera_health import CameraHealth, measure_health
from qwen2vl_robot.perception.camera_seen import CameraSeen
from qwen2vl_robot.perception.camera_stuck import Repeated
from qwen2vl_robot.perception.surfaces import surfaces_of
from qwen2vl_robot.reasons import (
    AbortReason,
    EvidenceReason,
    MotionReason,
    ObservationReason,
    PerceptionReason,
    Reason,
    RefusalReason,
    TaskReason,
)

_BY_COLOUR: frozenset[Reason] = frozenset(
    {PerceptionReason.NOT_FOUND, PerceptionReason.LABEL_MISMATCH, RefusalReason.SCENE_CHANGED}
)
_BY_DEPTH: frozenset[Reason] = _BY_COLOUR | {
    PerceptionReason.NO_DEPTH,
    MotionReason.NO_PATH,
    MotionReason.NO_GRASP,
    MotionReason.NO_SPACE,
    MotionReason.UNEXPLAINED,
    RefusalReason.NO_FRAME,
    ObservationReason.BAD_FRAME,
    EvidenceReason.HIDDEN,
    EvidenceReason.UNMEASURED,
}
_MOVES_THE_ARM = (ObservationReason.CAMERA_INFO, ObservationReason.CAMERA_TILTED)
CHECK_LASTS_S = 600.0  # where a check is required, the last one counts for so long, as long as the pose is the same
_BARE_RATIO = 0.3  # of a box; right cameras left more without depth only of black and of clear things, up to 0.56


@dataclass(frozen=True, slots=True)
class CameraSaid:
    """What a frame says of its cameras, in one line.

    Attributes:
        against: why nothing may be moved by it.
        problem: why the frame cannot be measured at all, though nothing says that a camera is wrong.
        cameras: what the arm says of each; none where the first one is ill.
    """

    text: str
    against: ObservationReason | None = None
    numbers: tuple[tuple[str, float], ...] = ()
    problem: str = ""
    cameras: tuple[CameraChecked, ...] = ()


def _nobody(*_: object) -> None:
    """Tell nobody."""


class CameraGuard:
    """Checks the cameras in every frame.

    Args:
        names: of the cameras, the first one first; numbers where they are left out.
        is_required: whether a camera that is unchecked holds every motion back.
        on_seen: is told what the arm in each frame says of each camera; the first one is called "".
        on_health: is told how the camera of each frame is.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        names: tuple[str, ...] = (),
        is_required: bool = False,
        on_seen: Callable[[str, CameraSeen], None] = _nobody,
        on_health: Callable[[CameraHealth], None] = _nobody,
    ) -> None:
        self._profile, self._kinematics = surroundings.profile, surroundings.kinematics
        self._names, self._is_required = names, is_required
        self._on_seen, self._on_health = on_seen, on_health
        self._repeated = Repeated()
        self._health, self._said = CameraHealth(()), CameraSaid("")  # of the last frame
        self._confirmed: dict[int, CameraFrame] = {}  # the last frame in which the arm confirmed each camera
        surfaces_of(surroundings.kinematics)  # now, so that no frame waits for it

    def look(self, observation: Observation) -> CameraSaid:
        """Return what a frame says, and the reason why nothing may be moved by it."""
        self._said = self._look(observation)
        return self._said

    def _look(self, observation: Observation) -> CameraSaid:
        self._health = health = measure_health(observation, self._profile, self._kinematics, self._repeated)
        self._on_health(health)
        if health.ill is not None:
            return CameraSaid(health.describe(), health.ill.reason, health.ill.numbers)
        found = [self._check(index, observation) for index in range(1 + len(observation.frame.others))]
        first, cameras = found[0], tuple(_checked(self._name(i), seen) for i, seen in enumerate(found))
        text = first.describe() if len(found) == 1 else "; ".join(f"{c.name}: {c.text}" for c in cameras)
        off = next((seen for seen in found if seen.is_off), None)
        if off is not None:
            wrong = next((m for m in health.unusual if m.reason in _MOVES_THE_ARM), None)
            if wrong is not None and off is first:  # what the table says more exactly, the arm only confirms
                text, against = f"camera: {wrong.text}; {first.describe()}", wrong.reason
                return CameraSaid(text, against, wrong.numbers, cameras=cameras)
            refused = [f"{c.name}: {c.text}" for c in cameras if c.verdict is CameraVerdict.REFUSES]
            text = text if len(found) == 1 else "; ".join(refused)
            return CameraSaid(text, ObservationReason.CAMERA_OFF, off.numbers, cameras=cameras)
        problem = first.problem or _contradiction(observation.frame)
        if problem and health.unusual:
            worst = health.unusual[0]
            return CameraSaid(f"camera: {worst.text}; {problem}", worst.reason, worst.numbers, cameras=cameras)
        is_unknown = self._is_required and not all(self._is_known(i, observation) for i in range(len(found)))
        unchecked = ObservationReason.CAMERA_UNCHECKED if is_unknown else None
        return CameraSaid(text, unchecked, first.numbers, problem, cameras)

    def _name(self, index: int) -> str:
        return next((n for n in self._names[index : index + 1] if n), "camera" if index == 0 else f"camera {index + 1}")

    def _check(self, index: int, observation: Observation) -> CameraSeen:
        """Check one camera by itself, and remember whether the arm confirmed it."""
        frame = replace(_frames(observation)[index], others=())
        seen = check_camera(replace(observation, frame=frame), self._profile, self._kinematics)
        self._on_seen(self._name(index) if index else "", seen)
        if seen.is_off:
            self._confirmed.pop(index, None)
        elif seen.is_checked:
            self._confirmed[index] = frame
        return seen

    def _is_known(self, index: int, observation: Observation) -> bool:
        """Whether the arm confirms a camera, now or not long ago at the same pose."""
        frame, then = _frames(observation)[index], self._confirmed.get(index)
        if then is None or then.intrinsics != frame.intrinsics:
            return False
        is_recent = 0 <= frame.stamp_ns - then.stamp_ns <= CHECK_LASTS_S * 1e9
        return is_recent and bool(np.allclose(frame.T_base_camera, then.T_base_camera, atol=1e-6))

    def explained(self, outcome: Outcome, plan: Plan | None) -> Outcome:
        """Put the camera first among the causes of an end that the last frame's camera is bad enough to explain.

        Words that nobody understood stay before it: no camera explains them.
        """
        cause = next(self._explanations(outcome, plan), None)
        if cause is None:
            return outcome
        words = 1 if outcome.reason is TaskReason.NOT_UNDERSTOOD else 0
        return replace(outcome, causes=(*outcome.causes[:words], cause, *outcome.causes[words:]))

    def _explanations(self, outcome: Outcome, plan: Plan | None) -> Iterator[Cause]:
        reasons = {cause.reason for cause in outcome.causes}
        said = self._said
        if AbortReason.INTRUSION in reasons and said.against is ObservationReason.CAMERA_OFF and said.numbers:
            yield Cause(said.against, said.text, said.numbers)  # it was the arm itself, seen beside itself
        if not reasons & _BY_DEPTH:
            return
        for measure in self._health.unusual:
            is_colour = measure.reason is ObservationReason.CAMERA_COLOURS
            if reasons & (_BY_COLOUR if is_colour else _BY_DEPTH):
                yield Cause(measure.reason, f"camera: {measure.text}", measure.numbers)
        seen = self._repeated.before
        if seen is None or plan is None:
            return
        for thing in (action.object for action in plan.actions if action.object is not None):
            bare = max((_bare_ratio(seen.frame.depth_m, box) for box in thing.boxes), default=0.0)
            if bare > _BARE_RATIO:
                text = f"camera: {bare:.0%} of the box of {thing.label!r} has no depth"
                yield Cause(ObservationReason.CAMERA_BLIND, text, (("missing_ratio", bare), ("usual", _BARE_RATIO)))


def _frames(observation: Observation) -> tuple[CameraFrame, ...]:
    return (observation.frame, *observation.frame.others)


def _contradiction(frame: CameraFrame) -> str:
    """Why several cameras cannot have looked at one world, "" where they can."""
    try:
        check_cameras(frame)
    except ObservationError as error:
        return str(error)
    return ""


def _checked(name: str, seen: CameraSeen) -> CameraChecked:
    passes = CameraVerdict.PASSES if seen.is_checked else CameraVerdict.UNKNOWN
    verdict = CameraVerdict.REFUSES if seen.is_off else passes
    off_m = None if seen.off_m is None else (float(seen.off_m[0]), float(seen.off_m[1]), float(seen.off_m[2]))
    if off_m is None or seen.size_m is None:
        return CameraChecked(name, verdict, seen.describe(), seen.shown_px)
    numbers = (float(seen.size_m), off_m, float(seen.unsure_m), float(seen.turn_rad))
    return CameraChecked(name, verdict, seen.describe(), seen.shown_px, *numbers)


def _bare_ratio(depth_m: np.ndarray, box: ImageBox) -> float:
    """Compute the share of a box, 0..1000 of width and height, that has no depth."""
    height, width = depth_m.shape
    x0, x1 = (round(x * width / 1000) for x in (box.x0, box.x1))
    y0, y1 = (round(y * height / 1000) for y in (box.y0, box.y1))
    part = depth_m[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    return float(np.isnan(part).mean()) if part.size else 0.0
