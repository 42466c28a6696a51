"""Samples → crops around single objects, at any offset and scale.

Most of a picture is table. A crop has about a seventh of its tokens, always shows an object, and shows it at random
offsets to the grid of patches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from qwen2vl_robot.training.dataset import CELL_PX, MIN_VISIBLE_PX
from qwen2vl_robot.training.samples import Sample, Samples, augment
from qwen2vl_robot.training.shards import SeenObject
from qwen2vl_robot.training.windows import cells_of

CROP_CELLS = 4  # image tokens along a side
_SCALE = (0.8, 1.3)
_OFF_CENTRE_RATIO = 0.3


def draw_crops(samples: Samples, rng: np.random.Generator, count: int) -> list[Sample]:
    """Draw `count` square crops, mirrored and relit like whole pictures; boxes may reach beyond a crop's 0..1000."""
    crops: list[Sample] = []
    while len(crops) < count:
        (sample,) = samples.draw(rng, 1)
        visible = [s for s in sample.seen if s.visible_px >= MIN_VISIBLE_PX]
        if visible:
            crops.append(augment(crop(sample, visible[int(rng.integers(len(visible)))], rng), rng))
    return crops


def crop(sample: Sample, around: SeenObject, rng: np.random.Generator) -> Sample:
    """Cut a square that holds the middle of one object, and resize it."""
    height, width = sample.image.shape[:2]
    to_px = np.array([width, height] * 2) / 1000.0
    side_px = CROP_CELLS * CELL_PX
    cut_px = min(side_px / float(rng.uniform(*_SCALE)), width, height)
    x0, y0, x1, y1 = np.array(around.box) * to_px
    off = rng.uniform(-_OFF_CENTRE_RATIO, _OFF_CENTRE_RATIO, 2) * cut_px
    left = int(np.clip((x0 + x1) / 2 + off[0] - cut_px / 2, 0, width - cut_px))
    top = int(np.clip((y0 + y1) / 2 + off[1] - cut_px / 2, 0, height - cut_px))
    cut = int(cut_px)
    piece = Image.fromarray(sample.image[top : top + cut, left : left + cut])
    image = np.asarray(piece.resize((side_px, side_px), Image.Resampling.BICUBIC))
    seen = []
    for s in (s for s in sample.seen if s is around or s.visible_px >= MIN_VISIBLE_PX):
        box = (np.array(s.box) * to_px - [left, top, left, top]) * (1000.0 / cut)
        x0, y0, x1, y1 = (int(v) for v in box.round())
        if x0 < 1000 and y0 < 1000 and x1 > 0 and y1 > 0:
            cells = cells_of((x0, y0, x1, y1), (CROP_CELLS, CROP_CELLS))
            seen.append(replace(s, box=(x0, y0, x1, y1), cells=cells))
    return Sample(image, seen)
