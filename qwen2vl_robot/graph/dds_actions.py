"""Actions → the three services and two topics that make up a ROS 2 action, over Cyclone DDS: client and server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.goals import GoalWatch
from qwen2vl_robot.graph.interface import GoalStatus, Message

if TYPE_CHECKING:
    from qwen2vl_robot.graph.dds import DdsGraph

_CANCEL = "action_msgs/srv/CancelGoal"
_UNKNOWN_GOAL, _ALREADY_ENDED = 2, 3  # of CancelGoal's response


class DdsActionClient:
    """A `graph.interface.ActionClient`."""

    def __init__(self, graph: DdsGraph, action: interface.ActionInterface) -> None:
        self._graph, self._base = graph, f"{graph.resolve(action.name)}/_action"
        base = self._base
        self._uuid = graph.message("unique_identifier_msgs/msg/UUID")
        self._info = graph.message("action_msgs/msg/GoalInfo")
        self._goals = GoalWatch(graph, f"{base}/status")
        self._send = graph.client(f"{base}/send_goal", f"{action.type}_SendGoal")
        self._result = graph.client(f"{base}/get_result", f"{action.type}_GetResult")
        self._cancel = graph.client(f"{base}/cancel_goal", _CANCEL)
        self._feedback: dict[bytes, interface.MessageCallback] = {}
        topic = interface.Topic(f"{base}/feedback", f"{action.type}_FeedbackMessage", interface.Qos.COMMAND, "feedback")
        graph.subscribe(topic, self._on_feedback)

    def is_served(self) -> bool:
        """Return whether all three services have a server."""
        return all(client.is_served() for client in (self._send, self._result, self._cancel))

    def others(self) -> int:
        """Count the other clients on the whole graph."""
        return max(0, self._graph.callers_of(f"{self._base}/send_goal") - 1)

    def foreign_goals(self) -> int:
        """Count the goals of other clients that the server has accepted and not ended."""
        if not self.is_served():
            self._goals.forget()
        return self._goals.foreign()

    def send(self, goal: Message, on_feedback: interface.MessageCallback | None = None) -> _SentGoal:
        """Send a goal; returns at once."""
        identity = secrets.token_bytes(16)
        self._goals.sends(identity)
        if on_feedback is not None:
            self._feedback[identity] = on_feedback
        sent = _SentGoal(self, identity)
        self._send.request(sent._on_acceptance, goal_id=self._uuid(uuid=identity), goal=goal)
        return sent

    def request_result(self, goal: _SentGoal) -> None:
        self._result.request(goal._on_result, goal_id=self._uuid(uuid=goal.identity))

    def request_cancel(self, goal: _SentGoal) -> None:
        self._cancel.request(goal._on_cancel_answer, goal_info=self._info(goal_id=self._uuid(uuid=goal.identity)))

    def forget(self, goal: _SentGoal) -> None:
        self._feedback.pop(goal.identity, None)

    def _on_feedback(self, message: Message) -> None:
        listener = self._feedback.get(bytes(message.goal_id.uuid))
        if listener is not None:
            listener(message.feedback)


class DdsGoalCanceller:
    """A `graph.interface.GoalCanceller`."""

    def __init__(self, graph: DdsGraph, action: interface.ActionInterface) -> None:
        self._client = graph.client(f"{graph.resolve(action.name)}/_action/cancel_goal", _CANCEL)
        self._info = graph.message("action_msgs/msg/GoalInfo")

    def is_served(self) -> bool:
        """Return whether the service has a server."""
        return self._client.is_served()

    def cancel_all(self) -> None:
        """Ask the server to cancel every goal: zeros for id and stamp mean all of them."""
        self._client.request(lambda response: None, goal_info=self._info())


class _SentGoal:
    """A `graph.interface.SentGoal`."""

    def __init__(self, client: DdsActionClient, identity: bytes) -> None:
        self._client = client
        self.identity = identity
        self._accepted: bool | None = None
        self._outcome: interface.GoalOutcome | None = None
        self._is_cancelled = False

    def accepted(self) -> bool | None:
        """Return whether the server accepted the goal; None while it has not answered."""
        return self._accepted

    def outcome(self) -> interface.GoalOutcome | None:
        """Return the final status and result; None while the goal runs."""
        return self._outcome

    def cancel(self) -> None:
        """Ask the server to cancel the goal; a goal not accepted yet is cancelled again once it is."""
        self._is_cancelled = True
        self._client.request_cancel(self)

    def _on_acceptance(self, response: Message) -> None:
        self._accepted = bool(response.accepted)
        if not self._accepted:
            self._outcome = (GoalStatus.ABORTED, None)
            self._client.forget(self)
            return
        self._client.request_result(self)
        if self._is_cancelled:
            self._client.request_cancel(self)

    def _on_result(self, response: Message) -> None:
        self._client.forget(self)
        known = [s.value for s in GoalStatus]
        status = GoalStatus(response.status) if response.status in known else GoalStatus.UNKNOWN
        self._outcome = (status if status.is_final else GoalStatus.ABORTED, response.result)

    def _on_cancel_answer(self, response: Message) -> None:
        """Do nothing: the goal's result says how it ended."""


# ------------------------------------------------------------------------------------------------- server


@dataclass(slots=True)
class _ServedGoal:
    """A `graph.interface.GoalHandle`."""

    identity: bytes
    feedback: interface.MessageCallback
    _ended: Callable[[], None]
    status: GoalStatus = GoalStatus.EXECUTING
    result: Message | None = None
    waiting: list[interface.MessageCallback] = field(default_factory=list)

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """End the goal; a second call changes nothing."""
        if not self.status.is_final:
            self.status, self.result = status, result
            self._ended()


class DdsActionServer:
    """The server of an action (see `interface.Graph.serve_action`)."""

    def __init__(
        self,
        graph: DdsGraph,
        action: interface.ActionInterface,
        accept: interface.AcceptGoal,
        cancel: interface.CancelGoal,
    ) -> None:
        base = f"{graph.resolve(action.name)}/_action"
        self._graph, self._type, self._accept, self._cancel_goal = graph, action.type, accept, cancel
        self._result_class = graph.message(f"{action.type}_Result")
        self._uuid = graph.message("unique_identifier_msgs/msg/UUID")
        self._lock = threading.RLock()
        self._goals: dict[bytes, _ServedGoal] = {}
        self._is_closed = False
        feedback = interface.Topic(
            f"{base}/feedback", f"{action.type}_FeedbackMessage", interface.Qos.COMMAND, "feedback"
        )
        status = interface.Topic(f"{base}/status", "action_msgs/msg/GoalStatusArray", interface.Qos.LATCHED, "status")
        self._feedback, self._status = graph.publisher(feedback), graph.publisher(status)
        self._feedback_message = graph.message(f"{action.type}_FeedbackMessage")
        graph.serve_later(f"{base}/send_goal", f"{action.type}_SendGoal", self._on_send)
        graph.serve_later(f"{base}/get_result", f"{action.type}_GetResult", self._on_result)
        graph.serve_later(f"{base}/cancel_goal", _CANCEL, self._on_cancel)

    def close(self) -> None:
        """Accept no more goals and end the open ones as ABORTED."""
        with self._lock:
            self._is_closed = True
            still_open = [goal for goal in self._goals.values() if not goal.status.is_final]
        for goal in still_open:
            goal.end(GoalStatus.ABORTED, None)

    def _on_send(self, request: Message, reply: interface.MessageCallback) -> None:
        identity = bytes(request.goal_id.uuid)
        handle = _ServedGoal(identity, lambda f: self._publish_feedback(identity, f), lambda: self._on_end(identity))
        with self._lock:
            is_new = identity not in self._goals and not self._is_closed
            if is_new:
                self._goals[identity] = handle
        is_accepted = False
        try:
            is_accepted = is_new and self._accept(request.goal, handle)
        finally:  # where `accept` raises, the goal is rejected
            if is_new and not is_accepted:
                with self._lock:
                    self._goals.pop(identity, None)
            self._answer(reply, is_accepted)

    def _answer(self, reply: interface.MessageCallback, is_accepted: bool) -> None:
        now_ns = self._graph.now_ns()
        stamp = self._graph.message("builtin_interfaces/msg/Time")(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        reply(self._graph.message(f"{self._type}_SendGoal_Response")(accepted=is_accepted, stamp=stamp))
        self._publish_status()

    def _on_result(self, request: Message, reply: interface.MessageCallback) -> None:
        with self._lock:
            goal = self._goals.get(bytes(request.goal_id.uuid))
            if goal is not None and not goal.status.is_final:
                goal.waiting.append(reply)
                return
        self._reply_result(reply, goal)

    def _on_cancel(self, request: Message, reply: interface.MessageCallback) -> None:
        """Cancel one goal, or every goal where the id is all zero, as ROS 2 does."""
        wanted = bytes(request.goal_info.goal_id.uuid)
        with self._lock:
            goals = [g for g in self._goals.values() if wanted in (g.identity, bytes(16))]
        running = [g for g in goals if not g.status.is_final]
        for goal in running:
            self._cancel_goal(goal)
        code = 0 if running else _ALREADY_ENDED if goals else _UNKNOWN_GOAL
        info = self._graph.message("action_msgs/msg/GoalInfo")
        canceling = [info(goal_id=self._uuid(uuid=g.identity)) for g in running]
        reply(self._graph.message(f"{_CANCEL}_Response")(return_code=code, goals_canceling=canceling))

    def _on_end(self, identity: bytes) -> None:
        with self._lock:
            goal = self._goals[identity]
            waiting, goal.waiting = goal.waiting, []
            ended = [i for i, g in self._goals.items() if g.status.is_final]
            for old in ended[:-20]:
                del self._goals[old]
        for reply in waiting:
            self._reply_result(reply, goal)
        self._publish_status()

    def _reply_result(self, reply: interface.MessageCallback, goal: _ServedGoal | None) -> None:
        status = GoalStatus.UNKNOWN if goal is None else goal.status
        result = goal.result if goal is not None and goal.result is not None else self._result_class()
        reply(self._graph.message(f"{self._type}_GetResult_Response")(status=status.value, result=result))

    def _publish_feedback(self, identity: bytes, feedback: Message) -> None:
        self._feedback.publish(self._feedback_message(goal_id=self._uuid(uuid=identity), feedback=feedback))

    def _publish_status(self) -> None:
        info, status = (self._graph.message(f"action_msgs/msg/{n}") for n in ("GoalInfo", "GoalStatus"))
        with self._lock:
            entries = [
                status(goal_info=info(goal_id=self._uuid(uuid=g.identity)), status=g.status.value)
                for g in self._goals.values()
            ]
        self._status.publish(self._graph.message("action_msgs/msg/GoalStatusArray")(status_list=entries))
