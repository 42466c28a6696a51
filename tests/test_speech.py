"""Sentences as people say them → what is read, what moves nothing, and what is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qwen2vl_robot.languages import Reading
from qwen2vl_robot.planner.phrasing import motions
from qwen2vl_robot.reading import Goal, Mood, read, stop_word

SENTENCES = yaml.safe_load((Path(__file__).parent / "speech_sentences.yaml").read_text(encoding="utf-8"))


def listed(key: str) -> list[tuple[str, str]]:
    return [(code, text) for code, texts in SENTENCES[key].items() for text in texts]


def is_carried_out(goal: Goal) -> bool:
    """Whether all of it is done without a question to a person."""
    return goal.asks_for_motion and goal.is_understood and not goal.conditions and not goal.exclusions


@pytest.mark.parametrize(("code", "text"), listed("orders"))
def test_an_order_is_read_however_it_is_said(code: str, text: str) -> None:
    goal = read(text)
    assert (goal.describe(), goal.unread, goal.conditions) == (SENTENCES["orders"][code][text], (), ())
    assert (goal.mood, goal.language) == (Mood.ORDER, code)


@pytest.mark.parametrize(("code", "text"), listed("nothing"))
def test_what_only_looks_like_an_order_moves_nothing(code: str, text: str) -> None:
    assert not read(text).asks_for_motion, code


@pytest.mark.parametrize(("code", "text"), listed("asked"))
def test_what_is_not_all_read_is_not_carried_out(code: str, text: str) -> None:
    assert not is_carried_out(read(text)), code


@pytest.mark.parametrize(
    ("text", "count"),
    [("grab the red block and lift it", 1), ("grab the red block, then grab the blue one", 2)],
)
def test_what_is_picked_twice_in_a_row_is_picked_once(text: str, count: int) -> None:
    assert len(motions(read(text))) == count


def test_a_step_that_needs_what_is_forbidden_contradicts_it() -> None:
    assert read("don't pick up the red block, put it on the plate").is_contradictory
    assert not read("don't push the red block, put it on the plate").is_contradictory


@pytest.mark.parametrize("text", ["wait! stop!", "hold on, stop", "warte halt stop", "等等，停", "انتظر! توقف"])
def test_a_stop_behind_a_call_to_wait_stops(text: str) -> None:
    assert stop_word(text)


@pytest.mark.parametrize("text", ["wait", "wait five seconds", "hold on, take the ball", "warte kurz"])
def test_a_wait_is_no_stop(text: str) -> None:
    assert not stop_word(text)


def test_forms_are_spelled_out() -> None:
    reading = Reading(inflections={"er": "e ez !é"}, words={"place": "(|re)pos~er, (ab|hin)(legen|(stell|setz)en)"})
    assert reading.forms("place") == [
        *("pose", "posez", "repose", "reposez"),
        *("ablegen", "abstellen", "absetzen", "hinlegen", "hinstellen", "hinsetzen"),
    ]
    assert reading.forms("made place") == ["posé", "reposé"]
