"""What programs ask of the node: tasks and motions as goals, a check as a service; each refusal has its reason."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.foreign import motion_of
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.messages import (
    ApprovalMode,
    Cause,
    Instruction,
    InstructionSource,
    Outcome,
    OutcomeKind,
    Rehearsed,
    RobotState,
    TaskReport,
    Violation,
    freeze,
)
from qwen2vl_robot.nodes import programs
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.reasons import AbortReason, RefusalReason, RequestReason, TrajectoryReason, ViolationKind
from qwen2vl_robot.task import refused
from tests.cells import PROFILE, reach, rehearsed
from tests.nodes.local_graph import LocalGraph, Sent
from tests.nodes.test_controller_node import Cell

NAMES = [joint.name for joint in PROFILE.joints]
HOME = np.array(PROFILE.home_q_rad)
REST = RobotState(0, freeze(HOME), freeze(np.zeros(7)), 0.08)
ACHIEVED = Outcome(OutcomeKind.ACHIEVED)


class Flow:
    """A controller that ends as a test says, once the test lets it."""

    believed = None

    def __init__(self, cell: Cell) -> None:
        self._halt = cell.node.halt
        self.foreign = self
        self.given: list[Any] = []
        self.ends: Callable[[], Any] = lambda: ACHIEVED
        self.may_end = threading.Event()
        self.may_end.set()
        self.modes: list[ApprovalMode] = []
        self._approver = cell.node.approver

    def run(self, instruction: Instruction) -> TaskReport:
        return TaskReport(instruction, self.execute(instruction), (), (), {})

    def execute(self, given: Any, on_refused: Callable[[Any], None] = lambda rehearsed: None) -> Outcome:
        with self._halt.task():
            found = self.check(given)
            if isinstance(found, Rehearsed):
                on_refused(found)
                return refused(found.verdict)
        outcome: Outcome = found
        return outcome

    def check(self, given: Any) -> Any:
        self.given.append(given)
        self.modes.append(self._approver._demanded)
        end_s = time.monotonic() + 20.0
        while not self.may_end.wait(0.005) and self._halt.cause() is None:
            assert time.monotonic() < end_s
        halted = self._halt.cause()
        return self.ends() if halted is None else Outcome(OutcomeKind.ABORTED, (Cause(halted.reason, halted.text),))


class Desk:
    """A node whose flow is the test's, and a program that asks it."""

    def __init__(self, **settings: Any) -> None:
        self.cell = Cell(**settings)
        self.graph = self.cell.graph
        self.flow = Flow(self.cell)
        self.cell.node._controller = self.flow  # type: ignore[assignment]
        self.cell.node.status.configured()
        self.cell.node.activate()
        self.feedback: list[Any] = []
        self.spinning = threading.Thread(target=self.cell.node.spin)
        self.spinning.start()

    def close(self) -> None:
        self.flow.may_end.set()
        self.cell.close()
        self.spinning.join(20.0)
        assert not self.spinning.is_alive()

    def goal(self, action: interface.ActionInterface, **fields: Any) -> Sent:
        message = self.graph.message(f"{action.type}_Goal")(**fields)
        sent: Sent = self.graph.action_client(action).send(message, self.feedback.append)
        return sent

    def task(self, text: str = "pick up the red block", **fields: Any) -> Sent:
        return self.goal(interface.EXECUTE, instruction=text, **fields)

    def result(self, sent: Sent) -> tuple[GoalStatus, Any]:
        wait(lambda: sent.ended is not None)
        assert sent.ended is not None
        return sent.ended

    def check(self, **fields: Any) -> Any:
        return self.graph.call(interface.CHECK_TRAJECTORY, **fields)


def wait(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def trajectory(desk: Desk, rows: Any = None, **fields: Any) -> Any:
    """As MoveIt sends it: from where the arm is, with velocities and accelerations."""
    make = desk.graph.message
    point, duration = make("trajectory_msgs/msg/JointTrajectoryPoint"), make("builtin_interfaces/msg/Duration")
    q_rad = np.linspace(HOME, HOME + 0.1, 3) if rows is None else rows
    points = [
        point(
            positions=list(row), velocities=[0.0] * len(row), accelerations=[0.0] * len(row),
            time_from_start=duration(sec=k),
        )
        for k, row in enumerate(q_rad)
    ]  # fmt: skip
    head = make("std_msgs/msg/Header")(frame_id=PROFILE.base_link)
    return make("trajectory_msgs/msg/JointTrajectory")(
        **{"header": head, "joint_names": NAMES, "points": points, **fields}
    )


# ------------------------------------------------------------------------------------------------- a task


def test_a_task_ends_with_its_outcome_as_the_result(desk: Desk) -> None:
    sent = desk.task(" pick up the red block ")
    status, result = desk.result(sent)
    assert sent.is_accepted
    assert (status, result.outcome, result.reason) == (GoalStatus.SUCCEEDED, "achieved", "")
    assert json.loads(result.report)["instruction"] == "pick up the red block"
    assert desk.flow.given[0].source is InstructionSource.TEXT
    assert desk.cell.status()["last_task"] == json.loads(result.report)


def test_a_refused_task_says_its_typed_reason_and_its_sentence(desk: Desk) -> None:
    desk.flow.ends = lambda: Outcome(OutcomeKind.REFUSED, (Cause(RefusalReason.STALE_STATE, "0.9 s old"),))
    status, result = desk.result(desk.task())
    assert (status, result.outcome, result.reason, result.text) == (
        GoalStatus.ABORTED, "refused", "stale_state", "0.9 s old",
    )  # fmt: skip


@pytest.mark.parametrize(("word", "source"), [("", "text"), ("voice", "voice"), ("agent", "agent")])
def test_whose_words_they_are_goes_with_them(desk: Desk, word: str, source: str) -> None:
    desk.result(desk.task(source=word))
    assert desk.flow.given[0].source.value == source


def test_feedback_tells_the_step_the_verdict_and_the_digest_that_is_awaited(desk: Desk) -> None:
    node = desk.cell.node
    node.approver._mode = ApprovalMode.CONFIRM
    step = rehearsed(reach(HOME, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)

    def ask() -> Outcome:
        answer = node.approver.approve(step, ())
        return Outcome(OutcomeKind.ACHIEVED if hasattr(answer, "token") else OutcomeKind.REFUSED)

    desk.flow.ends = ask
    sent = desk.task()
    wait(lambda: desk.feedback and desk.feedback[-1].awaits)
    last = desk.feedback[-1]
    assert (last.doing, json.loads(last.verdict)["digest"]) == ("admit", last.awaits)
    answer = desk.graph.call(interface.APPROVE_NOW, digest="ab" * 32)
    assert not answer.accepted and "another digest" in answer.text
    answer = desk.graph.call(interface.APPROVE_NOW, digest=last.awaits)
    assert (answer.accepted, answer.text) == (True, "approved")
    assert desk.result(sent)[1].outcome == "achieved"
    answer = desk.graph.call(interface.APPROVE_NOW, digest=last.awaits)
    assert (answer.accepted, answer.text) == (False, "nothing awaits an approval")
    desk.flow.ends, told = lambda: ACHIEVED, len(desk.feedback)
    desk.result(desk.task("go home"))
    assert desk.feedback[told].verdict == ""  # of this task there is none yet


def test_a_cancel_ends_the_task_halts_the_arm_and_says_so(desk: Desk) -> None:
    desk.flow.may_end.clear()
    halts: list[int] = []
    desk.cell.node.arm.stop = lambda: halts.append(1)  # type: ignore[method-assign]
    sent = desk.task()
    wait(lambda: desk.flow.given)
    sent.cancel()
    status, result = desk.result(sent)
    assert halts
    assert (status, result.reason) == (GoalStatus.CANCELED, "cancelled")
    assert "cancelled by the client of ~/execute" in result.text


def test_a_cancel_of_a_goal_that_has_ended_ends_no_other_task(desk: Desk) -> None:
    first = desk.task()
    desk.result(first)
    desk.flow.may_end.clear()
    second = desk.task("go home")
    first.cancel()
    assert desk.cell.node.halt.cause() is None
    desk.flow.may_end.set()
    assert desk.result(second)[0] is GoalStatus.SUCCEEDED


def test_a_stop_is_no_cancel(desk: Desk) -> None:
    desk.flow.may_end.clear()
    sent = desk.task()
    desk.graph.give(interface.STOP, data=True)
    status, result = desk.result(sent)
    assert (status, result.reason) == (GoalStatus.ABORTED, "stopped")
    assert desk.cell.status()["state"] == "stopped"


def test_a_second_goal_is_refused_with_the_reason_and_the_first_goes_on(desk: Desk) -> None:
    desk.flow.may_end.clear()
    first = desk.task()
    for second in (desk.task("go home"), desk.goal(interface.EXECUTE_TRAJECTORY, joint_trajectory=trajectory(desk))):
        status, result = desk.result(second)
        assert (status, result.outcome, result.reason) == (GoalStatus.ABORTED, "refused", RequestReason.BUSY)
        assert "another task is under way" in result.text
        second.cancel()
    assert desk.cell.node.halt.cause() is None
    desk.flow.may_end.set()
    assert desk.result(first)[0] is GoalStatus.SUCCEEDED
    assert len(desk.flow.given) == 1


BAD = [
    ({"instruction": ""}, RequestReason.BAD_REQUEST),
    ({"instruction": "a\x00b"}, RequestReason.BAD_REQUEST),
    ({"instruction": "x" * 1_000_000}, RequestReason.BAD_REQUEST),
    ({"source": "person"}, RequestReason.BAD_REQUEST),
    ({"source": "check"}, RequestReason.BAD_REQUEST),
    ({"source": "trajectory"}, RequestReason.BAD_REQUEST),
    ({"approval": "yes"}, RequestReason.BAD_REQUEST),
    ({"instruction": "stop"}, RefusalReason.STOPPED),
]


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_what_is_no_task_is_refused_with_a_reason(desk: Desk, fields: dict[str, str], reason: Any) -> None:
    status, result = desk.result(desk.goal(interface.EXECUTE, **{"instruction": "go home", **fields}))
    assert (status, result.outcome, result.reason) == (GoalStatus.ABORTED, "refused", str(reason))
    assert 0 < len(result.text) < 600
    assert desk.flow.given == []
    assert desk.cell.status()["refused_instructions"] == 1


@pytest.mark.parametrize("source", ["text", "voice", "agent", "nobody"])
def test_a_stop_word_in_a_goal_latches_a_stop(desk: Desk, source: str) -> None:
    desk.result(desk.task("stop!", source=source))
    assert desk.cell.node.stopped_by()
    status, result = desk.result(desk.task("go home"))
    assert (status, result.reason) == (GoalStatus.ABORTED, "stopped")
    assert "~/reset" in result.text
    assert desk.flow.given == []


def test_an_inactive_node_takes_nothing(desk: Desk) -> None:
    desk.cell.node.deactivate()
    assert desk.result(desk.task())[1].reason == RequestReason.INACTIVE
    assert desk.check(joint_trajectory=trajectory(desk)).reason == RequestReason.INACTIVE


def test_without_a_fitting_description_nothing_is_taken(desk: Desk) -> None:
    desk.graph.give(interface.ROBOT_DESCRIPTION, data="<sdf/>")
    assert desk.result(desk.task())[1].reason == RequestReason.DESCRIPTION


def test_without_a_supervisor_nothing_is_taken(desk: Desk) -> None:
    desk.cell.supervisor.close()
    assert desk.result(desk.task())[1].reason == RefusalReason.NO_SUPERVISOR


@pytest.mark.parametrize(
    ("own", "asked", "reason"),
    [
        ("auto", "confirm", ""),
        ("auto", "never", ""),
        ("confirm", "confirm", ""),
        ("confirm", "auto", RequestReason.LESS_APPROVAL),
        ("never", "confirm", RequestReason.LESS_APPROVAL),
    ],
)
def test_a_goal_may_ask_for_more_approval_and_never_for_less(own: str, asked: str, reason: str) -> None:
    desk = Desk(approval=ApprovalMode(own))
    try:
        motion = {"joint_trajectory": trajectory(desk)}
        for action, fields in ((interface.EXECUTE, {"instruction": "go home"}), (interface.EXECUTE_TRAJECTORY, motion)):
            assert desk.result(desk.goal(action, approval=asked, **fields))[1].reason == reason
            desk.result(desk.task("go home"))
        expected = [ApprovalMode(asked), ApprovalMode.AUTO] * 2  # what a goal asks for counts for that goal
        assert desk.flow.modes == (expected if not reason else [ApprovalMode.AUTO] * 2)
    finally:
        desk.close()


def test_a_task_that_breaks_ends_its_goal_too(desk: Desk) -> None:
    def fail() -> None:
        raise ValueError("never expected")

    desk.flow.ends = fail
    status, result = desk.result(desk.task())
    assert (status, result.outcome, result.reason) == (GoalStatus.ABORTED, "aborted", AbortReason.BROKEN)


@pytest.mark.parametrize("action", [interface.EXECUTE, interface.EXECUTE_TRAJECTORY])
def test_a_task_that_breaks_before_it_begins_is_over_too(desk: Desk, action: interface.ActionInterface) -> None:
    def fail(*given: Any) -> Any:
        raise ValueError("never expected")

    works = desk.flow.run, desk.flow.execute
    desk.flow.run = desk.flow.execute = fail  # type: ignore[method-assign, assignment]
    fields = {"instruction": "go home"} if action is interface.EXECUTE else {"joint_trajectory": trajectory(desk)}
    assert desk.result(desk.goal(action, **fields))[1].reason == AbortReason.BROKEN
    desk.flow.run, desk.flow.execute = works  # type: ignore[method-assign]
    assert desk.result(desk.task())[0] is GoalStatus.SUCCEEDED


def test_an_end_of_the_node_ends_the_goal(desk: Desk) -> None:
    desk.flow.may_end.clear()
    sent = desk.task()
    desk.cell.node.end_spin()
    status, result = desk.result(sent)
    assert (status, result.reason) == (GoalStatus.ABORTED, "cancelled")


def test_without_our_messages_topics_alone_are_served() -> None:
    class Bare(LocalGraph):
        def __init__(self) -> None:
            super().__init__()
            self.lacks = ("qwen2vl_robot_msgs", "moveit_msgs")

    graph = Bare()
    node = ControllerNode(graph, Settings())
    try:
        assert interface.CHECK_TRAJECTORY.name not in graph.services
        assert interface.APPROVE_NOW.name not in graph.services
        assert interface.EXECUTE.name not in graph._servers
        assert interface.RESET.name in graph.services
    finally:
        node.close()


def test_nobody_but_a_persons_tools_can_say_yes() -> None:
    """Voice and agents have no way to: they name neither topic nor service, and do not use a person's tool for it."""
    package = Path(programs.__file__).parents[1]
    texts = {f.relative_to(package).as_posix(): f.read_text(encoding="utf-8") for f in package.rglob("*.py")}
    says_yes = {name for name, text in texts.items() if re.search(r"\binterface\.APPROVE(_NOW)?\b", text)}
    assert says_yes == {"nodes/answers.py", "nodes/shell.py"}
    for name in ("nodes/agent.py", "nodes/agent_server.py", "nodes/voice.py", "nodes/programs.py"):
        assert not re.search(r"\.(approve|answer)\(", texts[name]), name


# --------------------------------------------------------------------------------------- motions of others


def test_a_motion_gets_its_verdict_and_nothing_is_executed(desk: Desk) -> None:
    step = rehearsed(reach(HOME, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)
    desk.flow.ends = lambda: step
    answer = desk.check(joint_trajectory=trajectory(desk))
    assert (answer.accepted, answer.reason) == (True, "")
    assert json.loads(answer.verdict)["accepted"]
    (given,) = desk.flow.given
    assert given.joint_names == tuple(NAMES)
    assert np.allclose(given.positions_rad, np.linspace(HOME, HOME + 0.1, 3))
    assert given.time_s == [0.0, 1.0, 2.0]
    task = desk.cell.status()["last_task"]
    assert (task["source"], task["outcome"], task["reasons"]) == (
        "trajectory", "answered", ["the twin accepts it; nothing moved"],
    )  # fmt: skip
    assert desk.graph.sent["~/verdict"]
    assert not any("follow_joint_trajectory" in name for name in desk.graph.goals)


def test_a_check_that_is_refused_before_the_twin_says_why(desk: Desk) -> None:
    desk.flow.ends = lambda: Outcome(OutcomeKind.REFUSED, (Cause(TrajectoryReason.START, "0.3 rad away"),))
    answer = desk.check(joint_trajectory=trajectory(desk))
    assert (answer.accepted, answer.reason, answer.text, answer.verdict) == (
        False, "trajectory_start", "0.3 rad away", "",
    )  # fmt: skip


def test_a_motion_is_run_and_its_outcome_is_the_result(desk: Desk) -> None:
    status, result = desk.result(desk.goal(interface.EXECUTE_TRAJECTORY, joint_trajectory=trajectory(desk)))
    assert (status, result.outcome) == (GoalStatus.SUCCEEDED, "achieved")
    assert json.loads(result.report)["source"] == "trajectory"


def test_a_motion_that_the_twin_refuses_has_its_verdict_published(desk: Desk) -> None:
    step = rehearsed(reach(HOME, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)
    wall = Violation(ViolationKind.COLLISION, 0.5, ("panda_hand", "wall"), 0.003, "m")
    step = replace(step, verdict=replace(step.verdict, accepted=False, violations=(wall,)))
    desk.flow.ends = lambda: step
    sent = desk.goal(interface.EXECUTE_TRAJECTORY, joint_trajectory=trajectory(desk))
    status, result = desk.result(sent)
    assert (status, result.outcome, result.reason) == (GoalStatus.ABORTED, "refused", ViolationKind.COLLISION)
    said = json.loads(desk.graph.sent["~/verdict"][-1].data)
    assert not said["accepted"]
    assert "panda_hand" in json.dumps(said["violations"]) and "wall" in json.dumps(said["violations"])
    assert desk.graph.sent["~/rehearsal"]
    assert not any("follow_joint_trajectory" in name for name in desk.graph.goals)


def test_a_latched_stop_refuses_checks_and_motions(desk: Desk) -> None:
    desk.graph.give(interface.STOP, data=True)
    assert desk.check(joint_trajectory=trajectory(desk)).reason == "stopped"
    assert (
        desk.result(desk.goal(interface.EXECUTE_TRAJECTORY, joint_trajectory=trajectory(desk)))[1].reason == "stopped"
    )
    assert desk.flow.given == []


def test_a_check_while_a_task_runs_is_refused(desk: Desk) -> None:
    desk.flow.may_end.clear()
    desk.task()
    answer = desk.check(joint_trajectory=trajectory(desk))
    assert (answer.accepted, answer.reason) == (False, RequestReason.BUSY)


def test_a_check_that_takes_too_long_is_given_up_and_nothing_stays_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_SLACK_S", -69.9)
    desk.flow.may_end.clear()
    answer = desk.check(joint_trajectory=trajectory(desk))
    assert (answer.accepted, answer.reason) == (False, RequestReason.LATE)
    wait(lambda: not desk.cell.node.halt.has_task)
    desk.flow.may_end.set()
    assert desk.result(desk.task())[0] is GoalStatus.SUCCEEDED


def test_a_node_that_records_takes_no_motion_of_others() -> None:
    desk = Desk(record="bags")
    try:
        assert desk.check(joint_trajectory=trajectory(desk)).reason == RequestReason.UNRECORDED
        sent = desk.goal(interface.EXECUTE_TRAJECTORY, joint_trajectory=trajectory(desk))
        assert desk.result(sent)[1].reason == RequestReason.UNRECORDED
        assert desk.flow.given == []
    finally:
        desk.close()


def many(desk: Desk) -> Any:
    point = desk.graph.message("trajectory_msgs/msg/JointTrajectoryPoint")(positions=[0.0] * 7)
    return trajectory(desk, points=[point] * 10_001)


def stamped(desk: Desk, age_s: int) -> Any:
    stamp = desk.graph.message("builtin_interfaces/msg/Time")(sec=desk.graph.time_ns // 10**9 - age_s)
    return trajectory(desk, header=desk.graph.message("std_msgs/msg/Header")(stamp=stamp))


LIARS: list[tuple[Callable[[Desk], Any], TrajectoryReason]] = [
    (many, TrajectoryReason.POINTS),
    (lambda desk: trajectory(desk, joint_names=["a"] * 300), TrajectoryReason.POINTS),
    (lambda desk: stamped(desk, 60), TrajectoryReason.TIMES),
    (lambda desk: stamped(desk, -60), TrajectoryReason.TIMES),
]


@pytest.mark.parametrize(("make", "reason"), LIARS)
def test_what_only_a_message_can_be_is_refused_before_the_flow(
    desk: Desk, make: Callable[[Desk], Any], reason: TrajectoryReason
) -> None:
    answer = desk.check(joint_trajectory=make(desk))
    assert (answer.accepted, answer.reason) == (False, reason)
    assert desk.flow.given == []


def test_a_stamp_of_just_now_is_fine(desk: Desk) -> None:
    desk.flow.ends = lambda: rehearsed(reach(HOME, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)
    assert desk.check(joint_trajectory=stamped(desk, 2)).accepted


def test_a_motion_of_joints_with_several_degrees_of_freedom_is_refused(desk: Desk) -> None:
    other = desk.graph.message("trajectory_msgs/msg/MultiDOFJointTrajectory")(joint_names=["base"])
    answer = desk.check(joint_trajectory=trajectory(desk), multi_dof_joint_trajectory=other)
    assert (answer.accepted, answer.reason) == (False, TrajectoryReason.JOINTS)


def test_velocities_that_only_some_points_have_are_passed_on_to_be_refused(desk: Desk) -> None:
    given = trajectory(desk)
    given.points[1].velocities = []
    desk.flow.ends = lambda: rehearsed(reach(HOME, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)
    desk.check(joint_trajectory=given)
    refusal = motion_of(desk.flow.given[0], REST, PROFILE)
    assert getattr(refusal, "reason", None) is TrajectoryReason.POINTS
