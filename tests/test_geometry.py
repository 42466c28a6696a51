"""Rectangles overlap as their areas say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.geometry import intersection_over_union, shared_area
from qwen2vl_robot.messages import ImageBox

SIDE = st.floats(0.0, 1000.0)
Rectangle = tuple[float, float, float, float]


@st.composite
def rectangles(draw: st.DrawFn) -> Rectangle:
    (x0, x1), (y0, y1) = (sorted((draw(SIDE), draw(SIDE))) for _ in range(2))
    return (x0, y0, x1 + 1.0, y1 + 1.0)


@given(rectangles(), rectangles())
def test_the_overlap_is_a_share_and_the_same_both_ways(a: Rectangle, b: Rectangle) -> None:
    overlap = float(intersection_over_union(a, b))
    assert 0.0 <= overlap <= 1.0
    assert overlap == float(intersection_over_union(b, a))
    assert float(intersection_over_union(a, a)) == pytest.approx(1.0)


@given(rectangles())
def test_rectangles_that_only_touch_share_nothing(a: Rectangle) -> None:
    x0, y0, x1, y1 = a
    assert float(shared_area(a, (x1, y0, x1 + 5.0, y1))) == 0.0
    assert float(intersection_over_union(a, (x0, y1, x1, y1 + 5.0))) == 0.0


def test_a_rectangle_turned_inside_out_or_without_area_overlaps_nothing() -> None:
    for empty in ((3.0, 0.0, 1.0, 2.0), (1.0, 1.0, 1.0, 1.0)):
        assert float(intersection_over_union(empty, (0.0, 0.0, 4.0, 4.0))) == 0.0
        assert float(intersection_over_union(empty, empty)) == 0.0


def test_many_rectangles_are_compared_at_once() -> None:
    many = np.array([[0.0, 0.0, 2.0, 1.0], [2.0, 0.0, 4.0, 1.0]])
    assert intersection_over_union([1.0, 0.0, 3.0, 1.0], many) == pytest.approx([1 / 3, 1 / 3])
    assert intersection_over_union([1.0, 0.0, 3.0, 1.0], np.zeros((0, 4))).shape == (0,)
    assert ImageBox(0, 0, 2, 1).iou(ImageBox(1, 0, 3, 1)) == pytest.approx(1 / 3)
