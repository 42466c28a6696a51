"""Paths: straight where free, else around obstacles, repeatable, and a clear refusal if there is none."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, SceneObject
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import downward
from qwen2vl_robot.motion.path import BlockedError, Space, plan, straight, tool_line

KINEMATICS = Kinematics(load_robot("franka_panda"))
HOME = np.array(KINEMATICS.profile.home_q_rad)
WALL = SceneObject("wall", Box((0.3, 0.03, 0.3)), make_pose([0.5, 0.0, 0.15]))


def joints_at(x: float, y: float, z: float) -> np.ndarray:
    return ik.solve(KINEMATICS, downward(np.array([x, y, z]), -np.pi / 2, "y"), [HOME], posture_rad=HOME)


LEFT, RIGHT = joints_at(0.5, 0.25, 0.12), joints_at(0.5, -0.25, 0.12)


def space(*bodies: SceneObject) -> Space:
    return Space(CollisionModel(KINEMATICS, bodies, 0.0), 0.04, 0.005)


def test_a_free_way_is_straight() -> None:
    assert len(straight(space(), LEFT, RIGHT)) == 2
    assert len(plan(space(), LEFT, RIGHT, 0)) == 2


def test_a_wall_blocks_the_straight_way() -> None:
    with pytest.raises(BlockedError, match="wall"):
        straight(space(WALL), LEFT, RIGHT)


def test_a_search_leads_around_the_wall_and_every_piece_of_it_is_free() -> None:
    free = space(WALL)
    waypoints = plan(free, LEFT, RIGHT, 0)
    assert len(waypoints) > 2
    assert np.array_equal(waypoints[0], LEFT)
    assert np.array_equal(waypoints[-1], RIGHT)
    assert all(free.hit_between(a, b) is None for a, b in zip(waypoints, waypoints[1:], strict=False))


def test_the_same_seed_finds_the_same_way() -> None:
    first, second = plan(space(WALL), LEFT, RIGHT, 3), plan(space(WALL), LEFT, RIGHT, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_goal_inside_the_wall_is_refused_before_any_search() -> None:
    with pytest.raises(MotionError, match="at the goal .* 5 mm to wall"):
        plan(space(WALL), LEFT, joints_at(0.5, 0.0, 0.2), 0)


def test_a_line_of_the_tool_is_straight_and_keeps_its_orientation() -> None:
    line = tool_line(space(), LEFT, np.array([0.0, 0.0, 0.1]))
    poses = [KINEMATICS.tool_pose(q) for q in line]
    for share, pose in zip(np.linspace(0, 1, len(poses)), poses, strict=True):
        np.testing.assert_allclose(pose[:3, 3], poses[0][:3, 3] + [0, 0, 0.1 * share], atol=5e-4)
        np.testing.assert_allclose(pose[:3, :3], poses[0][:3, :3], atol=9e-3)


def test_a_line_into_the_table_is_refused() -> None:
    with pytest.raises(MotionError, match="table"):
        tool_line(space(), LEFT, np.array([0.0, 0.0, -0.13]))
