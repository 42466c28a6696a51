"""A foreign trajectory is put into the robot's order, or refused with a typed reason and its number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.description import turning_joints
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


# -------------------------------------------------------------------------------------------------- whole turns

KNUCKLES = load_robot(str(Path(__file__).parent / "arms" / "knuckle_arm.yaml"))  # a6 turns without end, a1 to a5 do not
ARM = tuple(joint.name for joint in KNUCKLES.joints)
AWAY = np.array(KNUCKLES.home_q_rad)


def path_of_a6(*q_rad: float, at_rad: float, step_s: float = 1.0, **fields: Any) -> Any:
    """The last joint's way as it is judged, or the refusal; the arm stands with it at `at_rad`."""
    rows = np.tile(AWAY, (len(q_rad), 1))
    rows[:, 5] = q_rad
    stands = np.array([*AWAY[:5], at_rad])
    start = RobotState(0, freeze(stands), freeze(np.zeros(6)), 0.08)
    made = motion_of(ForeignTrajectory(ARM, np.arange(len(rows)) * step_s, rows, **fields), start, KNUCKLES)
    if isinstance(made, Refusal):
        return made
    (segment,) = made.segments
    assert isinstance(segment, JointSegment)
    assert np.abs(segment.q_rad[:, :5] - AWAY[:5]).max() == 0.0
    return segment.q_rad[:, 5]


@pytest.mark.parametrize("turns", [-3, -1, 1, 2])
def test_a_joint_that_turns_without_end_may_be_counted_in_whole_turns(turns: int) -> None:
    way = np.linspace(0.4, 0.9, 6)
    assert np.allclose(path_of_a6(*(way + turns * math.tau), at_rad=0.4), path_of_a6(*way, at_rad=0.4), atol=1e-9)


def test_it_is_the_start_that_counts_not_where_a_turn_ends() -> None:
    """The arm stands just before the end of the turn that is used; the trajectory counts on beyond it."""
    found = path_of_a6(3.3, 3.2, 3.1, at_rad=3.3 - math.tau)
    assert found[-1] == pytest.approx(3.1 - math.tau)  # beyond -pi: the twin refuses that by its range


def test_a_path_that_leaps_by_a_turn_goes_the_shorter_way() -> None:
    """From 0 to 2 pi, as some count: such a leap is faster than any joint."""
    found = path_of_a6(math.tau - 0.2, math.tau - 0.1, 0.0, 0.1, at_rad=-0.2, step_s=0.2)
    assert np.allclose(found[[0, -1]], [-0.2, 0.1])
    assert np.diff(found).max() < 0.02


def test_a_goal_that_is_a_whole_turn_off_is_the_same_place() -> None:
    found = path_of_a6(0.4, 0.5 + math.tau, at_rad=0.4, step_s=9.0)
    assert np.allclose(found[[0, -1]], [0.4, 0.5])


def test_more_than_half_a_turn_that_the_joint_can_make_stays_as_it_is() -> None:
    found = path_of_a6(-2.0, 2.0, at_rad=-2.0, step_s=9.0)
    assert found[-1] == 2.0
    assert (np.diff(found) > 0.0).all()


@pytest.mark.parametrize(("turns", "says"), [(1, "one whole turn"), (-2, "2 whole turns")])
def test_a_joint_with_an_end_that_is_whole_turns_away_is_refused_by_its_name(turns: int, says: str) -> None:
    rows = np.tile(AWAY, (2, 1))
    rows[:, 1] += turns * math.tau
    start = RobotState(0, freeze(AWAY), freeze(np.zeros(6)), 0.08)
    refusal = motion_of(ForeignTrajectory(ARM, [0.0, 1.0], rows), start, KNUCKLES)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is TrajectoryReason.START
    assert "a2 begins" in refusal.text
    assert says in refusal.text


def test_another_start_is_refused_by_the_joint_that_is_furthest_off() -> None:
    refusal = path_of_a6(0.9, 1.0, at_rad=0.4)
    assert refusal.text == "a6 begins 0.5000 rad from where it is; allowed 0.02 rad"
    assert dict(refusal.numbers)["off_rad"] == pytest.approx(0.5)


def test_a_chunk_of_a_policy_that_counts_turns_passes_through_its_points() -> None:
    stands = np.array([*AWAY[:5], -0.01])
    start = RobotState(0, freeze(stands), freeze(np.zeros(6)), 0.08)
    actions = np.tile(stands, (10, 1))
    actions[:, 5] = np.linspace(0.0, 0.09, 10) + math.tau * (np.arange(10) % 2)  # as bad as can be
    chunk = from_chunk(actions, 30.0, ARM, stands, turning_joints(KNUCKLES))
    made = motion_of(chunk, start, KNUCKLES, at_most_s=CHUNK_S)
    assert isinstance(made, Motion)
    (segment,) = made.segments
    assert isinstance(segment, JointSegment)
    at = [int(np.argmin(np.abs(segment.time_s - k / 30.0))) for k in range(1, 11)]
    assert np.allclose(segment.q_rad[at, 5], np.linspace(0.0, 0.09, 10))
    assert np.abs(np.diff(segment.q_rad[:, 5])).max() < 0.01


@pytest.mark.parametrize("row", [0, -1])
def test_slower_than_a_thousandth_is_at_rest(row: int) -> None:
    speed = np.zeros((21, 7))
    speed[row, 3] = 0.9e-3
    motion(replace(smooth(), velocities_radps=speed, accelerations_radps2=None))
    speed[row, 3] = -1.1e-3
    refusal = motion_of(replace(smooth(), velocities_radps=speed), START, PROFILE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is TrajectoryReason.NOT_AT_REST
    assert f"{NAMES[3]} {'begins' if row == 0 else 'ends'} at 0.001 rad/s" in refusal.text


def test_two_points_of_one_time_are_named() -> None:
    times = TIME_S.copy()
    times[5] = times[4]
    refusal = motion_of(replace(smooth(), time_s=times), START, PROFILE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is TrajectoryReason.TIMES
    assert refusal.text == "points 4 and 5 have the same time, 0.4 s; each needs its own"
