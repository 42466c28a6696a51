"""A camera and joints → how much of the arm it would see there, and how well that would tell where the camera is."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import CameraFrame, RobotState
from qwen2vl_robot.perception.camera_check import front_of, thin, work_area_m
from qwen2vl_robot.perception.camera_doubt import covariance_of, how_sure, pulls_of
from qwen2vl_robot.perception.surfaces import surfaces_of

_DEPTH_M = 0.0015  # by which a patch of depth errs as a whole; it ranks poses, nothing is decided by it


def foresee(frame: CameraFrame, kinematics: Kinematics, state: RobotState) -> tuple[int, float]:
    """Predict the pixels of the arm at a state, and the standard deviation at the work place of a check there, m.

    Nothing but the arm itself is taken to hide it, and all of it to have depth. Where nothing shows the second is inf.
    """
    points_m, normals = surfaces_of(kinematics).at(kinematics, state)
    front = front_of(frame.T_base_camera, frame.intrinsics, points_m, normals)
    if not len(front.index):
        return front.px, np.inf
    shown = thin(front.index)
    p_m, n = points_m[shown], normals[shown]
    J = pulls_of(n, p_m - p_m.mean(axis=0))
    pixels = thin(front.pixels)
    covariance = covariance_of(J.T @ J + 1e-9 * np.eye(3), J * _DEPTH_M, np.zeros_like(J), pixels, np.zeros((3, 3)))
    return front.px, how_sure(covariance, work_area_m(kinematics.profile).mean(axis=0) - p_m.mean(axis=0))[1]
