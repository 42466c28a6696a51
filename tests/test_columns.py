"""Boxes around points: they hold what was measured, stand on its support, are few, and leave free what is free."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.geometry import Array, look_at, rotation_z
from qwen2vl_robot.messages import CameraFrame, GroundedAction, Intrinsics, RobotState, Scene, Verb, freeze
from qwen2vl_robot.motion.grasps import Grasp, downward
from qwen2vl_robot.motion.job import Job, measure_robot
from qwen2vl_robot.motion.pinches import pinches
from qwen2vl_robot.perception.columns import MOST_BOXES, columns
from qwen2vl_robot.relations import load_relations
from tests.cells import PROFILE

_DENSE = 250_000.0  # points for each square metre, as a camera of 640 px gives on a table
_BLUR_M = 0.005

Cells = list[tuple[int, int, int]]  # row, column and height of each column of a thing made of cubes
CUBE_M = 0.03


def cubes(cells: Cells, turn_rad: float, rng: np.random.Generator) -> Array:
    """Points of the upper faces of columns of cubes, with 1 mm of noise."""
    faces = []
    for row, column, high in cells:
        count = round(_DENSE * CUBE_M**2)
        xy = (np.array([row, column]) + rng.random((count, 2))) * CUBE_M
        faces.append(np.column_stack([xy, high * CUBE_M + rng.normal(0.0, 0.001, count)]))
    return np.vstack(faces) @ rotation_z(turn_rad).T


def held_by(boxes_m: Array, own_m: Array, slack_m: float = 0.0) -> Array:
    inside = (own_m[:, None] >= boxes_m[:, 0] - slack_m) & (own_m[:, None] <= boxes_m[:, 1] + slack_m)
    return np.asarray(inside.all(axis=-1).any(axis=-1))


things = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4)),
    min_size=1,
    max_size=8,
    unique_by=lambda c: c[:2],
)


@settings(deadline=None, max_examples=25)
@given(cells=things, turn_rad=st.floats(0.0, 3.1), seed=st.integers(0, 1000))
def test_boxes_hold_every_point_but_for_the_blur_of_edges(cells: Cells, turn_rad: float, seed: int) -> None:
    points = cubes(cells, turn_rad, np.random.default_rng(seed))
    found = columns(points, points, 0.0)
    assert 1 <= len(found.boxes_m) <= MOST_BOXES
    assert held_by(found.boxes_m, points @ found.R, _BLUR_M).all()
    assert (found.boxes_m[:, 0, 2] == 0.0).all(), "they reach down to the support"


def test_a_thing_of_cubes_is_nearly_as_small_as_it_is() -> None:
    cells: Cells = [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 3)]
    points = cubes(cells, 0.4, np.random.default_rng(1))
    found = columns(points, points, 0.0)
    volume_m3 = float(np.prod(found.boxes_m[:, 1] - found.boxes_m[:, 0], axis=1).sum())
    assert volume_m3 < 1.6 * 6 * CUBE_M**3
    notch = np.array([[1.5, 1.5, 0.5], [2.5, 1.5, 0.5], [1.5, 0.5, 1.6]]) * CUBE_M @ rotation_z(0.4).T
    assert not held_by(found.boxes_m, notch @ found.R).any()


def test_a_thin_post_is_no_blur() -> None:
    rng = np.random.default_rng(2)
    flat = np.column_stack([rng.uniform(0.0, 0.08, (1600, 2)), np.full(1600, 0.03)])
    post = np.array([[0.04, 0.04, 0.08], [0.041, 0.041, 0.081]])
    points = np.vstack([flat, post])
    found = columns(points, points, 0.0)
    assert held_by(found.boxes_m, post @ found.R, 0.002).all()


def test_points_in_one_place_are_one_small_box() -> None:
    points = np.tile([0.5, 0.1, 0.02], (20, 1))
    (box,) = columns(points, points, 0.0).boxes_m
    assert (box[1] - box[0] < 0.03).all()


# ------------------------------------------------------------------------------------------------ pinches

SIDE_M, THICK_M, OPEN_M = 0.010, 0.015, 0.080


@settings(deadline=None, max_examples=12)
@given(cells=things, seed=st.integers(0, 100))
def test_between_two_fingers_is_a_part_and_beside_them_nothing(cells: Cells, seed: int) -> None:
    points = cubes(cells, 0.0, np.random.default_rng(seed))
    boxes_m = columns(points, points, 0.0).boxes_m
    tips_m = 0.01
    for pinch in pinches(boxes_m, SIDE_M, THICK_M, OPEN_M, tips_m=tips_m, least_m=0.02)[:5]:
        assert pinch.width_m + 2 * pinch.room_m <= OPEN_M + 1e-9
        assert pinch.room_m >= 0.008
        c, s = np.cos(pinch.yaw_rad), np.sin(pinch.yaw_rad)
        along, across = np.array([c, s]), np.array([-s, c])
        for side in (-1.0, 1.0):  # the inside, middle and outside of each finger, as it goes down
            inner_m = pinch.width_m / 2 + pinch.room_m
            spots = [
                np.array(pinch.middle_m) + side * gap_m * along + v * across
                for v in np.linspace(-0.8, 0.8, 5) * SIDE_M
                for gap_m in (inner_m - 0.002, inner_m + THICK_M / 2, inner_m + THICK_M)
            ]
            down = np.array([[*spot, tips_m + 0.002] for spot in spots])
            assert not held_by(boxes_m, down).any()


def test_a_wide_thing_has_no_pinch_even_at_its_corners() -> None:
    crate = np.array([[[0.0, 0.0, 0.0], [0.1, 0.1, 0.05]]])
    assert pinches(crate, SIDE_M, THICK_M, OPEN_M, tips_m=0.01, least_m=0.02) == []


@pytest.mark.parametrize(("gap_m", "is_free"), [(0.06, True), (0.036, True), (0.028, False), (0.012, False)])
def test_fingers_need_room_beside_a_part(gap_m: float, is_free: bool) -> None:
    wall = [[[0.03 + gap_m, -0.1, 0.0], [0.2 + gap_m, 0.2, 0.05]]]
    part = [[[0.0, 0.0, 0.0], [0.03, 0.1, 0.05]]]
    found = pinches(np.array(part + wall), SIDE_M, THICK_M, OPEN_M, tips_m=0.01, least_m=0.02)
    across = [p for p in found if p.yaw_rad == 0.0 and 0.0 < p.middle_m[0] < 0.03]
    assert bool(across) == is_free


def test_less_room_for_the_fingers_costs_as_much_as_twice_that_off_the_middle() -> None:
    """Of a part of 60 mm the fingers, open as far as they go, are 10 mm away; 15 are wanted."""
    narrow, wide = (
        pinches(np.array([[[-x, -0.05, 0.0], [x, 0.05, 0.04]]]), SIDE_M, THICK_M, OPEN_M, tips_m=0.01, least_m=0.02)[0]
        for x in (0.015, 0.03)
    )
    assert (narrow.room_m, wide.room_m) == pytest.approx((0.015, 0.010), abs=0.003)
    assert wide.cost_m - narrow.cost_m == pytest.approx(2 * (narrow.room_m - wide.room_m), abs=0.003)


@pytest.mark.parametrize(
    ("depth_m", "ratio"), [(2.0, 0.0), (0.2, 1.0), (float("nan"), 1.0)], ids=["beyond", "before", "no depth"]
)
def test_what_the_frame_does_not_show_to_be_free_is_dark(depth_m: float, ratio: float) -> None:
    k = Intrinsics(64, 48, 40.0, 40.0, 31.5, 23.5)
    rgb, depth = np.zeros((48, 64, 3), np.uint8), np.full((48, 64), depth_m, np.float32)
    frame = CameraFrame(0, rgb, depth, k, look_at((1.1, 0.0, 0.6), (0.5, 0.0, 0.0)))
    grasp = Grasp(downward(np.array([0.5, 0.0, 0.05]), 0.0, "y"), 0.04, 0.07)
    assert job(frame).dark_ratio(grasp) == ratio
    assert job(None).dark_ratio(grasp) == 0.0


def job(seen: CameraFrame | None) -> Job:
    state = RobotState(0, freeze(np.array(PROFILE.home_q_rad)), freeze(np.zeros(7)), 0.08)
    return Job(
        measure_robot(PROFILE), load_relations(), GroundedAction(Verb.PICK, "thing"), Scene((), ()), state, 0, seen
    )
