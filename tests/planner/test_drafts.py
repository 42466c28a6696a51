"""A draft repeats what followed the same shape before; it never guesses a coordinate."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.planner.drafts import MAX_DRAFT_TOKENS, Drafts
from qwen2vl_robot.planner.reply import format_reply

A, B = ("red block", [(1, 2, 3, 4)]), ("blue plate", [(5, 6, 7, 8)])
PICK = {"do": "pick", "object": 0}
PLACE = {"do": "place", "object": 1, "relation": "on"}
ON = format_reply([A, B], [PICK, PLACE])
_PART = re.compile(r" ?[a-zA-Z_]+|\d+|[^\w\s]")
TEXTS = list(dict.fromkeys(_PART.findall(ON + " put the red ball on my black bowl 9 10")))


def tokens(text: str) -> list[int]:
    return [TEXTS.index(part) for part in _PART.findall(text)]


def say(ids: list[int]) -> str:
    return "".join(TEXTS[i] for i in ids)


def drafted(prompt: str, reply: str) -> str:
    return say(Drafts(TEXTS, [tokens(ON)]).propose(tokens(prompt), tokens(reply)))


def test_the_actions_are_drafted_behind_the_last_box() -> None:
    head = ON[: ON.index("]]}],")].replace("1,2,3,4", "9,10,9,10").replace("red block", "blue plate")
    draft = drafted("", head)
    assert draft.startswith(']]}],"actions":[{"do":"pick"')
    assert ON.endswith(draft) or draft in ON


def test_a_label_is_drafted_as_the_person_said_it() -> None:
    assert drafted(" put the red block on the black bowl", '{"objects":[{"label":"red') == ' block","boxes":[['


def test_a_coordinate_is_never_drafted() -> None:
    assert drafted("", '{"objects":[{"label":"red block","boxes":[[') == ""


def test_without_a_like_shape_there_is_no_draft() -> None:
    assert drafted("", '{"actions":[') == ""


@given(st.lists(st.integers(0, len(TEXTS) - 1)), st.lists(st.integers(0, len(TEXTS) - 1), min_size=1))
def test_a_draft_is_bounded_and_made_of_tokens(prompt: list[int], reply: list[int]) -> None:
    draft = Drafts(TEXTS, [tokens(ON)]).propose(prompt, reply)
    assert len(draft) <= MAX_DRAFT_TOKENS + 1
    assert all(0 <= token < len(TEXTS) for token in draft)
