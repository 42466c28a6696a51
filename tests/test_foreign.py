"""A foreign trajectory is put into the robot's order, or refused with a typed reason and its number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.foreign import CHUNK_S, MAX_POINTS, ForeignTrajectory, from_chunk, motion_of
from qwen2vl_robot.messages import JointSegment, Motion, Refusal, RobotState, digest, freeze
from qwen2vl_robot.reasons import TrajectoryReason
from tests.cells import PROFILE

HOME = np.array(PROFILE.home_q_rad)
NAMES = tuple(joint.name for joint in PROFILE.joints)
START = RobotState(0, freeze(HOME), freeze(np.zeros(7)), 0.08)
TIME_S = np.linspace(0.0, 2.0, 21)


def smooth() -> ForeignTrajectory:
    """As MoveIt gives it: points every 0.1 s with velocities and accelerations."""
    s = TIME_S / 2.0
    way = np.zeros(7)
    way[0] = 0.3
    q_rad = HOME + (s**3 * (10 - 15 * s + 6 * s**2))[:, None] * way
    speed = (30 * s**2 - 60 * s**3 + 30 * s**4)[:, None] * way / 2
    pull = (60 * s - 180 * s**2 + 120 * s**3)[:, None] * way / 4
    return ForeignTrajectory(NAMES, TIME_S, q_rad, speed, pull, PROFILE.base_link)


def changed(row: int, column: int, value: float) -> Any:
    q_rad = np.array(smooth().positions_rad)
    q_rad[row, column] = value
    return q_rad


def moved(by_rad: float) -> Any:
    return np.array(smooth().positions_rad) + by_rad


REFUSED: tuple[tuple[TrajectoryReason, dict[str, Any]], ...] = (
    (TrajectoryReason.JOINTS, {"joint_names": NAMES[:-1]}),
    (TrajectoryReason.JOINTS, {"joint_names": (*NAMES[:-1], NAMES[0])}),
    (TrajectoryReason.JOINTS, {"joint_names": (*NAMES, "panda_finger_joint1")}),
    (TrajectoryReason.JOINTS, {"joint_names": ()}),
    (TrajectoryReason.FRAME, {"frame": "camera_link"}),
    (TrajectoryReason.POINTS, {"time_s": (), "positions_rad": ()}),
    (TrajectoryReason.POINTS, {"positions_rad": np.zeros((21, 6))}),
    (TrajectoryReason.POINTS, {"positions_rad": [[0.0], [0.0, 1.0]]}),
    (TrajectoryReason.POINTS, {"velocities_radps": np.zeros((20, 7))}),
    (TrajectoryReason.POINTS, {"time_s": np.arange(MAX_POINTS + 1), "positions_rad": np.zeros((MAX_POINTS + 1, 7))}),
    (TrajectoryReason.NOT_FINITE, {"positions_rad": changed(3, 2, np.nan)}),
    (TrajectoryReason.NOT_FINITE, {"time_s": [*TIME_S[:-1], np.inf]}),
    (TrajectoryReason.NOT_FINITE, {"accelerations_radps2": np.full((21, 7), np.nan)}),
    (TrajectoryReason.TIMES, {"time_s": TIME_S[::-1]}),
    (TrajectoryReason.TIMES, {"time_s": [0.0, *TIME_S[:-1]]}),
    (TrajectoryReason.TIMES, {"time_s": TIME_S - 0.1}),
    (TrajectoryReason.TOO_LONG, {"time_s": TIME_S * 31}),
    (TrajectoryReason.START, {"positions_rad": moved(0.2)}),
    (TrajectoryReason.NOT_AT_REST, {"velocities_radps": np.full((21, 7), 0.1)}),
)


@pytest.mark.parametrize(("reason", "change"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_no_motion_of_this_robot_is_refused_by_name(reason: TrajectoryReason, change: dict[str, Any]) -> None:
    refusal = motion_of(replace(smooth(), **change), START, PROFILE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert refusal.text
    assert refusal.numbers or reason is TrajectoryReason.FRAME or "rows" in refusal.text


def motion(trajectory: ForeignTrajectory, start: RobotState = START) -> Motion:
    made = motion_of(trajectory, start, PROFILE)
    assert isinstance(made, Motion), made
    return made


@given(order=st.permutations(range(7)))
def test_the_order_of_the_joints_does_not_matter(order: list[int]) -> None:
    one = smooth()
    columns = [np.asarray(c)[:, order] for c in (one.positions_rad, one.velocities_radps, one.accelerations_radps2)]
    other = ForeignTrajectory(tuple(NAMES[i] for i in order), TIME_S, columns[0], columns[1], columns[2])
    assert digest(motion(other)) == digest(motion(one))


def test_sparse_points_become_the_curve_through_them() -> None:
    (segment,) = motion(smooth()).segments
    assert isinstance(segment, JointSegment)
    s = segment.time_s / 2.0
    truth = HOME[0] + 0.3 * s**3 * (10 - 15 * s + 6 * s**2)
    assert np.abs(segment.q_rad[:, 0] - truth).max() < 1e-9
    assert np.diff(segment.time_s).max() < 0.0101


def test_without_velocities_it_is_linear_as_in_a_controller() -> None:
    (segment,) = motion(ForeignTrajectory(NAMES, [0.0, 1.0], [HOME, HOME + 0.1])).segments
    assert isinstance(segment, JointSegment)
    assert np.allclose(segment.q_rad, HOME + 0.1 * segment.time_s[:, None])


def test_the_motion_begins_exactly_where_the_arm_is() -> None:
    off = replace(START, q_rad=freeze(HOME + PROFILE.start_tolerance_rad / 2))
    (segment,) = motion(smooth(), off).segments
    assert isinstance(segment, JointSegment)
    assert (segment.q_rad[0] == off.q_rad).all()


def test_a_chunk_of_a_policy_passes_through_its_points_and_ends_at_rest() -> None:
    actions = HOME + 0.002 * np.arange(1, 15)[:, None] * np.eye(7)[0]
    made = motion_of(from_chunk(actions, 30.0, NAMES, HOME), START, PROFILE, at_most_s=CHUNK_S)
    assert isinstance(made, Motion)
    (segment,) = made.segments
    assert isinstance(segment, JointSegment)
    at = [int(np.argmin(np.abs(segment.time_s - k / 30.0))) for k in range(1, 15)]
    assert np.allclose(segment.q_rad[at], actions)


@pytest.mark.parametrize("rate_hz", [0.0, float("nan"), 5.0])
def test_a_chunk_that_is_too_long_or_has_no_rate_is_refused(rate_hz: float) -> None:
    trajectory = from_chunk(np.tile(HOME, (10, 1)), rate_hz, NAMES, HOME)
    refusal = motion_of(trajectory, START, PROFILE, at_most_s=CHUNK_S)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is (TrajectoryReason.TOO_LONG if rate_hz == 5.0 else TrajectoryReason.POINTS)
