"""What holds before a motion needs none, and a task is achieved only if all of it still holds at its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.config import RelationRules, load_yaml
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.holding import conclude, done_already, no_longer
from qwen2vl_robot.messages import (
    Box,
    Cylinder,
    Effect,
    GroundedAction,
    Instruction,
    OutcomeKind,
    Relation,
    Scene,
    SceneObject,
    Shape,
    Verb,
    shape_size_m,
)
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.task import Task

RULES = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
BLOCK, PLATE = Box((0.05, 0.05, 0.05)), Cylinder(0.16, 0.014)
ON_PLATE = (GroundedAction(Verb.PICK, "block"), GroundedAction(Verb.PLACE, "block", Relation.ON, "plate"))
PUT_BLOCK = Effect("release", "block", make_pose([0.5, 0.0, 0.039]), Relation.ON, "plate")
PICKED_BALL = Effect("hold", "ball")
PUSHED_BALL = Effect("push", "ball", make_pose([0.5, 0.3, 0.025]))


def body(name: str, shape: Shape, x: float, y: float, bottom: float = 0.0) -> SceneObject:
    return SceneObject(name, shape, make_pose([x, y, bottom + shape_size_m(shape)[2] / 2]))


def scene(block_x: float = 0.5, bottom: float = 0.014, held: str | None = None) -> Scene:
    things = body("block", BLOCK, block_x, 0.0, bottom), body("plate", PLATE, 0.5, 0.0), body("ball", BLOCK, 0.5, 0.3)
    return Scene(things, (), held=held)


def test_what_is_there_already_needs_no_motion_and_is_named() -> None:
    assert done_already(ON_PLATE, scene(), RULES, only_held=False) == dict.fromkeys((0, 1), "block is on plate already")


@pytest.mark.parametrize(
    "seen",
    [scene(0.8, 0.0), scene(0.5, 0.1), scene(0.575), scene(held="block")],
    ids=["elsewhere", "in the air", "at the rim, within what measuring may be off", "in the gripper"],
)
def test_what_is_not_surely_there_is_done(seen: Scene) -> None:
    assert 1 not in done_already(ON_PLATE, seen, RULES, only_held=False)


def test_what_an_earlier_step_moves_is_no_longer_there() -> None:
    away = GroundedAction(Verb.PUSH, "plate")
    assert done_already((away, *ON_PLATE), scene(), RULES, only_held=False) == {}
    assert set(done_already((GroundedAction(Verb.PUSH, "ball"), *ON_PLATE), scene(), RULES, only_held=False)) == {1, 2}


def test_where_a_person_has_to_be_asked_only_what_is_held_is_done() -> None:
    assert done_already(ON_PLATE, scene(), RULES, only_held=True) == {}
    assert set(done_already(ON_PLATE, scene(held="block"), RULES, only_held=True)) == {0}


def after(*effects: Effect, now: Scene, then: Scene | None = None) -> list[str]:
    """What no longer holds when each effect was measured as it should be, and the last scene is another."""
    first = then or scene()
    seen = [(effect, first) for effect in effects]
    return [cause.text for cause in no_longer([*seen[:-1], (effects[-1], now)], RULES)]


GO_HOME = Effect("none")


def test_every_effect_is_asked_for_at_the_end() -> None:
    assert after(PUT_BLOCK, PUSHED_BALL, GO_HOME, now=scene()) == []
    assert after(PUT_BLOCK, PUSHED_BALL, GO_HOME, now=scene(0.8, 0.0)) == ["block no longer is on plate"]
    gone = replace(scene(), objects=scene().objects[1:])
    assert after(PUT_BLOCK, GO_HOME, now=gone) == ["block was not found at the end"]
    rolled = replace(scene(), objects=(*scene().objects[:2], body("ball", BLOCK, 0.5, 0.38)))
    assert after(PUT_BLOCK, PUSHED_BALL, GO_HOME, now=rolled) == ["ball is 80 mm from where it was put"]


def test_what_was_not_measured_at_the_end_is_not_achieved() -> None:
    task = Task(Instruction("put the block on the plate and go home"), ())
    task.achieved = ((PUT_BLOCK, scene()), (GO_HOME, None))
    outcome = conclude(task, "", RULES)
    assert outcome.kind is OutcomeKind.NOT_VERIFIED
    assert outcome.reasons == ("block could not be measured at the end",)
    assert no_longer([(GO_HOME, None)], RULES) == ()


def test_what_a_later_plan_does_not_name_is_known_by_its_place() -> None:
    block, plate, ball = scene().objects
    unnamed = replace(scene(), objects=(ball,), obstacles=(replace(block, name="obstacle 1"), plate))
    assert after(PUT_BLOCK, GO_HOME, now=unnamed) == []
    moved = replace(unnamed, obstacles=(body("obstacle 1", BLOCK, 0.6, 0.2), plate))
    assert after(PUT_BLOCK, GO_HOME, now=moved) == ["block was not found at the end"]


def test_what_is_to_be_held_at_the_end_is_held() -> None:
    assert after(PUT_BLOCK, PICKED_BALL, now=scene(held="ball")) == []
    assert after(PICKED_BALL, GO_HOME, now=scene()) == ["ball is no longer in the gripper"]


def test_what_a_later_step_moves_on_purpose_may_be_elsewhere() -> None:
    assert after(PUT_BLOCK, Effect("push", "plate"), now=scene(0.8)) == []
    assert after(PICKED_BALL, Effect("release", "ball"), now=scene()) == []


def test_a_task_whose_first_half_was_undone_is_not_achieved() -> None:
    task = Task(Instruction("put the block on the plate and go home"), ())
    task.achieved = ((PUT_BLOCK, scene()), (GO_HOME, scene(0.8, 0.0)))
    outcome = conclude(task, "", RULES)
    assert outcome.kind is OutcomeKind.WRONG_EFFECT
    assert outcome.reason is TaskReason.UNDONE
    assert outcome.reasons == ("block no longer is on plate",)
    task.achieved = ((PUT_BLOCK, scene()), (GO_HOME, scene()))
    assert conclude(task, "", RULES).kind is OutcomeKind.ACHIEVED
    assert conclude(task, "go home", RULES).reason is TaskReason.LEFT_OUT


def test_a_task_without_a_motion_says_why() -> None:
    task = Task(Instruction("put the block on the plate"), ())
    task.found({0: "block is on plate already", 1: "block is on plate already"})
    outcome = conclude(task, "", RULES)
    assert outcome.kind is OutcomeKind.ACHIEVED
    assert outcome.reason is TaskReason.ALREADY
    assert outcome.reasons == ("block is on plate already; nothing moves",)


def test_a_body_that_was_measured_as_nonsense_holds_nothing() -> None:
    pose = np.full((4, 4), np.nan)
    broken = replace(scene(), objects=(replace(scene().objects[0], T_base_object=pose), *scene().objects[1:]))
    assert done_already(ON_PLATE, broken, RULES, only_held=False) == {}
    assert after(PUT_BLOCK, GO_HOME, now=broken) == ["block no longer is on plate"]
