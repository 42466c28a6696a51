"""What a driver of an arm checks and knows by itself: whether an approval fits, and whether the fingers have come."""

from __future__ import annotations

from collections import deque

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import ApprovedMotion, JointSegment, Motion, digest

_REACHED_M = 0.002
_STALL_MPS, _STALL_S = 0.001, 0.25  # a joint's own velocity is too noisy to tell: what is squeezed shakes


class Fingers:
    """Fingers on their way to a width: they reach it, or they stall on what is between them."""

    def __init__(self, wanted_m: float, width_m: float, now_s: float) -> None:
        self.wanted_m = wanted_m
        self._widths = deque([(now_s, width_m)])  # of the last `_STALL_S`, and one before
        self.has_reached = self.is_stalled = False

    def look(self, width_m: float, now_s: float) -> None:
        """Take a measured width."""
        self._widths.append((now_s, width_m))
        while self._widths[1][0] <= now_s - _STALL_S:
            self._widths.popleft()
        moved_m = max(abs(width_m - then_m) for _, then_m in self._widths)
        self.has_reached = abs(width_m - self.wanted_m) <= _REACHED_M
        self.is_stalled = now_s - self._widths[0][0] >= _STALL_S and moved_m <= _STALL_MPS * _STALL_S

    @property
    def have_come(self) -> bool:
        return self.has_reached or self.is_stalled


def check_approved(approved: ApprovedMotion, profile: RobotProfile, now_ns: int, q_rad: Array) -> None:
    """Check an approval independently of the gate, as a careful driver does.

    Raises:
        ExecutionError: digest, robot, expiry, start, form or joint limits are wrong.
    """
    motion = approved.motion
    if digest(motion) != approved.digest:
        raise ExecutionError("the motion is not the one that was approved; its digest differs")
    if approved.robot_digest != profile.digest or motion.robot != profile.name:
        raise ExecutionError(f"the motion was approved for another robot ({motion.robot}), this is {profile.name}")
    if now_ns > approved.expires_ns:
        raise ExecutionError(f"the approval expired {(now_ns - approved.expires_ns) / 1e9:.2f} s ago")
    _check_form(motion, profile)
    first = next((s.q_rad[0] for s in motion.segments if isinstance(s, JointSegment)), approved.start_q_rad)
    for what, expected in (("approved start", approved.start_q_rad), ("motion's first point", first)):
        off_rad = float(np.max(np.abs(q_rad - expected)))
        if not off_rad <= profile.start_tolerance_rad:
            raise ExecutionError(
                f"the arm is {off_rad:.4f} rad from the {what}; allowed {profile.start_tolerance_rad} rad"
            )


def _check_form(motion: Motion, profile: RobotProfile) -> None:
    """Check shapes, finiteness, rising times and joint limits.

    Raises:
        ExecutionError: the first thing that is wrong.
    """
    lower = np.array([joint.lower_rad for joint in profile.joints]) - 1e-6
    upper = np.array([joint.upper_rad for joint in profile.joints]) + 1e-6
    end_s = 0.0
    for index, segment in enumerate(motion.segments):
        if isinstance(segment, JointSegment):
            times, q = segment.time_s, segment.q_rad
            if times.ndim != 1 or len(times) == 0 or q.shape != (len(times), len(lower)):
                raise ExecutionError(f"segment {index}: {q.shape} positions for {times.shape} times")
            if not (np.isfinite(times).all() and np.isfinite(q).all() and (np.diff(times) > 0).all()):
                raise ExecutionError(f"segment {index}: times must rise, all numbers must be finite")
            if (q < lower).any() or (q > upper).any():
                raise ExecutionError(f"segment {index}: a joint leaves its limits")
        elif not (np.isfinite([segment.start_s, segment.end_s, segment.width_m]).all()):
            raise ExecutionError(f"segment {index}: the gripper command is not finite")
        if segment.start_s < end_s - 1e-9 or segment.end_s < segment.start_s:
            raise ExecutionError(f"segment {index} starts at {segment.start_s} s, before {end_s} s")
        end_s = segment.end_s
