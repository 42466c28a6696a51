"""ROS 2 messages ↔ an MCAP file that reads to its last chunk, however its writer died.

A chunk is closed after `FLUSH_S` or 1 MiB and goes to the system at once, so a process that is killed loses what it
held in memory and nothing else. A machine that loses power may lose more: nothing is forced to the disk before `close`.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import lz4.frame
import zstandard
from mcap.exceptions import EndOfFile, McapError
from mcap.records import Channel, Chunk, DataEnd, Footer, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from qwen2vl_robot.bounds import BAG_CHUNK_BYTES, shown
from qwen2vl_robot.errors import BadInputError

FLUSH_S = 0.25
_CHUNK_BYTES = 1 << 20
_QOS = (
    "- history: 3\n  depth: 0\n  reliability: 1\n  durability: 2\n  deadline: {sec: 9223372036, nsec: 854775807}\n"
    "  lifespan: {sec: 9223372036, nsec: 854775807}\n  liveliness: 1\n"
    "  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}\n  avoid_ros_namespace_conventions: false\n"
)  # as rosbag2 writes it: keep all, reliable, volatile
# What the readers raise for files that are cut or lie about themselves.
_UNREADABLE = (
    *(McapError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(struct.error, zlib.error, zstandard.ZstdError, RuntimeError, OverflowError, MemoryError),
)

_ENDS = (EndOfFile, EOFError, struct.error)


@cache
def types() -> Typestore:
    """The message types in which bags are written, those of Jazzy."""
    return get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message of a bag, not decoded.

    Attributes:
        type: such as std_msgs/msg/String.
        data: CDR.
    """

    topic: str
    type: str
    data: bytes
    sequence: int
    log_ns: int


class BagWriter:
    """Writes one MCAP file. Not thread-safe.

    Args:
        store: has the definitions of the types that are written.

    Raises:
        BadInputError: the file exists already.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, store: Typestore | None = None) -> None:
        self._store = store or types()
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError as error:
            raise BadInputError(f"{path} exists already; no recording is overwritten") from error
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._flushed_s = time.monotonic()
        self._mcap: Any = Writer(
            cast("IO[bytes]", _Whole(self._file)), chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4
        )
        self._mcap.start(profile="ros2", library="qwen2vl_robot")

    def write(
        self, topic: str, type_name: str, data: bytes | memoryview, *, sequence: int = 0, log_ns: int = 0
    ) -> None:
        """Add one CDR message; what has waited for `FLUSH_S` is written.

        Raises:
            OSError: the disk is full, gone or read-only.
        """
        log_ns = log_ns or time.time_ns()
        self._mcap.add_message(self._channel(topic, type_name), log_ns, bytes(data), log_ns, sequence)
        self.flush_old()

    def flush_old(self) -> None:
        """Close the chunk if it is `FLUSH_S` old."""
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self._mcap.flush()
            self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Write the index and force all to the disk.

        Raises:
            OSError: the disk is full, gone or read-only.
        """
        try:
            self._mcap.finish()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        self._file.close()

    def _channel(self, topic: str, type_name: str) -> int:
        if topic not in self._channels:
            if type_name not in self._schemas:
                text, _ = self._store.generate_msgdef(type_name, ros_version=2)
                self._schemas[type_name] = self._mcap.register_schema(type_name, "ros2msg", text.encode())
            about = {"offered_qos_profiles": _QOS}
            self._channels[topic] = self._mcap.register_channel(topic, "cdr", self._schemas[type_name], about)
        return self._channels[topic]


class _Whole:
    """A raw file whose `write` writes everything or raises; a disk that is nearly full takes a part silently."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def flush(self) -> None:
        """Nothing is held back."""


class BagReader:
    """Reads one MCAP file from its beginning, as far as it goes.

    Attributes:
        is_whole: whether its end was read; known once `messages` is through.
        problem: why not, in one line.

    Raises:
        BadInputError: no such file, or not an MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_whole, self.problem = False, ""
        try:
            if not path.is_file():
                raise BadInputError(
                    f"{shown(path)}: {'a folder' if path.is_dir() else 'no such file'}; a bag is needed"
                )
            with path.open("rb") as file:
                magic = file.read(8)
        except OSError as error:
            raise BadInputError(f"{shown(path)}: {error.strerror}") from error
        if magic != b"\x89MCAP0\r\n":
            raise BadInputError(f"{shown(path)}: {'empty' if not magic else 'not an MCAP file'}; a bag is needed")

    def messages(self) -> Iterator[Recorded]:
        """Every message up to the end, or to where the file is cut or broken; then `problem` says why."""
        channels: dict[int, Channel] = {}
        schemas: dict[int, Schema] = {}
        with self._path.open("rb") as file:
            reader = StreamReader(file, emit_chunks=True, record_size_limit=BAG_CHUNK_BYTES)
            records = iter(reader.records)
            while True:
                try:
                    record = next(records, None)
                    inner = _unpack(record) if isinstance(record, Chunk) else [record]
                except _UNREADABLE as error:
                    self.problem = f"cut or broken after {file.tell()} bytes ({_why(error)})"
                    return
                if record is None:
                    self.is_whole = True
                    return
                for item in inner:
                    if isinstance(item, Channel):
                        channels[item.id] = item
                    elif isinstance(item, Schema):
                        schemas[item.id] = item
                    elif isinstance(item, Message) and item.channel_id in channels:
                        yield _recorded(item, channels[item.channel_id], schemas)
                if isinstance(record, DataEnd | Footer):
                    self.is_whole = True
                    return


def _why(error: BaseException) -> str:
    """What is wrong, in a few words; that a file just ends has no words of its own."""
    is_plain = isinstance(error, ValueError | OSError) and str(error)
    return shown(error, 80) if is_plain else "it ends too early" if isinstance(error, _ENDS) else type(error).__name__


def _unpack(chunk: Chunk) -> list[Any]:
    """The records of a chunk, whose size is known before it is unpacked."""
    if not 0 <= chunk.uncompressed_size <= BAG_CHUNK_BYTES:
        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes")
    if chunk.compression not in ("", "lz4", "zstd"):
        raise ValueError(f"packed with {shown(chunk.compression, 20)}; MCAP knows lz4 and zstd")
    if chunk.compression == "lz4":  # its frame may unpack to another size than the chunk says
        with lz4.frame.LZ4FrameDecompressor() as unpacker:
            data = unpacker.decompress(chunk.data, max_length=chunk.uncompressed_size)
            if len(data) != chunk.uncompressed_size:
                raise ValueError("a chunk has another size than it says")
        chunk.compression, chunk.data = "", data
    elif chunk.compression:
        size = zstandard.get_frame_parameters(chunk.data).content_size
        if size not in (chunk.uncompressed_size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError("a chunk has another size than it says")
    return breakup_chunk(chunk, validate_crc=True)


def _recorded(message: Message, channel: Channel, schemas: dict[int, Schema]) -> Recorded:
    schema = schemas.get(channel.schema_id)
    name = "" if schema is None or channel.message_encoding != "cdr" else schema.name
    return Recorded(channel.topic, name, message.data, message.sequence, message.log_time)


__all__ = ["FLUSH_S", "BagReader", "BagWriter", "Recorded", "types"]
