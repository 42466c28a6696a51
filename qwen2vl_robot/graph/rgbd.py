"""The messages of one exposure → a rectified picture, depth of the same pixels, and their intrinsics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph.compressed_depth import depth_from_compressed
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.graph.lens import (
    Lens,
    PictureForm,
    is_same,
    lens_from_info,
    rectify_depth,
    rectify_rgb,
)
from qwen2vl_robot.graph.pictures import Depth, Rgb, depth_from_image, rgb_from_compressed, rgb_from_image
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.perception.registration import register_depth
from qwen2vl_robot.reasons import ObservationReason

_SAME_PX = 0.5  # drivers round the intrinsics of registered depth
_ADVICE = (
    "remap depth to the topic that the driver registers to colour (realsense2_camera with align_depth.enable: "
    "aligned_depth_to_color/image_raw; azure_kinect: depth_to_rgb/image_raw; "
    "depth_image_proc: depth_registered/image_rect)"
)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The messages of one exposure.

    Attributes:
        depth_info: camera_info of the depth topic, None where that is the image's.
    """

    image: Message
    depth: Message
    info: Message
    depth_info: Message | None = None


@dataclass(frozen=True, slots=True)
class Topics:
    """What the names of a camera's topics say.

    Attributes:
        image, depth: which picture each carries.
        depth_info: the name of the depth topic's camera_info.
        is_compressed, is_depth_compressed: whether they carry CompressedImage.
    """

    image: PictureForm = "unknown"
    depth: PictureForm = "unknown"
    depth_info: str = ""
    is_compressed: bool = False
    is_depth_compressed: bool = False

    def rgb(self, image: Message, lens: Lens) -> Rgb:
        """Read and rectify a picture.

        Raises:
            ObservationError: it cannot be used.
        """
        rgb = rgb_from_compressed(image, lens.size_px) if self.is_compressed else rgb_from_image(image)
        if rgb.shape[1::-1] != lens.size_px:
            raise _sizes_differ(f"image {_size(rgb)}", "camera_info", lens)
        return rectify_rgb(rgb, lens, self.image)


def read_exposure(
    exposure: Exposure, topics: Topics, pose_of: Callable[[str, str], Array]
) -> tuple[Rgb, Depth, Intrinsics]:
    """Read the rectified picture (h, w, 3), depth (h, w) of its pixels in metres, and their intrinsics.

    Depth of another frame, size or focal length is registered to the picture, if its own camera_info came.

    Args:
        pose_of: returns the pose (4, 4) of the second frame in the first one, or raises an `ObservationError`.

    Raises:
        ObservationError: a message cannot be used, or depth cannot be registered; it says what to do.
    """
    image, depth, depth_info = exposure.image, exposure.depth, exposure.depth_info
    lens = lens_from_info(exposure.info)
    _check_frame(image, exposure.info, "image", "camera_info")
    rgb = topics.rgb(image, lens)
    own_lens, whose = lens, "camera_info"
    if depth_info is not None:
        own_lens, whose = lens_from_info(depth_info), topics.depth_info
        _check_frame(depth, depth_info, "depth", whose)
    depth_m = depth_from_compressed(depth, own_lens.size_px) if topics.is_depth_compressed else depth_from_image(depth)
    advice = "" if depth_info is not None else f"; no camera_info of depth came on {topics.depth_info}: {_ADVICE}"
    if depth_m.shape[::-1] != own_lens.size_px:
        raise _sizes_differ(f"depth {_size(depth_m)}", whose, own_lens, advice)
    frame, depth_frame = image.header.frame_id, depth.header.frame_id
    if frame != depth_frame and depth_info is None:
        frames = f"image is in frame {shown(frame)!r}, depth in {shown(depth_frame)!r}"
        raise ObservationError(f"camera: {frames}{advice}")
    depth_m = rectify_depth(depth_m, own_lens, topics.depth)
    if frame != depth_frame or not is_same(lens.rectified, own_lens.rectified, _SAME_PX):
        depth_m = register_depth(depth_m, own_lens.rectified, lens.rectified, pose_of(frame, depth_frame))
    return rgb, depth_m, lens.rectified


def _check_frame(picture: Message, info: Message, what: str, whose: str) -> None:
    """Check that a camera_info is that of a picture: another camera's has another frame."""
    frame, other = picture.header.frame_id.lstrip("/"), info.header.frame_id.lstrip("/")
    if other and other != frame:
        raise ObservationError(
            f"camera: {what} is in frame {shown(frame)!r}, {whose} in {shown(other)!r}: another camera's; remap it",
            reason=ObservationReason.CAMERA_INFO,
        )


def _sizes_differ(found: str, whose: str, lens: Lens, advice: str = "") -> ObservationError:
    declared = f"{whose} {lens.size_px[0]}x{lens.size_px[1]}"
    return ObservationError(
        f"camera: the sizes differ: {found}, {declared} px{advice}", reason=ObservationReason.CAMERA_INFO
    )


def _size(pixels: Rgb | Depth) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
