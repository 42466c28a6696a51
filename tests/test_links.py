"""Depth says where the arm is, where enough of it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.endings.table import draw_table
from qwen2vl_robot.kinematics import box_vertices, hull_planes
from qwen2vl_robot.messages import Observation, RobotState
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.links import ENOUGH_PX, REACH_M, see_links
from qwen2vl_robot.perception.view import LevelledView, make_view
from tests.cells import PROFILE

SURROUNDINGS = Surroundings.of(PROFILE)
KINEMATICS = SURROUNDINGS.kinematics
HULL_ERROR_M = 0.012  # of hulls around the true links, with noise and calibration


@pytest.fixture(scope="module")
def seen() -> Iterator[tuple[LevelledView, RobotState]]:
    """A view of the arm over the table, and its true state."""
    drawn = draw_table(61_003, SURROUNDINGS)
    assert drawn is not None
    plant, table = drawn
    with plant:
        q_rad = table.arm_in_view()
        assert q_rad is not None
        observation = table.with_arm_at(q_rad).observation
        yield make_view(Observation(observation.frame, observation.robot), KINEMATICS, PROFILE), observation.robot


def turned(state: RobotState, joint: int, by_rad: float) -> tuple[RobotState, float]:
    """The state with one joint elsewhere, and how far that moves the tool."""
    q_rad = np.array(state.q_rad)
    q_rad[joint] += by_rad
    gap_m = KINEMATICS.tool_pose(q_rad)[:3, 3] - KINEMATICS.tool_pose(state.q_rad)[:3, 3]
    return replace(state, q_rad=q_rad), float(np.linalg.norm(gap_m))


def test_an_arm_that_is_where_it_says_fits_its_depth(seen: tuple[LevelledView, RobotState]) -> None:
    view, state = seen
    there = see_links(view, state, KINEMATICS)
    assert there.expected_px > ENOUGH_PX
    assert there.off_m is not None
    assert there.off_m < HULL_ERROR_M


@pytest.mark.parametrize("joint", [0, 1, 3])
def test_the_shift_of_an_arm_is_measured(joint: int, seen: tuple[LevelledView, RobotState]) -> None:
    view, state = seen
    claimed, moved_m = turned(state, joint, 0.07)
    off_m = see_links(view, claimed, KINEMATICS).off_m
    assert off_m is not None
    assert off_m == pytest.approx(moved_m, abs=HULL_ERROR_M)


def test_an_arm_that_is_nowhere_near_is_out_of_reach(seen: tuple[LevelledView, RobotState]) -> None:
    view, state = seen
    assert see_links(view, turned(state, 0, -0.25)[0], KINEMATICS).off_m == REACH_M


def test_an_arm_that_does_not_show_is_unseen(seen: tuple[LevelledView, RobotState]) -> None:
    view, state = seen
    behind = see_links(view, turned(state, 0, np.pi)[0], KINEMATICS)
    assert behind.expected_px < ENOUGH_PX
    assert behind.off_m is None


def test_pixels_that_both_states_predict_tell_them_not_apart(seen: tuple[LevelledView, RobotState]) -> None:
    view, state = seen
    assert see_links(view, state, KINEMATICS, unlike=state).expected_px == 0


def test_the_faces_of_a_hull_hold_its_points_inside() -> None:
    normals, offsets_m = hull_planes(box_vertices(np.array([0.1, 0.2, 0.3])))
    assert (normals @ [0.049, 0.099, 0.149] < offsets_m).all()
    assert not (normals @ [0.051, 0.0, 0.0] < offsets_m).all()
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0)
