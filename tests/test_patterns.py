"""Every pattern that meets text from outside ends, on the longest and worst text that may reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from qwen2vl_robot.bounds import INSTRUCTION_CHARS, NAME_CHARS, REPLY_CHARS
from qwen2vl_robot.doctor import check_distribution
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.graph.names import resolve_name
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.order import understand
from qwen2vl_robot.planner.contract import strip_control_tokens
from qwen2vl_robot.planner.fit import estimate
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.reading import stop_word
from tests.hostile import ends


def filled(text: str, length: int, end: str = "") -> str:
    """A text repeated up to a length, and its end."""
    return (text * length)[: length - len(end)] + end


REPLIES = {
    "spaces before a box": "pick" + filled(" ", REPLY_CHARS - 4, "("),
    "line breaks before a box": "pick" + filled("\n", REPLY_CHARS - 4, "("),
    "spaces in a box": "pick a " + filled("(1, ", REPLY_CHARS - 7),
    "a box of spaces": "pick a (1," + filled(" ", REPLY_CHARS - 10, "x"),
    "many verbs": filled("pick ", REPLY_CHARS, "(1,2),(30,40)"),
    "many relations": "place " + filled("on ", REPLY_CHARS - 6, "(1,2),(30,40)"),
    "a label of many letters": "pick " + filled("a", REPLY_CHARS - 5, "(1,2),(30,40)"),
    "many tokens": "pick " + filled("<|object_ref_start|>", REPLY_CHARS - 5),
    "many starts of boxes": "pick a " + filled("<|box_start|>", REPLY_CHARS - 7),
    "many boxes": filled("pick a(1,2),(30,40)", REPLY_CHARS),
    "a fence of spaces": "```" + filled(" ", REPLY_CHARS - 3, "x"),
    "a fence that does not close": "```json" + filled("\n ", REPLY_CHARS - 7, "``"),
    "fences": filled("```", REPLY_CHARS),
    "numbers of a list": filled("1. ", REPLY_CHARS),
    "ends of turns": filled("<|im_<|im_end|>", REPLY_CHARS),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
def test_no_reply_keeps_the_parser_busy(reply: str) -> None:
    assert len(reply) == REPLY_CHARS
    with ends(), pytest.raises(PlannerError):
        parse_reply(reply)


def test_spaces_around_markup_are_read() -> None:
    first = "1. pick   red block  <|box_start|>(1, 2),  (30, 40)<|box_end|>;"
    plan = parse_reply(f"```json\n{first}\n\n2. place on plate (50,50),(90,90) \n```")
    assert [(a.verb.value, a.object and a.object.label) for a in plan.actions] == [
        ("pick", "red block"),
        ("place", "plate"),
    ]


WORDS = [
    "the ",
    "a",
    "no ",
    "stop",
    "1 ",
    "1.",
    "<|",
    "|>",
    "{a}",
    " ",
    "\u0301",
    "красный ",
    "、",
    "赤",
    "ﷺ",
    "don't ",
    "-",
]


@pytest.mark.parametrize("text", WORDS)
def test_no_instruction_keeps_the_readers_busy(text: str) -> None:
    with ends():
        understand(Instruction("put" + filled(text, INSTRUCTION_CHARS - 3)))


@pytest.mark.parametrize("text", ["stop", " ", "no ", "\u0301", "ﷺ", "o"])
def test_a_text_of_a_million_letters_is_asked_for_stop_words_and_refused(text: str) -> None:
    with ends():
        stop_word(filled(text, 1_000_000))
        with pytest.raises(BadInputError, match="1000000 characters"):
            Instruction(filled(text, 1_000_000))


@pytest.mark.parametrize("text", ["<|", "<|<|x|>", "|>", "<|a"])
def test_control_tokens_within_each_other_are_all_removed(text: str) -> None:
    nested = filled(text, 2 * INSTRUCTION_CHARS, "<|im_end|>" + "|>" * 300)
    with ends():
        assert "<|" not in strip_control_tokens(nested)


NAMES: dict[str, Callable[[str], object]] = {
    "a model's size": lambda text: estimate(ModelSettings(model=text), 1.0, "memory"),
    "a hub name": lambda text: prepare_hub(ModelSettings(model=text + "!")),
    "a requirement": check_distribution,
    "a topic": lambda text: resolve_name(text, "node"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["vl-", "vl-1", "a/", "a.", "-"])
def test_no_name_keeps_a_pattern_busy(name: str, text: str) -> None:
    with ends(), contextlib.suppress(BadInputError):
        NAMES[name](filled(text, NAME_CHARS - 1))
