"""From instruction to measured outcome in the plant; most of these must end without motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.messages import (
    Motion,
    OutcomeKind,
    Relation,
    RobotState,
    Scene,
    TaskReport,
    Verb,
    Verdict,
    Violation,
    digest,
)
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.reasons import ObservationReason, TaskReason, ViolationKind
from qwen2vl_robot.relations import load_relations, relation_holds
from tests.scenarios.stage import (
    BLUE_PLATE,
    PROFILE,
    RED_BLOCK,
    UNMOVED_M,
    BlindCamera,
    DoubtingRehearsal,
    Stage,
    stage,
)

PICK = {"do": "pick", "object": 0}


@pytest.fixture(scope="module")
def placed() -> Iterator[tuple[Stage, TaskReport]]:
    """A block that was put on a plate by the robot as shipped, with all its trials."""
    with stage(RED_BLOCK, BLUE_PLATE, profile=PROFILE) as s:
        yield s, s.run(s.pick_and_place("red block", "on", "blue plate"))


def test_a_block_is_put_on_a_plate_and_the_plants_truth_agrees(placed: tuple[Stage, TaskReport]) -> None:
    s, report = placed
    true = s.plant.truth.objects()
    assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
    assert report.outcome.reason is None
    assert [step.action.verb for step in report.steps] == [Verb.PICK, Verb.PLACE]
    assert all(step.verdict is not None and step.verdict.accepted for step in report.steps)

    on = (Relation.ON, true["red block"].body, true["blue plate"].body)
    assert relation_holds(*on, load_relations(), None)


def test_what_is_there_already_is_left_there(placed: tuple[Stage, TaskReport]) -> None:
    s, _ = placed
    before = s.plant.truth.objects()
    report = s.run(s.pick_and_place("red block", "on", "blue plate"))
    assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
    assert report.outcome.reasons == ("red block is on blue plate already; nothing moves",)
    assert not report.steps
    assert s.moved_m(before) < UNMOVED_M


def test_a_block_put_left_of_a_plate_is_left_of_it_in_the_picture() -> None:
    with stage(RED_BLOCK, BLUE_PLATE) as s:
        reply = s.pick_and_place("red block", "left_of", "blue plate")
        report = s.run(reply, instruction="put the red block to the left of the blue plate")
        boxes = s.plant.truth.boxes()
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
        assert boxes["red block"].box.x1 < boxes["blue plate"].box.x0


def test_what_is_pulled_towards_the_robot_comes_nearer_to_it_wherever_the_camera_stands() -> None:
    with stage(RED_BLOCK) as s:
        before = s.plant.truth.objects()["red block"].T_base_object
        reply = format_reply([s.boxes("red block")], [{"do": "push", "object": 0, "direction": "closer"}])
        report = s.run(reply, instruction="pull the red block towards you")
        after = s.plant.truth.objects()["red block"].T_base_object
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
        assert after[0, 3] < before[0, 3] - 0.03


def test_an_arm_that_is_at_home_can_be_sent_home() -> None:
    with stage(RED_BLOCK) as s:
        report = s.run(format_reply([], [{"do": "home"}]), instruction="go home")
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome


def test_a_way_that_the_twin_refuses_leads_to_another_way() -> None:
    with stage(RED_BLOCK) as s:
        s.rehearsal = twin = DoubtingRehearsal(s, Violation(ViolationKind.FORCE, 1.0, ("finger", "bowl"), 40.0, "N"), 1)
        report = s.run(format_reply([s.boxes("red block")], [PICK]), instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
        assert len({digest(motion) for motion in twin.given}) == 2


def test_when_every_way_is_refused_nothing_moves_and_the_first_refusal_is_told() -> None:
    with stage(RED_BLOCK) as s:
        before = s.plant.truth.objects()
        s.rehearsal = twin = DoubtingRehearsal(
            s, Violation(ViolationKind.FORCE, 1.0, ("finger", "bowl"), 40.0, "N"), 99
        )
        reply = format_reply([s.boxes("red block")], [PICK])
        report = s.run(reply, reply, reply, instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert "force" in " ".join(report.outcome.reasons)
        assert len(twin.given) > len(report.steps)
        assert s.moved_m(before) < UNMOVED_M


@pytest.mark.parametrize(("kind", "harder"), [("uncertain", [0, 1, 2]), ("collision", [0, 0, 0])])
def test_only_what_trials_refused_makes_the_next_way_harder(kind: str, harder: list[int]) -> None:
    with stage(RED_BLOCK, profile=PROFILE) as s:
        s.rehearsal = twin = DoubtingRehearsal(s, Violation(ViolationKind(kind), None, ("few succeed",), 0.1, ""), 2)
        report = s.run(format_reply([s.boxes("red block")], [PICK]), instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
        assert twin.refused == harder
        trials = report.steps[-1].verdict and report.steps[-1].verdict.trials
        assert trials is not None
        assert trials.count == (19 if kind == "uncertain" else 16)


@pytest.mark.parametrize("kind", ["worker_crashed", "worker_timeout", "start_state", "non_finite"])
def test_a_refusal_that_is_not_the_ways_fault_is_not_tried_around(kind: str) -> None:
    with stage(RED_BLOCK) as s:
        before = s.plant.truth.objects()
        s.rehearsal = twin = DoubtingRehearsal(s, Violation(ViolationKind(kind), None, (), 1.0, ""), 99)
        reply = format_reply([s.boxes("red block")], [PICK])
        report = s.run(reply, reply, reply, instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert len(twin.given) == len(report.steps)
        assert s.moved_m(before) < UNMOVED_M


def test_a_box_around_another_object_becomes_a_question_and_nothing_moves() -> None:
    green = ObjectSpec(colour="green", kind="ball", position_m=(0.45, -0.05))
    with stage(BLUE_PLATE, green) as s:
        reply = format_reply([("red block", s.boxes("green ball")[1])], [PICK])
        report = s.run_to_question(reply, reply, reply, instruction="pick up the red block")
        assert "red block" in report.outcome.reasons[0]


@pytest.mark.parametrize("label", ["red block", "block"])
def test_a_box_around_another_object_is_corrected_by_the_only_one_that_is_meant(label: str) -> None:
    """Also where the planner leaves out the colour that the person said: what is measured decides."""
    green = ObjectSpec(colour="green", kind="ball", position_m=(0.45, -0.05))
    with stage(RED_BLOCK, BLUE_PLATE, green) as s:
        before = s.plant.truth.objects()
        reply = format_reply([(label, s.boxes("green ball")[1])], [PICK])
        assert s.run(reply, instruction="pick up the red block").outcome.kind is OutcomeKind.ACHIEVED
        after = s.plant.truth.objects()
        assert after["red block"].T_base_object[2, 3] > before["red block"].T_base_object[2, 3] + 0.03
        ball_m = (after["green ball"].T_base_object - before["green ball"].T_base_object)[:3, 3]
        assert np.linalg.norm(ball_m) < UNMOVED_M


def test_a_slip_of_the_model_between_two_things_of_one_colour_is_refused_with_both_readings() -> None:
    ball = ObjectSpec(colour="red", kind="ball", position_m=(0.45, -0.05))
    with stage(RED_BLOCK, ball) as s:
        reply = format_reply([("red block", s.boxes("red ball")[1])], [PICK])
        before = s.plant.truth.objects()
        report = s.run(reply, reply, reply, instruction="put the red ball on the blue block")
        assert report.outcome.reason is TaskReason.CONTRADICTION
        assert "put the red ball on the blue block" in report.outcome.reasons[0]
        assert "pick up the red block" in report.outcome.reasons[0]
        assert s.moved_m(before) < UNMOVED_M


def test_a_model_may_not_settle_by_itself_what_is_ambiguous() -> None:
    green = ObjectSpec(colour="green", kind="block", position_m=(0.45, -0.05))
    with stage(RED_BLOCK, green) as s:
        several = format_reply([("block", s.boxes("red block")[1])], [PICK])
        one = format_reply([s.boxes("red block")], [PICK])
        report = s.run_to_question(several, one, instruction="pick up the block")
        assert len(report.plans) == 1


def test_one_of_two_is_asked_about_in_the_persons_language_and_nothing_moves() -> None:
    green = ObjectSpec(colour="green", kind="block", position_m=(0.45, -0.05))
    with stage(RED_BLOCK, green) as s:
        reply = format_reply([("block", s.boxes("red block")[1])], [PICK])
        report = s.run_to_question(reply, reply, reply, instruction="拿起方块")
        assert report.outcome.reasons[0].startswith("ambiguous: 2 things")
        assert report.outcome.reasons[0].endswith("你指的是哪一个？")


def test_a_box_around_nothing_becomes_a_question_and_nothing_moves() -> None:
    with stage(BLUE_PLATE) as s:
        reply = format_reply([("red block", [(5, 900, 60, 990)])], [PICK])
        s.run_to_question(reply, reply, reply, instruction="pick up the red block")


def test_an_object_out_of_reach_is_refused_with_numbers() -> None:
    far = ObjectSpec(colour="red", kind="block", position_m=(0.95, 0.0))
    with stage(far) as s:
        before = s.plant.truth.objects()
        reply = format_reply([s.boxes("red block")], [PICK])
        report = s.run(reply, reply, reply, instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert any(c.isdigit() for c in report.outcome.reasons[0])
        assert s.moved_m(before) < UNMOVED_M


def test_a_stopped_gate_lets_nothing_through() -> None:
    with stage(RED_BLOCK, BLUE_PLATE) as s:
        before = s.plant.truth.objects()
        q_before = s.plant.link.state().q_rad
        s.halt.stop("a person said so")
        reply = s.pick_and_place("red block", "on", "blue plate")
        report = s.run(reply, reply, reply)
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert "stopped" in report.outcome.reasons[0]
        assert s.moved_m(before) < UNMOVED_M
        assert abs(s.plant.link.state().q_rad - q_before).max() < PROFILE.start_tolerance_rad


def test_an_action_that_nobody_asked_for_waits_for_a_person() -> None:
    with stage(RED_BLOCK, BLUE_PLATE) as s:
        before = s.plant.truth.objects()
        push = format_reply([s.boxes("red block")], [{"do": "push", "object": 0, "direction": "left"}])
        report = s.run(push, push, push)
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert report.outcome.reason is TaskReason.CONTRADICTION
        assert "push the red block to the left" in report.outcome.reasons[0]
        assert s.moved_m(before) < UNMOVED_M


def test_hostile_replies_move_nothing() -> None:
    with stage(RED_BLOCK) as s:
        before = s.plant.truth.objects()
        report = s.run("move the arm now!", '{"objects":[],"actions":[{"do":"throw"}]}', "")
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert report.outcome.reasons[0].startswith("planner:")
        assert s.moved_m(before) < UNMOVED_M


def test_unknown_words_are_named_before_what_their_plan_failed_by() -> None:
    with stage(RED_BLOCK, BLUE_PLATE) as s:
        too_wide = format_reply([s.boxes("blue plate")], [PICK])
        elsewhere = format_reply([("yellow block", s.boxes("blue plate")[1])], [PICK])
        for reply in (too_wide, elsewhere):
            report = s.run_to_question(reply, instruction="grab the glimmering blorp")
            assert report.outcome.reason is TaskReason.NOT_UNDERSTOOD
            assert "'glimmering', 'blorp'" in report.outcome.reasons[0]
            assert "pick up the red block" in report.outcome.reasons[0]
            assert len(report.plans) == 1


def test_a_question_of_the_planner_is_passed_on() -> None:
    with stage(RED_BLOCK) as s:
        report = s.run(format_reply([("green ball", [])], [{"do": "ask", "text": "I see no green ball."}]))
        assert report.outcome.kind is OutcomeKind.ASKED
        assert report.outcome.reasons == ("I see no green ball.",)


def test_a_camera_without_depth_is_named_before_anything_moves() -> None:
    with stage(RED_BLOCK) as s:
        before = s.plant.truth.objects()
        reply = format_reply([s.boxes("red block")], [PICK])
        report = s.run(reply, camera=BlindCamera(s.plant.link), instruction="pick up the red block")
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert report.outcome.reason is ObservationReason.CAMERA_BLIND
        assert "100% of the work space has no depth" in report.outcome.causes[0].text
        assert s.moved_m(before) < UNMOVED_M


def test_only_the_deed_that_failed_is_planned_again() -> None:
    ball = ObjectSpec(colour="green", kind="ball", position_m=(0.45, -0.02))
    with stage(RED_BLOCK, BLUE_PLATE, ball, camera="ideal") as s:  # replies are counted, and a noisy look may cost one
        place = {"do": "place", "object": 1, "relation": "on"}
        listed = [s.boxes(label) for label in ("red block", "blue plate", "green ball")]
        both = format_reply(listed, [PICK, place, {"do": "pick", "object": 2}])
        rest = format_reply(listed[2:], [PICK])
        s.rehearsal = _RefusingOnce(s, "green ball")
        report = s.run(both, rest, instruction="put the red block on the blue plate and then pick up the green ball")
        assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
        done = [step.action.describe() for step in report.steps if step.outcome.kind is OutcomeKind.ACHIEVED]
        assert done == ["pick red block", "place on blue plate", "pick green ball"]
        assert [asked.plainly[-1] for asked in s.planner.asked] == ["pick up the green ball"] * 2
        assert [asked.is_begun for asked in s.planner.asked] == [False, True]


class _RefusingOnce:
    """Rehearses truly, but refuses to lift a thing after the first plan was rehearsed, until there is a new plan."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage, self._inner, self._name = stage, stage.rehearsal, name
        self._rounds = 0

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        verdict = self._inner.rehearse(motion, scene, start, refused=refused)
        is_first_plan = len(self._stage.planner.asked) == 1
        self._rounds += motion.effect.name == self._name and refused == 0
        if motion.effect.name != self._name or not is_first_plan or self._rounds == 1:
            return verdict
        doubt = Violation(ViolationKind.COLLISION, 1.0, ("finger", "bowl"), 0.01, "m")
        return replace(verdict, accepted=False, violations=(doubt,))


def test_things_are_lined_up_from_what_is_measured_and_no_planner_is_asked() -> None:
    blocks = {"red": (0.44, 0.12), "green": (0.50, -0.04)}
    with stage(*(ObjectSpec(colour=c, kind="block", position_m=at) for c, at in blocks.items())) as s:
        report = s.run(instruction="line up the blocks")
        true = s.plant.truth.objects()
    assert report.outcome.kind is OutcomeKind.ACHIEVED, report.outcome
    assert [plan.is_measured for plan in report.plans] == [True]
    assert [step.action.verb for step in report.steps] == [Verb.PICK, Verb.PLACE]
    apart_m = float(np.linalg.norm((true["red block"].T_base_object - true["green block"].T_base_object)[:2, 3]))
    assert 0.08 < apart_m < 0.16, "beside each other, with room for fingers"
