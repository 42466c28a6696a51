"""A plan goes without asking only where it is what the sentence says; each row below once went through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwen2vl_robot.agreement import Agreement, agree, in_persons_words, still_to_do
from qwen2vl_robot.messages import (
    Action,
    Direction,
    ImageBox,
    Instruction,
    InstructionSource,
    ObjectReference,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    Verb,
    Where,
)
from qwen2vl_robot.order import Order, answer_without_motion, read_order, understand
from qwen2vl_robot.planner.phrasing import motions
from qwen2vl_robot.reading import read
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules

BOXES = (ImageBox(1, 1, 90, 90),)


def thing(label: str, where: Where | None = None) -> ObjectReference:
    return ObjectReference(label, BOXES, where)


def pick(label: str, where: Where | None = None) -> Action:
    return Action(Verb.PICK, thing(label, where))


def put(label: str, relation: str) -> Action:
    return Action(Verb.PLACE, thing(label), Relation(relation))


def push(label: str, direction: str) -> Action:
    return Action(Verb.PUSH, thing(label), direction=Direction(direction))


HOME = Action(Verb.HOME)


def wait(seconds: float) -> Action:
    return Action(Verb.WAIT, seconds=seconds)


def judged(text: str, *actions: Action) -> Agreement:
    return agree(read(text), Plan(tuple(actions), ""))


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("pick up the red block", (pick("red block"),)),
        ("grab the red cube", (pick("red block"),)),
        ("put the red block on the blue plate", (pick("red block"), put("blue plate", "on"))),
        ("pick up the red block and put it on the blue plate", (pick("red block"), put("blue plate", "on"))),
        ("put the leftmost block in the bowl", (pick("block", Where("leftmost")), put("bowl", "in"))),
        ("push the green ball to the left", (push("green ball", "left"),)),
        ("go home", (HOME,)),
        ("wait 3 seconds", (wait(3.0),)),
        ("pick up the red block, not the green one", (pick("red block"),)),
        ("Nimm den roten Block", (pick("red block"),)),
        ("把红色方块放在蓝色盘子上", (pick("red block"), put("blue plate", "on"))),
        ("put all the red blocks on the plate", (pick("red block"), put("plate", "on")) * 2),
    ],
)
def test_what_was_said_goes(text: str, actions: tuple[Action, ...]) -> None:
    assert judged(text, *actions) == Agreement()


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("put the red block on the blue plate", (pick("blue plate"), put("red block", "on"))),
        ("put the red block on the blue plate", (pick("red block"), put("blue plate", "left_of"))),
        ("put the red block to the left of the bowl", (pick("red block"), put("bowl", "right_of"))),
        ("push the red block to the left", (push("red block", "right"),)),
        ("push the red block away", (push("red block", "closer"),)),
        ("pick up the red block", (pick("green block"),)),
        ("pick up the red block", (pick("red ball"),)),
        ("put the red block on the blue plate", (pick("blue block"), put("red plate", "on"))),
        ("pick up the red block", (push("red block", "left"),)),
        ("pick up the red block", (HOME,)),
        ("go home", (pick("red block"),)),
        ("wait 3 seconds", (wait(30.0),)),
        ("pick up the leftmost block", (pick("block", Where("rightmost")),)),
        ("pick up the block", (pick("block", Where("all")),)),
        ("push the block to the left and then go home", (HOME, push("block", "left"))),
    ],
)
def test_what_contradicts_the_sentence_is_refused_with_both_readings(text: str, actions: tuple[Action, ...]) -> None:
    found = judged(text, *actions)
    assert len(found.contradictions) == 1
    assert found.contradictions[0].startswith("you said: ")
    assert "; the plan is: " in found.contradictions[0]


@pytest.mark.parametrize(
    ("text", "actions", "doubt"),
    [
        ("pick up the red block and then go home", (pick("red block"),), "the plan leaves out: go home"),
        ("put the red block on the plate", (pick("red block"),), "leaves out: put the red block on the plate"),
        ("pick up the red block", (pick("red block"), HOME), "nobody asked to go home"),
        ("pick up the red block", (pick("red block"), put("plate", "on")), ""),
        ("grab the crimson cube", (pick("block"),), "I do not know 'crimson'"),
        ("pick up the rde block", (pick("block"),), "I do not know 'rde'"),
        ("pick up the red block twice", (pick("red block"),), "'twice'"),
        ("if it is dry pick up the red block", (pick("red block"),), ""),
    ],
)
def test_what_is_left_out_added_or_unread_waits_for_a_person(
    text: str, actions: tuple[Action, ...], doubt: str
) -> None:
    found = judged(text, *actions)
    assert found != Agreement()
    assert any(doubt in sentence for sentence in (*found.doubts, *found.contradictions))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("do not pick up the red block", TaskReason.NEGATED),
        ("never put the red block on the plate", TaskReason.NEGATED),
        ("please don't put the red block on the plate", TaskReason.NEGATED),
        ("you must not pick up the red block", TaskReason.NEGATED),
        ("Nimm nicht den roten Block", TaskReason.NEGATED),
        ("ne prends pas le bloc rouge", TaskReason.NEGATED),
        ("不要拿红色方块", TaskReason.NEGATED),
        ("what would happen if you put the red block on the plate?", TaskReason.NO_ORDER),
        ("is the red block on the plate?", TaskReason.NO_ORDER),
        ("pick up the red block and don't pick up the red block", TaskReason.CONTRADICTION),
        ("put the plate on the ball", TaskReason.IMPOSSIBLE),
        ("leg den Teller auf den roten Ball", TaskReason.IMPOSSIBLE),
        ("stop", TaskReason.NO_ORDER),
        ("throw the red block", TaskReason.NOT_UNDERSTOOD),
        ("laita punainen palikka", TaskReason.NOT_UNDERSTOOD),
    ],
)
def test_a_sentence_that_orders_nothing_ends_as_what_it_is(text: str, reason: TaskReason) -> None:
    answer = answer_without_motion(read(text))
    assert answer is not None
    assert answer.reason is reason
    assert answer.kind in (OutcomeKind.REFUSED, OutcomeKind.ASKED)


def test_an_order_is_restated_in_the_plainest_words_of_its_language() -> None:
    asked = understand(Instruction("would you mind putting the red cube onto the blue dish?"))
    assert isinstance(asked, Order)
    assert asked.instruction.plainly == ("put the red block on the blue plate",)
    german = understand(Instruction("Könntest du bitte den roten Würfel nehmen?"))
    assert isinstance(german, Order)
    assert "Block" in german.instruction.plainly[0] or "Würfel" in german.instruction.plainly[0]


def test_what_the_robot_cannot_keep_to_is_not_restated_but_asked_about() -> None:
    asked = understand(Instruction("pick up the red block twice"))
    assert isinstance(asked, Order)
    assert asked.instruction.plainly == ("pick up the red block",)
    plan = Plan((pick("red block"),), "")
    assert any("twice" in doubt for doubt in agree(asked.goal, plan).doubts)


TWO = "put the red block on the plate and then put the green ball in the bowl"
FOUR = (pick("red block"), put("plate", "on"), pick("green ball"), put("bowl", "in"))


@pytest.mark.parametrize(("achieved", "left"), [(0, 2), (1, 2), (2, 1), (3, 1), (4, 0)])
def test_a_deed_is_done_once_its_last_action_is_achieved(achieved: int, left: int) -> None:
    todo = tuple(motions(read(TWO)))
    assert still_to_do(todo, Plan(FOUR, ""), achieved) == todo[2 - left :]


def test_a_deed_with_many_things_is_done_with_the_last_of_them() -> None:
    todo = tuple(motions(read("put all the red blocks on the plate and then go home")))
    plan = Plan((*(pick("red block"), put("plate", "on")) * 2, HOME), "")
    assert [len(still_to_do(todo, plan, n)) for n in range(6)] == [2, 2, 2, 2, 1, 0]


def test_a_new_plan_is_held_to_what_is_left_to_do() -> None:
    order = read_order(Instruction(TWO)).after(Plan(FOUR, ""), 2)
    assert order.instruction.plainly == ("put the green ball in the bowl",)
    assert order.instruction.is_begun
    assert agree(order.goal, Plan(FOUR[2:], ""), todo=order.todo) == Agreement()
    assert agree(order.goal, Plan(FOUR[:2], ""), todo=order.todo).contradictions


@pytest.mark.parametrize(
    "text",
    [
        "pick up the red block and pick up the green ball",
        "pick up the red block and then put the green ball in the bowl",
        "pick up all the blocks",
        "pick up two blocks",
        "nimm den roten Block und nimm dann den grünen Ball",
    ],
)
def test_what_would_fill_two_grippers_is_refused_before_anything_is_planned(text: str) -> None:
    answer = answer_without_motion(read(text))
    assert answer is not None
    assert answer.reason is TaskReason.ONE_GRIPPER


@pytest.mark.parametrize(
    "text", [TWO, "pick up the red block and go home", "pick up one block", "put two blocks in the bowl"]
)
def test_one_thing_at_a_time_is_no_reason_to_refuse(text: str) -> None:
    assert answer_without_motion(read(text)) is None


def test_a_yes_makes_an_unknown_word_known_for_that_thing_only() -> None:
    book = load_rules()
    order = read_order(Instruction("pick up the crimson block"))
    ruling = book.judge(order, Plan((pick("red block"),), ""))
    assert "I do not know 'crimson'" in ruling.to_confirm
    book.learn(ruling)
    assert not book.judge(order, Plan((pick("red block"),), "")).to_confirm
    assert book.judge(order, Plan((pick("green block"),), "")).to_confirm
    assert book.judge(read_order(Instruction("pick up the navy block")), Plan((pick("red block"),), "")).to_confirm
    assert load_rules().judge(order, Plan((pick("red block"),), "")).to_confirm


def test_words_that_nobody_read_go_to_a_planner_that_is_trusted_with_them() -> None:
    text = "laita punainen palikka"
    assert isinstance(understand(Instruction(text)), Outcome)
    asked = understand(Instruction(text), trusts_unread=True)
    assert isinstance(asked, Order)
    assert asked.instruction == Instruction(text)
    assert isinstance(understand(Instruction("do not pick up the red block"), trusts_unread=True), Outcome)


def test_unread_words_are_left_to_the_planner_only_where_the_cell_says_so(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    text = Path(resolve("rules/default.yaml")).read_text(encoding="utf-8")
    rules.write_text(text.replace("unread: confirm", "unread: allow"), encoding="utf-8")
    text, plan = "pick up the splorky red block", Plan((pick("red block"),), "")
    assert load_rules().judge(read_order(Instruction(text)), plan).to_confirm
    assert not load_rules(rules).judge(read_order(Instruction(text)), plan).to_confirm
    assert isinstance(load_rules(rules).understand(Instruction("laita punainen palikka")), Outcome)
    wrong = Plan((Action(Verb.HOME),), "")
    assert load_rules(rules).judge(read_order(Instruction(text)), wrong).contradictions
    assert load_rules(rules).judge(read_order(Instruction("pick up the knife")), plan).forbidden


@pytest.mark.parametrize(
    "text",
    [
        "put the red block on the red block",
        "put the bowl in the bowl",
        "put the red block on the blue plate and then put the blue plate on the red block",
        "setze den roten Block auf den roten Block",
        "把红色方块放在红色方块上",
    ],
)
def test_what_is_to_lie_on_itself_is_refused(text: str) -> None:
    ended = understand(Instruction(text))
    assert isinstance(ended, Outcome)
    assert ended.causes[0].reason is TaskReason.CONTRADICTION


def test_another_one_of_a_kind_is_no_contradiction() -> None:
    assert isinstance(understand(Instruction("put the red block on the other red block")), Order)


@pytest.mark.parametrize(
    "text",
    [
        "do not touch the red block, pick up a block",
        "pick up a block, but do not pick up the red one",
        "leave the red block alone and pick up a block",
        "pick up the red block but do not touch any block",
        "fass den roten Block nicht an und nimm einen Block",
        "ne touche pas au bloc rouge et prends un bloc",
        "别碰红色方块，拿起一个方块",
        "لا تلمس المكعب الأحمر والتقط مكعبا",
    ],
)
def test_what_one_half_of_a_sentence_forbids_the_other_half_does_not_allow(text: str) -> None:
    assert agree(read(text), Plan((pick("red block"),), "")).contradictions


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("do not touch the red block, pick up a block", (pick("block"),)),
        ("pick up the red block, don't move", (pick("red block"),)),
        ("put all the red blocks in the yellow bowl", (pick("red block"), put("yellow bowl", "in"))),
        ("put two red blocks in the yellow bowl", (pick("red block"), put("yellow bowl", "in"))),
        ("push two blocks to the left", (push("red block", "left"),) * 6),
        ("pick up the block that is not red", (pick("block"),)),
        ("put everything except the red block on the blue plate", (pick("block"), put("blue plate", "on"))),
        (
            "put all the blocks apart from the red one on the blue plate",
            (pick("block", Where("all")), put("blue plate", "on")),
        ),
        ("grab anything but the red block", (pick("red block"),)),
        ("leg alles außer dem roten Block auf den blauen Teller", (pick("block"), put("blue plate", "on"))),
        ("push another block to the left", (push("red block", "left"),) * 6),
    ],
)
def test_what_may_be_forbidden_and_another_number_wait_for_a_person(text: str, actions: tuple[Action, ...]) -> None:
    agreement = agree(read(text), Plan(actions, ""))
    assert agreement.contradictions or agreement.doubts


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("pick up the red block, don't touch the green one", (pick("red block"),)),
        ("don't pick up the red block, pick up the green one", (pick("green block"),)),
        ("put the red block in the bowl but do not push the bowl", (pick("red block"), put("bowl", "in"))),
        ("put all the red blocks in the bowl", (pick("red block"), put("bowl", "in")) * 2),
        ("pick up the red block, not the green one", (pick("red block"),)),
        ("put the red block on the plate, not in the bowl", (pick("red block"), put("plate", "on"))),
    ],
)
def test_what_is_forbidden_of_other_things_keeps_nothing_back(text: str, actions: tuple[Action, ...]) -> None:
    assert agree(read(text), Plan(actions, "")) == Agreement()


def test_a_thing_that_is_named_by_where_it_stands_is_that_one() -> None:
    text = "pick up the block that is on the red plate"
    assert agree(read(text), Plan((pick("block", Where("on", "blue plate")),), "")).contradictions
    assert agree(read(text), Plan((pick("block", Where("on", "red plate")),), "")) == Agreement()


def test_a_plan_that_only_places_places_what_is_held() -> None:
    goal, plan = read("put the green ball on the blue plate"), Plan((put("blue plate", "on"),), "")
    assert agree(goal, plan).contradictions
    assert agree(goal, plan, held="red block").contradictions
    assert agree(goal, plan, held="green ball") == Agreement()


def test_a_forbidden_pair_is_seen_whatever_lies_between_pick_and_place() -> None:
    place, wait = put("laptop", "next_to"), Action(Verb.WAIT, seconds=1.0)
    wish = Instruction("put the water next to the laptop")
    for actions, held in (((pick("water"), wait, place), None), ((place,), "water")):
        assert any(
            "never brought" in text
            for text in load_rules().judge(read_order(wish), Plan(actions, ""), held=held).forbidden
        )


@pytest.mark.parametrize(
    "text", ["لم تلتقط المكعب الأحمر", "لم تضع المكعب الأحمر على الطبق الأزرق", "لم يلتقط المكعب الأحمر"]
)
def test_an_arabic_denial_of_the_past_is_no_order(text: str) -> None:
    assert isinstance(understand(Instruction(text)), Outcome)


def test_an_excluded_thing_contradicts_a_plan_that_takes_it() -> None:
    assert agree(read("pick up the block, not the red one"), Plan((pick("red block"),), "")).contradictions


def test_what_came_by_voice_is_always_asked_about() -> None:
    plan = Plan((pick("red block"),), "")
    wish = Instruction("pick up the red block", InstructionSource.VOICE)
    assert any("voice" in doubt for doubt in load_rules().judge(read_order(wish), plan).to_confirm)


def _on_plate(label: str, plate: str, boxes: int = 1) -> Plan:
    block, dish = (ObjectReference(name, (ImageBox(1, 1, 9, 9),) * boxes) for name in (label, plate))
    return Plan((Action(Verb.PICK, block), Action(Verb.PLACE, dish, Relation.ON)), "", objects=(block, dish))


def test_a_colour_that_a_plan_leaves_out_is_the_persons() -> None:
    goal = read("put the red block on the blue plate")
    plan = in_persons_words(_on_plate("red block", "plate"), tuple(motions(goal)))
    assert [thing.label for thing in plan.objects] == ["red block", "blue plate"]
    assert [action.object.label for action in plan.actions if action.object] == ["red block", "blue plate"]
    assert agree(goal, plan).contradictions == ()


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("put the red block on the blue plate", _on_plate("red block", "red plate")),
        ("put the red block on the blue plate", _on_plate("red block", "bowl")),
        ("put the red block on the blue plate", _on_plate("red block", "plate", boxes=2)),
        ("put the red block on the blue block", _on_plate("block", "block")),
        ("pick up the red block", _on_plate("block", "blue plate")),
        ("put the red block on the blue plate", replace(_on_plate("red block", "plate"), is_measured=True)),
    ],
)
def test_whatever_else_a_plan_says_stays_as_it_is(text: str, plan: Plan) -> None:
    assert in_persons_words(plan, tuple(motions(read(text)))) == plan
