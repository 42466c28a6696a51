"""A `graph.interface.Graph` in one process: messages arrive before `publish` returns, the test sets the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.frames import Frames
from qwen2vl_robot.graph.idl import message_class
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.names import resolve_name


class LocalGraph:
    """Keeps every published message in `sent`, by topic name."""

    name = "/tested"

    def __init__(self) -> None:
        self.time_ns = 1_000_000_000_000
        self.sent: dict[str, list[Any]] = {}
        self.services: dict[str, Callable[[Any], Any]] = {}
        self.foreign_publishers: dict[str, int] = {}
        self.goals: dict[str, list[Sent]] = {}  # by action, whoever sent them
        self.cancelled_all: dict[str, int] = {}  # how often all goals of an action were to be cancelled
        self.frames = Frames(self.now_ns)
        self._callbacks: dict[str, list[Callable[[Any], None]]] = {}
        self._servers: dict[str, tuple[Any, Any]] = {}
        self._offered: dict[str, int] = {}
        self.foreign_goals: dict[str, int] = {}  # of other clients, by action name
        self.other_clients: dict[str, int] = {}
        self.lacks: tuple[str, ...] = ()  # packages of messages that are not installed

    def message(self, type_name: str) -> Any:
        return message_class(type_name)

    def has_type(self, type_name: str) -> bool:
        return type_name.partition("/")[0] not in self.lacks

    def serialize(self, message: Any) -> bytes:
        return bytes(message.serialize(use_version_2=False))

    def resolve(self, name: str) -> str:
        return resolve_name(name, "tested")

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        """Advance the time by as much, unless a test replaces this."""
        time.sleep(0.0005)
        self.time_ns += round(seconds * 1e9)

    def publisher(self, topic: interface.Topic) -> _Publisher:
        self._offered[topic.name] = self._offered.get(topic.name, 0) + 1
        return _Publisher(self, topic.name)

    def subscribe(self, topic: interface.Topic, callback: Callable[[Any], None]) -> None:
        self._callbacks.setdefault(topic.name, []).append(callback)

    def subscribe_newest(self, topic: interface.Topic, callback: Callable[[Any], None], kind_of: Any) -> None:
        self.subscribe(topic, callback)

    def give(self, topic: interface.Topic, **fields: Any) -> None:
        """Deliver a message as if another node had published it."""
        for callback in self._callbacks.get(topic.name, []):
            callback(self.message(topic.type)(**fields))

    def serve(self, service: interface.Service, handler: Callable[[Any], Any]) -> None:
        self.services[service.name] = handler

    def call(self, service: interface.Service, timeout_s: float = 0.0, **fields: Any) -> Any:
        return self.services[service.name](self.message(f"{service.type}_Request")(**fields))

    def action_client(self, action: interface.ActionInterface) -> _Client:
        return _Client(self, action.name)

    def goal_canceller(self, action: interface.ActionInterface) -> _Canceller:
        return _Canceller(self, action.name)

    def serve_action(self, action: interface.ActionInterface, accept: Any, cancel: Any) -> None:
        self._servers[action.name] = (accept, cancel)

    def drop_server(self, name: str) -> None:
        """Remove an action server, as if its process had died."""
        del self._servers[name]

    def publishers_of(self, topic: interface.Topic) -> int:
        return self._offered.get(topic.name, 0) + self.foreign_publishers.get(topic.name, 0)

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        return self.frames.lookup(target, source, stamp_ns)

    def on_jump(self, callback: Callable[[float], None]) -> None:
        self._on_jump = callback

    def jump(self, seconds: float) -> None:
        """Set the time, as a bag that is looped or a time server does."""
        self.time_ns += round(seconds * 1e9)
        self.frames.forget()
        self._on_jump(seconds)

    def on_broken(self, callback: Callable[[str], None]) -> None:
        self.broken = callback

    def problems(self) -> tuple[str, ...]:
        return ()

    def log_handler(self, level: str) -> logging.Handler:
        return logging.NullHandler()

    def close(self) -> None:
        pass


class _Publisher:
    def __init__(self, graph: LocalGraph, name: str) -> None:
        self._graph, self._name = graph, name

    def publish(self, message: Any) -> None:
        self._graph.sent.setdefault(self._name, []).append(message)
        for callback in self._graph._callbacks.get(self._name, []):
            callback(message)

    def listeners(self) -> int:
        return len(self._graph._callbacks.get(self._name, []))


class _Client:
    def __init__(self, graph: LocalGraph, name: str) -> None:
        self._graph, self._name = graph, name

    def is_served(self) -> bool:
        return self._name in self._graph._servers

    def others(self) -> int:
        return self._graph.other_clients.get(self._name, 0)

    def foreign_goals(self) -> int:
        return self._graph.foreign_goals.get(self._name, 0)

    def send(self, goal: Any, on_feedback: Callable[[Any], None] | None = None) -> Sent:
        accept, cancel = self._graph._servers[self._name]
        sent = Sent(cancel, on_feedback)
        sent.goal = goal
        sent.is_accepted = accept(goal, sent)
        if not sent.is_accepted:
            sent.ended = (GoalStatus.ABORTED, None)
        self._graph.goals.setdefault(self._name, []).append(sent)
        return sent


class _Canceller:
    def __init__(self, graph: LocalGraph, name: str) -> None:
        self._graph, self._name = graph, name

    def is_served(self) -> bool:
        return self._name in self._graph._servers

    def cancel_all(self) -> None:
        self._graph.cancelled_all[self._name] = self._graph.cancelled_all.get(self._name, 0) + 1
        for sent in [s for s in self._graph.goals.get(self._name, []) if s.is_accepted and s.ended is None]:
            sent.cancel()


class Sent:
    """One goal, seen from both sides."""

    def __init__(self, cancel: Any, on_feedback: Any) -> None:
        self._cancel, self._on_feedback = cancel, on_feedback
        self.goal: Any = None
        self.is_accepted = False
        self.ended: tuple[GoalStatus, Any] | None = None

    def accepted(self) -> bool | None:
        return self.is_accepted

    def outcome(self) -> tuple[GoalStatus, Any] | None:
        return self.ended

    def cancel(self) -> None:
        self._cancel(self)

    def feedback(self, feedback: Any) -> None:
        if self._on_feedback is not None:
            self._on_feedback(feedback)

    def end(self, status: GoalStatus, result: Any) -> None:
        self.ended = self.ended or (status, result)
