"""Timing: the limits hold for any waypoints, rest to rest, and a straight path takes no longer than needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import JointSegment
from qwen2vl_robot.motion.timing import SPEED_RATIO, time_curve, time_stops

PROFILE = load_robot("franka_panda")
LIMITS = np.array([[j.velocity_radps, j.acceleration_radps2, j.jerk_radps3] for j in PROFILE.joints]).T
LOWER = np.array([j.lower_rad for j in PROFILE.joints])
UPPER = np.array([j.upper_rad for j in PROFILE.joints])


def used_ratios(segment: JointSegment) -> list[float]:
    """Largest share of the velocity, acceleration and jerk limits, by finite differences with rest at both ends."""
    step_s = float(segment.time_s[1] - segment.time_s[0])
    rest = 3
    values = np.vstack([segment.q_rad[:1]] * rest + [segment.q_rad] + [segment.q_rad[-1:]] * rest)
    ratios = []
    for limit in LIMITS:
        values = np.diff(values, axis=0) / step_s
        ratios.append(float((np.abs(values) / limit).max()))
    return ratios


def draw_points(seed: int, count: int, spread: float) -> Array:
    """Random waypoints inside the joint limits: far apart with spread 1, nearly a line with a small one."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, spread, (count, len(LOWER))) * (UPPER - LOWER) / 2
    return np.clip((LOWER + UPPER) / 2 + np.cumsum(steps, axis=0), LOWER, UPPER)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), spread=st.sampled_from([0.002, 0.02, 0.3, 1.0]))
def test_a_curve_keeps_every_limit_and_ends_at_its_points(seed: int, count: int, spread: float) -> None:
    points = draw_points(seed, count, spread)
    segment = time_curve(points, PROFILE, 2.0)
    assert max(used_ratios(segment)) <= SPEED_RATIO + 1e-3
    assert np.array_equal(segment.q_rad[[0, -1]], points[[0, -1]])
    steps_s = np.diff(segment.time_s)
    assert segment.start_s == 2.0
    assert steps_s.max() <= 0.01 + 1e-9
    assert steps_s.min() > 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 6))
def test_stops_keep_every_limit_and_stay_on_the_straight_pieces(seed: int, count: int) -> None:
    points = draw_points(seed, count, 0.3)
    segments = time_stops(list(points), PROFILE, 0.0)
    end_s = 0.0
    for segment, a, b in zip(segments, points, points[1:], strict=False):
        assert max(used_ratios(segment)) <= SPEED_RATIO + 1e-3
        assert segment.start_s == end_s
        end_s = segment.end_s
        joint = int(np.abs(b - a).argmax())
        share = (segment.q_rad[:, joint] - a[joint]) / (b[joint] - a[joint])
        np.testing.assert_allclose(segment.q_rad, a + share[:, None] * (b - a), atol=1e-9)


def test_a_long_straight_way_uses_the_speed_it_may() -> None:
    segment = time_curve(np.stack([LOWER, UPPER]) * 0.8, PROFILE, 0.0)
    assert used_ratios(segment)[0] == pytest.approx(SPEED_RATIO, rel=1e-3)
    assert used_ratios(segment)[1] == pytest.approx(SPEED_RATIO, rel=1e-2)


def test_waypoints_that_repeat_give_no_segment() -> None:
    point = (LOWER + UPPER) / 2
    assert time_stops([point, point, point], PROFILE, 0.0) == ()


def test_a_curve_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 points that do not differ"):
        time_curve(np.zeros((2, 7)), PROFILE, 0.0)
