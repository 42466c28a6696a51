"""An observer on the graph, beside the cell: what an arm and its controllers do, with this process's own clock.

It shares the transport with those whom it watches, and no code that halts anything.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.dds_endpoints import Endpoints, Port
from qwen2vl_robot.graph.idl import service_class

_ACTION = "joint_trajectory_controller/follow_joint_trajectory"
_CANCELING, _CANCELED, _ABORTED = 3, 5, 6
_STANDS_RADPS = 0.02
_FEEDBACK_S = 0.5  # a goal that gave feedback within this time is under way
_KEPT = 4000  # joint states: half a minute
_ANSWER_S = 10.0


class Observer:
    """Hears joint states, goals, ~/status and heartbeats; gives instructions, stops and resets.

    Attributes:
        status: the latest ~/status, {} before the first.
    """

    def __init__(self) -> None:
        self._graph = DdsGraph("observer")
        self._wires = Endpoints("wires", "/", self._graph.distro, None)
        self._lock = threading.Lock()
        self._states: deque[tuple[float, list[float], list[float]]] = deque(maxlen=_KEPT)
        self._on_feedback: Callable[[], None] | None = None
        self._halted_s: float | None = None
        self._confirmed_s: float | None = None
        self._feedback_s = 0.0
        self._beats: dict[str, tuple[float, float]] = {}  # node → when it was heard last, largest gap
        self.status: dict[str, Any] = {}
        topic, qos = interface.Topic, interface.Qos
        feedback = f"{interface.FOLLOW_JOINT_TRAJECTORY.type}_FeedbackMessage"
        statuses = "action_msgs/msg/GoalStatusArray"
        own = interface.STATUS.at(f"{interface.NODE_NAME}/status")
        self._graph.subscribe(own, lambda message: setattr(self, "status", json.loads(message.data)))
        self._graph.subscribe(interface.JOINT_STATES, self._take_joints)
        self._graph.subscribe(topic(f"{_ACTION}/_action/feedback", feedback, qos.COMMAND, ""), self._take_feedback)
        self._graph.subscribe(topic(f"{_ACTION}/_action/status", statuses, qos.LATCHED, ""), self._take_goals)
        for beat in (interface.CONTROLLER_HEARTBEAT, interface.SUPERVISOR_HEARTBEAT):
            self._graph.subscribe(beat, partial(self._take_beat, beat.name))
        cancel = "action_msgs/srv/CancelGoal_Request"
        port = Port(
            f"rq/{_ACTION}/_action/cancel_goalRequest", service_class(cancel, self._graph.distro), cancel, qos.COMMAND
        )
        self._wires.make_reader(port, self._take_cancel)
        self._instruction = self._graph.publisher(interface.INSTRUCTION)
        self._stop = self._graph.publisher(interface.STOP)
        self._reset = self._graph.client(f"{interface.NODE_NAME}/reset", interface.RESET.type)

    def close(self) -> None:
        """Leave the graph."""
        self._graph.close()
        self._wires.close()

    # ----------------------------------------------------------------------------------------------- acting

    def can_ask(self) -> bool:
        """Whether a controller listens and waits for an instruction."""
        return self._instruction.listeners() > 0 and self.status.get("state") == "idle"

    def ask(self, text: str) -> None:
        """Give an instruction."""
        self._instruction.publish(self._graph.message(interface.INSTRUCTION.type)(data=text))

    def stop(self) -> None:
        """Publish `stop`."""
        self._stop.publish(self._graph.message(interface.STOP.type)(data=True))

    def reset(self) -> None:
        """Call ~/reset.

        Raises:
            ExecutionError: nobody answers.
        """
        self._reset.call(_ANSWER_S)

    def can_reset(self) -> bool:
        """Whether a controller serves ~/reset."""
        return self._reset.is_served()

    def at_first_feedback(self, act: Callable[[], None] | None) -> None:
        """Call `act` once, at the next feedback of a goal of the arm; what ended before is forgotten."""
        with self._lock:
            self._halted_s = self._confirmed_s = None
            self._on_feedback, self._beats = act, {}

    # ------------------------------------------------------------------------------------------- what it saw

    def halted_s(self) -> float | None:
        """When a request to cancel goals of the arm was first seen on the wire, on this process's clock."""
        return self._halted_s

    def confirmed_s(self) -> float | None:
        """When the arm's controller first said that a goal is cancelled or aborted."""
        return self._confirmed_s

    def largest_gap_s(self, topic: interface.Topic) -> float:
        """The largest time between two heartbeats in a motion since `at_first_feedback`."""
        return self._beats.get(topic.name, (0.0, 0.0))[1]

    def rest_after(self, since_s: float) -> tuple[float, float] | None:
        """When the arm stood after its halt, and the largest angle of a joint since `since_s`; None while it moves."""
        states, halted_s = list(self._states), self._halted_s
        before = [q for at_s, q, _ in states if at_s <= since_s]
        if not before or halted_s is None:
            return None
        for (first_s, q, dq), (_, _, later) in zip(states, states[3:]):  # noqa: B905 - the last three have no third
            if first_s > halted_s and _stands(dq) and _stands(later):
                return first_s, max(abs(a - b) for a, b in zip(q, before[-1], strict=True))
        return None

    def travel_rad(self, since_s: float) -> float:
        """The largest angle of a joint between a time and now."""
        states = list(self._states)
        before = [q for at_s, q, _ in states if at_s <= since_s]
        return max(abs(a - b) for a, b in zip(before[-1], states[-1][1], strict=True)) if before else 0.0

    # ---------------------------------------------------------------------------------------------- hearing

    def _take_joints(self, message: interface.Message) -> None:
        self._states.append((time.monotonic(), list(message.position)[:7], list(message.velocity)[:7]))

    def _take_feedback(self, message: interface.Message) -> None:
        self._feedback_s = time.monotonic()
        with self._lock:
            act, self._on_feedback = self._on_feedback, None
            if act is not None:
                self._halted_s = self._confirmed_s = None  # of goals before this one
        if act is not None:
            act()

    def _take_goals(self, message: interface.Message) -> None:
        latest = message.status_list[-1].status if len(message.status_list) else 0
        if self._confirmed_s is None and latest in (_CANCELING, _CANCELED, _ABORTED):
            self._confirmed_s = time.monotonic()

    def _take_cancel(self, request: interface.Message) -> None:
        if self._halted_s is None:
            self._halted_s = time.monotonic()

    def _take_beat(self, name: str, message: interface.Message) -> None:
        now_s = time.monotonic()
        heard_s, largest_s = self._beats.get(name, (now_s, 0.0))
        in_motion = now_s - self._feedback_s < _FEEDBACK_S
        self._beats[name] = (now_s, max(largest_s, now_s - heard_s) if in_motion else largest_s)


def _stands(dq_radps: list[float]) -> bool:
    return max(map(abs, dq_radps)) <= _STANDS_RADPS
