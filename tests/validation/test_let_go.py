"""What was let go or pushed must not fall far, must stay where it is, and must not be hit again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import make_pose, rotation_from_rotvec
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Effect,
    RobotState,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    Verdict,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.validation.pool import RehearsalProcess
from qwen2vl_robot.validation.rehearsal import Twin
from tests.quick import FEW_TRIALS


def stands(name: str, shape: Shape, x_m: float, y_m: float) -> SceneObject:
    return SceneObject(name, shape, freeze(make_pose([x_m, y_m, shape_size_m(shape)[2] / 2])))


BLOCK = stands("red block", Box((0.05, 0.045, 0.05)), 0.5, 0.1)
BALL = stands("ball", Sphere(0.05), 0.5, 0.1)
BOWL = stands("green bowl", Container((0.15, 0.15, 0.05), 0.006), 0.5, -0.1)
PLATE = stands("plate", Cylinder(0.15, 0.014), 0.5, -0.1)
THERE = (0.5, -0.1)
DOWN = np.diag([1.0, -1.0, -1.0])
GAP_M = 0.004  # below what is let go


@pytest.fixture(scope="module")
def pool(profile: RobotProfile) -> Iterator[RehearsalProcess]:
    with RehearsalProcess(profile, budget_s=120.0) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="module")
def quick(profile: RobotProfile) -> Iterator[RehearsalProcess]:
    """For what the run in the measured scene would refuse: four trials, which all have to succeed."""
    safety = profile.safety.model_copy(update=FEW_TRIALS)
    with RehearsalProcess(profile.model_copy(update={"safety": safety}), budget_s=120.0) as rehearsal:
        yield rehearsal


def kinds(verdict: Verdict) -> set[str]:
    return {v.kind for v in verdict.violations}


def carry(hand: Any, body: SceneObject, *others: SceneObject, over_m: float = 0.15) -> tuple[Scene, RobotState]:
    """Begin with a body between the fingers, above `THERE`."""
    hand.q_rad = hand.solve((*THERE, over_m))
    size_m, T_tool_held = shape_size_m(body.shape), make_pose([0.0, 0.0, 0.0], DOWN)
    held = replace(body, T_base_object=freeze(make_pose([*THERE, over_m])))
    scene = Scene((held, *others), (), held=body.name, T_tool_held=freeze(T_tool_held))
    at_rest = freeze(np.zeros(len(hand.q_rad)))
    return scene, RobotState(0, freeze(hand.q_rad), at_rest, size_m[1], held=body.name)


def put(hand: Any, body: SceneObject, below_m: float, width_m: float = 0.08) -> Any:
    """Go down over `THERE`, open with the body's bottom `below_m` over the table, and rise."""
    z_m = below_m + shape_size_m(body.shape)[2] / 2
    return hand.to((*THERE, z_m), 1.0).grip(width_m).to((*THERE, z_m + 0.12), 1.0)


@pytest.mark.parametrize("height_m", [0.45, 0.55, 0.65])
def test_opening_the_hand_high_in_the_air_drops_the_block(height_m: float, hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    verdict = pool.rehearse(hand.to((*THERE, height_m), 2.5).grip(0.08).home().motion(), scene, start)
    assert kinds(verdict) == {"dropped"}
    assert verdict.violations[0].amount == pytest.approx(height_m - 0.025, abs=0.002)
    assert "let go too high" in verdict.explanation


def test_opening_the_hand_above_a_bowl_drops_the_block(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK, BOWL, over_m=0.25)
    verdict = pool.rehearse(put(hand, BLOCK, 0.15).home().motion(), scene, start)
    assert kinds(verdict) == {"dropped"}
    assert verdict.violations[0].amount == pytest.approx(0.1, abs=0.002)  # above the rim


@pytest.mark.parametrize(
    ("body", "others", "below_m"),
    [
        (BLOCK, (), GAP_M),
        (BLOCK, (), 0.015),
        (BLOCK, (PLATE,), 0.014 + GAP_M),
        (BLOCK, (BOWL,), 0.045),
        (BALL, (BOWL,), 0.045),
        (BALL, (), GAP_M),
    ],
)
def test_an_ordinary_place_is_accepted(
    body: SceneObject,
    others: tuple[SceneObject, ...],
    below_m: float,
    hand: Any,
    quick: RehearsalProcess,
) -> None:
    scene, start = carry(hand, body, *others)
    verdict = quick.rehearse(put(hand, body, below_m).home().motion(), scene, start)
    assert verdict.violations == ()
    assert verdict.accepted


def test_sweeping_through_what_was_let_go_is_a_collision(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    put(hand, BLOCK, GAP_M).to((0.5, 0.06, 0.2)).to((0.5, 0.06, 0.03)).to((0.5, -0.25, 0.03), 3.0)
    verdict = pool.rehearse(hand.to((0.5, -0.25, 0.2)).home().motion(), scene, start)
    assert kinds(verdict) == {"collision"}
    assert {b for v in verdict.violations for b in v.bodies} == {"panda_leftfinger", "panda_rightfinger", "red block"}


def test_passing_close_over_what_was_let_go_is_accepted(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    over_m = 0.05 + hand.profile.gripper.pad_depth_m + 0.025
    put(hand, BLOCK, GAP_M).to((0.5, 0.06, over_m)).to((0.5, -0.25, over_m), 3.0)
    verdict = pool.rehearse(hand.home().motion(), scene, start)
    assert verdict.violations == ()


def test_passing_so_close_that_a_perturbed_world_has_a_hit_is_refused(hand: Any, twin: Twin) -> None:
    scene, start = carry(hand, BLOCK)
    over_m = 0.05 + hand.profile.gripper.pad_depth_m + 0.001
    put(hand, BLOCK, GAP_M).to((0.5, 0.06, 0.2)).to((0.5, 0.06, over_m)).to((0.5, -0.25, over_m), 3.0)
    verdict = twin.rehearse(hand.home().motion(), scene, start)
    assert kinds(verdict) == {"uncertain", "unsettled"}
    assert ("red block", "does not stay where it was left") in {v.bodies for v in verdict.violations}


def test_pushing_what_was_let_go_with_closed_fingers_is_a_collision(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    put(hand, BLOCK, GAP_M).grip(0.0).to((0.5, 0.0, 0.2)).to((0.5, 0.0, 0.03)).to((0.5, -0.2, 0.03), 3.0)
    verdict = pool.rehearse(hand.to((0.5, -0.2, 0.2)).home().motion(), scene, start)
    assert kinds(verdict) == {"collision"}


def test_taking_again_what_was_let_go_is_accepted(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    put(hand, BLOCK, GAP_M).to((*THERE, 0.025), 1.0).grip(0.0).to((*THERE, 0.15), 1.0)
    verdict = pool.rehearse(hand.home().motion(), scene, start)
    assert verdict.violations == ()
    assert verdict.scene_after is not None
    assert verdict.scene_after.held == "red block"


def test_a_block_that_half_open_fingers_carry_on_is_not_let_go(hand: Any, pool: RehearsalProcess) -> None:
    scene, start = carry(hand, BLOCK)
    put(hand, BLOCK, GAP_M, width_m=0.046)
    verdict = pool.rehearse(hand.home().motion(), scene, start)
    assert {"contact", "unsettled"} <= kinds(verdict)


@pytest.mark.parametrize(("slope_deg", "expected"), [(9.0, {"unsettled"}), (2.0, set())])
def test_a_block_let_go_on_a_slope_does_not_stay_upright(
    slope_deg: float, expected: set[str], hand: Any, quick: RehearsalProcess
) -> None:
    slope = SceneObject(
        "ramp",
        Box((0.15, 0.15, 0.02)),
        freeze(make_pose([*THERE, 0.03], rotation_from_rotvec([0.0, np.deg2rad(slope_deg), 0.0]))),
    )
    below_m = 0.04 + 0.025 * np.tan(np.deg2rad(slope_deg)) + GAP_M
    scene, start = carry(hand, BLOCK)
    verdict = quick.rehearse(put(hand, BLOCK, below_m).home().motion(), replace(scene, obstacles=(slope,)), start)
    assert kinds(verdict) == expected
    if expected:
        leans = next(v for v in verdict.violations if v.bodies == ("red block", "does not stay upright"))
        assert leans.unit == "rad"
        assert leans.amount == pytest.approx(np.deg2rad(slope_deg), abs=0.02)


def test_a_bystander_that_ends_tilted_is_unsettled(hand: Any, pool: RehearsalProcess) -> None:
    post = stands("post", Box((0.03, 0.03, 0.015)), 0.5, -0.03)
    plank = SceneObject("plank", Box((0.05, 0.2, 0.01)), freeze(make_pose([0.5, -0.03, 0.02])), mass_kg=0.05)
    scene, start = carry(hand, BLOCK, post, plank)
    verdict = pool.rehearse(put(hand, BLOCK, 0.025 + GAP_M).home().motion(), scene, start)
    assert ("plank", "does not stay upright") in {v.bodies for v in verdict.violations}


def pushing(hand: Any, *strokes: tuple[float, float, float]) -> Any:
    """Go down with closed fingers at y 0.2 m, then to each (y, z) within a time."""
    hand.to((0.5, 0.2, 0.15), 2.0).to((0.5, 0.2, 0.03), 1.2)
    for y_m, z_m, seconds in strokes:
        hand.to((0.5, y_m, z_m), seconds)
    return hand


def pushed(name: str, y_m: float) -> Effect:
    return Effect("push", name, make_pose((0.5, y_m, 0.025)), tolerance_m=0.04)


@pytest.mark.parametrize(("back_m", "expected"), [(0.19, set()), (0.06, {"contact", "unsettled"})])
def test_what_was_pushed_may_not_be_hit_again(
    back_m: float, expected: set[str], hand: Any, quick: RehearsalProcess, start: RobotState
) -> None:
    pushing(hand, (0.09, 0.03, 3.0), (0.16, 0.03, 1.0), (0.2, 0.15, 1.0), (0.2, 0.03, 1.0), (back_m, 0.03, 2.0))
    verdict = quick.rehearse(
        hand.to((0.5, back_m, 0.15)).home().motion(pushed("red block", 0.04)),
        Scene((BLOCK,), ()),
        replace(start, gripper_width_m=0.0),
    )
    assert kinds(verdict) & {"contact", "collision", "force", "unsettled"} == expected


def test_what_was_pushed_may_not_be_dragged_on_in_a_perturbed_world(hand: Any, twin: Twin, start: RobotState) -> None:
    over_m = 0.05 + hand.profile.gripper.pad_depth_m + 0.0005
    pushing(hand, (0.09, 0.03, 3.0), (0.2, 0.03, 1.0), (0.2, over_m, 1.0), (0.03, over_m, 1.5), (0.03, 0.15, 1.0))
    verdict = twin.rehearse(
        hand.home().motion(pushed("red block", 0.015)), Scene((BLOCK,), ()), replace(start, gripper_width_m=0.0)
    )
    assert kinds(verdict) == {"uncertain", "force", "wrong_effect"}


def test_what_rolls_on_after_a_push_does_not_come_to_rest(hand: Any, pool: RehearsalProcess, start: RobotState) -> None:
    lying = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    can = SceneObject("can", Cylinder(0.05, 0.08), freeze(make_pose([0.5, 0.1, 0.025], lying)))
    pushing(hand, (0.13, 0.03, 0.8), (0.2, 0.15, 1.2))
    closed = replace(start, gripper_width_m=0.0)
    verdict = pool.rehearse(hand.motion(pushed("can", 0.0)), Scene((can,), ()), closed)
    assert ("can", "does not come to rest") in {v.bodies for v in verdict.violations if v.unit == "m/s"}
