"""Picture files, of people and in messages → upright pictures (h, w, 3) of 8 bits; and such pictures → files."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from qwen2vl_robot.bounds import IMAGE_SIDE_PX, JPEG_SCANS, PHOTO_BYTES, PHOTO_PIXELS, shown
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.results import draw_all

Picture = npt.NDArray[np.uint8]

Image.MAX_IMAGE_PIXELS = None  # Pillow would print a warning of its own before `open_picture` refuses

_STEP_16 = 257  # 65535 / 255: white stays white
_SIXTEEN = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow reads more, some of them by starting other programs
# What Pillow raises for files that are cut or lie about themselves.
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
)


@contextlib.contextmanager
def open_picture(
    data: bytes, what: str, most_pixels: int, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open a picture file whose header is within the bounds; its pixels are decoded when they are asked for.

    Args:
        what: begins each error.

    Raises:
        BadInputError: none of the formats, too large, or its pixels cannot be decoded.
    """
    try:
        # Each scan of a JPEG costs a pass over all pixels and may be a few bytes long.
        if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > JPEG_SCANS:
            raise BadInputError(f"{what}: a JPEG of more than {JPEG_SCANS} scans")
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if max(width, height) > IMAGE_SIDE_PX or width * height > most_pixels:
                raise BadInputError(
                    f"{what}: {width}x{height} px; allowed are {most_pixels} pixels and {IMAGE_SIDE_PX} a side"
                )
            yield image
    except UnidentifiedImageError as error:
        raise BadInputError(f"{what}: not a picture; allowed: {', '.join(formats)}") from error
    except _UNREADABLE as error:
        raise BadInputError(f"{what}: {shown(error) or type(error).__name__}") from error


def read_photo(path: Path, say: Callable[[str], object]) -> Picture:
    """Read a picture as (h, w, 3) uint8, upright as its EXIF data says.

    Args:
        say: takes the line that 16 bits became 8, where something was lost by it.

    Raises:
        BadInputError: missing, empty, not a picture, too large, or of more than 16 bits.
    """
    with open_picture(read_file(path, PHOTO_BYTES), shown(path), PHOTO_PIXELS) as image:
        is_stored_in_16 = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        upright = ImageOps.exif_transpose(image)
        if upright.mode in (*_SIXTEEN, "F"):
            grey, is_lossy = _to_8_bit(path, np.asarray(upright))
            rgb = np.repeat(grey[:, :, None], 3, axis=2)
        else:
            rgb, is_lossy = np.asarray(upright.convert("RGB"), dtype=np.uint8), is_stored_in_16
    if is_lossy:
        say(f"{path}: converted from 16 to 8 bits; finer shades are lost")
    return rgb


def _to_8_bit(path: Path, values: npt.NDArray[Any]) -> tuple[Picture, bool]:
    """Grey values (h, w) of 16 bits as 8 bits, and whether different shades became one."""
    if values.dtype.kind == "f" or values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise BadInputError(f"{path}: has more than 16 bits a pixel; save it with 8 or 16")
    wide = values.astype(np.uint32)  # the smallest type in which the sum below has room
    return ((wide + _STEP_16 // 2) // _STEP_16).astype(np.uint8), bool((wide % _STEP_16).any())


def write_photo(path: Path, rgb: Picture) -> None:
    """Write a picture (h, w, 3); a name that ends in no known format becomes a PNG.

    Raises:
        UnsavedError: it cannot be written.
    """
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    if kind not in Image.SAVE:
        kind = "PNG"
    draw_all(path.parent, {path.name: lambda file: Image.fromarray(rgb).save(file, format=kind)})
