"""Answers come from the measured scene, the memory of tasks and the cell's rules; nothing moves, nobody plans."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import (
    ApprovedMotion,
    CameraFrame,
    Instruction,
    Motion,
    OutcomeKind,
    RobotState,
    Scene,
    Verdict,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.scripted import ScriptedPlanner
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reasons import ObservationReason, TaskReason
from tests.cells import PROFILE

THERE = (("red", "block"), ("blue", "block"), ("blue", "plate"), ("green", "ball"))


class Watched:
    """The plant's link, which counts looks and motions and can be told to see nothing."""

    def __init__(self, plant: PlantProcess) -> None:
        self._link, self.looks, self.motions, self.is_blind = plant.link, 0, 0, False

    def capture(self) -> CameraFrame:
        self.looks += 1
        if self.is_blind:
            raise ObservationError("no frame came", reason=ObservationReason.NO_FRAME)
        return self._link.capture()

    def newest(self, since_ns: int) -> CameraFrame | None:
        return self._link.newest(since_ns)

    def state(self) -> RobotState:
        return self._link.state()

    def execute(self, approved: ApprovedMotion) -> None:
        self.motions += 1

    def is_moving(self) -> bool:
        return False

    def has_gripped(self) -> bool:
        return False

    def go_on(self) -> int:
        return 0

    def stop(self) -> None:
        """Nothing moves."""


class NeverRehearses:
    """A twin that nobody may ask."""

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        raise AssertionError(f"{motion.robot} was to be rehearsed for a question")


@pytest.fixture(scope="module")
def plant() -> Iterator[PlantProcess]:
    always = tuple(ObjectSpec(colour=c, kind=k) for c, k in THERE)
    with PlantProcess("scenes/tabletop.yaml", 66, always=always, count=len(THERE), camera="ideal") as plant:
        yield plant


@pytest.fixture
def watched(plant: PlantProcess) -> Watched:
    return Watched(plant)


@pytest.fixture
def planner() -> ScriptedPlanner:
    return ScriptedPlanner()


@pytest.fixture
def controller(plant: PlantProcess, watched: Watched, planner: ScriptedPlanner) -> Controller:
    return assemble(Surroundings.of(PROFILE), Ports(watched, watched, plant.link, planner, NeverRehearses()))


def say(controller: Controller, text: str) -> str:
    outcome = controller.run(Instruction(text)).outcome
    assert (outcome.kind, outcome.reason) == (OutcomeKind.ANSWERED, TaskReason.ANSWERED), outcome
    return outcome.reasons[0]


def test_everything_on_the_table_is_named(controller: Controller) -> None:
    told = say(controller, "what is on the table?")
    assert all(f"the {colour} {kind}" in told for colour, kind in THERE)


def test_nothing_moves_and_nobody_plans(controller: Controller, watched: Watched, planner: ScriptedPlanner) -> None:
    for text in ("how many blocks are there?", "is there a red block?", "where is the red block?", "what can you do?"):
        report = controller.run(Instruction(text))
        assert (report.plans, report.steps) == ((), ())
    assert (watched.motions, planner.asked) == (0, [])


def test_things_are_counted_by_what_they_are(controller: Controller) -> None:
    assert say(controller, "how many blocks are there?").startswith("I see 2: ")
    assert say(controller, "how many red blocks are there?").startswith("I see 1: the red block")
    assert say(controller, "how many yellow balls are there?").startswith("I see 0.")


def test_what_is_not_seen_is_said_with_what_is_hidden(controller: Controller) -> None:
    told = say(controller, "is there a yellow bowl?")
    assert told.startswith("I do not see the yellow bowl.")
    assert "% of the table is hidden from me" in told


def test_a_place_is_where_the_plant_has_it(controller: Controller, plant: PlantProcess) -> None:
    told = say(controller, "where is the red block?")
    found = re.search(r"x (\S+) m, y (\S+) m", told)
    assert found is not None
    x_m, y_m = map(float, found.groups())
    truth = plant.truth.objects()["red block"].T_base_object[:2, 3]
    assert abs(x_m - truth[0]) < 0.02
    assert abs(y_m - truth[1]) < 0.02


def test_a_thing_that_is_elsewhere_is_said_to_be_there(controller: Controller) -> None:
    told = say(controller, "is the red block on the blue plate?")
    assert told.startswith("I do not see the red block that is on the blue plate. I see the red block")


def test_what_colour_and_shape_cannot_tell_is_said_so(controller: Controller) -> None:
    assert say(controller, "is there a duck?") == "I cannot tell the duck by colour and shape."


def test_a_refusal_is_explained_by_its_own_causes(controller: Controller, watched: Watched) -> None:
    assert say(controller, "why did you refuse?") == "You have not told me to do anything yet."
    refused = controller.run(Instruction("do not touch the ball")).outcome
    told = say(controller, "why did you refuse?")
    assert "do not touch the ball" in told
    assert refused.reasons[0] in told
    assert say(controller, "why did you refuse?") == told  # a question is no task to be asked about
    assert watched.looks == 1


def test_a_task_that_broke_is_not_forgotten(controller: Controller, watched: Watched) -> None:
    watched.is_blind = True
    with pytest.raises(ObservationError):
        controller.run(Instruction("pick up the red block"))
    told = say(controller, "what did you do?")
    assert "pick up the red block" in told
    assert load_languages()["en"].answers.outcomes["aborted"] in told


def test_a_question_that_cannot_look_is_refused_with_the_cause(controller: Controller, watched: Watched) -> None:
    watched.is_blind = True
    outcome = controller.run(Instruction("what is on the table?")).outcome
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REFUSED, ObservationReason.NO_FRAME)


def test_the_rules_of_the_cell_are_told(controller: Controller) -> None:
    assert "never touch: person, hand, animal, knife" in say(controller, "what can you do?")


def test_an_answer_is_in_the_persons_language(controller: Controller) -> None:
    for code, speech in load_languages().items():
        label = speech.phrase("red block")
        text = {
            **{"en": "is there a red block?", "de": "gibt es einen roten Block?", "es": "¿hay un bloque rojo?"},
            **{"fr": "y a-t-il un bloc rouge ?", "ar": "هل يوجد مكعب أحمر؟", "ja": "赤いブロックはありますか？"},
            **{"ko": "빨간 블록이 있나요?", "vi": "có khối đỏ không?", "zh": "有红色方块吗？"},
        }[code]
        assert say(controller, text) == speech.answers.yes.format(things=label)


def test_a_question_with_an_order_in_it_moves_nothing_and_says_so(controller: Controller, watched: Watched) -> None:
    outcome = controller.run(Instruction("is there a red block? put it on the blue plate")).outcome
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REFUSED, TaskReason.NO_ORDER)
    assert watched.motions == 0
