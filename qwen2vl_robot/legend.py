"""Sides and a camera → a small cross for its picture that says which way left, right, front and behind are in it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qwen2vl_robot.geometry import Array, invert, project, transform
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.sides import Sides

_STEP_M = 0.01  # along the table: so short that an arrow is right where the picture's middle is
_SHORTEST_PX = 0.01  # of the picture of a step; what is behind the camera is NaN, and left out too
_PLATE_RGBA = (28, 32, 38, 150)
_INK_RGBA = (255, 255, 255, 255)


def arrows(intrinsics: Intrinsics, T_base_camera: Array, sides: Sides) -> dict[str, Array]:
    """Compute the directions (2,) in the picture, right and down, of the four sides; each is 1 long.

    They hold in the middle of the picture, where perspective turns them least. A side that is no direction there, as
    for a camera at the height of the table, is left out.
    """
    left, behind = np.array([*sides.left_xy, 0.0]), np.array([*sides.behind_xy, 0.0])
    middle = _table_point(intrinsics, T_base_camera)
    steps = {"left": left, "right": -left, "behind": behind, "front": -behind}
    points = np.array([middle, *(middle + _STEP_M * step for step in steps.values())])
    k = intrinsics
    pixels = project(transform(invert(T_base_camera), points), k.fx_px, k.fy_px, k.cx_px, k.cy_px)
    shifts = dict(zip(steps, pixels[1:] - pixels[0], strict=True))
    lengths_px = {name: float(np.linalg.norm(shift)) for name, shift in shifts.items()}
    return {name: shift / lengths_px[name] for name, shift in shifts.items() if lengths_px[name] > _SHORTEST_PX}


def _table_point(k: Intrinsics, T_base_camera: Array) -> Array:
    """Find the table's point (3,) in the picture's middle; for a camera that looks over it, below a metre off."""
    ray = np.array([(k.width_px / 2 - k.cx_px) / k.fx_px, (k.height_px / 2 - k.cy_px) / k.fy_px, 1.0])
    eye, ahead = T_base_camera[:3, 3], T_base_camera[:3, :3] @ ray
    point = eye + ahead * (-eye[2] / ahead[2] if ahead[2] < -0.1 else 1.0)
    return np.array([point[0], point[1], 0.0])


def draw_legend(intrinsics: Intrinsics, T_base_camera: Array, sides: Sides) -> Image.Image:
    """Draw the cross with its four words on a small translucent plate (RGBA), for a corner of the picture."""
    font = ImageFont.load_default(max(10, intrinsics.height_px // 40))
    ways = arrows(intrinsics, T_base_camera, sides)
    if not ways:
        return Image.new("RGBA", (1, 1))
    boxes = {name: font.getbbox(name) for name in ways}
    tall = max(b[3] - b[1] for b in boxes.values())
    arm_px = 1.6 * tall
    # each word's middle lies beyond its arrow's tip, as far as half the word reaches in that direction
    half = {name: np.array([(b[2] - b[0]) / 2, tall / 2]) for name, b in boxes.items()}
    middles = {name: way * (arm_px + float(np.abs(way) @ half[name]) + 3) for name, way in ways.items()}
    low = np.min([middles[n] - half[n] for n in ways], axis=0) - 4
    high = np.max([middles[n] + half[n] for n in ways], axis=0) + 4
    picture = Image.new("RGBA", (int(np.ceil(high[0] - low[0])), int(np.ceil(high[1] - low[1]))), _PLATE_RGBA)
    draw = ImageDraw.Draw(picture)
    for name, way in ways.items():
        _draw_arrow(draw, -low, -low + way * arm_px)
        x, y = middles[name] - low
        draw.text((float(x), float(y)), name, font=font, fill=_INK_RGBA, anchor="mm")
    return picture


def _draw_arrow(draw: ImageDraw.ImageDraw, start: Array, tip: Array) -> None:
    along = (tip - start) / np.linalg.norm(tip - start)
    across = np.array([-along[1], along[0]])
    draw.line([*start, *tip], fill=_INK_RGBA, width=1)
    draw.polygon([(*tip,), (*(tip - 5 * along + 3 * across),), (*(tip - 5 * along - 3 * across),)], fill=_INK_RGBA)
