"""The phrases suite: what was written by hand, how effects are held to it, and that a wrong motion is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from qwen2vl_robot.benchmarks.phrases import Case, judge, load_phrases, run_phrases, summarise_phrases, surroundings
from qwen2vl_robot.benchmarks.tables import Table, lay
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.rules import load_rules

THINGS = {
    "red block": (0.62, -0.10),
    "green ball": (0.40, -0.05),
    "blue plate": (0.49, -0.17),
    "red block 2": (0.6, 0.1),
}


@pytest.fixture(scope="module")
def table() -> Table:
    return lay(THINGS, surroundings())


def judged(table: Table, meant: str, *said: str) -> tuple[bool, bool]:
    found = judge(Case("en", "plain", "here", said, meant), table, load_rules())
    return found["right"], found["wrong_motion"]


def test_there_are_enough_sentences_in_every_language_and_none_twice() -> None:
    cases = load_phrases()
    assert len(cases) >= 300
    counts = Counter(case.language for case in cases)
    assert set(counts) == set(load_languages())
    assert min(counts.values()) >= 25
    assert len({(case.language, case.scene, case.said) for case in cases}) == len(cases)


def test_every_meaning_can_be_read() -> None:
    results = list(run_phrases(40))  # a part that means nothing raises
    assert summarise_phrases(results)["cases"] == 40


def test_what_was_meant_is_right_and_anything_else_is_a_wrong_motion(table: Table) -> None:
    said = "put the green ball on the blue plate"
    assert judged(table, "green ball on blue plate", said) == (True, False)
    assert judged(table, "maybe green ball on blue plate", said) == (True, False)
    assert judged(table, "red block on blue plate", said) == (False, True)
    assert judged(table, "green ball next_to blue plate", said) == (False, True)
    assert judged(table, "nothing", said) == (False, True)
    assert judged(table, "green ball on blue plate; home", said) == (False, True)
    assert judged(table, "green ball on blue plate", f"{said} and go home") == (False, True)


def test_what_may_be_either_of_two_is_a_question(table: Table) -> None:
    assert judged(table, "nothing", "pick up the red block") == (True, False)
    assert judged(table, "red block 2", "pick up the red block") == (False, False)
    assert judged(table, "hold red block 2", "pick up the rightmost block") == (True, False)


def test_a_place_is_measured(table: Table) -> None:
    said = "move the green ball 10 cm to the right"
    assert judged(table, "green ball at right 0.10", said) == (True, False)
    assert judged(table, "green ball at right 0.05", said) == (False, True)
    assert judged(table, "green ball back", "put the green ball on the blue plate", "put the green ball back") == (
        True,
        False,
    )


def test_what_comes_before_is_done_on_a_copy(table: Table) -> None:
    before = replace(table)
    judged(table, "nothing", "put the green ball on the blue plate", "go home")
    assert table.items == before.items
    assert not table.moved


def test_what_is_put_at_a_spot_is_beside_a_thing_only_where_little_is_free_between_them(table: Table) -> None:
    meant = "red block next_to red block 2 | red block 2 next_to red block"
    assert judged(table, meant, "line up the two red blocks") == (True, False)
    assert judged(table, "green ball next_to red block", "move the green ball 5 cm to the right") == (False, True)
