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
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
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
_describing = threading.Lock()  # Cyclone describes a type when its first topic is made, and not from two threads

_TAKE_AT_ONCE = 32
_MOST_WAITING = 1000
_PICTURE_WAITS_NS = 50_000_000  # for a subscriber that is slow to take pictures; then it misses one
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
        self._reader_ports: list[Port] = []
        self._writer_ports: list[Port] = []
        self._is_closed = False
        self._participant = join_domain(domain_id)
        self._guard = GuardCondition(self._participant)
        self._info = self._make_info_writer()
        self._publications = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        self._subscriptions = BuiltinDataReader(self._participant, BuiltinTopicDcpsSubscription)
        self._announce()

    def make_writer(self, port: Port) -> DataWriter[DdsMessage]:
        """Make a writer and announce it to the graph."""
        with self._lock:
            writer: DataWriter[DdsMessage] = DataWriter(self._participant, self._topic(port), self._qos(port))
            self._writers.append((port.name, writer))
            self._writer_ports.append(port)
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
            self._reader_ports.append(port)
            self._announce()
            thread = threading.Thread(
                target=self._listen, args=(port.name, reader, callback, kind_of), name=port.name, daemon=True
            )
            self._threads.append(thread)
        thread.start()
        return reader

    def count_publishers(self, name: str) -> int:
        """Count the writers of a DDS topic on the whole graph."""
        return sum(1 for found in _read_all(self._publications) if found.topic_name == name)

    def problems(self) -> tuple[str, ...]:
        """List QoS that do not match now, and callbacks that raised when they were last called, one line each."""
        with self._lock:
            readers: list[tuple[Port, Any]] = list(zip(self._reader_ports, (r for _, r in self._readers), strict=True))
            writers: list[tuple[Port, Any]] = list(zip(self._writer_ports, (w for _, w in self._writers), strict=True))
        # Cyclone counts those that ever did not match; only then is it worth while to look who is there now.
        asked = [p for p, r in readers if r.get_requested_incompatible_qos_status().total_count]
        given = [p for p, w in writers if w.get_offered_incompatible_qos_status().total_count]
        publications = _read_all(self._publications) if asked else []
        subscriptions = _read_all(self._subscriptions) if given else []
        mismatched = [(p.name, _asks_more(publications, p, is_ours_read=True)) for p in asked]
        mismatched += [(p.name, _asks_more(subscriptions, p, is_ours_read=False)) for p in given]
        lines = [f"{name[2:]}: the QoS of {k} other endpoints does not match" for name, k in mismatched if k]
        return (*tuple(self._problems.values()), *lines)

    def close(self) -> None:
        """End the threads and leave the graph; nothing can be sent afterwards."""
        if self._is_closed:
            return
        self._is_closed = True
        self._guard.set(True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)
        self._participant.__del__()  # with all its readers and writers; others would see them until it is collected

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
            result = call()
        except Exception as error:  # noqa: BLE001 - the top of a thread
            problem = f"{name[2:]}: {type(error).__name__}: {error}"
            self._problems[name] = problem
            with contextlib.suppress(Exception):  # one that raises must not end this thread, which may carry stops
                self.on_broken(problem)
            return None
        self._problems.pop(name, None)
        return result

    def _topic(self, port: Port) -> DdsTopic[DdsMessage]:
        if port.name not in self._topics:
            with _describing:
                self._topics[port.name] = DdsTopic(self._participant, port.name, port.data_type)
        return self._topics[port.name]

    def _qos(self, port: Port) -> Qos:
        qos = port.qos
        waits_ns = _PICTURE_WAITS_NS if qos is interface.Qos.PICTURE else 1_000_000_000
        reliability = Policy.Reliability.Reliable(waits_ns) if qos.is_reliable else Policy.Reliability.BestEffort
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


def write(writer: DataWriter[DdsMessage], message: DdsMessage, *, may_be_missed: bool) -> None:
    """Write a sample; one that may be missed is given up where a subscriber does not take it in time."""
    try:
        writer.write(message)
    except DDSException as error:
        if not (may_be_missed and error.code == DDSException.DDS_RETCODE_TIMEOUT):
            raise


def count_matched(ask: Callable[[], list[int]]) -> int:
    """Count the other ends that a reader or writer is matched with, by what lists them.

    Cyclone's Python package counts first and lists then: an end that joins in between is past the end of its list.
    """
    while True:
        with contextlib.suppress(IndexError):
            return len(ask())


def _read_all(endpoints: BuiltinDataReader) -> list[Any]:
    return list(endpoints.read(N=4096, condition=ReadCondition(endpoints, _ALIVE)))


def _asks_more(endpoints: list[Any], ours: Port, *, is_ours_read: bool) -> int:
    """Count the other ends of a topic where the reader asks for more than the writer offers."""
    count = 0
    for other in (found for found in endpoints if found.topic_name == ours.name):
        theirs = Policy.Reliability.BestEffort not in other.qos, Policy.Durability.Volatile not in other.qos
        asked, offered = ((ours.qos.is_reliable, ours.qos.is_latched), theirs)[:: 1 if is_ours_read else -1]
        count += any(a and not o for a, o in zip(asked, offered, strict=True))
    return count
