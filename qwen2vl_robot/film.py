"""Frames and films → pictures for people: a frame with boxes and the tool's path, rehearsal beside execution as GIF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from qwen2vl_robot.geometry import Array, invert, look_at, project, shared_area, transform
from qwen2vl_robot.legend import draw_legend
from qwen2vl_robot.messages import CameraFrame, ImageBox, Intrinsics
from qwen2vl_robot.sides import Sides

if TYPE_CHECKING:  # a controller that writes a film must not load Bullet
    from qwen2vl_robot.bullet import BulletWorld

Picture = npt.NDArray[np.uint8]
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

# Twin and plant share one view, from the front left above the table, so that the film's halves can be compared. It
# shows the arm at home and all of the table where things stand or are put.
FILM_HZ = 5.0  # a picture takes about 70 ms of a core
FILM_INTRINSICS = Intrinsics(320, 240, 345.0, 345.0, 159.5, 119.5)
T_BASE_FILM: Array = look_at([1.43, 1.08, 0.94], [0.38, 0.0, 0.21])
_SKY_RGB = ((226, 233, 240), (200, 212, 224))

_SPEED = 2.0  # the film plays this much faster than the world
_MAX_PICTURES = 150
_GREY = 60  # of a side on which nothing was
_MAX_BYTES = 3_000_000
_PALETTE_COLOURS = 160
_BOX_COLOURS = ((20, 120, 220), (220, 90, 20), (30, 150, 80), (150, 60, 190), (190, 150, 0), (0, 150, 160))
_PATH_RGB = (255, 60, 160)


def shoot(world: BulletWorld) -> Picture:
    """Take one picture (240, 320, 3) of a world from the film's view, with a plain sky as background."""
    rgb, depth_m, _ = world.render(FILM_INTRINSICS, T_BASE_FILM)
    share = np.linspace(0.0, 1.0, rgb.shape[0])[:, None, None]
    sky = np.array(_SKY_RGB[1]) * (1 - share) + np.array(_SKY_RGB[0]) * share
    picture: Picture = np.where(np.isnan(depth_m)[:, :, None], sky, rgb).astype(np.uint8)
    return picture


def annotate(
    frame: CameraFrame,
    boxes: Sequence[tuple[str, ImageBox]] = (),
    path_base_m: Array | None = None,
    sides: Sides | None = None,
) -> Picture:
    """Draw labelled boxes, the tool's path and which way left and behind are over a copy of a frame.

    Args:
        boxes: (label, box in 0..1000); each label has one colour.
        path_base_m: (m, 3) points of the tool in the base frame; points behind the camera are left out.
        sides: for a legend in the corner where it covers least; None draws none.

    Returns:
        (h, w, 3) uint8.
    """
    picture = Image.fromarray(np.array(frame.rgb))
    path = np.zeros((0, 2)) if path_base_m is None or not len(path_base_m) else _pixels(frame, path_base_m)
    _draw_path(ImageDraw.Draw(picture, "RGBA"), path)
    if sides is not None:
        legend = draw_legend(frame.intrinsics, frame.T_base_camera, sides)
        picture.paste(legend, _free_corner(picture.size, legend.size, boxes, path), legend)
    return draw_boxes(np.asarray(picture), boxes)


def _free_corner(
    size_px: tuple[int, int], legend_px: tuple[int, int], boxes: Sequence[tuple[str, ImageBox]], path: Array
) -> tuple[int, int]:
    """Choose where a legend covers least of the boxes, and then of the path (m, 2)."""
    (w, h), (wide, high) = size_px, legend_px
    taken = [(b.x0 * w / 1000, b.y0 * h / 1000, b.x1 * w / 1000, b.y1 * h / 1000) for _, b in boxes]

    def covered(at: tuple[int, int]) -> tuple[float, int]:
        plate = np.array([*at, at[0] + wide, at[1] + high])
        is_under = (path >= plate[:2]).all(axis=1) & (path <= plate[2:]).all(axis=1)
        return sum(float(shared_area(plate, box)) for box in taken), int(is_under.sum())

    return min(((4, h - high - 4), (w - wide - 4, h - high - 4), (4, 4), (w - wide - 4, 4)), key=covered)


def draw_boxes(rgb: Picture, boxes: Sequence[tuple[str, ImageBox]]) -> Picture:
    """Draw labelled boxes (0..1000) over a picture (h, w, 3), which stays as it is; one label keeps one colour."""
    picture = Image.fromarray(np.array(rgb))
    draw = ImageDraw.Draw(picture, "RGBA")
    labels = list(dict.fromkeys(label for label, _ in boxes))
    colours = {label: _BOX_COLOURS[i % len(_BOX_COLOURS)] for i, label in enumerate(labels)}
    w, h = picture.size
    corners = [(b.x0 * w / 1000, b.y0 * h / 1000, b.x1 * w / 1000, b.y1 * h / 1000) for _, b in boxes]
    for (label, _), corner in zip(boxes, corners, strict=True):
        draw.rectangle(corner, outline=(*colours[label], 255), width=2)
    taken = list(corners)
    for (label, _), corner in zip(boxes, corners, strict=True):
        taken.append(_draw_label(draw, label, corner, colours[label], picture.size, taken))
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def join_clips(clips: Sequence[tuple[Picture, Picture]]) -> tuple[Picture, Picture]:
    """Join the steps' pairs of films (k, h, w, 3); the shorter of a pair holds its last picture.

    A step without a film on a side leaves that side as the step before left it, or grey: it shows nothing that was not.

    Returns:
        Left and right film of one length; both empty if there are no pictures.
    """
    sides: tuple[list[Picture], list[Picture]] = ([], [])
    k = FILM_INTRINSICS
    nothing = np.full((k.height_px, k.width_px, 3), _GREY, dtype=np.uint8)
    for clip in clips:
        longest = max(len(film) for film in clip)
        for side, film in zip(sides, clip, strict=True):
            shown = film if len(film) else side[-1:] or [nothing]
            side.extend(shown[min(i, len(shown) - 1)] for i in range(longest))
    left, right = (np.array(side, dtype=np.uint8).reshape(-1, k.height_px, k.width_px, 3) for side in sides)
    return left, right


def write_film(
    path: Path,
    left: Sequence[Picture] | Picture,
    right: Sequence[Picture] | Picture,
    captions: tuple[str, str] = ("rehearsal (twin)", "execution (plant)"),
    *,
    title: str = "",
    legend: Image.Image | None = None,
) -> None:
    """Write a GIF of two films side by side at twice the speed of the world.

    The shorter film holds its last picture; a legend goes into the lower right corner of both. Pictures are left out
    evenly until there are at most 150 and the file has at most 3 MB or two pages.

    Raises:
        ValueError: both films are empty.
    """
    count = max(len(left), len(right))
    if count == 0:
        raise ValueError("a film needs at least one picture on one side")
    stride = math.ceil(count / _MAX_PICTURES)
    while True:
        chosen = [*range(0, count - 1, stride), count - 1]
        pages = [_page((_at(left, i), _at(right, i)), captions, title, legend, (i + 1) / count) for i in chosen]
        data = _save_gif(path, pages, round(1000 * stride / FILM_HZ / _SPEED))
        if data <= _MAX_BYTES or len(pages) <= 2:
            return
        stride = max(stride + 1, math.ceil(stride * data / _MAX_BYTES))


def drawable(*texts: str) -> str:
    """Return the first text that Pillow's own font, which covers Latin letters, can draw; "" if it can draw none."""
    font = _font(14)
    missing = bytes(font.getmask("\U0010ffff"))
    return next((t for t in texts if all(bytes(font.getmask(letter)) != missing for letter in t)), "")


def _pixels(frame: CameraFrame, points_base_m: Array) -> Array:
    """Project points (m, 3) of the base frame to pixels (m, 2); NaN behind the camera."""
    k = frame.intrinsics
    points = transform(invert(frame.T_base_camera), np.asarray(points_base_m, dtype=np.float64))
    return project(points, k.fx_px, k.fy_px, k.cx_px, k.cy_px)


def _draw_path(draw: ImageDraw.ImageDraw, pixels: Array) -> None:
    """Draw a line that becomes opaque towards its end, with a ring at the start and a dot at the end."""
    seen = [(float(u), float(v)) for u, v in pixels[np.isfinite(pixels).all(axis=1)]]
    seen = [(u, v) for u, v in seen if abs(u) < 1e5 and abs(v) < 1e5]
    if not seen:
        return
    for index, (a, b) in enumerate(pairwise(seen)):
        alpha = 110 + round(145 * index / len(seen))
        draw.line([a, b], fill=(*_PATH_RGB, alpha), width=3)
    (u, v), (ue, ve) = seen[0], seen[-1]
    draw.ellipse([u - 5, v - 5, u + 5, v + 5], outline=(*_PATH_RGB, 255), width=2)
    draw.ellipse([ue - 5, ve - 5, ue + 5, ve + 5], fill=(*_PATH_RGB, 255), outline=(255, 255, 255, 255))


def _draw_label(
    draw: ImageDraw.ImageDraw,
    label: str,
    corner: Corners,
    colour: tuple[int, int, int],
    size_px: tuple[int, int],
    taken: list[Corners],
) -> Corners:
    """Draw a label on a plate of its box's colour where it overlaps the `taken` rectangles least; return the plate."""
    w, h = size_px
    font = _font(max(12, h // 34))
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    plate_w, plate_h = right - left + 8, bottom - top + 6
    x0, y0, x1, y1 = corner
    plates = []
    for x, y in ((x0, y0 - plate_h), (x0, y1), (x1 - plate_w, y0 - plate_h), (x1 - plate_w, y1), (x1, y0), (x0, y0)):
        x, y = min(max(0.0, x), max(0.0, w - plate_w)), min(max(0.0, y), max(0.0, h - plate_h))
        plates.append((x, y, x + plate_w, y + plate_h))
    plate = min(plates, key=lambda p: sum(float(shared_area(p, other)) for other in taken))
    draw.rectangle(plate, fill=(*colour, 235))
    draw.text((plate[0] + 4 - left, plate[1] + 3 - top), label, font=font, fill=(255, 255, 255, 255))
    return plate


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _at(pictures: Sequence[Picture] | Picture, index: int) -> Picture | None:
    return pictures[min(index, len(pictures) - 1)] if len(pictures) else None


def _page(
    halves: tuple[Picture | None, Picture | None],
    captions: tuple[str, str],
    title: str,
    legend: Image.Image | None,
    share: float,
) -> Image.Image:
    """Draw one page of the film: title, two captioned pictures, a progress bar."""
    example = next(half for half in halves if half is not None)
    h, w = example.shape[:2]
    head_px, foot_px, gap_px = (26 if title else 6), 24, 6
    page = Image.new("RGB", (2 * w + 3 * gap_px, head_px + h + foot_px), (28, 32, 38))
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((gap_px + 2, 5), title, font=_font(14), fill=(240, 240, 240))
    for column, (picture, caption) in enumerate(zip(halves, captions, strict=True)):
        x = gap_px + column * (w + gap_px)
        if picture is not None:
            page.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, head_px))
            if legend is not None:
                page.paste(legend, (x + w - legend.width - 3, head_px + h - legend.height - 3), legend)
        draw.text((x + 2, head_px + h + 4), caption, font=_font(13), fill=(190, 200, 210))
    bar_y = head_px + h + foot_px - 3
    draw.rectangle([gap_px, bar_y, gap_px + share * (page.width - 2 * gap_px), bar_y + 1], fill=_PATH_RGB)
    return page


def _palette(pages: list[Image.Image]) -> Image.Image:
    """Make a palette in which each colour counts once, so that a small yellow block keeps its colour."""
    coarse = np.concatenate([np.asarray(page).reshape(-1, 3) for page in pages]).astype(np.int64) >> 3
    codes: npt.NDArray[np.int64] = np.unique(coarse @ np.array([1024, 32, 1]))
    colours = np.stack([codes // 1024, codes // 32 % 32, codes % 32], axis=1) * 8 + 4
    return Image.fromarray(colours[None].astype(np.uint8)).quantize(_PALETTE_COLOURS, dither=Image.Dither.NONE)


def _save_gif(path: Path, pages: list[Image.Image], duration_ms: int) -> int:
    """Write the pages with one common palette, which keeps still parts still; return the file size in bytes."""
    palette = _palette(pages[:: max(1, len(pages) // 6)])
    frames = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pages]
    durations = [max(20, duration_ms)] * (len(frames) - 1) + [1500]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
    return path.stat().st_size
