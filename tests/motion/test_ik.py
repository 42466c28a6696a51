"""Inverse kinematics: exact where the arm reaches, a clear refusal where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.grasps import downward

KINEMATICS = Kinematics(load_robot("franka_panda"))
HOME = np.array(KINEMATICS.profile.home_q_rad)


@settings(deadline=None, max_examples=60)
@given(x=st.floats(0.33, 0.7), y=st.floats(-0.3, 0.3), z=st.floats(0.01, 0.25), yaw_rad=st.floats(-np.pi, 0.0))
def test_every_downward_pose_over_the_table_is_met_within_the_limits(
    x: float, y: float, z: float, yaw_rad: float
) -> None:
    goal = downward(np.array([x, y, z]), yaw_rad, "y")
    q = ik.solve(KINEMATICS, goal, [HOME], posture_rad=HOME)
    reached = KINEMATICS.tool_pose(q)
    assert np.linalg.norm(reached[:3, 3] - goal[:3, 3]) <= 5e-4
    cosine = (np.trace(reached[:3, :3].T @ goal[:3, :3]) - 1) / 2
    assert np.arccos(np.clip(cosine, -1, 1)) <= np.deg2rad(0.5)
    assert np.all(q > KINEMATICS.lower_rad)
    assert np.all(q < KINEMATICS.upper_rad)


def test_the_same_pose_gives_the_same_joints() -> None:
    goal = downward(np.array([0.5, 0.1, 0.1]), -1.0, "y")
    first, second = (ik.solve(KINEMATICS, goal, [HOME], posture_rad=HOME) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_pose_out_of_reach_is_refused_with_the_distances() -> None:
    with pytest.raises(MotionError, match=r"\(1.200, 0.000, 0.100\) m, 1.200 m from .* missed by \d+") as caught:
        ik.solve(KINEMATICS, downward(np.array([1.2, 0.0, 0.1]), 0.0, "y"), [HOME], posture_rad=HOME)
    assert caught.value.reason == "out_of_reach"


def test_a_pose_that_is_not_finite_is_refused() -> None:
    with pytest.raises((MotionError, ValueError)):
        ik.solve(KINEMATICS, make_pose([np.nan, 0.0, 0.1]), [HOME], posture_rad=HOME)
