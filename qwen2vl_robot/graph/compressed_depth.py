"""compressedDepth of image_transport (sensor_msgs/msg/CompressedImage) → depth in metres, from PNG and from RVL.

The data begin with twelve bytes: an enumeration, which is always 0, and two floats a and b. A picture of 16 bits
follows, as a PNG or as RVL. Of 16UC1 its values are millimetres; of 32FC1 they are a / depth + b, and 0 is no depth.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import IMAGE_BYTES, IMAGE_PIXELS, VALUE_CHARS, shown
from qwen2vl_robot.errors import BadInputError, ObservationError
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.graph.pictures import Depth, check_size, only_depth
from qwen2vl_robot.photos import open_picture

_HEADER = struct.Struct("<iff")
_RVL_SIZE = struct.Struct("<II")  # width and height precede the code
_RVL_NIBBLES = 8  # of one number; the longest is a count of pixels, 25 bits in groups of three
_ENCODINGS = ("16UC1", "32FC1")
_ALLOWED = ", ".join(f"'{e}; compressedDepth {c}'" for e in _ENCODINGS for c in ("png", "rvl"))


def depth_from_compressed(message: Message, size_px: tuple[int, int]) -> Depth:
    """Decode compressedDepth to (h, w) float32 metres; missing depth becomes NaN.

    Args:
        size_px: (width, height) that the camera declares; a picture of another size is refused by its header.

    Raises:
        ObservationError: another format, another size, or data that cannot be decoded.
    """
    data = bytes(message.data[: IMAGE_BYTES + 1])
    encoding, _, form = (part.strip() for part in str(message.format)[:200].partition(";"))
    # Before it knew RVL the plugin wrote "16UC1; compressedDepth".
    codec = {"compressedDepth png": "png", "compressedDepth": "png", "compressedDepth rvl": "rvl"}.get(form)
    if encoding not in _ENCODINGS or codec is None:
        raise ObservationError(f"depth: format {shown(message.format, VALUE_CHARS)!r}; allowed: {_ALLOWED}")
    if not _HEADER.size < len(data) <= IMAGE_BYTES:
        raise ObservationError(f"depth: {len(data)} bytes; allowed are {_HEADER.size + 1} to {IMAGE_BYTES}")
    kind, a, b = _HEADER.unpack_from(data)
    if kind != 0:
        raise ObservationError(f"depth: compressedDepth begins with {kind}; only 0 is known")
    packed = data[_HEADER.size :]
    values = (_from_png if codec == "png" else _from_rvl)(packed, size_px).astype(np.float32)
    if encoding == "16UC1":
        return only_depth(values * np.float32(0.001))
    if not (math.isfinite(a) and math.isfinite(b) and a > 0.0):
        raise ObservationError(f"depth: compressedDepth has the parameters {a:g} and {b:g}; the first is above 0")
    values[values == 0.0] = np.nan
    with np.errstate(divide="ignore"):
        return only_depth(np.float32(a) / (values - np.float32(b)))


def _from_png(packed: bytes, size_px: tuple[int, int]) -> npt.NDArray[np.uint16]:
    try:
        with open_picture(packed, "depth: compressedDepth", IMAGE_PIXELS, ("PNG",)) as picture:
            _check_declared(picture.size, size_px)
            if not picture.mode.startswith("I"):
                raise ObservationError(f"depth: compressedDepth has a PNG of mode {picture.mode}; 16 bits are needed")
            return np.asarray(picture).astype(np.uint16)
    except BadInputError as error:
        raise ObservationError(str(error)) from error


def _from_rvl(packed: bytes, size_px: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """Decode RVL (A. D. Wilson, "Fast lossless depth image compression", 2017).

    Words of 32 bits hold nibbles, the first one uppermost. Three bits of each are a number's next ones, the fourth says
    that more follow. The numbers are how many pixels are 0, how many are not, and the differences of those; and again.
    """
    if len(packed) < _RVL_SIZE.size or len(packed) % 4:
        raise ObservationError(f"depth: RVL of {len(packed)} bytes; it is cut")
    width, height = _RVL_SIZE.unpack_from(packed)
    check_size(width, height, "depth")
    _check_declared((width, height), size_px)
    numbers = _numbers(np.frombuffer(packed, dtype="<u4", offset=_RVL_SIZE.size))
    where, differences, at, done = [], [], 0, 0
    while done < width * height:
        if at + 2 > len(numbers):
            raise ObservationError(f"depth: RVL ends after {done} of {width * height} pixels")
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        at += 2
        if not 0 < zeros + others <= width * height - done or at + others > len(numbers):
            raise ObservationError(f"depth: RVL has {zeros} and {others} pixels after {done} of {width * height}")
        where.append(np.arange(done + zeros, done + zeros + others))
        differences.append(numbers[at : at + others])
        at, done = at + others, done + zeros + others
    folded = np.concatenate(differences)
    values = np.zeros(width * height, dtype=np.uint16)
    values[np.concatenate(where)] = np.cumsum((folded >> 1) ^ -(folded & 1)) & 0xFFFF
    return values.reshape(height, width)


def _numbers(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Decode all numbers of an RVL stream; what is left of the last word may add zeros."""
    shifts = np.arange(28, -1, -4, dtype=np.uint32)
    nibbles = ((words[:, None] >> shifts) & 0xF).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if int((ends - starts).max()) >= _RVL_NIBBLES:
        raise ObservationError("depth: RVL has a number that is too long")
    nibbles = nibbles[: int(ends[-1]) + 1]
    place = np.arange(len(nibbles)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((nibbles & 7) << (3 * place), starts)


def _check_declared(found_px: tuple[int, int], size_px: tuple[int, int]) -> None:
    if found_px != size_px:
        found, declared = ("x".join(map(str, size)) for size in (found_px, size_px))
        raise ObservationError(f"depth: {found} px, its camera_info says {declared}")
