"""The rows of `graph.interface` → Cyclone DDS from pip, so that ROS 2 nodes see this process as one of theirs.

Topic names, service headers, discovery information and type hashes are those of rmw_cyclonedds. Discovery stays on the
loopback interface unless ROS_AUTOMATIC_DISCOVERY_RANGE or CYCLONEDDS_URI says otherwise.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import GuardCondition, InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState, WaitSet
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic as DdsTopic

from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.clock import SimClock
from qwen2vl_robot.graph.dds_actions import DdsActionClient, DdsActionServer
from qwen2vl_robot.graph.dds_domain import join_domain
from qwen2vl_robot.graph.frames import Frames
from qwen2vl_robot.graph.idl import DEFAULT_DISTRO, DISTROS, message_class, service_class, type_hash

_TAKE_AT_ONCE = 32
_ALIVE = SampleState.Any | ViewState.Any | InstanceState.Alive


class DdsGraph:
    """A `graph.interface.Graph` over Cyclone DDS.

    Args:
        remap: "from" → "to", as `--remap from:=to` gives them.
        domain_id: else ROS_DOMAIN_ID, else 0.
        distro: the ROS distribution whose message definitions the others use, else ROS_DISTRO, else jazzy.

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
        self._on_broken: Callable[[str], None] = lambda told: None
        self._problems: dict[str, str] = {}
        self._frames: Frames | None = None
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._writers: list[tuple[str, DataWriter[Any]]] = []
        self._readers: list[tuple[str, DataReader[Any]]] = []
        self._topics: dict[str, DdsTopic[Any]] = {}
        self._is_closed = False
        self.participant = join_domain(domain_id)
        self._guard = GuardCondition(self.participant)
        self._info = self._make_info_writer()
        self._publications = BuiltinDataReader(self.participant, BuiltinTopicDcpsPublication)
        self._clock = SimClock() if use_sim_time else None
        if self._clock is not None:
            self.subscribe(rows.CLOCK, self._clock.take)
        self._announce()

    # ---------------------------------------------------------------------------------------- time, names

    def resolve(self, name: str) -> str:
        """Absolute name of a row."""
        return rows.resolve_name(name, self._node, self._namespace, self._remap)

    def message(self, type_name: str) -> Any:
        """The class of a ROS type."""
        return message_class(type_name, self.distro)

    def serialize(self, message: Any) -> bytes:
        """A message as CDR."""
        return bytes(message.serialize(use_version_2=False))

    def now_ns(self) -> int:
        """ROS time (see `interface.Graph`)."""
        return time.time_ns() if self._clock is None else self._clock.now_ns()

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time.

        Raises:
            ExecutionError: simulated time stopped.
        """
        if self._clock is None:
            time.sleep(seconds)
        else:
            self._clock.sleep(seconds)

    # --------------------------------------------------------------------------------------------- topics

    def publisher(self, topic: rows.Topic) -> DdsPublisher:
        """Offer a topic."""
        name = "rt" + self.resolve(topic.name)
        writer = self.make_writer(name, self.message(topic.type), topic.type, topic.qos)
        return DdsPublisher(writer)

    def subscribe(self, topic: rows.Topic, callback: Callable[[Any], None]) -> None:
        """Have each message handed to `callback`, on a thread of this row's own."""
        name = "rt" + self.resolve(topic.name)
        self.make_reader(name, self.message(topic.type), topic.type, topic.qos, callback)

    def publishers_of(self, topic: rows.Topic) -> int:
        """How many publishers a topic has on the whole graph."""
        name = "rt" + self.resolve(topic.name)
        condition = ReadCondition(self._publications, _ALIVE)
        return sum(1 for found in self._publications.read(N=4096, condition=condition) if found.topic_name == name)

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """`T_target_source` at a time (see `interface.Graph`)."""
        self._watch_tf()
        assert self._frames is not None
        return self._frames.lookup(target, source, stamp_ns)

    def _watch_tf(self) -> None:
        if self._frames is None:
            self._frames = frames = Frames()
            self.subscribe(rows.TF, lambda message: frames.add(message, is_static=False))
            self.subscribe(rows.TF_STATIC, lambda message: frames.add(message, is_static=True))

    # ------------------------------------------------------------------------------------------- services

    def serve(self, service: rows.Service, handler: Callable[[Any], Any]) -> None:
        """Answer a service: request → response."""
        self.serve_later(service.name, service.type, lambda request, reply: reply(handler(request)))

    def serve_later(self, name: str, type_name: str, handler: Callable[[Any, Callable[[Any], None]], None]) -> None:
        """Answer a service when it suits: the handler gets the request and what sends the response."""
        absolute = self.resolve(name)
        identity = f"serviceid={secrets.token_hex(16)};"
        replies = self.make_writer(
            f"rr{absolute}Reply", service_class(f"{type_name}_Response", self.distro), f"{type_name}_Response",
            rows.Qos.COMMAND, identity,
        )  # fmt: skip

        def answer(request: Any) -> None:
            def reply(response: Any) -> None:
                fields = {n: getattr(response, n) for n in type(response)._defaults if n not in ("guid", "seq")}
                replies.write(replies.data_type(guid=request.guid, seq=request.seq, **fields))

            handler(request, reply)

        self.make_reader(
            f"rq{absolute}Request", service_class(f"{type_name}_Request", self.distro), f"{type_name}_Request",
            rows.Qos.COMMAND, answer, identity,
        )  # fmt: skip

    def client(self, name: str, type_name: str) -> DdsClient:
        """Reach a service."""
        return DdsClient(self, self.resolve(name), type_name)

    def action_client(self, action: rows.Action) -> DdsActionClient:
        """Reach an action server."""
        return DdsActionClient(self, action)

    def serve_action(
        self,
        action: rows.Action,
        accept: Callable[[Any, rows.GoalHandle], bool],
        cancel: Callable[[rows.GoalHandle], None],
    ) -> None:
        """Serve an action (see `interface.Graph`)."""
        DdsActionServer(self, action, accept, cancel)

    # ------------------------------------------------------------------------------------ what it is made of

    def make_writer(
        self, name: str, data_type: Any, type_name: str, qos: rows.Qos, identity: str = ""
    ) -> DataWriter[Any]:
        """A writer as rmw_cyclonedds makes one, announced to the graph."""
        with self._lock:
            made = DataWriter(self.participant, self._topic(name, data_type), self._qos(qos, type_name, identity))
            self._writers.append((name, made))
            self._announce()
        return made

    def make_reader(
        self, name: str, data_type: Any, type_name: str, qos: rows.Qos, callback: Callable[[Any], None],
        identity: str = "",
    ) -> DataReader[Any]:  # fmt: skip
        """A reader with a thread that hands its samples to `callback`."""
        with self._lock:
            made = DataReader(self.participant, self._topic(name, data_type), self._qos(qos, type_name, identity))
            self._readers.append((name, made))
            self._announce()
            thread = threading.Thread(target=self._listen, args=(name, made, callback), name=name, daemon=True)
            self._threads.append(thread)
        thread.start()
        return made

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Who is told when a callback raises (see `interface.Graph`)."""
        self._on_broken = callback

    def problems(self) -> tuple[str, ...]:
        """What the transport has to report: mismatched QoS, broken callbacks, unusable transforms."""
        with self._lock:
            readers: list[tuple[str, Any]] = list(self._readers)  # Any: this part of Cyclone has no annotations
            writers: list[tuple[str, Any]] = list(self._writers)
        asked = [(n, r.get_requested_incompatible_qos_status().total_count) for n, r in readers]
        offered = [(n, w.get_offered_incompatible_qos_status().total_count) for n, w in writers]
        mismatched = [f"{n[2:]}: {k} of the others have a QoS that does not fit" for n, k in asked + offered if k]
        tf = () if self._frames is None else self._frames.problems()
        return (*self._problems.values(), *mismatched, *tf)

    def close(self) -> None:
        """Leave the graph."""
        self._is_closed = True
        self._guard.set(True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)

    def _listen(self, name: str, reader: DataReader[Any], callback: Callable[[Any], None]) -> None:
        """Wait, take, call back; the top of a thread, where nothing may be lost without a word."""
        waiting = WaitSet(self.participant)
        waiting.attach(ReadCondition(reader, SampleState.Any | ViewState.Any | InstanceState.Any))
        waiting.attach(self._guard)
        while not self._is_closed:
            waiting.wait(60_000_000_000)
            samples = [] if self._is_closed else self._guarded(name, partial(reader.take, N=_TAKE_AT_ONCE)) or []
            for sample in samples:
                if not isinstance(sample, InvalidSample):
                    self._guarded(name, partial(callback, sample))

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """Call; what it raises is reported, so that the thread goes on listening."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the top of a thread
            told = f"{name[2:]}: {type(error).__name__}: {error}"
            self._problems[name] = told
            self._on_broken(told)
            return None

    def _topic(self, name: str, data_type: Any) -> DdsTopic[Any]:
        if name not in self._topics:
            self._topics[name] = DdsTopic(self.participant, name, data_type)
        return self._topics[name]

    def _qos(self, qos: rows.Qos, type_name: str = "", identity: str = "") -> Qos:
        reliability = Policy.Reliability.Reliable(1_000_000_000) if qos.is_reliable else Policy.Reliability.BestEffort
        history = Policy.History.KeepLast(qos.depth)
        policies: list[Any] = [reliability, history, Policy.DataRepresentation(use_cdrv0_representation=True)]
        if qos.is_latched:
            policies += [Policy.Durability.TransientLocal, Policy.DurabilityService(0, history, -1, -1, -1)]
        hashed = type_hash(type_name, self.distro) if type_name else ""
        data = identity + (f"typehash={hashed};" if hashed else "")
        return Qos(*policies, Policy.WriterDataLifecycle(autodispose=False), Policy.Userdata(data.encode()))

    # -------------------------------------------------------------------------- being seen by `ros2 node list`

    def _make_info_writer(self) -> DataWriter[Any]:
        name = "rmw_dds_common/msg/ParticipantEntitiesInfo"
        topic = DdsTopic(self.participant, "ros_discovery_info", self.message(name))
        return DataWriter(self.participant, topic, self._qos(rows.Qos.LATCHED, name))

    def _announce(self) -> None:
        """Say anew which endpoints belong to this node."""
        with self._lock:
            node = self.message("rmw_dds_common/msg/NodeEntitiesInfo")(
                node_namespace=self._namespace,
                node_name=self._node,
                reader_gid_seq=[self._gid(reader) for _, reader in self._readers],
                writer_gid_seq=[self._gid(writer) for _, writer in self._writers],
            )
            info = self._info.data_type(gid=self._gid(self.participant), node_entities_info_seq=[node])
            self._info.write(info)

    def _gid(self, entity: Any) -> Any:
        kind = self.message("rmw_dds_common/msg/Gid")
        return kind(data=entity.get_guid().bytes.ljust(len(kind().data), b"\0"))


class DdsPublisher:
    """A `graph.interface.Publisher`."""

    def __init__(self, writer: DataWriter[Any]) -> None:
        self._writer = writer

    def publish(self, message: Any) -> None:
        """Send."""
        self._writer.write(message)

    def listeners(self) -> int:
        """How many subscriptions match."""
        return len(self._writer.get_matched_subscriptions())


class DdsClient:
    """A client of one service; calls may overlap."""

    def __init__(self, graph: DdsGraph, name: str, type_name: str) -> None:
        self._guid = secrets.randbits(63)
        identity = f"clientid={secrets.token_hex(16)};"
        kinds = [service_class(f"{type_name}_{end}", graph.distro) for end in ("Request", "Response")]
        self.request = message_class(f"{type_name}_Request", graph.distro)
        self._lock = threading.Lock()
        self._waiting: dict[int, Callable[[Any], None]] = {}
        self._next = 0
        self._replies = graph.make_reader(
            f"rr{name}Reply", kinds[1], f"{type_name}_Response", rows.Qos.COMMAND, self._take, identity
        )
        self._requests = graph.make_writer(
            f"rq{name}Request", kinds[0], f"{type_name}_Request", rows.Qos.COMMAND, identity
        )

    def is_served(self) -> bool:
        """Whether a server is there, in both directions."""
        return bool(self._requests.get_matched_subscriptions() and self._replies.get_matched_publications())

    def ask(self, on_response: Callable[[Any], None], **fields: Any) -> None:
        """Send a request; the response goes to `on_response`, on another thread."""
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = on_response
        self._requests.write(self._requests.data_type(guid=self._guid, seq=number, **fields))

    def call(self, timeout_s: float, **fields: Any) -> Any:
        """Ask and wait.

        Raises:
            ExecutionError: no answer in time.
        """
        answered, found = threading.Event(), []

        def take(response: Any) -> None:
            found.append(response)
            answered.set()

        self.ask(take, **fields)
        if not answered.wait(timeout_s):
            raise ExecutionError(f"no answer from the service within {timeout_s:g} s")
        return found[0]

    def _take(self, response: Any) -> None:
        if response.guid == self._guid:
            with self._lock:
                on_response = self._waiting.pop(response.seq, None)
            if on_response is not None:
                on_response(response)
