"""Nine languages as data: each file says the same things, and a sentence is known by its words."""

from __future__ import annotations

import unicodedata

import pytest

from qwen2vl_robot.config import Catalogue, load_yaml
from qwen2vl_robot.languages import (
    ENGLISH,
    Language,
    detect_language,
    fill,
    load_languages,
    normalise,
    split_label,
)
from qwen2vl_robot.messages import Instruction, Verb
from qwen2vl_robot.planner.answers import speak_like
from qwen2vl_robot.planner.reply import ask_text, format_reply, parse_reply
from qwen2vl_robot.resources import resolve

LANGUAGES = load_languages()
LABELS = ("red block", "blue plate")


def sentences(speech: Language) -> list[str]:
    """Everything that a language's file can say about two objects."""
    names = [(speech.phrase(label), speech.phrase(label, "of")) for label in LABELS]
    templates = [t for p in speech.tasks.values() for t in (*p.seen, *p.held_out)]
    return [fill(t, *names).replace("{n}", "5") for t in templates]


def test_there_are_nine_languages() -> None:
    assert list(LANGUAGES) == ["en", "ar", "de", "es", "fr", "ja", "ko", "vi", "zh"]


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_says_what_english_says(code: str) -> None:
    english, speech = LANGUAGES[ENGLISH], LANGUAGES[code]
    for field in ("colours", "superlatives", "kinds", "which", "tasks"):
        assert set(getattr(speech, field)) == set(getattr(english, field)), field
    assert all(nouns[0].all for nouns in speech.kinds.values())
    assert {t for t, p in speech.tasks.items() if p.held_out} >= {t for t, p in english.tasks.items() if p.held_out}


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_template_leaves_a_brace_or_a_doubled_space(code: str) -> None:
    speech = LANGUAGES[code]
    phrases = [speech.phrase(label, case) for label in ("red block", "ball", "blue") for case in ("the", "of", "all")]
    phrases += [speech.phrase("block", extra=word) for word in speech.superlatives]
    for text in (*sentences(speech), *phrases):
        assert not set("{}") & set(text), text
        assert "  " not in text, text
        assert normalise(text) == text


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_sentence_is_known_by_its_words(code: str) -> None:
    wrong = [text for text in sentences(LANGUAGES[code]) if detect_language(text) != code]
    assert not wrong


def test_the_catalogues_words_are_in_every_language() -> None:
    catalogue = load_yaml(resolve("objects/catalogue.yaml"), Catalogue)
    for speech in LANGUAGES.values():
        assert set(catalogue.colours) <= set(speech.colours)
        assert set(catalogue.kinds) <= set(speech.kinds)


def test_a_label_of_unknown_words_is_an_error() -> None:
    with pytest.raises(KeyError, match="unicorn"):
        split_label("red unicorn", LANGUAGES[ENGLISH])


def test_letters_in_pieces_are_the_same_letters() -> None:
    text = "coloca el cubo marrón encima del tazón"
    assert detect_language(unicodedata.normalize("NFD", text)) == "es"
    assert normalise(unicodedata.normalize("NFD", text)) == text


def test_a_question_is_put_in_the_language_of_the_instruction() -> None:
    plan = parse_reply(format_reply([("red block", [])], [{"do": "ask", "text": ask_text("red block")}]))
    asked = {code: speak_like(plan, Instruction(sentences(LANGUAGES[code])[0])).actions[0] for code in LANGUAGES}
    assert asked["en"].text == "I see no red block."
    assert asked["zh"].text == "我没有看到红色方块。"
    assert asked["de"].text == "Ich sehe den roten Block nicht."
    assert all(action.verb is Verb.ASK for action in asked.values())


def test_what_has_no_fixed_wording_stays_as_it_was_said() -> None:
    for text, said in (("Which one?", "拿起红色方块"), (ask_text("unicorn"), "拿起 unicorn")):
        plan = parse_reply(format_reply([], [{"do": "ask", "text": text}]))
        assert speak_like(plan, Instruction(said)) == plan


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("grab the glimmering blorp", "I do not find what you named."),
        ("pick up the green ball", "I do not find what you named."),
        ("拿起绿色球", "我没有找到你说的东西。"),
        ("pick up the red cube", "I see no red block."),
    ],
)
def test_a_question_about_what_nobody_named_says_that_nothing_was_found(said: str, answer: str) -> None:
    plan = parse_reply(format_reply([("red block", [])], [{"do": "ask", "text": ask_text("red block")}]))
    assert speak_like(plan, Instruction(said)).actions[0].text == answer
