"""The robot goes where it is put and commanded, and its bounds on reach and torque hold."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import TIME_STEP_S, BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box

PROFILE = load_robot("franka_panda")
HOME = np.array(PROFILE.home_q_rad)


@pytest.mark.parametrize("q_rad", [HOME * np.nan, HOME[:6], np.full(7, np.inf)])
def test_joints_must_be_finite_and_complete(cell: BulletWorld, q_rad: np.ndarray) -> None:
    for call in (lambda: cell.robot.reset_arm(q_rad, 0.04), lambda: cell.robot.command_arm(q_rad)):
        with pytest.raises(ValueError, match="7 finite joint positions"):
            call()
    with pytest.raises(ValueError, match="finite"):
        cell.robot.command_gripper(np.nan, 20.0)
    with pytest.raises(ValueError, match="finite"):
        cell.robot.command_arm(HOME, HOME * np.nan)


def test_arm_needs_a_robot(world: BulletWorld) -> None:
    with pytest.raises(RuntimeError, match="add a robot"):
        world.robot.reset_arm(HOME, 0.04)
    with pytest.raises(RuntimeError, match="add a robot"):
        world.robot.reach_m()


def test_law_no_point_of_the_arm_travels_farther_than_its_reach_bound(cell: BulletWorld) -> None:
    rng = np.random.default_rng(0)
    low = np.array([j.lower_rad for j in PROFILE.joints])
    high = np.array([j.upper_rad for j in PROFILE.joints])
    reach_m = cell.robot.reach_m(0.1)
    points = rng.normal(size=(20, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)  # at the distance for which the bound holds
    for _ in range(200):
        q_rad = rng.uniform(low, high)
        step_rad = rng.normal(size=7) * 0.01
        there = []
        for q in (q_rad, q_rad + step_rad):
            cell.robot.reset_arm(q, 0.04)
            T = cell.robot.tool_pose()
            there.append(points @ T[:3, :3].T + T[:3, 3])
        assert np.linalg.norm(there[1] - there[0], axis=1).max() <= np.abs(step_rad) @ reach_m * (1 + 1e-6)


def test_fingers_move_as_mirror_images_and_hold_their_middle(cell: BulletWorld) -> None:
    cell.robot.reset_arm(HOME, 0.08)
    T = cell.robot.tool_pose()
    cell.add_body("block", Box((0.04, 0.04, 0.04)), T @ make_pose([0.0, 0.004, 0.0]), mass_kg=0.1)
    cell.set_gravity(0.0)
    cell.robot.command_arm(HOME)
    cell.robot.command_gripper(0.0, PROFILE.gripper.force_n)
    cell.step(240)
    cell.set_gravity()
    for turn in np.linspace(0.0, 0.6, 120):
        cell.robot.command_arm(HOME + np.array([turn, 0, 0, 0, 0, 0, 0]))
        cell.step()
    fingers = [cell.robot.link_pose(link)[:3, 3] for link in PROFILE.gripper.finger_links]
    middle = np.mean(fingers, axis=0) - cell.robot.tool_pose()[:3, 3]
    assert abs(middle @ cell.robot.tool_pose()[:3, 1]) < 0.001
    block = cell.pose("block")[:3, 3] - cell.robot.tool_pose()[:3, 3]
    assert np.linalg.norm(block) < 0.004
    assert cell.robot.arm_state()[2] == pytest.approx(0.04, abs=0.002)


def test_following_is_commanding_step_by_step(cell: BulletWorld) -> None:
    q_rad = HOME + np.linspace(0.0, 0.1, 41)[1:, None]
    dq_radps = np.full_like(q_rad, 0.1 / 40 / TIME_STEP_S)
    ends = []
    for one_by_one in (True, False):
        cell.robot.reset_arm(HOME, 0.08)
        for q, dq in zip(q_rad, dq_radps, strict=True) if one_by_one else ():
            cell.robot.command_arm(q, dq)
            cell.step()
        if not one_by_one:
            cell.robot.follow(q_rad, dq_radps)
        ends.append(cell.robot.arm_state()[0])
    assert np.allclose(ends[0], ends[1], atol=1e-9)
    with pytest.raises(ValueError, match="finite"):
        cell.robot.follow(np.full((2, 7), np.nan), np.zeros((2, 7)))


def test_a_load_adds_its_weight_times_the_lever(cell: BulletWorld) -> None:
    q_rad, rest = HOME[None], np.zeros((1, 7))
    cell.robot.reset_arm(HOME, 0.08)
    needed_nm = cell.robot.torques_nm(q_rad, rest, rest, 2.0) - cell.robot.torques_nm(q_rad, rest, rest)
    lever_m = cell.robot.tool_pose()[0, 3] - cell.robot.link_pose("panda_link2")[0, 3]
    assert abs(needed_nm[0, 1]) == pytest.approx(2.0 * 9.81 * lever_m, rel=1e-3)
    assert needed_nm[0, 0] == pytest.approx(0.0, abs=1e-6)  # the first axis is upright
