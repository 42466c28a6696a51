"""What was asked of the node → the one job that its flow carries out, or why it is not taken now."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from qwen2vl_robot.controller import Controller
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import ApprovalMode, Cause, Instruction, TaskReport
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.recording import Session
from qwen2vl_robot.nodes.reports import StatusReport
from qwen2vl_robot.nodes.status import Status
from qwen2vl_robot.reasons import RefusalReason, RequestReason

Flow = Controller | Session


def _ignore(*told: object) -> None:
    """For who wants to hear nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One thing to carry out.

    Attributes:
        instruction: what the status calls it.
        run: carries it out, on the flow's thread; the task has begun, and ends in there.
        approval: a stricter mode than the node's, for this job alone.
        on_progress: is told the status while it is accepted or under way, and the latest verdict of it as JSON.
        on_end: is told how it ended, whatever ended it.
    """

    instruction: Instruction
    run: Callable[[Flow], TaskReport]
    approval: ApprovalMode | None = None
    on_progress: Callable[[StatusReport, str], None] = _ignore
    on_end: Callable[[TaskReport], None] = _ignore


class Jobs:
    """Takes one job at a time; what comes meanwhile is refused. Thread-safe.

    Args:
        began: is called with the instruction of each job that is taken, before anybody hears of it.
        lack: why nothing can be moved now, None where it can.
    """

    def __init__(
        self,
        halt: Halt,
        status: Status,
        health: Health,
        began: Callable[[Instruction], None],
        lack: Callable[[], Cause | None],
    ) -> None:
        self._halt, self._status, self._health, self._began, self._lack = halt, status, health, began, lack
        self._queue: queue.Queue[Job | None] = queue.Queue()  # one at most, and None to end
        self._lock = threading.RLock()
        self._current: Job | None = None

    def take(self, job: Job) -> Cause | None:
        """Accept a job as the next task, which can be cancelled from then on; else say why not."""
        with self._lock:
            cause = self._not_now()
            if cause is None:
                self._accept(job)
                return None
        self.refuse(f"not taken: {cause.text}")
        return cause

    def next(self) -> Job | None:
        """Wait for the next job; None once there are no more."""
        return self._queue.get()

    def cancel(self, job: Job, why: str) -> bool:
        """Give up a job if it is the one that is accepted or under way; returns whether it is."""
        with self._lock:
            return self._current is job and self._halt.cancel(why)

    def release(self, job: Job) -> None:
        """End the task of a job that is over, where it broke before it could."""
        with self._lock:  # where the next one has been taken, the task is that one's
            if self._current is job:
                self._halt.end_task()

    def ended(self, job: Job, report: TaskReport) -> None:
        """Tell whoever asked for a job how it ended."""
        with self._lock:
            if self._current is job:
                self._current = None
        job.on_end(report)

    def progress(self, report: StatusReport, verdict: str) -> None:
        """Tell whoever asked for the current job how far it is."""
        job = self._current
        if job is not None:
            job.on_progress(report, verdict)

    def deactivate(self, reason: str) -> None:
        """Cancel the current job and take no further one."""
        with self._lock:  # a job is accepted before this, and then cancelled, or it is refused
            self._halt.cancel(reason)
            self._status.activated(False)

    def close(self) -> None:
        """Let `next` return None once the job that was accepted is through."""
        self._queue.put(None)

    def refuse(self, reason: str) -> None:
        """Say that something was not taken, in ~/status and /diagnostics."""
        self._health.warn("instruction", reason)
        self._status.refused(reason)

    def _accept(self, job: Job) -> None:
        self._halt.begin_task()
        self._current = job
        try:
            self._began(job.instruction)
        except BaseException:
            self._current = None
            self._halt.end_task()  # nobody will carry it out
            raise
        self._queue.put(job)

    def _not_now(self) -> Cause | None:
        if not self._status.is_active:
            return Cause(RequestReason.INACTIVE, "the node is not active")
        if self._halt.stopped_by() is not None:
            return Cause(RefusalReason.STOPPED, "stopped; release it with ~/reset")
        if self._halt.has_task:
            return Cause(RequestReason.BUSY, "another task is under way; ~/cancel ends it")
        return self._lack()
