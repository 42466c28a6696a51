"""A task and a measured scene → what of it holds before any motion, and what no longer holds at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qwen2vl_robot.config import RelationRules
from qwen2vl_robot.messages import (
    Cause,
    Effect,
    GroundedAction,
    Outcome,
    OutcomeKind,
    Relation,
    Scene,
    SceneObject,
    Verb,
)
from qwen2vl_robot.reasons import EvidenceReason, TaskReason
from qwen2vl_robot.relations import relation_holds
from qwen2vl_robot.task import Task

_SAME_PLACE_M = 0.03  # what is measured this close to where a thing was is that thing
_SURE_M = 0.01  # a relation that holds this far around a measured place holds whatever the measurement is off by


def done_already(
    actions: Sequence[GroundedAction], scene: Scene, rules: RelationRules, *, only_held: bool
) -> dict[int, str]:
    """Actions of a plan that need no motion, by their index, with a sentence for each deed that they are.

    A pick of what is held is done. A pick and its place are, where the relation surely holds and nothing before them
    moves either thing.

    Args:
        only_held: leave out what is done by a relation that holds.
    """
    done: dict[int, str] = {}
    moved: set[str | None] = set()
    for index, action in enumerate(actions):
        if action.verb is Verb.PICK and scene.held is not None and action.target == scene.held:
            done[index] = f"{action.target} is in the gripper already"
        elif action.verb is Verb.PLACE and index and actions[index - 1].verb is Verb.PICK:
            is_new = not only_held and not moved & {action.target, action.reference} and action.target != scene.held
            if is_new and _surely_holds(action, scene, rules):
                done[index - 1] = done[index] = f"{action.target} {_is(action.relation)} {action.reference} already"
        if action.verb in (Verb.PLACE, Verb.PUSH) and index not in done:
            moved |= {action.target}
    return done


def conclude(task: Task, left_out: str, rules: RelationRules) -> Outcome:
    """How a task ends whose every step was achieved: achieved only if all of it is measured to hold at the end.

    Args:
        left_out: what the sentence asks for beyond the plan.
    """
    if left_out:
        text = f"Done, but for this: {left_out}. Please say that by itself."
        return Outcome(OutcomeKind.ASKED, (Cause(TaskReason.LEFT_OUT, text),))
    causes = no_longer(task.achieved, rules)
    if causes:
        is_undone = any(cause.reason is TaskReason.UNDONE for cause in causes)
        return Outcome(OutcomeKind.WRONG_EFFECT if is_undone else OutcomeKind.NOT_VERIFIED, causes)
    if task.achieved:
        return Outcome(OutcomeKind.ACHIEVED)
    return Outcome(OutcomeKind.ACHIEVED, (Cause(TaskReason.ALREADY, f"{'; '.join(task.already)}; nothing moves"),))


def no_longer(achieved: Sequence[tuple[Effect, Scene | None]], rules: RelationRules) -> tuple[Cause, ...]:
    """What of the effects that were achieved no longer holds in the scene after the last one, or cannot be seen there.

    What a later step moved on purpose is not asked for any more.

    Args:
        achieved: effects in their order, each with the scene that was measured after it.
    """
    problems: list[Cause | None] = []
    for index, (effect, then) in enumerate(achieved):
        later = {other.name for other, _ in achieved[index + 1 :] if other.name is not None}
        if effect.name is not None and not later & {effect.name, effect.reference}:
            problems.append(_broken(effect, then, achieved[-1][1], rules))
    return tuple(problem for problem in problems if problem is not None)


def _broken(effect: Effect, then: Scene | None, now: Scene | None, rules: RelationRules) -> Cause | None:
    if now is None or then is None:
        return Cause(EvidenceReason.UNMEASURED, f"{effect.name} could not be measured at the end")
    if effect.kind == "hold":
        return None if now.held == effect.name else _undone(f"{effect.name} is no longer in the gripper")
    body = None if now.held == effect.name else _find_again(effect.name, then, now)
    if body is None:
        return Cause(EvidenceReason.UNMEASURED, f"{effect.name} was not found at the end")
    if effect.relation is not None:
        reference = _find_again(effect.reference, then, now)
        if reference is None:
            return Cause(EvidenceReason.UNMEASURED, f"{effect.reference} was not found at the end")
        is_there = relation_holds(effect.relation, body, reference, rules, then.sides)
        return None if is_there else _undone(f"{effect.name} no longer {_is(effect.relation)} {effect.reference}")
    before = _find(then, effect.name)
    off_m = np.inf if before is None else _distance_m(body, before)
    is_there = off_m <= effect.tolerance_m
    return None if is_there else _undone(f"{effect.name} is {off_m * 1000:.0f} mm from where it was put")


def _undone(text: str) -> Cause:
    return Cause(TaskReason.UNDONE, text)


def _find_again(name: str | None, then: Scene, now: Scene) -> SceneObject | None:
    """A thing by its name, or what is where it was: a later plan names only what it is about."""
    body, before = _find(now, name), _find(then, name)
    if body is not None or before is None:
        return body
    near = [other for other in now.bodies() if _distance_m(other, before) <= _SAME_PLACE_M]
    return min(near, key=lambda other: _distance_m(other, before), default=None)


def _surely_holds(action: GroundedAction, scene: Scene, rules: RelationRules) -> bool:
    moved, reference = _find(scene, action.target), _find(scene, action.reference)
    if moved is None or reference is None or action.relation is None:
        return False
    around = np.array([(0.0, 0.0), (_SURE_M, 0.0), (-_SURE_M, 0.0), (0.0, _SURE_M), (0.0, -_SURE_M)])
    return all(relation_holds(action.relation, _shifted(moved, by), reference, rules, scene.sides) for by in around)


def _shifted(body: SceneObject, by_m: np.ndarray) -> SceneObject:
    pose = body.T_base_object.copy()
    pose[:2, 3] += by_m
    return replace(body, T_base_object=pose)


def _distance_m(a: SceneObject, b: SceneObject) -> float:
    return float(np.linalg.norm(a.T_base_object[:3, 3] - b.T_base_object[:3, 3]))


def _find(scene: Scene, name: str | None) -> SceneObject | None:
    return next((body for body in scene.objects if body.name == name), None)


def _is(relation: Relation | None) -> str:
    """A relation as a predicate.

    >>> _is(Relation.LEFT_OF), _is(Relation.ON)
    ('is left of', 'is on')
    """
    return "" if relation is None else f"is {relation.value.replace('_', ' ')}"
