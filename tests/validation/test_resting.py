"""A fall is counted to the support or the rim, and a body rests upright, level, in a hollow, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qwen2vl_robot.bullet import TABLE, BulletWorld
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_rotvec
from qwen2vl_robot.messages import Box, Container, SceneObject, Shape, Sphere, Violation, freeze, shape_size_m
from qwen2vl_robot.validation.resting import LONGEST_FALL_M, Resting, set_down

BLOCK, BOX, BALL = Box((0.05, 0.05, 0.05)), Container((0.2, 0.2, 0.1), 0.006), Sphere(0.05)


@pytest.fixture
def world() -> Iterator[BulletWorld]:
    with BulletWorld() as empty:
        empty.add_table()
        yield empty


def resting(world: BulletWorld, thing: Shape, T: Array, *others: tuple[str, Shape]) -> Resting:
    """Judge a thing at `T` beside bodies that stand on the table at (0.5, 0.0)."""
    bodies = {"thing": SceneObject("thing", thing, freeze(T))}
    for name, shape in others:
        bodies[name] = SceneObject(name, shape, freeze(make_pose([0.5, 0.0, shape_size_m(shape)[2] / 2])))
    for body in bodies.values():
        world.add_body(body.name, body.shape, body.T_base_object, mass_kg=0.1)
    return Resting(world, bodies)


def at(z_m: float, x_m: float = 0.5, turn_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Array:
    return make_pose([x_m, 0.0, z_m], rotation_from_rotvec(turn_rad))


def said(violations: Iterator[Violation]) -> set[str]:
    return {v.bodies[-1] for v in violations}


@pytest.mark.parametrize(("over_m", "falls"), [(-0.002, False), (0.002, True)])
def test_a_fall_ends_at_the_support(over_m: float, falls: bool, world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(0.025))
    found = list(judge.fall("thing", at(0.025 + LONGEST_FALL_M + over_m), 1.0))
    assert [v.amount for v in found] == ([pytest.approx(LONGEST_FALL_M + over_m)] if falls else [])


@pytest.mark.parametrize(("over_m", "falls"), [(-0.002, False), (0.002, True)])
def test_a_fall_into_a_container_ends_at_its_rim(over_m: float, falls: bool, world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(0.031), ("box", BOX))
    assert bool(list(judge.fall("thing", at(0.1 + 0.025 + LONGEST_FALL_M + over_m), 1.0))) == falls


def test_what_is_put_down_lies_just_above_the_floor_of_a_container(world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(0.3), ("box", BOX))
    set_down(world, "thing", [TABLE, "box"])
    assert world.pose("thing")[2, 3] == pytest.approx(0.006 + 0.025, abs=0.001)
    assert judge.hollow_around("thing") is judge.bodies["box"]


@pytest.mark.parametrize(("x_m", "z_m"), [(0.75, 0.025), (0.5, 0.13), (0.6, 0.125)])
def test_beside_above_and_on_the_wall_is_not_in_the_container(x_m: float, z_m: float, world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(z_m, x_m), ("box", BOX))
    assert judge.hollow_around("thing") is None


def test_a_block_may_slide_in_a_container_and_not_on_the_table(world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(0.031, 0.46), ("box", BOX))
    assert said(judge.let_go("thing", at(0.04), 1.0)) == set()
    world.set_pose("thing", at(0.025, 0.756))
    assert said(judge.let_go("thing", at(0.03, 0.75), 1.0)) == {"does not stay where it was left"}
    assert said(judge.let_go("thing", at(0.03, 0.752), 1.0)) == set()


@pytest.mark.parametrize(("lean_deg", "expected"), [(4.0, set()), (6.0, {"does not stay upright"})])
@pytest.mark.parametrize("lies", [False, True])
def test_a_block_rests_upright_or_level_within_five_degrees(
    lean_deg: float, expected: set[str], lies: bool, world: BulletWorld
) -> None:
    base_rad = np.pi / 2 if lies else 0.0
    judge = resting(world, BLOCK, at(0.025, turn_rad=(base_rad + np.deg2rad(lean_deg), 0.0, 0.0)))
    assert said(judge.let_go("thing", at(0.026, turn_rad=(base_rad + 0.05, 0.0, 0.0)), 1.0)) == expected


def test_a_ball_has_no_upright(world: BulletWorld) -> None:
    judge = resting(world, BALL, at(0.025, turn_rad=(1.0, 0.5, 0.0)))
    assert said(judge.let_go("thing", at(0.03), 1.0)) == set()


def test_what_still_falls_does_not_rest(world: BulletWorld) -> None:
    judge = resting(world, BLOCK, at(0.04))
    world.step(5)
    assert said(judge.let_go("thing", at(0.04), 1.0)) == {"does not come to rest"}
