"""A robot's name → what the page draws of it: its links as hulls, and where they are at given joints."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import numpy as np

from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph.conversions import state_from_joints
from qwen2vl_robot.kinematics import Kinematics, hull_triangles
from qwen2vl_robot.nodes.rehearsal_report import MotionReport
from qwen2vl_robot.resources import data_root


class RobotBody:
    """One robot to draw. Thread-safe.

    Attributes:
        links: the drawn links, in the order of every pose below.
        mesh_json: {"links": [[x, y, z, ...], ...]}: nine numbers a triangle, link frame, metres.
    """

    def __init__(self, profile: RobotProfile) -> None:
        self._profile, self._kinematics, self._lock = profile, Kinematics(profile), threading.Lock()
        hulls = self._kinematics.link_hulls
        self.links = tuple(hulls)
        corners = [np.round(hull_triangles(np.asarray(points_m)), 4).ravel().tolist() for points_m in hulls.values()]
        self.mesh_json = json.dumps({"links": corners}, separators=(",", ":"))

    def poses(self, positions: Mapping[str, tuple[float, float]]) -> list[list[float]] | None:
        """Where each link is: rows of `T_base_link` (12 numbers); None where a joint is missing.

        Args:
            positions: joint name → (position, velocity), rad and rad/s (fingers m and m/s).
        """
        try:
            state = state_from_joints(dict(positions), self._profile, 0)
        except ObservationError:
            return None
        return self._poses(state.q_rad, state.gripper_width_m)

    def motion_poses(self, motion: MotionReport, width_m: float) -> list[list[list[float]]] | None:
        """The same at each sample of a motion; None where it is not one of this robot.

        Args:
            width_m: the gripper's opening before its first command.
        """
        if any(len(q) != self._kinematics.dof for q in motion.q_rad) or len(motion.q_rad) != len(motion.width_m):
            return None
        widths_m = [width_m if width is None else width for width in motion.width_m]
        return [self._poses(np.array(q), width) for q, width in zip(motion.q_rad, widths_m, strict=True)]

    def _poses(self, q_rad: Array, width_m: float) -> list[list[float]]:
        with self._lock:
            poses = self._kinematics.link_poses(q_rad, width_m)
        return [np.round(poses[link][:3], 4).ravel().tolist() for link in self.links]


def load_body(name: str) -> RobotBody | None:
    """Load a robot of sim/robots; None for any other name: what the graph says opens no files of its choice."""
    shipped = {path.parent.name for path in (data_root() / "sim" / "robots").glob("*/robot.yaml")}
    if name not in shipped:
        return None
    try:
        return RobotBody(load_robot(name))
    except BadInputError:  # its URDF is robot_description, or not installed
        return None
