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
