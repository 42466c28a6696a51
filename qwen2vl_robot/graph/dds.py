"""The topics, services and actions of `graph.interface` → Cyclone DDS from pip; ROS 2 nodes see this process as a node.

Topic names, service headers, discovery information and type hashes are those of rmw_cyclonedds. Discovery stays on the
loopback interface unless ROS_AUTOMATIC_DISCOVERY_RANGE or CYCLONEDDS_URI says otherwise.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.clock import SimClock, SystemClock
from qwen2vl_robot.graph.dds_actions import DdsActionClient, DdsActionServer, DdsGoalCanceller
from qwen2vl_robot.graph.dds_endpoints import Endpoints, Port, count_matched, write
from qwen2vl_robot.graph.dds_services import DdsClient, DeferredHandler, serve_later
from qwen2vl_robot.graph.frames import Frames, listen
from qwen2vl_robot.graph.idl import DEFAULT_DISTRO, DISTROS, DdsMessage, message_class
from qwen2vl_robot.graph.names import resolve_name

if TYPE_CHECKING:
    from cyclonedds.pub import DataWriter

_POLL_S = 0.01


class DdsGraph:
    """A `graph.interface.Graph` over Cyclone DDS.

    Args:
        remap: "from" → "to", as `--remap from:=to` gives them.
        domain_id: else ROS_DOMAIN_ID, else 0.
        distro: the ROS distribution whose message definitions the other nodes use, else ROS_DISTRO, else jazzy.

    Raises:
        BadInputError: a name, the domain or the distribution cannot be used.
    """

    def __init__(
        self,
        node: str,
        *,
        namespace: str = "/",
        remap: Mapping[str, str] | None = None,
        use_sim_time: bool = False,
        domain_id: int | None = None,
        distro: str | None = None,
    ) -> None:
        self._node, self._namespace, self._remap = node, "/" + namespace.strip("/"), dict(remap or {})
        self.name = self.resolve(f"~/{node}").rpartition("/")[0]
        self.distro = distro or os.environ.get("ROS_DISTRO") or DEFAULT_DISTRO
        if self.distro not in DISTROS:
            raise BadInputError(f"ROS distribution {self.distro!r} is unknown; known: {', '.join(DISTROS)}")
        self._frames: Frames | None = None
        self._endpoints = Endpoints(node, self._namespace, self.distro, domain_id)
        self._servers: list[DdsActionServer] = []
        self._on_jump: Callable[[float], None] = lambda seconds: None
        self._clock: SystemClock | SimClock = SystemClock(self._jumped)
        if use_sim_time:
            self._clock = clock = SimClock(self._jumped)
            self.subscribe(interface.CLOCK, clock.take)

    # ---------------------------------------------------------------------------------------- time, names

    def resolve(self, name: str) -> str:
        """Return the absolute name of a topic, service or action."""
        return resolve_name(name, self._node, self._namespace, self._remap)

    def message(self, type_name: str) -> type[DdsMessage]:
        """Return the class of a ROS type."""
        return message_class(type_name, self.distro)

    def has_type(self, type_name: str) -> bool:
        """Return true: every type of the interface is defined here."""
        return True

    def serialize(self, message: interface.Message) -> bytes:
        """Serialize a message as CDR."""
        return bytes(message.serialize(use_version_2=False))

    def now_ns(self) -> int:
        """Return ROS time (see `interface.Graph`)."""
        return self._clock.now_ns()

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time.

        Raises:
            ExecutionError: simulated time has stopped.
        """
        self._clock.sleep(seconds)

    def on_jump(self, callback: Callable[[float], None]) -> None:
        """Set what is called when ROS time jumped (see `interface.Graph`)."""
        self._on_jump = callback

    def _jumped(self, seconds: float) -> None:
        if self._frames is not None:
            self._frames.forget()
        self._on_jump(seconds)

    # --------------------------------------------------------------------------------------------- topics

    def publisher(self, topic: interface.Topic) -> DdsPublisher:
        """Publish on a topic."""
        return DdsPublisher(self._endpoints.make_writer(self._port(topic)), topic.qos is interface.Qos.PICTURE)

    def subscribe(self, topic: interface.Topic, callback: interface.MessageCallback) -> None:
        """Call `callback` with each message, on this topic's own thread."""
        self._endpoints.make_reader(self._port(topic), callback)

    def subscribe_newest(
        self, topic: interface.Topic, callback: interface.MessageCallback, kind_of: interface.KindOf
    ) -> None:
        """Call `callback` with the newest message of each publisher and kind (see `interface.Graph`)."""
        self._endpoints.make_reader(self._port(topic), callback, kind_of)

    def publishers_of(self, topic: interface.Topic) -> int:
        """Count the publishers of a topic on the whole graph."""
        return self._endpoints.count_publishers(self._port(topic).name)

    def callers_of(self, service: str) -> int:
        """Count the clients of a service on the whole graph."""
        return self._endpoints.count_publishers(f"rq{service}Request")

    def _port(self, topic: interface.Topic) -> Port:
        return Port("rt" + self.resolve(topic.name), self.message(topic.type), topic.type, topic.qos)

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """Look up `T_target_source` at a time (see `interface.Graph`)."""
        if self._frames is None:
            self._frames = listen(self)
        return self._frames.lookup(target, source, stamp_ns)

    # ------------------------------------------------------------------------------------------- services

    def serve(self, service: interface.Service, handler: interface.ServiceHandler) -> None:
        """Serve a service: request → response."""
        self.serve_later(service.name, service.type, lambda request, reply: reply(handler(request)))

    def serve_later(self, name: str, type_name: str, handler: DeferredHandler) -> None:
        """Serve a service whose response may come later: the handler gets the request and a function that responds."""
        serve_later(self._endpoints, self.resolve(name), type_name, handler)

    def call(self, service: interface.Service, timeout_s: float, **fields: object) -> interface.Message:
        """Call a service (see `interface.Graph`)."""
        end_s = time.monotonic() + timeout_s
        client = self.client(service.name, service.type)
        while not client.is_served():
            if time.monotonic() > end_s:
                raise ExecutionError(f"nobody serves {self.resolve(service.name)}")
            time.sleep(_POLL_S)
        return client.call(max(0.0, end_s - time.monotonic()), **fields)

    def client(self, name: str, type_name: str) -> DdsClient:
        """Make a client of a service."""
        return DdsClient(self._endpoints, self.resolve(name), type_name)

    def action_client(self, action: interface.ActionInterface) -> DdsActionClient:
        """Make a client of an action."""
        return DdsActionClient(self, action)

    def goal_canceller(self, action: interface.ActionInterface) -> DdsGoalCanceller:
        """Make what cancels all goals of an action."""
        return DdsGoalCanceller(self, action)

    def serve_action(
        self, action: interface.ActionInterface, accept: interface.AcceptGoal, cancel: interface.CancelGoal
    ) -> None:
        """Serve an action (see `interface.Graph`)."""
        self._servers.append(DdsActionServer(self, action, accept, cancel))

    # --------------------------------------------------------------------------------------------- problems

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Set what is called when a callback raises (see `interface.Graph`)."""
        self._endpoints.on_broken = callback

    def problems(self) -> tuple[str, ...]:
        """List the transport's problems: mismatched QoS, callbacks that raised, unusable transforms."""
        tf = () if self._frames is None else self._frames.problems()
        return (*self._endpoints.problems(), *tf)

    def log_handler(self, level: str) -> logging.Handler:
        """Return a handler that writes to stderr (see `interface.Graph`)."""
        return logging.StreamHandler()

    def close(self) -> None:
        """End the goals served here and leave the graph."""
        for server in self._servers:
            server.close()
        self._servers.clear()  # they hold this graph, whose endpoints are seen until it is collected
        self._endpoints.close()


class DdsPublisher:
    """A `graph.interface.Publisher` over DDS."""

    def __init__(self, writer: DataWriter[DdsMessage], may_be_missed: bool) -> None:
        self._writer, self._may_be_missed = writer, may_be_missed

    def publish(self, message: interface.Message) -> None:
        """Send a message."""
        assert isinstance(message, DdsMessage)  # `DdsGraph.message` made its class
        write(self._writer, message, may_be_missed=self._may_be_missed)

    def listeners(self) -> int:
        """Count the matching subscriptions."""
        return count_matched(self._writer.get_matched_subscriptions)
