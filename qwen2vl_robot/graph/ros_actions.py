"""rclpy's futures and callbacks → the goals of `graph.interface`, for both sides of an action."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rclpy.action import CancelResponse, GoalResponse

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus, Message

if TYPE_CHECKING:
    from rclpy.action import ActionClient
    from rclpy.action.client import ClientGoalHandle
    from rclpy.action.server import ServerGoalHandle
    from rclpy.task import Future

_CANCEL_S, _POLL_S = 1.0, 0.002


class RosActionClient:
    """A `graph.interface.ActionClient`."""

    def __init__(self, client: ActionClient) -> None:
        self._client = client

    def is_served(self) -> bool:
        """Return whether a server is there now."""
        return bool(self._client.server_is_ready())

    def send(self, goal: Message, on_feedback: interface.MessageCallback | None = None) -> _SentGoal:
        """Send a goal; returns at once."""
        listen = None if on_feedback is None else (lambda message: on_feedback(message.feedback))
        return _SentGoal(self._client.send_goal_async(goal, feedback_callback=listen))


class _SentGoal:
    """A `graph.interface.SentGoal`."""

    def __init__(self, sending: Future) -> None:
        self._lock = threading.Lock()
        self._handle: ClientGoalHandle | None = None
        self._accepted: bool | None = None
        self._outcome: interface.GoalOutcome | None = None
        self._is_cancelled = False
        sending.add_done_callback(self._on_answer)

    def accepted(self) -> bool | None:
        """Return whether the server accepted the goal; None while it has not answered."""
        return self._accepted

    def outcome(self) -> interface.GoalOutcome | None:
        """Return the final status and result; None while the goal runs."""
        return self._outcome

    def cancel(self) -> None:
        """Ask the server to cancel the goal; a goal not accepted yet is cancelled once it is."""
        with self._lock:
            self._is_cancelled = True
            handle = self._handle
        if handle is not None:
            handle.cancel_goal_async()

    def _on_answer(self, future: Future) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._accepted, self._outcome = False, (GoalStatus.ABORTED, None)
            return
        with self._lock:
            self._handle, self._accepted = handle, True
            is_cancelled = self._is_cancelled
        handle.get_result_async().add_done_callback(self._on_result)
        if is_cancelled:
            handle.cancel_goal_async()

    def _on_result(self, future: Future) -> None:
        answer = future.result()
        known = [s.value for s in GoalStatus]
        status = GoalStatus(answer.status) if answer is not None and answer.status in known else GoalStatus.ABORTED
        self._outcome = (status if status.is_final else GoalStatus.ABORTED, getattr(answer, "result", None))


class _Served:
    """A `graph.interface.GoalHandle`; rclpy makes its own handle only after the goal was accepted."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._ended = threading.Event()
        self._handle: ServerGoalHandle | None = None
        self._end: interface.GoalOutcome = (GoalStatus.ABORTED, None)

    def feedback(self, feedback: Message) -> None:
        """Send feedback to the client."""
        if self._handle is not None:
            self._handle.publish_feedback(feedback)

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """End the goal; a second call changes nothing."""
        if not self._ended.is_set():
            self._end = (status, result)
            self._ended.set()

    def attach(self, handle: ServerGoalHandle) -> None:
        self._handle = handle

    def wait(self, handle: ServerGoalHandle) -> Message | None:
        """Wait until the goal ends, set its state in rclpy, and return the result."""
        self._ended.wait()
        status, result = self._end
        if status is GoalStatus.SUCCEEDED:
            handle.succeed()
        elif status is GoalStatus.CANCELED and self.is_cancelled:
            end_s = time.monotonic() + _CANCEL_S
            while not handle.is_cancel_requested and time.monotonic() < end_s:
                time.sleep(_POLL_S)  # rclpy changes the state only after our cancel callback returns
            handle.canceled()
        else:  # rclpy has no cancel by the server itself
            handle.abort()
        return result


class RosActionServer:
    """The callbacks of one rclpy action server; a running goal occupies one of the executor's threads."""

    def __init__(self, accept: interface.AcceptGoal, cancel: interface.CancelGoal) -> None:
        self._accept, self._cancel = accept, cancel
        self._accepted: dict[int, _Served] = {}
        self._running: dict[bytes, _Served] = {}

    def on_goal(self, goal: Message) -> GoalResponse:
        served = _Served()
        if not self._accept(goal, served):
            return GoalResponse.REJECT
        self._accepted[id(goal)] = served
        return GoalResponse.ACCEPT

    def on_accepted(self, handle: ServerGoalHandle) -> None:
        served = self._accepted.pop(id(handle.request))
        served.attach(handle)
        self._running[bytes(handle.goal_id.uuid)] = served
        handle.execute()

    def on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        served = self._running.get(bytes(handle.goal_id.uuid))
        if served is None:
            return CancelResponse.REJECT
        served.is_cancelled = True
        self._cancel(served)
        return CancelResponse.ACCEPT

    def execute(self, handle: ServerGoalHandle) -> Message | None:
        identity = bytes(handle.goal_id.uuid)
        result = self._running[identity].wait(handle)
        self._running.pop(identity, None)
        return result
