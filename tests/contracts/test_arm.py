"""What every `ports.Arm` promises; one more implementation is one more parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, freeze
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from tests.cells import PROFILE, admit, carry_through, grip, reach
from tests.contracts.wire import WireCell, wire_cell
from tests.guarded_motion import descent

_OFFSET_RAD = [0.2, 0.1, 0.0, 0.1, 0.0, 0.1, -0.2]


@pytest.fixture(scope="module", params=["plant, as fast as possible", "plant, real time", "plant, over DDS"])
def cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantLink | WireCell]:
    """An arm with the clock of its world."""
    if "DDS" in request.param:
        with wire_cell(tmp_path_factory.mktemp("wire") / "ready") as wired:
            yield wired
        return
    with PlantProcess("scenes/default.yaml", 1, count=2, realtime="real" in request.param) as plant:
        yield plant.link


@pytest.fixture
def resting(cell: PlantLink) -> PlantLink:
    cell.stop()
    cell.sleep(0.5)
    return cell


def test_state_is_fresh_finite_and_in_robot_file_order(resting: PlantLink) -> None:
    state = resting.state()
    assert state.q_rad.shape == state.dq_radps.shape == (len(PROFILE.joints),)
    assert np.isfinite([*state.q_rad, *state.dq_radps, state.gripper_width_m]).all()
    assert 0 <= resting.now_ns() - state.stamp_ns < 2_000_000_000
    assert resting.state().stamp_ns >= state.stamp_ns


def test_execute_returns_at_once_and_the_arm_gets_there(resting: PlantLink) -> None:
    motion = reach(resting.state().q_rad, _OFFSET_RAD)
    resting.execute(admit(motion, resting, resting))
    assert resting.is_moving()
    carry_through(resting, resting, 5.0)
    resting.sleep(0.2)
    segment = motion.segments[0]
    assert isinstance(segment, JointSegment)
    assert np.allclose(resting.state().q_rad, segment.q_rad[-1], atol=0.01)


def test_the_gripper_goes_to_its_width(resting: PlantLink) -> None:
    for width_m in (0.03, 0.08):
        resting.execute(admit(grip(width_m), resting, resting))
        carry_through(resting, resting, 5.0)
        assert resting.state().gripper_width_m == pytest.approx(width_m, abs=0.004)


def test_the_arm_stays_after_a_command_to_its_gripper_until_it_is_told_to_go_on(resting: PlantLink) -> None:
    start_rad = resting.state().q_rad
    move = reach(start_rad, _OFFSET_RAD).segments[0]
    assert isinstance(move, JointSegment)
    later = JointSegment(freeze(move.time_s + 0.5), move.q_rad)
    motion = Motion(PROFILE.name, (GripperSegment(0.0, 0.5, 0.03), later), Effect("none"))
    resting.execute(admit(motion, resting, resting))
    resting.sleep(3.0)
    assert resting.is_moving()
    assert resting.has_gripped()
    assert resting.state().gripper_width_m == pytest.approx(0.03, abs=0.004)
    assert np.allclose(resting.state().q_rad, start_rad, atol=0.01)
    planned_end_ns = resting.go_on()
    assert resting.now_ns() - 1_000_000_000 < planned_end_ns < resting.now_ns() + 1_000_000_000
    with pytest.raises(ExecutionError, match="leave"):
        resting.go_on()
    carry_through(resting, resting, 5.0)
    resting.sleep(0.2)
    assert np.allclose(resting.state().q_rad, move.q_rad[-1], atol=0.01)


def test_a_stop_while_the_gripper_is_waited_for_ends_the_motion(resting: PlantLink) -> None:
    resting.execute(admit(grip(0.08), resting, resting))
    resting.sleep(0.5)
    resting.stop()
    assert not resting.is_moving()
    with pytest.raises(ExecutionError, match="leave"):
        resting.go_on()


def test_stop_halts_the_arm_where_it_is(resting: PlantLink) -> None:
    start_rad = resting.state().q_rad
    resting.execute(admit(reach(start_rad, [0.6, 0, 0, 0, 0, 0, 0], 2.0), resting, resting))
    resting.sleep(1.0)
    resting.stop()
    assert not resting.is_moving()
    resting.sleep(0.5)
    halted = resting.state()
    assert 0.1 < halted.q_rad[0] - start_rad[0] < 0.5
    assert np.max(np.abs(halted.dq_radps)) < 0.02
    resting.sleep(0.5)
    assert np.allclose(resting.state().q_rad, halted.q_rad, atol=0.005)


def test_stop_may_come_twice_and_while_nothing_moves(resting: PlantLink) -> None:
    resting.stop()
    resting.stop()
    assert not resting.is_moving()


def test_a_motion_with_one_changed_number_is_rejected(resting: PlantLink) -> None:
    approved = admit(reach(resting.state().q_rad, _OFFSET_RAD), resting, resting)
    forged = replace(approved, motion=reach(resting.state().q_rad, [0.2001, *_OFFSET_RAD[1:]]))
    with pytest.raises(ExecutionError, match="digest"):
        resting.execute(forged)
    assert not resting.is_moving()


def test_an_expired_approval_is_rejected(resting: PlantLink) -> None:
    approved = admit(reach(resting.state().q_rad, _OFFSET_RAD), resting, resting, lifetime_s=0.1)
    resting.sleep(0.2)
    with pytest.raises(ExecutionError, match="expired"):
        resting.execute(approved)
    assert not resting.is_moving()


def test_a_motion_from_elsewhere_is_rejected(resting: PlantLink) -> None:
    motion = reach(resting.state().q_rad + 0.03, _OFFSET_RAD)
    with pytest.raises(ExecutionError, match="first point"):
        resting.execute(admit(motion, resting, resting))
    assert not resting.is_moving()


def test_a_second_motion_is_rejected_while_one_runs(resting: PlantLink) -> None:
    first = admit(reach(resting.state().q_rad, _OFFSET_RAD), resting, resting)
    resting.execute(first)
    with pytest.raises(ExecutionError, match="moving"):
        resting.execute(first)
    carry_through(resting, resting, 5.0)


# -------------------------------------------------------------------------------------------- the way back up


@pytest.fixture
def descending(resting: PlantLink) -> PlantLink:
    """An arm in the middle of a guarded descent, over an empty place."""
    motion = descent(top_m=0.35)
    top = motion.segments[0]
    assert isinstance(top, JointSegment)
    resting.execute(admit(reach(resting.state().q_rad, top.q_rad[0] - resting.state().q_rad, 3.0), resting, resting))
    carry_through(resting, resting)
    resting.sleep(0.5)
    resting.execute(admit(motion, resting, resting))
    resting.sleep(4.0)
    return resting


def test_states_tell_the_torques_of_the_joints(resting: PlantLink) -> None:
    effort_nm = resting.state().effort_nm
    assert effort_nm is not None and effort_nm.shape == (len(PROFILE.joints),)
    assert np.isfinite(effort_nm).all()
    assert np.max(np.abs(effort_nm)) > 3.0  # the arm has a weight


def test_a_guarded_motion_goes_back_up_the_way_that_it_came(descending: PlantLink) -> None:
    top = descent(top_m=0.35).segments[0]
    assert isinstance(top, JointSegment)
    low_rad = descending.state().q_rad
    begins_ns = descending.retreat(3.9)
    assert abs(begins_ns - descending.now_ns()) < 2_000_000_000
    assert descending.is_moving()
    carry_through(descending, descending)
    descending.sleep(0.3)
    assert np.max(np.abs(low_rad - top.q_rad[0])) > 0.02
    assert np.allclose(descending.state().q_rad, top.q_rad[0], atol=0.006)


def test_a_stop_on_the_way_back_up_holds_the_arm_within_a_tenth_of_a_second(descending: PlantLink) -> None:
    top = descent(top_m=0.35).segments[0]
    assert isinstance(top, JointSegment)
    begins_ns = descending.retreat(3.9)
    while descending.now_ns() < begins_ns + 1_200_000_000:
        descending.sleep(0.02)
    moving_rad = descending.state().q_rad
    stopped_ns = descending.now_ns()
    descending.stop()
    assert not descending.is_moving()
    while descending.state().stamp_ns < stopped_ns + 140_000_000:  # a tenth of a second, and the lag of the motors
        descending.sleep(0.005)
    held_rad = descending.state().q_rad
    descending.sleep(1.0)
    assert np.allclose(descending.state().q_rad, held_rad, atol=0.002)
    assert np.max(np.abs(held_rad - moving_rad)) < 0.01
    assert np.max(np.abs(held_rad - top.q_rad[0])) > 0.01  # it did not get to the top
    with pytest.raises(ExecutionError):
        descending.retreat(3.0)


def test_what_is_not_guarded_cannot_go_back(resting: PlantLink) -> None:
    with pytest.raises(ExecutionError):
        resting.retreat(0.5)
    resting.execute(admit(reach(resting.state().q_rad, _OFFSET_RAD), resting, resting))
    with pytest.raises(ExecutionError, match="guarded"):
        resting.retreat(0.5)
    carry_through(resting, resting, 5.0)
