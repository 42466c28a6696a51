"""People's picture files become upright pictures of 8 bits, and say so where something is lost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.photos import read_photo, write_photo
from qwen2vl_robot.results import UnsavedError

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
