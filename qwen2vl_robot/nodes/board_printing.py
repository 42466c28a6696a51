"""A ChArUco board → a sheet to print at its true size, with a bar to measure whether the printer kept to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.calibration_board import BoardSpec

_DPI = 300
_MARGIN_M, _FOOT_M, _BAR_M = 0.01, 0.02, 0.1
_FORMATS = (".pdf", ".png")


def print_board(spec: BoardSpec, file: Path) -> None:
    """Write the sheet as PDF or PNG.

    Raises:
        BadInputError: another format, a board that cannot be, or the file cannot be written.
    """
    if file.suffix not in _FORMATS:
        raise BadInputError(f"{file}: give a name that ends with {' or '.join(_FORMATS)}")
    board = spec.board().generateImage((_px(spec.squares_x * spec.square_m), _px(spec.squares_y * spec.square_m)))
    height, width = board.shape
    margin, least = _px(_MARGIN_M), _px(_BAR_M)
    sheet = np.full((height + 2 * margin + _px(_FOOT_M), max(width, least) + 2 * margin), 255, dtype=np.uint8)
    sheet[margin : margin + height, margin : margin + width] = board
    picture = Image.fromarray(sheet)
    draw, y = ImageDraw.Draw(picture), height + 2 * margin
    draw.line([(margin, y), (margin + least, y)], fill=0, width=_px(0.0005))
    for x in (margin, margin + least):
        draw.line([(x, y - _px(0.002)), (x, y + _px(0.002))], fill=0, width=_px(0.0005))
    font = ImageFont.load_default(_px(0.0035))
    sides = f"{spec.square_m * 1000:g}/{spec.marker_m * 1000:g} mm"
    text = f"100 mm. {spec.squares_x}x{spec.squares_y}, {sides}, {spec.dictionary}"
    draw.text((margin, y + _px(0.004)), text, fill=0, font=font)
    try:
        picture.save(file, resolution=_DPI, dpi=(_DPI, _DPI))
    except OSError as error:
        raise BadInputError(f"{file}: {error.strerror or error}") from error


def _px(length_m: float) -> int:
    return round(length_m / 0.0254 * _DPI)
