"""image, depth, camera_info and tf → `ports.Camera`: fresh, synchronised frames, or the reason why there is none."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import shown
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
from qwen2vl_robot.nodes.camera_calibration import load_calibration
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.reasons import ObservationReason

_Exposure = tuple[interface.Message, interface.Message, interface.Message]  # image, depth, camera_info

_KEPT = 4  # messages of each kind, to match those of one exposure
_MAX_AHEAD_NS = 100_000_000  # the clocks of two machines with one time server differ by less
_INFO_APART_NS = 1_000_000_000  # a driver publishes camera_info with each picture; an older one may be of another mode
_TF_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class CameraSettings:
    """The settings of one camera.

    Attributes:
        base_frame: tf frame of the robot's base.
        prefix: precedes the topics image, depth and camera_info ("front/"); "" for none.
        is_compressed: whether to subscribe to image/compressed instead of image.
        T_base_camera: the camera's pose (4, 4); None takes it from tf.
        timeout_s: a fresh frame must come within this wall time.
        max_apart_s: largest difference between the stamps of image and depth.
        clip_s: length of the clip before each frame, 0 for none.
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
        why_halted: why nothing may go on, None when it may; checked while waiting, and a text ends the waiting.
    """

    def __init__(
        self, graph: interface.Graph, settings: CameraSettings, why_halted: Callable[[], str | None] = lambda: None
    ) -> None:
        self._graph, self._settings, self._why_halted = graph, settings, why_halted
        self._max_apart_ns = round(settings.max_apart_s * 1e9)
        self._clip_ns = round(settings.clip_s * 1e9)
        # One more than a clip has: the latest may be the frame itself.
        held = 1 + math.ceil(settings.clip_s / CLIP_STEP_S) if settings.clip_s > 0.0 else 0
        self._past: deque[interface.Message] = deque(maxlen=held)
        self.frame_id = ""  # tf frame of the latest frame
        self._has_come = threading.Condition()
        self._kept: dict[str, deque[interface.Message]] = {}
        self._counts: dict[str, int] = {}
        topics = {
            t.name: t.at(settings.prefix + t.name) for t in (interface.IMAGE, interface.DEPTH, interface.CAMERA_INFO)
        }
        if settings.is_compressed:  # as image_transport names it: behind the name that the image has after remapping
            topics["image"] = interface.COMPRESSED.at(f"{graph.resolve(topics['image'].name)}/compressed")
        self._topics = topics
        for what, topic in topics.items():
            self._kept[what] = deque(maxlen=_KEPT)
            self._counts[what] = 0
            graph.subscribe(topic, partial(self._take, what))
        if settings.T_base_camera is None:
            self._try_transform("")  # subscribes to tf

    def capture(self, since_ns: int | None = None) -> CameraFrame:
        """Wait for a frame that was exposed after this call, or after `since_ns` (see `ports.Camera`).

        Raises:
            ObservationError: no fresh frame, an unusable message, no transform, or something halted the waiting.
        """
        exposure = self._wait(self._graph.now_ns() if since_ns is None else since_ns)
        return self._frame(*exposure, self._clip)

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Return the newest frame exposed after a time, without a clip, None while none is there (see `ports.Camera`).

        Raises:
            ObservationError: an unusable message, or no transform yet.
        """
        with self._has_come:
            exposure = self._match(since_ns + 1)
        return None if exposure is None else self._frame(*exposure)

    def _frame(
        self,
        image: interface.Message,
        depth: interface.Message,
        info: interface.Message,
        clip: Callable[..., tuple[npt.NDArray[np.uint8], ...]] | None = None,
    ) -> CameraFrame:
        """Check and convert the messages of one exposure; only a frame with a clip waits for tf."""
        intrinsics = intrinsics_from_info(info)
        size_px = (intrinsics.width_px, intrinsics.height_px)
        rgb, depth_m = self._rgb(image, size_px), depth_from_image(depth)
        sizes = {"image": rgb.shape[1::-1], "depth": depth_m.shape[::-1]}
        sizes["camera_info"] = size_px
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{what} {w}x{h}" for what, (w, h) in sizes.items())
            raise ObservationError(
                f"camera: the sizes differ: {found} px; use depth registered to the image",
                reason=ObservationReason.CAMERA_INFO,
            )
        frames = (image.header.frame_id, depth.header.frame_id)
        if frames[0] != frames[1]:
            raise ObservationError(
                f"camera: image is in frame {shown(frames[0])!r}, depth in {shown(frames[1])!r}; both need the same"
            )
        self.frame_id = frames[0]
        stamp_ns = stamp_to_ns(image.header.stamp)
        fixed = self._settings.T_base_camera
        wait_s = 0.0 if clip is None else _TF_WAIT_S
        pose = self._pose(frames[0], stamp_ns, wait_s) if fixed is None else fixed
        depth_m.setflags(write=False)
        rgb = np.array(rgb)  # the transport may reuse the message's memory
        rgb.setflags(write=False)
        before = () if clip is None else clip(image, size_px)
        return CameraFrame(stamp_ns, rgb, depth_m, intrinsics, read_only(pose, (4, 4)), clip=before)

    def _rgb(self, image: interface.Message, size_px: tuple[int, int]) -> npt.NDArray[np.uint8]:
        return rgb_from_compressed(image, size_px) if self._settings.is_compressed else rgb_from_image(image)

    def _clip(self, image: interface.Message, size_px: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], ...]:
        """Return the pictures of the last `clip_s` before an image, (h, w, 3) each; unreadable ones are left out."""
        end_ns = stamp_to_ns(image.header.stamp)
        with self._has_come:
            past = [m for m in self._past if 0 < end_ns - stamp_to_ns(m.header.stamp) <= self._clip_ns]
        pictures = []
        for message in past:
            with contextlib.suppress(ObservationError):
                pictures.append(np.array(self._rgb(message, size_px)))
        return tuple(pictures)

    def now_ns(self) -> int:
        """Return ROS time, ns."""
        return self._graph.now_ns()

    def forget(self) -> None:
        """Forget every message: the clock jumped, and their stamps mean nothing any more."""
        with self._has_come:
            for kept in (*self._kept.values(), self._past):
                kept.clear()

    def counts(self) -> dict[str, int]:
        """Count the received messages, by topic name."""
        return {f"{self._settings.prefix}{what}": count for what, count in self._counts.items()}

    def _take(self, what: str, message: interface.Message) -> None:
        with self._has_come:
            self._kept[what].append(message)
            self._counts[what] += 1
            if what == "image" and self._is_next_of_clip(message):
                self._past.append(message)
            self._has_come.notify_all()

    def _is_next_of_clip(self, image: interface.Message) -> bool:
        if not self._past:
            return bool(self._past.maxlen)
        apart_ns = stamp_to_ns(image.header.stamp) - stamp_to_ns(self._past[-1].header.stamp)
        if apart_ns < -self._clip_ns:
            self._past.clear()  # one from before the clock was set back came last
            return True
        return apart_ns >= round(CLIP_STEP_S * 1e9)

    def _wait(self, asked_ns: int) -> _Exposure:
        end_s = time.monotonic() + self._settings.timeout_s
        with self._has_come:
            while True:
                exposure = self._match(asked_ns)
                if exposure is not None:
                    return exposure
                halted = self._why_halted()
                if halted is not None:
                    raise ObservationError(halted, reason=ObservationReason.HALTED)
                if time.monotonic() > end_s:
                    raise ObservationError(
                        f"camera: no fresh frame in {self._settings.timeout_s:g} s: {self._explain(asked_ns)}",
                        reason=ObservationReason.NO_FRAME,
                    )
                self._has_come.wait(0.1)

    def _match(self, asked_ns: int) -> _Exposure | None:
        """Return the latest image since `asked_ns` with depth and camera_info of the same exposure, or None."""
        latest_ns = self._graph.now_ns() + _MAX_AHEAD_NS
        for image in reversed(self._kept["image"]):
            stamp_ns = stamp_to_ns(image.header.stamp)
            if not asked_ns <= stamp_ns <= latest_ns:
                continue
            depth = self._nearest("depth", stamp_ns, self._max_apart_ns)
            info = self._nearest("camera_info", stamp_ns, _INFO_APART_NS)
            if depth is not None and info is not None:
                return image, depth, info
        return None

    def _nearest(self, what: str, stamp_ns: int, within_ns: int) -> interface.Message | None:
        """Return the message whose stamp is nearest, None where none is near enough."""
        off_ns = {abs(stamp_to_ns(m.header.stamp) - stamp_ns): m for m in self._kept[what]}
        nearest_ns = min(off_ns, default=within_ns + 1)
        return off_ns[nearest_ns] if nearest_ns <= within_ns else None

    def _explain(self, asked_ns: int) -> str:
        missing = [what for what, kept in self._kept.items() if not kept]
        if missing:
            return f"no message on {', '.join(self._graph.resolve(self._topics[what].name) for what in missing)}"
        now_ns = self._graph.now_ns()
        image_ns, depth_ns = (stamp_to_ns(self._kept[w][-1].header.stamp) for w in ("image", "depth"))
        for what, stamp_ns in (("image", image_ns), ("depth", depth_ns)):
            if stamp_ns > now_ns + _MAX_AHEAD_NS:
                return f"{what} is stamped {(stamp_ns - now_ns) / 1e9:.2f} s in the future; check the clocks"
            if stamp_ns < asked_ns:
                return f"the latest {what} is stamped {(now_ns - stamp_ns) / 1e9:.2f} s in the past"
        if self._nearest("camera_info", image_ns, _INFO_APART_NS) is None:
            info_ns = stamp_to_ns(self._kept["camera_info"][-1].header.stamp)
            return f"camera_info is stamped {(image_ns - info_ns) / 1e9:.2f} s before the image; allowed 1 s"
        apart_s = abs(image_ns - depth_ns) / 1e9
        return f"image and depth are stamped {apart_s:.3f} s apart; allowed {self._max_apart_ns / 1e9:g} s"

    def _pose(self, frame: str, stamp_ns: int, wait_s: float) -> Array:
        """Look up the camera's pose; wait for it, because tf may arrive after its frame."""
        end_s = time.monotonic() + wait_s
        while True:
            pose = self._try_transform(frame, stamp_ns)
            if not isinstance(pose, ObservationError):
                return pose
            if time.monotonic() >= end_s:
                raise pose
            time.sleep(0.02)

    def _try_transform(self, frame: str, stamp_ns: int = 0) -> Array | ObservationError:
        try:
            return self._graph.transform(self._settings.base_frame, frame, stamp_ns)
        except ObservationError as error:
            return error


class GraphCameras:
    """Several cameras as one `ports.Camera`: the first one's frame carries the others'; if one fails, all fail.

    Args:
        cameras: topic prefix → camera, the first one first.
    """

    def __init__(self, cameras: Mapping[str, GraphCamera]) -> None:
        self._cameras = dict(cameras)

    @property
    def frame_id(self) -> str:
        """Return the tf frame of the first camera's latest frame."""
        return next(iter(self._cameras.values())).frame_id

    def capture(self) -> CameraFrame:
        """Wait for a frame of each camera that was exposed after this call (see `ports.Camera`)."""
        asked_ns = next(iter(self._cameras.values())).now_ns()
        frames = []
        for prefix, camera in self._cameras.items():
            try:
                frames.append(camera.capture(asked_ns))
            except ObservationError as error:
                raise ObservationError(f"{prefix}: {error}" if prefix else str(error), reason=error.reason) from error
        return replace(frames[0], others=tuple(frames[1:]))

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Return the newest frame once each camera has one after a time, None before (see `ports.Camera`)."""
        frames = []
        for prefix, camera in self._cameras.items():
            try:
                frame = camera.newest(since_ns)
            except ObservationError as error:
                raise ObservationError(f"{prefix}: {error}" if prefix else str(error), reason=error.reason) from error
            if frame is None:
                return None
            frames.append(frame)
        return replace(frames[0], others=tuple(frames[1:]))

    def forget(self) -> None:
        """Forget every message of every camera: the clock jumped."""
        for camera in self._cameras.values():
            camera.forget()

    def counts(self) -> dict[str, int]:
        """Count the received messages, by topic name."""
        return {name: count for camera in self._cameras.values() for name, count in camera.counts().items()}


def cameras_of(
    graph: interface.Graph, base_frame: str, settings: Settings, why_halted: Callable[[], str | None]
) -> GraphCameras:
    """Make the cameras that a node's settings name.

    Args:
        base_frame: tf frame of the robot's base.

    Raises:
        BadInputError: a calibration cannot be used.
    """
    cameras = {}
    for prefix, calibration in zip_longest(settings.cameras, settings.calibrations, fillvalue=""):
        camera = CameraSettings(
            base_frame,
            prefix,
            is_compressed=settings.compressed,
            T_base_camera=load_calibration(calibration) if calibration else None,
            timeout_s=settings.frame_timeout_s,
            max_apart_s=settings.max_apart_s,
            clip_s=settings.clip_s if prefix == settings.cameras[0] else 0.0,
        )
        cameras[prefix] = GraphCamera(graph, camera, why_halted)
    return GraphCameras(cameras)
