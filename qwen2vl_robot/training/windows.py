"""A sample as its camera saw it → the same through a window, at the model's own size.

The planner looks again through windows (planner/windows.py), and cameras stand near and far: a model that has met one
scale only calls what is twice as far away absent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from qwen2vl_robot.training.dataset import CELL_PX, MIN_CELL_SHARE, MIN_VISIBLE_PX, token_grid
from qwen2vl_robot.training.shards import Packed, SeenObject

_WHOLE_RATIO = 0.35  # share of the samples that are seen whole
_SIZES = (0.4, 0.95)  # of a window, of the picture's sides
_CUT_SHARE = 0.6  # of an object's box that has to be in a window; less, and it is neither asked for nor called absent


def is_full(packed: Packed) -> bool:
    """Whether a sample's picture has more pixels than the model sees."""
    columns, rows = token_grid(*packed.size_px)
    return packed.size_px[0] > columns * CELL_PX and packed.size_px[1] > rows * CELL_PX


def through_window(packed: Packed, rng: np.random.Generator) -> tuple[np.ndarray, list[SeenObject]]:
    """Draw a window of the picture's own shape, or the whole; its image has the whole picture's image tokens."""
    width, height = packed.size_px
    columns, rows = token_grid(width, height)
    ratio = 1.0 if rng.uniform() < _WHOLE_RATIO else float(rng.uniform(*_SIZES))
    size = np.array([ratio * width, ratio * height])
    middle = _middle(packed, rng) + rng.uniform(-0.35, 0.35, 2) * size
    low = np.clip(middle - size / 2, 0.0, np.array([width, height]) - size).round()
    high = low + size.round()
    picture = Image.fromarray(packed.image()).crop((*low.astype(int), *high.astype(int)))
    image = np.asarray(picture.resize((columns * CELL_PX, rows * CELL_PX), Image.Resampling.BICUBIC))
    seen = [cut(item, packed.size_px, low, high) for item in packed.seen]
    return image, [replace(item, cells=cells_of(item.box, (columns, rows))) for item in seen if item is not None]


def _middle(packed: Packed, rng: np.random.Generator) -> np.ndarray:
    """Where to look: at an object in three of four windows."""
    width, height = packed.size_px
    if not packed.seen or rng.uniform() < 0.25:
        return rng.uniform(0.0, 1.0, 2) * [width, height]
    x0, y0, x1, y1 = packed.seen[int(rng.integers(len(packed.seen)))].box
    return np.array([(x0 + x1) * width, (y0 + y1) * height]) / 2000.0


def cut(item: SeenObject, size_px: tuple[int, int], low: np.ndarray, high: np.ndarray) -> SeenObject | None:
    """What a window low..high (x, y), in pixels, shows of an object of a whole picture; None where it shows nothing."""
    box_px = np.array(item.box) * np.array([*size_px, *size_px]) / 1000.0
    inside = np.concatenate([np.maximum(box_px[:2], low), np.minimum(box_px[2:], high)])
    if (inside[2:] <= inside[:2]).any():
        return None
    zoom = size_px[0] * size_px[1] / float((high - low).prod())
    share = float((inside[2:] - inside[:2]).prod() / max(1.0, (box_px[2:] - box_px[:2]).prod()))
    visible_px = int(item.visible_px * share * zoom)
    x0, y0, x1, y1 = (int(v) for v in (1000 * (inside - np.tile(low, 2)) / np.tile(high - low, 2)).round())
    return replace(
        item,
        box=(x0, y0, x1, y1),
        visible_px=visible_px if share >= _CUT_SHARE else min(visible_px, MIN_VISIBLE_PX - 1),
    )


def cells_of(box: tuple[int, int, int, int], grid: tuple[int, int]) -> tuple[int, ...]:
    """List the image tokens (columns, rows) of which a box fills enough, at least the one that it fills most."""
    columns, rows = grid
    x0, y0, x1, y1 = (np.array(box) / 1000.0 * [columns, rows, columns, rows]).tolist()
    wide = np.clip(np.minimum(x1, np.arange(columns) + 1) - np.maximum(x0, np.arange(columns)), 0, 1)
    high = np.clip(np.minimum(y1, np.arange(rows) + 1) - np.maximum(y0, np.arange(rows)), 0, 1)
    share = (high[:, None] * wide[None, :]).ravel()
    cells = np.flatnonzero(share >= MIN_CELL_SHARE)
    return tuple(int(c) for c in cells) or (int(share.argmax()),)
