"""A person at a shell → the controller on the graph: an instruction, a yes, a stop, a reset, a look at the status.

A client like any other: nothing moves or stops because it ends.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from qwen2vl_robot.config import Strict
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.nodes.reports import (
    ApprovalReport,
    CameraReport,
    StatusReport,
    TaskOutcome,
    VerdictReport,
)

HEAR_S = 5.0  # nodes find each other within one; a busy machine needs longer
ANSWER_S = 10.0
_AGAIN_S, _POLL_S = 0.2, 0.05
_STOPS = 4  # messages
Report = TypeVar("Report", bound=Strict)


class Shell:
    """Speaks with the controller in the graph's namespace.

    Args:
        show: is called with each line for the person.
    """

    def __init__(self, graph: interface.Graph, show: Callable[[str], None]) -> None:
        self._graph, self._show = graph, show
        self._changed = threading.Condition()
        self._status: StatusReport | None = None
        self._verdict: VerdictReport | None = None
        self._status_topic = own_topic(interface.STATUS)
        topics = (interface.INSTRUCTION, interface.STOP, own_topic(interface.APPROVE), own_topic(interface.REJECT))
        self._to = {topic.name: graph.publisher(topic) for topic in topics}  # now: a stop must not wait for discovery
        graph.subscribe(self._status_topic, self._on_status)
        graph.subscribe(own_topic(interface.VERDICT), self._on_verdict)

    def status(self) -> StatusReport:
        """Wait for the controller's status.

        Raises:
            ExecutionError: no controller is heard.
        """
        if not self._until(lambda: self._status is not None, HEAR_S):
            where = self._graph.resolve(self._status_topic.name)
            raise ExecutionError(f"no controller is heard on {where}; is `qwen2vl-robot run` started?")
        assert self._status is not None
        return self._status

    def say(self, text: str, topic: interface.Topic = interface.INSTRUCTION) -> StatusReport:
        """Give an instruction; returns the status that shows what became of it.

        Args:
            topic: on which it is given, and so who is taken to have said it.

        Raises:
            BadInputError: it is no instruction.
            ExecutionError: nobody hears it, it is refused, or nobody answers.
        """
        wish, before = Instruction(text).text, self.status()
        publisher = self._to[topic.name] if topic.name in self._to else self._graph.publisher(topic)
        if not self._until(lambda: publisher.listeners() > 0, HEAR_S):
            raise ExecutionError(f"nobody listens on {self._graph.resolve(topic.name)}")
        publisher.publish(self._graph.message(topic.type)(data=wish))
        self._answer(lambda now: now.instruction == wish or _has_answered(now, before))
        now = self.status()
        if now.refused_instructions != before.refused_instructions:
            raise ExecutionError(f"refused: {now.last_refusal}")
        return now

    def check_camera(self) -> int:
        """Have the cameras checked by the arm; returns how many tasks had ended before, for `watch`.

        Raises:
            ExecutionError: nobody answers, or it is refused.
        """
        tasks = self.status().tasks
        answer = self._call(interface.CHECK_CAMERA)
        if not answer.success:
            raise ExecutionError(str(answer.message))
        return tasks

    def cancel(self) -> str:
        """Give up the current task; returns the controller's answer.

        Raises:
            ExecutionError: nobody answers.
        """
        return str(self._call(interface.CANCEL).message)

    def watch(self, tasks: int, on_question: Callable[[VerdictReport], None] | None = None) -> TaskOutcome:
        """Show what the controller does until a task has ended.

        Args:
            tasks: how many had ended before.
            on_question: is called once with each verdict that awaits a yes; left out, it is shown.

        Raises:
            ExecutionError: the controller is gone.
        """
        ask = on_question or (lambda verdict: self._show(describe_question(verdict)))
        seen = asked = ""
        while True:
            now = self.status()
            if now.last_task is not None and now.tasks > tasks:
                return now.last_task
            if (line := describe(now)) != seen:
                seen = line
                self._show(line)
            if now.awaits is not None and now.awaits != asked:
                asked = now.awaits
                ask(self.question())
            if self._graph.publishers_of(self._status_topic) == 0:
                raise ExecutionError("the controller is gone; its supervisor halts the arm")
            self._until(lambda now=now: self._status is not now, _AGAIN_S)  # type: ignore[misc]

    def wait(self, tasks: int, at_most_s: float) -> StatusReport:
        """Wait until a task has ended, a person is asked or a stop is latched, but no longer than that.

        Args:
            tasks: how many had ended before.
        """

        def is_over() -> bool:
            now = self._status
            return now is not None and (now.tasks > tasks or now.awaits is not None or now.stopped_by is not None)

        self._until(is_over, at_most_s)
        return self.status()

    def question(self) -> VerdictReport:
        """Return the verdict that awaits a person's yes.

        Raises:
            ExecutionError: none does.
        """
        now = self.status()
        if now.awaits is None:
            raise ExecutionError(f"nothing awaits an approval; the controller: {describe(now)}")
        if not self._until(lambda: self._verdict is not None and self._verdict.digest == now.awaits, ANSWER_S):
            raise ExecutionError("what awaits an approval was not published; nothing is approved unseen")
        assert self._verdict is not None
        return self._verdict

    def approve(self, verdict: VerdictReport) -> ApprovalReport:
        """Say yes to a verdict that was shown; returns the controller's answer.

        Raises:
            ExecutionError: nobody answers.
        """
        return self._send_answer(interface.APPROVE, verdict.digest, verdict.digest, self.status().approval)

    def reject(self, verdict: VerdictReport, reason: str) -> ApprovalReport:
        """Say no to a verdict that was shown, which ends the task with this reason; returns the controller's answer.

        Raises:
            ExecutionError: nobody answers.
        """
        before = self.status().approval
        no = json.dumps({"digest": verdict.digest, "reason": reason})
        return self._send_answer(interface.REJECT, no, verdict.digest, before)

    def stop(self) -> StatusReport | None:
        """Publish `stop`, for the controller and its supervisor; returns the status that shows it.

        Returns None where somebody listened and no controller shows that it is stopped: its supervisor may.

        Raises:
            ExecutionError: nobody listens.
        """
        publisher, sent = self._to[interface.STOP.name], 0
        end_s = time.monotonic() + HEAR_S
        while time.monotonic() < end_s and not (sent >= _STOPS and self._is_stopped()):
            if publisher.listeners():  # again and again: the second one who listens may be found later
                publisher.publish(self._graph.message(interface.STOP.type)(data=True))
                sent += 1
            self._until(lambda: False, _POLL_S)
        if not sent:
            where = self._graph.resolve(interface.STOP.name)
            raise ExecutionError(f"nobody listens on {where}; use the robot's own emergency stop")
        return self._status if self._is_stopped() else None

    def reset(self) -> str:
        """Release a stop; returns the controller's answer.

        Raises:
            ExecutionError: nobody answers.
        """
        return str(self._call(interface.RESET).message)

    # -------------------------------------------------------------------------------------------- listening

    def _send_answer(
        self, topic: interface.Topic, text: str, digest: str, before: ApprovalReport | None
    ) -> ApprovalReport:
        publisher = self._to[own_topic(topic).name]
        if not self._until(lambda: publisher.listeners() > 0, HEAR_S):
            raise ExecutionError(f"nobody listens on {topic.name}")
        publisher.publish(self._graph.message(topic.type)(data=text))
        self._answer(lambda now: _is_answer(now, digest, before))
        answer = self.status().approval
        assert answer is not None
        return answer

    def _call(self, service: interface.Service) -> interface.Message:
        return self._graph.call(replace(service, name=f"{interface.NODE_NAME}/{service.name[2:]}"), HEAR_S)

    def _is_stopped(self) -> bool:
        return self._status is not None and self._status.stopped_by is not None

    def _answer(self, shows: Callable[[StatusReport], bool]) -> None:
        if not self._until(lambda: self._status is not None and shows(self._status), ANSWER_S):
            late = "it may still be taken: see `qwen2vl-robot status`, or stop the robot"
            raise ExecutionError(f"no answer within {ANSWER_S:g} s; {late}")

    def _until(self, condition: Callable[[], bool], at_most_s: float) -> bool:
        """Wait until a condition holds, which what comes in or a new listener may make true."""
        end_s = time.monotonic() + at_most_s
        with self._changed:
            while not condition():
                if time.monotonic() > end_s:
                    return False
                self._changed.wait(_POLL_S)
        return True

    def _on_status(self, message: interface.Message) -> None:
        self._take(read_report(message, StatusReport), None)

    def _on_verdict(self, message: interface.Message) -> None:
        self._take(None, read_report(message, VerdictReport))

    def _take(self, status: StatusReport | None, verdict: VerdictReport | None) -> None:
        with self._changed:
            self._status, self._verdict = status or self._status, verdict or self._verdict
            self._changed.notify_all()


def describe(status: StatusReport) -> str:
    """The state in one line."""
    what = f"{status.state} {status.doing}".strip().replace("_", " ")
    task = f": {status.instruction}" if status.instruction else ""
    return f"{what}{task}" if status.stopped_by is None else f"{what}: {status.stopped_by}"


def describe_question(verdict: VerdictReport) -> str:
    """What a yes would let happen, why it is asked, and how to say it."""
    lasts = "" if verdict.duration_s is None else f", {verdict.duration_s:.1f} s of motion"
    doubts = "".join(f"\n  because {doubt}" for doubt in verdict.doubts)
    return f"{verdict.action}{lasts}, rehearsed and accepted. Approve? {verdict.digest[:8]}{doubts}"


def describe_task(task: TaskOutcome) -> str:
    """How a task ended, with its reasons."""
    return f"{task.instruction}: {task.outcome.value.replace('_', ' ')}" + "".join(f"\n  {r}" for r in task.reasons)


def describe_camera(camera: CameraReport) -> str:
    """What a check says of one camera: the verdict, size and direction, and how sure that is."""
    line = f"{camera.name}: {camera.verdict.value}: {camera.text}"
    if camera.off_m is None or camera.size_m is None or camera.unsure_m is None:
        return line
    along = ", ".join(f"{1000 * v:+.1f} mm along {axis}" for v, axis in zip(camera.off_m, "xyz", strict=True))
    sure = f"give or take {2000 * camera.unsure_m:.1f} mm (95 %)"
    return f"{line}\n  things at the work place are measured {1000 * camera.size_m:.1f} mm off: {along}, {sure}"


def own_topic(topic: interface.Topic) -> interface.Topic:
    """The controller's private topic as another node names it."""
    return topic.at(f"{interface.NODE_NAME}/{topic.name[2:]}")


def _is_answer(now: StatusReport, digest: str, before: ApprovalReport | None) -> bool:
    """Whether a status holds the answer to this yes, not one to an earlier yes."""
    answer = now.approval
    return answer is not None and answer.digest == digest and (answer != before or now.awaits != digest)


def _has_answered(now: StatusReport, before: StatusReport) -> bool:
    """Whether an instruction was refused, has stopped the robot, or was carried out already."""
    is_counted = (now.tasks, now.refused_instructions) != (before.tasks, before.refused_instructions)
    return is_counted or (now.stopped_by is not None and before.stopped_by is None)


def read_report(message: interface.Message, kind: type[Report]) -> Report | None:
    """Read a report; what is none says nothing (anybody may publish there)."""
    try:
        return kind.model_validate(parse_json(message.data, "report"))
    except (BadInputError, ValidationError):
        return None
