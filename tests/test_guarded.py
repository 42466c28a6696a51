"""A guarded descent onto something that nobody saw: it is felt, the arm goes back up, and nothing is pressed hard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot import executor
from qwen2vl_robot.executor import ExecutionReport
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import JointSegment, Motion, Refusal, RobotState
from qwen2vl_robot.plant.client import PlantLink
from qwen2vl_robot.plant.laid import Laid, LaidProcess
from qwen2vl_robot.reasons import AbortReason, RefusalReason
from tests.cells import PROFILE, admit, approval_of, carry_through, look, reach, rehearsed
from tests.guarded_motion import KINEMATICS, descent

_POST = Laid("post", (0.02, 0.02, 0.1), make_pose([0.5475, 0.0, 0.05]), (100.0, 100.0, 100.0), 0.0)
_TOP_M = 0.14


@pytest.fixture(scope="module")
def plant() -> Iterator[LaidProcess]:
    with LaidProcess("scenes/default.yaml", 3) as process:
        yield process


@pytest.fixture
def link(plant: LaidProcess) -> PlantLink:
    """An arm over a place where a finger would meet a post."""
    link = plant.link
    link.stop()
    link.sleep(0.5)
    top = descent(_TOP_M).segments[0]
    assert isinstance(top, JointSegment)
    link.execute(admit(reach(link.state().q_rad, top.q_rad[0] - link.state().q_rad, 3.0), link, link))
    carry_through(link, link)
    link.sleep(0.5)
    return link


class Halting:
    """A clock that has a halt stop once the arm is on its way back up."""

    def __init__(self, link: PlantLink, halt: Halt) -> None:
        self._link, self._halt = link, halt
        self.back_s: float | None = None

    def now_ns(self) -> int:
        return self._link.now_ns()

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)
        if self.back_s is not None and (self._link.now_ns() / 1e9 - self.back_s) > 0.8:
            self._halt.stop("a person said stop")


class Watched:
    """A plant's arm that tells when it goes back, and may tell no torques."""

    def __init__(self, link: PlantLink, clock: Halting | None = None, silent_after: int | None = None) -> None:
        self._link, self._clock, self._left = link, clock, silent_after
        for name in ("execute", "is_moving", "has_gripped", "go_on", "stop"):
            setattr(self, name, getattr(link, name))

    def state(self) -> RobotState:
        state = self._link.state()
        if self._left is not None:
            self._left -= 1
            return replace(state, effort_nm=None) if self._left < 0 else state
        return state

    def retreat(self, from_s: float) -> int:
        begins_ns = self._link.retreat(from_s)
        if self._clock is not None:
            self._clock.back_s = begins_ns / 1e9
        return begins_ns


def carry_out(link: PlantLink, arm: object = None, clock: object = None, halt: Halt | None = None) -> ExecutionReport:
    approved = admit(descent(_TOP_M), link, link)
    return executor.run(approved, arm or link, clock or link, PROFILE, halt or Halt())  # type: ignore[arg-type]


def tool_m(link: PlantLink) -> float:
    return float(KINEMATICS.tool_pose(link.state().q_rad)[2, 3])


def test_an_arm_that_meets_nothing_comes_down(plant: LaidProcess, link: PlantLink) -> None:
    plant.lay(())
    report = carry_out(link)
    assert report.is_finished, report.causes
    link.sleep(0.3)
    assert tool_m(link) == pytest.approx(_TOP_M - 0.05, abs=0.003)


def test_an_arm_that_meets_something_goes_back_up(plant: LaidProcess, link: PlantLink) -> None:
    plant.lay((_POST,))
    report = carry_out(link)
    assert [cause.reason for cause in report.causes] == [AbortReason.MET_UNSEEN]
    numbers = dict(report.causes[0].numbers)
    assert numbers["height_m"] == pytest.approx(0.109, abs=0.003)  # the post's top, and how far the tips reach down
    assert 8.0 < numbers["force_n"] < 40.0
    assert 1.0 < plant.true_press_n("post") < 40.0
    link.sleep(0.3)
    assert tool_m(link) == pytest.approx(_TOP_M, abs=0.003)


def test_a_stop_on_the_way_back_up_holds_the_arm_there(plant: LaidProcess, link: PlantLink) -> None:
    plant.lay((_POST,))
    halt = Halt()
    clock = Halting(link, halt)
    report = carry_out(link, Watched(link, clock), clock, halt)
    assert [cause.reason for cause in report.causes] == [AbortReason.MET_UNSEEN, AbortReason.STOPPED]
    assert report.stopped_after_s is not None and report.stopped_after_s <= executor.STOP_DEADLINE_S
    link.sleep(0.3)
    held_m = tool_m(link)
    assert 0.109 < held_m < _TOP_M - 0.005
    link.sleep(1.0)
    assert tool_m(link) == pytest.approx(held_m, abs=0.001)


def test_an_arm_that_tells_no_torques_any_more_is_stopped(plant: LaidProcess, link: PlantLink) -> None:
    plant.lay(())
    report = carry_out(link, Watched(link, silent_after=80))
    assert report.reason is AbortReason.NO_EFFORT
    assert not link.is_moving()


def test_the_gate_admits_no_guarded_motion_of_an_arm_without_torques(link: PlantLink) -> None:
    motion: Motion = descent(_TOP_M)
    state, now_ns = link.state(), link.now_ns()
    step = rehearsed(motion, state, now_ns)
    for effort_nm in (None, np.full(7, np.nan), np.zeros(6)):
        answer = Gate(PROFILE, ()).admit(
            step, replace(state, effort_nm=effort_nm), look(now_ns), approval_of(step), Halt(), now_ns
        )
        assert isinstance(answer, Refusal) and answer.reason is RefusalReason.NO_EFFORT
    bare = rehearsed(replace(motion, guarded=None), state, now_ns)
    answer = Gate(PROFILE, ()).admit(
        bare, replace(state, effort_nm=None), look(now_ns), approval_of(bare), Halt(), now_ns
    )
    assert not isinstance(answer, Refusal)
