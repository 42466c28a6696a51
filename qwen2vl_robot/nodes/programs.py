"""What programs ask of the node → tasks and motions as goals of actions, and a motion checked as a service.

A goal that is not taken is accepted and ends at once: ROS 2 tells a client whose goal is rejected no reason, and a
result has one. Nothing here depends on a client: one that dies leaves its task as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from qwen2vl_robot.approval import STRICTNESS
from qwen2vl_robot.bounds import VALUE_CHARS, shown
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.foreign import ForeignTrajectory
from qwen2vl_robot.foreign_task import ForeignMotions
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalHandle, GoalStatus, Message
from qwen2vl_robot.graph.trajectories import foreign_trajectory
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    ApprovalMode,
    Cause,
    Instruction,
    InstructionSource,
    Outcome,
    OutcomeKind,
    Refusal,
    Rehearsed,
    TaskReport,
    Verdict,
)
from qwen2vl_robot.nodes.jobs import Flow, Job, Jobs
from qwen2vl_robot.nodes.recording import Session
from qwen2vl_robot.nodes.reports import StatusReport, task_outcome, verdict_report
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.reading import asks_to_stop
from qwen2vl_robot.reasons import RefusalReason, RequestReason, TaskReason
from qwen2vl_robot.task import refused

_log = logging.getLogger(__name__)
_SOURCES = {s.value: s for s in (InstructionSource.TEXT, InstructionSource.VOICE, InstructionSource.AGENT)}
_DONE = (OutcomeKind.ACHIEVED, OutcomeKind.ANSWERED)
_SLACK_S = 30.0  # of a check beside its rehearsal and its frame: to measure the scene on a busy machine
_A_MOTION = "a motion of another program"


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a goal asks for, read and checked."""

    instruction: Instruction
    run: Callable[[Flow], TaskReport]
    approval: ApprovalMode | None


class Programs:
    """Serves the actions and the check; without the package qwen2vl_robot_msgs beside rclpy it serves none of them.

    Args:
        show: displays a motion that was checked, or refused on its way to the arm.
        stop: latches a stop and halts the arm.
        halt_arm: brings the arm to rest; called after a cancel.
    """

    def __init__(
        self,
        graph: interface.Graph,
        settings: Settings,
        jobs: Jobs,
        halt: Halt,
        *,
        show: Callable[[Rehearsed], None],
        stop: Callable[[str], object],
        halt_arm: Callable[[], None],
    ) -> None:
        self._graph, self._settings, self._jobs, self._halt = graph, settings, jobs, halt
        self._show, self._stop = show, stop
        if not graph.has_type(interface.EXECUTE.type):
            _log.warning("the package qwen2vl_robot_msgs is missing: %s is not served", interface.EXECUTE.name)
            return
        for action, read in ((interface.EXECUTE, self._task), (interface.EXECUTE_TRAJECTORY, self._motion)):
            served = _Action(graph, action, jobs, read, halt_arm)
            graph.serve_action(action, served.accept, served.cancel)
        graph.serve(interface.CHECK_TRAJECTORY, self._check)

    # ------------------------------------------------------------------------------------------- what is asked

    def _task(self, goal: Message) -> Wanted | Cause:
        """Read a task; one that begins with a stop word stops, as the topic's does."""
        if asks_to_stop(goal.instruction):  # first: whoever says it, and whatever else is wrong
            self._stop(f"goal {shown(goal.instruction, VALUE_CHARS)!r}")
            return Cause(RefusalReason.STOPPED, "the instruction is a stop; release it with ~/reset")
        source = _SOURCES.get(goal.source or InstructionSource.TEXT.value)
        if source is None:
            text = f"source {shown(goal.source, VALUE_CHARS)!r}; allowed: {', '.join(_SOURCES)}"
            return Cause(RequestReason.BAD_REQUEST, text)
        try:
            instruction = Instruction(goal.instruction, source)
        except BadInputError as error:
            return Cause(RequestReason.BAD_REQUEST, str(error))
        approval = self._stricter(goal.approval)
        return approval if isinstance(approval, Cause) else Wanted(instruction, lambda f: f.run(instruction), approval)

    def _motion(self, goal: Message) -> Wanted | Cause:
        given, approval = self._read(goal), self._stricter(goal.approval)
        if isinstance(given, Cause):
            return given
        if isinstance(approval, Cause):
            return approval
        instruction = Instruction(f"execute {_A_MOTION}", InstructionSource.TRAJECTORY)

        def run(flow: Flow) -> TaskReport:
            began_s = time.perf_counter()
            outcome = self._foreign(flow).execute(given, self._show)
            return TaskReport(instruction, outcome, (), (), {"execute": time.perf_counter() - began_s})

        return Wanted(instruction, run, approval)

    def _stricter(self, word: str) -> ApprovalMode | Cause | None:
        """The approval that a goal asks for; less than the node's own is refused, not ignored."""
        if not word:
            return None
        allowed = STRICTNESS[STRICTNESS.index(self._settings.approval) :]
        known = {mode.value: mode for mode in STRICTNESS}.get(word)
        listed = ", ".join(mode.value for mode in allowed)
        if known is None:
            return Cause(RequestReason.BAD_REQUEST, f"approval {shown(word, VALUE_CHARS)!r}; allowed: {listed}")
        if known not in allowed:
            text = f"approval {known.value}; the node is set to {self._settings.approval.value}; allowed: {listed}"
            return Cause(RequestReason.LESS_APPROVAL, text)
        return known

    def _read(self, message: Message) -> ForeignTrajectory | Cause:
        if self._settings.record:
            text = "the node records its decisions (parameter `record`), and a replay knows no motions of others"
            return Cause(RequestReason.UNRECORDED, text)
        return foreign_trajectory(message, self._graph.now_ns())

    def _foreign(self, flow: Flow) -> ForeignMotions:
        if isinstance(flow, Session):
            raise RobotError("a motion of another program reached a flow that is recorded")
        return flow.foreign

    # -------------------------------------------------------------------------------------------------- a check

    def _check(self, request: Message) -> Message:
        """Have the flow rehearse a motion, and wait for its verdict."""
        given = self._read(request)
        if isinstance(given, Cause):
            return self._say(given)
        instruction = Instruction(f"check {_A_MOTION}", InstructionSource.TRAJECTORY)
        found: list[Rehearsed | Outcome] = []
        is_over = threading.Event()

        def run(flow: Flow) -> TaskReport:
            with self._halt.task():
                checked = self._foreign(flow).check(given)
            found.append(checked)
            if isinstance(checked, Rehearsed):
                self._show(checked)
                checked = _told(checked.verdict)
            _log.info("%s: %s: %s", instruction.text, checked.kind.value, "; ".join(checked.reasons))
            return TaskReport(instruction, checked, (), (), {})

        def end(report: TaskReport) -> None:
            found.append(report.outcome)
            is_over.set()

        job = Job(instruction, run, on_end=end)
        cause = self._jobs.take(job)
        if cause is not None:
            return self._say(cause)
        settings = self._settings
        within_s = settings.rehearsal_budget_s + settings.frame_timeout_s + _SLACK_S
        if not is_over.wait(within_s):
            self._jobs.cancel(job, "the check took too long")
            return self._say(Cause(RequestReason.LATE, f"no verdict came within {within_s:g} s"))
        return self._say(found[0])

    def _say(self, found: Rehearsed | Outcome | Cause) -> Message:
        """Make the answer of a check; only an accepting verdict is one that is accepted."""
        kind = self._graph.message(f"{interface.CHECK_TRAJECTORY.type}_Response")
        if isinstance(found, Cause):
            return kind(accepted=False, reason=str(found.reason), text=found.text)
        if isinstance(found, Outcome):
            return kind(accepted=False, reason=str(found.reason or ""), text="; ".join(found.reasons))
        verdict, violations = found.verdict, found.verdict.violations
        report = verdict_report(verdict, "move the arm", found.motion.duration_s, asks=False)
        reason = str(violations[0].kind) if violations else "" if verdict.accepted else str(RefusalReason.NOT_ACCEPTED)
        text = verdict.explanation or "; ".join(v.describe() for v in violations)
        return kind(accepted=verdict.accepted, reason=reason, text=text, verdict=report.model_dump_json())


def _told(verdict: Verdict) -> Outcome:
    """What the status says of a check: the question was answered, or why the twin refuses."""
    if verdict.accepted:
        return Outcome(OutcomeKind.ANSWERED, (Cause(TaskReason.ANSWERED, "the twin accepts it; nothing moved"),))
    return refused(verdict)


class _Action:
    """Goals of one action → jobs, their progress as feedback and their end as a result."""

    def __init__(
        self,
        graph: interface.Graph,
        action: interface.ActionInterface,
        jobs: Jobs,
        read: Callable[[Message], Wanted | Cause],
        halt_arm: Callable[[], None],
    ) -> None:
        self._jobs, self._read, self._halt_arm, self._name = jobs, read, halt_arm, action.name
        self._result = graph.message(f"{action.type}_Result")
        self._feedback = graph.message(f"{action.type}_Feedback")
        self._running: dict[int, _Goal] = {}  # by the handle's identity

    def accept(self, message: Message, handle: GoalHandle) -> bool:
        """Take a goal, or end it at once with the reason."""
        wanted = self._read(message)
        if isinstance(wanted, Cause):
            self._jobs.refuse(f"not taken: {wanted.text}")
            self._refuse(handle, wanted)
            return True
        goal = _Goal(handle, self._feedback, self._result, lambda: self._running.pop(id(handle), None))
        goal.job = Job(wanted.instruction, wanted.run, wanted.approval, goal.progress, goal.end)
        self._running[id(handle)] = goal
        cause = self._jobs.take(goal.job)
        if cause is not None:
            self._running.pop(id(handle), None)
            self._refuse(handle, cause)
        return True

    def cancel(self, handle: GoalHandle) -> None:
        """Give up the task of a goal and halt the arm; the goal ends once the flow has."""
        goal = self._running.get(id(handle))
        if goal is None or goal.job is None:
            return
        goal.is_cancelled = True
        if self._jobs.cancel(goal.job, f"cancelled by the client of {self._name}"):
            self._halt_arm()

    def _refuse(self, handle: GoalHandle, cause: Cause | Refusal) -> None:
        result = self._result(outcome=OutcomeKind.REFUSED.value, reason=str(cause.reason), text=cause.text)
        handle.end(GoalStatus.ABORTED, result)


class _Goal:
    """One goal that was taken."""

    def __init__(
        self, handle: GoalHandle, feedback: type[Message], result: type[Message], forget: Callable[[], object]
    ) -> None:
        self._handle, self._feedback, self._result, self._forget = handle, feedback, result, forget
        self._told: tuple[str, str, str] | None = None
        self.job: Job | None = None
        self.is_cancelled = False

    def progress(self, report: StatusReport, verdict: str) -> None:
        """Send the client what has changed."""
        news = (report.doing, verdict, report.awaits or "")
        if news != self._told:
            self._told = news
            self._handle.feedback(self._feedback(doing=news[0], verdict=news[1], awaits=news[2]))

    def end(self, report: TaskReport) -> None:
        """Send the client how it ended; canceled is a goal that its client had given up and that was not done."""
        self._forget()
        outcome = report.outcome
        result = self._result(
            outcome=outcome.kind.value,
            reason=str(outcome.reason or ""),
            text="; ".join(outcome.reasons),
            report=task_outcome(report).model_dump_json(),
        )
        is_done = outcome.kind in _DONE
        failed = GoalStatus.CANCELED if self.is_cancelled else GoalStatus.ABORTED
        self._handle.end(GoalStatus.SUCCEEDED if is_done else failed, result)
