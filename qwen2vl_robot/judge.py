"""A finished step and two looks after it → the outcome: what was measured, never what was promised.

Achieved needs evidence for all of it: the arm is where the motion ends, the fingers are as wide as promised, nothing
moves any more, the target is where it should be, and everything else is where it was. What speaks against it is a wrong
effect; what cannot be seen is not verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import (
    Cause,
    Effect,
    JointSegment,
    Observation,
    Outcome,
    OutcomeKind,
    Rehearsed,
    RobotState,
    Scene,
    SceneObject,
    shape_size_m,
)
from qwen2vl_robot.perception.changes import Change, inside_any, trace, unexplained
from qwen2vl_robot.perception.links import see_links
from qwen2vl_robot.perception.segments import same_material
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import LevelledView, make_view
from qwen2vl_robot.reasons import EvidenceReason, TaskReason
from qwen2vl_robot.relations import relation_holds

LOOK_GAP_S = 0.4  # between the two looks: what moves at 2 cm/s, which counts as at rest, goes 8 mm
_SAME_POSE = 0.001  # m, and rad: a camera at the wrist is back where it was, to less than a pixel
_ARM_OFF_M = 0.025  # by depth; hulls and calibration leave 3 to 13 mm where the arm is right
_CLEARLY_MOVED_RAD = 0.1  # a joint that moves less may leave the arm where it was, for depth
_GRIP_ERROR_M = 0.005  # a measured side is good to 2 mm, the fingers' width to 1 mm
_OPEN_ERROR_M = 0.010  # of fingers that hold nothing
_SAME_PLACE_M = 0.02  # an object this close to where it was has not moved (measured to about 5 mm)
_MOVED_M = 0.005  # what the twin moves by more is to be somewhere else
_STILL_SHOWN_RATIO = 0.6  # of the pixels that showed an object and are not covered now: it is where it was
_HIDDEN_RATIO = 0.7  # of the pixels that showed a body: whether it is still there cannot be seen
_FEW_PX = 30  # what showed in fewer pixels was hidden before, too
_ALIKE_M = 0.010  # things of one colour whose sides differ by less look alike
_TOUCHES_M = 0.02  # around a body's shape: a change in there is the body's


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """A step with what was seen before and after it.

    Attributes:
        end: the twin's state after the motion, its joints those of the motion's last point.
        left, arrived: bodies that were to move, where they were and where they are now, or should be.
        measured: the scene from the second look, None where it could not be measured.
    """

    effect: Effect
    start: RobotState
    end: RobotState
    state: RobotState
    scene: Scene
    expected: Scene
    measured: Scene | None
    before: LevelledView
    looks: tuple[LevelledView, LevelledView]
    left: tuple[SceneObject, ...]
    arrived: tuple[SceneObject, ...]
    surroundings: Surroundings

    @property
    def after(self) -> LevelledView:
        return self.looks[-1]


def judge(
    step: Rehearsed, looks: tuple[Observation, Observation], measured: Scene | None, surroundings: Surroundings
) -> Outcome:
    """Say what a finished motion brought about, from measurements alone.

    Args:
        looks: frames and states after the motion, `LOOK_GAP_S` apart.
        measured: the scene measured in the second one, or None when what was expected was not found.

    Returns:
        "achieved" only if everything was measured to be so; "no_motion" if the object is where it was;
        "not_verified" if nothing speaks against it and something could not be seen; otherwise "wrong_effect".
    """
    try:
        case = _open(step, looks, measured, surroundings)
    except ObservationError as error:
        return _unverified(EvidenceReason.UNMEASURED, f"the effect could not be measured: {error}")
    return next(filter(None, (check(case) for check in _CHECKS)), None) or _judge_effect(case)


def _open(
    step: Rehearsed, looks: tuple[Observation, Observation], measured: Scene | None, surroundings: Surroundings
) -> _Case:
    """Gather what the checks need.

    Raises:
        ObservationError: a frame cannot be used or came twice, the camera has moved, or the twin promised nothing.
    """
    expected, end, seen = step.verdict.scene_after, step.verdict.state_after, step.seen
    if expected is None or end is None or seen is None:
        raise ObservationError("there is no scene before the motion, or no prediction, to compare with")
    if not looks[0].frame.stamp_ns < looks[1].frame.stamp_ns:
        raise ObservationError("both looks show one frame, which cannot tell whether anything moves")
    for frame in (look.frame for look in looks):
        if frame.intrinsics != seen.intrinsics or not np.allclose(
            frame.T_base_camera, seen.T_base_camera, atol=_SAME_POSE
        ):
            raise ObservationError("the camera is not what or where it was before the motion")
    kinematics, profile = surroundings.kinematics, surroundings.profile
    before = make_view(Observation(seen, step.start), kinematics, profile)
    first, second = (make_view(look, kinematics, profile) for look in looks)
    state = looks[-1].robot
    pairs = list(_movers(step.scene, expected, measured, state, surroundings))
    return _Case(
        effect=step.motion.effect,
        start=step.start,
        end=replace(end, q_rad=_last_joints(step)),
        state=state,
        scene=step.scene,
        expected=expected,
        measured=measured,
        before=before,
        looks=(first, second),
        left=tuple(was for was, _ in pairs),
        arrived=tuple(now for _, now in pairs),
        surroundings=surroundings,
    )


def _last_joints(step: Rehearsed) -> Array:
    pieces = [s for s in step.motion.segments if isinstance(s, JointSegment)]
    return pieces[-1].q_rad[-1] if pieces else step.start.q_rad


def _movers(
    scene: Scene, expected: Scene, measured: Scene | None, state: RobotState, surroundings: Surroundings
) -> Iterator[tuple[SceneObject, SceneObject]]:
    """Each body that the twin moved or held: where it was, and where it is now, as far as that is known."""
    for body in expected.bodies():
        was = _find(scene, body.name)
        if was is None:
            continue
        if body.name == expected.held and expected.T_tool_held is not None:
            T_base_tool = surroundings.kinematics.tool_pose(state.q_rad, state.gripper_width_m)
            yield was, replace(body, T_base_object=T_base_tool @ expected.T_tool_held)
        elif body.name == scene.held or _distance_m(was, body) > _MOVED_M:
            now = None if measured is None or measured.held == body.name else _find(measured, body.name)
            yield was, body if now is None else now


# ------------------------------------------------------------------------------- what speaks against it, in order


def _check_joints(case: _Case) -> Outcome | None:
    """The reported joints are where the motion ends; the next motion starts there."""
    allowed_rad = case.surroundings.profile.start_tolerance_rad
    off_rad = float(np.max(np.abs(case.state.q_rad - case.end.q_rad), initial=0.0))
    if off_rad <= allowed_rad:
        return None
    text = f"a joint is {off_rad:.3f} rad from where the motion ends; allowed {allowed_rad} rad"
    return _wrong(text, reason=EvidenceReason.ARM_OFF, numbers=(("off_rad", off_rad), ("allowed_rad", allowed_rad)))


def _check_arm(case: _Case) -> Outcome | None:
    """Where the arm shows, depth agrees with the joints: a driver may report what it was told."""
    kinematics = case.surroundings.kinematics
    there = see_links(case.after, case.state, kinematics)
    if there.off_m is not None and not there.off_m <= _ARM_OFF_M:
        text = f"the camera sees the arm {there.off_m * 1000:.0f} mm or more from where its joints say that it is"
        return _wrong(text, reason=EvidenceReason.ARM_OFF, numbers=(("off_m", there.off_m), ("allowed_m", _ARM_OFF_M)))
    if float(np.max(np.abs(case.start.q_rad - case.end.q_rad), initial=0.0)) < _CLEARLY_MOVED_RAD:
        return None
    left = see_links(case.after, case.start, kinematics, unlike=case.state)
    if left.off_m is None or left.off_m > _ARM_OFF_M:
        return None
    return _wrong("the camera sees the arm where the motion began", reason=EvidenceReason.ARM_OFF)


def _check_unmoved(case: _Case) -> Outcome | None:
    """What was to be moved is not where it was."""
    start = None if case.effect.name is None else _find(case.scene, case.effect.name)
    if start is None or start.name == case.scene.held:
        return None
    shows = trace(case.before, case.after, start)
    if shows.hidden_ratio < 1.0 and shows.same_ratio > _STILL_SHOWN_RATIO * (1.0 - shows.hidden_ratio):
        return _unmoved(f"{start.name} is still where it was")
    return None


def _check_fingers(case: _Case) -> Outcome | None:
    """The fingers are as far apart as in the twin: around what they hold, or open."""
    width_m, promised_m = case.state.gripper_width_m, case.end.gripper_width_m
    held = case.expected.held
    allowed_m = _OPEN_ERROR_M if held is None else _GRIP_ERROR_M
    if abs(width_m - promised_m) <= allowed_m:
        return None
    if held is None and case.scene.held is not None and abs(width_m - case.start.gripper_width_m) <= _GRIP_ERROR_M:
        return _unmoved(f"{case.scene.held} is still in the gripper")
    low_m, high_m = max(0.0, promised_m - allowed_m), promised_m + allowed_m
    around = "it should be" if held is None else f"around {held} it would be"
    return _wrong(
        f"the gripper is {width_m * 1000:.0f} mm open; {around} {low_m * 1000:.0f} to {high_m * 1000:.0f} mm",
        numbers=(("width_m", width_m), ("least_m", low_m), ("most_m", high_m)),
    )


def _check_rest(case: _Case) -> Outcome | None:
    """Two looks agree: nothing rolls or falls any more."""
    changes = unexplained(*case.looks)
    if not changes:
        return None
    return _wrong(f"{_name(changes[0], case)} still moves", reason=EvidenceReason.MOVING)


def _check_others(case: _Case) -> Outcome | None:
    """Nothing else has left its place or come to one, named or not."""
    changes = unexplained(case.before, case.after, case.left, case.arrived)
    if not changes:
        return None
    return _wrong(f"{_name(changes[0], case)} moved too")


def _name(change: Change, case: _Case) -> str:
    """What a change is a change of, for people."""
    scenes = (case.scene,) if case.measured is None else (case.scene, case.measured)
    bodies = [body for scene in scenes for body in scene.bodies()]
    touched = [b.name for b in bodies if inside_any(change.p_base_m[None], (b,), _TOUCHES_M)[0]]
    x_m, y_m, _ = change.p_base_m
    return touched[0] if touched else f"something at ({x_m:.2f}, {y_m:.2f}) m"


def _check_hidden(case: _Case) -> Outcome | None:
    """Whatever was seen before is in view; of what is covered nobody knows whether it is still there."""
    movers = {body.name for body in case.left}
    for body in (b for b in case.scene.bodies() if b.name not in movers):
        shows = trace(case.before, case.after, body)
        if shows.shown_px >= _FEW_PX and shows.hidden_ratio > _HIDDEN_RATIO:
            text = f"{body.name} is hidden: whether it is still there cannot be seen"
            return _unverified(EvidenceReason.HIDDEN, text, (("hidden_ratio", shows.hidden_ratio),))
    return None


_CHECKS: tuple[Callable[[_Case], Outcome | None], ...] = (
    _check_joints,
    _check_arm,
    _check_unmoved,
    _check_fingers,
    _check_rest,
    _check_others,
    _check_hidden,
)

# ------------------------------------------------------------------------------------------- the effect itself


def _judge_effect(case: _Case) -> Outcome:
    effect, name = case.effect, case.effect.name
    if effect.kind == "none":
        return Outcome(OutcomeKind.ACHIEVED)
    if case.measured is None:
        return _unverified(EvidenceReason.UNMEASURED, "not everything was found again afterwards")
    if effect.kind == "hold" and name is not None:
        return _judge_hold(name, case, case.measured)
    if effect.kind in ("release", "push") and name is not None and effect.T_base_object is not None:
        return _judge_place(name, effect.T_base_object, case, case.measured)
    return _unverified(EvidenceReason.UNMEASURED, f"an effect {effect.kind!r} of {name!r} cannot be measured")


def _judge_hold(name: str, case: _Case, measured: Scene) -> Outcome:
    """The place is empty and the fingers fit, so far; then nothing that looks like the object may lie free."""
    start = _find(case.scene, name)
    if start is None:
        return _unverified(EvidenceReason.UNMEASURED, f"{name} was not in the scene before")
    if measured.held != name:
        return _wrong(f"{name} is not in the gripper")
    others = [b for b in case.scene.bodies() if b.name != name]
    for body in measured.bodies():
        is_known = any(_distance_m(body, other) < _SAME_PLACE_M for other in others)
        if body.name != name and not is_known and _look_alike(body, start):
            return _wrong(f"{body.name} looks like {name} and lies free")
    return Outcome(OutcomeKind.ACHIEVED)


def _look_alike(body: SceneObject, other: SceneObject) -> bool:
    if body.rgb is None or other.rgb is None or not bool(same_material(np.array(body.rgb), np.array(other.rgb))):
        return False
    sides_m, others_m = sorted(shape_size_m(body.shape)), sorted(shape_size_m(other.shape))
    return bool(np.allclose(sides_m, others_m, atol=_ALIKE_M))


def _judge_place(name: str, T_base_object: Array, case: _Case, measured: Scene) -> Outcome:
    """A release or a push shows as the object near its predicted place, in the relation asked for."""
    effect, start, now = case.effect, _find(case.scene, name), _find(measured, name)
    if now is None or measured.held == name:  # the fingers have opened, so it is not in there
        return _unverified(EvidenceReason.UNMEASURED, f"{name} was not found afterwards")
    error_m = float(np.linalg.norm(now.T_base_object[:3, 3] - T_base_object[:3, 3]))
    if start is not None and _distance_m(now, start) < _SAME_PLACE_M:
        return _unmoved(f"{name} is still where it was", error_m)
    if not error_m <= effect.tolerance_m:
        allowed = f"allowed {effect.tolerance_m * 1000:.0f} mm"
        numbers = (("error_m", error_m), ("allowed_m", effect.tolerance_m))
        return _wrong(f"{name} is {error_m * 1000:.0f} mm from where it should be; {allowed}", error_m, numbers)
    if effect.relation is not None:
        reference = None if effect.reference is None else _find(measured, effect.reference)
        if reference is None:
            return _unverified(EvidenceReason.UNMEASURED, f"{effect.reference} was not found afterwards")
        if not relation_holds(effect.relation, now, reference, case.surroundings.rules, case.scene.sides):
            return _wrong(f"{name} is not {effect.relation.value} {effect.reference}", error_m)
    return Outcome(OutcomeKind.ACHIEVED, (), error_m)


def _wrong(
    text: str,
    error_m: float | None = None,
    numbers: tuple[tuple[str, float], ...] = (),
    reason: EvidenceReason | TaskReason = TaskReason.WRONG_EFFECT,
) -> Outcome:
    return Outcome(OutcomeKind.WRONG_EFFECT, (Cause(reason, text, numbers),), error_m)


def _unmoved(text: str, error_m: float | None = None) -> Outcome:
    return Outcome(OutcomeKind.NO_MOTION, (Cause(TaskReason.NO_MOTION, text),), error_m)


def _unverified(reason: EvidenceReason, text: str, numbers: tuple[tuple[str, float], ...] = ()) -> Outcome:
    return Outcome(OutcomeKind.NOT_VERIFIED, (Cause(reason, text, numbers),))


def _find(scene: Scene, name: str) -> SceneObject | None:
    """The named body, if it was measured and its pose is a pose."""
    body = next((b for b in scene.bodies() if b.name == name), None)
    return body if body is not None and np.isfinite(body.T_base_object).all() else None


def _distance_m(a: SceneObject, b: SceneObject) -> float:
    return float(np.linalg.norm(a.T_base_object[:3, 3] - b.T_base_object[:3, 3]))
