"""Trajectory points → where a joint trajectory controller puts the joints at each time.

Only the plant uses it. It follows ros2_control's joint_trajectory_controller (`interpolate_between_points`): linear
between two points with positions only, cubic with velocities, quintic with accelerations too. The executor has its own
interpolation: a checker that shares the code it checks shares its bugs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.polynomial.polynomial import polyder, polyval

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import JointSegment, Motion


class Trajectory:
    """Points over time after a start; before the start and after the last point the joints hold.

    Args:
        start_q_rad: (n,) joint positions at time 0.
        start_dq_radps: (n,) joint velocities at time 0; at rest by default.
        time_s: (k,) times of the points, never falling; a point at 0 or before it replaces the start.
        q_rad: (k, n).
        dq_radps, ddq_radps2: (k, n), NaN for points without them; None if no point has them.
    """

    def __init__(
        self,
        start_q_rad: npt.ArrayLike,
        time_s: npt.ArrayLike,
        q_rad: npt.ArrayLike,
        dq_radps: npt.ArrayLike | None = None,
        ddq_radps2: npt.ArrayLike | None = None,
        *,
        start_dq_radps: npt.ArrayLike | None = None,
    ) -> None:
        start_rad, points_rad = np.asarray(start_q_rad, dtype=np.float64), np.asarray(q_rad, dtype=np.float64)
        points_rad = points_rad.reshape(-1, len(start_rad))
        absent = np.full_like(points_rad, np.nan)
        at_rest = np.zeros((1, len(start_rad)))
        start = at_rest if start_dq_radps is None else np.asarray(start_dq_radps, dtype=np.float64)[None, :]
        times_s = np.asarray(time_s, dtype=np.float64)
        self._time_s = np.concatenate([[min([0.0, *times_s[:1]])], times_s])
        self._q_rad = np.concatenate([start_rad[None, :], points_rad])
        self._dq_radps = np.concatenate([start, absent if dq_radps is None else np.asarray(dq_radps)])
        self._ddq_radps2 = np.concatenate([at_rest, absent if ddq_radps2 is None else np.asarray(ddq_radps2)])

    @classmethod
    def of_motion(cls, motion: Motion, start_q_rad: Array) -> Trajectory:
        """Join the joint segments of a motion; they carry positions only, and between them the joints hold."""
        pieces = [s for s in motion.segments if isinstance(s, JointSegment)]
        time_s = np.concatenate([np.zeros(0), *(s.time_s for s in pieces)])
        return cls(start_q_rad, time_s, np.concatenate([np.zeros((0, len(start_q_rad))), *(s.q_rad for s in pieces)]))

    def at(self, time_s: float) -> tuple[Array, Array]:
        """Return positions (n,) rad and velocities (n,) rad/s at a time since the start."""
        b = int(np.searchsorted(self._time_s, time_s, side="right"))
        if b == 0 or b == len(self._time_s):
            q_rad = self._q_rad[0 if b == 0 else -1]
            return q_rad, np.zeros_like(q_rad)
        span_s = float(self._time_s[b] - self._time_s[b - 1])
        share = (time_s - float(self._time_s[b - 1])) / span_s
        coefficients = self._coefficients(b - 1, b, span_s)
        return np.asarray(polyval(share, coefficients)), np.asarray(polyval(share, polyder(coefficients))) / span_s

    def _coefficients(self, a: int, b: int, span_s: float) -> Array:
        """Return the coefficients (d + 1, n) of the polynomial from point a to b over 0..1, the constant first."""
        start, way = self._q_rad[a], self._q_rad[b] - self._q_rad[a]
        v0, v1 = self._dq_radps[a] * span_s, self._dq_radps[b] * span_s
        a0, a1 = self._ddq_radps2[a] * span_s**2, self._ddq_radps2[b] * span_s**2
        if np.isnan([v0, v1]).any():
            return np.array([start, way])
        if np.isnan([a0, a1]).any():
            return np.array([start, v0, 3.0 * way - 2.0 * v0 - v1, -2.0 * way + v0 + v1])
        return np.array(
            [
                start,
                v0,
                0.5 * a0,
                10.0 * way - 6.0 * v0 - 4.0 * v1 - 1.5 * a0 + 0.5 * a1,
                -15.0 * way + 8.0 * v0 + 7.0 * v1 + 1.5 * a0 - a1,
                6.0 * way - 3.0 * v0 - 3.0 * v1 - 0.5 * a0 + 0.5 * a1,
            ]
        )
