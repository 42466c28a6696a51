"""/clock messages → a time that never goes back, for the transport that has no rclpy clock."""

from __future__ import annotations

import threading

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph.conversions import stamp_to_ns
from qwen2vl_robot.graph.interface import Message

_SILENCE_S = 5.0  # without a /clock message for longer, simulated time counts as stopped


class SimClock:
    """The time of the latest /clock message. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now_ns = 0

    def take(self, message: Message) -> None:
        """Take the time of one rosgraph_msgs/msg/Clock; an earlier one changes nothing."""
        with self._changed:
            self._now_ns = max(self._now_ns, stamp_to_ns(message.clock))
            self._changed.notify_all()

    def now_ns(self) -> int:
        """Return the latest time, nanoseconds; 0 before the first message."""
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        """Wait in simulated time.

        Raises:
            ExecutionError: no /clock message came for 5 s.
        """
        with self._changed:
            end_ns = self._now_ns + round(seconds * 1e9)
            while self._now_ns < end_ns:
                if not self._changed.wait(_SILENCE_S):
                    raise ExecutionError(f"/clock stood still for {_SILENCE_S:g} s")
