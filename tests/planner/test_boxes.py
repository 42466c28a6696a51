"""Four numbers become a box only where they have one meaning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.planner.boxes import MAX_OVERHANG, read_box
from qwen2vl_robot.planner.contract import BoxConvention
from qwen2vl_robot.planner.detections import parse_detections
from qwen2vl_robot.reasons import PlannerReason

THOUSANDTHS, PIXELS = BoxConvention.THOUSANDTHS, BoxConvention.RESIZED_PIXELS
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)


def reason_of(raw: object, convention: BoxConvention = THOUSANDTHS, size_px: tuple[int, int] = (640, 476)) -> object:
    with pytest.raises(PlannerError) as refused:
        read_box(raw, "cup", convention, size_px)
    return refused.value.reason


@settings(max_examples=300, deadline=None)
@given(anything | st.lists(anything, max_size=6), st.sampled_from(BoxConvention))
def test_whatever_is_read_lies_in_the_picture(raw: object, convention: BoxConvention) -> None:
    try:
        box, _ = read_box(raw, "cup", convention, (644, 476))
    except PlannerError:
        return
    assert 0 <= box.x0 < box.x1 <= 1000
    assert 0 <= box.y0 < box.y1 <= 1000


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-200, 1300), min_size=4, max_size=4))
def test_no_number_is_moved_without_a_note_and_none_by_more_than_the_overhang(raw: list[int]) -> None:
    try:
        box, notes = read_box(raw, "cup", THOUSANDTHS, (640, 476))
    except PlannerError:
        return
    read = [box.x0, box.y0, box.x1, box.y1]
    assert notes or read == raw
    turned = raw if raw[0] <= raw[2] else [*raw[2:], *raw[:2]]
    assert all(abs(a - b) <= MAX_OVERHANG for a, b in zip(read, turned, strict=True))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_corners_are_turned_only_where_they_can_be_neither_a_size_nor_both_x_first(raw: list[int]) -> None:
    try:
        _, notes = read_box(raw, "cup", THOUSANDTHS, (640, 476))
    except PlannerError:
        return
    a, b, c, d = raw
    if notes:
        assert a + c > 1000 or b + d > 1000
        assert not (a < b and c < d)


def test_another_unit_is_not_guessed() -> None:
    assert reason_of([0.1, 0.2, 0.3, 0.4]) is PlannerReason.BOX_UNITS
    assert reason_of([900, 500, 1060, 700], size_px=(1288, 952)) is PlannerReason.BOX_UNITS
    assert reason_of([600, 330, 700, 398], PIXELS, (364, 252)) is PlannerReason.BOX_UNITS


def test_ten_percent_is_the_most_that_is_cut_off() -> None:
    box, notes = read_box([700, 10, 1100, 90], "cup", THOUSANDTHS, (640, 476))
    assert box.x1 == 1000.0
    assert "10.0 %" in notes[0]
    assert reason_of([700, 10, 1101, 90]) is PlannerReason.BOX_OUTSIDE


def test_a_box_of_something_else_is_no_box_of_what_was_asked_for() -> None:
    with pytest.raises(PlannerError) as refused:
        parse_detections('[{"bbox_2d": [1, 2, 30, 40], "label": "zebra"}]', ("cup",))
    assert refused.value.reason is PlannerReason.OTHER_LABEL


def test_a_reply_that_never_ends_is_stopped() -> None:
    with pytest.raises(PlannerError) as refused:
        parse_detections("[" + "[1, 2, 30, 40], " * 5000, ("cup",))
    assert refused.value.reason is PlannerReason.REPLY_REPEATS
    many = ", ".join(f"[{i}, 2, {i + 30}, 40]" for i in range(200))
    with pytest.raises(PlannerError, match="more than 128 things"):
        parse_detections(f"[{many}]", ("cup",))
