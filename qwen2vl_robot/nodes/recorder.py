"""The controller's topics → an MCAP bag as `ros2 bag` writes one: the rows of `graph.interface` that were published."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.idl import DEFAULT_DISTRO, typestore

_PICTURES = (interface.IMAGE, interface.COMPRESSED, interface.DEPTH)


class Recorder:
    """Writes what it hears until it is closed.

    Args:
        folder: the bag to make.
        cameras: prefixes of the cameras' topics, as the controller has them.
        with_pictures: whether images and depth are recorded too (some megabytes a second).

    Raises:
        BadInputError: the folder exists or cannot be made.
    """

    def __init__(
        self, graph: interface.Graph, folder: Path, *, cameras: tuple[str, ...] = ("",), with_pictures: bool = False
    ) -> None:
        self._graph = graph
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._connections: dict[str, Connection] = {}
        try:
            self._writer: Writer | None = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise BadInputError(f"{folder}: {error}") from error
        store = typestore(os.environ.get("ROS_DISTRO") or DEFAULT_DISTRO)
        for row in recorded_topics(cameras, with_pictures):
            name = graph.resolve(row.name)
            self._connections[row.name] = self._writer.add_connection(name, row.type, typestore=store)
            self._counts[row.name] = 0
            graph.subscribe(row, partial(self._take, row.name))

    def counts(self) -> dict[str, int]:
        """How many messages of each topic were written."""
        return {name: count for name, count in self._counts.items() if count}

    def close(self) -> None:
        """Finish the bag; what comes later is not recorded."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _take(self, name: str, message: interface.Message) -> None:
        stamp_ns, data = self._graph.now_ns(), self._graph.serialize(message)
        with self._lock:
            if self._writer is not None:
                self._writer.write(self._connections[name], stamp_ns, data)
                self._counts[name] += 1


def recorded_topics(cameras: tuple[str, ...], with_pictures: bool) -> list[interface.Topic]:
    """The rows to listen to, by the names that they have on the graph."""
    of_camera = (*_PICTURES, interface.CAMERA_INFO)
    found = [row for row in (*interface.TOPICS_IN, *interface.TOPICS_OUT) if row not in of_camera]
    wanted = of_camera if with_pictures else (interface.CAMERA_INFO,)
    found += [row.at(prefix + row.name) for prefix in cameras for row in wanted]
    return [row.at(f"{interface.NODE_NAME}/{row.name[2:]}") if row.name.startswith("~/") else row for row in found]
