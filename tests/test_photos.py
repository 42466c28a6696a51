"""People's picture files become upright pictures of 8 bits, and say so where something is lost."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.bounds import IMAGE_SIDE_PX, JPEG_SCANS, PHOTO_BYTES, PHOTO_PIXELS
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.photos import read_photo, write_photo
from qwen2vl_robot.results import UnsavedError
from tests.hostile import MOST_MB, grown_mb

LEFT_IS_WHITE = np.zeros((40, 60, 3), np.uint8)
LEFT_IS_WHITE[:, :30] = 255


def test_a_picture_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    image = Image.fromarray(LEFT_IS_WHITE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    said: list[str] = []
    rgb = read_photo(tmp_path / "turned.png", said.append)
    assert rgb.shape == (60, 40, 3)
    assert (rgb[:30] == 255).all()
    assert (rgb[30:] == 0).all()
    assert said == []


def test_sixteen_bits_become_eight_over_the_whole_range(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 8, axis=0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    said: list[str] = []
    rgb = read_photo(tmp_path / "deep.png", said.append)
    assert rgb.dtype == np.uint8
    assert np.abs(rgb[..., 0].astype(float) - ramp / 257.0).max() <= 0.5
    assert said == [f"{tmp_path / 'deep.png'}: converted from 16 to 8 bits; finer shades are lost"]


def test_sixteen_bits_that_hold_only_eight_are_not_worth_a_line(tmp_path: Path) -> None:
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(tmp_path / "deep.png")
    said: list[str] = []
    assert read_photo(tmp_path / "deep.png", said.append)[..., 0].ravel().tolist() == list(range(256))
    assert said == []


def test_sixteen_bits_of_colour_are_read_too(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 8, 3), (0, 0x8080, 0xFFFF), np.uint16))  # blue, green, red
    said: list[str] = []
    assert read_photo(tmp_path / "deep.png", said.append)[0, 0].tolist() == [255, 128, 0]
    assert "converted from 16 to 8 bits" in said[0]


def test_more_than_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(BadInputError, match="more than 16 bits"):
        read_photo(tmp_path / "float.tiff", print)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "new/a", "a.pdq"])
def test_a_picture_is_written_under_any_name(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / name, LEFT_IS_WHITE)
    assert np.abs(read_photo(tmp_path / name, print).astype(int) - LEFT_IS_WHITE).max() < 30


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UnsavedError, match="Is a directory"):
        write_photo(tmp_path / "a.png", LEFT_IS_WHITE)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def size(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def saved(width: int, height: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, kind)
    return file.getvalue()


PIXELS = (b"IDAT", zlib.compress(bytes(50_000_000)))
SCAN = bytes.fromhex("ffda0008010100003f00 00")
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a side beyond the largest": lambda: saved(IMAGE_SIDE_PX + 1, 1, "PNG"),
    "many pixels": lambda: saved(5001, 5000, "PNG"),
    "a header that claims a huge picture": lambda: png(size(2**31 - 1, 2**31 - 1), PIXELS),
    "a header that claims a picture for which Pillow warns": lambda: png(size(8000, 16000), PIXELS),
    "a header that claims nothing": lambda: png(size(0, 0), PIXELS),
    "a depth that does not exist": lambda: png(size(8, 8, 77), PIXELS),
    "pixels that are missing": lambda: png(size(5000, 5000), (b"IDAT", zlib.compress(b"x")), (b"IEND", b"")),
    "no pixels": lambda: png(size(8, 8), (b"IEND", b"")),
    "a text that grows as it is unpacked": lambda: png(
        size(8, 8), (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000))), (b"IEND", b"")
    ),
    "a profile that grows as it is unpacked": lambda: png(
        size(8, 8), (b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000))), (b"IEND", b"")
    ),
    "a cut JPEG": lambda: saved(100, 100, "JPEG")[:400],
    "a JPEG of many scans": lambda: saved(100, 100, "JPEG").replace(b"\xff\xda", SCAN * (JPEG_SCANS + 1) + b"\xff\xda"),
    "a huge TIFF": lambda: saved(6000, 6000, "TIFF"),
    "a huge WebP": lambda: saved(16383, 1000, "WEBP"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "a picture of many pictures": lambda: saved(8, 8, "GIF"),
    "a line of text": lambda: b"machine example.org password hunter2\n",
    "nothing": lambda: b"",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_picture_is_one_line(tmp_path: Path, make: Callable[[], bytes]) -> None:
    (tmp_path / "a.png").write_bytes(make())
    with pytest.raises(BadInputError) as refused:
        read_photo(tmp_path / "a.png", print)
    assert str(refused.value).startswith(f"{tmp_path / 'a.png'}: ")
    assert str(refused.value).isprintable()
    assert "hunter2" not in str(refused.value)


def test_a_picture_of_as_many_pixels_as_allowed_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(5000, PHOTO_PIXELS // 5000, "PNG"))
    assert read_photo(tmp_path / "a.png", print).shape == (PHOTO_PIXELS // 5000, 5000, 3)


def test_a_progressive_picture_is_read(tmp_path: Path) -> None:
    Image.fromarray(LEFT_IS_WHITE).save(tmp_path / "a.jpg", progressive=True)
    assert read_photo(tmp_path / "a.jpg", print).shape == LEFT_IS_WHITE.shape


def test_a_file_longer_than_a_picture_may_be_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(PHOTO_BYTES + 1)
    with pytest.raises(BadInputError, match=f"more than {PHOTO_BYTES} bytes"):
        read_photo(tmp_path / "a.png", print)


@pytest.mark.parametrize("name", ["many pixels", "a text that grows as it is unpacked", "a huge TIFF", "a huge WebP"])
def test_the_worst_refused_pictures_take_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(HOSTILE[name]())
    code = """
import sys
from pathlib import Path
from PIL import Image
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.photos import read_photo
Image.init()
def attack():
    try:
        read_photo(Path(sys.argv[1]), print)
    except BadInputError:
        return True
"""
    assert grown_mb(code, str(tmp_path / "a.png")) < MOST_MB
