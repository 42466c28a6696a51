"""A sentence and everything in view → deeds; the truth is the plant's, and nothing here asks a planner or moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.agreement import agree
from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.messages import (
    Action,
    ImageBox,
    ObjectReference,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    Verb,
    Where,
)
from qwen2vl_robot.perception import Stock, Surroundings, take_stock
from qwen2vl_robot.planner.phrasing import motions
from qwen2vl_robot.plant.client import PlantProcess, PlantTruth
from qwen2vl_robot.programme import MAX_DEEDS, Programme, is_measured, programme
from qwen2vl_robot.reading import Deed, read
from qwen2vl_robot.spots import Moved
from tests.cells import PROFILE

AROUND = Surroundings.of(PROFILE)
THINGS = {
    "red block": (0.42, 0.20),
    "green block": (0.50, 0.12),
    "blue block": (0.43, 0.02),
    "green ball": (0.64, 0.18),
    "yellow ball": (0.52, 0.24),
    "blue plate": (0.58, -0.03),
    "red plate": (0.45, -0.18),
    "yellow bowl": (0.62, -0.20),
}


class Scene:
    """What was measured once, and the plant's truth of it."""

    def __init__(self, plant: PlantProcess) -> None:
        link = plant.link
        self.stock: Stock = take_stock(Observation(link.capture(), link.state()), AROUND)
        self.boxes = {name: seen.box for name, seen in plant.truth.boxes().items()}
        self.truth: PlantTruth = plant.truth

    def of(self, text: str, *moved: Moved) -> Programme | Outcome | None:
        goal = read(text)
        assert goal.is_understood, goal.unread
        return programme(goal, motions(goal), self.stock, AROUND, moved)

    def plan(self, text: str, *moved: Moved) -> Plan:
        found = self.of(text, *moved)
        assert isinstance(found, Programme), found
        assert not agree(read(text), found.plan).contradictions
        assert not agree(read(text), found.plan).doubts
        return found.plan

    def name(self, thing: ObjectReference) -> str:
        """The plant's name of what a plan's box is around."""
        (box,) = thing.boxes
        best = max(self.boxes, key=lambda name: box.iou(self.boxes[name]))
        assert box.iou(self.boxes[best]) > 0.6
        return best

    def said(self, action: Action) -> tuple[str, ...]:
        named = () if action.object is None else (self.name(action.object),)
        place = () if action.spot is None else (action.spot.text,)
        relation = () if action.relation is None else (action.relation.value,)
        return (action.verb.value, *relation, *named, *place)

    def deeds(self, text: str) -> list[tuple[str, ...]]:
        return [self.said(action) for action in self.plan(text).actions]


@pytest.fixture(scope="module")
def roomy() -> Iterator[Scene]:
    at = {"red": (0.42, 0.20), "green": (0.50, 0.12), "blue": (0.46, 0.02)}
    always = tuple(ObjectSpec(colour=colour, kind="block", position_m=xy) for colour, xy in at.items())
    with PlantProcess("scenes/tabletop.yaml", 11, always=always, count=len(always), camera="ideal") as plant:
        yield Scene(plant)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    always = tuple(
        ObjectSpec(colour=name.split()[0], kind=name.split()[1], position_m=at) for name, at in THINGS.items()
    )
    with PlantProcess("scenes/tabletop.yaml", 11, always=always, count=len(always), camera="ideal") as plant:
        yield Scene(plant)


def moved_things(deeds: list[tuple[str, ...]]) -> list[str]:
    return [deed[1] for deed in deeds if deed[0] == "pick"]


def test_all_of_a_kind_are_moved_and_nothing_else(scene: Scene) -> None:
    deeds = scene.deeds("put all the blocks in the bowl")
    assert sorted(moved_things(deeds)) == ["blue block", "green block", "red block"]
    assert [deed for deed in deeds if deed[0] == "place"] == [("place", "in", "yellow bowl", "beside the others")] * 3


@pytest.mark.parametrize("which", ["the balls", "both balls", "every ball", "all the balls", "the two balls"])
def test_a_plural_means_all_of_them(scene: Scene, which: str) -> None:
    assert sorted(moved_things(scene.deeds(f"put {which} behind the blue plate"))) == ["green ball", "yellow ball"]


def test_a_colour_narrows_what_all_means(scene: Scene) -> None:
    assert sorted(moved_things(scene.deeds("put all the green things in the bowl"))) == ["green ball", "green block"]


def test_what_is_excluded_stays(scene: Scene) -> None:
    deeds = scene.deeds("put all the blocks but the blue one in the bowl")
    assert sorted(moved_things(deeds)) == ["green block", "red block"]


def test_a_number_is_as_many(scene: Scene) -> None:
    assert len(moved_things(scene.deeds("put two blocks in the bowl"))) == 2
    asked = scene.of("put four blocks in the bowl")
    assert isinstance(asked, Outcome)
    assert "I see 3 of them, not 4" in asked.causes[0].text


def test_any_one_will_do_where_that_is_said_and_is_asked_about_where_not(scene: Scene) -> None:
    assert len(moved_things(scene.deeds("put a block in the bowl"))) == 1
    assert len(moved_things(scene.deeds("pick up any block"))) == 1
    assert scene.of("pick up a green ball") is None, "there is one: the planner finds it as ever"


def test_each_thing_gets_a_place_of_its_own(scene: Scene) -> None:
    deeds = scene.deeds("put each ball on a plate")
    assert sorted(deed[2] for deed in deeds if deed[0] == "place") == ["blue plate", "red plate"]
    asked = scene.of("put each block on a plate")
    assert isinstance(asked, Outcome)
    assert "3 things need a place of their own; I see 2" in asked.causes[0].text


def test_what_has_no_place_of_its_colour_is_asked_about(scene: Scene) -> None:
    asked = scene.of("sort the blocks onto the plates by colour")
    assert isinstance(asked, Outcome)
    assert "I see nothing green" in asked.causes[0].text


def test_a_tower_has_its_widest_thing_below_and_needs_no_deed_for_it(scene: Scene) -> None:
    deeds = scene.deeds("stack the blocks")
    width = {name: max(thing.body.shape.size_m[:2]) for name, thing in scene.truth.objects().items() if "block" in name}  # type: ignore[union-attr]
    assert len(deeds) == 4
    base = deeds[1][2]
    assert width[base] >= max(width.values()) - 0.006
    assert deeds[1][2] != deeds[3][2], "the third stands on the second"
    assert deeds[0][1] == deeds[3][2]


def test_where_no_row_has_room_that_is_said(scene: Scene) -> None:
    asked = scene.of("line up the blocks")
    assert isinstance(asked, Outcome)
    assert "no free place for a row" in asked.causes[0].text


def test_a_row_is_straight_and_leaves_room_for_fingers(roomy: Scene) -> None:
    plan = roomy.plan("line up the blocks")
    spots = [np.array(action.spot.xy_m) for action in plan.actions if action.spot is not None]
    (first,) = {"red block", "green block", "blue block"} - {roomy.name(thing) for thing in picked(plan)}
    row = np.array([roomy.truth.objects()[first].T_base_object[:2, 3], *spots])
    along = np.linalg.svd(row - row.mean(axis=0))[2][0]
    assert np.abs((row - row.mean(axis=0)) @ (-along[1], along[0])).max() < 0.005
    assert all(0.05 < gap_m < 0.16 for gap_m in np.diff(np.sort(row @ along)))


def picked(plan: Plan) -> list[ObjectReference]:
    return [action.object for action in plan.actions if action.verb is Verb.PICK and action.object is not None]


def test_a_swap_puts_one_aside_and_both_where_the_other_was(scene: Scene) -> None:
    plan = scene.plan("swap the blue block and the green ball")
    names = [scene.name(thing) for thing in picked(plan)]
    aside, blue_to, green_to = [action.spot.xy_m for action in plan.actions if action.spot is not None]
    assert names == ["blue block", "green ball", "blue block"]
    assert np.linalg.norm(np.array(blue_to) - THINGS["blue block"]) < 0.01, "where the ball goes"
    assert np.linalg.norm(np.array(green_to) - THINGS["green ball"]) < 0.01
    assert all(np.linalg.norm(np.array(aside) - at) > 0.06 for at in THINGS.values())


def test_things_are_sorted_onto_what_has_their_colour(scene: Scene) -> None:
    deeds = scene.deeds("sort the blocks but the green one onto the plates by colour")
    onto = {deeds[at][1]: deeds[at + 1][2] for at in range(0, len(deeds), 2)}
    assert onto == {"red block": "red plate", "blue block": "blue plate"}


def test_a_distance_is_kept_in_the_pictures_direction(scene: Scene) -> None:
    (spot,) = [action.spot for action in scene.plan("move the blue block 10 cm to the left").actions if action.spot]
    off = np.array(spot.xy_m) - THINGS["blue block"]
    assert np.linalg.norm(off) == pytest.approx(0.10, abs=0.01)
    boxes = scene.boxes["blue block"]
    assert boxes.x0 > 0


def test_back_is_where_it_was_before_and_nobody_knows_that_of_what_was_never_moved(scene: Scene) -> None:
    blue = THINGS["blue block"]
    (spot,) = [a.spot for a in scene.plan("put the blue block back", Moved((0.5, 0.3), blue)).actions if a.spot]
    assert spot.xy_m == (0.5, 0.3)
    (spot,) = [a.spot for a in scene.plan("put it back where it was", Moved((0.5, 0.3), blue)).actions if a.spot]
    assert spot.xy_m == (0.5, 0.3)
    for asked in (scene.of("put the green ball back", Moved((0.5, 0.3), blue)), scene.of("put it back")):
        assert isinstance(asked, Outcome)
        assert asked.kind is OutcomeKind.ASKED


def test_a_word_that_no_colour_and_shape_tells_is_the_planners(scene: Scene) -> None:
    assert scene.of("put all the ducks in the bowl") is None


def test_what_is_not_there_or_is_one_of_several_is_a_question(scene: Scene) -> None:
    for text, said in (
        ("put all the cylinders in the bowl", "do not see"),
        ("swap the red block and the ball", "Which one do you mean"),
        ("put all the blocks on the plate", "Which one do you mean"),
        ("swap the green ball and the green ball", "You named"),
    ):
        asked = scene.of(text)
        assert isinstance(asked, Outcome), text
        assert (asked.kind, said in asked.causes[0].text) == (OutcomeKind.ASKED, True), asked


def test_a_long_programme_comes_in_parts(scene: Scene) -> None:
    found = scene.of("put all the blocks behind the blue plate and then put all the blocks in the bowl")
    assert isinstance(found, Programme)
    assert len([a for a in found.plan.actions if a.verb is Verb.PICK]) == MAX_DEEDS
    assert found.is_whole


@pytest.mark.parametrize("text", ["push everything to the left", "move all the things 5 cm to the left"])
def test_what_a_look_does_not_show_as_done_is_never_begun_in_parts(scene: Scene, text: str) -> None:
    asked = scene.of(text)
    assert isinstance(asked, Outcome), "a second part would move the same things again"
    assert "8 deeds" in asked.causes[0].text


@pytest.mark.parametrize(
    "text",
    ["pick up the red block", "put the red block on the plate", "go home", "put the red block back on the plate"],
)
def test_one_thing_that_is_named_is_the_planners(text: str) -> None:
    assert not is_measured(motions(read(text)))


# ------------------------------------------------------------------------------------ what a plan may not do


def plan_of(*actions: Action, is_measured: bool = True) -> Plan:
    return Plan(actions, "", is_measured=is_measured)


def thing(label: str) -> ObjectReference:
    return ObjectReference(label, (ImageBox(1, 1, 9, 9),))


PICK_RED = Action(Verb.PICK, thing("red block"))


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("stack the blocks", (Action(Verb.PICK, thing("green ball")), Action(Verb.PLACE, thing("block"), Relation.ON))),
        ("stack the blocks", (PICK_RED, Action(Verb.PLACE, thing("blue bowl"), Relation.IN))),
        ("swap the red block and the blue block", (PICK_RED,)),
        ("line up the blocks", (Action(Verb.PUSH, thing("red block")),)),
        (
            "put the blocks in the bowl",
            (Action(Verb.PICK, thing("ball")), Action(Verb.PLACE, thing("bowl"), Relation.IN)),
        ),
    ],
)
def test_a_measured_plan_is_held_to_the_sentence_as_any_other(text: str, actions: tuple[Action, ...]) -> None:
    assert agree(read(text), plan_of(*actions)).contradictions


def test_a_model_may_not_say_how_things_are_arranged() -> None:
    actions = (Action(Verb.PICK, thing("red block")), Action(Verb.PLACE, thing("blue block"), Relation.ON))
    assert not agree(read("stack the blocks"), plan_of(*actions)).contradictions
    assert agree(read("stack the blocks"), plan_of(*actions, is_measured=False)).contradictions


SAID = {
    "put all the blocks in the bowl": (
        "gather the blocks in the bowl",
        "clear the blocks into the bowl",
        "tidy the blocks away into the bowl",
        "the blocks go in the bowl",
        "leg alle Blöcke in die Schüssel",
        "pon todos los bloques en el cuenco",
        "mets tous les blocs dans le bol",
        "把所有积木放进碗里",
        "ブロックを全部ボウルに入れて",
        "블록을 모두 그릇에 넣어",
        "đặt tất cả khối vào bát",
        "ضع كل المكعبات في الوعاء",
    ),
    "stack all the blocks": (
        "stapel die Blöcke",
        "staple alle Klötze",
        "apila los bloques",
        "empile les blocs",
        "把积木叠起来",
        "ブロックを積み上げて",
        "블록을 쌓아 줘",
        "xếp chồng các khối",
        "كدس المكعبات",
    ),
    "sort all the blocks by colour": (
        "sortier die Blöcke nach Farbe",
        "ordena los bloques por color",
        "trie les blocs par couleur",
    ),
    "swap the red block and the green ball": (
        "let the red block and the green ball trade places",
        "交换红色积木和绿色球的位置",
        "بدل مكان المكعب الأحمر والكرة الخضراء",
        "tausch den roten Block und den grünen Ball",
        "intercambia el bloque rojo y la pelota verde",
        "échange le bloc rouge et la balle verte",
        "交换红色积木和绿色球",
        "赤いブロックと緑のボールを入れ替えて",
        "빨간 블록과 초록 공을 바꿔 줘",
        "đổi chỗ khối đỏ và quả bóng xanh lá",
        "بدل المكعب الأحمر والكرة الخضراء",
    ),
    "put the red block back where it was": (
        "leg den roten Block zurück an seinen Platz",
        "pon el bloque rojo donde estaba",
        "remets le bloc rouge à sa place",
        "把红色积木放回原处",
        "赤いブロックを元の場所に戻して",
        "빨간 블록을 제자리에 놓아 줘",
        "ضع المكعب الأحمر في مكانه",
    ),
    "put the red block 10 cm to the left": ("leg den roten Block 10 cm nach links",),
    "clear the plate": (
        "empty the plate",
        "take everything off the plate",
        "räum den Teller ab",
        "vacía el plato",
        "vide l'assiette",
        "把盘子清空",
        "お皿を空にして",
        "접시를 비워 줘",
        "dọn sạch cái đĩa",
        "أفرغ الطبق",
    ),
    "clear all the blocks": ("unstack the blocks", "take the blocks apart"),
    "put all the ones in the bowl": (
        "clear the table into the bowl",
        "全部ボウルに片付けて",
        "전부 그릇에 담아",
        "dọn hết mọi thứ vào bát",
        "اجمع كل شيء في الوعاء",
    ),
    "put the red block in the near left corner of the table": (
        "put the red block in the bottom left corner",
        "stell den roten Block in die vordere linke Ecke",
        "pon el bloque rojo en la esquina inferior izquierda",
        "mets le bloc rouge dans le coin avant gauche",
        "把红色方块放到桌子的左下角",
        "ضع المكعب الأحمر في الزاوية الأمامية اليسرى",
    ),
    "pick up the block nearest to the red plate": (
        "take the block that is closest to the red plate",
        "coge el bloque más cercano al plato rojo",
        "prends le bloc le plus proche de l'assiette rouge",
    ),
    "line up all the blocks": (
        "leg die Blöcke in eine Reihe",
        "alinea los bloques",
        "aligne les blocs",
        "把积木排成一排",
        "ブロックを一列に並べて",
        "블록을 한 줄로 놓아 줘",
        "xếp các khối thành một hàng",
    ),
}


@pytest.mark.parametrize(("means", "text"), [(means, text) for means, texts in SAID.items() for text in texts])
def test_the_same_is_read_in_every_language(means: str, text: str) -> None:
    goal = read(text)
    assert goal.is_understood
    assert goal.describe() == means
    assert is_measured(motions(goal))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("pick up the second block from the left", "green block"),
        ("nimm den zweiten Block von links", "green block"),
        ("pick up the third block from the left", "red block"),
        ("take the second block from the right", "green block"),
        ("pick up the second leftmost block", "green block"),
        ("왼쪽에서 두 번째 블록을 집어", "green block"),
        ("拿左边第二个方块", "green block"),
    ],
)
def test_an_ordinal_counts_from_where_it_says(scene: Scene, said: str, meant: str) -> None:
    assert scene.deeds(said) == [("pick", meant)]


@pytest.mark.parametrize(
    "said", ["pick up the second block", "pick up the first block", "take the fifth block from the left"]
)
def test_an_ordinal_that_counts_from_nowhere_or_too_far_is_a_question(scene: Scene, said: str) -> None:
    assert isinstance(scene.of(said), Outcome)


def test_an_ordinal_among_things_of_which_one_may_be_meant_or_not_is_a_question(scene: Scene) -> None:
    items = [
        i if i.label != "blue block" else replace(i, is_explained=False, is_clear=False) for i in scene.stock.items
    ]
    unsure = replace(scene.stock, items=tuple(items))
    goal = read("pick up the second block from the left")
    outcome = programme(goal, motions(goal), unsure, AROUND, ())
    assert isinstance(outcome, Outcome) and outcome.kind is OutcomeKind.ASKED
    assert "not sure" in outcome.reasons[0]


def test_the_two_leftmost_are_two(scene: Scene) -> None:
    deeds = scene.deeds("put the two leftmost blocks in the bowl")
    assert sorted(moved_things(deeds)) == ["blue block", "green block"]


def test_the_other_one_is_the_only_other_one(scene: Scene) -> None:
    assert scene.deeds("put the green ball in the bowl and pick up the other ball")[-1] == ("pick", "yellow ball")
    for open_words in ("pick up the other ball", "put the red block in the bowl and pick up the other block"):
        assert isinstance(scene.of(open_words), Outcome)


def test_everything_is_what_can_be_picked_up(scene: Scene) -> None:
    deeds = scene.plan("put everything in the bowl").actions
    assert not any(a.verb is Verb.PICK and a.object and a.object.label.endswith(("plate", "bowl")) for a in deeds)


def test_a_distance_beyond_the_table_is_asked_about_with_its_number(scene: Scene) -> None:
    asked = scene.of("move the red block 3 meters to the left")
    assert isinstance(asked, Outcome)
    assert "cm beyond the table" in asked.causes[0].text


def test_between_two_things_is_the_middle_of_what_is_free(scene: Scene) -> None:
    plan = scene.plan("put the red block between the green ball and the blue plate")
    spot = plan.actions[-1].spot
    assert spot is not None
    assert np.allclose(spot.xy_m, (0.61, 0.10), atol=0.03)


def test_a_place_between_without_room_is_a_question_with_its_numbers(scene: Scene) -> None:
    asked = scene.of("put the red block between the blue plate and the yellow bowl")
    assert isinstance(asked, Outcome)
    assert "cm are free" in asked.causes[0].text and "needs" in asked.causes[0].text


@pytest.mark.parametrize(
    ("said", "side"),
    [
        ("put the blue block in the left half of the table", "left"),
        ("leg den blauen Block in die rechte Hälfte des Tisches", "right"),
        ("put the blue block in the far half of the table", "far"),
        ("把蓝色方块放到桌子的左半边", "left"),
    ],
)
def test_a_half_of_the_table_is_a_place_with_room(roomy: Scene, said: str, side: str) -> None:
    found = roomy.of(said)
    sides = roomy.stock.sides
    assert sides is not None
    if isinstance(found, Outcome):
        assert found.kind is OutcomeKind.ACHIEVED, found
        return
    assert found is not None
    spot = found.plan.actions[-1].spot
    assert spot is not None
    left, behind = np.array(sides.left_xy), np.array(sides.behind_xy)
    way = {"left": left, "right": -left, "far": behind}[side]
    assert (np.array(spot.xy_m) - roomy.stock.area_m.mean(axis=0)) @ way > 0.02


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("pick up the block nearest to the red plate", "blue block"),
        ("pick up the block farthest from the red plate", "red block"),
        ("pick up the ball nearest the yellow bowl", "green ball"),
    ],
)
def test_a_thing_is_told_by_how_near_it_is_to_another(scene: Scene, said: str, meant: str) -> None:
    assert scene.deeds(said) == [("pick", meant)]


@pytest.mark.parametrize("said", ["pick up the block nearest to the plate", "pick up the block nearest to the cup"])
def test_what_is_measured_from_may_not_be_open(scene: Scene, said: str) -> None:
    asked = scene.of(said)
    assert isinstance(asked, Outcome) and asked.kind is OutcomeKind.ASKED


def test_a_model_may_not_choose_what_is_nearest_to_a_thing() -> None:
    goal = read("pick up the duck nearest to the red plate")
    for where in (None, Where("nearest")):
        plan = plan_of(Action(Verb.PICK, ObjectReference("duck", (ImageBox(1, 1, 9, 9),), where)), is_measured=False)
        assert agree(goal, plan).contradictions


def put_on(stock: Stock, label: str, base: str) -> Stock:
    """The same things, one of them on another."""
    at = {item.label: item for item in stock.items}
    pose = np.array(at[label].object.T_base_object)
    pose[:2, 3] = at[base].object.T_base_object[:2, 3]
    pose[2, 3] += at[base].object.top_m - at[label].object.bottom_m
    pose.setflags(write=False)
    body = replace(at[label].object, T_base_object=pose)
    return replace(stock, items=tuple(replace(i, object=body) if i.label == label else i for i in stock.items))


def test_what_stands_on_a_thing_is_cleared_and_nothing_else(scene: Scene) -> None:
    stock = put_on(put_on(scene.stock, "red block", "blue plate"), "green block", "red block")

    def cleared(said: str) -> Programme | Outcome | None:
        goal = read(said)
        found = programme(goal, motions(goal), stock, AROUND, ())
        if isinstance(found, Programme):
            assert not agree(goal, found.plan).contradictions and not agree(goal, found.plan).doubts
        return found

    for said, meant in (
        ("clear the blue plate", ["green block", "red block"]),
        ("take everything off the blue plate", ["green block", "red block"]),
        ("unstack the blocks", ["green block"]),
        ("clear the blocks off the blue plate", ["green block", "red block"]),
    ):
        found = cleared(said)
        assert isinstance(found, Programme), said
        assert [scene.name(thing) for thing in picked(found.plan)] == meant, said
        spots = [np.array(action.spot.xy_m) for action in found.plan.actions if action.spot is not None]
        assert all(np.linalg.norm(spot - THINGS["blue plate"]) > 0.09 for spot in spots)
    empty, asked = cleared("empty the bowl"), cleared("clear the table")
    assert isinstance(empty, Outcome) and empty.kind is OutcomeKind.ACHIEVED
    assert isinstance(asked, Outcome) and asked.kind is OutcomeKind.ASKED


@pytest.mark.parametrize(
    ("said", "unread"),
    [
        ("put the ball in the empty bowl", "empty"),
        ("pick up the clear block", "clear"),
        ("leg den Ball in die leere Schüssel", "leere"),
        ("mets la balle dans l'assiette vide", "vide"),
        ("pon la pelota en la taza vacía", "vacía"),
    ],
)
def test_a_quality_is_no_order(said: str, unread: str) -> None:
    goal = read(said)
    assert goal.unread == (unread,)
    assert [step.deed for step in goal.steps if step.deed is Deed.CLEAR] == []


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("pick up the last block on the right", "pick up the rightmost block"),
        ("pick up the last block from the right", "pick up the leftmost block"),
        ("heb den letzten Block rechts auf", "pick up the rightmost block"),
        ("pick up the last block", "pick up the last block"),
        ("put the red block and the blue block next to each other", "put the red block next to the blue block"),
        (
            "put the red block and the blue one in the bowl",
            "put the red block in the bowl and then put the blue block in the bowl",
        ),
        ("line the blocks up", "line up all the blocks"),
        ("do not clear the plate", "do not clear the plate"),
        ("take the red block to the blue plate", "put the red block on the blue plate"),
        ("push the red block 5 cm to the left", "put the red block 5 cm to the left"),
        ("I want the red block in the middle of the table", "put the red block in the middle of the table"),
        ("gather the red block", "pick up the red block"),
    ],
)
def test_more_ways_to_say_what_is_meant(said: str, means: str) -> None:
    goal = read(said)
    assert goal.is_understood and goal.describe() == means


def test_a_table_seen_askew_keeps_its_corners() -> None:
    with PlantProcess("scenes/tabletop.yaml", 0, camera="ideal") as plant:
        askew = Scene(plant)
    sides = askew.stock.sides
    assert sides is not None and 0.3 < abs(sides.left_xy[0]) < 0.6, "the camera stands some 25 degrees beside the front"
    low, high = askew.stock.area_m
    for corner, sign in (
        ("far left", (-1, -1)),
        ("near left", (1, -1)),
    ):
        (spot,) = [a.spot for a in askew.plan(f"put the yellow ball in the {corner} corner").actions if a.spot]
        shares = (np.array(spot.xy_m) - (low + high) / 2) / (high - low) * 2 * sign
        assert (shares >= 1 / 3 - 1e-6).all(), corner
    anywhere = askew.of("put the red ball in a corner of the table")
    assert isinstance(anywhere, Outcome) and anywhere.kind is OutcomeKind.ACHIEVED, "it lies in one"
