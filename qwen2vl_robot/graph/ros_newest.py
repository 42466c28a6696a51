"""A subscription over rclpy → the newest message of each kind, every now and then; the others are not converted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.callback_groups import CallbackGroup
from rclpy.serialization import deserialize_message

from qwen2vl_robot.graph import interface

if TYPE_CHECKING:
    from rclpy.subscription import Subscription

_MOST_WAITING = 1000


class Unattended(CallbackGroup):
    """A group whose subscriptions no executor waits for: one callback of it costs more than taking all samples."""

    def can_execute(self, entity: object) -> bool:
        """Return False: never."""
        return False

    def beginning_execution(self, entity: object) -> bool:
        """Return False: nothing begins."""
        return False

    def ending_execution(self, entity: object) -> None:
        """Nothing ends either."""


class NewestReader:
    """Takes the samples of a raw subscription in an `Unattended` group on a thread of its own.

    Args:
        callback: gets each message; must not raise.
        report: gets what rclpy raises.
    """

    def __init__(
        self,
        subscription: Subscription,
        message_type: type[interface.Message],
        callback: Callable[[interface.Message], object],
        kind_of: interface.KindOf,
        report: Callable[[Exception], None],
    ) -> None:
        self._subscription, self._type = subscription, message_type
        self._callback, self._kind_of, self._report = callback, kind_of, report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=subscription.topic_name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._ended.wait(interface.NEWEST_EVERY_S):
            try:
                messages = self._take()
            except Exception as error:  # noqa: BLE001 - the top of a thread
                self._report(error)
                continue
            for message in messages:
                self._callback(message)

    def _take(self) -> list[interface.Message]:
        newest: dict[bytes, bytes] = {}
        for _ in range(_MOST_WAITING):
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._type, True)
            if taken is None:
                break
            kind = self._kind_of(taken[0])
            newest.pop(kind, None)
            newest[kind] = taken[0]
        return [deserialize_message(data, self._type) for data in newest.values()]
