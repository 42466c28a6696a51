"""The executor stops the arm at every doubt, and says achieved only when a measurement shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.config import RelationRules, load_yaml
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.executor import STOP_DEADLINE_S, ExecutionReport, JointTrack, run
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    ApprovedMotion,
    Cause,
    Effect,
    GripperSegment,
    JointSegment,
    Motion,
    RobotState,
    freeze,
)
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.resources import resolve
from tests.cells import PROFILE, admit, grip, reach

RULES = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
OFFSET_RAD = [0.3, 0.1, 0.0, 0.1, 0.0, 0.1, -0.2]

# ------------------------------------------------------------------------------------- run, on a real plant


@pytest.fixture(scope="module")
def plant_link() -> Iterator[PlantLink]:
    with PlantProcess("scenes/default.yaml", 5, count=2) as plant:
        yield plant.link


@pytest.fixture
def link(plant_link: PlantLink) -> PlantLink:
    plant_link.stop()
    plant_link.sleep(0.5)
    return plant_link


class FaultyArm:
    """A real plant's arm of which one answer is spoilt, after a number of good ones."""

    def __init__(self, link: PlantLink, spoil: Callable[[RobotState], RobotState], after: int = 10) -> None:
        self._link, self._spoil, self._left = link, spoil, after
        self.stops = 0

    def state(self) -> RobotState:
        self._left -= 1
        state = self._link.state()
        return self._spoil(state) if self._left < 0 else state

    def execute(self, approved: ApprovedMotion) -> None:
        self._link.execute(approved)

    def is_moving(self) -> bool:
        return self._link.is_moving()

    def has_gripped(self) -> bool:
        return self._link.has_gripped()

    def go_on(self) -> int:
        return self._link.go_on()

    def retreat(self, from_s: float) -> int:
        return self._link.retreat(from_s)

    def stop(self) -> None:
        self.stops += 1
        self._link.stop()


def approve(link: PlantLink, seconds: float = 1.0) -> ApprovedMotion:
    return admit(reach(link.state().q_rad, OFFSET_RAD, seconds), link, link)


def stopped() -> Halt:
    halt = Halt()
    halt.stop("a person said stop")
    return halt


class StopsAt(Halt):
    """Is stopped once the plant's clock has passed a time."""

    def __init__(self, link: PlantLink, end_ns: int) -> None:
        super().__init__()
        self._link, self._end_ns = link, end_ns

    def cause(self) -> Cause | None:
        if self._link.now_ns() > self._end_ns:
            self.stop("a person said stop")
        return super().cause()


def aborted(report: ExecutionReport, reason: str) -> None:
    assert report.reason == reason, report
    assert report.causes[0].text
    assert not report.is_finished


def test_a_good_motion_finishes_close_to_its_track(link: PlantLink) -> None:
    report = run(approve(link), link, link, PROFILE, Halt())
    assert report.is_finished
    assert (report.reason, report.causes) == (None, ())
    assert report.max_tracking_error_rad < 0.02
    assert 0.9 < report.seconds < 1.5


def test_a_gripper_motion_finishes(link: PlantLink) -> None:
    assert run(admit(grip(0.05), link, link), link, link, PROFILE, Halt()).is_finished


def test_a_motion_that_was_changed_after_approval_is_not_sent(link: PlantLink) -> None:
    forged = replace(approve(link), motion=reach(link.state().q_rad, [0.31, *OFFSET_RAD[1:]]))
    aborted(run(forged, link, link, PROFILE, Halt()), "digest_mismatch")
    assert not link.is_moving()


def test_a_motion_for_another_robot_file_is_not_sent(link: PlantLink) -> None:
    other = PROFILE.model_copy(update={"start_tolerance_rad": 1.0})
    aborted(run(approve(link), link, link, other, Halt()), "digest_mismatch")


def test_an_expired_approval_is_not_sent(link: PlantLink) -> None:
    approved = admit(reach(link.state().q_rad, OFFSET_RAD), link, link, lifetime_s=0.5)
    link.sleep(0.6)
    aborted(run(approved, link, link, PROFILE, Halt()), "expired")
    assert not link.is_moving()


def test_one_approval_moves_the_arm_once(link: PlantLink) -> None:
    approved = admit(grip(0.05), link, link)  # where the arm is does not forbid it a second time
    assert run(approved, link, link, PROFILE, Halt()).is_finished
    report = run(approved, link, link, PROFILE, Halt())
    aborted(report, "rejected")
    assert "used before" in report.causes[0].text


def test_a_stop_that_was_released_while_the_arm_moved_ends_the_motion(link: PlantLink) -> None:
    class Blink(Halt):
        """Is stopped and reset between two looks."""

        def cause(self) -> Cause | None:
            if link.is_moving():
                self.stop("a person said stop")
                self.reset()
            return super().cause()

    aborted(run(approve(link), link, link, PROFILE, Blink()), "stopped")
    assert not link.is_moving()


def test_a_motion_that_the_arm_rejects_is_aborted(link: PlantLink) -> None:
    approved = approve(link)
    assert run(approved, link, link, PROFILE, Halt()).is_finished  # and the arm is elsewhere now
    report = run(replace(approved, expires_ns=2**62, token="another"), link, link, PROFILE, Halt())
    aborted(report, "rejected")
    assert "rad from" in report.causes[0].text


def test_a_stop_asked_for_before_the_start_sends_nothing(link: PlantLink) -> None:
    start_rad = link.state().q_rad
    aborted(run(approve(link), link, link, PROFILE, stopped()), "stopped")
    link.sleep(0.5)
    assert np.allclose(link.state().q_rad, start_rad, atol=1e-3)


def test_a_stop_asked_for_on_the_way_halts_the_arm(link: PlantLink) -> None:
    approved = approve(link, 2.0)
    end_ns = link.now_ns() + 1_000_000_000
    report = run(approved, link, link, PROFILE, StopsAt(link, end_ns))
    aborted(report, "stopped")
    assert not link.is_moving()
    link.sleep(0.5)
    assert np.max(np.abs(link.state().dq_radps)) < 0.02
    assert 0.9 < report.seconds < 1.2


def age(state: RobotState) -> RobotState:
    return replace(state, stamp_ns=state.stamp_ns - 201_000_000)


def hurry(state: RobotState) -> RobotState:
    return replace(state, stamp_ns=state.stamp_ns + 1)


def blind(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze([np.nan, *state.q_rad[1:]]))


def shorten(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad[:6]))


def stray(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad + PROFILE.tracking_tolerance_rad * 1.5))


def lose(state: RobotState) -> RobotState:
    raise ObservationError("no joint state")


def lean(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad + 0.07))


class LosingArm:
    """Its fingers have closed on, some time after the start."""

    def __init__(self, after: int = 20) -> None:
        self._left = after

    def __call__(self, state: RobotState) -> RobotState:
        self._left -= 1
        return state if self._left > 0 else replace(state, gripper_width_m=state.gripper_width_m - 0.012)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lean, "contact"),
        (LosingArm(), "grip_lost"),
        (age, "stale_state"),
        (hurry, "stale_state"),
        (blind, "not_finite"),
        (shorten, "not_finite"),
        (stray, "tracking"),
        (lose, "link_lost"),
    ],
)
def test_a_state_that_is_not_as_it_should_be_stops_the_arm(
    link: PlantLink, spoil: Callable[[RobotState], RobotState], reason: str
) -> None:
    arm = FaultyArm(link, spoil)
    aborted(run(approve(link), arm, link, PROFILE, Halt()), reason)
    assert arm.stops == 1
    assert not link.is_moving()


class StuckArm(FaultyArm):
    """Never says that it has arrived."""

    def is_moving(self) -> bool:
        return True


class QuitterArm(FaultyArm):
    """Says after a while that it has arrived."""

    def is_moving(self) -> bool:
        return self._left > 0 and super().is_moving()


def test_an_arm_that_never_arrives_is_stopped(link: PlantLink) -> None:
    report = run(approve(link), StuckArm(link, lambda s: s), link, PROFILE, Halt())
    aborted(report, "overrun")
    assert 3.0 < report.seconds < 3.2


def test_an_arm_that_ends_early_is_an_abort(link: PlantLink) -> None:
    aborted(run(approve(link), QuitterArm(link, lambda s: s), link, PROFILE, Halt()), "ended_early")


class StillClock:
    """Time stands still while the plant's goes on."""

    def __init__(self, link: PlantLink) -> None:
        self._link, self._ns = link, link.now_ns()

    def now_ns(self) -> int:
        return self._ns

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


def test_joint_states_that_no_longer_change_their_stamp_stop_the_arm(link: PlantLink) -> None:
    clock = StillClock(link)
    arm = StuckArm(link, lambda s: replace(s, stamp_ns=clock.now_ns(), q_rad=start_rad), after=0)
    start_rad = link.state().q_rad
    report = run(approve(link), arm, clock, PROFILE, Halt())
    aborted(report, "stale_state")
    assert "no new joint state" in report.causes[0].text


class LeapingClock:
    """Goes on by a second after a while, or goes back."""

    def __init__(self, link: PlantLink, leap_s: float) -> None:
        self._link, self._leap_ns, self._left = link, round(leap_s * 1e9), 20

    def now_ns(self) -> int:
        self._left -= 1
        return self._link.now_ns() + (self._leap_ns if self._left < 0 else 0)

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


@pytest.mark.parametrize("leap_s", [1.0, -1.0])
def test_a_clock_that_leaps_stops_the_arm(link: PlantLink, leap_s: float) -> None:
    aborted(run(approve(link), link, LeapingClock(link, leap_s), PROFILE, Halt()), "clock")
    assert not link.is_moving()


def test_a_jump_that_has_the_task_cancelled_is_the_reason(link: PlantLink) -> None:
    """Whatever the clock says afterwards, the stop took no hundred million seconds."""
    halt = Halt()

    class Cancelling(LeapingClock):
        def now_ns(self) -> int:
            if self._left == 0:
                halt.cancel("the clock went on at once")
            return super().now_ns()

    with halt.task():
        report = run(approve(link), link, Cancelling(link, 1e8), PROFILE, halt)
    assert [cause.reason for cause in report.causes] == ["clock"]


class BusyClock:
    """The clock of a process that gets no core for a while; the plant's time and the wall's go on."""

    def __init__(self, link: PlantLink, busy_s: float) -> None:
        self._link, self._busy_s, self._left = link, busy_s, 20

    def now_ns(self) -> int:
        self._left -= 1
        if self._left == 0:
            time.sleep(self._busy_s)
        return self._link.now_ns()

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


@pytest.mark.parametrize(("busy_s", "reason"), [(0.7, None), (2.2, "clock")])
def test_a_late_look_is_judged_by_the_states_that_came_meanwhile(busy_s: float, reason: str | None) -> None:
    with PlantProcess("scenes/default.yaml", 5, count=2, realtime=True) as plant:
        link = plant.link
        report = run(approve(link, 3.0), link, BusyClock(link, busy_s), PROFILE, Halt())
        assert report.reason == reason, report


class Slow:
    """Tells every state as late as a slow bus does."""

    def __init__(self, late_s: float) -> None:
        self._late_ns = round(late_s * 1e9)
        self._past: list[RobotState] = []

    def __call__(self, state: RobotState) -> RobotState:
        self._past.append(state)
        return next((s for s in reversed(self._past) if state.stamp_ns - s.stamp_ns >= self._late_ns), self._past[0])


@pytest.mark.parametrize(
    ("late_s", "allowed_s", "reason"), [(0.4, 0.2, "stale_state"), (0.4, 0.6, None), (0.9, 0.6, "stale_state")]
)
def test_a_joint_state_may_be_as_old_as_the_node_allows(late_s: float, allowed_s: float, reason: str | None) -> None:
    with PlantProcess("scenes/default.yaml", 5, count=2) as plant:
        link = plant.link
        arm = FaultyArm(link, Slow(late_s), after=0)
        report = run(approve(link, 2.0), arm, link, PROFILE, Halt(), max_state_age_s=allowed_s)
        assert report.reason == reason, report


@pytest.mark.parametrize("stale", [1, 2])
def test_a_stale_state_in_between_is_looked_at_again(link: PlantLink, stale: int) -> None:
    looks = iter([False] * 10 + [True] * stale)

    def spoil(state: RobotState) -> RobotState:
        return age(state) if next(looks, False) else state

    assert run(approve(link), FaultyArm(link, spoil, after=0), link, PROFILE, Halt()).is_finished


def test_the_stop_is_given_within_its_deadline(link: PlantLink) -> None:
    report = run(approve(link), FaultyArm(link, stray), link, PROFILE, Halt())
    assert report.stopped_after_s is not None
    assert 0.0 <= report.stopped_after_s <= STOP_DEADLINE_S


def test_an_arm_that_cannot_be_stopped_is_said_so(link: PlantLink) -> None:
    class DeafArm(FaultyArm):
        def stop(self) -> None:
            raise ExecutionError("cable cut")

    report = run(approve(link), DeafArm(link, lose), link, PROFILE, Halt())
    aborted(report, "link_lost")
    assert "cable cut" in report.causes[1].text


def test_a_halt_before_the_motion_keeps_it_from_the_arm(link: PlantLink) -> None:
    class NewArm(FaultyArm):
        def execute(self, approved: ApprovedMotion) -> None:
            raise AssertionError("a halted motion was sent")

    report = run(approve(link), NewArm(link, lambda state: state), link, PROFILE, stopped())
    aborted(report, "stopped")


def test_an_interrupt_stops_the_arm_and_goes_on(link: PlantLink) -> None:
    def interrupt(state: RobotState) -> RobotState:
        raise KeyboardInterrupt

    arm = FaultyArm(link, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(approve(link), arm, link, PROFILE, Halt())
    assert arm.stops == 1
    assert not link.is_moving()


# ------------------------------------------------------------------------------------------------- track

TRACK = JointTrack(reach(np.zeros(7), [1.0] * 7, 2.0), np.zeros(7))


@given(st.floats(-1.0, 4.0))
def test_the_track_stays_between_start_and_end(time_s: float) -> None:
    q_rad, dq_radps = TRACK.at(time_s)
    assert (q_rad >= 0.0).all()
    assert (q_rad <= 1.0).all()
    assert (dq_radps >= -1e-9).all()


@given(st.floats(0.2, 2.0), st.floats(0.0, 0.15))
def test_a_lag_within_the_allowance_is_no_tracking_error(time_s: float, lag_s: float) -> None:
    assert TRACK.error_rad(TRACK.at(time_s - lag_s)[0], time_s, 0.15) < 0.006


def test_a_motion_of_no_segments_is_finished_at_once(link: PlantLink) -> None:
    motion = Motion(PROFILE.name, (), Effect("none"))
    assert run(admit(motion, link, link), link, link, PROFILE, Halt()).is_finished


# ------------------------------------------------------------------------------------------------ the gripper


def slow_cell(folder: Path, ratio: float) -> PlantProcess:
    """A plant whose fingers have this share of the speed that the robot file says."""
    scene = yaml.safe_load(resolve("scenes/default.yaml").read_text())
    file = folder / "scene.yaml"
    file.write_text(yaml.safe_dump({**scene, "faults": {"gripper_speed_ratio": ratio}}))
    return PlantProcess(str(file), 5, count=2)


class Watching(FaultyArm):
    """Keeps each measured state."""

    def __init__(self, link: PlantLink) -> None:
        self.states: list[RobotState] = []
        super().__init__(link, lambda state: state)

    def state(self) -> RobotState:
        self.states.append(super().state())
        return self.states[-1]


def close_and_leave(start_q_rad: Array, width_m: float, meets_m: float) -> Motion:
    """Close the fingers in the time that they should take, then move."""
    end_s = (0.08 - width_m) / PROFILE.gripper.speed_mps + 0.4
    move = reach(start_q_rad, OFFSET_RAD).segments[0]
    assert isinstance(move, JointSegment)
    later = JointSegment(freeze(move.time_s + end_s), move.q_rad)
    return Motion(PROFILE.name, (GripperSegment(0.0, end_s, width_m, meets_m), later), Effect("none"))


def test_the_arm_leaves_when_a_slow_gripper_has_closed_and_not_before(tmp_path: Path) -> None:
    with slow_cell(tmp_path, 1 / 8) as plant:
        arm, link = Watching(plant.link), plant.link
        start_rad = link.state().q_rad
        report = run(admit(close_and_leave(start_rad, 0.03, 0.03), link, link), arm, link, PROFILE, Halt())
    assert report.is_finished, report
    moved = [s for s in arm.states if np.max(np.abs(s.q_rad - start_rad)) > 0.01]
    assert moved
    assert max(s.gripper_width_m for s in moved) < 0.034
    assert report.seconds > 0.05 / (PROFILE.gripper.speed_mps / 8)


@pytest.mark.parametrize(("ratio", "meets_m", "reason"), [(1 / 50, 0.03, "gripper_late"), (1.0, 0.0, "grip_off")])
def test_the_arm_does_not_leave_a_gripper_that_does_not_close(
    tmp_path: Path, ratio: float, meets_m: float, reason: str
) -> None:
    with slow_cell(tmp_path, ratio) as plant:
        arm, link = Watching(plant.link), plant.link
        motion = close_and_leave(link.state().q_rad, 0.03 if ratio < 1.0 else 0.0, meets_m)
        if ratio == 1.0:  # something stands between the fingers that the motion knows nothing of
            arm._spoil, arm._left = (lambda s: replace(s, gripper_width_m=max(s.gripper_width_m, 0.045))), 0
        start_rad = link.state().q_rad
        report = run(admit(motion, link, link), arm, link, PROFILE, Halt())
        aborted(report, reason)
        assert "late_s" in dict(report.causes[0].numbers)
        link.sleep(2.0)
        assert np.allclose(link.state().q_rad, start_rad, atol=0.01)
    assert report.seconds < 9.0


def test_a_gripper_at_its_declared_speed_keeps_nothing_waiting(link: PlantLink) -> None:
    motion = close_and_leave(link.state().q_rad, 0.03, 0.03)
    report = run(admit(motion, link, link), link, link, PROFILE, Halt())
    assert report.is_finished, report
    assert report.seconds < motion.duration_s + 0.15
    run(admit(grip(0.08, 1.5), link, link), link, link, PROFILE, Halt())
