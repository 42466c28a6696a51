"""Each box convention is found from its own numbers, and numbers that fit none are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.box_convention import Answer, calibrate, first_box, render_pictures
from qwen2vl_robot.errors import PlannerError

PICTURE_PX, MODEL_PX = (1280, 720), (644, 364)


def answers_in(convention: str) -> list[Answer]:
    """Twenty answers with 1 % of error, written in a convention."""
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(20):
        x, y = rng.uniform(50, 700, 2)
        true = (x, y, x + rng.uniform(60, 200), y + rng.uniform(60, 200))
        written = np.array(true) + rng.uniform(-5, 5, 4)
        sizes = {"resized_pixels": MODEL_PX, "original_pixels": PICTURE_PX, "unit": (1, 1)}
        width, height = sizes.get(convention, (1000, 1000))
        numbers = written * np.array([width, height, width, height]) / 1000
        if convention == "thousandths_y_first":
            numbers = numbers[[1, 0, 3, 2]]
        answers.append(Answer(tuple(numbers), true, PICTURE_PX, MODEL_PX))
    return answers


@pytest.mark.parametrize("convention", ["thousandths", "resized_pixels", "unit", "thousandths_y_first"])
def test_each_convention_is_found_from_its_own_numbers(convention: str) -> None:
    fit = calibrate(answers_in(convention), 20)
    assert fit.convention == convention
    assert fit.fits
    assert fit.error < 6.0


@pytest.mark.parametrize("factor", [(1280 / 644, 720 / 364), (0.5, 0.5), (0.31, 0.31)])
def test_how_much_a_server_scales_pictures_is_found(factor: tuple[float, float]) -> None:
    scaled = [
        dataclasses.replace(a, numbers=tuple(n * factor[i % 2] for i, n in enumerate(a.numbers)))
        for a in answers_in("resized_pixels")
    ]
    fit = calibrate(scaled, 20)
    assert (fit.convention, fit.fits) == ("resized_pixels", True)
    assert fit.factor == pytest.approx(factor, rel=0.02)
    assert calibrate(answers_in("resized_pixels"), 20).factor == (1.0, 1.0)


def test_numbers_that_fit_no_convention_are_refused() -> None:
    rng = np.random.default_rng(1)
    noise = [dataclasses.replace(a, numbers=tuple(rng.uniform(0, 1000, 4))) for a in answers_in("thousandths")]
    assert not calibrate(noise, 20).fits


def test_a_model_that_mostly_gives_no_box_is_refused() -> None:
    assert not calibrate(answers_in("thousandths")[:4], 20).fits
    with pytest.raises(PlannerError, match="none of 20 replies"):
        calibrate([], 20)


@pytest.mark.parametrize("text", ["", "[]", '{"objects":[]}', '{"objects":[{"boxes":[["a",1,2,3]]}]}', "NaN"])
def test_a_reply_without_a_box_has_none(text: str) -> None:
    assert first_box(text) is None


def test_pictures_show_what_they_say() -> None:
    (picture,) = render_pictures(1, 5)
    assert picture.rgb.shape == (480, 640, 3)
    assert len(picture.seen) >= 2
