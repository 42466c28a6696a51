"""Picture files of people → (h, w, 3) pictures of 8 bits, turned upright; and such pictures → files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.results import draw_all

Picture = npt.NDArray[np.uint8]

_STEP_16 = 257  # 65535 / 255: white stays white
_SIXTEEN = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_photo(path: Path, say: Callable[[str], object]) -> Picture:
    """Read a picture as (h, w, 3) uint8, upright as its EXIF data says.

    Args:
        say: takes the line that 16 bits became 8, where something was lost by it.

    Raises:
        BadInputError: missing, empty, not a picture, or of more than 16 bits.
    """
    try:
        with Image.open(path) as image:
            is_stored_in_16 = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
            upright = ImageOps.exif_transpose(image)
            if upright.mode in (*_SIXTEEN, "F"):
                grey, is_lossy = _to_8_bit(path, np.asarray(upright))
                rgb = np.repeat(grey[:, :, None], 3, axis=2)
            else:
                rgb, is_lossy = np.asarray(upright.convert("RGB"), dtype=np.uint8), is_stored_in_16
    except UnidentifiedImageError as error:
        raise BadInputError(f"{path}: not a picture; a PNG or JPEG is needed") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if is_lossy:
        say(f"{path}: converted from 16 to 8 bits; finer shades are lost")
    return rgb


def _to_8_bit(path: Path, values: npt.NDArray[Any]) -> tuple[Picture, bool]:
    """Grey values (h, w) of 16 bits as 8 bits, and whether different shades became one."""
    if values.dtype.kind == "f" or values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise BadInputError(f"{path}: has more than 16 bits a pixel; save it with 8 or 16")
    wide = values.astype(np.int64)
    return np.round(wide / _STEP_16).astype(np.uint8), bool((wide % _STEP_16).any())


def write_photo(path: Path, rgb: Picture) -> None:
    """Write a picture (h, w, 3); a name that ends in no known format becomes a PNG.

    Raises:
        UnsavedError: it cannot be written.
    """
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    if kind not in Image.SAVE:
        kind = "PNG"
    draw_all(path.parent, {path.name: lambda file: Image.fromarray(rgb).save(file, format=kind)})
