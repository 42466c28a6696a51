"""Named bodies keep their own places, runs are repeatable, and wrong names and numbers are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld, Friction, robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box, Cylinder

PROFILE = load_robot("franka_panda")
HOME = np.array(PROFILE.home_q_rad)


def test_poses_masses_and_frictions_must_be_finite(world: BulletWorld) -> None:
    box, here = Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1])
    for pose, mass_kg, friction in ((here * np.nan, 0.1, 0.8), (here, np.inf, 0.8), (here, -0.1, 0.8), (here, 0.1, -1)):
        with pytest.raises(ValueError, match="finite"):
            world.add_body("thing", box, pose, mass_kg=mass_kg, friction=Friction(friction))
    world.add_body("thing", box, here, mass_kg=0.1)
    with pytest.raises(ValueError, match="not finite"):
        world.set_pose("thing", here * np.nan)
    with pytest.raises(ValueError, match="finite"):
        world.set_gravity(np.nan)


def test_names_are_unique_and_known(cell: BulletWorld) -> None:
    box, here = Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1])
    for name in ("table", "panda_hand"):
        with pytest.raises(ValueError, match="taken"):
            cell.add_body(name, box, here, mass_kg=0.1)
    for call in (cell.pose, cell.remove, cell.speed_mps):
        with pytest.raises(KeyError, match="nobody"):
            call("nobody")
    with pytest.raises(KeyError, match="nobody"):
        cell.contacts.distance_m("table", "nobody")
    with pytest.raises(KeyError, match="nobody"):
        cell.robot.link_pose("nobody")


def test_reset_gives_the_same_run_again(cell: BulletWorld) -> None:
    def run() -> np.ndarray:
        cell.reset()
        cell.add_table()
        cell.add_robot(PROFILE)
        for i in range(3):
            cell.add_body(f"block {i}", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.1 + 0.08 * i]), mass_kg=0.1)
        cell.robot.command_arm(HOME)
        cell.step(120)
        return np.concatenate([cell.pose(f"block {i}").ravel() for i in range(3)] + list(cell.robot.arm_state()[:2]))

    first = run()
    assert np.array_equal(first, run())


def test_what_sleeps_wakes_when_it_is_pushed(cell: BulletWorld) -> None:
    cell.robot.reset_arm(HOME, 0.08)
    cell.robot.command_arm(HOME)
    for name, x_m in (("pushed", 0.5), ("hit by it", 0.56), ("far", 0.7)):
        cell.add_body(name, Box((0.05, 0.05, 0.05)), make_pose([x_m, 0.3, 0.025]), mass_kg=0.1)
    cell.add_body("pusher", Box((0.04, 0.04, 0.04)), make_pose([0.4, 0.3, 0.022]), mass_kg=5.0, friction=Friction(0.0))
    cell.step(30)
    for name in ("pushed", "hit by it", "far"):
        cell.put_to_sleep(name)
    for step in range(120):
        cell.set_pose("pusher", make_pose([0.4 + 0.001 * step, 0.3, 0.022]))
        cell.step()
    assert cell.pose("pushed")[0, 3] > 0.55
    assert cell.pose("hit by it")[0, 3] > 0.6
    assert np.linalg.norm(cell.pose("far")[:3, 3] - [0.7, 0.3, 0.025]) < 1e-3


def test_bodies_that_no_picture_shows_leave_no_memory_behind(world: BulletWorld) -> None:
    """Bullet keeps 50 kB or more of each drawn mesh: a megabyte for twenty cylinders."""

    def turn_over(count: int) -> None:
        for _ in range(count):
            world.add_body("c", Cylinder(0.05, 0.06), make_pose([0.5, 0.0, 0.03]), mass_kg=0.1, rgb=None)
            world.remove("c")

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    turn_over(50)
    before_mb = resident_mb()
    turn_over(400)
    assert resident_mb() - before_mb < 5.0


def test_a_robots_table_can_be_set_up_again() -> None:
    for _ in range(2):
        with robot_on_table(load_robot("franka_panda")) as world:
            assert len(world.robot.arm_state()[0]) == 7


def test_a_reset_forgets_the_robot_and_every_body(cell: BulletWorld) -> None:
    cell.step()
    cell.reset()
    assert (cell.names(), cell.time_s) == ([], 0.0)
    with pytest.raises(RuntimeError, match="add a robot"):
        cell.robot.tool_pose()
    with pytest.raises(RuntimeError, match="add a robot"):
        cell.contacts.touching(of=[])
