"""The answers' suite has enough questions, and calls a wrong answer wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qwen2vl_robot.benchmarks.answer_truth import AnswerTruth, Asked, QuestionRow
from qwen2vl_robot.benchmarks.answers import load_questions, summarise_answers
from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import OutcomeKind
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess
from tests.cells import PROFILE

ANSWERED = OutcomeKind.ANSWERED


@pytest.fixture(scope="module")
def truth() -> Iterator[AnswerTruth]:
    always = (ObjectSpec(colour="red", kind="block"), ObjectSpec(colour="blue", kind="plate"))
    with PlantProcess("scenes/tabletop.yaml", 66, always=always, count=2, camera="ideal") as plant:
        yield AnswerTruth(plant.truth, Surroundings.of(PROFILE))


def asked(kind: Any, about: str = "") -> Asked:
    return Asked(language="en", row=QuestionRow(kind=kind, says=(), about=about), text="")


def test_there_are_two_hundred_questions_in_nine_languages() -> None:
    questions = [one for one in load_questions() if one.row.kind not in ("order", "talk")]
    assert len(questions) >= 200
    assert {one.language for one in questions} == set(load_languages())


@pytest.mark.parametrize(
    ("kind", "about", "said", "right"),
    [
        ("list", "", "I see the red block, the blue plate.", True),
        ("list", "", "I see the red block.", False),
        ("list", "", "I see the red block, the blue plate, the green ball.", False),
        ("list", "", "I see the red block. I am not sure about the blue plate.", False),
        ("count", "block", "I see 1: the red block.", True),
        ("count", "block", "I see 2: the red block, the red block.", False),
        ("there", "red block", "Yes, I see the red block.", True),
        ("there", "red block", "I do not see the red block.", False),
        ("there", "green ball", "I do not see the green ball. 7 % of the table is hidden from me.", True),
        ("there", "green ball", "Yes, I see the green ball.", False),
        ("there", "green ball", "I am not sure about the green ball.", False),
        ("where", "red block", "I see the red block: left, x 9.00 m, y 0.00 m from my base.", False),
        ("where", "red block", "I do not see the red block.", False),
        ("held", "", "I hold the red block.", False),
        ("did", "", "You have not told me to do anything yet.", True),
        ("can", "", "I can fly.", False),
    ],
)
def test_an_answer_is_held_to_the_truth(truth: AnswerTruth, kind: str, about: str, said: str, right: bool) -> None:
    assert truth.is_right(asked(kind, about), said, ANSWERED, None) is right


def test_what_was_refused_is_no_answer(truth: AnswerTruth) -> None:
    assert not truth.is_right(asked("count", "block"), "I see 1: the red block.", OutcomeKind.REFUSED, None)


def test_the_share_is_that_of_the_questions_alone() -> None:
    results = [
        {"kind": kind, "language": "en", "right": right, "outcome": outcome, "seconds": 1.0}
        for kind, right, outcome in (
            ("count", True, "answered"),
            ("where", False, "answered"),
            ("order", True, "an order"),
            ("talk", False, "answered"),
        )
    ]
    totals = summarise_answers(results)
    assert totals["right"]["ratio"] == 0.5
    assert (totals["questions"], totals["no_questions"], totals["no_questions_answered"]) == (2, 2, 1)
