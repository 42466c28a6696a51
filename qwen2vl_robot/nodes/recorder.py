"""The controller's topics, as they come → an MCAP file that Foxglove and `ros2 bag` open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.idl import DEFAULT_DISTRO, typestore
from qwen2vl_robot.recording.bag import BagWriter
from qwen2vl_robot.results import reason_of

_PICTURES = (interface.IMAGE, interface.COMPRESSED, interface.DEPTH, interface.COMPRESSED_DEPTH)


class Recorder:
    """Writes every received message to a file until it is closed.

    Args:
        file: the MCAP file to create.
        cameras: prefixes of the cameras' topics, as the controller uses them.
        with_pictures: whether to record images and depth too (a frame of 640x480 takes about 0.3 MB).
        on_broken: is called once when nothing more can be written.

    Attributes:
        problem: why nothing more can be written, "" while all is well.

    Raises:
        BadInputError: the file exists or cannot be created.
    """

    def __init__(
        self,
        graph: interface.Graph,
        file: Path,
        *,
        cameras: tuple[str, ...] = ("",),
        with_pictures: bool = False,
        on_broken: Callable[[], object] = lambda: None,
    ) -> None:
        self._graph, self._file, self._on_broken = graph, file, on_broken
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.problem = ""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            store = typestore(os.environ.get("ROS_DISTRO") or DEFAULT_DISTRO)
            self._bag: BagWriter | None = BagWriter(file, store)
        except OSError as error:
            raise BadInputError(f"{file}: {reason_of(error)}") from error
        for topic in recorded_topics(cameras, with_pictures):
            if graph.has_type(topic.type):
                graph.subscribe(topic, partial(self._write, graph.resolve(topic.name), topic))

    def counts(self) -> dict[str, int]:
        """Count the written messages of each topic that had any."""
        return dict(sorted(self._counts.items()))

    def close(self) -> None:
        """Finish the file; later messages are not recorded."""
        with self._lock:
            bag, self._bag = self._bag, None
            if bag is not None:
                try:
                    bag.close()
                except OSError as error:
                    self._fail(error)

    def _write(self, name: str, topic: interface.Topic, message: interface.Message) -> None:
        stamp_ns, data = self._graph.now_ns(), self._graph.serialize(message)
        with self._lock:
            if self._bag is None:
                return
            try:
                self._bag.write(name, topic.type, data, log_ns=stamp_ns)
                self._counts[topic.name] = self._counts.get(topic.name, 0) + 1
            except OSError as error:
                self._bag.abandon()
                self._bag = None
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.problem = f"{self._file} ends here: {reason_of(error)}"
        self._on_broken()


def recorded_topics(cameras: tuple[str, ...], with_pictures: bool) -> list[interface.Topic]:
    """List the topics to record, `~/` replaced by the controller's name."""
    of_camera = (*_PICTURES, interface.CAMERA_INFO)
    topics = [topic for topic in (*interface.TOPICS_IN, *interface.TOPICS_OUT) if topic not in of_camera]
    wanted = of_camera if with_pictures else (interface.CAMERA_INFO,)
    topics += [topic.at(prefix + topic.name) for prefix in cameras for topic in wanted]
    return [t.at(f"{interface.NODE_NAME}/{t.name[2:]}") if t.name.startswith("~/") else t for t in topics]
