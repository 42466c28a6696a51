"""Approved motion → execution report, and measured scene → outcome.

`run` sends, watches and aborts; `judge` compares the predicted effect with what was measured and assumes nothing.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import JointSegment, Motion


class JointTrack:
    """Where a motion wants the joints at each of its times: linear between points, at rest elsewhere."""

    def __init__(self, motion: Motion, start_q_rad: Array) -> None:
        pieces = [s for s in motion.segments if isinstance(s, JointSegment)]
        self._time_s = np.concatenate([[0.0], *(s.time_s for s in pieces)])
        self._q_rad = np.concatenate([np.asarray(start_q_rad)[None, :], *(s.q_rad for s in pieces)])

    def at(self, time_s: float) -> tuple[Array, Array]:
        """Positions (n,) rad and velocities (n,) rad/s at a time since the motion's start."""
        after = int(np.searchsorted(self._time_s, time_s, side="right"))
        if after == 0 or after == len(self._time_s):
            q_rad = self._q_rad[0 if after == 0 else -1]
            return q_rad, np.zeros_like(q_rad)
        span_s = self._time_s[after] - self._time_s[after - 1]
        step_rad = self._q_rad[after] - self._q_rad[after - 1]
        share = (time_s - self._time_s[after - 1]) / span_s
        return self._q_rad[after - 1] + share * step_rad, step_rad / span_s
