"""Each frame → whether its camera can be trusted: its own health, then whether the arm in it confirms the calibration.

An ill camera, and one that the arm contradicts, are refused. With too little of the arm in view the camera is
unchecked: that is reported, and motion goes on unless a check is required. Where something else was refused, and the
camera was unusual, the camera is named first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.messages import Cause, ImageBox, Observation, Outcome, Plan
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.camera_check import CameraSeen, check_camera
from qwen2vl_robot.perception.camera_health import CameraHealth, measure_health
from qwen2vl_robot.perception.camera_stuck import Repeated
from qwen2vl_robot.perception.surfaces import surfaces_of
from qwen2vl_robot.reasons import (
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
_BARE_RATIO = 0.3  # of a box; right cameras left more without depth only of black and of clear things, up to 0.56


@dataclass(frozen=True, slots=True)
class CameraSaid:
    """What a frame says of its camera, in one line.

    Attributes:
        against: why nothing may be moved by it.
        problem: why the frame cannot be measured at all, though nothing says that the camera is wrong.
    """

    text: str
    against: ObservationReason | None = None
    numbers: tuple[tuple[str, float], ...] = ()
    problem: str = ""


def _nobody(_: object) -> None:
    """Tell nobody."""


class CameraGuard:
    """Checks the camera in every frame.

    Args:
        is_required: whether a camera that is unchecked holds every motion back.
        on_seen: is told what the arm in each frame says.
        on_health: is told how the camera of each frame is.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        is_required: bool = False,
        on_seen: Callable[[CameraSeen], None] = _nobody,
        on_health: Callable[[CameraHealth], None] = _nobody,
    ) -> None:
        self._profile, self._kinematics = surroundings.profile, surroundings.kinematics
        self._is_required, self._on_seen, self._on_health = is_required, on_seen, on_health
        self._repeated = Repeated()
        self._health = CameraHealth(())
        surfaces_of(surroundings.kinematics)  # now, so that no frame waits for it

    def confirm(self, observation: Observation) -> str:
        """Return what a frame says of the camera, in one line.

        Raises:
            ObservationError: it says that nothing may be measured in it.
        """
        said = self.look(observation)
        if said.against is not None:
            raise ObservationError(said.text, reason=said.against)
        return said.text

    def look(self, observation: Observation) -> CameraSaid:
        """Return what a frame says, and the reason why nothing may be moved by it."""
        self._health = health = measure_health(observation, self._profile, self._kinematics, self._repeated)
        self._on_health(health)
        if health.ill is not None:
            return CameraSaid(health.describe(), health.ill.reason, health.ill.numbers)
        seen = check_camera(observation, self._profile, self._kinematics)
        self._on_seen(seen)
        if seen.is_off:
            wrong = next((m for m in health.unusual if m.reason in _MOVES_THE_ARM), None)
            if wrong is not None:  # what the table says more exactly, the arm only confirms
                return CameraSaid(f"camera: {wrong.text}; {seen.describe()}", wrong.reason, wrong.numbers)
            return CameraSaid(seen.describe(), ObservationReason.CAMERA_OFF, seen.numbers)
        if seen.problem and health.unusual:
            worst = health.unusual[0]
            return CameraSaid(f"camera: {worst.text}; {seen.problem}", worst.reason, worst.numbers)
        unchecked = ObservationReason.CAMERA_UNCHECKED if self._is_required and not seen.is_checked else None
        return CameraSaid(seen.describe(), unchecked, seen.numbers, seen.problem)

    def explained(self, outcome: Outcome, plan: Plan | None) -> Outcome:
        """Put the camera first among the causes of a refusal that the last frame's camera is bad enough to explain.

        Words that nobody understood stay before it: no camera explains them.
        """
        cause = next(self._explanations(outcome, plan), None)
        if cause is None:
            return outcome
        words = 1 if outcome.reason is TaskReason.NOT_UNDERSTOOD else 0
        return replace(outcome, causes=(*outcome.causes[:words], cause, *outcome.causes[words:]))

    def _explanations(self, outcome: Outcome, plan: Plan | None) -> Iterator[Cause]:
        reasons = {cause.reason for cause in outcome.causes}
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


def _bare_ratio(depth_m: np.ndarray, box: ImageBox) -> float:
    """Compute the share of a box, 0..1000 of width and height, that has no depth."""
    height, width = depth_m.shape
    x0, x1 = (round(x * width / 1000) for x in (box.x0, box.x1))
    y0, y1 = (round(y * height / 1000) for y in (box.y0, box.y1))
    part = depth_m[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    return float(np.isnan(part).mean()) if part.size else 0.0
