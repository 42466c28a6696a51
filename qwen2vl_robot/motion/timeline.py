"""Paths, lines and gripper movements in their order → the segments of one `Motion`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.guarded import SPEED_MPS, Guarded
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, RobotState, Segment
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.path import Space
from qwen2vl_robot.motion.timing import time_curve, time_stops

_TRAVEL_MARGINS_M = (0.012, 0.005, 0.002)  # wide first, smaller where the scene is tight
_SETTLE_S = 0.4  # extra time for the fingers to settle
_SAME_WIDTH_M = 0.002
_HOLD_STEP_S = 0.01
_PACING, _PACE = 8, 0.98  # times that a slow descent is timed anew, and the share of its speed that it aims at

PathFinder = Callable[[Space, Array, Array], list[Array]]


class MotionBuilder:
    """Collects the segments of one motion, from a start state on.

    Attributes:
        q_rad: joints (n,) reached so far.
        width_m: expected opening of the fingers by now.
    """

    def __init__(self, profile: RobotProfile, state: RobotState) -> None:
        self._profile = profile
        self._segments: list[Segment] = []
        self._guarded: Guarded | None = None
        self.q_rad = np.array(state.q_rad)
        self.width_m = state.gripper_width_m

    @property
    def _now_s(self) -> float:
        return self._segments[-1].end_s if self._segments else 0.0

    def travel(self, model: CollisionModel, goal_rad: Array, find_path: PathFinder) -> None:
        """Move to joints (n,) with the widest margin for which `find_path` finds a path.

        Raises:
            MotionError: there is no path even with the smallest margin.
        """
        for margin_m in _TRAVEL_MARGINS_M:
            try:
                waypoints = find_path(Space(model, self.width_m, margin_m), self.q_rad, goal_rad)
                break
            except MotionError:
                if margin_m == _TRAVEL_MARGINS_M[-1]:
                    raise
        self._segments += time_stops(waypoints, self._profile, self._now_s)
        self.q_rad = goal_rad

    def follow(self, points_rad: Array, speed_ratio: float) -> None:
        """Follow dense joints (m, n) that begin where the arm is; `speed_ratio`: share of the limits to use."""
        self._segments.append(time_curve(points_rad, self._profile, self._now_s, speed_ratio))
        self.q_rad = points_rad[-1]

    def descend_guarded(self, points_rad: Array, kinematics: Kinematics, enters_m: float) -> None:
        """Follow dense joints (m, n) straight down, so slowly that a contact can be felt in time.

        Args:
            enters_m: the tool's height from which on fingers may be in room that no camera has seen.
        """
        ratio, tops = 1.0, 0.0
        for _ in range(_PACING):
            segment = time_curve(points_rad, self._profile, self._now_s, ratio)
            p_m = np.array([kinematics.tool_pose(q)[:3, 3] for q in segment.q_rad])
            tops = float((np.linalg.norm(np.diff(p_m, axis=0), axis=1) / np.diff(segment.time_s)).max())
            if tops <= SPEED_MPS:
                break
            ratio *= _PACE * SPEED_MPS / tops
        height_m = np.minimum.accumulate(p_m[:, 2])
        since_s = float(segment.time_s[int(np.argmax(height_m <= enters_m))])
        self._guarded = Guarded(len(self._segments), since_s, read_only(height_m))
        self._segments.append(segment)
        self.q_rad = points_rad[-1]

    def open_to(self, width_m: float) -> None:
        """Move the fingers to an opening, unless they are there already."""
        if abs(width_m - self.width_m) > _SAME_WIDTH_M:
            self._grip(width_m, width_m)

    def close_on(self, width_m: float) -> None:
        """Close the fingers on an object of this width (0 for no object)."""
        self._grip(0.0, width_m)

    def hold(self, seconds: float) -> None:
        """Keep the arm still."""
        count = max(int(np.ceil(seconds / _HOLD_STEP_S)), 1)
        times_s = self._now_s + seconds * np.arange(count + 1) / count
        self._segments.append(JointSegment(read_only(times_s), read_only(np.tile(self.q_rad, (count + 1, 1)))))

    def motion(self, effect: Effect) -> Motion:
        """Return the motion built so far."""
        return Motion(self._profile.name, tuple(self._segments), effect, self._guarded)

    def _grip(self, command_m: float, expected_m: float) -> None:
        seconds = abs(expected_m - self.width_m) / self._profile.gripper.speed_mps + _SETTLE_S
        self._segments.append(GripperSegment(self._now_s, self._now_s + seconds, command_m, expected_m))
        self.width_m = expected_m
