"""What people are told that they can say is made from the data, and is read as it is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.phrases import describe, page
from qwen2vl_robot.reading import read, stop_word

PAGE = Path(__file__).resolve().parents[1] / "docs" / "phrases.md"


def test_the_page_is_the_one_that_the_data_makes() -> None:
    """Written anew with: qwen2vl-robot phrases --markdown > docs/phrases.md."""
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("code", load_languages())
def test_every_example_is_read_whole_and_every_stop_word_stops(code: str) -> None:
    lines = describe(code).splitlines()
    examples = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert len(examples) == 11
    for example in examples:
        goal = read(example)
        assert goal.is_understood and goal.asks_for_motion, example
    stops = next(line for line in lines if line.startswith("| stop at once |")).split("|")[2]
    assert all(stop_word(form) for form in stops.strip().split(", "))
