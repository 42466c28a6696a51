"""What real camera drivers send, message by message: the right value, or the reason that says what to do."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph.compressed_depth import depth_from_compressed
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.graph.lens import form_of, lens_from_info, rectify_depth, rectify_rgb
from qwen2vl_robot.graph.pictures import depth_from_image, rgb_from_compressed, rgb_from_image
from tests.graph.drivers import (
    EYE,
    camera_info,
    compressed,
    config_header,
    image,
    inverse_depth,
    matrix_k,
    matrix_p,
    picture_file,
    roi,
    rvl,
)

WIDE = (640, 480)
K = matrix_k(610.0, 612.0, 322.0, 241.0)
P = matrix_p(560.0, 565.0, 318.0, 238.0)
BARREL = (-0.28, 0.07, 0.0003, -0.0002, 0.0)  # usb_cam with a lens of 2.8 mm, by cameracalibrator
TURNED = [0.9998, 0.0, 0.02, 0.0, 1.0, 0.0, -0.02, 0.0, 0.9998]  # 1.1 degrees, a stereo pair
AZURE = (0.52, -2.64, 0.0006, -0.0002, 1.51, 0.40, -2.46, 1.44)  # colour of an Azure Kinect, rational_polynomial

# ----------------------------------------------------------------------------------------------- camera_info

# What is sent, the topic, the intrinsics (fx, fy, cx, cy) of the rectified picture.
RIGHT_INFOS: dict[str, tuple[Message, str, tuple[float, float, float, float]]] = {
    "image_proc, image_rect: the raw camera's info": (
        camera_info(WIDE, K, P, d=BARREL), "/camera/image_rect", (560, 565, 318, 238)
    ),
    "image_proc, image_rect_color": (
        camera_info(WIDE, K, P, d=BARREL), "/camera/image_rect_color", (560, 565, 318, 238)
    ),
    "usb_cam, image_raw": (camera_info(WIDE, K, P, d=BARREL), "/camera/image_raw", (560, 565, 318, 238)),
    "v4l2_camera calibrated without p": (
        camera_info(WIDE, K, [0.0] * 12, d=BARREL), "/image_raw", (610, 612, 322, 241)
    ),
    "a rectified picture without p, as cv2.undistort makes it": (
        camera_info(WIDE, K, [0.0] * 12, d=BARREL), "/camera/image_rect", (610, 612, 322, 241)
    ),
    "realsense2_camera, D435 colour: d of zeros": (
        camera_info(WIDE, K), "/camera/camera/color/image_raw", (610, 612, 322, 241)
    ),
    "realsense2_camera, depth/image_rect_raw": (
        camera_info(WIDE, K), "/camera/camera/depth/image_rect_raw", (610, 612, 322, 241)
    ),
    "gazebo: no d at all, our own name": (camera_info(WIDE, K, d=()), "/image", (610, 612, 322, 241)),
    "gazebo: no distortion model": (camera_info(WIDE, K, d=(), model=""), "/image", (610, 612, 322, 241)),
    "azure_kinect_ros_driver, rgb/image_raw": (
        camera_info(WIDE, K, d=AZURE, model="rational_polynomial"), "/rgb/image_raw", (610, 612, 322, 241)
    ),
    "zed_wrapper, rgb/color/rect/image": (
        camera_info(WIDE, K), "/zed/zed_node/rgb/color/rect/image", (610, 612, 322, 241)
    ),
    "d of zeros and p that is not k, rectified": (
        camera_info(WIDE, K, P), "/camera/image_rect", (560, 565, 318, 238)
    ),
    "d of zeros and p that is not k, raw": (camera_info(WIDE, K, P), "/camera/image_raw", (560, 565, 318, 238)),
    "r of zeros, left out by a driver": (camera_info(WIDE, K, r=[0.0] * 9), "/image", (610, 612, 322, 241)),
    "binning 2x2, of a genicam driver": (
        camera_info((1280, 960), matrix_k(1220, 1224, 644, 482), binning_x=2, binning_y=2),
        "/camera/image_rect",
        (610, 612, 322, 241),
    ),
    "crop_decimate: a region of interest": (
        camera_info((1280, 960), matrix_k(610, 612, 642, 481), roi=roi(320, 240, 640, 480)),
        "/camera/image_rect",
        (610, 612, 322, 241),
    ),
    "a fisheye lens, equidistant": (
        camera_info(WIDE, matrix_k(300, 300, 320, 240), d=(0.02, -0.01, 0.002, 0.0), model="equidistant"),
        "/camera/image_raw",
        (300, 300, 320, 240),
    ),
}  # fmt: skip

WRONG_INFOS: dict[str, tuple[Message, str, str]] = {
    "v4l2_camera, not calibrated": (
        camera_info(WIDE, [0.0] * 9, [0.0] * 12), "/image_raw", "k is zero.*not calibrated; calibrate it"
    ),
    "distorted, and the name does not say which": (
        camera_info(WIDE, K, P, d=BARREL), "/image", "d is not zero.*set the parameter pictures to raw or rectified"
    ),
    "p is not k, and the name does not say which": (camera_info(WIDE, K, P), "/image", "of two pictures.*pictures"),
    "the second camera of a stereo pair": (
        camera_info(WIDE, K, matrix_p(560, 565, 318, 238, tx=-67.2)), "/right/image_rect", "second camera of a stereo"
    ),
    "the raw picture of a stereo pair": (
        camera_info(WIDE, K, P, d=BARREL, r=TURNED), "/left/image_raw", "r turns the picture by 1.1.*image_rect"
    ),
    "r is no rotation": (camera_info(WIDE, K, r=[2.0, *EYE[1:]]), "/image_rect", "r is no rotation"),
    "NaN in p": (camera_info(WIDE, K, [float("nan"), *P[1:]]), "/image_rect", "p has a number that is not finite"),
    "NaN in d": (camera_info(WIDE, K, d=(float("nan"),) * 5), "/image_rect", "d has a number that is not finite"),
    "k with a skew": (camera_info(WIDE, [610.0, 3.0, *K[2:]]), "/image_rect", "k is no pinhole camera"),
    "p with a focal length of 0": (
        camera_info(WIDE, K, matrix_p(0.0, 565, 318, 238)), "/image_rect", "focal lengths 0 and 565 px in p"
    ),
    "p whose centre is of another size": (
        camera_info(WIDE, K, matrix_p(560, 565, 960, 238)), "/image_rect", "centre .960, 238. px in p lies outside"
    ),
    "a model that nobody knows": (
        camera_info(WIDE, K, d=(0.1,) * 5, model="omni"), "/image_raw", "'omni' with 5 terms; known: plumb_bob"
    ),
    "no model, though there is distortion": (
        camera_info(WIDE, K, d=(0.1,) * 5, model=""), "/image_raw", "'' with 5 terms; known: plumb_bob"
    ),
    "as many terms as another model has": (
        camera_info(WIDE, K, d=(0.1,) * 8), "/image_raw", "'plumb_bob' with 8 terms"
    ),
    "distortion that folds the picture": (
        camera_info(WIDE, K, d=(-3.0, 0.0, 0.0, 0.0, 0.0)), "/image_raw", "folds the picture"
    ),
    "a region outside of the sensor": (
        camera_info(WIDE, K, roi=roi(600, 0, 100, 100)), "/image_rect", "roi 100x100 px at 600, 0 lies outside"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT_INFOS)
def test_a_camera_info_gives_the_intrinsics_of_the_rectified_picture(case: str) -> None:
    info, topic, wanted = RIGHT_INFOS[case]
    lens = lens_from_info(info)
    k = lens.rectified
    assert (k.fx_px, k.fy_px, k.cx_px, k.cy_px) == pytest.approx(wanted)
    assert (k.width_px, k.height_px) == WIDE
    rectified = rectify_rgb(np.zeros((480, 640, 3), dtype=np.uint8), lens, form_of(topic, "by_name"))
    assert rectified.shape == (480, 640, 3)


@pytest.mark.parametrize("case", WRONG_INFOS)
def test_a_camera_info_that_would_mislead_is_refused(case: str) -> None:
    info, topic, reason = WRONG_INFOS[case]
    with pytest.raises(ObservationError, match=reason):
        rectify_depth(np.ones((480, 640), dtype=np.float32), lens_from_info(info), form_of(topic, "by_name"))


@pytest.mark.parametrize(("stated", "is_changed"), [("raw", True), ("rectified", False)])
def test_a_person_may_say_what_a_name_does_not(stated: str, is_changed: bool) -> None:
    lens = lens_from_info(camera_info(WIDE, K, P, d=BARREL))
    rgb = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert np.array_equal(rectify_rgb(rgb, lens, form_of("/image", stated)), rgb) != is_changed


def spot(at_px: tuple[float, float]) -> npt.NDArray[np.uint8]:
    rgb = np.zeros((480, 640, 3), dtype=np.uint8)
    cv2.circle(rgb, (round(at_px[0]), round(at_px[1])), 6, (255, 255, 255), -1)
    return rgb


@pytest.mark.parametrize(
    "case",
    [
        "usb_cam, image_raw",
        "azure_kinect_ros_driver, rgb/image_raw",
        "a fisheye lens, equidistant",
        "d of zeros and p that is not k, raw",
    ],
)
@pytest.mark.parametrize("point_m", [(0.0, 0.0, 1.0), (-0.22, 0.14, 0.9), (0.3, -0.2, 1.1), (0.21, 0.2, 0.8)])
def test_a_point_in_space_is_where_the_rectified_picture_shows_it(case: str, point_m: tuple[float, ...]) -> None:
    """The spot is drawn where OpenCV's own model of the lens projects the point."""  # fmt: skip
    info, topic, _ = RIGHT_INFOS[case]
    lens = lens_from_info(info)
    p, k, d = np.array([[point_m]]), np.array(info.k).reshape(3, 3), np.array(info.d)
    zero = np.zeros(3)
    if lens.model == "equidistant":
        raw_px = cv2.fisheye.projectPoints(p, zero, zero, k, d)[0].ravel()
    else:
        raw_px = cv2.projectPoints(p, zero, zero, k, d)[0].ravel()
    rectified = rectify_rgb(spot(raw_px), lens, form_of(topic, "by_name"))
    rows, columns = np.nonzero(rectified[:, :, 0] > 127)
    i = lens.rectified
    wanted = (i.fx_px * point_m[0] / point_m[2] + i.cx_px, i.fy_px * point_m[1] / point_m[2] + i.cy_px)
    assert (columns.mean(), rows.mean()) == pytest.approx(wanted, abs=1.0)


def test_depth_that_is_rectified_is_measured_depth_or_none() -> None:
    lens = lens_from_info(camera_info(WIDE, K, P, d=BARREL))
    depth_m = np.where(np.arange(640) < 320, 0.5, 2.0).astype(np.float32) * np.ones((480, 1), dtype=np.float32)
    depth_m[:10] = np.nan
    moved = rectify_depth(depth_m, lens, "raw")
    assert set(np.unique(moved[np.isfinite(moved)])) == {0.5, 2.0}, "nothing between the two is invented"
    widest = lens_from_info(camera_info(WIDE, K, matrix_p(300, 300, 320, 240), d=BARREL))
    assert np.isnan(rectify_depth(depth_m, widest, "raw")[0, 0]), "what the camera did not see is unknown"


# --------------------------------------------------------------------------------------------------- pictures

YUV_GREY_HALVES = {"uyvy": (128, 60, 128, 200), "yuyv": (60, 128, 200, 128)}
RED_YUV = {"uyvy": (90, 82, 240, 82), "yuyv": (82, 90, 82, 240)}  # pure red by ITU-R BT.601
SIDE = 8


def mosaic(pattern: str, rgb: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A Bayer picture of one colour."""
    tile = np.array([rgb["rgb".index(c)] for c in pattern]).reshape(2, 2)
    return np.tile(tile, (SIDE // 2, SIDE // 2))


def packed_yuv(four: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.tile(np.array(four, dtype=np.uint8).reshape(1, 2, 2), (SIDE, SIDE // 2, 1))


COLOUR = (200, 100, 40)
PLAIN = np.full((SIDE, SIDE, 3), COLOUR, dtype=np.uint8)

# What is sent, the colour at the middle, by how much an element may be off.
RIGHT_PICTURES: dict[str, tuple[Message, tuple[int, int, int], int]] = {
    **{
        f"usb_cam, {name}": (image(name, packed_yuv(RED_YUV[order])), (255, 0, 0), 3)
        for name, order in (("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv"))
    },
    "usb_cam, yuyv with padded rows": (image("yuyv", packed_yuv(RED_YUV["yuyv"]), pad=12), (255, 0, 0), 3),
    **{
        f"spinnaker, bayer_{p}8": (image(f"bayer_{p}8", mosaic(p, COLOUR).astype(np.uint8)), COLOUR, 0)
        for p in ("rggb", "bggr", "gbrg", "grbg")
    },
    **{
        f"genicam, bayer_{p}16": (image(f"bayer_{p}16", (mosaic(p, COLOUR) * 257).astype(np.uint16)), COLOUR, 0)
        for p in ("rggb", "bggr", "gbrg", "grbg")
    },
    "a bigger endian, bayer_rggb16": (
        image("bayer_rggb16", (mosaic("rggb", COLOUR) * 257).astype(np.uint16), big=True), COLOUR, 0
    ),
    "thermal camera, mono16": (image("mono16", np.full((SIDE, SIDE), 90 * 257, dtype=np.uint16)), (90, 90, 90), 0),
    "mono16, big endian": (
        image("mono16", np.full((SIDE, SIDE), 90 * 257, dtype=np.uint16), big=True), (90, 90, 90), 0
    ),
    "mono8 with padded rows": (image("mono8", np.full((SIDE, SIDE), 90, dtype=np.uint8), pad=8), (90, 90, 90), 0),
    "rgb16": (image("rgb16", PLAIN.astype(np.uint16) * 257), COLOUR, 0),
    "bgr8 of cv_bridge": (image("bgr8", PLAIN[:, :, ::-1]), COLOUR, 0),
    "8UC3 of cv_bridge": (image("8UC3", PLAIN[:, :, ::-1]), COLOUR, 0),
}  # fmt: skip

WRONG_PICTURES: dict[str, tuple[Message, str]] = {
    "nv12, of a Jetson": (image("nv12", np.zeros((12, 8), dtype=np.uint8)), "encoding 'nv12'; allowed: rgb8, .*yuyv"),
    "yuyv of an odd width": (image("yuyv", np.zeros((4, 5, 2), dtype=np.uint8)), "5 px wide; yuyv has an even width"),
    "uyvy that is cut": (image("uyvy", np.zeros((4, 6, 1), dtype=np.uint8)), "step 6 is too short for 6 px of uyvy"),
    "bayer that is too small": (image("bayer_rggb8", np.zeros((2, 2), dtype=np.uint8)), "2x2 px; bayer_rggb8 needs"),
    "depth on the image's topic": (image("16UC1", np.zeros((4, 4), dtype=np.uint16)), "encoding '16UC1'; allowed"),
}


@pytest.mark.parametrize("case", RIGHT_PICTURES)
def test_a_picture_has_the_colours_that_were_sent(case: str) -> None:
    message, colour, off = RIGHT_PICTURES[case]
    rgb = rgb_from_image(message)
    assert rgb.shape == (SIDE, SIDE, 3)
    assert np.abs(rgb[2:-2, 2:-2].astype(int) - colour).max() <= off


@pytest.mark.parametrize("order", YUV_GREY_HALVES)
def test_the_two_pixels_of_yuv_stand_in_their_order(order: str) -> None:
    rgb = rgb_from_image(image(order, packed_yuv(YUV_GREY_HALVES[order])))
    assert (rgb[:, 0::2] < 60).all()
    assert (rgb[:, 1::2] > 200).all()


@pytest.mark.parametrize("case", WRONG_PICTURES)
def test_a_picture_that_cannot_be_read_is_named(case: str) -> None:
    message, reason = WRONG_PICTURES[case]
    with pytest.raises(ObservationError, match=reason):
        rgb_from_image(message)


def test_a_png_of_16_bits_keeps_its_shades() -> None:
    """compressed_image_transport sends mono16 as such a PNG."""
    grey = np.full((SIDE, SIDE), 90 * 257, dtype=np.uint16)
    message = compressed("mono16; png compressed mono16", picture_file("PNG", grey))
    assert (rgb_from_compressed(message, (SIDE, SIDE)) == 90).all()


# ------------------------------------------------------------------------------------------------------ depth

MILLIMETRES = np.array([[0, 0, 1000, 1001], [998, 0, 4000, 65535]], dtype=np.uint16)
METRES = np.array([[np.nan, np.nan, 1.0, 1.001], [0.998, np.nan, 4.0, 65.535]], dtype=np.float32)
SCENE_M = np.array([[np.nan, 0.4, 0.75, 1.5], [3.0, 9.0, 12.0, 0.0]], dtype=np.float32)
QUANTIZED_M = np.array([[np.nan, 0.4, 0.75, 1.5], [3.0, 9.0, np.nan, np.nan]], dtype=np.float32)
INVERSE, INVERSE_HEADER = inverse_depth(np.where(SCENE_M > 0, SCENE_M, np.nan))
SIZE_PX = (4, 2)
# [0, 0, 1000, 1001] by hand: 2 zeros, 2 others, 2000 = 0o3720 as 8|0, 8|2, 8|7, 3, then 2: nibbles 2 2 8 A F 3 2.
BY_HAND = bytes.fromhex("04000000 01000000 20F38A22")

RIGHT_DEPTHS: dict[str, tuple[Message, tuple[int, int], npt.NDArray[np.float32], float]] = {
    "realsense2_camera, 16UC1 as PNG": (
        compressed("16UC1; compressedDepth png", config_header() + picture_file("PNG", MILLIMETRES)),
        SIZE_PX, METRES, 1e-6,
    ),
    "the plugin before it knew RVL": (
        compressed("16UC1; compressedDepth", config_header() + picture_file("PNG", MILLIMETRES)),
        SIZE_PX, METRES, 1e-6,
    ),
    "realsense2_camera, 16UC1 as RVL": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES)), SIZE_PX, METRES, 1e-6
    ),
    "RVL by hand": (compressed("16UC1; compressedDepth rvl", config_header() + BY_HAND), (4, 1), METRES[:1], 1e-6),
    "32FC1 as PNG": (
        compressed("32FC1; compressedDepth png", INVERSE_HEADER + picture_file("PNG", INVERSE)),
        SIZE_PX, QUANTIZED_M, 0.01,
    ),
    "32FC1 as RVL": (
        compressed("32FC1; compressedDepth rvl", INVERSE_HEADER + rvl(INVERSE)), SIZE_PX, QUANTIZED_M, 0.01
    ),
}  # fmt: skip

WRONG_DEPTHS: dict[str, tuple[Message, str]] = {
    "JPEG on the depth topic": (
        compressed("bgr8; jpeg compressed bgr8", bytes(40)), "format 'bgr8; jpeg .*; allowed: '16UC1; compressedDepth p"
    ),
    "a codec that nobody knows": (
        compressed("16UC1; compressedDepth zstd", bytes(40)), "format '16UC1; compressedDepth zstd'"
    ),
    "the header alone": (compressed("16UC1; compressedDepth png", config_header()), "12 bytes; allowed are 13"),
    "an unknown header": (compressed("16UC1; compressedDepth png", bytes([1] * 40)), "only 0 is known"),
    "another size, PNG": (
        compressed("16UC1; compressedDepth png", config_header() + picture_file("PNG", MILLIMETRES[:1])),
        "depth: 4x1 px, its camera_info says 4x2",
    ),
    "another size, RVL": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES[:1])),
        "depth: 4x1 px, its camera_info says 4x2",
    ),
    "a PNG of 8 bits": (
        compressed("16UC1; compressedDepth png", config_header() + picture_file("PNG", MILLIMETRES.astype(np.uint8))),
        "mode L; 16 bits are needed",
    ),
    "RVL that is cut": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES)[:-4]), "RVL (ends|has)"
    ),
    "RVL that counts too many": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES)[:8] + bytes.fromhex("0000F0FF")),
        "RVL",
    ),
    "RVL without an end of its numbers": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES)[:8] + b"\xff" * 8), "ends after 0"
    ),
    "RVL of zeros that never get on": (
        compressed("16UC1; compressedDepth rvl", config_header() + rvl(MILLIMETRES)[:8] + bytes(8)), "0 and 0 pixels"
    ),
    "32FC1 without its parameters": (
        compressed("32FC1; compressedDepth png", config_header() + picture_file("PNG", INVERSE)), "the first is above 0"
    ),
    "32FC1 with NaN as parameter": (
        compressed("32FC1; compressedDepth png", config_header(float("nan"), 1.0) + picture_file("PNG", INVERSE)),
        "the first is above 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT_DEPTHS)
def test_compressed_depth_is_metres_with_nan(case: str) -> None:
    message, size_px, wanted_m, off_ratio = RIGHT_DEPTHS[case]
    depth_m = depth_from_compressed(message, size_px)
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, wanted_m, rtol=off_ratio)


@pytest.mark.parametrize("case", WRONG_DEPTHS)
def test_compressed_depth_that_cannot_be_read_is_named(case: str) -> None:
    message, reason = WRONG_DEPTHS[case]
    with pytest.raises(ObservationError, match=reason):
        depth_from_compressed(message, SIZE_PX)


def test_rvl_of_a_whole_picture_is_what_png_gives() -> None:
    rng = np.random.default_rng(1)
    millimetres = rng.integers(300, 4000, (120, 160)).astype(np.uint16)
    millimetres[rng.random((120, 160)) < 0.3] = 0
    both = [
        depth_from_compressed(compressed(f"16UC1; compressedDepth {name}", config_header() + data), (160, 120))
        for name, data in (("png", picture_file("PNG", millimetres)), ("rvl", rvl(millimetres)))
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("big", [False, True])
def test_raw_depth_of_either_endian_is_metres(big: bool) -> None:
    np.testing.assert_allclose(depth_from_image(image("16UC1", MILLIMETRES, big=big)), METRES, rtol=1e-6)
