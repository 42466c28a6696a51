"""The system's clock, or /clock messages → the time of a node, and a word where it jumps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph.conversions import stamp_to_ns
from qwen2vl_robot.graph.interface import Message

_SILENCE_S = 5.0  # without a /clock message for longer, simulated time counts as stopped
LEAP_S = 10.0  # by which /clock may go on at once; a simulation that waits for a picture goes on by far less
_STEP_NS = 100_000_000  # by which the system's clock may be set; a time server that slews it stays far below
_QUICK_NS = 10_000_000  # a look that took longer, because this process got no core, says nothing about a step

OnJump = Callable[[float], None]  # gets the seconds by which the time jumped, negative where it went back


class SystemClock:
    """The system's time. Thread-safe.

    Args:
        on_jump: called, on the thread that asks for the time, once somebody has set the clock.
        read_ns: reads the clock.
    """

    def __init__(self, on_jump: OnJump, read_ns: Callable[[], int] = time.time_ns) -> None:
        self._on_jump, self._read_ns = on_jump, read_ns
        self._lock = threading.Lock()
        self._ahead_ns: int | None = None  # of the monotonic clock, which nobody sets

    def now_ns(self) -> int:
        """Return the system's time, ns."""
        before_ns = time.monotonic_ns()
        now_ns = self._read_ns()
        if time.monotonic_ns() - before_ns <= _QUICK_NS:
            self._look(now_ns - before_ns)
        return now_ns

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def _look(self, ahead_ns: int) -> None:
        with self._lock:
            step_ns = 0 if self._ahead_ns is None else ahead_ns - self._ahead_ns
            self._ahead_ns = ahead_ns
        if abs(step_ns) > _STEP_NS:
            self._on_jump(step_ns / 1e9)


class SimClock:
    """The time of the latest /clock message, also where it goes back: a bag that is looped, a simulation that restarts.

    Thread-safe.

    Args:
        on_jump: called, on the thread that takes the message, where time went back, or on by more than 10 s at once.
    """

    def __init__(self, on_jump: OnJump) -> None:
        self._on_jump = on_jump
        self._changed = threading.Condition()
        self._now_ns: int | None = None
        self._jumps = 0

    def take(self, message: Message) -> None:
        """Take the time of one rosgraph_msgs/msg/Clock."""
        stamp_ns = stamp_to_ns(message.clock)
        with self._changed:
            went_s = 0.0 if self._now_ns is None else (stamp_ns - self._now_ns) / 1e9
            has_jumped = not 0.0 <= went_s <= LEAP_S
            self._now_ns = stamp_ns
            self._jumps += has_jumped
            self._changed.notify_all()
        if has_jumped:
            self._on_jump(went_s)

    def now_ns(self) -> int:
        """Return the latest time, nanoseconds; 0 before the first message."""
        return self._now_ns or 0

    def sleep(self, seconds: float) -> None:
        """Wait in simulated time; a jump ends the waiting, so that nobody sleeps while an arm moves.

        Raises:
            ExecutionError: no /clock message came for 5 s.
        """
        with self._changed:
            end_ns, jumps = self.now_ns() + round(seconds * 1e9), self._jumps
            while self.now_ns() < end_ns and self._jumps == jumps:
                if not self._changed.wait(_SILENCE_S):
                    raise ExecutionError(f"/clock stood still for {_SILENCE_S:g} s")
