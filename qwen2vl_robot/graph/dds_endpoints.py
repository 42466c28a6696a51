"""One process on a DDS domain → its readers and writers as rmw_cyclonedds makes them, each reader with a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import (
    Entity,
    GuardCondition,
    InstanceState,
    Policy,
    Qos,
    ReadCondition,
    SampleState,
    ViewState,
    WaitSet,
)
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic as DdsTopic

from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.dds_domain import join_domain
from qwen2vl_robot.graph.idl import Message, message_class, type_hash

T = TypeVar("T")

_TAKE_AT_ONCE = 32
_EVERY = SampleState.Any | ViewState.Any | InstanceState.Any
_ALIVE = SampleState.Any | ViewState.Any | InstanceState.Alive


@dataclass(frozen=True, slots=True)
class Port:
    """What a reader or a writer needs to find its counterpart.

    Attributes:
        name: of the DDS topic, as ROS 2 mangles it ("rt/image").
        data_type: the class of its samples.
        type_name: the ROS type whose hash is announced.
        identity: user data that pairs the two ends of a service.
    """

    name: str
    data_type: type[Message]
    type_name: str
    qos: rows.Qos
    identity: str = ""


class Endpoints:
    """The readers and writers of one node.

    Args:
        domain_id: else ROS_DOMAIN_ID, else 0.

    Raises:
        BadInputError: the domain cannot be used.
    """

    def __init__(self, node: str, namespace: str, distro: str, domain_id: int | None) -> None:
        self._node, self._namespace, self.distro = node, namespace, distro
        self.on_broken: Callable[[str], None] = lambda told: None
        self._problems: dict[str, str] = {}
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._writers: list[tuple[str, DataWriter[Message]]] = []
        self._readers: list[tuple[str, DataReader[Message]]] = []
        self._topics: dict[str, DdsTopic[Message]] = {}
        self._is_closed = False
        self._participant = join_domain(domain_id)
        self._guard = GuardCondition(self._participant)
        self._info = self._make_info_writer()
        self._publications = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        self._announce()

    def make_writer(self, port: Port) -> DataWriter[Message]:
        """A writer, announced to the graph."""
        with self._lock:
            made: DataWriter[Message] = DataWriter(self._participant, self._topic(port), self._qos(port))
            self._writers.append((port.name, made))
            self._announce()
        return made

    def make_reader(self, port: Port, callback: Callable[[Message], None]) -> DataReader[Message]:
        """A reader with a thread that hands its samples to `callback`."""
        with self._lock:
            made: DataReader[Message] = DataReader(self._participant, self._topic(port), self._qos(port))
            self._readers.append((port.name, made))
            self._announce()
            thread = threading.Thread(
                target=self._listen, args=(port.name, made, callback), name=port.name, daemon=True
            )
            self._threads.append(thread)
        thread.start()
        return made

    def count_publishers(self, name: str) -> int:
        """How many writers a DDS topic has on the whole graph."""
        condition = ReadCondition(self._publications, _ALIVE)
        return sum(1 for found in self._publications.read(N=4096, condition=condition) if found.topic_name == name)

    def problems(self) -> tuple[str, ...]:
        """Mismatched QoS and broken callbacks."""
        with self._lock:
            readers: list[tuple[str, Any]] = list(self._readers)  # Any: this part of Cyclone has no annotations
            writers: list[tuple[str, Any]] = list(self._writers)
        asked = [(n, r.get_requested_incompatible_qos_status().total_count) for n, r in readers]
        offered = [(n, w.get_offered_incompatible_qos_status().total_count) for n, w in writers]
        mismatched = [f"{n[2:]}: {k} of the others have a QoS that does not fit" for n, k in asked + offered if k]
        return (*self._problems.values(), *mismatched)

    def close(self) -> None:
        """End the threads."""
        self._is_closed = True
        self._guard.set(True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)

    def _listen(self, name: str, reader: DataReader[Message], callback: Callable[[Message], None]) -> None:
        """Wait, take, call back; the top of a thread, where nothing may be lost without a word."""
        waiting = WaitSet(self._participant)
        waiting.attach(ReadCondition(reader, _EVERY))
        waiting.attach(self._guard)
        while not self._is_closed:
            waiting.wait(60_000_000_000)
            samples = [] if self._is_closed else self._guarded(name, partial(reader.take, N=_TAKE_AT_ONCE)) or []
            for sample in samples:
                if not isinstance(sample, InvalidSample):
                    self._guarded(name, partial(callback, sample))

    def _guarded(self, name: str, call: Callable[[], T]) -> T | None:
        """Call; what it raises is reported, so that the thread goes on listening."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the top of a thread
            told = f"{name[2:]}: {type(error).__name__}: {error}"
            self._problems[name] = told
            self.on_broken(told)
            return None

    def _topic(self, port: Port) -> DdsTopic[Message]:
        if port.name not in self._topics:
            self._topics[port.name] = DdsTopic(self._participant, port.name, port.data_type)
        return self._topics[port.name]

    def _qos(self, port: Port) -> Qos:
        qos = port.qos
        reliability = Policy.Reliability.Reliable(1_000_000_000) if qos.is_reliable else Policy.Reliability.BestEffort
        history = Policy.History.KeepLast(qos.depth)
        policies = [reliability, history, Policy.DataRepresentation(use_cdrv0_representation=True)]
        if qos.is_latched:
            policies += [Policy.Durability.TransientLocal, Policy.DurabilityService(0, history, -1, -1, -1)]
        hashed = type_hash(port.type_name, self.distro)
        data = port.identity + (f"typehash={hashed};" if hashed else "")
        return Qos(*policies, Policy.WriterDataLifecycle(autodispose=False), Policy.Userdata(data.encode()))

    # -------------------------------------------------------------------------- being seen by `ros2 node list`

    def _message(self, type_name: str) -> type[Message]:
        return message_class(type_name, self.distro)

    def _make_info_writer(self) -> DataWriter[Message]:
        name = "rmw_dds_common/msg/ParticipantEntitiesInfo"
        port = Port("ros_discovery_info", self._message(name), name, rows.Qos.LATCHED)
        return DataWriter(self._participant, self._topic(port), self._qos(port))

    def _announce(self) -> None:
        """Say anew which endpoints belong to this node."""
        with self._lock:
            node = self._message("rmw_dds_common/msg/NodeEntitiesInfo")(
                node_namespace=self._namespace,
                node_name=self._node,
                reader_gid_seq=[self._gid(reader) for _, reader in self._readers],
                writer_gid_seq=[self._gid(writer) for _, writer in self._writers],
            )
            info = self._info.data_type(gid=self._gid(self._participant), node_entities_info_seq=[node])
            self._info.write(info)

    def _gid(self, entity: Entity) -> Message:
        kind = self._message("rmw_dds_common/msg/Gid")
        return kind(data=entity.get_guid().bytes.ljust(len(kind().data), b"\0"))
