"""rclpy's futures and callbacks → the goals of `graph.interface`, for both sides of an action."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rclpy.action import CancelResponse, GoalResponse

from qwen2vl_robot.graph import interface as rows
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
        """Whether a server is there."""
        return bool(self._client.server_is_ready())

    def send(self, goal: Message, on_feedback: rows.Take | None = None) -> _SentGoal:
        """Send a goal; returns at once."""
        listen = None if on_feedback is None else (lambda message: on_feedback(message.feedback))
        return _SentGoal(self._client.send_goal_async(goal, feedback_callback=listen))


class _SentGoal:
    """A `graph.interface.Goal`."""

    def __init__(self, sending: Future) -> None:
        self._lock = threading.Lock()
        self._handle: ClientGoalHandle | None = None
        self._accepted: bool | None = None
        self._outcome: rows.Ending | None = None
        self._is_unwanted = False
        sending.add_done_callback(self._on_answer)

    def accepted(self) -> bool | None:
        """Whether the server took it; None while it has not answered."""
        return self._accepted

    def outcome(self) -> rows.Ending | None:
        """Final status and result; None while it runs."""
        return self._outcome

    def cancel(self) -> None:
        """Ask the server to end it; one that is not accepted yet is cancelled as soon as it is."""
        with self._lock:
            self._is_unwanted = True
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
            is_unwanted = self._is_unwanted
        handle.get_result_async().add_done_callback(self._on_result)
        if is_unwanted:
            handle.cancel_goal_async()

    def _on_result(self, future: Future) -> None:
        answer = future.result()
        known = [s.value for s in GoalStatus]
        status = GoalStatus(answer.status) if answer is not None and answer.status in known else GoalStatus.ABORTED
        self._outcome = (status if status.is_final else GoalStatus.ABORTED, getattr(answer, "result", None))


class _Served:
    """A `graph.interface.GoalHandle`; rclpy's own handle comes only after the goal was accepted."""

    def __init__(self) -> None:
        self.is_unwanted = False
        self._ended = threading.Event()
        self._handle: ServerGoalHandle | None = None
        self._end: rows.Ending = (GoalStatus.ABORTED, None)

    def feedback(self, feedback: Message) -> None:
        """Tell its sender how it goes."""
        if self._handle is not None:
            self._handle.publish_feedback(feedback)

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """Finish it."""
        if not self._ended.is_set():
            self._end = (status, result)
            self._ended.set()

    def attach(self, handle: ServerGoalHandle) -> None:
        self._handle = handle

    def wait(self, handle: ServerGoalHandle) -> Message | None:
        """Block until it ended; the result, with the state told to rclpy."""
        self._ended.wait()
        status, result = self._end
        if status is GoalStatus.SUCCEEDED:
            handle.succeed()
        elif status is GoalStatus.CANCELED and self.is_unwanted:
            end_s = time.monotonic() + _CANCEL_S
            while not handle.is_cancel_requested and time.monotonic() < end_s:
                time.sleep(_POLL_S)  # rclpy changes the state only after our callback has agreed
            handle.canceled()
        else:  # rclpy knows no cancel that the server decided on
            handle.abort()
        return result


class RosActionServer:
    """The callbacks of one rclpy action server; a goal in execution holds one of the executor's threads."""

    def __init__(self, accept: rows.Accept, cancel: rows.Cancel) -> None:
        self._accept, self._cancel = accept, cancel
        self._taken: dict[int, _Served] = {}
        self._running: dict[bytes, _Served] = {}

    def on_goal(self, goal: Message) -> GoalResponse:
        served = _Served()
        if not self._accept(goal, served):
            return GoalResponse.REJECT
        self._taken[id(goal)] = served
        return GoalResponse.ACCEPT

    def on_accepted(self, handle: ServerGoalHandle) -> None:
        served = self._taken.pop(id(handle.request))
        served.attach(handle)
        self._running[bytes(handle.goal_id.uuid)] = served
        handle.execute()

    def on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        served = self._running.get(bytes(handle.goal_id.uuid))
        if served is None:
            return CancelResponse.REJECT
        served.is_unwanted = True
        self._cancel(served)
        return CancelResponse.ACCEPT

    def execute(self, handle: ServerGoalHandle) -> Message | None:
        identity = bytes(handle.goal_id.uuid)
        result = self._running[identity].wait(handle)
        self._running.pop(identity, None)
        return result
