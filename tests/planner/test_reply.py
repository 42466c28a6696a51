"""Replies are untrusted: the parser accepts what fits the contract and refuses any other reply whole."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import (
    Direction,
    ImageBox,
    ObjectReference,
    Plan,
    Relation,
    Verb,
    Where,
)
from qwen2vl_robot.planner.contract import (
    MAX_ACTIONS,
    BoxConvention,
)
from qwen2vl_robot.planner.reply import format_reply, parse_reply
from qwen2vl_robot.reasons import PlannerReason

RED = ("red block", [(412, 330, 470, 398)])
BOWL = ("blue bowl", [(530, 411, 702, 566)])
PICK = {"do": "pick", "object": 0}
PLACE = {"do": "place", "object": 1, "relation": "in"}


def test_a_pick_and_place_reply_becomes_two_grounded_actions() -> None:
    plan = parse_reply(format_reply([RED, BOWL], [PICK, PLACE]))
    assert [a.verb for a in plan.actions] == [Verb.PICK, Verb.PLACE]
    assert plan.actions[0].object is not None
    assert plan.actions[0].object.label == "red block"
    assert plan.actions[1].relation is Relation.IN
    assert plan.actions[1].object is not None
    assert plan.actions[1].object.boxes == (ImageBox(530, 411, 702, 566),)


def test_a_reply_in_a_code_fence_with_its_end_token_is_read() -> None:
    assert parse_reply("```json\n" + format_reply([RED], [PICK]) + "\n```<|im_end|>").actions[0].verb is Verb.PICK


def test_boxes_in_pixels_of_the_resized_image_become_thousandths() -> None:
    reply = format_reply([("ball", [(84, 63, 168, 126)])], [PICK])
    plan = parse_reply(reply, convention=BoxConvention.RESIZED_PIXELS, image_size_px=(336, 252))
    assert plan.actions[0].object is not None
    assert plan.actions[0].object.boxes == (ImageBox(250.0, 250.0, 500.0, 500.0),)


@pytest.mark.parametrize(
    "markup",
    [
        "pick <|object_ref_start|>red block<|object_ref_end|><|box_start|>(412,330),(470,398)<|box_end|>\n"
        "place in <|object_ref_start|>blue bowl<|object_ref_end|><|box_start|>(530,411),(702,566)<|box_end|>",
        "pick red block(412,330),(470,398)\nplace in blue bowl(530,411),(702,566)",
    ],
)
def test_qwens_own_box_markup_parses_with_and_without_its_special_tokens(markup: str) -> None:
    plan = parse_reply(markup)
    assert plan.actions == parse_reply(format_reply([RED, BOWL], [PICK, PLACE])).actions


def test_a_push_carries_its_direction() -> None:
    plan = parse_reply(format_reply([RED], [{"do": "push", "object": 0, "direction": "away"}]))
    assert plan.actions[0].direction is Direction.AWAY


def test_an_absent_object_leaves_only_ask_and_refuse() -> None:
    asked = parse_reply(format_reply([("red block", [])], [{"do": "ask", "text": "I see no red block."}]))
    assert asked.actions[0].verb is Verb.ASK
    with pytest.raises(PlannerError, match="needs a box"):
        parse_reply(format_reply([("red block", [])], [PICK]))


HOSTILE = {
    "nothing": "",
    "prose": "Sure! I will pick up the red block for you.",
    "half a JSON": '{"objects":[{"label":"red',
    "a list": "[]",
    "a key twice": '{"objects":[],"objects":[],"actions":[{"do":"home"}]}',
    "an unknown field": '{"objects":[],"actions":[{"do":"home","force":9}]}',
    "an unknown verb": '{"objects":[],"actions":[{"do":"throw"}]}',
    "NaN": '{"objects":[{"label":"a","boxes":[[NaN,1,2,3]]}],"actions":[{"do":"pick","object":0}]}',
    "Infinity": '{"objects":[{"label":"a","boxes":[[0,0,Infinity,3]]}],"actions":[{"do":"pick","object":0}]}',
    "a coordinate of 10^9": format_reply([("a", [(0, 0, 10**9, 5)])], [PICK]),
    "a coordinate far below zero": format_reply([("a", [(-500, 0, 10, 5)])], [PICK]),
    "a box turned round": format_reply([("a", [(10, 10, 5, 20)])], [PICK]),
    "an empty box": format_reply([("a", [(10, 10, 10, 20)])], [PICK]),
    "an index that is not there": format_reply([RED], [{"do": "pick", "object": 3}]),
    "a negative index": format_reply([RED], [{"do": "pick", "object": -1}]),
    "a true for an index": format_reply([RED], [{"do": "pick", "object": True}]),
    "a place without a relation": format_reply([RED, BOWL], [PICK, {"do": "place", "object": 1}]),
    "a pick with a relation": format_reply([RED], [{"do": "pick", "object": 0, "relation": "on"}]),
    "no action": '{"objects":[],"actions":[]}',
    "too many actions": format_reply([], [{"do": "home"}] * (MAX_ACTIONS + 1)),
    "100,000 actions": format_reply([], [{"do": "home"}] * 100_000),
    "too many objects": format_reply([RED] * 9, [PICK]),
    "a wait of a year": format_reply([], [{"do": "wait", "seconds": 3e7}]),
    "talk and motion": format_reply([RED], [{"do": "ask", "text": "?"}, PICK]),
    "two picks": format_reply([RED, BOWL], [PICK, {"do": "pick", "object": 1}]),
    "two places": format_reply([RED, BOWL], [PICK, PLACE, PLACE]),
    "a label of control characters": format_reply([("\x00\x07", [(1, 1, 9, 9)])], [PICK]),
    "a label of control tokens": format_reply([("<|im_end|>", [(1, 1, 9, 9)])], [PICK]),
    "a deep nest": "{" * 3 + '"objects":' + "[" * 5000,
    "markup with prose": "pick red block(1,2),(3,4) and then ignore the gate",
}
WHY = {
    "half a JSON": PlannerReason.REPLY_CUT,
    "a deep nest": PlannerReason.REPLY_CUT,
    "a list": PlannerReason.NO_ACTIONS,
    "a coordinate of 10^9": PlannerReason.BOX_OUTSIDE,
    "a coordinate far below zero": PlannerReason.BOX_OUTSIDE,
    "a box turned round": PlannerReason.BOX_CORNERS,
    "an empty box": PlannerReason.BOX_FORM,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_refused_whole(name: str) -> None:
    with pytest.raises(PlannerError) as refused:
        parse_reply(HOSTILE[name])
    assert "\n" not in str(refused.value)
    assert refused.value.reason is WHY.get(name, PlannerReason.BAD_REPLY)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_text_crashes_the_parser(reply: str) -> None:
    with contextlib.suppress(PlannerError):
        assert isinstance(parse_reply(reply), Plan)


side = st.integers(0, 990)


@settings(max_examples=200, deadline=None)
@given(st.tuples(side, side), st.integers(1, 10), st.integers(1, 10))
def test_what_is_formatted_parses_back(corner: tuple[int, int], w: int, h: int) -> None:
    x, y = corner
    plan = parse_reply(format_reply([("a b", [(x, y, x + w, y + h)])], [PICK]))
    assert plan.actions[0].object is not None
    assert plan.actions[0].object.boxes == (ImageBox(x, y, x + w, y + h),)


ALL = ("block", [(1, 2, 30, 40), (100, 2, 130, 40)], Where("all"))


def test_what_is_done_to_all_is_done_one_by_one() -> None:
    plan = parse_reply(format_reply([ALL, BOWL], [PICK, PLACE]))
    assert [a.verb for a in plan.actions] == [Verb.PICK, Verb.PLACE] * 2
    assert [a.object and len(a.object.boxes) for a in plan.actions] == [1, 1, 1, 1]
    assert plan.actions[0].object != plan.actions[2].object
    pushed = parse_reply(format_reply([ALL], [{"do": "push", "object": 0, "direction": "left"}]))
    assert len(pushed.actions) == 2


def test_a_hand_takes_one_thing_at_a_time() -> None:
    with pytest.raises(PlannerError, match="one thing at a time, not all of 'block'"):
        parse_reply(format_reply([ALL], [PICK]))
    many = ("block", [(10 * k, 2, 10 * k + 5, 40) for k in range(7)], Where("all"))
    with pytest.raises(PlannerError, match="14 actions, at most 12"):
        parse_reply(format_reply([many, BOWL], [PICK, PLACE]))


def test_a_plan_keeps_what_only_a_relation_refers_to() -> None:
    related = ("block", [(1, 2, 30, 40), (100, 2, 130, 40)], Where("left_of", "blue bowl"))
    plan = parse_reply(format_reply([related, ("blue bowl", [(5, 5, 9, 9)])], [PICK]))
    assert [o.label for o in plan.objects] == ["block", "blue bowl"]
    assert plan.actions[0].object == plan.objects[0]


def test_what_the_person_did_not_say_chooses_nothing() -> None:
    for kind in ("all", "leftmost"):
        reply = format_reply([("block", ALL[1], Where(kind)), BOWL], [PICK, PLACE])
        for said in ("put the block in the blue bowl", "把方块放进蓝色碗里"):
            plan = parse_reply(reply, said=said)
            assert plan.actions[0].object == ObjectReference("block", plan.objects[0].boxes)
            assert len(plan.objects[0].boxes) == 2
    both = parse_reply(format_reply([ALL, BOWL], [PICK, PLACE]), said="put both blocks in the blue bowl")
    assert len(both.actions) == 4
    left = parse_reply(format_reply([("block", ALL[1], Where("leftmost"))], [PICK]), said="拿起最左边的方块")
    assert left.objects[0].where == Where("leftmost")
