"""What the node is doing → `~/status`: one state, derived from halt, approver and life cycle each time it is published.

Nothing here is set to "stopped" or "working" by hand, so no message can contradict what the node does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.nodes.reports import ApprovalReport, StatusReport, StatusState, TaskOutcome

_MAX_TEXT = 300
_BURST_S = 1.0


class Status:
    """The node's state and its latest events. Thread-safe; every change is published at once.

    Args:
        publish: sends a report.
        is_halting: whether the arm was told to halt and is not yet measured at rest.
    """

    def __init__(
        self,
        halt: Halt,
        approver: AskingApprover,
        publish: Callable[[StatusReport], None],
        is_halting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._halt, self._approver, self._publish, self._is_halting = halt, approver, publish, is_halting
        self._lock = threading.RLock()
        self._is_configured = self._is_active = False
        self._doing = ""
        self._instruction: str | None = None
        self._approval: ApprovalReport | None = None
        self._refused, self._tasks = 0, 0
        self._refused_s = -_BURST_S  # when a refusal was published last
        self._last_refusal: str | None = None
        self._last_task: TaskOutcome | None = None

    @property
    def is_active(self) -> bool:
        """Return whether the node takes instructions."""
        return self._is_active

    @property
    def instruction(self) -> str:
        """Return the text of the current task, "" without one."""
        return self._instruction or ""

    def state(self) -> StatusState:
        """Return what the node does now, in one word."""
        return self._state(self._halt.stopped_by(), self._approver.awaited())

    def _state(self, stopped_by: str | None, awaits: str | None) -> StatusState:
        if stopped_by is not None:
            return "stopping" if self._is_halting() else "stopped"
        if not self._is_configured:
            return "starting"
        if awaits is not None:
            return "awaiting_approval"
        if self._halt.has_task:
            return "working"
        return "idle" if self._is_active else "inactive"

    def report(self) -> StatusReport:
        """Return everything that `~/status` reports; its fields agree with each other."""
        with self._lock:
            stopped_by, awaits = self._halt.stopped_by(), self._approver.awaited()
            return StatusReport(
                state=self._state(stopped_by, awaits),
                doing=self._doing,
                stopped_by=stopped_by,
                instruction=self._instruction,
                awaits=None if stopped_by is not None else awaits,
                approval=self._approval,
                refused_instructions=self._refused,
                last_refusal=self._last_refusal,
                tasks=self._tasks,
                last_task=self._last_task,
            )

    def publish(self) -> None:
        """Publish the current report."""
        with self._lock:
            self._publish(self.report())

    # ------------------------------------------------------------------------------------------- changes

    def configured(self) -> None:
        """Note that the workers are up."""
        with self._lock:
            self._is_configured, self._is_active, self._doing = True, False, ""
            self.publish()

    def activated(self, is_active: bool) -> None:
        """Note whether instructions are taken from now on."""
        with self._lock:
            self._is_configured, self._is_active = self._is_configured or is_active, is_active
            if not self._halt.has_task:
                self._doing = ""
            self.publish()

    def began(self, instruction: Instruction) -> None:
        """Note that a task was accepted."""
        with self._lock:
            self._instruction, self._approval, self._doing = instruction.text, None, "observe"
            self.publish()

    def doing(self, step: str) -> None:
        """Note the current task's step of the flow."""
        with self._lock:
            self._doing = step
            self.publish()

    def answered(self, digest: str, accepted: bool, reason: str, *, rejected: bool = False) -> None:
        """Note the answer to a yes or no: the digest given, whether it counts, and why."""
        with self._lock:
            self._approval = ApprovalReport(digest=digest, accepted=accepted, rejected=rejected, reason=reason)
            self.publish()

    def refused(self, reason: str) -> None:
        """Note a refused instruction; of a burst for one reason only the first in a second is published."""
        with self._lock:
            now_s, is_new = time.monotonic(), self._last_refusal != reason[:_MAX_TEXT]
            self._refused, self._last_refusal = self._refused + 1, reason[:_MAX_TEXT]
            if is_new or now_s - self._refused_s >= _BURST_S:
                self._refused_s = now_s
                self.publish()

    def ended(self, task: TaskOutcome) -> None:
        """Note that the current task ended."""
        with self._lock:
            self._tasks, self._last_task = self._tasks + 1, task
            if not self._halt.has_task:  # otherwise the next task has begun already
                self._doing, self._instruction = "", None
            self.publish()
