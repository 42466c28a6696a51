"""The controller's topics → an MCAP bag like those of `ros2 bag`."""

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

_PICTURES = (interface.IMAGE, interface.COMPRESSED, interface.DEPTH, interface.COMPRESSED_DEPTH)


class Recorder:
    """Writes every received message to a bag until it is closed.

    Args:
        folder: the bag to create.
        cameras: prefixes of the cameras' topics, as the controller uses them.
        with_pictures: whether to record images and depth too (some megabytes per second).

    Raises:
        BadInputError: the folder exists or cannot be created.
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
        for topic in recorded_topics(cameras, with_pictures):
            name = graph.resolve(topic.name)
            self._connections[topic.name] = self._writer.add_connection(name, topic.type, typestore=store)
            self._counts[topic.name] = 0
            graph.subscribe(topic, partial(self._write, topic.name))

    def counts(self) -> dict[str, int]:
        """Count the written messages of each topic that had any."""
        return {name: count for name, count in self._counts.items() if count}

    def close(self) -> None:
        """Finish the bag; later messages are not recorded."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, name: str, message: interface.Message) -> None:
        stamp_ns, data = self._graph.now_ns(), self._graph.serialize(message)
        with self._lock:
            if self._writer is not None:
                self._writer.write(self._connections[name], stamp_ns, data)
                self._counts[name] += 1


def recorded_topics(cameras: tuple[str, ...], with_pictures: bool) -> list[interface.Topic]:
    """List the topics to record, `~/` replaced by the controller's name."""
    of_camera = (*_PICTURES, interface.CAMERA_INFO)
    topics = [topic for topic in (*interface.TOPICS_IN, *interface.TOPICS_OUT) if topic not in of_camera]
    wanted = of_camera if with_pictures else (interface.CAMERA_INFO,)
    topics += [topic.at(prefix + topic.name) for prefix in cameras for topic in wanted]
    return [t.at(f"{interface.NODE_NAME}/{t.name[2:]}") if t.name.startswith("~/") else t for t in topics]
