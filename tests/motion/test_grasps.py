"""Grasps from above keep a thing clear of whatever the gripper has between its palm and its pads."""

from __future__ import annotations

from pathlib import Path

import coal
import numpy as np
import pytest

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import invert, make_pose
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Cylinder, SceneObject
from qwen2vl_robot.motion.collision import convex
from qwen2vl_robot.motion.grasps import Grasp, grasps, measure_hand

KNUCKLES = load_robot(str(Path(__file__).parents[1] / "arms" / "knuckle_arm.yaml"))
KINEMATICS = Kinematics(KNUCKLES)
HAND = measure_hand(KINEMATICS, KNUCKLES)
PATHS_KEEP_M = 0.002


def standing(width_m: float, height_m: float) -> SceneObject:
    return SceneObject("can", Cylinder(width_m, height_m), make_pose([0.5, 0.0, height_m / 2]))


def gap_m(grasp: Grasp, body: SceneObject) -> float:
    """Between a thing and all of the closed gripper but its pads, by coal."""
    poses = KINEMATICS.link_poses(np.array(KNUCKLES.home_q_rad), grasp.width_m)
    T_tool_base = invert(poses[KNUCKLES.tool_link])
    T_tool_body = invert(grasp.T_base_tool) @ body.T_base_object
    assert isinstance(body.shape, Cylinder)
    can = coal.Cylinder(body.shape.diameter_m / 2, body.shape.height_m)
    gaps = []
    for link, hull_m in KINEMATICS.link_hulls.items():
        if link not in KNUCKLES.gripper.finger_links:
            T = T_tool_base @ poses[link]
            places = coal.Transform3s(T[:3, :3], T[:3, 3]), coal.Transform3s(T_tool_body[:3, :3], T_tool_body[:3, 3])
            gaps.append(
                coal.distance(convex(hull_m), places[0], can, places[1], coal.DistanceRequest(), coal.DistanceResult())
            )
    return float(min(gaps))


@pytest.mark.parametrize("height_m", [0.04, 0.08, 0.11, 0.14])
@pytest.mark.parametrize("width_m", [0.03, 0.045, 0.06])
def test_nothing_between_palm_and_pads_comes_near_what_is_gripped(width_m: float, height_m: float) -> None:
    body = standing(width_m, height_m)
    assert all(gap_m(grasp, body) > PATHS_KEEP_M for grasp in grasps(body, HAND, 0.0))


def test_a_grasp_as_low_as_the_palm_allows_would_meet_the_linkage() -> None:
    """So the test above can fail."""
    body = standing(0.045, 0.14)
    low = downwards(body, 0.14 - HAND.palm_m + 0.006)
    assert gap_m(low, body) < PATHS_KEEP_M < gap_m(grasps(body, HAND, 0.0)[0], body)


def downwards(body: SceneObject, height_m: float) -> Grasp:
    first = grasps(body, HAND, 0.0)[0]
    T = np.array(first.T_base_tool)
    T[2, 3] = height_m
    return Grasp(T, first.width_m, first.opening_m)


def test_what_is_too_low_for_one_width_is_gripped_across_the_other() -> None:
    found = grasps(SceneObject("bar", Box((0.03, 0.07, 0.045)), make_pose([0.5, 0.0, 0.0225])), HAND, 0.0)
    assert {round(g.width_m, 3) for g in found} <= {0.03, 0.07}
    with pytest.raises(MotionError, match="high, which the fingers cannot grip"):
        grasps(standing(0.04, 0.004), HAND, 0.0)


def test_a_gripper_without_linkage_is_bounded_by_its_palm_alone() -> None:
    profile = load_robot("franka_panda")
    hand = measure_hand(Kinematics(profile), profile)
    assert hand.linkage_m == ()
    assert hand.free_m(0.01) == hand.free_m(0.08) == hand.palm_m
