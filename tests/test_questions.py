"""Questions of nine languages → what they ask; orders, and questions with an order in them, are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Instruction, Outcome, Relation
from qwen2vl_robot.order import understand
from qwen2vl_robot.reading import Asks, Mood, Question, Thing, read
from qwen2vl_robot.resources import data_root

ROOT = Path(__file__).parent
SUITE = {
    file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))["questions"]
    for file in sorted((data_root() / "sim/tasks/questions").glob("*.yaml"))
}
ASKS = {
    **{"list": Asks.WHAT, "there": Asks.WHETHER, "count": Asks.COUNT, "where": Asks.WHERE, "held": Asks.HELD},
    **{"did": Asks.DONE, "why": Asks.WHY, "can": Asks.ABILITY},
}
SENTENCES = yaml.safe_load((ROOT / "reading_sentences.yaml").read_text(encoding="utf-8"))
ORDERS = [text for part in ("orders", "spoken") for cases in SENTENCES[part].values() for text in cases]
QUESTIONS = [
    (code, row, text) for code, rows in SUITE.items() for row in rows if row["kind"] in ASKS for text in row["says"]
]
OTHERS = [
    *((row["kind"], text) for rows in SUITE.values() for row in rows if row["kind"] not in ASKS for text in row["says"])
]


def test_every_language_has_questions_and_answers_in_its_own_words() -> None:
    english = load_languages()["en"]
    assert set(SUITE) == set(load_languages())
    for code, speech in load_languages().items():
        assert set(speech.questions) == set(english.questions), code
        assert set(speech.answers.outcomes) == set(english.answers.outcomes), code
        same = [name for name, text in speech.answers if text == getattr(english.answers, name)]
        assert code == "en" or set(same) <= {"comma"}, code


@pytest.mark.parametrize(("code", "row", "text"), QUESTIONS)
def test_a_question_is_read(code: str, row: dict[str, str], text: str) -> None:
    goal = read(text)
    question = goal.question
    assert question is not None
    assert (question.asks, goal.language, goal.mood, goal.steps) == (ASKS[row["kind"]], code, Mood.QUESTION, ())
    assert (question.thing.label if question.thing else "") == row.get("about", "")
    assert (question.relation.value if question.relation else None) == row.get("relation")
    assert (question.reference.label if question.reference else None) == row.get("reference")


@pytest.mark.parametrize(("kind", "text"), OTHERS)
def test_what_is_no_such_question_is_not_answered(kind: str, text: str) -> None:
    assert read(text).question is None


@pytest.mark.parametrize("text", ORDERS)
def test_no_order_becomes_a_question(text: str) -> None:
    assert read(text).question is None


@pytest.mark.parametrize("text", [text for _, _, text in QUESTIONS])
def test_a_question_is_no_order(text: str) -> None:
    assert isinstance(understand(Instruction(text)), Outcome)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([text for _, _, text in QUESTIONS]), st.sampled_from(ORDERS), st.booleans())
def test_an_order_beside_a_question_is_never_answered_nor_done(question: str, order: str, is_first: bool) -> None:
    goal = read(f"{order}. {question}" if is_first else f"{question} {order}")
    if goal.question is not None:
        assert not goal.steps
    assert not (goal.question is not None and goal.asks_for_motion)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("where is the leftmost block?", "(question) where: the leftmost block"),
        ("how many blocks are in the yellow bowl?", "(question) count: the block in the yellow bowl"),
        ("¿dónde está el bloque rojo?", "(question) where: the red block"),
        ("WHERE'S THE RED BLOCK???", "(question) where: the red block"),
    ],
)
def test_a_question_is_said_back(text: str, said: str) -> None:
    assert read(text).describe() == said


@pytest.mark.parametrize(
    "text",
    [
        "what?",
        "is it?",
        "is the red block not on the plate?",
        "where is it?",
        "why",
        "is there a knife on the table?",
        "how many days until you break?",
        "can you?",
        "are you there",
        "what can you do? pick up the red block",
        "why didn't you pick up the red block? do it now and push the ball away",
    ],
)
def test_what_is_not_clear_is_not_answered(text: str) -> None:
    question = read(text).question
    assert question is None or question.asks is Asks.WHY


@pytest.mark.parametrize(
    "text",
    [
        "is the bowl empty?",
        "Ist die Schüssel eigentlich leer?",
        "¿está vacío el cuenco?",
        "est-ce que le bol est vide ?",
        "هل الوعاء فارغ؟",
        "cái bát có trống không?",
        "碗是空的吗？",
        "ボウルは空ですか？",
        "그릇이 비어 있나요?",
    ],
)
def test_whether_a_thing_is_empty_asks_what_is_in_it(text: str) -> None:
    assert read(text).question == Question(Asks.WHAT, None, Relation.IN, Thing("bowl"))
    assert not read(text).asks_for_motion


@pytest.mark.parametrize("text", ["the bowl is empty", "put the ball in the empty bowl", "are you free?"])
def test_what_only_speaks_of_empty_is_no_such_question(text: str) -> None:
    assert read(text).question is None
