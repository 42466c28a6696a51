"""Windows of training: what they show has its box there; what is hardly in one is neither asked for nor absent."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX, token_grid
from qwen2vl_robot.training.shards import Packed, SeenObject
from qwen2vl_robot.training.windows import cells_of, cut, is_full, through_window

RED = np.array([220, 20, 20])


def _packed(box_px: tuple[int, int, int, int], size: tuple[int, int] = (640, 480)) -> Packed:
    x0, y0, x1, y1 = box_px
    rgb = np.full((size[1], size[0], 3), 120, np.uint8)
    rgb[y0:y1, x0:x1] = RED
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    box = (1000 * x0 // size[0], 1000 * y0 // size[1], 1000 * x1 // size[0], 1000 * y1 // size[1])
    seen = SeenObject("red block", box, (0,), (x1 - x0) * (y1 - y0))
    return Packed(file.getvalue(), size, [seen])


@given(seed=st.integers(0, 2**32), x=st.integers(0, 590), y=st.integers(0, 430))
def test_a_window_shows_a_thing_where_its_box_says(seed: int, x: int, y: int) -> None:
    image, seen = through_window(_packed((x, y, x + 48, y + 48)), np.random.default_rng(seed))
    columns, rows = token_grid(640, 480)
    assert image.shape == (rows * 28, columns * 28, 3)
    is_red = (image.astype(int) @ [1, -1, 0]) > 100
    if not seen:
        assert is_red.sum() < 40, "a thing that shows has a box"
        return
    (thing,) = seen
    box_px = np.array(thing.box) * 0.028 * np.array([columns, rows, columns, rows])
    ys, xs = np.nonzero(is_red)
    if len(xs) > 40:
        np.testing.assert_allclose((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), box_px, atol=3.0)


@pytest.mark.parametrize(("left_px", "is_told"), [(250, True), (310, True), (325, False), (339, False)])
def test_what_is_hardly_in_a_window_is_neither_asked_for_nor_called_absent(left_px: int, is_told: bool) -> None:
    (thing,) = _packed((300, 220, 340, 260)).seen
    low, high = np.array([left_px, 100.0]), np.array([left_px + 320.0, 340.0])
    seen = cut(thing, (640, 480), low, high)
    assert seen is not None
    assert (seen.visible_px >= MIN_VISIBLE_PX) == is_told
    if left_px <= 300:
        assert seen.visible_px == pytest.approx(1600 * 4, rel=0.1), "of half the sides: four times as much"


def test_what_a_window_does_not_show_has_no_box() -> None:
    (thing,) = _packed((300, 220, 340, 260)).seen
    assert cut(thing, (640, 480), np.array([350.0, 0.0]), np.array([640.0, 240.0])) is None


def test_pictures_of_the_models_own_size_have_no_windows() -> None:
    assert is_full(_packed((10, 10, 60, 60)))
    assert not is_full(_packed((10, 10, 60, 60), size=(336, 252)))


def test_a_box_fills_its_cells_and_at_least_one() -> None:
    assert cells_of((0, 0, 500, 500), (4, 4)) == (0, 1, 4, 5)
    assert cells_of((260, 260, 280, 280), (4, 4)) == (5,)
