"""Random arm poses near bodies of every shape → how far Bullet and coal disagree on distances.

Bullet enlarges the hull of a mesh by its collision margin, 1 mm for meshes from a URDF. coal measures twice: with hulls
enlarged by the margin that Bullet reports for each link, and with the hulls as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen2vl_robot.benchmarks.hazards.oracle import PathOracle
from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Container, Cylinder, SceneObject, Sphere

_NEAR_M = 0.08  # larger distances do not matter
_DEEP_M = 0.02  # the depth of a deeper overlap is a matter of definition
_ABOUT_M = 0.15  # the bodies' distance from the tool
_SPREAD_RAD = 1.0  # about home
_BODIES = (
    SceneObject("box", Box((0.1, 0.08, 0.3)), np.eye(4)),
    SceneObject("cylinder", Cylinder(0.08, 0.3), np.eye(4)),
    SceneObject("ball", Sphere(0.1), np.eye(4)),
    SceneObject("container", Container((0.15, 0.15, 0.06), 0.006), np.eye(4)),
)


def disagreements_m(profile: RobotProfile, configurations: int, seed: int) -> tuple[list[float], list[float]]:
    """Compute the twin's minus the oracle's distance for each body near the arm; negative is on the safe side.

    Returns:
        The differences on the same geometry, and with the oracle's hulls not enlarged.
    """
    kinematics, rng = Kinematics(profile), np.random.default_rng(seed)
    home, width_m = np.array(profile.home_q_rad), profile.gripper.max_width_m
    same_m: list[float] = []
    bare_m: list[float] = []
    with robot_on_table(profile) as world:
        rounding_m = world.robot.rounding_m()
        for body in _BODIES:
            world.add_body(body.name, body.shape, body.T_base_object, mass_kg=0.0)
        for _ in range(configurations):
            q_rad = np.clip(
                home + rng.uniform(-_SPREAD_RAD, _SPREAD_RAD, len(home)), kinematics.lower_rad, kinematics.upper_rad
            )
            world.robot.reset_arm(q_rad, width_m)
            bare = PathOracle(kinematics, q_rad[None], width_m)
            same = PathOracle(kinematics, q_rad[None], width_m, rounding_m=rounding_m)
            for body in _BODIES:
                T = make_pose(bare.tool_m[0] + rng.uniform(-_ABOUT_M, _ABOUT_M, 3), rotation_z(rng.uniform(0.0, np.pi)))
                world.set_pose(body.name, T)
                placed = replace(body, T_base_object=T)
                expected_m = bare.clearance_m(placed)
                if -_DEEP_M < expected_m < _NEAR_M - 0.002:
                    measured_m = world.contacts.clearance_m(body.name, None, _NEAR_M)
                    same_m.append(measured_m - same.clearance_m(placed))
                    bare_m.append(measured_m - expected_m)
    return same_m, bare_m
