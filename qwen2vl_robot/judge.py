"""A finished motion's effect and what was measured since → the outcome; nothing is assumed."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.config import RelationRules
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Cause, Effect, Outcome, OutcomeKind, RobotState, Scene, SceneObject, shape_size_m
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.relations import relation_holds

_SAME_PLACE_M = 0.02  # an object this close to where it was has not moved (measured to about 5 mm)
_STILL_THERE_M = 0.03  # the same, for a body whose outline was measured from one side under another name
_MOVED_OTHER_M = 0.06  # what had no part in the motion may seem this far off when it is half hidden
_GRASP_WIDTH_ERROR_M = 0.01
_CLOSED_WIDTH_M = 0.005  # nothing that can be grasped is thinner
_LIFTED_M = 0.03


def judge(
    effect: Effect,
    expected: Scene | None,
    before: Scene,
    measured: Scene | None,
    state: RobotState,
    rules: RelationRules,
    predicted: RobotState | None = None,
) -> Outcome:
    """Say what a finished motion brought about, from measurements alone.

    Args:
        expected: the twin's scene after the motion, which says where everything else should be; None to leave that out.
        before: the scene that the motion was made for.
        measured: the scene measured afterwards, or None when it could not be measured.
        state: the arm's state afterwards.
        predicted: the same in the twin, which says how far the fingers are open around what they hold.

    Returns:
        "achieved" only if the measurement shows the effect; "no_motion" if the object is where it was; otherwise
        "wrong_effect".
    """
    if effect.kind == "none":
        return Outcome(OutcomeKind.ACHIEVED)
    if measured is None:
        return _wrong("the scene could not be measured afterwards")
    if effect.kind == "hold" and effect.name is not None:
        outcome = _judge_hold(effect.name, before, measured, state, predicted)
    else:
        outcome = _judge_object(effect, before, measured, rules)
    moved = _moved_others(effect, expected, measured)
    if outcome.kind is OutcomeKind.ACHIEVED and moved:
        return _wrong(f"{', '.join(moved)} moved too", outcome.error_m)
    return outcome


def _moved_others(effect: Effect, expected: Scene | None, measured: Scene) -> list[str]:
    """Names of the objects without a part in the effect that are measured far from where the twin left them."""
    bodies = () if expected is None else expected.objects
    bystanders = [o for o in bodies if o.name not in (effect.name, effect.reference)]
    found = [(o, _find(measured, o.name)) for o in bystanders]
    return [o.name for o, now in found if now is not None and not _distance_m(o, now) < _MOVED_OTHER_M]


def _judge_object(effect: Effect, before: Scene, measured: Scene, rules: RelationRules) -> Outcome:
    if effect.kind in ("release", "push") and effect.name is not None and effect.T_base_object is not None:
        return _judge_place(effect, effect.name, effect.T_base_object, before, measured, rules)
    return _wrong(f"an effect {effect.kind!r} of {effect.name!r} cannot be measured")


def _judge_hold(name: str, before: Scene, measured: Scene, state: RobotState, predicted: RobotState | None) -> Outcome:
    """A hold shows as a gap of the object's size between the pads, and as nothing left where the object stood."""
    start, now = _find(before, name), _find(measured, name)
    if start is None:
        return _wrong(f"{name} was not in the scene before")
    if _stands_in_place_of(start, before, measured):
        return _unmoved(f"{name} is still where it was")
    size_m = shape_size_m(start.shape)
    widths_m = size_m if predicted is None else (predicted.gripper_width_m,)
    low_m = max(_CLOSED_WIDTH_M, min(widths_m) - _GRASP_WIDTH_ERROR_M)
    high_m = max(widths_m) + _GRASP_WIDTH_ERROR_M
    if not low_m <= state.gripper_width_m <= high_m:
        return _wrong(
            f"the gripper is {state.gripper_width_m * 1000:.0f} mm open; "
            f"around {name} it would be {low_m * 1000:.0f} to {high_m * 1000:.0f} mm",
            numbers=(("width_m", state.gripper_width_m), ("least_m", low_m), ("most_m", high_m)),
        )
    if now is not None and _height_m(now) < _height_m(start) + _LIFTED_M:
        return _wrong(f"{name} was moved by {_distance_m(now, start) * 1000:.0f} mm, but not lifted")
    return Outcome(OutcomeKind.ACHIEVED)


def _stands_in_place_of(start: SceneObject, before: Scene, measured: Scene) -> bool:
    """Whether some body, under any name, is where the object was and was not there beside it before."""
    others = [b for b in before.bodies() if b.name != start.name]
    for body in measured.bodies():
        off_m = float(np.linalg.norm(body.T_base_object[:2, 3] - start.T_base_object[:2, 3]))
        is_known = any(_distance_m(body, other) < _SAME_PLACE_M for other in others)
        if off_m < _STILL_THERE_M and body.bottom_m < _height_m(start) < body.top_m and not is_known:
            return True
    return False


def _judge_place(
    effect: Effect, name: str, T_base_object: Array, before: Scene, measured: Scene, rules: RelationRules
) -> Outcome:
    """A release or a push shows as the object near its predicted place, in the relation asked for."""
    start, now = _find(before, name), _find(measured, name)
    if now is None:
        return _wrong(f"{name} was not found afterwards")
    if measured.held == name:
        return _unmoved(f"{name} is still in the gripper")
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
            return _wrong(f"{effect.reference} was not found afterwards", error_m)
        if not relation_holds(effect.relation, now, reference, rules, before.sides):
            return _wrong(f"{name} is not {effect.relation.value} {effect.reference}", error_m)
    return Outcome(OutcomeKind.ACHIEVED, (), error_m)


def _wrong(text: str, error_m: float | None = None, numbers: tuple[tuple[str, float], ...] = ()) -> Outcome:
    return Outcome(OutcomeKind.WRONG_EFFECT, (Cause(TaskReason.WRONG_EFFECT, text, numbers),), error_m)


def _unmoved(text: str, error_m: float | None = None) -> Outcome:
    return Outcome(OutcomeKind.NO_MOTION, (Cause(TaskReason.NO_MOTION, text),), error_m)


def _find(scene: Scene, name: str) -> SceneObject | None:
    """The named body, if it was measured and its pose is a pose."""
    body = next((b for b in scene.bodies() if b.name == name), None)
    return body if body is not None and np.isfinite(body.T_base_object).all() else None


def _distance_m(a: SceneObject, b: SceneObject) -> float:
    return float(np.linalg.norm(a.T_base_object[:3, 3] - b.T_base_object[:3, 3]))


def _height_m(body: SceneObject) -> float:
    return float(body.T_base_object[2, 3])
