"""sensor_msgs/msg/CameraInfo → the lens that it describes, and raw pictures → rectified ones, as image_proc makes them.

`k` and `d` describe the raw picture, `p` the rectified one; a driver sends all three with both. Which of the two a
topic carries, its name says, or the parameter `pictures`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import DISTORTION_TERMS, VALUE_CHARS, shown
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.graph.pictures import Depth, Rgb, check_size
from qwen2vl_robot.messages import Intrinsics

PictureForm = Literal["raw", "rectified", "unknown"]

_SAME_PX = 0.01  # two sets of intrinsics that differ by less are one: drivers round
_NO_DISTORTION = 1e-6
_NO_TURN_RAD = 1e-3  # half a pixel at a focal length of 500
_TERMS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "fisheye": (4,)}
_FISHEYE = ("equidistant", "fisheye")
_RAW_NAMES = ("image_raw", "image_color", "image_mono")


@dataclass(frozen=True, slots=True)
class Lens:
    """What a camera_info says of the pictures that belong to it.

    Attributes:
        raw, rectified: intrinsics of the two pictures.
        model: one of sensor_msgs/distortion_models.
        distortion: as the model orders them; none where all are 0.
        turn_rad: angle by which rectifying turns the picture.
    """

    raw: Intrinsics
    rectified: Intrinsics
    model: str
    distortion: tuple[float, ...]
    turn_rad: float

    @property
    def size_px(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.raw.width_px, self.raw.height_px

    @property
    def is_rectified(self) -> bool:
        """Return whether raw and rectified pictures are the same."""
        return not self.distortion and self.turn_rad <= _NO_TURN_RAD and is_same(self.raw, self.rectified)


def is_same(one: Intrinsics, other: Intrinsics, within_px: float = _SAME_PX) -> bool:
    """Return whether two pinhole cameras put every point on the same pixel."""
    apart = np.subtract(
        [one.fx_px, one.fy_px, one.cx_px, one.cy_px], [other.fx_px, other.fy_px, other.cx_px, other.cy_px]
    )
    sizes = (one.width_px, one.height_px) == (other.width_px, other.height_px)
    return sizes and float(np.abs(apart).max()) <= within_px


def form_of(topic: str, stated: str) -> PictureForm:
    """Tell from a topic's name which picture it carries, by the names of image_pipeline and of usual drivers.

    Args:
        stated: "raw" or "rectified" where a person said it, else "by_name".

    >>> form_of("/camera/image_rect_color", "by_name"), form_of("/camera/color/image_raw", "by_name")
    ('rectified', 'raw')
    >>> form_of("/image", "by_name"), form_of("/image", "raw")
    ('unknown', 'raw')
    """
    if stated == "raw" or stated == "rectified":
        return "raw" if stated == "raw" else "rectified"
    *_, folder, name = ("", *topic.split("/"))
    if "rect" in name.split("_") or folder == "rect":  # also image_rect_raw, which realsense2_camera rectifies
        return "rectified"
    return "raw" if name in _RAW_NAMES or folder == "raw" else "unknown"


def lens_from_info(message: Message) -> Lens:
    """Read a sensor_msgs/msg/CameraInfo; `p` of zeros counts as `k`, and binning and region of interest are applied.

    Raises:
        ObservationError: the camera is not calibrated, a number is not finite, a matrix has another form, a size or
            focal length is not positive, a centre lies outside the picture, or the distortion is of no known model.
    """
    if len(message.d) > DISTORTION_TERMS:
        raise ObservationError(f"camera_info: {len(message.d)} terms in d; no model has more than {DISTORTION_TERMS}")
    given = (message.k, message.d, message.r, message.p)
    k, d, r, p = ([float(v) for v in values] for values in given)
    for name, values in (("k", k), ("d", d), ("r", r), ("p", p)):
        if not all(math.isfinite(v) for v in values):
            raise ObservationError(f"camera_info: {name} has a number that is not finite")
    if not any(k):
        raise ObservationError(
            "camera_info: k is zero, so the camera is not calibrated; calibrate it (camera_calibration's "
            "cameracalibrator) and let its driver publish the result"
        )
    window = _window(message)
    raw = _pinhole(k, [k[1], k[3], k[6], k[7], k[8] - 1.0], window, "k")
    rectified = raw
    if any(p):
        if p[3] or p[7]:
            raise ObservationError(
                f"camera_info: p shifts the picture by {p[3]:g}, {p[7]:g}, as of the second camera of a stereo pair; "
                "use the topics of the first one"
            )
        rectified = _pinhole([*p[:3], *p[4:7]], [p[1], p[4], p[8], p[9], p[10] - 1.0, p[11]], window, "p")
    distortion = tuple(d) if any(abs(v) > _NO_DISTORTION for v in d) else ()
    model = str(message.distortion_model)
    if distortion and len(d) not in _TERMS.get(model, ()):
        known = ", ".join(f"{name} with {' or '.join(map(str, counts))}" for name, counts in _TERMS.items())
        raise ObservationError(
            f"camera_info: distortion_model {shown(model, VALUE_CHARS)!r} with {len(d)} terms; known: {known}"
        )
    return Lens(raw, rectified, model, distortion, _turn_rad(r))


def rectify_rgb(rgb: Rgb, lens: Lens, form: PictureForm) -> Rgb:
    """Return the rectified picture (h, w, 3); what the camera did not see becomes black.

    Raises:
        ObservationError: it is not known which picture this is, or it cannot be rectified.
    """
    if not _is_raw(lens, form, "image"):
        return rgb
    return np.asarray(cv2.remap(rgb, *_maps(lens), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), dtype=np.uint8)


def rectify_depth(depth_m: Depth, lens: Lens, form: PictureForm) -> Depth:
    """Return rectified depth (h, w), each value one that was measured; NaN where the camera did not see.

    Raises:
        ObservationError: it is not known which picture this is, or it cannot be rectified.
    """
    if not _is_raw(lens, form, "depth"):
        return depth_m
    nan = (math.nan,) * 4
    maps = _maps(lens)
    moved = cv2.remap(depth_m, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=nan)
    return np.asarray(moved, dtype=np.float32)


def _is_raw(lens: Lens, form: PictureForm, what: str) -> bool:
    if lens.is_rectified or form == "rectified":
        return False
    if form == "unknown":
        why = "d is not zero" if lens.distortion else "k and p, or r, are those of two pictures"
        raise ObservationError(
            f"camera_info: {why}, and the name of the topic {what} does not say whether it is raw or rectified; set "
            "the parameter pictures to raw or rectified, or remap to a topic such as image_rect or image_raw"
        )
    if lens.turn_rad > _NO_TURN_RAD:
        raise ObservationError(
            f"camera_info: r turns the picture by {math.degrees(lens.turn_rad):.2f} degrees, as of a stereo pair; "
            f"use a rectified topic as {what} (image_proc publishes image_rect)"
        )
    return True


@functools.lru_cache(maxsize=16)
def _maps(lens: Lens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute for each pixel (h, w) of the rectified picture where in the raw one it is."""
    k, p = (np.array([[i.fx_px, 0, i.cx_px], [0, i.fy_px, i.cy_px], [0, 0, 1.0]]) for i in (lens.raw, lens.rectified))
    d = np.array(lens.distortion or (0.0,) * 4)
    make = cv2.fisheye.initUndistortRectifyMap if lens.model in _FISHEYE else cv2.initUndistortRectifyMap
    with np.errstate(all="ignore"):
        x, y = (np.asarray(m, dtype=np.float32) for m in make(k, d, np.eye(3), p, lens.size_px, cv2.CV_32FC1))
    width, height = lens.size_px
    is_inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    folds = (np.diff(x, axis=1) <= 0)[:-1] | (np.diff(y, axis=0) <= 0)[:, :-1]
    if not is_inside.any() or (folds & is_inside[:-1, :-1]).any():
        given = shown(", ".join(f"{v:g}" for v in lens.distortion), VALUE_CHARS)
        raise ObservationError(
            f"camera_info: d ({given}) folds the picture, as no lens does; calibrate the camera again"
        )
    return x, y


class _Window(NamedTuple):
    """Which pixels of the sensor the picture shows, and how many of them make one of its pixels."""

    full_px: tuple[int, int]
    left: int
    top: int
    across: int
    down: int
    bin_x: int
    bin_y: int


def _window(message: Message) -> _Window:
    width, height = int(message.width), int(message.height)
    check_size(width, height, "camera_info")
    bin_x, bin_y = max(1, int(message.binning_x)), max(1, int(message.binning_y))
    roi = message.roi
    left, top = int(roi.x_offset), int(roi.y_offset)
    across, down = int(roi.width) or width - left, int(roi.height) or height - top
    if not (0 < across <= width - left and 0 < down <= height - top):
        raise ObservationError(f"camera_info: roi {across}x{down} px at {left}, {top} lies outside {width}x{height}")
    check_size(across // bin_x, down // bin_y, "camera_info with its binning")
    return _Window((width, height), left, top, across, down, bin_x, bin_y)


def _pinhole(rows: list[float], zeros: list[float], window: _Window, name: str) -> Intrinsics:
    """Make intrinsics of the first two rows of a matrix; `zeros` are its elements that must be 0."""
    fx, _, cx, _, fy, cy = rows[:6]
    (width, height), left, top, across, down, bin_x, bin_y = window
    if any(abs(v) > 1e-6 for v in zeros):
        raise ObservationError(f"camera_info: {name} is no pinhole camera; its rows are fx 0 cx, 0 fy cy, 0 0 1")
    if not (fx > 0.0 and fy > 0.0):
        raise ObservationError(f"camera_info: focal lengths {fx:g} and {fy:g} px in {name}; both above 0")
    if not (0.0 <= cx <= width and 0.0 <= cy <= height):
        raise ObservationError(f"camera_info: centre ({cx:g}, {cy:g}) px in {name} lies outside {width}x{height}")
    centre = (cx - left) / bin_x, (cy - top) / bin_y
    return Intrinsics(across // bin_x, down // bin_y, fx / bin_x, fy / bin_y, *centre)


def _turn_rad(r: list[float]) -> float:
    """Return the angle of a rectification matrix; zeros are none.

    Raises:
        ObservationError: it is no rotation.
    """
    R = np.array(r).reshape(3, 3)
    if not R.any():
        return 0.0
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-3) or np.linalg.det(R) < 0:
        raise ObservationError("camera_info: r is no rotation; the identity is what a single camera has")
    return float(np.arccos(np.clip((np.trace(R) - 1.0) / 2.0, -1.0, 1.0)))
