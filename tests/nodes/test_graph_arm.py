"""An arm behind controllers on the graph: it arrives, it halts, and it does not move in case of doubt."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot import executor
from qwen2vl_robot.bounds import JOINTS
from qwen2vl_robot.config import Controllers
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_state_message, joints_from_message
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Effect, GripperSegment, JointSegment, Motion, RobotState, freeze
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.plant.controllers import GripperServer, TrajectoryServer
from qwen2vl_robot.reasons import ObservationReason
from tests.cells import PROFILE, admit, grip, reach
from tests.nodes.local_graph import LocalGraph

_TICK_S = 0.005
TOPICS = PROFILE.model_copy(update={"controllers": Controllers(arm_form="topic", gripper_form="topic")})
PARALLEL = PROFILE.model_copy(update={"controllers": Controllers(gripper_form="parallel_action")})


class Cell:
    """An arm that follows its motors at once, driven by the plant's controllers on a thread of its own."""

    def __init__(self, profile: Any = PROFILE) -> None:
        self.graph = LocalGraph()
        self.profile = profile
        self.health = Health(self.graph, hardware_id="arm", facts=dict)
        self.q_rad, self.width_m = np.array(PROFILE.home_q_rad), 0.08
        self.blocked_m = 0.0  # width of an object between the fingers
        self.finger_mps = 0.4  # speed of the fingers
        self.tick_wall_s = 0.0008  # faster than real time
        self.push_rad = 0.0  # by which something pushes the first joint
        self.swing: Callable[[float], float] = lambda now_s: 0.0  # by which it swings
        self.is_silent = False
        self.says_it_rests = False  # else its hardware measures no speeds
        now_s = self.graph.now_ns() / 1e9
        self.server = TrajectoryServer(self.graph, profile, self.q_rad, 0.0)
        self.gripper = GripperServer(self.graph, profile, self.width_m, 0.0)
        self.server.targets(now_s, self.q_rad)
        self.gripper.target(now_s, self.width_m)
        self.arm = GraphArm(self.graph, profile, self.health)
        self.graph.sleep = lambda seconds: time.sleep(0.0005)  # type: ignore[method-assign]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.arm._joints.newest() is not None)

    def run(self) -> None:
        while not self._ended.is_set():
            self.graph.time_ns += round(_TICK_S * 1e9)
            now_s = self.graph.time_ns / 1e9
            self.q_rad = np.array(self.server.targets(now_s, self.q_rad)[0])
            self.q_rad[0] += self.push_rad + self.swing(now_s)
            wanted_m = max(self.gripper.target(now_s, self.width_m), self.blocked_m)
            step_m = self.finger_mps * _TICK_S
            self.width_m += float(np.clip(wanted_m - self.width_m, -step_m, step_m))
            if not self.is_silent:
                self.publish_joints()
            time.sleep(self.tick_wall_s)

    def publish_joints(self, names: list[str] | None = None) -> None:
        fingers = PROFILE.gripper.joints
        known = [*(j.name for j in PROFILE.joints), *fingers]
        values = dict(zip(known, [*self.q_rad, *[self.width_m / 2] * 2], strict=True))
        names = names or known[::-1]  # any order will do
        q = np.array([values[n] for n in names])
        message = joint_state_message(
            self.graph.message, names, q, np.full(len(names), 0.0 if self.says_it_rests else np.nan), self.graph.time_ns
        )
        self.graph.publisher(interface.JOINT_STATES.at("unused")).publish(message)
        for callback in self.graph._callbacks["joint_states"]:
            callback(message)

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def admit(self, motion: Motion) -> Any:
        approved = admit(motion, self.arm, self.graph)
        return replace(approved, robot_digest=self.profile.digest)

    def finish(self, at_most_s: float = 20.0) -> None:
        end_s = time.monotonic() + at_most_s
        while self.arm.is_moving():
            assert time.monotonic() < end_s
            if self.arm.has_gripped():
                self.arm.go_on()
            time.sleep(0.005)


@pytest.fixture(params=[PROFILE, PARALLEL, TOPICS], ids=["actions", "parallel gripper", "topics"])
def any_cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    fresh = Cell(request.param)
    time.sleep(0.02)
    yield fresh
    fresh.close()


@pytest.fixture
def cell() -> Iterator[Cell]:
    fresh = Cell()
    time.sleep(0.02)
    yield fresh
    fresh.close()


def offset(*values: float) -> list[float]:
    return [*values, *[0.0] * (7 - len(values))]


def longer(seconds: float, start: Array) -> Motion:
    return reach(start, offset(0.5), seconds)


def test_the_arm_gets_there_and_the_gripper_after_it(any_cell: Cell) -> None:
    start = any_cell.arm.state().q_rad
    out = reach(start, offset(0.2, 0.1)).segments[0]
    assert isinstance(out, JointSegment)
    motion = Motion(PROFILE.name, (out, GripperSegment(1.0, 2.5, 0.03)), Effect("none"))
    any_cell.arm.execute(any_cell.admit(motion))
    assert any_cell.arm.is_moving()
    any_cell.finish()
    assert np.allclose(any_cell.q_rad, start + offset(0.2, 0.1), atol=0.003)
    assert any_cell.width_m == pytest.approx(0.03, abs=0.003)


def test_a_gripper_that_meets_something_has_done_its_work(cell: Cell) -> None:
    cell.blocked_m = 0.04
    cell.arm.execute(cell.admit(grip(0.0, 2.0)))
    cell.finish()
    assert cell.width_m == pytest.approx(0.04, abs=0.003)


def pick_and_leave(start: Array) -> Motion:
    """Close on something of 40 mm in the time that it should take, then move."""
    move = reach(start, offset(0.2)).segments[0]
    assert isinstance(move, JointSegment)
    later = JointSegment(freeze(move.time_s + 0.8), move.q_rad)
    return Motion(PROFILE.name, (GripperSegment(0.0, 0.8, 0.0, 0.04), later), Effect("none"))


class Seen:
    """An arm of which each measured state is kept, and its clock; a busy machine keeps both waiting."""

    def __init__(self, cell: Cell) -> None:
        cell.tick_wall_s = _TICK_S  # the clock must not go on by leaps
        self.states: list[RobotState] = []
        self._cell, arm = cell, cell.arm
        self.execute, self.is_moving, self.stop = arm.execute, arm.is_moving, arm.stop
        self.has_gripped, self.go_on, self.now_ns = arm.has_gripped, arm.go_on, cell.graph.now_ns

    def state(self) -> RobotState:
        self.states.append(self._cell.arm.state())
        return self.states[-1]

    def sleep(self, seconds: float) -> None:
        end_ns = self.now_ns() + round(seconds * 1e9)
        while self.now_ns() < end_ns:
            time.sleep(0.0005)

    def run(self) -> executor.ExecutionReport:
        approved = self._cell.admit(pick_and_leave(self.state().q_rad))
        return executor.run(approved, self, self, self._cell.profile, Halt())


def test_the_arm_leaves_when_a_slow_gripper_has_closed_and_not_before(any_cell: Cell) -> None:
    any_cell.blocked_m, any_cell.finger_mps = 0.04, PROFILE.gripper.speed_mps / 8
    start, seen = any_cell.q_rad, Seen(any_cell)
    report = seen.run()
    assert report.is_finished, report
    moved = [s for s in seen.states if np.max(np.abs(s.q_rad - start)) > 0.01]
    assert moved
    assert max(s.gripper_width_m for s in moved) < 0.041
    assert report.seconds > 0.04 / any_cell.finger_mps


@pytest.mark.parametrize(
    ("profile", "blocked_m", "finger_mps", "reason"),
    [(PROFILE, 0.04, 0.004, "gripper_late"), (TOPICS, 0.066, 0.1, "grip_off")],
)
def test_the_arm_does_not_leave_a_gripper_that_does_not_close(
    profile: Any, blocked_m: float, finger_mps: float, reason: str
) -> None:
    fresh = Cell(profile)
    try:
        fresh.blocked_m, fresh.finger_mps = blocked_m, finger_mps
        time.sleep(0.02)
        start = fresh.q_rad
        report = Seen(fresh).run()
        assert report.reason == reason, report
        time.sleep(0.1)
        assert np.allclose(fresh.q_rad, start, atol=0.001)
    finally:
        fresh.close()


def test_segments_that_touch_travel_as_one_goal(cell: Cell) -> None:
    start = cell.arm.state().q_rad
    first = reach(start, offset(0.1)).segments[0]
    assert isinstance(first, JointSegment)
    second = JointSegment(first.time_s + 1.0, first.q_rad + np.array(offset(0.1)))
    goals: list[Any] = []
    accept, cancel = cell.graph._servers["joint_trajectory_controller/follow_joint_trajectory"]
    name = "joint_trajectory_controller/follow_joint_trajectory"
    cell.graph._servers[name] = (lambda goal, handle: goals.append(goal) or accept(goal, handle), cancel)
    cell.arm.execute(cell.admit(Motion(PROFILE.name, (first, second), Effect("none"))))
    cell.finish()
    assert len(goals) == 1
    assert cell.q_rad[0] == pytest.approx(start[0] + 0.2, abs=0.003)


def test_an_approval_moves_the_arm_once(cell: Cell) -> None:
    """The motion ends where it began, so that only the token tells the second time from the first."""
    start = cell.arm.state().q_rad
    approved = cell.admit(reach(start, [0.0] * len(start), 0.5))
    cell.arm.execute(approved)
    cell.finish()
    with pytest.raises(ExecutionError, match="used before"):
        cell.arm.execute(approved)


def test_stop_halts_it_where_it_is(any_cell: Cell) -> None:
    start = any_cell.arm.state().q_rad
    any_cell.arm.execute(any_cell.admit(longer(4.0, start)))
    while any_cell.q_rad[0] < start[0] + 0.1:
        time.sleep(0.001)
    any_cell.arm.stop()
    assert not any_cell.arm.is_moving()
    time.sleep(0.1)
    halted = any_cell.q_rad[0]
    assert halted < start[0] + 0.45
    time.sleep(0.1)
    assert any_cell.q_rad[0] == pytest.approx(halted, abs=1e-6)
    wait_until(lambda: not any_cell.arm.is_halting)
    assert "arm" not in any_cell.health.problems()


def wait_until(holds: Callable[[], bool], at_most_s: float = 10.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_stop_by_topic_is_a_point_that_a_real_controller_takes() -> None:
    cell = Cell(TOPICS)
    time.sleep(0.02)
    start = cell.arm.state().q_rad
    cell.arm.execute(cell.admit(longer(4.0, start)))
    wait_until(lambda: bool(cell.q_rad[0] > start[0] + 0.1))
    before = cell.arm.state()
    cell.arm.stop()
    (hold,) = [m for m in cell.graph.sent["joint_trajectory_controller/joint_trajectory"] if len(m.points) == 1]
    assert list(hold.joint_names) == [joint.name for joint in PROFILE.joints]
    assert list(hold.points[0].velocities) == [0.0] * 7
    ahead_rad = hold.points[0].positions[0] - before.q_rad[0]
    assert 0.0 <= ahead_rad <= before.dq_radps[0] * 0.3 + 0.01
    cell.close()


def test_an_arm_that_a_halt_does_not_stop_is_reported() -> None:
    cell = Cell(TOPICS)
    time.sleep(0.02)
    cell.arm.execute(cell.admit(longer(8.0, cell.arm.state().q_rad)))
    wait_until(lambda: bool(cell.arm.state().dq_radps[0] > 0.03))
    cell.server._on_topic = lambda message: None  # type: ignore[method-assign]
    cell.graph._callbacks["joint_trajectory_controller/joint_trajectory"] = []
    cell.arm.stop()
    wait_until(lambda: "arm" in cell.health.problems())
    assert "the arm did not stop within" in cell.health.problems()["arm"].text
    assert "rad/s" in cell.health.problems()["arm"].text
    assert cell.arm.is_halting
    cell.close()


def test_an_arm_that_swings_back_does_not_stand_when_it_turns_round() -> None:
    cell = Cell(TOPICS)
    rests_ns: list[int] = []
    cell.arm._on_rest = lambda: rests_ns.append(cell.graph.time_ns)
    held_rad, stop_s = float(cell.q_rad[0]), cell.graph.time_ns / 1e9
    # An arm that is commanded by effort overshoots: it passes through 0 rad/s several times before it rests.
    cell.swing = lambda now_s: 0.02 * math.exp(-(now_s - stop_s) / 0.4) * math.sin((now_s - stop_s) * 8.0)
    wait_until(lambda: abs(cell.arm.state().dq_radps[0]) > 0.05)
    cell.arm.stop()
    wait_until(lambda: bool(rests_ns))
    rested_s = rests_ns[0] / 1e9
    swing_radps = 0.02 * 8.0 * math.exp(-(rested_s - stop_s) / 0.4)
    assert swing_radps < 0.06, f"called at rest while it swings at up to {swing_radps:.3f} rad/s round {held_rad:.2f}"
    assert not cell.arm.is_halting
    cell.close()


def test_a_velocity_that_nobody_gives_is_measured(cell: Cell) -> None:
    cell.arm.execute(cell.admit(longer(2.0, cell.arm.state().q_rad)))
    time.sleep(0.1)
    first = cell.arm.state()
    time.sleep(0.02)
    second = cell.arm.state()
    measured = (second.q_rad[0] - first.q_rad[0]) / (second.stamp_ns - first.stamp_ns) * 1e9
    assert measured > 0.05
    assert second.dq_radps[0] == pytest.approx(measured, rel=0.5)
    assert second.dq_radps[1:] == pytest.approx(np.zeros(6), abs=1e-6)


def test_one_position_without_a_velocity_is_no_state_yet() -> None:
    fresh = Cell()
    fresh.close()
    arm = GraphArm(fresh.graph, PROFILE, fresh.health)
    fresh.publish_joints()
    with pytest.raises(ObservationError, match="no complete state"):
        arm.state()
    fresh.graph.time_ns += 10**7
    fresh.publish_joints()
    assert arm.state().dq_radps == pytest.approx(np.zeros(7))


def test_a_stop_before_the_motion_is_not_lost(any_cell: Cell) -> None:
    """The node latches its stop before it stops the arm; a motion that was admitted just before must not start."""
    any_cell.arm._why_halted = lambda: "stopped: smoke"
    start = any_cell.q_rad.copy()
    with pytest.raises(ExecutionError, match="stopped: smoke"):
        any_cell.arm.execute(any_cell.admit(longer(1.0, any_cell.arm.state().q_rad)))
    time.sleep(0.1)
    assert not any_cell.arm.is_moving()
    assert np.allclose(any_cell.q_rad, start)


def test_a_failure_while_the_motion_is_looked_at_is_not_taken_for_its_end(cell: Cell) -> None:
    class Failing:
        """A motion's thread that fails just when it is asked about."""

        def is_alive(self) -> bool:
            cell.arm._failure = "the controller of the arm refused the goal"
            return False

    cell.arm._thread = Failing()  # type: ignore[assignment]
    with pytest.raises(ExecutionError, match="refused the goal"):
        cell.arm.is_moving()
    cell.arm._thread = None


def test_a_missing_joint_is_named_and_nothing_moves() -> None:
    fresh = Cell()
    fresh.close()
    fresh.says_it_rests = True
    lonely = GraphArm(fresh.graph, PROFILE, fresh.health)
    fresh.publish_joints(["panda_joint1", "panda_joint2"])
    with pytest.raises(ObservationError, match="no complete state") as caught:
        lonely.state()
    assert caught.value.reason is ObservationReason.NO_STATE
    assert "panda_joint3" in fresh.health.problems()["joint_states"].text


def test_a_position_that_is_no_number_never_becomes_a_state(cell: Cell) -> None:
    cell.close()
    before = cell.arm.state()
    cell.q_rad = np.full(7, np.nan)
    cell.graph.time_ns += 10**6
    cell.publish_joints()
    assert cell.arm.state() is before
    assert "position of panda_joint1 is nan" in cell.health.problems()["joint_states"].text


def test_names_and_numbers_that_do_not_fit_are_named(cell: Cell) -> None:
    cell.graph.give(interface.JOINT_STATES, name=["a", "b"], position=[1.0])
    assert "2 names, 1 positions" in cell.health.problems()["joint_states"].text


def test_states_from_the_future_are_not_used() -> None:
    fresh = Cell()
    fresh.close()
    fresh.says_it_rests = True
    arm = GraphArm(fresh.graph, PROFILE, fresh.health)
    fresh.graph.time_ns += 10**10
    fresh.publish_joints()
    fresh.graph.time_ns -= 10**10
    with pytest.raises(ObservationError, match=r"10\.000 s in the future") as caught:
        arm.state()
    assert caught.value.reason is ObservationReason.NO_STATE


def test_one_state_from_the_future_does_not_hide_those_that_come_after_it() -> None:
    fresh = Cell()
    fresh.close()
    fresh.says_it_rests = True
    arm = GraphArm(fresh.graph, PROFILE, fresh.health)
    fresh.graph.time_ns += 10**17
    fresh.publish_joints()
    fresh.graph.time_ns -= 10**17
    fresh.publish_joints()
    assert arm.state().stamp_ns <= fresh.graph.time_ns


def test_an_unknown_controller_is_named(cell: Cell) -> None:
    cell.graph.drop_server("joint_trajectory_controller/follow_joint_trajectory")
    with pytest.raises(ExecutionError, match="no action server /joint_trajectory_controller/follow_joint_trajectory"):
        cell.arm.execute(cell.admit(longer(1.0, cell.arm.state().q_rad)))
    assert not cell.arm.is_moving()


def test_an_action_server_that_goes_in_the_middle_of_a_goal_ends_the_motion(cell: Cell) -> None:
    cell.arm.execute(cell.admit(longer(5.0, cell.arm.state().q_rad)))
    time.sleep(0.05)
    cell.graph.drop_server("joint_trajectory_controller/follow_joint_trajectory")
    with pytest.raises(ExecutionError, match="is gone in the middle of a goal"):
        cell.finish()
    assert "gone" in cell.health.problems()["arm"].text


def test_another_publisher_on_the_command_topic_forbids_motion() -> None:
    fresh = Cell(TOPICS)
    time.sleep(0.02)
    fresh.graph.foreign_publishers["joint_trajectory_controller/joint_trajectory"] = 1
    start = fresh.arm.state().q_rad
    with pytest.raises(ExecutionError, match="1 publishers besides this node; only one may command"):
        fresh.arm.execute(fresh.admit(longer(1.0, start)))
    fresh.close()
    assert np.allclose(fresh.q_rad, start)
    assert "joint_trajectory_controller/joint_trajectory" in fresh.health.problems()


def test_an_arm_that_is_pushed_off_its_path_is_given_up_with_the_controllers_code(cell: Cell) -> None:
    cell.arm.execute(cell.admit(longer(4.0, cell.arm.state().q_rad)))
    time.sleep(0.05)
    cell.push_rad = 0.3
    with pytest.raises(ExecutionError, match="ended aborted: -4 panda_joint1 is .* off the path"):
        cell.finish()


def test_a_motion_with_one_changed_number_is_rejected(cell: Cell) -> None:
    approved = cell.admit(reach(cell.arm.state().q_rad, offset(0.1)))
    with pytest.raises(ExecutionError, match="digest"):
        cell.arm.execute(replace(approved, motion=reach(cell.arm.state().q_rad, offset(0.1001))))


def test_an_expired_approval_is_rejected(cell: Cell) -> None:
    approved = cell.admit(reach(cell.arm.state().q_rad, offset(0.1)))
    with pytest.raises(ExecutionError, match="expired"):
        cell.arm.execute(replace(approved, expires_ns=approved.expires_ns - 10**12))


def test_a_motion_from_elsewhere_is_rejected(cell: Cell) -> None:
    with pytest.raises(ExecutionError, match="first point"):
        cell.arm.execute(cell.admit(reach(cell.arm.state().q_rad + 0.05, offset(0.1))))


def test_a_second_motion_is_rejected_while_one_runs(cell: Cell) -> None:
    approved = cell.admit(longer(3.0, cell.arm.state().q_rad))
    cell.arm.execute(approved)
    with pytest.raises(ExecutionError, match="moving"):
        cell.arm.execute(approved)
    cell.arm.stop()


def test_joints_that_somebody_makes_up_neither_fill_the_memory_nor_hide_the_arm(cell: Cell) -> None:
    take = cell.graph._callbacks["joint_states"][0]
    zeros = np.zeros(JOINTS)
    for wave in range(20):
        names = [f"made_up_{wave}_{i}" for i in range(JOINTS)]
        take(joint_state_message(cell.graph.message, names, zeros, zeros, cell.graph.time_ns))
    assert len(cell.arm._joints._joints) <= JOINTS + len(PROFILE.joints) + len(PROFILE.gripper.joints)
    time.sleep(0.02)
    assert cell.arm.state().q_rad == pytest.approx(cell.q_rad, abs=0.01)
    more = [f"j{i}" for i in range(JOINTS + 1)]
    with pytest.raises(ObservationError, match=f"more than {JOINTS} joints"):
        joints_from_message(joint_state_message(cell.graph.message, more, np.zeros(len(more)), np.zeros(len(more)), 0))


ARM = "joint_trajectory_controller/follow_joint_trajectory"


def test_a_goal_of_another_client_forbids_a_motion(cell: Cell) -> None:
    cell.graph.foreign_goals[ARM] = 1
    with pytest.raises(ExecutionError, match="1 goals that this node did not send; only one may command the arm"):
        cell.arm.execute(cell.admit(longer(1.0, cell.arm.state().q_rad)))
    assert ARM in cell.health.problems()
    assert not cell.arm.is_moving()


def test_a_goal_of_another_client_ends_a_motion(cell: Cell) -> None:
    cell.arm.execute(cell.admit(longer(5.0, cell.arm.state().q_rad)))
    time.sleep(0.05)
    assert cell.arm.is_moving()
    cell.graph.foreign_goals["gripper_controller/gripper_cmd"] = 1
    time.sleep(0.05)
    assert cell.arm.is_moving()  # this motion has no goal there
    cell.graph.foreign_goals[ARM] = 1
    with pytest.raises(ExecutionError, match="did not send"):
        cell.finish()
    wait_until(lambda: not cell.arm.is_halting)


def test_another_client_that_could_send_a_goal_is_named_and_forbids_nothing(cell: Cell) -> None:
    cell.graph.other_clients[ARM] = 1
    cell.arm.execute(cell.admit(reach(cell.arm.state().q_rad, offset(0.05), 0.5)))
    assert "1 clients besides this node" in cell.health.problems()[ARM].text
    cell.finish()
    cell.graph.other_clients.clear()
    cell.arm.execute(cell.admit(reach(cell.arm.state().q_rad, offset(0.05), 0.5)))
    assert ARM not in cell.health.problems()
    cell.finish()


def test_after_a_jump_back_of_the_clock_the_new_states_count(cell: Cell) -> None:
    before = cell.arm.state()
    cell.graph.time_ns -= 60 * 10**9
    cell.arm.forget()
    wait_until(lambda: cell.arm._joints.newest() is not None)
    wait_until(lambda: cell.arm.state().stamp_ns < before.stamp_ns - 50 * 10**9)


@pytest.mark.parametrize("form", [PROFILE, TOPICS], ids=["actions", "topics"])
def test_a_jump_in_the_middle_of_a_motion_halts_it_and_the_halt_is_confirmed(form: Any) -> None:
    cell = Cell(form)
    time.sleep(0.02)
    start = cell.arm.state().q_rad
    cell.arm.execute(cell.admit(longer(8.0, start)))
    wait_until(lambda: bool(cell.q_rad[0] > start[0] + 0.05))
    cell.graph.time_ns -= 60 * 10**9
    cell.arm.stop()
    cell.arm.forget()
    assert not cell.arm.is_moving()
    wait_until(lambda: not cell.arm.is_halting)
    cell.close()


def test_controllers_may_live_in_a_namespace_of_their_own() -> None:
    names = Controllers(arm="/left/arm_controller", gripper="/left/hand")
    fresh = Cell(PROFILE.model_copy(update={"controllers": names}))
    try:
        fresh.arm.execute(fresh.admit(reach(fresh.arm.state().q_rad, offset(0.1))))
        fresh.finish()
        fresh.graph.drop_server("/left/hand/gripper_cmd")
        with pytest.raises(ExecutionError, match="no action server /left/hand/gripper_cmd"):
            fresh.arm.execute(fresh.admit(reach(fresh.arm.state().q_rad, offset(0.1))))
    finally:
        fresh.close()
