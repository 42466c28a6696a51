"""rclpy's futures and callbacks → the goals of `graph.interface`, for both sides of an action."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionClient, CancelResponse, GoalResponse

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.goals import GoalWatch
from qwen2vl_robot.graph.interface import GoalStatus, Message

if TYPE_CHECKING:
    from rclpy.action.client import ClientGoalHandle
    from rclpy.action.server import ServerGoalHandle
    from rclpy.task import Future

    from qwen2vl_robot.graph.ros import RosGraph

_CANCEL_S, _POLL_S = 1.0, 0.002
_CLOSE_S = 2.0  # open goals must have ended within this time
_SEND_S = 0.5  # for rclpy's tasks that send the results, which it lets nobody wait for


class OrderedActionClient(ActionClient):
    """rclpy's client, taking no answer before the request that it answers is noted.

    rclpy before 7.1.6 notes a request after sending it. Where another thread than the executor's sends, the answer may
    come in between, and rclpy drops it: the goal would neither be accepted nor end.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._sending = threading.RLock()
        super().__init__(*args, **options)

    def send_goal_async(self, *args: Any, **options: Any) -> Future:
        """Send a goal."""
        with self._sending:
            return super().send_goal_async(*args, **options)

    def _get_result_async(self, *args: Any) -> Future:
        with self._sending:
            return super()._get_result_async(*args)

    def _cancel_goal_async(self, *args: Any) -> Future:
        with self._sending:
            return super()._cancel_goal_async(*args)

    async def execute(self, taken: Any) -> None:
        """Handle the answers that rclpy has taken."""
        with self._sending:  # whoever sends now may be sending the request that was answered
            pass
        await super().execute(taken)


class RosActionClient:
    """A `graph.interface.ActionClient`.

    Args:
        guard: wraps a callback, so that what it raises does not reach rclpy.
    """

    def __init__(
        self,
        client: ActionClient,
        graph: RosGraph,
        name: str,
        guard: Callable[[interface.MessageCallback], Callable[..., None]],
    ) -> None:
        self._client, self._graph, self._name, self._guard = client, graph, name, guard
        self._uuid = graph.message("unique_identifier_msgs/msg/UUID")
        self._goals = GoalWatch(graph, f"{name}/_action/status")

    def is_served(self) -> bool:
        """Return whether a server is there now."""
        return bool(self._client.server_is_ready())

    def others(self) -> int:
        """Count the other clients on the whole graph, by who hears the feedback."""
        return max(0, self._graph.subscribers_of(f"{self._name}/_action/feedback") - 1)

    def foreign_goals(self) -> int:
        """Count the goals of other clients that the server has accepted and not ended."""
        if not self.is_served():
            self._goals.forget()
        return self._goals.foreign()

    def send(self, goal: Message, on_feedback: interface.MessageCallback | None = None) -> _SentGoal:
        """Send a goal; returns at once."""
        listen = None if on_feedback is None else self._guard(lambda message: on_feedback(message.feedback))
        identity = secrets.token_bytes(16)
        self._goals.sends(identity)
        goal_id = self._uuid(uuid=list(identity))
        return _SentGoal(self._client.send_goal_async(goal, feedback_callback=listen, goal_uuid=goal_id))


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
    """The callbacks of one rclpy action server; a running goal occupies one of the executor's threads.

    Args:
        accept: `interface.AcceptGoal`, or None where it failed: the goal is rejected.
        cancel: `interface.CancelGoal`.
        make_result: makes the result of a goal that ends without one.
    """

    def __init__(
        self,
        accept: Callable[[Message, interface.GoalHandle], bool | None],
        cancel: Callable[[interface.GoalHandle], None],
        make_result: Callable[[], Message],
    ) -> None:
        self._accept, self._cancel, self._make_result = accept, cancel, make_result
        self._lock = threading.Lock()
        self._is_closed = False
        # By the goal's message: it is there before rclpy's handle, which keeps it.
        self._goals: dict[int, _Served] = {}

    def on_goal(self, goal: Message) -> GoalResponse:
        served = _Served()
        with self._lock:
            if self._is_closed:
                return GoalResponse.REJECT
            self._goals[id(goal)] = served
        is_accepted = self._accept(goal, served)
        if not is_accepted:
            self._forget(goal)
        return GoalResponse.ACCEPT if is_accepted else GoalResponse.REJECT

    def on_accepted(self, handle: ServerGoalHandle) -> None:
        self._goals[id(handle.request)].attach(handle)
        try:
            handle.execute()
        except RuntimeError:  # a cancel came between rclpy's look at the goal's state and its change; it looks again
            handle.execute()

    def on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Cancel a goal; the client may ask as soon as it knows of the acceptance, before `on_accepted` is called."""
        served = self._goals.get(id(handle.request))
        if served is None:
            return CancelResponse.REJECT
        served.is_cancelled = True
        self._cancel(served)
        return CancelResponse.ACCEPT

    def execute(self, handle: ServerGoalHandle) -> Message:
        try:
            result = self._goals[id(handle.request)].wait(handle)
        finally:
            self._forget(handle.request)
        return self._make_result() if result is None else result

    def close(self) -> None:
        """Accept no more goals, end the open ones as ABORTED, and let the executor's threads go."""
        with self._lock:
            self._is_closed = True
            still_open = list(self._goals.values())
        for served in still_open:
            served.end(GoalStatus.ABORTED, None)
        end_s = time.monotonic() + _CLOSE_S
        while self._goals and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        if still_open:
            time.sleep(_SEND_S)

    def _forget(self, goal: Message) -> None:
        with self._lock:
            self._goals.pop(id(goal), None)
