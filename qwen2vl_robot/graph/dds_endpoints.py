"""One node on a DDS domain → its readers and writers as rmw_cyclonedds makes them, each reader with a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cyclonedds._clayer import ddspy_take  # the samples' bytes; `DataReader.take` converts each of them
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import (
    DDSException,
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

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds_domain import join_domain
from qwen2vl_robot.graph.idl import DdsMessage, message_class, type_hash

T = TypeVar("T")

_TAKE_AT_ONCE = 32
_MOST_WAITING = 1000
_EVERY = SampleState.Any | ViewState.Any | InstanceState.Any
_ALIVE = SampleState.Any | ViewState.Any | InstanceState.Alive


@dataclass(frozen=True, slots=True)
class Port:
    """The DDS topic of a reader or a writer.

    Attributes:
        name: of the DDS topic, as ROS 2 mangles it ("rt/image").
        data_type: the class of its samples.
        type_name: the ROS type; its hash is announced.
        identity: user data that pairs the two ends of a service.
    """

    name: str
    data_type: type[DdsMessage]
    type_name: str
    qos: interface.Qos
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
        self.on_broken: Callable[[str], None] = lambda problem: None
        self._problems: dict[str, str] = {}
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._writers: list[tuple[str, DataWriter[DdsMessage]]] = []
        self._readers: list[tuple[str, DataReader[DdsMessage]]] = []
        self._topics: dict[str, DdsTopic[DdsMessage]] = {}
        self._is_closed = False
        self._participant = join_domain(domain_id)
        self._guard = GuardCondition(self._participant)
        self._info = self._make_info_writer()
        self._publications = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        self._announce()

    def make_writer(self, port: Port) -> DataWriter[DdsMessage]:
        """Make a writer and announce it to the graph."""
        with self._lock:
            writer: DataWriter[DdsMessage] = DataWriter(self._participant, self._topic(port), self._qos(port))
            self._writers.append((port.name, writer))
            self._announce()
        return writer

    def make_reader(
        self, port: Port, callback: Callable[[DdsMessage], None], kind_of: interface.KindOf | None = None
    ) -> DataReader[DdsMessage]:
        """Make a reader, announce it, and call `callback` with each sample on a thread of its own.

        Args:
            kind_of: only with the newest sample of each writer and kind, as `Graph.subscribe_newest` says.
        """
        with self._lock:
            reader: DataReader[DdsMessage] = DataReader(self._participant, self._topic(port), self._qos(port))
            self._readers.append((port.name, reader))
            self._announce()
            thread = threading.Thread(
                target=self._listen, args=(port.name, reader, callback, kind_of), name=port.name, daemon=True
            )
            self._threads.append(thread)
        thread.start()
        return reader

    def count_publishers(self, name: str) -> int:
        """Count the writers of a DDS topic on the whole graph."""
        condition = ReadCondition(self._publications, _ALIVE)
        return sum(1 for found in self._publications.read(N=4096, condition=condition) if found.topic_name == name)

    def problems(self) -> tuple[str, ...]:
        """List mismatched QoS and callbacks that raised, one line each."""
        with self._lock:
            readers: list[tuple[str, Any]] = list(self._readers)  # Any: this part of Cyclone has no annotations
            writers: list[tuple[str, Any]] = list(self._writers)
        asked = [(n, r.get_requested_incompatible_qos_status().total_count) for n, r in readers]
        offered = [(n, w.get_offered_incompatible_qos_status().total_count) for n, w in writers]
        mismatched = [f"{n[2:]}: the QoS of {k} other endpoints does not match" for n, k in asked + offered if k]
        return (*self._problems.values(), *mismatched)

    def close(self) -> None:
        """End the threads."""
        self._is_closed = True
        self._guard.set(True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)

    def _listen(
        self,
        name: str,
        reader: DataReader[DdsMessage],
        callback: Callable[[DdsMessage], None],
        kind_of: interface.KindOf | None,
    ) -> None:
        """Wait for samples and call back until closed; the top of a thread, so every exception is reported."""
        waiting = WaitSet(self._participant)
        waiting.attach(ReadCondition(reader, _EVERY))
        waiting.attach(self._guard)
        take = partial(reader.take, N=_TAKE_AT_ONCE) if kind_of is None else partial(_take_newest, reader, kind_of)
        while not self._is_closed:
            waiting.wait(60_000_000_000)
            if kind_of is not None:
                time.sleep(interface.NEWEST_EVERY_S)  # meanwhile samples gather in the reader
            samples = [] if self._is_closed else self._guarded(name, take) or []
            for sample in samples:
                if not isinstance(sample, InvalidSample):
                    self._guarded(name, partial(callback, sample))

    def _guarded(self, name: str, call: Callable[[], T]) -> T | None:
        """Call, and report what it raises, so that the thread keeps listening."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the top of a thread
            problem = f"{name[2:]}: {type(error).__name__}: {error}"
            self._problems[name] = problem
            with contextlib.suppress(Exception):  # one that raises must not end this thread, which may carry stops
                self.on_broken(problem)
            return None

    def _topic(self, port: Port) -> DdsTopic[DdsMessage]:
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

    def _message(self, type_name: str) -> type[DdsMessage]:
        return message_class(type_name, self.distro)

    def _make_info_writer(self) -> DataWriter[DdsMessage]:
        name = "rmw_dds_common/msg/ParticipantEntitiesInfo"
        port = Port("ros_discovery_info", self._message(name), name, interface.Qos.LATCHED)
        return DataWriter(self._participant, self._topic(port), self._qos(port))

    def _announce(self) -> None:
        """Publish which endpoints belong to this node."""
        with self._lock:
            node = self._message("rmw_dds_common/msg/NodeEntitiesInfo")(
                node_namespace=self._namespace,
                node_name=self._node,
                reader_gid_seq=[self._gid(reader) for _, reader in self._readers],
                writer_gid_seq=[self._gid(writer) for _, writer in self._writers],
            )
            info = self._info.data_type(gid=self._gid(self._participant), node_entities_info_seq=[node])
            self._info.write(info)

    def _gid(self, entity: Entity) -> DdsMessage:
        kind = self._message("rmw_dds_common/msg/Gid")
        return kind(data=entity.get_guid().bytes.ljust(len(kind().data), b"\0"))


def _take_newest(reader: DataReader[DdsMessage], kind_of: interface.KindOf) -> list[DdsMessage]:
    """Take all waiting samples and convert the newest of each writer and kind, in the order in which they came."""
    taken: Any = ddspy_take(reader._ref, _EVERY, _MOST_WAITING)
    if isinstance(taken, int):
        raise DDSException(taken, "while samples were taken")
    newest: dict[tuple[int, bytes], bytes] = {}
    for data, info in taken:
        if info.valid_data:
            key = (info.publication_handle, kind_of(data))
            newest.pop(key, None)
            newest[key] = data
    data_type: Any = reader.topic.data_type
    return [data_type.deserialize(data) for data in newest.values()]
