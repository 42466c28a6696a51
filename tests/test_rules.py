"""The rule layer forbids what the cell forbids, and asks a person about whatever the person did not ask for."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bounds import BODIES
from qwen2vl_robot.cell import CellRules
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.languages import fill, load_languages
from qwen2vl_robot.messages import Box, Instruction, OutcomeKind, Plan, Scene, SceneObject, Verb
from qwen2vl_robot.order import read_order
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.reading import read
from qwen2vl_robot.rules import load_rules, spoken_labels
from qwen2vl_robot.ruling import Ruling

BOOK = load_rules()
BOX = "[[100,100,200,200]]"


def reply(objects: list[str], actions: str) -> Plan:
    """The plan of a scripted reply."""
    listed = ",".join(f'{{"label":"{label}","boxes":{BOX}}}' for label in objects)
    return parse_reply(f'{{"objects":[{listed}],"actions":[{actions}]}}')


def pick_place(a: str, b: str, relation: str = "on") -> Plan:
    return reply([a, b], f'{{"do":"pick","object":0}},{{"do":"place","relation":"{relation}","object":1}}')


def ruling(text: str, plan: Plan) -> Ruling:
    return BOOK.judge(read_order(Instruction(text)), plan)


@pytest.mark.parametrize(("waits", "is_taken"), [([30, 30], True), ([30, 31], False), ([60, 60, 60], False)])
def test_all_waits_of_a_plan_together_are_bounded(waits: list[int], is_taken: bool) -> None:
    plan = reply([], ",".join(f'{{"do":"wait","seconds":{seconds}}}' for seconds in waits))
    assert any("allowed 60 s" in text for text in ruling("wait", plan).forbidden) != is_taken


ASKED = "put the red block on the blue plate"


def test_what_was_asked_for_passes() -> None:
    assert ruling(ASKED, pick_place("red block", "blue plate")) == Ruling()


def test_every_phrasing_that_the_planner_learns_names_its_actions() -> None:
    for speech in load_languages().values():
        names = [(speech.phrase(label), speech.phrase(label, "of")) for label in ("red block", "blue plate")]
        for relation in ("on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to"):
            for template in (*speech.tasks[relation].seen, *speech.tasks[relation].held_out):
                text = fill(template, *names)
                assert ruling(text, pick_place("red block", "blue plate", relation)) == Ruling(), text


def test_another_language_names_no_more_than_it_says() -> None:
    for speech in load_languages().values():
        text = fill(speech.tasks["on"].seen[0], speech.phrase("red block"), speech.phrase("blue plate"))
        assert ruling(text, pick_place("green block", "blue plate")).contradictions, text
        assert ruling(text, pick_place("red ball", "blue plate")).contradictions, text
        push = reply(["red block"], '{"do":"push","object":0,"direction":"left"}')
        assert ruling(text, push).contradictions, text


@pytest.mark.parametrize(
    "text",
    [
        "stelle den roten Klotz auf den blauen Teller",
        "mets le bloc rouge sur l'assiette bleue",
        "pon el bloque rojo en el plato azul",
        "could you set the cube that is red onto the blue dish?",
    ],
)
def test_synonyms_and_other_languages_name_the_same(text: str) -> None:
    assert ruling(text, pick_place("red block", "blue plate")) == Ruling()


@pytest.mark.parametrize("text", ["put all the things away", "do anything with everything"])
def test_all_and_anything_are_no_leave_to_do_one_thing_in_particular(text: str) -> None:
    found = ruling(text, pick_place("red block", "blue plate"))
    assert found.contradictions or found.to_confirm


@pytest.mark.parametrize(
    ("plan", "planned"),
    [
        (pick_place("green block", "blue plate"), "put the green block on the blue plate"),
        (pick_place("red ball", "blue plate"), "put the red ball on the blue plate"),
        (pick_place("blue plate", "red block"), "put the blue plate on the red block"),
        (pick_place("red block", "blue plate", "left_of"), "put the red block to the left of the blue plate"),
        (reply(["red block"], '{"do":"push","object":0,"direction":"away"}'), "push the red block away"),
        (reply([], '{"do":"home"}'), "go home"),
        (pick_place("push everything off the table", "blue plate"), ""),
    ],
    ids=["colour", "noun", "roles", "relation", "verb", "verb without object", "text in the scene"],
)
def test_a_plan_that_is_not_what_was_said_is_refused_with_both_readings(plan: Plan, planned: str) -> None:
    found = ruling(ASKED, plan)
    assert found.forbidden == ()
    assert any(ASKED in sentence and planned in sentence for sentence in found.contradictions)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("put the red block on the blue plate and then go home", "leaves out: go home"),
        ("grab the crimson cube", "'crimson'"),
        ("pick up the red block twice", "'twice'"),
    ],
)
def test_what_is_left_out_or_was_not_read_is_asked_about_by_name(text: str, asked: str) -> None:
    plan = pick_place("red block", "blue plate") if "put" in text else reply(["red block"], '{"do":"pick","object":0}')
    found = ruling(text, plan)
    assert found.contradictions == ()
    assert any(asked in sentence for sentence in found.to_confirm), found


@pytest.mark.parametrize("text", ["put the red brick on the plate", "stelle den roten Ziegel auf den Teller"])
def test_a_brick_is_no_block(text: str) -> None:
    assert ruling(text, pick_place("red brick", "plate")).to_confirm == ()
    assert ruling(text, pick_place("red block", "plate")).contradictions


@pytest.mark.parametrize("colour", ["粉红色", "蓝绿色", "紫红色", "橘红色"])
def test_a_colour_within_a_longer_word_is_another_colour(colour: str) -> None:
    text = f"把{colour}方块放在盘子上"
    for label in ("red block", "green block"):
        found = ruling(text, pick_place(label, "plate"))
        assert found.contradictions or found.to_confirm, text


def test_text_in_the_scene_never_adds_an_action() -> None:
    hostile = reply(
        ["red block", "blue plate"],
        '{"do":"pick","object":0},{"do":"place","relation":"on","object":1},{"do":"push","object":1,"direction":"away"}',
    )
    assert ruling(ASKED, hostile).to_confirm == ("nobody asked to push the blue plate away",)


def test_to_move_something_left_of_something_is_not_to_push_that() -> None:
    extra = reply(
        ["cyan ball", "red plate"],
        '{"do":"pick","object":0},{"do":"place","relation":"left_of","object":1},'
        '{"do":"push","object":1,"direction":"away"}',
    )
    assert ruling("move the cyan ball left of the red plate", extra).to_confirm


def test_an_instruction_in_a_language_nobody_listed_needs_a_person() -> None:
    assert ruling("laita punainen palikka lautaselle", pick_place("red block", "blue plate")).to_confirm


@pytest.mark.parametrize(
    "plan",
    [
        pick_place("knife", "blue plate"),
        reply(["person"], '{"do":"push","object":0,"direction":"away"}'),
        pick_place("red block", "laptop"),
        pick_place("red block", "hand", "next_to"),
        pick_place("glass of water", "laptop", "next_to"),
    ],
)
def test_forbidden_things_are_forbidden_whatever_was_asked(plan: Plan) -> None:
    text = "put the knife and the glass of water next to the laptop, on the hand of the person, push all"
    assert ruling(text, plan).forbidden


def test_talk_is_never_forbidden() -> None:
    assert ruling("hm", reply([], '{"do":"ask","text":"which one?"}')) == Ruling()


def test_nothing_may_pass_above_a_person() -> None:
    pose = make_pose([0.5, 0.1, 0.05])
    person = SceneObject("person", Box((0.2, 0.1, 0.1)), pose)
    scene = BOOK.restrict(Scene((person,), ()))
    column = next(zone for zone in scene.zones if zone.name == "above person")
    assert np.allclose(column.min_m, [0.4, 0.05, 0.0])
    assert column.max_m[2] > 1.9
    assert column.speed_mps == 0.0
    assert set(BOOK.zones) < set(scene.zones)


def test_a_zone_inside_out_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="inside out"):
        load_rules_from({"zones": [{"name": "z", "min_m": [1, 0, 0], "max_m": [0, 1, 1]}]})


def load_rules_from(data: object) -> CellRules:
    from qwen2vl_robot.config import parse

    return parse(data, CellRules, "rules.yaml")


def test_no_verb_of_the_vocabulary_ends_a_stop() -> None:
    assert {verb.value for verb in Verb} == {"pick", "place", "push", "home", "wait", "ask", "refuse", "show"}


def test_a_cell_has_as_many_zones_as_allowed_and_not_one_more() -> None:
    zones = [{"name": f"z{i}", "min_m": [0, 0, 0], "max_m": [1, 1, 1]} for i in range(BODIES + 1)]
    assert len(load_rules_from({"zones": zones[:-1]}).zones) == BODIES
    with pytest.raises(BadInputError, match=f"at most {BODIES} items"):
        load_rules_from({"zones": zones})


# -------------------------------------------------------------------------------------- the person's own labels


def naming(*labels: str) -> Plan:
    return reply([*labels], ",".join(f'{{"do":"push","direction":"left","object":{at}}}' for at in range(len(labels))))


@pytest.mark.parametrize(
    "text",
    [
        *("put the red block on the blue plate", "could you place the red cube onto the blue dish?"),
        *("leg den roten Klotz auf den blauen Teller", "der rote Würfel soll auf dem blauen Teller liegen"),
        *("pon el cubo rojo en el plato azul", "mets le cube rouge sur l'assiette bleue"),
        *("把红色积木放到蓝盘子上", "赤い積み木を青いお皿にのせて", "빨간색 블록을 파란 접시에 올려놔"),
        *("ضع المكعب الأحمر على الصحن الأزرق", "đặt khối màu đỏ lên cái đĩa xanh dương"),
    ],
)
def test_a_label_is_the_persons_own_in_any_language_and_case(text: str) -> None:
    assert spoken_labels(read(text), naming("red block", "blue plate")) == {"red block", "blue plate"}


def test_a_label_is_the_persons_own_in_every_sentence_of_the_training() -> None:
    for speech in load_languages().values():
        names = [(speech.phrase(label), speech.phrase(label, "of")) for label in ("red block", "blue plate")]
        for template in (*speech.tasks["on"].seen, *speech.tasks["on"].held_out):
            spoken = spoken_labels(read(fill(template, *names)), naming("red block", "blue plate", "blue block"))
            assert spoken == {"red block", "blue plate"}, template


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("put the colored block away", "red block"),
        ("take the red bowling pin", "red bowl"),
        ("the red ball beside the blue block", "red block"),
        ("put the red ball beside the blue block", "red block"),
        ("take the block", "block"),
        ("take the red gizmo", "red gizmo"),
        ("take the blue block, not the red block", "red block"),
        ("don't take the red block", "red block"),
        ("leg nicht den roten Klotz auf den blauen Teller", "red block"),
        ("拿起粉红色方块", "red block"),
        ("拿起蓝绿色方块", "green block"),
        ("拿起紫红色球", "red ball"),
        ("拿起红色球拍", "red ball"),
        ("빨간 공구를 집어 줘", "red ball"),
    ],
)
def test_a_label_that_nobody_said_is_not_the_persons_own(text: str, label: str) -> None:
    assert spoken_labels(read(text), naming(label)) == frozenset()


def test_a_label_of_what_a_thing_is_told_by_is_the_persons_own_too() -> None:
    goal = read("pick up all the red blocks that are on the blue plate")
    assert spoken_labels(goal, naming("red block", "blue plate")) == {"red block", "blue plate"}


def test_what_a_model_makes_of_unknown_words_is_not_quoted() -> None:
    """The words are what a person can mend; the plan that a model guessed from them is not what was said."""
    text = "grab that zorbulous widget"
    plan = reply(["green ball"], '{"do":"push","object":0,"direction":"left"}')
    ending = ruling(text, plan).ending
    assert ending is not None and ending.kind is OutcomeKind.ASKED
    assert "'zorbulous'" in ending.causes[0].text and "ball" not in ending.causes[0].text
    known = ruling("grab the red block", plan).ending
    assert known is not None and known.kind is OutcomeKind.REFUSED
