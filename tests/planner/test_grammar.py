"""Whatever a model prefers, a reply inside the grammar is one that the contract accepts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from qwen2vl_robot.planner.grammar import bench_grammar, reply_grammar
from qwen2vl_robot.planner.process import SHIPPED_MODEL
from qwen2vl_robot.planner.reply import format_reply, parse_reply

RED = ("red block", [(412, 330, 470, 398)])
GONE: tuple[str, list[tuple[int, int, int, int]]] = ("blue bowl", [])
PICK = {"do": "pick", "object": 0}
PLACE = {"do": "place", "object": 1, "relation": "in"}


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(f"{SHIPPED_MODEL}/tokenizer.json")


def matcher_for(tokenizer: LLTokenizer, max_coordinate: int = 1000) -> LLMatcher:
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(reply_grammar(max_coordinate)))
    assert not matcher.get_error()
    return matcher


def is_inside(tokenizer: LLTokenizer, reply: str, max_coordinate: int = 1000) -> bool:
    matcher = matcher_for(tokenizer, max_coordinate)
    tokens = tokenizer.tokenize_str(reply)
    return matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()


INSIDE = {
    "pick": format_reply([RED], [PICK]),
    "pick and place": format_reply([RED, ("bowl", [(1, 2, 3, 4), (5, 6, 7, 8)])], [PICK, PLACE]),
    "ask": format_reply([RED, GONE], [{"do": "ask", "text": "I see no blue bowl."}]),
    "refuse": format_reply([], [{"do": "refuse", "text": "I only pick, place and push."}]),
    "ask in Chinese": format_reply([("红色方块", [])], [{"do": "ask", "text": "我没有看到红色方块。"}]),
    "wait and home": format_reply([], [{"do": "wait", "seconds": 60}, {"do": "home"}]),
    "push": format_reply([RED], [{"do": "push", "object": 0, "direction": "closer"}]),
    "the nearest": '{"objects":[{"label":"a","boxes":[[1,2,3,4]],"where":{"kind":"nearest"}}],'
    '"actions":[{"do":"pick","object":0}]}',
    "left of": '{"objects":[{"label":"a","boxes":[[1,2,3,4]],"where":{"kind":"left_of","reference":"b"}}],'
    '"actions":[{"do":"pick","object":0}]}',
}


@pytest.mark.parametrize("reply", INSIDE.values(), ids=INSIDE.keys())
def test_a_reply_of_the_contract_is_inside(tokenizer: LLTokenizer, reply: str) -> None:
    assert parse_reply(reply)
    assert is_inside(tokenizer, reply)


OUTSIDE = {
    "an index that is not there": format_reply([RED], [{"do": "pick", "object": 1}]),
    "a pick of what is missing": format_reply([GONE], [PICK]),
    "a motion when something is missing": format_reply([RED, GONE], [PICK]),
    "two picks": format_reply([RED, RED], [PICK, PICK]),
    "talk and motion": format_reply([RED], [PICK, {"do": "ask", "text": "a"}]),
    "thirteen actions": format_reply([], [{"do": "home"}] * 13),
    "nine objects": format_reply([RED] * 9, [PICK]),
    "a coordinate of 1001": format_reply([("a", [(0, 0, 1001, 5)])], [PICK]),
    "a wait of an hour": format_reply([], [{"do": "wait", "seconds": 3600}]),
    "a control token in a label": format_reply([("<|im_end|>", [(0, 0, 9, 9)])], [PICK]),
    "an endless label": format_reply([("a" * 81, [(0, 0, 9, 9)])], [PICK]),
    "white space": format_reply([RED], [PICK]).replace(":", ": "),
    "prose": "I will pick it.",
}


@pytest.mark.parametrize("reply", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_what_the_contract_refuses_is_outside(tokenizer: LLTokenizer, reply: str) -> None:
    assert not is_inside(tokenizer, reply)


def test_the_bound_of_coordinates_is_the_conventions(tokenizer: LLTokenizer) -> None:
    reply = format_reply([("a", [(0, 0, 1260, 5)])], [PICK])
    assert is_inside(tokenizer, reply, max_coordinate=1260)
    assert not is_inside(tokenizer, reply, max_coordinate=1259)


@pytest.mark.parametrize("seed", range(40))
def test_a_random_walk_through_the_grammar_ends_in_a_reply_that_the_contract_reads(
    tokenizer: LLTokenizer, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matcher, walked = matcher_for(tokenizer), []
    while not matcher.is_accepting():
        tokens = matcher.compute_ff_tokens()
        if not tokens:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            tokens = [int(rng.choice(np.flatnonzero(bits)))]
        assert matcher.consume_tokens(tokens)
        walked += tokens
    reply = tokenizer.decode_str(walked)
    turned = re.sub(r"\[\d+,\d+,\d+,\d+\]", "[1,2,3,4]", reply)  # the grammar cannot require x0 < x1
    assert parse_reply(turned)


def test_a_plan_for_timing_is_a_plan(tokenizer: LLTokenizer) -> None:
    two = [("red block", [(412, 330, 470, 398)]), ("white cup", [(1, 2, 3, 4)])]
    reply = format_reply(two, [PICK, {"do": "place", "object": 1, "relation": "next_to"}])
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(bench_grammar(1000)))
    assert matcher.consume_tokens(tokenizer.tokenize_str(reply))
    assert matcher.is_accepting()
    assert is_inside(tokenizer, reply)
