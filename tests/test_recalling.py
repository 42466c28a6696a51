"""Sentences that mean what came before: the sentence that they mean, a question, or nothing else."""

from __future__ import annotations

import pytest

from qwen2vl_robot.agreement import agree
from qwen2vl_robot.answering import Past
from qwen2vl_robot.messages import Action, Instruction, ObjectReference, Outcome, OutcomeKind, Plan, Relation, Verb
from qwen2vl_robot.reading import read
from qwen2vl_robot.recalling import recall
from qwen2vl_robot.spots import Moved

_MOVED = (Moved((0.4, 0.0), (0.5, 0.1)),)
_PAST = Past("put the red block on the blue plate", moved=_MOVED)


def meant(text: str, past: Past | None = _PAST, held: str = "") -> str:
    found = recall(Instruction(text), past, held)
    assert isinstance(found, Instruction), found
    return found.text


def question(text: str, past: Past | None) -> str:
    found = recall(Instruction(text), past, "")
    assert isinstance(found, Outcome)
    assert found.kind is OutcomeKind.ASKED
    return found.causes[0].text


@pytest.mark.parametrize(
    "text",
    ["again", "Do that again!", "once more, please", "nochmal", "otra vez", "encore une fois", "مرة أخرى", "もう一回"],
)
def test_again_is_the_last_sentence(text: str) -> None:
    assert meant(text) == _PAST.said


@pytest.mark.parametrize("text", ["undo that", "Undo!", "mach das rückgängig", "deshaz eso", "撤销", "되돌려 줘"])
def test_undo_puts_one_thing_back(text: str) -> None:
    assert meant(text) == "put it back where it was"


def test_nothing_before_is_a_question() -> None:
    assert "nothing before" in question("again", None)
    assert "nothing that I could put back" in question("undo that", Past("go home"))
    assert "2 things" in question("undo that", Past("put the blocks on the plate", moved=_MOVED * 2))


@pytest.mark.parametrize("text", ["now put it in the bowl", "put that one in the bowl", "leg ihn in die Schüssel"])
def test_it_is_what_was_moved_last(text: str) -> None:
    assert read(meant(text)).steps == read("put the red block in the bowl").steps


@pytest.mark.parametrize(
    "text",
    [
        "put the green ball in the bowl again",
        "pick up the green ball and put it in the bowl",
        "do not put it in the bowl",
        "put it in the bowl if it fits",
        "put it back",
        "put the plate on it",
        "would you undo the red block",
    ],
)
def test_other_sentences_stay_as_they_are(text: str) -> None:
    assert meant(text) == text


@pytest.mark.parametrize(
    "past",
    [
        None,
        Past("put the red block on the blue plate"),
        Past("put the leftmost block on the plate", moved=_MOVED),
        Past("put a red block on the plate", moved=_MOVED),
        Past("put the block on the plate", moved=_MOVED),
    ],
)
def test_it_stays_open_where_words_do_not_name_it_any_more(past: Past | None) -> None:
    assert meant("put it in the bowl", past) == "put it in the bowl"


def test_it_is_what_the_gripper_holds() -> None:
    goal = read(meant("put it in the bowl", held="green ball"))
    plan = Plan((Action(Verb.PLACE, ObjectReference("yellow bowl", ()), Relation.IN),), "")
    assert not agree(goal, plan, held="green ball").doubts
    assert agree(goal, plan).doubts, "nothing is held: nobody knows what to put"


@pytest.mark.parametrize(
    "text",
    ["put the green ball there too", "leg den grünen Ball auch dahin", "now put the green ball in the same place"],
)
def test_there_is_where_the_last_thing_was_put(text: str) -> None:
    assert meant(text) == "put the green ball on the blue plate"


def test_there_is_open_where_nothing_was_put_anywhere_that_words_still_name() -> None:
    for before in (
        "pick up the red block",
        "put the red block 10 cm to the left",
        "put the red block between the bowls",
    ):
        assert "Where" in question("put the green ball there too", Past(before, moved=_MOVED))
