"""image, depth, camera_info and tf → `ports.Camera`: fresh frames whose parts belong together, or why not."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import (
    depth_from_image,
    intrinsics_from_info,
    rgb_from_compressed,
    rgb_from_image,
    stamp_to_ns,
)
from qwen2vl_robot.messages import CLIP_STEP_S, CameraFrame
from qwen2vl_robot.reasons import ObservationReason

_Exposure = tuple[interface.Message, interface.Message, interface.Message]  # image, depth, camera_info

_KEPT = 4  # messages of each kind, to pair those of one exposure
_MAX_AHEAD_NS = 100_000_000  # clocks of two machines under one time server differ by less
_TF_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class CameraSettings:
    """What one camera is told once.

    Attributes:
        base_frame: tf frame in which the controller works.
        prefix: what stands before image, depth and camera_info ("front/"), "" for none.
        is_compressed: whether its pictures come as image/compressed.
        T_base_camera: the camera's pose (4, 4) where no tf gives it.
        timeout_s: wall time within which a fresh frame must come.
        max_apart_s: how far the stamps of image and depth may lie apart.
        clip_s: how many seconds before a frame its clip shows; 0 for none.
    """

    base_frame: str
    prefix: str = ""
    is_compressed: bool = False
    T_base_camera: Array | None = None
    timeout_s: float = 10.0
    max_apart_s: float = 0.02
    clip_s: float = 0.0


class GraphCamera:
    """A `ports.Camera` on the graph.

    Args:
        is_halted: asked while waiting; a text ends the waiting.
    """

    def __init__(
        self, graph: interface.Graph, settings: CameraSettings, is_halted: Callable[[], str | None] = lambda: None
    ) -> None:
        self._graph, self._settings, self._is_halted = graph, settings, is_halted
        self._max_apart_ns = round(settings.max_apart_s * 1e9)
        self._clip_ns = round(settings.clip_s * 1e9)
        # One more than a clip holds: the newest may be the frame itself.
        held = 1 + math.ceil(settings.clip_s / CLIP_STEP_S) if settings.clip_s > 0.0 else 0
        self._past: deque[interface.Message] = deque(maxlen=held)
        self.frame_id = ""  # of the last frame, for what is published about it
        self._came = threading.Condition()
        self._kept: dict[str, deque[interface.Message]] = {}
        self._counts: dict[str, int] = {}
        image = interface.COMPRESSED if settings.is_compressed else interface.IMAGE
        for what, topic in (("image", image), ("depth", interface.DEPTH), ("camera_info", interface.CAMERA_INFO)):
            self._kept[what] = deque(maxlen=_KEPT)
            self._counts[what] = 0
            graph.subscribe(topic.at(settings.prefix + topic.name), partial(self._take, what))
        if settings.T_base_camera is None:
            self._try_transform("")  # so that tf is listened to from now on

    def capture(self, since_ns: int | None = None) -> CameraFrame:
        """Wait for a frame that was exposed after this call, or after `since_ns` (see `ports.Camera`)."""
        asked_ns = self._graph.now_ns() if since_ns is None else since_ns
        image, depth, info = self._wait(asked_ns)
        rgb = self._rgb(image)
        depth_m, intrinsics = depth_from_image(depth), intrinsics_from_info(info)
        sizes = {"image": rgb.shape[1::-1], "depth": depth_m.shape[::-1]}
        sizes["camera_info"] = (intrinsics.width_px, intrinsics.height_px)
        if len(set(sizes.values())) != 1:
            told = ", ".join(f"{what} {w}x{h}" for what, (w, h) in sizes.items())
            raise ObservationError(f"camera: the sizes differ: {told} px; give depth registered to the image")
        frames = (image.header.frame_id, depth.header.frame_id)
        if frames[0] != frames[1]:
            raise ObservationError(f"camera: image is in frame {frames[0]!r}, depth in {frames[1]!r}; give one frame")
        self.frame_id = frames[0]
        stamp_ns = stamp_to_ns(image.header.stamp)
        fixed = self._settings.T_base_camera
        pose = self._pose(frames[0], stamp_ns) if fixed is None else fixed
        depth_m.setflags(write=False)
        rgb = np.array(rgb)  # the message's own memory may be used again
        rgb.setflags(write=False)
        return CameraFrame(stamp_ns, rgb, depth_m, intrinsics, read_only(pose, (4, 4)), clip=self._clip(image))

    def _rgb(self, image: interface.Message) -> npt.NDArray[np.uint8]:
        return rgb_from_compressed(image) if self._settings.is_compressed else rgb_from_image(image)

    def _clip(self, image: interface.Message) -> tuple[npt.NDArray[np.uint8], ...]:
        """The pictures before an image that are not older than a clip is long; one that cannot be read is left out."""
        end_ns = stamp_to_ns(image.header.stamp)
        with self._came:
            past = [m for m in self._past if 0 < end_ns - stamp_to_ns(m.header.stamp) <= self._clip_ns]
        pictures = []
        for message in past:
            with contextlib.suppress(ObservationError):
                pictures.append(np.array(self._rgb(message)))
        return tuple(pictures)

    def now_ns(self) -> int:
        """ROS time."""
        return self._graph.now_ns()

    def counts(self) -> dict[str, int]:
        """How many messages of each kind came so far, by topic name."""
        return {f"{self._settings.prefix}{what}": count for what, count in self._counts.items()}

    def _take(self, what: str, message: interface.Message) -> None:
        with self._came:
            self._kept[what].append(message)
            self._counts[what] += 1
            if what == "image" and self._is_next_of_clip(message):
                self._past.append(message)
            self._came.notify_all()

    def _is_next_of_clip(self, image: interface.Message) -> bool:
        if not self._past:
            return bool(self._past.maxlen)
        apart_ns = stamp_to_ns(image.header.stamp) - stamp_to_ns(self._past[-1].header.stamp)
        if apart_ns < -self._clip_ns:
            self._past.clear()  # the clock was set back
            return True
        return apart_ns >= round(CLIP_STEP_S * 1e9)

    def _wait(self, asked_ns: int) -> _Exposure:
        end_s = time.monotonic() + self._settings.timeout_s
        with self._came:
            while True:
                found = self._match(asked_ns)
                if found is not None:
                    return found
                halted = self._is_halted()
                if halted is not None:
                    raise ObservationError(halted, reason=ObservationReason.HALTED)
                if time.monotonic() > end_s:
                    raise ObservationError(
                        f"camera: no fresh frame in {self._settings.timeout_s:g} s: {self._explain(asked_ns)}",
                        reason=ObservationReason.NO_FRAME,
                    )
                self._came.wait(0.1)

    def _match(self, asked_ns: int) -> _Exposure | None:
        """The newest image since `asked_ns` with the depth of the same exposure."""
        latest_ns = self._graph.now_ns() + _MAX_AHEAD_NS
        if not self._kept["camera_info"]:
            return None
        for image in reversed(self._kept["image"]):
            stamp_ns = stamp_to_ns(image.header.stamp)
            if not asked_ns <= stamp_ns <= latest_ns:
                continue
            for depth in reversed(self._kept["depth"]):
                if abs(stamp_to_ns(depth.header.stamp) - stamp_ns) <= self._max_apart_ns:
                    return image, depth, self._kept["camera_info"][-1]
        return None

    def _explain(self, asked_ns: int) -> str:
        missing = [what for what, kept in self._kept.items() if not kept]
        if missing:
            return f"nothing came on {', '.join(missing)}"
        now_ns = self._graph.now_ns()
        image_ns, depth_ns = (stamp_to_ns(self._kept[w][-1].header.stamp) for w in ("image", "depth"))
        for what, stamp_ns in (("image", image_ns), ("depth", depth_ns)):
            if stamp_ns > now_ns + _MAX_AHEAD_NS:
                return f"{what} is stamped {(stamp_ns - now_ns) / 1e9:.2f} s in the future; check the clocks"
            if stamp_ns < asked_ns:
                return f"the last {what} is stamped {(now_ns - stamp_ns) / 1e9:.2f} s in the past"
        apart_s = abs(image_ns - depth_ns) / 1e9
        return f"image and depth are stamped {apart_s:.3f} s apart; allowed {self._max_apart_ns / 1e9:g} s"

    def _pose(self, frame: str, stamp_ns: int) -> Array:
        """tf may come a moment after the frame that it belongs to."""
        end_s = time.monotonic() + _TF_WAIT_S
        while True:
            found = self._try_transform(frame, stamp_ns)
            if not isinstance(found, ObservationError):
                return found
            if time.monotonic() > end_s:
                raise found
            time.sleep(0.02)

    def _try_transform(self, frame: str, stamp_ns: int = 0) -> Array | ObservationError:
        try:
            return self._graph.transform(self._settings.base_frame, frame, stamp_ns)
        except ObservationError as error:
            return error


class GraphCameras:
    """Several cameras as one `ports.Camera`: the first's frame carries what the others saw; one that fails, fails all.

    Args:
        cameras: prefix of its topics → each camera.
    """

    def __init__(self, cameras: Mapping[str, GraphCamera]) -> None:
        self._cameras = dict(cameras)

    @property
    def frame_id(self) -> str:
        """tf frame of the first camera's last frame."""
        return next(iter(self._cameras.values())).frame_id

    def capture(self) -> CameraFrame:
        """Wait for a frame of each that was exposed after this call (see `ports.Camera`)."""
        asked_ns = next(iter(self._cameras.values())).now_ns()
        frames = []
        for prefix, camera in self._cameras.items():
            try:
                frames.append(camera.capture(asked_ns))
            except ObservationError as error:
                raise ObservationError(f"{prefix}: {error}" if prefix else str(error), reason=error.reason) from error
        return replace(frames[0], others=tuple(frames[1:]))

    def counts(self) -> dict[str, int]:
        """How many messages came so far, by topic name."""
        return {name: count for camera in self._cameras.values() for name, count in camera.counts().items()}
