"""Depth as drivers send it beside a picture: registered already, to be registered, or refused with the right topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.graph.rgbd import Exposure, Topics, read_exposure
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.perception.registration import register_depth
from tests.graph.drivers import camera_info, compressed, config_header, image, matrix_k, matrix_p, rvl

COLOUR = Intrinsics(160, 120, 150.0, 150.0, 80.0, 60.0)
FINE = Intrinsics(320, 240, 300.0, 300.0, 160.0, 120.0)
COARSE = Intrinsics(80, 60, 60.0, 60.0, 40.0, 30.0)  # of a wider view, as a D435's depth is
SAME = make_pose([0.0, 0.0, 0.0])
BESIDE = make_pose([0.05, 0.0, 0.0])  # the depth camera in the frame of the colour camera
TILTED = make_pose([0.032, -0.002, 0.004], rotation_z(0.01))
WALL_M, BOX_M, BOX_HALF_M = 1.2, 0.6, 0.1


def seen(by: Intrinsics, T_colour_camera: Array) -> npt.NDArray[np.float32]:
    """Depth (h, w) of a wall and a square before it, both parallel to the colour camera's picture, by rays."""
    rows, columns = np.mgrid[: by.height_px, : by.width_px]
    rays = np.stack([(columns - by.cx_px) / by.fx_px, (rows - by.cy_px) / by.fy_px, np.ones(rows.shape)], axis=-1)
    rays = rays @ T_colour_camera[:3, :3].T
    t = T_colour_camera[:3, 3]
    wall_m, box_m = ((z_m - t[2]) / rays[..., 2] for z_m in (WALL_M, BOX_M))
    hit = t + box_m[..., None] * rays
    is_box = (np.abs(hit[..., :2]) < BOX_HALF_M).all(axis=-1)
    return np.where(is_box, box_m, wall_m).astype(np.float32)


@pytest.mark.parametrize("of", [COLOUR, FINE, COARSE])
@pytest.mark.parametrize("to", [COLOUR, FINE])
@pytest.mark.parametrize("T", [BESIDE, TILTED])
def test_registered_depth_is_what_the_other_camera_sees_or_nothing(of: Intrinsics, to: Intrinsics, T: Array) -> None:
    truth_m = seen(to, np.eye(4))
    depth_m = register_depth(seen(of, T), of, to, T)
    is_known = np.isfinite(depth_m)
    wrong = is_known & (np.abs(depth_m - truth_m) > 0.02)
    edge_px = 1 + round(2 * to.fx_px / of.fx_px)
    is_box = truth_m < 0.9
    inner = np.zeros_like(is_box)
    rows, columns = np.nonzero(is_box)
    inner[rows.min() + edge_px : rows.max() - edge_px, columns.min() + edge_px : columns.max() - edge_px] = True
    outer = np.zeros_like(is_box)
    outer[rows.min() - edge_px : rows.max() + edge_px + 1, columns.min() - edge_px : columns.max() + edge_px + 1] = True
    assert is_known[inner].all(), "a finer picture has no holes in a near thing, through which the wall would show"
    assert not wrong[inner].any()
    assert not wrong[~outer].any()
    assert is_known.mean() > 0.6


def test_what_the_depth_camera_cannot_see_is_unknown() -> None:
    """Beside the square the wall is in its shadow for the depth camera, and the colour camera sees it."""
    depth_m = register_depth(seen(FINE, BESIDE), FINE, FINE, BESIDE)
    row = depth_m[120]
    left_px = 160 - round(BOX_HALF_M / BOX_M * 300)
    assert np.isnan(row[left_px - 10 : left_px - 2]).all()
    assert row[left_px - 16] == pytest.approx(WALL_M)
    assert np.isnan(row[:3]).all(), "nor what lies outside of its view"


def test_the_nearest_of_two_measurements_counts_whatever_their_order() -> None:
    depth_m = np.full((1, 2), np.nan, dtype=np.float32)
    k = Intrinsics(2, 1, 10.0, 10.0, 0.5, 0.5)
    to = Intrinsics(1, 1, 1.0, 1.0, 0.3, 0.3)
    for order in ((0.5, 2.0), (2.0, 0.5)):
        depth_m[0] = order
        assert register_depth(depth_m, k, to, np.eye(4)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("depth_m", "T"),
    [
        (np.full((120, 160), np.nan, dtype=np.float32), BESIDE),
        (np.full((120, 160), 0.2, dtype=np.float32), make_pose([0.0, 0.0, -0.2])),  # on the colour camera's lens
        (np.full((120, 160), 0.5, dtype=np.float32), make_pose([0.0, 0.0, -9.0])),  # behind it
        (np.full((120, 160), 0.5, dtype=np.float32), make_pose([50.0, 0.0, 0.0])),  # far beside its view
    ],
)
def test_what_the_colour_camera_cannot_see_leaves_nothing(depth_m: npt.NDArray[np.float32], T: Array) -> None:
    assert np.isnan(register_depth(depth_m, COLOUR, COLOUR, T)).all()


# ------------------------------------------------------------------------------------------------ by message


def k_of(k: Intrinsics) -> list[float]:
    return matrix_k(k.fx_px, k.fy_px, k.cx_px, k.cy_px)


def rgb_of(k: Intrinsics, frame: str = "colour") -> Message:
    return image("rgb8", np.zeros((k.height_px, k.width_px, 3), dtype=np.uint8), frame=frame)


def info_of(k: Intrinsics, frame: str = "colour", **fields: Any) -> Message:
    return camera_info((k.width_px, k.height_px), k_of(k), frame=frame, **fields)


def millimetres(k: Intrinsics, T: Array = SAME, frame: str = "colour") -> Message:
    return image("16UC1", np.rint(seen(k, T) * 1000).astype(np.uint16), frame=frame)


def tf(known: dict[tuple[str, str], Array]) -> Callable[[str, str], Array]:
    def pose_of(target: str, source: str) -> Array:
        if target == source:
            return np.eye(4)
        if (target, source) not in known:
            raise ObservationError(f"tf: no path from {source} to {target}")
        return known[target, source]

    return pose_of


REALSENSE = Topics("raw", "raw", "/camera/camera/aligned_depth_to_color/camera_info")
UNALIGNED = Topics("raw", "rectified", "/camera/camera/depth/camera_info")
AT_K_OF_DEPTH = replace(COLOUR, fx_px=120.0, fy_px=120.0)
POSES = {("colour", "depth"): BESIDE}

# What comes, what its topics' names say; the depth at the middle of the square and of the wall, metres.
RIGHT: dict[str, tuple[Exposure, Topics]] = {
    "realsense2_camera, aligned_depth_to_color": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR), info_of(COLOUR)), REALSENSE
    ),
    "realsense2_camera, depth/image_rect_raw beside color/image_raw": (
        Exposure(rgb_of(COLOUR), millimetres(COARSE, BESIDE, "depth"), info_of(COLOUR), info_of(COARSE, "depth")),
        UNALIGNED,
    ),
    "depth of the same size and another frame": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR, BESIDE, "depth"), info_of(COLOUR), info_of(COLOUR, "depth")),
        UNALIGNED,
    ),
    "finer depth in the frame of colour": (
        Exposure(rgb_of(COLOUR), millimetres(FINE), info_of(COLOUR), info_of(FINE)), UNALIGNED
    ),
    "the same frame and size with other intrinsics": (
        Exposure(rgb_of(COLOUR), millimetres(AT_K_OF_DEPTH), info_of(COLOUR), info_of(AT_K_OF_DEPTH)), UNALIGNED
    ),
    "zed_wrapper: one camera_info beside each, rounded": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR), info_of(replace(COLOUR, fx_px=150.3))), UNALIGNED
    ),
    "gazebo: one camera_info for both": (Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR)), Topics()),
    "a frame_id with a slash": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR, "/colour"), info_of(COLOUR, "")), REALSENSE
    ),
    "compressedDepth, RVL, of another frame": (
        Exposure(
            rgb_of(COLOUR),
            compressed(
                "16UC1; compressedDepth rvl",
                config_header() + rvl(np.rint(seen(COARSE, BESIDE) * 1000).astype(np.uint16)),
                frame="depth",
            ),
            info_of(COLOUR),
            info_of(COARSE, "depth"),
        ),
        replace(UNALIGNED, is_depth_compressed=True),
    ),
    "azure_kinect, depth_to_rgb/image_raw beside image_proc's rgb/image_rect": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), *(2 * [info_of(COLOUR, d=(0.002, 0.0, 0.0, 0.0, 0.0))])),
        Topics("rectified", "raw", "/depth_to_rgb/camera_info"),
    ),
}  # fmt: skip

SMALL = info_of(COARSE)
WRONG: dict[str, tuple[Exposure, Topics, str]] = {
    "depth of another frame, nothing says how it sees": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR, frame="depth"), info_of(COLOUR)), UNALIGNED,
        "depth in 'depth'; no camera_info of depth came on /camera/camera/depth/camera_info: remap depth to the topic "
        "that the driver registers.*aligned_depth_to_color/image_raw",
    ),
    "depth of another size, nothing says how it sees": (
        Exposure(rgb_of(COLOUR), millimetres(COARSE), info_of(COLOUR)), UNALIGNED,
        "sizes differ: depth 80x60, camera_info 160x120 px; no camera_info of depth came on .*: remap depth",
    ),
    "depth of another frame without tf": (
        Exposure(rgb_of(COLOUR), millimetres(COARSE, frame="other"), info_of(COLOUR), info_of(COARSE, "other")),
        UNALIGNED, "no path from other to colour",
    ),
    "camera_info of another camera beside the image": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR, "left")), Topics(),
        "image is in frame 'colour', camera_info in 'left': another camera's; remap it",
    ),
    "camera_info of another camera beside depth": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR), info_of(COLOUR, "left")), UNALIGNED,
        "depth is in frame 'colour', /camera/camera/depth/camera_info in 'left'",
    ),
    "camera_info of depth that is of another mode": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR), SMALL), UNALIGNED,
        "sizes differ: depth 160x120, /camera/camera/depth/camera_info 80x60",
    ),
    "camera_info of the image that is of another mode": (
        Exposure(rgb_of(COLOUR), millimetres(COLOUR), SMALL), Topics(), "sizes differ: image 160x120, camera_info 80x60"
    ),
    "camera_info of depth that is not calibrated": (
        Exposure(
            rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR), camera_info((160, 120), [0.0] * 9, [0.0] * 12)
        ),
        UNALIGNED, "k is zero",
    ),
    "distorted depth under a name that says nothing": (
        Exposure(
            rgb_of(COLOUR), millimetres(COLOUR), info_of(COLOUR),
            camera_info((160, 120), k_of(COLOUR), matrix_p(150, 150, 80, 60), d=(0.1, 0.0, 0.0, 0.0, 0.0)),
        ),
        replace(UNALIGNED, depth="unknown"), "name of the topic depth does not say",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_depth_belongs_to_the_pixels_of_the_picture(case: str) -> None:
    exposure, topics = RIGHT[case]
    rgb, depth_m, intrinsics = read_exposure(exposure, topics, tf(POSES))
    assert rgb.shape[:2] == depth_m.shape == (120, 160)
    assert intrinsics == COLOUR
    square_px = BOX_HALF_M / BOX_M * 150.0
    for across in (-0.8, 0.0, 0.8):
        assert depth_m[60, round(80 + across * square_px)] == pytest.approx(BOX_M, abs=0.002)
    for across in (1.3, 1.6):
        assert depth_m[60, round(80 + across * square_px)] == pytest.approx(WALL_M, abs=0.002)


@pytest.mark.parametrize("case", WRONG)
def test_depth_that_may_belong_to_others_is_refused(case: str) -> None:
    exposure, topics, reason = WRONG[case]
    with pytest.raises(ObservationError, match=reason):
        read_exposure(exposure, topics, tf(POSES))
