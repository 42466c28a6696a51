"""Measured torques of the joints on a guarded segment → a contact, with its force and height.

No model of the arm is needed. The torques times what the joints turn for each metre of the way are the force that the
arm works against, by virtual work: on the way down mostly its own weight. How that changes with the height, the last
two centimetres of the way show, the first of them through room that was seen; what deviates from them is a contact.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from qwen2vl_robot.messages import Cause, Motion, RobotState
from qwen2vl_robot.reasons import AbortReason
from qwen2vl_robot.retreat import guarded_segment

FELT_N = 8.0  # a deviation of this much is a contact; without one it stays below 3 N (docs/validation.md)
_LEAST_STATES = 20  # before the fingers are in unseen room, which takes more than a second
_AROUND = 25  # points before and after, together a few millimetres of the way
_LEAST_M = 1e-4
_QUIET_N = 3.0  # of a deviation: so much comes without a contact, and shows how the weight goes on changing
_WINDOW_M = 0.02  # of the way: over more of it the weight changes along no line


class Feeling:
    """Feels along one motion; of one without a guarded segment it says nothing.

    Raises:
        ExecutionError: what the motion says is guarded is no joint segment.
    """

    def __init__(self, motion: Motion) -> None:
        self._guarded, self._segment = motion.guarded, guarded_segment(motion)
        self._free: deque[tuple[float, float]] = deque()  # height and force where nothing was met, the last of the way
        self._stamp_ns = -1
        self.most_n = 0.0

    def feel(self, state: RobotState, since_s: float) -> Cause | None:
        """Take a state at the motion's own time; says why the arm must not go on."""
        guarded, segment = self._guarded, self._segment
        if guarded is None or segment is None or not segment.start_s <= since_s <= segment.end_s:
            return None
        if state.stamp_ns <= self._stamp_ns:
            return None
        self._stamp_ns = state.stamp_ns
        effort_nm = state.effort_nm
        if effort_nm is None or effort_nm.shape != segment.q_rad.shape[1:] or not np.isfinite(effort_nm).all():
            return Cause(AbortReason.NO_EFFORT, "the state has no joint torques, so that no contact could be felt")
        height_m, force_n = self._work_n(effort_nm, since_s)
        if since_s < guarded.since_s and len(self._free) < _LEAST_STATES:
            self._note(height_m, force_n)
            return None
        if len(self._free) < _LEAST_STATES:
            text = f"only {len(self._free)} states show the way down before unseen room; needed {_LEAST_STATES}"
            return Cause(AbortReason.NO_EFFORT, text, (("states", len(self._free)), ("needed", _LEAST_STATES)))
        felt_n = force_n - self._free_n(height_m)
        if since_s < guarded.since_s or abs(felt_n) <= _QUIET_N:
            self._note(height_m, force_n)
        self.most_n = max(self.most_n, abs(felt_n))
        if abs(felt_n) <= FELT_N:
            return None
        text = f"a finger met something where no camera has looked, with the tool at {height_m:.3f} m: {felt_n:.0f} N"
        numbers = (("force_n", felt_n), ("allowed_n", FELT_N), ("height_m", height_m))
        return Cause(AbortReason.MET_UNSEEN, f"{text}; allowed {FELT_N:g} N", numbers)

    def _note(self, height_m: float, force_n: float) -> None:
        """Take a state in which nothing was met, and leave out those from too far back."""
        self._free.append((height_m, force_n))
        while len(self._free) > _LEAST_STATES and self._free[0][0] >= height_m + _WINDOW_M:
            self._free.popleft()

    def _free_n(self, height_m: float) -> float:
        """Return the force that going down freely takes at a height, by the line through the last of the way."""
        heights_m, forces_n = np.array(self._free).T
        slope, offset = np.polyfit(heights_m, forces_n, 1)
        return float(slope * height_m + offset)

    def _work_n(self, effort_nm: np.ndarray, since_s: float) -> tuple[float, float]:
        """Return the tool's height and the force against which the joints work on the way down."""
        assert self._segment is not None and self._guarded is not None
        time_s, height_m = self._segment.time_s, self._guarded.height_m
        at = int(np.clip(np.searchsorted(time_s, since_s), 1, len(time_s) - 1))
        low, high = max(0, at - _AROUND), min(len(time_s) - 1, at + _AROUND)
        down_m = float(height_m[low] - height_m[high])
        turned_rad = self._segment.q_rad[high] - self._segment.q_rad[low]
        force_n = float(effort_nm @ turned_rad) / max(down_m, _LEAST_M)
        return float(np.interp(since_s, time_s, height_m)), force_n
