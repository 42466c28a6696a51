"""Stop, cancel, reset → whether anything may go on; one object that gate, executor, approver and camera all ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from qwen2vl_robot.messages import Cause
from qwen2vl_robot.reasons import RefusalReason


class Authority(str, Enum):
    """Who asks for something. Everybody may stop and cancel; only a person may reset."""

    PERSON = "person"
    VOICE = "voice"
    PLANNER = "planner"
    SYSTEM = "system"


class Halt:
    """Why nothing may go on, if so. Thread-safe.

    A stop latches until a person resets it. A cancel ends the task that it was given for, and only that one: a task
    counts from the moment its instruction is accepted (`begin_task`), so a cancel that comes before its first step
    is not lost.

    Args:
        unguarded: why nothing outside would halt the arm, None when something would; it latches nothing.
        await_guard: returns as soon as something outside would halt the arm, or when that takes too long.
    """

    def __init__(
        self, unguarded: Callable[[], str | None] = lambda: None, await_guard: Callable[[], None] = lambda: None
    ) -> None:
        self._unguarded, self._await_guard = unguarded, await_guard
        self._lock = threading.Lock()
        self._stopped: str | None = None
        self._cancelled: str | None = None
        self._has_task = False
        self._stops = 0

    def stop(self, why: str) -> None:
        """Let nothing go on until `reset`; the first of several reasons is kept."""
        with self._lock:
            self._stopped = self._stopped or why or "stop"
            self._stops += 1

    def reset(self, by: Authority = Authority.PERSON) -> None:
        """End a stop; a task that is under way is cancelled, for nobody knows how far it got.

        Raises:
            PermissionError: no person's hand gave it; a voice can be a stranger's, or a loudspeaker's.
        """
        if by is not Authority.PERSON:
            raise PermissionError(f"a {by.value} cannot end a stop; a person has to")
        with self._lock:
            if self._has_task:
                self._cancelled = self._cancelled or "a reset came in the middle of the task"
            self._stopped = None
            self._stops += 1

    def cancel(self, why: str) -> bool:
        """Give up the task that is accepted or under way; False where there is none."""
        with self._lock:
            if self._has_task:
                self._cancelled = self._cancelled or why or "cancelled"
            return self._has_task

    # --------------------------------------------------------------------------------------------- a task

    def begin_task(self) -> None:
        """Note that an instruction was accepted; a task that has begun already stays as it is."""
        with self._lock:
            if not self._has_task:
                self._has_task, self._cancelled = True, None

    def end_task(self) -> None:
        """Note that the task ended; its cancel ends with it, a stop does not."""
        with self._lock:
            self._has_task, self._cancelled = False, None

    @contextmanager
    def task(self) -> Iterator[None]:
        """Begin a task, unless its acceptance did, and end it."""
        self.begin_task()
        try:
            yield
        finally:
            self.end_task()

    @property
    def has_task(self) -> bool:
        """Whether a task is accepted or under way."""
        return self._has_task

    # --------------------------------------------------------------------------------------------- asking

    @property
    def stops(self) -> int:
        """How many stops and resets there were; who has noted it can see that one came in between."""
        return self._stops

    def cause(self) -> Cause | None:
        """Why nothing may go on: "stopped", "cancelled" or "no_supervisor"; None when all may."""
        with self._lock:
            if self._stopped is not None:
                return Cause(RefusalReason.STOPPED, f"stopped: {self._stopped}; a person has to reset it")
            if self._cancelled is not None:
                return Cause(RefusalReason.CANCELLED, self._cancelled)
        lack = self._unguarded()
        return None if lack is None else Cause(RefusalReason.NO_SUPERVISOR, lack)

    def await_guard(self) -> None:
        """Wait a moment, before a motion, for what would halt the arm from outside; `cause` says whether it came."""
        self._await_guard()

    def stopped_by(self) -> str | None:
        """Why a stop is latched, None when none is."""
        return self._stopped
