"""A printed board is the one that `calibrate` looks for, at its true size, of any dictionary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.board_printing import print_board
from qwen2vl_robot.nodes.calibration_board import BoardNotFoundError, BoardSpec, see_board

K = Intrinsics(1240, 1100, 1500.0, 1500.0, 619.5, 549.5)


def board(dictionary: str = "DICT_5X5_100", **changes: object) -> BoardSpec:
    numbers = {"squares_x": 7, "squares_y": 5, "square_m": 0.03, "marker_m": 0.022, "dictionary": dictionary}
    return BoardSpec.model_validate(numbers | changes)


def printed(spec: BoardSpec, folder: Path) -> np.ndarray:
    print_board(spec, folder / "board.png")
    with Image.open(folder / "board.png") as sheet:
        return np.asarray(sheet.convert("RGB").resize((sheet.width // 2, sheet.height // 2)))


@pytest.mark.parametrize("dictionary", ["DICT_5X5_100", "DICT_4X4_50", "DICT_APRILTAG_36H11"])
def test_what_is_printed_is_found(tmp_path: Path, dictionary: str) -> None:
    spec = board(dictionary)
    assert len(see_board(printed(spec, tmp_path), spec, K).points_m) == 6 * 4


def test_a_board_of_another_dictionary_is_named(tmp_path: Path) -> None:
    picture = printed(board("DICT_4X4_50"), tmp_path)
    with pytest.raises(BoardNotFoundError, match=r"of another dictionary, DICT_4X4_\d+; DICT_6X6_250 is needed"):
        see_board(picture, board("DICT_6X6_250"), K)


def test_the_sheet_has_its_true_size(tmp_path: Path) -> None:
    print_board(board(), tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as sheet:
        dots_per_m = sheet.info["dpi"][0] / 0.0254
        dark = np.asarray(sheet) < 128
    columns = np.flatnonzero(dark[: round(0.15 * dots_per_m)].any(axis=0))
    assert (columns[-1] - columns[0] + 1) / dots_per_m == pytest.approx(0.21, abs=0.0005)
    bar = np.flatnonzero(dark[round(0.17 * dots_per_m)])
    assert (bar[-1] - bar[0]) / dots_per_m == pytest.approx(0.1, abs=0.001)


def test_a_pdf_is_written_too(tmp_path: Path) -> None:
    print_board(board(), tmp_path / "board.pdf")
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({}, "board.jpg", "ends with .pdf or .png"),
        ({"squares_x": 20, "squares_y": 20}, "board.png", "need 200 markers; DICT_5X5_100 has 100"),
        ({"marker_m": 0.03}, "board.png", "must be below square_m"),
        ({}, "no/such/board.png", "No such file"),
    ],
)
def test_a_board_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], name: str, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        print_board(board(**changes), tmp_path / name)
