"""image, depth, camera_info and tf → `ports.Camera`: fresh, synchronised frames, or the reason why there is none."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import stamp_to_ns
from qwen2vl_robot.graph.lens import form_of, lens_from_info
from qwen2vl_robot.graph.rgbd import Exposure, Topics, read_exposure
from qwen2vl_robot.messages import CLIP_STEP_S, CameraFrame
from qwen2vl_robot.reasons import ObservationReason

_KEPT_NS = 500_000_000  # of each kind, to match those of one exposure: colour may come 0.15 s after its depth
_KEPT = 32  # at most; a camera of 60 Hz sends 30 in that time
_MAX_AHEAD_NS = 100_000_000  # the clocks of two machines with one time server differ by less
_INFO_APART_NS = 1_000_000_000  # a driver publishes camera_info with each picture; an older one may be of another mode
_TF_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class CameraSettings:
    """The settings of one camera.

    Attributes:
        base_frame: tf frame of the robot's base.
        prefix: precedes the topics image, depth and camera_info ("front/"); "" for none.
        is_compressed, is_depth_compressed: whether to subscribe to image/compressed and depth/compressedDepth.
        pictures: "raw" or "rectified" where a person says which pictures come, else "by_name".
        T_base_camera: the camera's pose (4, 4); None takes it from tf.
        timeout_s: a fresh frame must come within this wall time.
        max_apart_s: largest difference between the stamps of image and depth.
        clip_s: length of the clip before each frame, 0 for none.
    """

    base_frame: str
    prefix: str = ""
    is_compressed: bool = False
    is_depth_compressed: bool = False
    pictures: Literal["by_name", "raw", "rectified"] = "by_name"
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
        self._topics, self._meaning = _topics(graph, settings)
        self._has_depth_info = False
        for what, topic in self._topics.items():
            self._kept[what] = deque(maxlen=_KEPT)
            self._counts[what] = 0
            graph.subscribe(topic, partial(self._take, what))
        if settings.T_base_camera is None or "depth_info" in self._topics:
            self._try_transform(settings.base_frame, "")  # subscribes to tf

    def capture(self, since_ns: int | None = None) -> CameraFrame:
        """Wait for a frame that was exposed after this call, or after `since_ns` (see `ports.Camera`).

        Raises:
            ObservationError: no fresh frame, an unusable message, no transform, or something halted the waiting.
        """
        exposure = self._wait(self._graph.now_ns() if since_ns is None else since_ns)
        return self._frame(exposure, self._clip)

    def newest(self, since_ns: int) -> CameraFrame | None:
        """Return the newest frame exposed after a time, without a clip, None while none is there (see `ports.Camera`).

        Raises:
            ObservationError: an unusable message, or no transform yet.
        """
        with self._has_come:
            exposure = self._match(since_ns + 1)
        return None if exposure is None else self._frame(exposure)

    def _frame(
        self, exposure: Exposure, clip: Callable[[Exposure], tuple[npt.NDArray[np.uint8], ...]] | None = None
    ) -> CameraFrame:
        """Check and convert the messages of one exposure; only a frame with a clip waits for tf."""
        wait_s = 0.0 if clip is None else _TF_WAIT_S
        stamp_ns = stamp_to_ns(exposure.image.header.stamp)

        def pose_of(target: str, source: str) -> Array:
            return np.eye(4) if target == source else self._pose(target, source, stamp_ns, wait_s)

        rgb, depth_m, intrinsics = read_exposure(exposure, self._meaning, pose_of)
        self.frame_id = exposure.image.header.frame_id
        fixed = self._settings.T_base_camera
        pose = self._pose(self._settings.base_frame, self.frame_id, stamp_ns, wait_s) if fixed is None else fixed
        depth_m.setflags(write=False)
        rgb = np.array(rgb)  # the transport may reuse the message's memory
        rgb.setflags(write=False)
        before = () if clip is None else clip(exposure)
        return CameraFrame(stamp_ns, rgb, depth_m, intrinsics, read_only(pose, (4, 4)), clip=before)

    def _clip(self, exposure: Exposure) -> tuple[npt.NDArray[np.uint8], ...]:
        """Return the pictures of the last `clip_s` before an image, (h, w, 3) each; unreadable ones are left out."""
        end_ns, lens = stamp_to_ns(exposure.image.header.stamp), lens_from_info(exposure.info)
        with self._has_come:
            past = [m for m in self._past if 0 < end_ns - stamp_to_ns(m.header.stamp) <= self._clip_ns]
        pictures = []
        for message in past:
            with contextlib.suppress(ObservationError):
                pictures.append(np.array(self._meaning.rgb(message, lens)))
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
        stamp_ns = stamp_to_ns(message.header.stamp)
        with self._has_come:
            kept = self._kept[what]
            kept.append(message)
            # One from before the clock was set back is older than the newest, and stays until it is pushed out.
            while stamp_ns - stamp_to_ns(kept[0].header.stamp) > _KEPT_NS:
                kept.popleft()
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

    def _wait(self, asked_ns: int) -> Exposure:
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

    def _match(self, asked_ns: int) -> Exposure | None:
        """Return the latest image since `asked_ns` with depth and camera_info of the same exposure, or None."""
        needs_depth_info = self._needs_depth_info()
        latest_ns = self._graph.now_ns() + _MAX_AHEAD_NS
        for image in reversed(self._kept["image"]):
            stamp_ns = stamp_to_ns(image.header.stamp)
            if not asked_ns <= stamp_ns <= latest_ns:
                continue
            depth = self._nearest("depth", stamp_ns, self._max_apart_ns)
            info = self._nearest("camera_info", stamp_ns, _INFO_APART_NS)
            if depth is None or info is None:
                continue
            depth_info = self._nearest("depth_info", stamp_to_ns(depth.header.stamp), _INFO_APART_NS)
            if depth_info is not None or not needs_depth_info:
                return Exposure(image, depth, info, depth_info)
        return None

    def _needs_depth_info(self) -> bool:
        """Whether depth has a camera_info of its own: without it depth of another size or focus would pass for ours."""
        if not self._has_depth_info and "depth_info" in self._topics:
            topic = self._topics["depth_info"]
            self._has_depth_info = bool(self._counts["depth_info"] or self._graph.publishers_of(topic))
        return self._has_depth_info

    def _nearest(self, what: str, stamp_ns: int, within_ns: int) -> interface.Message | None:
        """Return the message whose stamp is nearest, None where none is near enough."""
        off_ns = {abs(stamp_to_ns(m.header.stamp) - stamp_ns): m for m in self._kept.get(what, ())}
        nearest_ns = min(off_ns, default=within_ns + 1)
        return off_ns[nearest_ns] if nearest_ns <= within_ns else None

    def _explain(self, asked_ns: int) -> str:
        needed = [what for what in self._kept if what != "depth_info" or self._needs_depth_info()]
        missing = [what for what in needed if not self._kept[what]]
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
        if self._needs_depth_info() and self._nearest("depth_info", depth_ns, _INFO_APART_NS) is None:
            return f"the camera_info of depth, {self._meaning.depth_info}, is older than 1 s"
        apart_s = abs(image_ns - depth_ns) / 1e9
        allowed = f"allowed {self._max_apart_ns / 1e9:g} s, the parameter max_apart_s"
        return f"image and depth are stamped {apart_s:.3f} s apart; {allowed}"

    def _pose(self, target: str, source: str, stamp_ns: int, wait_s: float) -> Array:
        """Look up the pose of one frame in another; wait for it, because tf may arrive after its frame."""
        end_s = time.monotonic() + wait_s
        while True:
            pose = self._try_transform(target, source, stamp_ns)
            if not isinstance(pose, ObservationError):
                return pose
            if time.monotonic() >= end_s:
                raise pose
            time.sleep(0.02)

    def _try_transform(self, target: str, source: str, stamp_ns: int = 0) -> Array | ObservationError:
        try:
            return self._graph.transform(target, source, stamp_ns)
        except ObservationError as error:
            return error


def _topics(graph: interface.Graph, settings: CameraSettings) -> tuple[dict[str, interface.Topic], Topics]:
    """Name the topics of a camera, and say what their names mean.

    Depth's camera_info lies beside depth, as image_transport wants it; if that is the image's own, there is no other.
    """
    topics = {t.name: t.at(settings.prefix + t.name) for t in (interface.IMAGE, interface.DEPTH, interface.CAMERA_INFO)}
    image, depth = (graph.resolve(topics[what].name) for what in ("image", "depth"))
    beside = f"{depth.rpartition('/')[0]}/camera_info"
    if beside != graph.resolve(topics["camera_info"].name):
        topics["depth_info"] = interface.CAMERA_INFO.at(beside)
    if settings.is_compressed:  # as image_transport names it: behind the name that the image has after remapping
        topics["image"] = interface.COMPRESSED.at(f"{image}/compressed")
    if settings.is_depth_compressed:
        topics["depth"] = interface.COMPRESSED_DEPTH.at(f"{depth}/compressedDepth")
    forms = [form_of(name, settings.pictures) for name in (image, depth)]
    return topics, Topics(forms[0], forms[1], beside, settings.is_compressed, settings.is_depth_compressed)
