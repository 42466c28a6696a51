"""A finished step and two looks after it → the outcome: what was measured, never what was promised.

Achieved needs evidence for all of it: the arm is where the motion ends, the fingers are as wide as promised, nothing
moves any more, the target is where it should be, and everything else is where it was. What speaks against it is a wrong
effect; what cannot be seen is not verified.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.evidence import Case, distance_m, find, gather
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import (
    Cause,
    Hull,
    Observation,
    Outcome,
    OutcomeKind,
    Rehearsed,
    Relation,
    Scene,
    SceneObject,
    shape_size_m,
)
from qwen2vl_robot.perception.changes import Change, inside_any, trace, unexplained
from qwen2vl_robot.perception.joining import same_material
from qwen2vl_robot.perception.links import ENOUGH_PX, see_links
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.tracking import LEAST_HELD_M
from qwen2vl_robot.ports import Clock
from qwen2vl_robot.reasons import EvidenceReason, TaskReason
from qwen2vl_robot.relations import relation_holds

Compared = tuple[Outcome, Scene | None]  # what two looks say, and the scene in the second one if it was measured

LOOK_GAP_S = 0.4  # between the two looks: what moves at 2 cm/s, which counts as at rest, goes 8 mm
_MOST_JUDGED = 3  # pairs of looks at one effect
_ARM_OFF_M = 0.025  # by depth; hulls and calibration leave 3 to 13 mm where the arm is right
_CLEARLY_MOVED_RAD = 0.1  # a joint that moves less may leave the arm where it was, for depth
_GRIP_ERROR_M = 0.005  # a measured side is good to 2 mm, the fingers' width to 1 mm
_BOXED_ERROR_M = 0.012  # of what is known by the boxes that hold it: more than its sides are off
_OPEN_ERROR_M = 0.010  # of fingers that hold nothing
_SAME_PLACE_M = 0.02  # an object this close to where it was has not moved (measured to about 5 mm)
_STILL_SHOWN_RATIO = 0.6  # of the pixels that showed an object and are not covered now: it is where it was
_HIDDEN_RATIO = 0.7  # of the pixels that showed a body: whether it is still there cannot be seen
_FEW_PX = 30  # what showed in fewer pixels was hidden before, too
_ALIKE_M = 0.010  # things of one colour whose sides differ by less look alike
_TOUCHES_M = 0.02  # around a body's shape: a change in there is the body's


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
        case = gather(step, looks, measured, surroundings)
    except ObservationError as error:
        return _unverified(EvidenceReason.UNMEASURED, f"the effect could not be measured: {error}")
    return next(filter(None, (check(case) for check in _CHECKS)), None) or _judge_effect(case)


def look_until_sure(
    look: Callable[[], Observation], compare: Callable[[Observation, Observation], Compared], clock: Clock
) -> Compared:
    """Compare looks, `LOOK_GAP_S` apart, until another one would not tell more."""
    seen = look()
    for chances_left in reversed(range(_MOST_JUDGED)):
        clock.sleep(LOOK_GAP_S)
        before, seen = seen, look()
        compared = compare(before, seen)
        if not (chances_left and _may_be_seen_later(compared[0])):
            break
    return compared


def _may_be_seen_later(outcome: Outcome) -> bool:
    """Whether another look may tell: what moves comes to rest, and what one noisy frame does not show the next one may.

    What speaks against an effect is final: who looks until it suits will see what is not there.
    """
    return outcome.kind is OutcomeKind.NOT_VERIFIED or outcome.reason is EvidenceReason.MOVING


# ------------------------------------------------------------------------------- what speaks against it, in order


def _check_joints(case: Case) -> Outcome | None:
    """The reported joints are where the motion ends; the next motion starts there."""
    allowed_rad = case.surroundings.profile.start_tolerance_rad
    off_rad = float(np.max(np.abs(case.state.q_rad - case.end.q_rad), initial=0.0))
    if off_rad <= allowed_rad:
        return None
    text = f"a joint is {off_rad:.3f} rad from where the motion ends; allowed {allowed_rad} rad"
    return _wrong(text, reason=EvidenceReason.ARM_OFF, numbers=(("off_rad", off_rad), ("allowed_rad", allowed_rad)))


def _check_arm(case: Case) -> Outcome | None:
    """Where the arm shows, depth agrees with the joints: a driver may report what it was told."""
    kinematics = case.surroundings.kinematics
    there = see_links(case.after, case.state, kinematics)
    if there.off_m is not None and not there.off_m <= _ARM_OFF_M:
        text = f"the camera sees the arm {there.off_m * 1000:.0f} mm or more from where its joints say that it is"
        return _wrong(text, reason=EvidenceReason.ARM_OFF, numbers=(("off_m", there.off_m), ("allowed_m", _ARM_OFF_M)))
    if not _has_moved_clearly(case):
        return None
    left = see_links(case.after, case.start, kinematics, unlike=case.state)
    if left.off_m is None or left.off_m > _ARM_OFF_M:
        return None
    return _wrong("the camera sees the arm where the motion began", reason=EvidenceReason.ARM_OFF)


def _check_unmoved(case: Case) -> Outcome | None:
    """What was to be moved is not where it was."""
    start = None if case.effect.name is None else find(case.scene, case.effect.name)
    if start is None or start.name == case.scene.held:
        return None
    shows = trace(case.before, case.after, start)
    if shows.hidden_ratio < 1.0 and shows.same_ratio > _STILL_SHOWN_RATIO * (1.0 - shows.hidden_ratio):
        return _unmoved(f"{start.name} is still where it was")
    return None


def _check_fingers(case: Case) -> Outcome | None:
    """The fingers are as far apart as in the twin: around what they hold, or open."""
    width_m, promised_m = case.state.gripper_width_m, case.end.gripper_width_m
    held = case.expected.held
    allowed_m = _OPEN_ERROR_M if held is None else _GRIP_ERROR_M
    low_m, high_m = max(0.0, promised_m - allowed_m), promised_m + allowed_m
    if held is not None and isinstance(case.scene.find(held).shape, Hull):
        low_m, high_m = min(low_m, LEAST_HELD_M), promised_m + _BOXED_ERROR_M  # it is somewhere in its boxes
    if low_m <= width_m <= high_m:
        return None
    if held is None and case.scene.held is not None and abs(width_m - case.start.gripper_width_m) <= _GRIP_ERROR_M:
        return _unmoved(f"{case.scene.held} is still in the gripper")
    around = "it should be" if held is None else f"around {held} it would be"
    return _wrong(
        f"the gripper is {width_m * 1000:.0f} mm open; {around} {low_m * 1000:.0f} to {high_m * 1000:.0f} mm",
        numbers=(("width_m", width_m), ("least_m", low_m), ("most_m", high_m)),
    )


def _check_rest(case: Case) -> Outcome | None:
    """Two looks agree: nothing rolls or falls any more."""
    changes = unexplained(*case.looks)
    if not changes:
        return None
    return _wrong(f"{_name(changes[0], case)} still moves", reason=EvidenceReason.MOVING)


def _check_others(case: Case) -> Outcome | None:
    """Nothing else has left its place or come to one, named or not."""
    changes = unexplained(case.before, case.after, case.left, case.arrived)
    if not changes:
        return None
    return _wrong(f"{_name(changes[0], case)} moved too")


def _name(change: Change, case: Case) -> str:
    """What a change is a change of, for people."""
    scenes = (case.scene,) if case.measured is None else (case.scene, case.measured)
    bodies = [body for scene in scenes for body in scene.bodies()]
    touched = [b.name for b in bodies if inside_any(change.p_base_m[None], (b,), _TOUCHES_M)[0]]
    x_m, y_m, _ = change.p_base_m
    return touched[0] if touched else f"something at ({x_m:.2f}, {y_m:.2f}) m"


def _check_hidden(case: Case) -> Outcome | None:
    """Whatever was seen before is in view; of what is covered nobody knows whether it is still there.

    An arm that shows itself to the camera covers what is behind it.
    """
    if case.effect.kind == "show":
        return None
    known = {body.name for body in case.left} | _carrier(case)
    for body in (b for b in case.scene.bodies() if b.name not in known):
        shows = trace(case.before, case.after, body)
        if shows.shown_px >= _FEW_PX and shows.hidden_ratio > _HIDDEN_RATIO:
            text = f"{body.name} is hidden: whether it is still there cannot be seen"
            return _unverified(EvidenceReason.HIDDEN, text, (("hidden_ratio", shows.hidden_ratio),))
    return None


def _carrier(case: Case) -> set[str]:
    """The name of what the object was put on, if it is measured so high that nothing else can carry it there.

    What is put on a block may cover it; that it stands up there shows the block below.
    """
    effect, rules = case.effect, case.surroundings.rules
    if effect.relation is not Relation.ON or effect.name is None or effect.reference is None or case.measured is None:
        return set()
    now, below = find(case.measured, effect.name), find(case.scene, effect.reference)
    if now is None or below is None or case.measured.held == effect.name:
        return set()
    rise_m, height_m = now.bottom_m - below.top_m, below.top_m - below.bottom_m
    stands_on_it = abs(rise_m) < rules.support_tolerance_m and height_m > 2 * rules.support_tolerance_m
    return {effect.reference} if stands_on_it else set()


_CHECKS: tuple[Callable[[Case], Outcome | None], ...] = (
    _check_joints,
    _check_arm,
    _check_unmoved,
    _check_fingers,
    _check_rest,
    _check_others,
    _check_hidden,
)

# ------------------------------------------------------------------------------------------- the effect itself


def _judge_effect(case: Case) -> Outcome:
    effect, name = case.effect, case.effect.name
    if effect.kind in ("show", "none"):
        return _judge_arm(case)
    if case.measured is None:
        return _unverified(EvidenceReason.UNMEASURED, "not everything was found again afterwards")
    if effect.kind == "hold" and name is not None:
        return _judge_hold(name, case, case.measured)
    if effect.kind in ("release", "push") and name is not None and effect.T_base_object is not None:
        return _judge_place(name, effect.T_base_object, case, case.measured)
    return _unverified(EvidenceReason.UNMEASURED, f"an effect {effect.kind!r} of {name!r} cannot be measured")


def _judge_arm(case: Case) -> Outcome:
    """A motion of the arm alone shows in depth: the arm where it ends, or gone from where it began. Joints may echo."""
    if not _has_moved_clearly(case):
        return Outcome(OutcomeKind.ACHIEVED)
    kinematics = case.surroundings.kinematics
    there = see_links(case.after, case.state, kinematics)
    was = see_links(case.before, case.start, kinematics, unlike=case.state)
    left = see_links(case.after, case.start, kinematics, unlike=case.state)
    has_left = was.off_m is not None and was.off_m <= _ARM_OFF_M and left.off_m is not None
    if there.off_m is not None or has_left:  # how far off either is, `_check_arm` has looked at
        return Outcome(OutcomeKind.ACHIEVED)
    text = "the camera sees too little of the arm: only its own joint states say that it is there"
    numbers = (("expected_px", float(there.expected_px)), ("needed_px", float(ENOUGH_PX)))
    return _unverified(EvidenceReason.UNMEASURED, text, numbers)


def _has_moved_clearly(case: Case) -> bool:
    return bool(np.max(np.abs(case.start.q_rad - case.end.q_rad), initial=0.0) >= _CLEARLY_MOVED_RAD)


def _judge_hold(name: str, case: Case, measured: Scene) -> Outcome:
    """The place is empty and the fingers fit, so far; then nothing that looks like the object may lie free."""
    start = find(case.scene, name)
    if start is None:
        return _unverified(EvidenceReason.UNMEASURED, f"{name} was not in the scene before")
    if measured.held != name:
        return _wrong(f"{name} is not in the gripper")
    others = [b for b in case.scene.bodies() if b.name != name]
    for body in measured.bodies():
        is_known = any(distance_m(body, other) < _SAME_PLACE_M for other in others)
        if body.name != name and not is_known and _look_alike(body, start):
            return _wrong(f"{body.name} looks like {name} and lies free")
    return Outcome(OutcomeKind.ACHIEVED)


def _look_alike(body: SceneObject, other: SceneObject) -> bool:
    if body.rgb is None or other.rgb is None or not bool(same_material(np.array(body.rgb), np.array(other.rgb))):
        return False
    sides_m, others_m = sorted(shape_size_m(body.shape)), sorted(shape_size_m(other.shape))
    return bool(np.allclose(sides_m, others_m, atol=_ALIKE_M))


def _judge_place(name: str, T_base_object: Array, case: Case, measured: Scene) -> Outcome:
    """A release or a push shows as the object near its predicted place, in the relation asked for."""
    effect, start, now = case.effect, find(case.scene, name), find(measured, name)
    if now is None or measured.held == name:  # the fingers have opened, so it is not in there
        return _unverified(EvidenceReason.UNMEASURED, f"{name} was not found afterwards")
    error_m = float(np.linalg.norm(now.T_base_object[:3, 3] - T_base_object[:3, 3]))
    if start is not None and distance_m(now, start) < _SAME_PLACE_M:
        return _unmoved(f"{name} is still where it was", error_m)
    if not error_m <= effect.tolerance_m:
        allowed = f"allowed {effect.tolerance_m * 1000:.0f} mm"
        numbers = (("error_m", error_m), ("allowed_m", effect.tolerance_m))
        return _wrong(f"{name} is {error_m * 1000:.0f} mm from where it should be; {allowed}", error_m, numbers)
    if effect.relation is not None:
        reference = None if effect.reference is None else find(measured, effect.reference)
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
