"""A camera on the graph: synchronised frames, and for each unusable input an error that names it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.bounds import DISTORTION_TERMS, IMAGE_PIXELS
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import (
    header,
    image_from_depth,
    image_from_rgb,
    info_from_intrinsics,
    transform_message,
)
from qwen2vl_robot.messages import CameraFrame, Intrinsics
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera
from qwen2vl_robot.nodes.graph_cameras import GraphCameras
from qwen2vl_robot.reasons import ObservationReason
from tests.graph import drivers
from tests.hostile import MOST_MB, grown_mb
from tests.nodes.local_graph import LocalGraph

K = Intrinsics(8, 6, 10.0, 10.0, 4.0, 3.0)
RGB = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
DEPTH_M = np.full((6, 8), 0.75, dtype=np.float32)
POSE = make_pose([0.1, 0.2, 0.3])


def capture_while(camera: GraphCamera | GraphCameras, publish: Callable[[], Any]) -> CameraFrame:
    """Publish while the camera waits."""
    timer = threading.Timer(0.02, publish)
    timer.start()
    try:
        return camera.capture()
    finally:
        timer.join()


class Cell:
    """A camera, and what a driver would publish."""

    def __init__(
        self, graph: LocalGraph | None = None, prefix: str = "", why_halted: Any = lambda: None, **options: Any
    ) -> None:
        self.graph, self.prefix = graph or LocalGraph(), prefix
        options = {"T_base_camera": POSE, "timeout_s": 0.6, **options}
        self.camera = GraphCamera(self.graph, CameraSettings("base", prefix, **options), why_halted)
        self.rgb, self.depth_m, self.k = RGB, DEPTH_M, K
        self.ahead_ns, self.apart_ns = 0, 0
        self.changes: dict[str, dict[str, Any]] = {"image": {}, "depth": {}, "camera_info": {}}
        self.only = tuple(self.changes)  # which of them are published

    def publish(self) -> None:
        make, stamp_ns = self.graph.message, self.graph.now_ns() + self.ahead_ns
        sent = {
            "image": (interface.IMAGE, image_from_rgb(make, self.rgb, stamp_ns, "camera")),
            "depth": (interface.DEPTH, image_from_depth(make, self.depth_m, stamp_ns + self.apart_ns, "camera")),
            "camera_info": (interface.CAMERA_INFO, info_from_intrinsics(make, self.k, stamp_ns, "camera")),
        }
        for what, (topic, message) in ((what, sent[what]) for what in self.only):
            for field, value in self.changes[what].items():
                setattr(message, field, value)
            self.graph.publisher(topic.at(self.prefix + topic.name)).publish(message)

    def capture(self) -> Any:
        return capture_while(self.camera, self.publish)


def test_a_frame_arrives_as_it_was_sent() -> None:
    frame = Cell().capture()
    assert np.array_equal(frame.rgb, RGB)
    assert np.array_equal(frame.depth_m, DEPTH_M)
    assert frame.intrinsics == K
    assert np.array_equal(frame.T_base_camera, POSE)
    assert not frame.rgb.flags.writeable


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_compressed_frame_is_unpacked(format: str) -> None:
    assert compressed(format, np.full((6, 8, 3), 90, dtype=np.uint8)).capture().rgb == pytest.approx(90, abs=2)


def test_what_is_no_picture_is_named() -> None:
    cell = compressed("PNG", RGB)
    cell.changes["image"] = {"data": b"<svg/>", "format": "svg"}
    with pytest.raises(ObservationError, match="format 'svg': not a picture; allowed: JPEG, PNG"):
        cell.capture()


def test_a_compressed_frame_of_another_size_is_refused_by_its_header() -> None:
    cell = compressed("PNG", np.zeros((6, 9, 3), dtype=np.uint8))
    with pytest.raises(ObservationError, match=r"image: 9x6 px, camera_info says 8x6"):
        cell.capture()


def test_a_compressed_frame_with_a_lying_header_takes_little_memory() -> None:
    code = """
import io
from types import SimpleNamespace
import numpy as np
from PIL import Image
from qwen2vl_robot.bounds import DISTORTION_TERMS, IMAGE_PIXELS
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph.pictures import rgb_from_compressed
def packed(side):
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return file.getvalue()
large, declared = packed(8192), (640, 480)
def attack():
    try:
        rgb_from_compressed(SimpleNamespace(data=large, format="png"), declared)
    except ObservationError:
        return True
"""
    assert grown_mb(code) < MOST_MB / 10


def test_numbers_of_a_frame_beyond_every_camera_are_refused() -> None:
    cell = Cell()
    cell.changes["camera_info"] = {"width": 8192, "height": 8192}
    with pytest.raises(ObservationError, match=f"camera_info: 8192x8192 px; .* 8192 a side and {IMAGE_PIXELS} pixels"):
        cell.capture()
    cell = Cell()
    cell.changes["camera_info"] = {"d": [0.0] * (DISTORTION_TERMS + 1)}
    with pytest.raises(ObservationError, match="65 terms"):
        cell.capture()


def compressed(format: str, rgb: Any) -> Cell:
    """A camera whose driver publishes compressed frames."""
    cell = Cell(is_compressed=True)
    packed = io.BytesIO()
    Image.fromarray(rgb).save(packed, format)

    def publish() -> None:
        make, stamp_ns = cell.graph.message, cell.graph.now_ns()
        fields = {"format": format.lower(), "data": packed.getvalue(), **cell.changes["image"]}
        message = make(interface.COMPRESSED.type)(header=header(make, stamp_ns, "camera"), **fields)
        cell.graph.publisher(interface.COMPRESSED.at("/image/compressed")).publish(message)
        cell.graph.publisher(interface.DEPTH).publish(image_from_depth(make, DEPTH_M, stamp_ns, "camera"))
        cell.graph.publisher(interface.CAMERA_INFO).publish(info_from_intrinsics(make, K, stamp_ns, "camera"))

    cell.publish = publish  # type: ignore[method-assign]
    return cell


def test_a_frame_from_before_the_call_does_not_count() -> None:
    cell = Cell()
    cell.publish()
    cell.graph.time_ns += 10**9
    with pytest.raises(ObservationError, match=r"image is stamped 1\.00 s in the past"):
        cell.camera.capture()


@pytest.mark.parametrize(
    ("what", "field", "value", "problem"),
    [
        ("image", "encoding", "jpeg", "encoding 'jpeg'; allowed: rgb8"),
        ("image", "step", 7, "step 7 is too short"),
        ("image", "step", 30, "144 bytes; step 30"),
        ("image", "data", b"", "^image: 0 bytes; step"),
        ("image", "width", 0, "0x6 px; allowed 1 to"),
        ("image", "width", 9000, "9000x6 px"),
        ("depth", "encoding", "rgb8", "depth: encoding 'rgb8'; allowed: 32FC1, 16UC1"),
        ("depth", "step", 31, "step 31 is too short"),
        ("camera_info", "k", [float("nan")] * 9, "not finite"),
        ("camera_info", "k", [0.0] * 9, "not calibrated"),
        ("camera_info", "k", [10.0, 0, 99.0, 0, 10.0, 3.0, 0, 0, 1.0], "centre"),
        ("camera_info", "d", [0.1, 0, 0, 0, 0], "rectified"),
        ("camera_info", "width", 16, "sizes differ: image 8x6, camera_info 16x6"),
    ],
)
def test_an_unusable_message_is_named(what: str, field: str, value: Any, problem: str) -> None:
    cell = Cell()
    cell.changes[what] = {field: value}
    with pytest.raises(ObservationError, match=problem) as caught:
        cell.capture()
    is_anothers = problem.startswith("sizes differ")
    assert caught.value.reason is (ObservationReason.CAMERA_INFO if is_anothers else ObservationReason.BAD_FRAME)


def test_depth_of_another_size_is_named() -> None:
    cell = Cell()
    cell.depth_m = DEPTH_M[:3]
    with pytest.raises(ObservationError, match="depth 8x3"):
        cell.capture()


def test_a_stamp_from_the_future_is_named() -> None:
    cell = Cell()
    cell.ahead_ns = 5 * 10**9
    with pytest.raises(ObservationError, match=r"image is stamped 5\.00 s in the future; check the clocks"):
        cell.capture()


def test_depth_of_another_exposure_is_named() -> None:
    cell = Cell()
    cell.apart_ns = 50_000_000
    with pytest.raises(ObservationError, match=r"0\.050 s apart; allowed 0\.02 s"):
        cell.capture()


@pytest.mark.parametrize("late_s", [0.08, 0.15])
@pytest.mark.parametrize("rate_hz", [15, 30, 60])
def test_colour_that_comes_later_than_its_depth_is_paired(late_s: float, rate_hz: int) -> None:
    """A driver that unpacks MJPEG, or a network, sends the picture of an exposure after later depths."""
    cell = Cell(timeout_s=0.1)
    begin_ns = cell.graph.now_ns()
    sent: list[tuple[float, str, int]] = []
    for shot in range(12):
        stamp_ns = begin_ns + shot * 10**9 // rate_hz
        sent += [(stamp_ns, "depth", shot), (stamp_ns + late_s * 1e9, "image", shot)]
    for at_ns, what, shot in sorted(sent):
        cell.graph.time_ns = round(at_ns)
        cell.ahead_ns = begin_ns + shot * 10**9 // rate_hz - cell.graph.time_ns
        cell.depth_m, cell.rgb = np.full_like(DEPTH_M, 1 + shot), np.full_like(RGB, 1 + shot)
        cell.only = ("depth", "camera_info") if what == "depth" else ("image",)
        cell.publish()
    frame = cell.camera.newest(begin_ns)
    assert frame is not None
    assert frame.rgb[0, 0, 0] == frame.depth_m[0, 0] == 12


class Unaligned(Cell):
    """A driver whose depth has a camera_info of its own, as realsense2_camera without align_depth."""

    def __init__(self, depth_k: Intrinsics | None) -> None:
        graph = LocalGraph()
        names = {
            "image": "/c/color/image_raw",
            "depth": "/c/depth/image_rect_raw",
            "camera_info": "/c/color/camera_info",
        }
        graph.resolve = lambda name: names.get(name, name)  # type: ignore[method-assign]
        super().__init__(graph)
        self.depth_k = depth_k

    def publish(self) -> None:
        if self.depth_k is not None:
            info = info_from_intrinsics(self.graph.message, self.depth_k, self.graph.now_ns(), "camera")
            self.graph.publisher(interface.CAMERA_INFO.at("/c/depth/camera_info")).publish(info)
        super().publish()


def test_depth_with_other_intrinsics_in_the_same_frame_is_registered() -> None:
    frame = Unaligned(replace(K, fx_px=5.0, fy_px=5.0)).capture()
    assert frame.intrinsics == K
    assert frame.depth_m == pytest.approx(0.75)
    narrow = Unaligned(replace(K, fx_px=20.0, fy_px=20.0)).capture()
    assert np.isnan(narrow.depth_m[0]).all(), "outside of its view nothing is known"


def test_depth_waits_for_its_own_camera_info_where_somebody_publishes_it() -> None:
    cell = Unaligned(None)
    cell.graph.foreign_publishers["/c/depth/camera_info"] = 1
    with pytest.raises(ObservationError, match="no message on /c/depth/camera_info") as caught:
        cell.capture()
    assert caught.value.reason is ObservationReason.NO_FRAME


def test_depth_without_its_own_camera_info_is_taken_as_registered() -> None:
    assert Unaligned(None).capture().depth_m == pytest.approx(0.75)


def test_compressed_depth_comes_beside_depth() -> None:
    cell = Cell(is_depth_compressed=True)
    millimetres = np.full((6, 8), 750, dtype=np.uint16)
    message = drivers.compressed("16UC1; compressedDepth rvl", drivers.config_header() + drivers.rvl(millimetres))

    def publish() -> None:
        cell.publish()
        message.header = header(cell.graph.message, cell.graph.now_ns(), "camera")
        cell.graph.publisher(interface.COMPRESSED_DEPTH.at("/depth/compressedDepth")).publish(message)

    assert capture_while(cell.camera, publish).depth_m == pytest.approx(0.75)


def test_topics_on_which_nothing_came_are_named() -> None:
    with pytest.raises(ObservationError, match="no message on /image, /depth, /camera_info") as caught:
        Cell().camera.capture()
    assert caught.value.reason is ObservationReason.NO_FRAME


def test_a_camera_without_tf_is_named() -> None:
    with pytest.raises(ObservationError, match="no path from camera to base") as caught:
        Cell(T_base_camera=None).capture()
    assert caught.value.reason is ObservationReason.NO_TRANSFORM


def test_tf_gives_the_pose_at_the_time_of_the_frame() -> None:
    cell = Cell(T_base_camera=None)
    for second in (0, 10):
        pose = make_pose([float(second), 0.0, 0.0])
        stamp_ns = cell.graph.now_ns() + (second - 9) * 10**9
        item = transform_message(cell.graph.message, "base", "camera", pose, stamp_ns)
        cell.graph.frames.add(cell.graph.message("tf2_msgs/msg/TFMessage")(transforms=[item]), is_static=False)
    assert cell.capture().T_base_camera[:3, 3] == pytest.approx([9.0, 0.0, 0.0])


def test_a_camera_info_that_is_no_longer_published_gives_no_frame() -> None:
    cell = Cell()
    cell.publish()
    cell.graph.time_ns += 31 * 10**9
    cell.only = ("image", "depth")
    with pytest.raises(
        ObservationError, match=r"camera_info is stamped 31\.00 s before the image; allowed 1 s"
    ) as caught:
        cell.capture()
    assert caught.value.reason is ObservationReason.NO_FRAME


def test_the_camera_info_of_the_exposure_counts() -> None:
    cell = Cell()

    def publish() -> None:
        cell.publish()
        late = info_from_intrinsics(cell.graph.message, replace(K, fx_px=99.0), cell.graph.now_ns() + 10**8, "camera")
        cell.graph.publisher(interface.CAMERA_INFO).publish(late)

    assert capture_while(cell.camera, publish).intrinsics == K


def test_after_a_jump_back_of_the_clock_the_new_frames_count() -> None:
    cell = Cell(clip_s=1.5)
    for _ in range(4):
        cell.publish()
        cell.graph.time_ns += 10**9
    cell.graph.on_jump(lambda seconds: cell.camera.forget())
    cell.graph.jump(-100.0)
    frame = cell.capture()
    assert frame.stamp_ns <= cell.graph.now_ns()
    assert len(frame.clip) == 0  # nothing from before the jump


def test_a_halt_ends_the_waiting() -> None:
    cell = Cell(why_halted=lambda: "stopped; release it with ~/reset", timeout_s=20.0)
    with pytest.raises(ObservationError, match="stopped") as caught:
        cell.camera.capture()
    assert caught.value.reason is ObservationReason.HALTED


def test_depth_in_millimetres_with_zeros_is_metres_with_nan() -> None:
    cell = Cell()
    raw = np.full((6, 8), 750, dtype="<u2")
    raw[0, 0] = 0
    cell.changes["depth"] = {"encoding": "16UC1", "step": 16, "data": raw.tobytes()}
    depth_m = cell.capture().depth_m
    assert np.isnan(depth_m[0, 0])
    assert depth_m[1:] == pytest.approx(0.75)


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "mono8"])
def test_other_colour_encodings_become_rgb(encoding: str) -> None:
    cell = Cell()
    shown = {"bgr8": RGB[:, :, ::-1], "rgba8": np.dstack([RGB, RGB[:, :, :1]]), "mono8": RGB[:, :, :1]}[encoding]
    cell.changes["image"] = {"encoding": encoding, "step": 8 * shown.shape[2], "data": shown.tobytes()}
    wanted = np.repeat(RGB[:, :, :1], 3, axis=2) if encoding == "mono8" else RGB
    assert np.array_equal(cell.capture().rgb, wanted)


def test_a_clip_holds_two_pictures_a_second_of_the_time_before() -> None:
    cell = Cell(clip_s=1.5)
    for step in range(14):  # every quarter of a second, up to a moment ago
        cell.ahead_ns, cell.rgb = -round((14 - step) * 0.25e9), np.full_like(RGB, step)
        cell.publish()
    cell.ahead_ns, cell.rgb = 0, RGB
    frame = cell.capture()
    assert np.array_equal(frame.rgb, RGB)
    shown = [int(picture[0, 0, 0]) for picture in frame.clip]
    assert len(shown) >= 2
    assert np.array_equal(np.diff(shown), np.full(len(shown) - 1, 2))
    assert all((14 - step) * 0.25 <= 1.7 for step in shown)


def test_no_clip_is_kept_unless_asked_for() -> None:
    cell = Cell()
    cell.publish()
    assert cell.capture().clip == ()


def test_the_newest_frame_is_there_once_it_came_and_never_waited_for() -> None:
    cell = Cell(timeout_s=1e9)
    since_ns = cell.graph.now_ns() - 1
    assert cell.camera.newest(since_ns) is None
    cell.publish()
    frame = cell.camera.newest(since_ns)
    assert frame is not None
    assert np.array_equal(frame.depth_m, DEPTH_M)
    assert cell.camera.newest(frame.stamp_ns) is None


def test_a_newest_frame_that_cannot_be_used_is_named() -> None:
    cell = Cell()
    cell.changes["depth"] = {"encoding": "mono8"}
    cell.publish()
    with pytest.raises(ObservationError, match="depth"):
        cell.camera.newest(0)


class TwoCells:
    """Two cameras on one graph, of which the second may stay silent."""

    def __init__(self, *, is_second_silent: bool = False) -> None:
        self.graph = LocalGraph()
        self.cells = [Cell(graph=self.graph, prefix=prefix) for prefix in ("front/", "side/")]
        self.cells[1].rgb = np.ascontiguousarray(RGB[::-1])
        self.speaking = self.cells[:1] if is_second_silent else self.cells
        self.cameras = GraphCameras({cell.prefix: cell.camera for cell in self.cells})

    def capture(self) -> Any:
        return capture_while(self.cameras, lambda: [cell.publish() for cell in self.speaking])


def test_the_first_cameras_frame_carries_what_the_others_saw() -> None:
    frame = TwoCells().capture()
    assert np.array_equal(frame.rgb, RGB)
    assert [np.array_equal(other.rgb, RGB[::-1]) for other in frame.others] == [True]


def test_the_newest_frame_waits_for_every_camera() -> None:
    two = TwoCells()
    two.cells[0].publish()
    assert two.cameras.newest(0) is None
    two.cells[1].publish()
    frame = two.cameras.newest(0)
    assert frame is not None
    assert [np.array_equal(other.rgb, RGB[::-1]) for other in frame.others] == [True]


def test_a_camera_that_is_silent_is_named_though_the_other_speaks() -> None:
    with pytest.raises(
        ObservationError, match="side/: .*no message on /side/image, /side/depth, /side/camera_info"
    ) as caught:
        TwoCells(is_second_silent=True).capture()
    assert caught.value.reason is ObservationReason.NO_FRAME


def test_messages_are_counted_for_each_camera() -> None:
    cells = TwoCells()
    cells.capture()
    assert cells.cameras.counts() == {
        f"{p}{w}": 1 for p in ("front/", "side/") for w in ("image", "depth", "camera_info")
    }
