"""A camera picture → a check that a model can use it, and the size at which a model sees it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import IMAGE_SIDE_PX
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.reasons import PlannerReason

MIN_SIDE_PX = 28
MIN_CLIP_PIXELS, MAX_CLIP_PIXELS = 16 * 28 * 28, 128 * 28 * 28  # of each picture of a clip; two cost 128 tokens


def check_picture(rgb: npt.NDArray[np.uint8]) -> None:
    """Refuse anything but a colour picture of a usable size.

    Raises:
        PlannerError: wrong type, channels or size.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        actual = f"{getattr(rgb, 'dtype', type(rgb).__name__)} {getattr(rgb, 'shape', '')}"
        raise PlannerError(
            f"the picture is {actual}; (height, width, 3) uint8 is needed", reason=PlannerReason.BAD_REQUEST
        )
    if not all(MIN_SIDE_PX <= side <= IMAGE_SIDE_PX for side in rgb.shape[:2]):
        raise PlannerError(
            f"the picture has {rgb.shape[1]}x{rgb.shape[0]} pixels; each side must be {MIN_SIDE_PX} to {IMAGE_SIDE_PX}",
            reason=PlannerReason.BAD_REQUEST,
        )


def resized_size_px(size_px: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Compute the (width, height) to which the family's image processor resizes a picture of this (width, height).

    >>> resized_size_px((640, 480), 28, 3136, 1280 * 784)
    (644, 476)
    """
    width, height = (max(1, round(side / factor)) for side in size_px)
    area = size_px[0] * size_px[1]
    if width * height * factor**2 > max_pixels:
        scale = math.sqrt(max_pixels / area) / factor
        width, height = (max(1, math.floor(side * scale)) for side in size_px)
    elif width * height * factor**2 < min_pixels:
        scale = math.sqrt(min_pixels / area) / factor
        width, height = (math.ceil(side * scale) for side in size_px)
    return width * factor, height * factor
