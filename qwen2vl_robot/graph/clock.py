"""/clock messages → a time that never goes back, for the transport without rclpy's clocks."""

from __future__ import annotations

import threading

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph.conversions import stamp_to_ns
from qwen2vl_robot.graph.interface import Message

_SILENCE_S = 5.0  # simulated time that stands still for longer has stopped


class SimClock:
    """The time of the newest /clock message."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now_ns = 0

    def take(self, message: Message) -> None:
        """Note one rosgraph_msgs/msg/Clock."""
        with self._changed:
            self._now_ns = max(self._now_ns, stamp_to_ns(message.clock))
            self._changed.notify_all()

    def now_ns(self) -> int:
        """The newest time, nanoseconds; 0 before the first message."""
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        """Wait in simulated time.

        Raises:
            ExecutionError: it stands still.
        """
        with self._changed:
            end_ns = self._now_ns + round(seconds * 1e9)
            while self._now_ns < end_ns:
                if not self._changed.wait(_SILENCE_S):
                    raise ExecutionError(f"/clock stood still for {_SILENCE_S:g} s")
