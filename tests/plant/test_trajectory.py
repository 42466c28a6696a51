"""The plant interpolates between points like a joint trajectory controller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, freeze
from qwen2vl_robot.plant.trajectory import Trajectory
from tests.cells import PROFILE

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Points = tuple[Numbers, Numbers, Numbers]


@st.composite
def points(draw: st.DrawFn) -> Points:
    """Draw a start (n,), rising times (k,) above 0 and positions (k, n)."""
    k, n = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    spans_s = draw(arrays(np.float64, k, elements=st.floats(0.01, 5.0)))
    q_rad = draw(arrays(np.float64, (k + 1, n), elements=st.floats(-3.0, 3.0)))
    return q_rad[0], np.cumsum(spans_s), q_rad[1:]


def derivatives(draw: st.DataObject, like: Numbers) -> Numbers:
    """Draw as many numbers as `like` has, the last ones 0: a trajectory ends at rest."""
    values: Numbers = draw.draw(arrays(np.float64, like.shape, elements=st.floats(-2.0, 2.0)))
    values[-1] = 0.0
    return values


@given(points(), st.integers(0, 2), st.data())
def test_it_passes_through_its_points(drawn: Points, order: int, data: st.DataObject) -> None:
    start, time_s, q_rad = drawn
    carried = [derivatives(data, q_rad) for _ in range(order)]
    track = Trajectory(start, time_s, q_rad, *carried)
    assert np.allclose(track.at(0.0)[0], start)
    for i, at_s in enumerate(time_s):
        for near_s in (at_s, np.nextafter(at_s, 0.0)):  # from both sides
            q, dq = track.at(float(near_s))
            assert np.allclose(q, q_rad[i], atol=1e-9)
            if order:
                assert np.allclose(dq, carried[0][i], atol=1e-6)


@given(points(), st.floats(0.0, 100.0))
def test_it_holds_before_the_start_and_after_the_end(drawn: Points, away_s: float) -> None:
    start, time_s, q_rad = drawn
    track = Trajectory(start, time_s, q_rad)
    for at_s, held in ((-1e-9 - away_s, start), (time_s[-1] + away_s, q_rad[-1])):
        q, dq = track.at(float(at_s))
        assert np.array_equal(q, held)
        assert not dq.any()


@given(points(), st.floats(0.0, 1.0))
def test_positions_alone_are_never_overshot(drawn: Points, share: float) -> None:
    start, time_s, q_rad = drawn
    track, known = Trajectory(start, time_s, q_rad), np.vstack([start, q_rad])
    at_s = share * time_s[-1]
    i = min(int(np.searchsorted(time_s, at_s, side="right")), len(time_s) - 1)
    q, _ = track.at(float(at_s))
    assert (q >= np.minimum(known[i], known[i + 1]) - 1e-12).all()
    assert (q <= np.maximum(known[i], known[i + 1]) + 1e-12).all()


@given(points(), st.integers(0, 2), st.floats(0.0, 1.0), st.data())
def test_the_velocity_is_the_slope_of_the_positions(
    drawn: Points, order: int, share: float, data: st.DataObject
) -> None:
    start, time_s, q_rad = drawn
    track = Trajectory(start, time_s, q_rad, *(derivatives(data, q_rad) for _ in range(order)))
    span_s = time_s[0]
    at_s = float((0.01 + 0.98 * share) * span_s)  # within the first piece, away from its corners
    step_s = 1e-4 * float(span_s)
    slope = (track.at(at_s + step_s)[0] - track.at(at_s - step_s)[0]) / (2 * step_s)
    assert np.allclose(track.at(at_s)[1], slope, rtol=1e-3, atol=1e-2)


def test_a_quintic_keeps_the_accelerations_of_its_points() -> None:
    track = Trajectory([0.0], [0.0, 2.0], [[0.0], [1.0]], [[0.1], [0.0]], [[0.3], [-0.2]])
    step_s = 1e-5
    assert (track.at(step_s)[1] - track.at(0.0)[1]) / step_s == pytest.approx(0.3, abs=1e-3)
    assert (track.at(2.0 - step_s)[1] - track.at(2.0 - 2 * step_s)[1]) / step_s == pytest.approx(-0.2, abs=1e-3)


def test_between_points_with_and_without_velocity_it_is_linear() -> None:
    track = Trajectory([0.0], [0.0, 1.0, 2.0], [[0.0], [1.0], [2.0]], [[np.nan], [3.0], [0.0]])
    assert track.at(0.25)[0] == pytest.approx(0.25)
    assert track.at(1.25)[0] > 1.25  # two points with velocities: a cubic


def test_a_motion_holds_while_the_gripper_moves() -> None:
    a, b, c = np.zeros(7), np.full(7, 0.2), np.full(7, -0.1)
    first = JointSegment(freeze([0.0, 1.0]), freeze([a, b]))
    second = JointSegment(freeze([2.0, 3.0]), freeze([b, c]))
    motion = Motion(PROFILE.name, (first, GripperSegment(1.0, 2.0, 0.0), second), Effect("none"))
    track = Trajectory.of_motion(motion, a)
    assert np.allclose(track.at(0.5)[0], 0.1)
    for at_s in (1.0, 1.5, 1.99):
        assert np.allclose(track.at(at_s)[0], b)
    assert not track.at(1.5)[1].any()
    assert np.allclose(track.at(2.5)[0], 0.05)


def test_a_motion_of_the_gripper_alone_leaves_the_joints_where_they_are() -> None:
    track = Trajectory.of_motion(Motion(PROFILE.name, (GripperSegment(0.0, 1.0, 0.0),), Effect("none")), np.ones(7))
    assert np.array_equal(track.at(0.5)[0], np.ones(7))
