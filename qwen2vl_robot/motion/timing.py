"""Joint waypoints → timed joint segments within velocity, acceleration and jerk limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ruckig

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.messages import JointSegment

SPEED_RATIO = 0.6  # of every limit: leaves room for tracking errors and looks calm
_PERIOD_S = 0.01
_SAME_RAD = 1e-7  # waypoints closer than this are equal
_CHECKS_PER_PIECE = 8  # samples per spline piece when bounding its first and second derivative


def time_stops(
    waypoints_rad: Sequence[Array], profile: RobotProfile, start_s: float, speed_ratio: float = SPEED_RATIO
) -> tuple[JointSegment, ...]:
    """Time straight joint-space pieces between waypoints (n,), at rest at each, so that the checked path is kept.

    Repeated waypoints are dropped; if nothing moves, there are no segments.
    """
    segments: list[JointSegment] = []
    for a, b in zip(waypoints_rad, waypoints_rad[1:], strict=False):
        if np.abs(b - a).max() > _SAME_RAD:
            segments.append(time_curve(np.stack([a, b]), profile, start_s, speed_ratio))
            start_s = segments[-1].end_s
    return tuple(segments)


def time_curve(
    points_rad: Array, profile: RobotProfile, start_s: float, speed_ratio: float = SPEED_RATIO
) -> JointSegment:
    """Time one smooth curve close to dense, evenly spaced points (m, n), at rest at both ends.

    The curve is a uniform cubic B-spline over the points; two points give the straight line between them.

    Args:
        speed_ratio: share of every limit of the profile that may be used.

    Raises:
        ValueError: there are fewer than two different points.
    """
    if len(points_rad) < 2 or float(np.abs(np.diff(points_rad, axis=0)).max()) <= _SAME_RAD:
        raise ValueError(f"{len(points_rad)} points that do not differ make no curve")
    curve = _Spline(points_rad)
    limits = _limits(profile) * speed_ratio
    bounds = _first_bounds(curve, limits)
    progress = _Progress(curve.length, bounds)
    while (excess := _excess(curve, progress, limits)) > 1.0:
        stretch = 1.001 * excess
        bounds = bounds / np.array([stretch, stretch**2, stretch**3])
        progress = _Progress(curve.length, bounds)
    count = max(int(np.ceil(progress.duration_s / _PERIOD_S)), 2)
    q_rad = curve.at(progress.sample(count)[0])
    q_rad[[0, -1]] = points_rad[[0, -1]]  # to the last bit: segments must join
    return JointSegment(read_only(start_s + progress.duration_s * np.arange(count + 1) / count), read_only(q_rad))


class _Spline:
    """Uniform cubic B-spline whose ends pass through the first and last point; parameter 0 to `length`."""

    def __init__(self, points_rad: Array) -> None:
        first, last = 2 * points_rad[0] - points_rad[1], 2 * points_rad[-1] - points_rad[-2]
        self._control = np.vstack([first, points_rad, last])
        self.length = len(points_rad) - 1.0

    def at(self, s: Array, order: int = 0) -> Array:
        """Evaluate the derivative of order 0 to 3 at parameters (k,); returns (k, n)."""
        index = np.clip(s.astype(int), 0, len(self._control) - 4)
        t = s - index
        powers = np.stack([np.prod([k - i for i in range(order)]) * t ** max(k - order, 0) for k in range(4)])
        weights = _BASIS @ powers
        values: Array = np.einsum("wk,wkn->kn", weights, np.stack([self._control[index + i] for i in range(4)]))
        return values


# Row i: coefficients of 1, t, t^2, t^3 in the weight of control point i (de Boor's uniform cubic basis).
_BASIS = np.array([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]], dtype=np.float64) / 6


class _Progress:
    """The parameter over time, by ruckig: from 0 to `length`, at rest at both ends."""

    def __init__(self, length: float, bounds: Array) -> None:
        given = ruckig.InputParameter(1)
        given.current_position, given.target_position = [0.0], [length]
        given.max_velocity, given.max_acceleration, given.max_jerk = ([float(b)] for b in bounds)
        self._trajectory = ruckig.Trajectory(1)
        result = ruckig.Ruckig(1).calculate(given, self._trajectory)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise ValueError(f"no timing of a length {length} within {bounds.tolist()}: {result}")
        self._length = length
        self.duration_s: float = self._trajectory.duration
        self.jerk = float(bounds[2])

    def sample(self, count: int) -> tuple[Array, Array, Array]:
        """Sample parameter, velocity and acceleration at `count` + 1 evenly spaced times, with an exact end."""
        times_s = self.duration_s * np.arange(count + 1) / count
        states = np.array([self._trajectory.at_time(t) for t in times_s])[:, :, 0]
        states[-1] = [self._length, 0.0, 0.0]
        return np.clip(states[:, 0], 0.0, self._length), states[:, 1], states[:, 2]


def _limits(profile: RobotProfile) -> Array:
    """Collect velocity, acceleration and jerk limits (3, n) of the joints."""
    return np.array([[j.velocity_radps, j.acceleration_radps2, j.jerk_radps3] for j in profile.joints]).T


def _first_bounds(curve: _Spline, limits: Array) -> Array:
    """Bound velocity, acceleration and jerk (3,) of the parameter: exact for a line, an estimate for a curve."""
    s = np.linspace(0.0, curve.length, int(curve.length) * _CHECKS_PER_PIECE + 1)
    slope, bend = (np.maximum(np.abs(curve.at(s, order)).max(axis=0), 1e-12) for order in (1, 2))
    velocity, acceleration, jerk = ((limit / slope).min() for limit in limits)
    if bend.max() > 1e-9:
        velocity = min(velocity, float(np.sqrt(limits[1] / 2 / bend).min()))
        acceleration, jerk = acceleration / 2, jerk / 2
    return np.array([velocity, acceleration, jerk])


def _excess(curve: _Spline, progress: _Progress, limits: Array) -> float:
    """Compute the factor by which time must stretch to keep every joint's limits; at most 1 if it keeps them."""
    s, ds, dds = progress.sample(max(int(progress.duration_s / _PERIOD_S * 2), 20))
    d1, d2, d3 = (np.abs(curve.at(s, order)) for order in (1, 2, 3))
    ds, dds = np.abs(ds)[:, None], np.abs(dds)[:, None]
    used = (d1 * ds, d2 * ds**2 + d1 * dds, d3 * ds**3 + 3 * d2 * ds * dds + d1 * progress.jerk)
    ratios = [float((u.max(axis=0) / limit).max()) for u, limit in zip(used, limits, strict=True)]
    return max(ratios[0], float(np.sqrt(ratios[1])), float(np.cbrt(ratios[2]))) - 1e-9
