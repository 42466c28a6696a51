"""A contact on a guarded descent is felt, going down freely is not taken for one, and the way back is the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.feeling import FELT_N, Feeling
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.guarded import Guarded
from qwen2vl_robot.messages import Cause, Motion, RobotState, digest, freeze
from qwen2vl_robot.reasons import AbortReason
from qwen2vl_robot.retreat import way_back
from tests.cells import PROFILE
from tests.guarded_motion import descent

MOTION = descent()
SEGMENT = MOTION.segments[0]
TURN_RAD_PER_M = 2.0  # of the second joint, on the way down
STEP_S = 0.02


def states(resisting_n: float, from_s: float, noise_nm: float = 0.1, motion: Motion = MOTION) -> list[Cause | None]:
    """What is felt on the way down, where something resists from a time on, by torques that err."""
    rng, feeling = np.random.default_rng(1), Feeling(motion)
    segment = motion.segments[0]
    said = []
    for since_s in np.arange(0.0, segment.end_s, STEP_S):
        q_rad = np.array([np.interp(since_s, segment.time_s, joint) for joint in segment.q_rad.T])
        slope = np.gradient(segment.q_rad, motion.guarded.height_m, axis=0)  # type: ignore[union-attr]
        per_m = -slope[int(np.clip(since_s / 0.01, 5, len(slope) - 6))]
        weight_nm = 0.4 * PROFILE_EFFORTS * np.sin(q_rad)  # of the arm, as it changes on the way
        push_nm = (resisting_n if since_s >= from_s else 0.0) * per_m / float(per_m @ per_m)
        effort_nm = weight_nm + push_nm + 0.8 + rng.normal(0.0, noise_nm, 7)
        said.append(feeling.feel(at(since_s, effort_nm), float(since_s)))
    return said


PROFILE_EFFORTS = np.array([j.effort_nm for j in PROFILE.joints])


def at(since_s: float, effort_nm: Array | None) -> RobotState:
    told = None if effort_nm is None else freeze(effort_nm)
    return RobotState(1 + round(since_s * 1e9), freeze(np.zeros(7)), freeze(np.zeros(7)), 0.08, effort_nm=told)


def test_an_arm_that_goes_down_freely_feels_nothing() -> None:
    assert not any(states(0.0, 0.0))


@settings(max_examples=12)
@given(st.floats(1.5 * FELT_N, 200.0), st.floats(0.0, 1.0))
def test_what_resists_is_felt_at_once_with_its_force_and_height(resisting_n: float, share: float) -> None:
    guarded = MOTION.guarded
    assert guarded is not None
    from_s = guarded.since_s + share * (SEGMENT.end_s - 0.5 - guarded.since_s)
    said = [cause for cause in states(resisting_n, from_s) if cause is not None]
    assert said[0].reason is AbortReason.MET_UNSEEN
    numbers = dict(said[0].numbers)
    assert numbers["force_n"] == pytest.approx(resisting_n, rel=0.2, abs=3.0)
    assert guarded.height_m[-1] - 1e-6 <= numbers["height_m"] <= guarded.height_m[0]


def test_what_is_met_above_unseen_room_is_felt_too() -> None:
    said = states(30.0, 1.0)
    first = next(i for i, cause in enumerate(said) if cause is not None)
    assert first * STEP_S == pytest.approx(1.0, abs=2 * STEP_S)


@pytest.mark.parametrize("effort_nm", [None, np.full(7, np.nan), np.zeros(6), np.array([*np.zeros(6), np.inf])])
def test_without_usable_torques_the_descent_ends(effort_nm: Array | None) -> None:
    cause = Feeling(MOTION).feel(at(0.5, effort_nm), 0.5)
    assert cause is not None and cause.reason is AbortReason.NO_EFFORT


def test_a_descent_that_was_not_watched_from_its_begin_ends() -> None:
    guarded = MOTION.guarded
    assert guarded is not None
    cause = Feeling(MOTION).feel(at(guarded.since_s, np.zeros(7)), guarded.since_s)
    assert cause is not None and cause.reason is AbortReason.NO_EFFORT


def test_beside_the_guarded_segment_nothing_is_felt() -> None:
    assert Feeling(MOTION).feel(at(SEGMENT.end_s + 1.0, None), SEGMENT.end_s + 1.0) is None
    assert Feeling(replace(MOTION, guarded=None)).feel(at(0.5, None), 0.5) is None


# ------------------------------------------------------------------------------------------- the way back


@settings(max_examples=12)
@given(st.floats(0.0, 1.0))
def test_the_way_back_is_the_way_itself_at_no_more_than_its_pace(share: float) -> None:
    from_s = share * SEGMENT.end_s
    back = way_back(MOTION, from_s)
    came = np.array([np.interp(from_s, SEGMENT.time_s, joint) for joint in SEGMENT.q_rad.T])
    assert np.allclose(back.q_rad[0], came, atol=1e-9)
    assert np.allclose(back.q_rad[-1], SEGMENT.q_rad[0], atol=1e-9)
    off_rad = np.abs(back.q_rad[:, None] - SEGMENT.q_rad[None]).max(axis=-1).min(axis=1)
    assert off_rad.max() < 1e-3
    for order in (1, 2):
        fastest = np.abs(np.diff(SEGMENT.q_rad, order, axis=0)).max()
        assert np.abs(np.diff(back.q_rad, order, axis=0)).max() <= fastest + 1e-5


@pytest.mark.parametrize("from_s", [-0.1, SEGMENT.end_s + 0.1, float("nan")])
def test_there_is_no_way_back_from_elsewhere(from_s: float) -> None:
    with pytest.raises(ExecutionError, match="no way back"):
        way_back(MOTION, from_s)


def test_what_is_not_guarded_has_no_way_back() -> None:
    with pytest.raises(ExecutionError, match="not guarded"):
        way_back(replace(MOTION, guarded=None), 0.5)
    with pytest.raises(ExecutionError, match="no joint segment"):
        way_back(replace(MOTION, guarded=Guarded(7, 1.0, freeze([0.0]))), 0.5)


def test_what_is_guarded_is_a_part_of_the_digest() -> None:
    guarded = MOTION.guarded
    assert guarded is not None
    others = [None, replace(guarded, since_s=guarded.since_s + 1e-6), replace(guarded, index=1)]
    assert len({digest(replace(MOTION, guarded=other)) for other in (guarded, *others)}) == 4
