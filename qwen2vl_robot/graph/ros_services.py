"""rclpy's clients of services: one call and its response, and the cancel service of an action."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph.interface import Message

if TYPE_CHECKING:
    from rclpy.node import Node


def call_service(node: Node, kind: Any, name: str, timeout_s: float, fields: Mapping[str, object]) -> Message:
    """Call a service and wait for its response; not from a callback of the node.

    Args:
        kind: rclpy's class of the service's type.
        fields: of the request.

    Raises:
        ExecutionError: nobody serves it, or no response came in time.
    """
    end_s, has_come = time.monotonic() + timeout_s, threading.Event()
    client = node.create_client(kind, name, callback_group=ReentrantCallbackGroup())
    try:
        if not client.wait_for_service(timeout_s):
            raise ExecutionError(f"nobody serves {name}")
        future = client.call_async(kind.Request(**fields))
        future.add_done_callback(lambda done: has_come.set())
        if not has_come.wait(max(0.0, end_s - time.monotonic())):
            raise ExecutionError(f"{name} did not respond within {timeout_s:g} s")
        response: Message = future.result()
        return response
    finally:
        node.destroy_client(client)


class RosGoalCanceller:
    """A `graph.interface.GoalCanceller`; rclpy's action client cancels its own goals only.

    Args:
        kind: rclpy's class of action_msgs/srv/CancelGoal.
        name: of the action's cancel service.
    """

    def __init__(self, node: Node, kind: Any, name: str) -> None:
        self._node = node
        self._client = node.create_client(kind, name, callback_group=ReentrantCallbackGroup())

    def is_served(self) -> bool:
        """Return whether the service has a server."""
        return bool(self._client.service_is_ready())

    def cancel_all(self) -> None:
        """Ask the server to cancel every goal: zeros for id and stamp mean all of them."""
        self._client.call_async(self._client.srv_type.Request())

    def destroy(self) -> None:
        """Leave the service."""
        self._node.destroy_client(self._client)
