"""sensor_msgs/msg/Image and CompressedImage → RGB of 8 bits and depth in metres; each received message is checked.

The encodings are those of sensor_msgs/image_encodings. An unusable message raises an `ObservationError` whose one line
says what was received and what is allowed.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.bounds import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_SIDE_PX, VALUE_CHARS, shown
from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.photos import open_picture

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

# Encoding → (bytes of a channel, channels, indices of red, green and blue among them).
_COLOURS = {
    "rgb8": (1, 3, (0, 1, 2)), "bgr8": (1, 3, (2, 1, 0)), "rgba8": (1, 4, (0, 1, 2)), "bgra8": (1, 4, (2, 1, 0)),
    "rgb16": (2, 3, (0, 1, 2)), "bgr16": (2, 3, (2, 1, 0)), "mono8": (1, 1, (0, 0, 0)), "mono16": (2, 1, (0, 0, 0)),
    "8UC1": (1, 1, (0, 0, 0)), "8UC3": (1, 3, (2, 1, 0)),
}  # fmt: skip
# Two pixels in four bytes. yuv422 and yuv422_yuy2 are the older names of uyvy and yuyv.
_YUV = {
    "uyvy": cv2.COLOR_YUV2RGB_UYVY, "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}  # fmt: skip
# The colours of the first two pixels of the first two rows.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerRGGB2RGB, "bayer_bggr": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGBRG2RGB, "bayer_grbg": cv2.COLOR_BayerGRBG2RGB,
}  # fmt: skip
_BAYER_BYTES = {f"{pattern}{8 * size}": (pattern, size) for pattern in _BAYER for size in (1, 2)}
_BAYER_SIDE_PX = 4  # the colours at the edge of a smaller picture have no neighbours to come from
_DEPTHS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 0.001)}  # encoding → (NumPy type, metres per unit); REP 118
_STEP_16 = 257  # 65535 / 255: white stays white


def rgb_from_image(message: Message) -> Rgb:
    """Read a sensor_msgs/msg/Image as RGB (h, w, 3) uint8; rgb8 shares the message's memory.

    Raises:
        ObservationError: the encoding is unknown, or the sizes contradict each other.
    """
    encoding = message.encoding
    if encoding in _COLOURS:
        size, channels, order = _COLOURS[encoding]
        pixels = _pixels(message, size, channels, "image")
        return pixels if order == (0, 1, 2) and channels == 3 else np.ascontiguousarray(pixels[:, :, list(order)])
    if encoding in _YUV:
        if int(message.width) % 2:
            raise ObservationError(f"image: {message.width} px wide; {encoding} has an even width")
        packed = np.ascontiguousarray(_pixels(message, 1, 2, "image"))
        return np.asarray(cv2.cvtColor(packed, _YUV[encoding]), dtype=np.uint8)
    if encoding in _BAYER_BYTES:
        pattern, size = _BAYER_BYTES[encoding]
        if min(int(message.width), int(message.height)) < _BAYER_SIDE_PX:
            least = f"at least {_BAYER_SIDE_PX} a side"
            raise ObservationError(f"image: {message.width}x{message.height} px; {encoding} needs {least}")
        mosaic = np.ascontiguousarray(_pixels(message, size, 1, "image")[:, :, 0])
        return np.asarray(cv2.cvtColor(mosaic, _BAYER[pattern]), dtype=np.uint8)
    allowed = ", ".join((*_COLOURS, *_YUV, *_BAYER_BYTES))
    raise ObservationError(f"image: encoding {shown(encoding, VALUE_CHARS)!r}; allowed: {allowed}")


def rgb_from_compressed(message: Message, size_px: tuple[int, int]) -> Rgb:
    """Decode a sensor_msgs/msg/CompressedImage (JPEG or PNG) to RGB (h, w, 3) uint8.

    Args:
        size_px: (width, height) that the camera declares; a picture of another size is refused by its header.

    Raises:
        ObservationError: no JPEG or PNG of that size.
    """
    if len(message.data) > IMAGE_BYTES:
        raise ObservationError(f"image: {len(message.data)} bytes; allowed are {IMAGE_BYTES}")
    what = f"image: format {shown(message.format, VALUE_CHARS)!r}"
    try:
        with open_picture(bytes(message.data), what, IMAGE_PIXELS, ("JPEG", "PNG")) as picture:
            if picture.size != size_px:
                found = "x".join(map(str, picture.size))
                raise ObservationError(f"image: {found} px, camera_info says {size_px[0]}x{size_px[1]}")
            return _rgb_of(picture)
    except BadInputError as error:
        raise ObservationError(str(error)) from error


def _rgb_of(picture: Image.Image) -> Rgb:
    if picture.mode.startswith("I"):  # mono16 as PNG; Pillow alone would cut off what is above 255
        grey = _eight_bits(np.asarray(picture).astype(np.uint16))
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def depth_from_image(message: Message) -> Depth:
    """Read a depth image as (h, w) float32 metres; missing depth (0, negative, infinite or NaN) becomes NaN.

    Raises:
        ObservationError: the encoding is unknown, or the sizes contradict each other.
    """
    if message.encoding not in _DEPTHS:
        raise ObservationError(
            f"depth: encoding {shown(message.encoding, VALUE_CHARS)!r}; allowed: {', '.join(_DEPTHS)}"
        )
    kind, metres = _DEPTHS[message.encoding]
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    lines = _image_lines(message, dtype.itemsize, "depth")
    used = np.ascontiguousarray(lines[:, : int(message.width) * dtype.itemsize])
    return only_depth(used.view(dtype).astype(np.float32) * np.float32(metres))


def only_depth(depth_m: Depth) -> Depth:
    """Make NaN, in place, of what is no depth: 0, negative or infinite."""
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0.0))] = np.nan
    return depth_m


def check_size(width: int, height: int, what: str) -> None:
    """Check the size of a picture.

    Raises:
        ObservationError: a side is 0, or it has too many pixels.
    """
    if not (0 < width <= IMAGE_SIDE_PX and 0 < height <= IMAGE_SIDE_PX and width * height <= IMAGE_PIXELS):
        allowed = f"allowed 1 to {IMAGE_SIDE_PX} a side and {IMAGE_PIXELS} pixels"
        raise ObservationError(f"{what}: {width}x{height} px; {allowed}")


def _pixels(message: Message, channel_bytes: int, channels: int, what: str) -> Rgb:
    """Return the channels (h, w, channels) of an image, of 16 bits those that 8 bits can show."""
    width, height = int(message.width), int(message.height)
    lines = _image_lines(message, channel_bytes * channels, what)[:, : width * channel_bytes * channels]
    if channel_bytes == 2:
        wide = np.ascontiguousarray(lines).view(np.dtype(">u2" if message.is_bigendian else "<u2"))
        return _eight_bits(wide).reshape(height, width, channels)
    return lines.reshape(height, width, channels)


def _eight_bits(wide: npt.NDArray[np.uint16]) -> Rgb:
    return ((wide.astype(np.uint32) + _STEP_16 // 2) // _STEP_16).astype(np.uint8)


def _image_lines(message: Message, bytes_per_pixel: int, what: str) -> npt.NDArray[np.uint8]:
    """Check the sizes and return the data as (height, step) bytes."""
    width, height, step = int(message.width), int(message.height), int(message.step)
    check_size(width, height, what)
    if step < width * bytes_per_pixel:
        raise ObservationError(
            f"{what}: step {step} is too short for {width} px of {message.encoding}; at least {width * bytes_per_pixel}"
        )
    if len(message.data) != step * height:
        raise ObservationError(
            f"{what}: {len(message.data)} bytes; step {step} and height {height} need {step * height}"
        )
    return np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)
