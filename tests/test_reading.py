"""Sentences of nine languages → goals: the training's templates, those of reading_sentences.yaml, and laws."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qwen2vl_robot.languages import ENGLISH, Language, Phrasing, fill, load_languages, normalise
from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading import Deed, Goal, Mood, Polarity, Quantity, Reader, Step, Thing, read, stop_word, stopping
from qwen2vl_robot.reading.letters import MAX_CHARS, Word, split_words
from qwen2vl_robot.reading.lexicon import Lexicon

LANGUAGES = load_languages()
SENTENCES = yaml.safe_load((Path(__file__).parent / "reading_sentences.yaml").read_text(encoding="utf-8"))
TASKS = LANGUAGES[ENGLISH].tasks
RELATIONS = {r.value for r in Relation}
STACKED = ("block", "brick", "plate", "bowl", "cup", "cylinder")  # "the red block on the blue one" is a block


def listed(key: str) -> list[tuple[str, str, str]]:
    """(code, sentence, what is expected) of a section of the sentences."""
    return [
        (code, text, cases[text] if isinstance(cases, dict) else "")
        for code, cases in SENTENCES[key].items()
        for text in cases
    ]


# ------------------------------------------------------------------------------------------ the templates


def draw_thing(speech: Language, rng: np.random.Generator, *, may_be_all: bool) -> tuple[str, str, Thing]:
    """How a language's file names a random thing (the object's case, the case behind "of"), and what it is."""
    kind, colour = (str(rng.choice(list(words))) for words in (speech.kinds, speech.colours))
    way, how = int(rng.integers(3)), rng.uniform()
    label, extra, case, thing = f"{colour} {kind}", "", "", Thing(kind, colour)
    if how < 0.2:
        label, thing = (kind, Thing(kind)) if how < 0.1 else (colour, Thing(colour=colour))
    elif how < 0.35:
        extra = str(rng.choice(list(speech.superlatives)))
        label, thing = kind, Thing(kind, superlative=extra)
    elif how < 0.45 and may_be_all:
        label, case, thing = kind, "all", Thing(kind, quantity=Quantity.ALL)
    the, of = (speech.phrase(label, case or c, extra=extra, way=0 if case else way) for c in ("the", "of"))
    if 0.45 <= how < 0.6 and may_be_all:
        the, of = (speech.phrase(kind, c, way=way) for c in ("the", "of"))  # as the training does: named by its place
        other = f"{rng.choice(list(speech.colours))} {rng.choice(list(speech.kinds))}"
        which = str(rng.choice(list(speech.which)))
        names = (speech.phrase(other), speech.phrase(other, "of"))
        the, of = (fill(speech.which[which], name, names) for name in (the, of))
        other_colour, other_kind = other.split()
        thing = Thing(kind, relation=Relation(which), reference=Thing(other_kind, other_colour))
    return the.removeprefix("的"), of.removeprefix("的"), thing


def share_noun(step: Step) -> Step:
    """The step with the noun that "the blue one" takes over from the thing that is put."""
    a, b = step.thing, step.reference
    if step.deed is not Deed.PLACE or a is None or b is None or not b.colour or b.noun or b.superlative or b.relation:
        return step
    carriers = {Relation.ON: STACKED, Relation.IN: ("bowl", "cup")}.get(step.relation or Relation.ON, (a.noun,))
    is_alike = a.noun in carriers and a.colour != b.colour
    return replace(step, reference=replace(b, noun=a.noun)) if is_alike else step


def expect(task: str, a: Thing, b: Thing) -> Step:
    """The step that a task's template asks for."""
    if task in RELATIONS:
        return share_noun(Step(Deed.PLACE, a, Relation(task), b))
    if task.startswith("push_"):
        return Step(Deed.PUSH, a, direction=Direction(task.removeprefix("push_")))
    if task == "wait":
        return Step(Deed.WAIT, seconds=7.0)
    return Step(Deed.HOME) if task == "home" else Step(Deed.PICK, a)


def templates(speech: Language) -> Iterator[tuple[str, str]]:
    for task, phrasing in speech.tasks.items():
        yield from ((task, template) for template in (*phrasing.seen, *phrasing.held_out))


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_templates_of_the_training_are_read(code: str) -> None:
    rng = np.random.default_rng(7)
    wrong, count = [], 0
    for task, template in templates(LANGUAGES[code]):
        for _ in range(4):
            a_the, a_of, a = draw_thing(LANGUAGES[code], rng, may_be_all=True)
            b_the, b_of, b = draw_thing(LANGUAGES[code], rng, may_be_all=False)
            while task == "in" and b.noun == "plate":  # "en el plato" means on it
                b_the, b_of, b = draw_thing(LANGUAGES[code], rng, may_be_all=False)
            text = fill(template, (a_the, a_of), (b_the, b_of)).replace("{n}", "7")
            goal, count = read(text), count + 1
            if task == "refuse":
                is_read = bool(goal.steps) and {s.deed for s in goal.steps} == {Deed.OTHER}
            else:
                is_read = goal == Goal(steps=(expect(task, a, b),))
            wrong += [] if is_read and goal.language == code else [f"{text}: {goal.describe()} {goal.unread}"]
    assert len(wrong) <= count * 0.01, wrong


def test_the_reader_does_not_use_the_templates() -> None:
    bare = {
        code: speech.model_copy(
            update={
                "tasks": {t: Phrasing(seen=("x",)) for t in TASKS},
                "which": {},
                "polite": (),
                "ask": "",
                "refuse": "",
            }
        )
        for code, speech in LANGUAGES.items()
    }
    reader = Reader(bare)
    for key in ("orders", "negated"):
        for _, text, _ in listed(key):
            assert reader.read(text) == read(text)


# ------------------------------------------------------------------------------------------ the sentences


@pytest.mark.parametrize(("code", "text", "told"), [*listed("orders"), *listed("spoken")])
def test_an_order_is_read(code: str, text: str, told: str) -> None:
    goal = read(text)
    assert (goal.describe(), goal.unread, goal.mood, goal.language) == (told, (), Mood.ORDER, code)


@pytest.mark.parametrize(("code", "text", "_"), [*listed("negated"), *listed("forbidden")])
def test_a_negated_order_asks_for_no_motion(code: str, text: str, _: str) -> None:
    goal = read(text)
    assert not goal.asks_for_motion
    assert (goal.polarity, goal.language) == (Polarity.DO_NOT, code) or goal.mood is not Mood.ORDER


@pytest.mark.parametrize(("code", "text", "_"), listed("told"))
def test_a_question_a_hypothetical_and_a_report_ask_for_no_motion(code: str, text: str, _: str) -> None:
    goal = read(text)
    assert not goal.asks_for_motion
    assert goal.mood is not Mood.ORDER or not goal.steps


@pytest.mark.parametrize(("code", "text", "told"), listed("excluded"))
def test_what_is_not_meant_is_an_exclusion(code: str, text: str, told: str) -> None:
    goal = read(text)
    assert [thing.describe() for thing in goal.exclusions] == [told]
    assert goal.asks_for_motion


@pytest.mark.parametrize(("code", "text", "word"), listed("unknown"))
def test_an_unknown_word_stays_unread(code: str, text: str, word: str) -> None:
    goal = read(text)
    assert word in goal.unread
    assert not goal.is_understood


def test_a_contradiction_is_kept() -> None:
    goal = read("pick up the red block and don't pick it up")
    assert goal.is_contradictory and not goal.asks_for_motion
    assert [step.is_negated for step in goal.steps] == [False, True]


def test_every_thing_and_every_step_is_in_the_goal() -> None:
    goal = read("pick up the red block and the blue ball, put them on the plate and then go home")
    assert [step.deed for step in goal.steps] == [Deed.PICK, Deed.PICK, Deed.PLACE, Deed.HOME]


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("pick up the red block if it is dry", "if it is dry"),
        ("when the plate is empty, pick up the red block", "when the plate is empty"),
        ("Pick up the red block TWICE", "TWICE"),
        ("nimm den roten Block, sobald er trocken ist", "sobald er trocken ist"),
        ("皿が空なら赤いブロックを取って", "皿が空なら"),
        ("如果盘子是空的，就拿起红色方块", "如果盘子是空的"),
        ("접시가 비어 있으면 빨간 블록을 집어 줘", "접시가 비어 있으면"),
    ],
)
def test_what_cannot_be_carried_is_a_condition(text: str, condition: str) -> None:
    goal = read(text)
    assert goal.conditions == (condition,)
    assert [step.describe() for step in goal.steps] == ["pick up the red block"]


@pytest.mark.parametrize(
    ("text", "is_conditional"),
    [
        ("等快递到了再把灰色方块往左推", True),
        ("等水开了再拿红色的球", True),
        ("等他回来以后把红球放进碗里", True),
        ("等一下再拿红色的球", False),
        ("等五秒再拿红色的球", False),
    ],
)
def test_waiting_for_somebody_is_a_condition_and_waiting_a_while_is_a_deed(text: str, is_conditional: bool) -> None:
    goal = read(text)
    assert bool(goal.conditions) is is_conditional
    assert any(step.deed is Deed.WAIT for step in goal.steps) is not is_conditional


def test_a_correction_takes_the_place_of_what_was_said() -> None:
    goal = read("pick up the red block, no, the green one")
    assert goal.steps == (Step(Deed.PICK, Thing("block", "green")),)
    assert goal.corrections == (Thing("block", "red"),)


@pytest.mark.parametrize(
    "text",
    [
        "There is a knife. Pick it up.",
        "the knife, pick it up",
        "put the red block, the knife and the ball in the bowl",
        "pick up the nice block",
        "Hi robot, pick up the wooden block. Nice day today.",
        "pick up the red block, polished",
        "Schönes Wetter heute. Nimm das Messer",
        "今天天气不错。请拿木头方块",
        "put the red block on the blue plate, no, the green one",
    ],
)
def test_small_talk_and_corrections_hide_no_word(text: str) -> None:
    assert not read(text).is_understood


@pytest.mark.parametrize(
    "text",
    [
        "put the red block on",
        "hand the red block to the duck",
        "put the block on the plate or the bowl",
        "pick up red block blue block",
        "bring the red block to me",
        "nimm das Messer",
    ],
)
def test_what_no_step_uses_is_unread(text: str) -> None:
    assert read(text).unread


# ------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize(
    "text",
    [
        "GRAB THE RED CUBE",
        "ｇｒａｂ　ｔｈｅ　ｒｅｄ　ｃｕｂｅ",
        "grаb the rеd cubе",  # Cyrillic а and е
        "gr\u200bab the\u00ad red cube\ufeff",
        "Grab, the red... cube!!! 🙂🤖",
        "grab\nthe red\r\ncube",
        "  grab the 🟥 red cube?  ",
    ],
)
def test_how_letters_are_written_changes_nothing(text: str) -> None:
    assert read(text) == read("grab the red cube") == Goal(steps=(Step(Deed.PICK, Thing("block", "red")),))


WRITTEN = {
    "in capitals": str.upper,
    "in wide letters": lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text),
    "in pieces": lambda text: unicodedata.normalize("NFD", text),
    "with letters that nobody sees": lambda text: "\u200b".join(text),
    "on many lines": lambda text: text.replace(" ", "\n"),
    "loudly": lambda text: text.rstrip(".?!。？！؟ ") + "!!! 🙂",
    "doubtfully": lambda text: text.rstrip(".?!。？！؟ ") + "?",
    "without commas": lambda text: re.sub(r"[,.،，。、;:!?¿¡？！؟]", " ", text),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_sentence_may_be_written_in_many_ways(how: str) -> None:
    texts = [text for key in ("orders", "negated") for _, text, _ in listed(key)]
    assert [text for text in texts if read(WRITTEN[how](text)) != read(text)] == []


def test_a_text_that_is_too_long_is_not_understood() -> None:
    assert read("pick up the red block " * 30).steps == ()
    assert read("pick up the red block" + " " * 400).is_understood


def test_every_key_of_the_data_is_known() -> None:
    english = LANGUAGES[ENGLISH]
    known = {*english.reading.words, *english.colours, *english.kinds, *english.superlatives}
    known |= {"everything", "glue", "many", "joins", "object", "toward", "marks object", "can", "ask last", "did last"}
    known |= {"talk", "enough", "neither", "nor", "except after", "if after", "push left", "push right", "push away"}
    known |= {
        "urge last",
        "due first",
        "over",
        "on + that",
        "in + that",
        "unread",
        "light",
        "move + toward",
        "you",
        "or",
        "wished",
        "topic",
        "whom",
        "to + want",
        "go + then",
    }
    known |= {"nth", *(f"from {side} + rank {n}" for side in ("left", "right") for n in range(2, 6))}
    known |= {"asked", "because after", "call", "hence", "name", "own", "still", "toss", "before", "because"}
    known |= {str(number) for number in (*range(11, 21), 25, 30, 40, 45, 50, 60, 90)}
    known |= {f"{number} + second" for number in (*range(2, 11), 15, 20)}
    known |= {f"made {key}" for key in known} | {f"filler + {key}" for key in known}
    assert {key for speech in LANGUAGES.values() for key in speech.reading.words} <= known


def test_look_alike_letters_do_not_change_what_is_unread() -> None:
    goal = read("grab the kn\u0456fe")  # Cyrillic і
    assert goal == read("grab the knife")
    assert goal.unread == ("kn\u0456fe",) and goal.folded == ("knife",)


def things(depth: int = 1) -> st.SearchStrategy[Thing]:
    english = LANGUAGES[ENGLISH]
    nouns, colours = st.sampled_from([*english.kinds, "table", ""]), st.sampled_from(["", *english.colours])
    superlatives = st.sampled_from(["", *english.superlatives])
    many = st.sampled_from([(q, 1) for q in Quantity if q is not Quantity.NUMBER] + [(Quantity.NUMBER, 4)])
    where = st.one_of(st.none(), st.tuples(st.sampled_from(Relation), things(depth - 1))) if depth else st.none()
    return st.builds(
        lambda noun, colour, extra, count, at: Thing(noun, colour, extra, *count, *(at or ())),
        *(nouns, colours, superlatives, many, where),
    )


def steps() -> st.SearchStrategy[Step]:
    no, thing = st.booleans(), things()
    return st.one_of(
        st.builds(Step, st.just(Deed.PICK), thing, is_negated=no),
        st.builds(Step, st.just(Deed.PLACE), thing, st.sampled_from(Relation), things(), is_negated=no),
        st.builds(Step, st.just(Deed.PUSH), thing, direction=st.sampled_from(Direction), is_negated=no),
        st.builds(Step, st.just(Deed.WAIT), seconds=st.sampled_from([None, 1.0, 2.5, 40.0]), is_negated=no),
        st.builds(Step, st.just(Deed.OTHER), thing, word=st.sampled_from(["throw", "break", "hit"]), is_negated=no),
        st.builds(Step, st.sampled_from([Deed.HOME, Deed.STOP]), is_negated=no),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=3))
def test_what_is_said_back_is_read_as_the_same_goal(said: list[Step]) -> None:
    goal = Goal(steps=tuple(said))
    assume(len(goal.describe()) <= MAX_CHARS)
    assert read(goal.describe()) == Goal(steps=tuple(share_noun(step) for step in said))


WORDS = [w for speech in LANGUAGES.values() for forms in speech.reading.words.values() for w in forms.split(", ")]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=600), st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join)))
def test_any_text_gives_a_goal(text: str) -> None:
    goal = read(text)
    assert isinstance(stop_word(text), bool)
    assert all(word in normalise(text).replace("\u200b", "") or len(word) > 1 for word in goal.unread)
    assert isinstance(goal.describe(), str)


@pytest.mark.parametrize("part", ["a ", "the ", "不要", "て", "و", "no, ", "if ", "of the ", "집어", "red ", "\u0301e"])
def test_no_text_takes_long(part: str) -> None:
    """What grows with a power of a text's length takes minutes here; 0.06 s is what it takes."""
    text = (part * 500)[:500]
    read(text)
    began_s = time.process_time()
    read(text)
    assert time.process_time() - began_s < 2.0


# -------------------------------------------------------------------------------------------- stop words


@pytest.mark.parametrize("text", SENTENCES["stops"])
def test_a_stop_word_is_one(text: str) -> None:
    assert stop_word(text)


@pytest.mark.parametrize("text", [*SENTENCES["goes"], "", " ", "a" * 500])
def test_what_only_looks_like_a_stop_word_is_none(text: str) -> None:
    assert not stop_word(text)


def test_a_stop_word_is_sought_in_the_head_of_a_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = list[int]()

    def count(text: str) -> list[Word]:
        lengths.append(len(text))
        return split_words(text)

    monkeypatch.setattr(stopping, "split_words", count)
    for text in (*SENTENCES["stops"], *SENTENCES["goes"], "pick up the block " * 10_000):
        stop_word(text)
    assert max(lengths) <= 60  # what takes time is the splitting, and it sees no more letters than these


def test_a_decimal_and_its_unit_are_two_words() -> None:
    assert [word.text for word in split_words("2,5s")] == ["2.5", "s"]


def test_no_language_has_more_forms_than_load_soon() -> None:
    """A list of choices times a list of choices soon is a hundred thousand forms, which every process would load."""
    counts = {code: len(Lexicon(language).entries) for code, language in LANGUAGES.items()}
    assert max(counts.values()) < 100_000 and sum(counts.values()) < 500_000, counts
