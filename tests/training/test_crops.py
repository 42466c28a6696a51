"""Crops around single objects show what their labels say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.training.crops import CROP_CELLS, crop, draw_crops
from qwen2vl_robot.training.dataset import CELL_PX, datagen_job, generate
from qwen2vl_robot.training.samples import Sample, Samples
from qwen2vl_robot.training.shards import SeenObject

SIDE_PX = CROP_CELLS * CELL_PX


def red_square(x0: int, y0: int, side_px: int) -> Sample:
    """Draw a black picture of 336x252 with one red square."""
    image = np.zeros((252, 336, 3), np.uint8)
    image[y0 : y0 + side_px, x0 : x0 + side_px, 0] = 255
    box = (x0 / 0.336, y0 / 0.252, (x0 + side_px) / 0.336, (y0 + side_px) / 0.252)
    x0, y0, x1, y1 = (round(v) for v in box)
    return Sample(image, [SeenObject("red block", (x0, y0, x1, y1), (0,), 900)])


@pytest.mark.parametrize("seed", range(12))
def test_the_box_is_where_the_object_is_after_cutting_and_resizing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = red_square(int(rng.integers(5, 300)), int(rng.integers(5, 215)), 30)
    piece = crop(sample, sample.seen[0], rng)
    rows, columns = np.nonzero(piece.image[:, :, 0] > 127)
    measured = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 1000.0 / SIDE_PX
    expected = np.clip(piece.seen[0].box, 0, 1000)
    assert piece.image.shape == (SIDE_PX, SIDE_PX, 3)
    np.testing.assert_allclose(measured, expected, atol=25)  # a pixel is 9


@pytest.mark.parametrize("seed", range(6))
def test_the_cells_of_an_object_hold_most_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = red_square(int(rng.integers(5, 300)), int(rng.integers(5, 215)), 30)
    piece = crop(sample, sample.seen[0], rng)
    red = piece.image[:, :, 0].reshape(CROP_CELLS, CELL_PX, CROP_CELLS, CELL_PX).sum(axis=(1, 3)).ravel()
    assert red[list(piece.seen[0].cells)].sum() > 0.5 * red.sum()
    assert int(red.argmax()) in piece.seen[0].cells


def test_what_lies_outside_is_left_out() -> None:
    sample = red_square(20, 20, 30)
    far = SeenObject("blue ball", (900, 900, 950, 950), (107,), 900)
    piece = crop(Sample(sample.image, [*sample.seen, far]), sample.seen[0], np.random.default_rng(0))
    assert [s.label for s in piece.seen] == ["red block"]


def test_pieces_of_real_pictures_come_in_the_number_asked_for(tmp_path: Path) -> None:
    list(generate(datagen_job("scenes/training_wide.yaml", tmp_path, 3, 5), Here(1)))
    crops = draw_crops(Samples(tmp_path), np.random.default_rng(0), 10)
    assert len(crops) == 10
    assert all(c.image.shape == (SIDE_PX, SIDE_PX, 3) and c.seen for c in crops)
