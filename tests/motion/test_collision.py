"""Collision model: it names bodies in contact, ignores allowed contacts, and keeps hollows hollow."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import invert, make_pose
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Container, SceneObject, Sphere
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import downward

PROFILE = load_robot("franka_panda")
KINEMATICS = Kinematics(PROFILE)
HOME = np.array(PROFILE.home_q_rad)


def joints_over(x: float, y: float, z: float) -> np.ndarray:
    return ik.solve(KINEMATICS, downward(np.array([x, y, z]), -np.pi / 2, "y"), [HOME], posture_rad=HOME)


def test_home_is_free_of_the_table_and_of_itself() -> None:
    assert CollisionModel(KINEMATICS, [], 0.0).closest(HOME, 0.08, 0.02) is None


def test_fingers_in_a_block_are_named() -> None:
    block = SceneObject("red block", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.025]))
    hit = CollisionModel(KINEMATICS, [block], 0.0).closest(joints_over(0.5, 0.0, 0.03), 0.0, 0.0)
    assert hit is not None
    assert "red block" in hit


def test_the_margin_is_kept_to_the_table() -> None:
    model = CollisionModel(KINEMATICS, [], 0.0)
    q = joints_over(0.5, 0.0, PROFILE.gripper.pad_depth_m + 0.004)
    assert model.closest(q, 0.08, 0.002) is None
    hit = model.closest(q, 0.08, 0.02)
    assert hit is not None
    assert "table" in hit


def test_ignored_pairs_may_come_close() -> None:
    model = CollisionModel(KINEMATICS, [], 0.0)
    q = joints_over(0.5, 0.0, 0.01)
    close = model.all_close(q, 0.08, 0.02)
    assert {name for pair in close for name in pair} >= {"table", *PROFILE.gripper.finger_links}
    assert model.closest(q, 0.08, 0.02, close) is None
    assert model.closest(q, 0.08, 0.02) is not None


def test_a_held_ball_touches_neither_its_fingers_nor_the_hollow_of_a_bowl_but_its_wall() -> None:
    bowl = SceneObject("bowl", Container((0.15, 0.15, 0.05), 0.006), make_pose([0.5, 0.0, 0.025]))
    T_tool_held = invert(downward(np.array([0.0, 0.0, 0.06]), -np.pi / 2, "y")) @ make_pose([0.0, 0.0, 0.035])
    model = CollisionModel(KINEMATICS, [bowl], 0.0, ("ball", Sphere(0.05), T_tool_held))
    assert model.closest(joints_over(0.5, 0.0, 0.07), 0.05, 0.002) is None
    hit = model.closest(joints_over(0.57, 0.0, 0.07), 0.05, 0.002)
    assert hit is not None
    assert set(hit) == {"ball", "bowl"}


@pytest.mark.parametrize(("is_round", "is_hit"), [(True, False), (False, True)])
def test_what_stands_at_the_corner_of_a_container_touches_it_only_when_it_has_corners(
    is_round: bool, is_hit: bool
) -> None:
    bowl = SceneObject("bowl", Container((0.16, 0.16, 0.05), 0.006, is_round), make_pose([0.5, 0.0, 0.025]))
    T_tool_held = invert(downward(np.array([0.0, 0.0, 0.06]), -np.pi / 2, "y")) @ make_pose([0.0, 0.0, 0.035])
    model = CollisionModel(KINEMATICS, [bowl], 0.0, ("ball", Sphere(0.05), T_tool_held))
    hit = model.closest(joints_over(0.585, 0.085, 0.07), 0.05, 0.002)
    assert (hit is not None) is is_hit


@pytest.mark.parametrize("seed", range(3))
def test_bullet_agrees_on_which_joints_are_free(seed: int) -> None:
    model = CollisionModel(KINEMATICS, [], 0.0)
    rng = np.random.default_rng(seed)
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(PROFILE)
        for _ in range(60):
            q = rng.uniform(KINEMATICS.lower_rad, KINEMATICS.upper_rad)
            world.robot.reset_arm(q, 0.04)
            is_deep = any(contact.depth_m > 1e-3 for contact in world.contacts.touching(detect=True))
            if model.closest(q, 0.04, 0.002) is None:
                assert not is_deep
