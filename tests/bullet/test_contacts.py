"""Contacts and distances agree with geometry."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box

PROFILE = load_robot("franka_panda")
HOME = np.array(PROFILE.home_q_rad)


def test_home_touches_nothing_and_the_table_stops_the_fingers(cell: BulletWorld) -> None:
    cell.robot.reset_arm(HOME, 0.08)
    assert cell.contacts.touching(detect=True) == []
    down = np.array([-0.2032, 0.6553, 0.3102, -2.2491, -0.6337, 2.8220, 1.4402])
    cell.robot.reset_arm(down, 0.08)
    assert {(c.a, c.b) for c in cell.contacts.touching(detect=True, of=[])} == {
        ("panda_leftfinger", "table"),
        ("panda_rightfinger", "table"),
    }


def test_distance_agrees_with_geometry_and_forgets_earlier_poses(world: BulletWorld) -> None:
    world.add_body("a", Box((0.1, 0.1, 0.1)), make_pose([0.5, 0.0, 0.5]), mass_kg=0.1)
    world.add_body("b", Box((0.1, 0.1, 0.1)), make_pose([0.5, 0.0, 0.58]), mass_kg=0.1)
    assert world.contacts.distance_m("a", "b") == pytest.approx(-0.02, abs=1e-4)
    for gap_m in (0.001, 0.01, 0.03):
        world.set_pose("b", make_pose([0.5, 0.0, 0.6 + gap_m]))
        assert world.contacts.distance_m("a", "b") == pytest.approx(gap_m, abs=1e-4)
    world.set_pose("b", make_pose([0.5, 0.0, 1.0]))
    assert world.contacts.distance_m("a", "b", limit_m=0.02) == 0.02


def test_contacts_of_the_robot_leave_out_what_rests_on_the_table(cell: BulletWorld) -> None:
    cell.add_body("block", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, 0.025]), mass_kg=0.1)
    cell.robot.reset_arm(HOME, 0.08)
    cell.robot.command_arm(HOME)
    cell.step(10)
    assert [(c.a, c.b) for c in cell.contacts.touching()] == [("block", "table")]
    assert cell.contacts.touching(of=[]) == []
    (contact,) = cell.contacts.touching(of=["block"])
    assert contact.force_n == pytest.approx(0.1 * 9.81, rel=0.2)


def test_a_scan_watches_the_more_closely_the_closer_it_comes(cell: BulletWorld) -> None:
    cell.add_body("post", Box((0.05, 0.05, 0.6)), make_pose([0.5, 0.2, 0.3]), mass_kg=0.0)
    q_rad = HOME + np.linspace(-1.0, 0.3, 200)[:, None] * np.eye(7)[0]
    seen = cell.contacts.scan(q_rad, 0.08, watched=["post", "table"], pace=(0.2, 0.035, 0.005))
    looks = seen.gaps["post"][:, 0]
    assert looks[0] == 0
    assert looks[-1] == 199
    assert np.diff(looks).max() > 10
    for index, gap_m in seen.gaps["post"]:
        cell.robot.reset_arm(q_rad[int(index)], 0.08)
        assert gap_m == pytest.approx(cell.contacts.clearance_m("post", None, 0.2), abs=1e-6)
    close = looks[:-1][seen.gaps["post"][:-1, 1] < 0.035]
    assert len(close) == 0 or np.diff(close).max() <= 3
    assert seen.gaps["table"][:, 1].min() > 0.05  # the foot that stands on it does not count
