"""Ways, lines and grips in the order of doing them → the segments of one `Motion`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, RobotState, Segment
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.path import Space
from qwen2vl_robot.motion.timing import time_curve, time_stops

_TRAVEL_MARGINS_M = (0.012, 0.005, 0.002)  # wide first; less where the scene leaves no more room
_SETTLE_S = 0.4  # for the fingers, after the time their way takes
_SAME_WIDTH_M = 0.002
_HOLD_STEP_S = 0.01

Way = Callable[[Space, Array, Array], list[Array]]


class Timeline:
    """Collects segments from a start state on.

    Attributes:
        q_rad: joints (n,) reached so far.
        width_m: opening of the fingers as it is expected to be by now.
    """

    def __init__(self, profile: RobotProfile, state: RobotState) -> None:
        self._profile = profile
        self._segments: list[Segment] = []
        self.q_rad = np.array(state.q_rad)
        self.width_m = state.gripper_width_m

    @property
    def _now_s(self) -> float:
        return self._segments[-1].end_s if self._segments else 0.0

    def travel(self, model: CollisionModel, goal_rad: Array, way: Way) -> None:
        """Go to joints (n,) with the widest clearance that `way` finds.

        Raises:
            MotionError: there is no way even with the smallest clearance.
        """
        for margin_m in _TRAVEL_MARGINS_M:
            try:
                waypoints = way(Space(model, self.width_m, margin_m), self.q_rad, goal_rad)
                break
            except MotionError:
                if margin_m == _TRAVEL_MARGINS_M[-1]:
                    raise
        self._segments += time_stops(waypoints, self._profile, self._now_s)
        self.q_rad = goal_rad

    def follow(self, points_rad: Array, speed_ratio: float) -> None:
        """Follow dense joints (m, n) from where the arm is."""
        self._segments.append(time_curve(points_rad, self._profile, self._now_s, speed_ratio))
        self.q_rad = points_rad[-1]

    def open_to(self, width_m: float) -> None:
        """Bring the fingers to an opening; nothing when they are there."""
        if abs(width_m - self.width_m) > _SAME_WIDTH_M:
            self._grip(width_m, width_m)

    def close_on(self, width_m: float) -> None:
        """Close on an object of this width (0 when there is none)."""
        self._grip(0.0, width_m)

    def hold(self, seconds: float) -> None:
        """Stand still."""
        count = max(int(np.ceil(seconds / _HOLD_STEP_S)), 1)
        times_s = self._now_s + seconds * np.arange(count + 1) / count
        self._segments.append(JointSegment(read_only(times_s), read_only(np.tile(self.q_rad, (count + 1, 1)))))

    def motion(self, effect: Effect) -> Motion:
        """The motion so far."""
        return Motion(self._profile.name, tuple(self._segments), effect)

    def _grip(self, command_m: float, expected_m: float) -> None:
        seconds = abs(expected_m - self.width_m) / self._profile.gripper.speed_mps + _SETTLE_S
        self._segments.append(GripperSegment(self._now_s, self._now_s + seconds, command_m))
        self.width_m = expected_m
