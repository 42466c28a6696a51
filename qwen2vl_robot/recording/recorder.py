"""Calls of a flow → a bag, by a thread of its own: the flow never waits for an encoder or a disk.

What the queue cannot hold is dropped, counted and said; a replay sees the gap by the calls' numbers.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import CameraFrame, RobotState
from qwen2vl_robot.recording.bag import FLUSH_S, BagWriter, types
from qwen2vl_robot.recording.form import to_json
from qwen2vl_robot.recording.taps import Call
from qwen2vl_robot.results import reason_of

PREFIX = "/decision"  # before every topic: what is played back with `ros2 bag play` reaches no controller and no arm
_MOST_WAITING_BYTES = 256_000_000
_CALL_BYTES = 1_000  # of a call without pictures, about
_CLOSE_S = 30.0
_log = logging.getLogger(__name__)
_STRING, _IMAGE, _JOINTS = "std_msgs/msg/String", "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"


class OnDiskError(str, Enum):
    """What follows when a recording cannot be written."""

    STOP = "stop"
    GO_ON = "go_on"


class Recorder:
    """A `taps.Sink` that writes a bag until it is closed.

    Args:
        path: of the new file.
        on_broken: is told once, on the recorder's thread, that nothing more is written; with `OnDiskError.STOP` only.

    Raises:
        BadInputError: the file exists, or cannot be made and the recording is required.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_disk_error: OnDiskError = OnDiskError.STOP,
        joint_names: tuple[str, ...] = (),
        on_broken: Callable[[str], object] = lambda why: None,
    ) -> None:
        self._path, self._on_disk_error, self._on_broken = path, on_disk_error, on_broken
        self._names = joint_names
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[int, Call, int] | None] = queue.SimpleQueue()
        self._waiting_bytes = self._count = self.dropped = 0
        self.problem = ""
        self._bag: BagWriter | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._bag = BagWriter(path)
        except OSError as error:
            if on_disk_error is OnDiskError.STOP:
                raise BadInputError(f"{path}: cannot be recorded: {reason_of(error)}") from error
            self._give_up(error)
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def __call__(self, call: Call) -> None:
        """Take a call, or drop it where too much waits to be written; never waits."""
        size = _CALL_BYTES + (_pictures_bytes(call.answer) if isinstance(call.answer, CameraFrame) else 0)
        with self._lock:
            self._count += 1
            if self.problem or self._waiting_bytes + size > _MOST_WAITING_BYTES:
                self.dropped += 1
                if self.dropped == 1:
                    _log.warning("%s: calls are dropped from number %d on: %s", self._path, self._count, self._why())
                return
            self._waiting_bytes += size
            self._queue.put((self._count, call, size))

    def close(self) -> str:
        """Write what waits, and the end; says in one line what the file holds."""
        self._queue.put(None)
        self._thread.join(_CLOSE_S)
        written = self._count - self.dropped
        text = f"{written} of {self._count} calls are in {self._path}"
        if self._thread.is_alive():
            self.problem = self.problem or f"the disk took nothing for {_CLOSE_S:g} s"
        return f"{text}; {self._why()}" if self.problem or self.dropped else text

    def _why(self) -> str:
        return self.problem or "the disk or this computer is too slow"

    def _work(self) -> None:
        """Write call after call; the top of the thread, where every exception ends the recording and is reported."""
        while True:
            try:
                item = self._queue.get(timeout=FLUSH_S)
            except queue.Empty:
                item = (0, None, 0)  # type: ignore[assignment]
            try:
                if item is None:
                    if self._bag is not None:
                        self._bag.close()
                    return
                number, call, size = item
                if self._bag is not None:
                    self._write(number, call)
                elif number:
                    self._lose()
            except Exception as error:  # noqa: BLE001 - the top of this thread
                self._give_up(error)
                if item is None:
                    return
                self._lose()
            with self._lock:
                self._waiting_bytes -= size

    def _lose(self) -> None:
        with self._lock:
            self.dropped += 1

    def _write(self, number: int, call: Call | None) -> None:
        bag = self._bag
        if bag is None:
            return
        if call is None:
            bag.flush_old()
            return
        for topic, type_name, message in messages_of(number, call, self._names):
            bag.write(topic, type_name, types().serialize_cdr(message, type_name), sequence=number)

    def _give_up(self, error: Exception) -> None:
        """Write nothing more, and say so once."""
        why = reason_of(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        self.problem = f"the recording {self._path} ended: {why}"
        _log.warning("%s", self.problem)
        if self._bag is not None:
            self._bag.abandon()
            self._bag = None
        if self._on_disk_error is OnDiskError.STOP:
            self._on_broken(self.problem)


def _pictures_bytes(frame: CameraFrame) -> int:
    own = frame.rgb.nbytes + frame.depth_m.nbytes + sum(picture.nbytes for picture in frame.clip)
    return own + sum(_pictures_bytes(other) for other in frame.others)


def messages_of(number: int, call: Call, joint_names: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Any]]:
    """ROS 2 messages of a call: (topic, type, message), the pictures before the call itself."""
    if isinstance(call.answer, CameraFrame):
        for index, frame in enumerate((call.answer, *call.answer.others)):
            camera = f"{PREFIX}/camera{f'_{index}' if index else ''}"
            yield f"{camera}/image", _IMAGE, _image(frame, frame.rgb, "rgb8", camera)
            yield f"{camera}/depth", _IMAGE, _image(frame, frame.depth_m.astype("<f4"), "32FC1", camera)
        for picture in call.answer.clip:
            yield f"{PREFIX}/camera/clip", _IMAGE, _image(call.answer, picture, "rgb8", f"{PREFIX}/camera")
    if isinstance(call.answer, RobotState):
        yield f"{PREFIX}/joint_states", _JOINTS, _joints(call.answer, joint_names)
    document = json.dumps(call_to_json(number, call), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    yield topic_of(call.name), _STRING, types().types[_STRING](data=document)


def topic_of(name: str) -> str:
    """The topic of a call: each decision has its own, and what is asked many times a second shares one."""
    if name.startswith(("arm.", "clock.", "halt.", "camera.")):
        return f"{PREFIX}/calls"
    return f"{PREFIX}/{name.removesuffix('.asked').partition('.')[0]}"


def call_to_json(number: int, call: Call) -> dict[str, Any]:
    """A call as the bag's JSON has it."""
    document: dict[str, Any] = {"n": number, "call": call.name, **{k: to_json(v) for k, v in call.asked.items()}}
    if call.error is not None:
        return {**document, "error": to_json(call.error)}
    return {**document, "answer": to_json(call.answer)}


def _image(frame: CameraFrame, pixels: Any, encoding: str, frame_id: str) -> Any:
    height, width = pixels.shape[:2]
    return types().types[_IMAGE](
        header=_header(frame.stamp_ns, frame_id.strip("/")),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0] if pixels.flags.c_contiguous else width * pixels[0, 0].nbytes,
        data=np.frombuffer(np.ascontiguousarray(pixels), np.uint8),
    )


def _joints(state: RobotState, names: tuple[str, ...]) -> Any:
    known = names if len(names) == len(state.q_rad) else tuple(f"joint_{i + 1}" for i in range(len(state.q_rad)))
    return types().types[_JOINTS](
        header=_header(state.stamp_ns, ""),
        name=[*known, "gripper"],
        position=np.array([*state.q_rad, state.gripper_width_m]),
        velocity=np.array([*state.dq_radps, 0.0]),
        effort=np.zeros(0),
    )


def _header(stamp_ns: int, frame_id: str) -> Any:
    kinds = types().types
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = kinds["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    return kinds["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
