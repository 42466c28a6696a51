"""Only what was measured is called achieved: endings made by hand in a real plant, seen through its noisy camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.belief import Belief
from qwen2vl_robot.benchmarks.endings import holds, others, releases
from qwen2vl_robot.benchmarks.endings.makers import FAILURES, SUCCESSES, Maker
from qwen2vl_robot.benchmarks.endings.promises import Ending
from qwen2vl_robot.benchmarks.endings.suite import is_truly, look_at
from qwen2vl_robot.benchmarks.endings.table import Table, draw_table
from qwen2vl_robot.evidence import gather
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.judge import LOOK_GAP_S, _carrier, judge, look_until_sure
from qwen2vl_robot.messages import (
    Box,
    Cause,
    Effect,
    Observation,
    Outcome,
    OutcomeKind,
    Relation,
    Scene,
    SceneObject,
    freeze,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.reasons import EvidenceReason, TaskReason
from qwen2vl_robot.sides import Sides
from tests.cells import PROFILE

SURROUNDINGS = Surroundings.of(PROFILE)
CYLINDER, BALL = 61_003, 61_001  # with a plate, with a bowl
NOT_HERE = {releases.rolling, holds.held_tipped}  # a ball to roll, a second cylinder to tip
Looks = tuple[Observation, Observation]


def opened(seed: int) -> Iterator[Table]:
    drawn = draw_table(seed, SURROUNDINGS)
    assert drawn is not None
    plant, table = drawn
    with plant:
        yield table


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """A cylinder to handle, with a bowl and bystanders."""
    yield from opened(CYLINDER)


@pytest.fixture(scope="module")
def balls() -> Iterator[Table]:
    """A ball to handle."""
    yield from opened(BALL)


def made(maker: Maker, table: Table) -> tuple[Ending, Looks]:
    """An ending in the plant, and the two looks at it."""
    table.rng = np.random.default_rng(5)
    ending = maker(table)
    assert ending is not None
    return ending, look_at(ending, table.plant)


def judged(ending: Ending, looks: Looks) -> Outcome:
    """What the controller would say of it."""
    belief = Belief()
    belief.expect(ending.step)
    measured, _ = belief.measure(ending.step, looks[-1], SURROUNDINGS)
    outcome = judge(ending.step, looks, measured, SURROUNDINGS)
    assert (outcome.kind is OutcomeKind.ACHIEVED) == (outcome.causes == ())
    return outcome


@pytest.mark.parametrize("maker", SUCCESSES, ids=lambda m: m.__name__)
def test_an_ending_that_is_a_success_is_called_achieved(maker: Maker, table: Table) -> None:
    ending, looks = made(maker, table)
    assert is_truly(ending, table.plant.truth(), SURROUNDINGS)
    assert judged(ending, looks).kind is OutcomeKind.ACHIEVED


@pytest.mark.parametrize("maker", [m for m in FAILURES if m not in NOT_HERE], ids=lambda m: m.__name__)
def test_an_ending_that_only_looks_like_a_success_is_not_called_so(maker: Maker, table: Table) -> None:
    ending, looks = made(maker, table)
    assert not is_truly(ending, table.plant.truth(), SURROUNDINGS)
    assert judged(ending, looks).kind is not OutcomeKind.ACHIEVED


def test_a_ball_that_rolls_between_two_looks_is_not_placed(balls: Table) -> None:
    ending, looks = made(releases.rolling, balls)
    assert judged(ending, looks).reason is EvidenceReason.MOVING


def test_a_joint_short_of_the_end_is_named_with_its_numbers(table: Table) -> None:
    cause = judged(*made(others.homed_short, table)).causes[0]
    assert cause.reason is EvidenceReason.ARM_OFF
    assert dict(cause.numbers)["off_rad"] == pytest.approx(0.045, abs=0.002)


def test_depth_contradicts_a_driver_that_echoes_its_commands(table: Table) -> None:
    ending, looks = made(others.homed_echo, table)
    assert np.allclose(looks[-1].robot.q_rad, PROFILE.home_q_rad)
    assert judged(ending, looks).reason is EvidenceReason.ARM_OFF


def test_an_arm_that_is_never_seen_is_not_verified_to_be_home(table: Table) -> None:
    ending, looks = made(others.homed_unseen_echo, table)
    assert np.allclose(looks[-1].robot.q_rad, PROFILE.home_q_rad)
    outcome = judged(ending, looks)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.NOT_VERIFIED, EvidenceReason.UNMEASURED)
    assert "too little of the arm" in outcome.reasons[0]


def test_an_object_that_was_not_touched_is_no_motion(table: Table) -> None:
    ending, looks = made(holds.held, table)
    stands = table.standing().observation
    frames = [replace(stands.frame, stamp_ns=look.frame.stamp_ns) for look in looks]
    looks = (replace(looks[0], frame=frames[0]), replace(looks[1], frame=frames[1]))
    outcome = judged(ending, looks)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.NO_MOTION, TaskReason.NO_MOTION)


@pytest.mark.parametrize(("off_m", "is_achieved"), [(0.003, True), (-0.003, True), (0.008, False), (-0.008, False)])
def test_the_fingers_have_to_be_as_wide_as_around_the_object(off_m: float, is_achieved: bool, table: Table) -> None:
    ending, looks = made(holds.held, table)
    end = ending.step.verdict.state_after
    assert end is not None
    wide = replace(looks[1].robot, gripper_width_m=end.gripper_width_m + off_m)
    outcome = judged(ending, (looks[0], replace(looks[1], robot=wide)))
    assert (outcome.kind is OutcomeKind.ACHIEVED) == is_achieved


def test_a_bystander_without_depth_is_not_verified(table: Table) -> None:
    """What cannot be seen may have gone."""
    ending, looks = made(others.waited, table)
    label = table.bystander()
    assert label is not None
    box, frame = table.plant.boxes()[label].box, looks[1].frame
    depth_m = frame.depth_m.copy()
    height_px, width_px = depth_m.shape
    rows = slice(int(box.y0 * height_px / 1000) - 4, int(box.y1 * height_px / 1000) + 5)
    depth_m[rows, int(box.x0 * width_px / 1000) - 4 : int(box.x1 * width_px / 1000) + 5] = np.nan
    outcome = judged(ending, (looks[0], replace(looks[1], frame=replace(frame, depth_m=depth_m))))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.NOT_VERIFIED, EvidenceReason.HIDDEN)


def judged_from(off_m: float, table: Table) -> Outcome:
    ending, looks = made(others.waited, table)
    T = looks[1].frame.T_base_camera.copy()
    T[0, 3] += off_m
    return judged(ending, (looks[0], replace(looks[1], frame=replace(looks[1].frame, T_base_camera=freeze(T)))))


def test_what_a_moved_camera_sees_is_not_verified(table: Table) -> None:
    outcome = judged_from(0.005, table)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.NOT_VERIFIED, EvidenceReason.UNMEASURED)


def test_a_camera_at_the_wrist_that_is_back_where_it_was_shows_the_effect(table: Table) -> None:
    assert judged_from(0.0005, table).kind is OutcomeKind.ACHIEVED


def test_one_frame_shown_twice_is_not_verified(table: Table) -> None:
    """A camera that froze shows everything at rest."""
    ending, looks = made(others.waited, table)
    outcome = judged(ending, (looks[1], looks[1]))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.NOT_VERIFIED, EvidenceReason.UNMEASURED)


@pytest.mark.parametrize("effect", [Effect("fly", "red block"), Effect("hold"), Effect("release", "red block")])
def test_an_effect_that_cannot_be_measured_is_not_verified(effect: Effect, table: Table) -> None:
    ending, looks = made(others.waited, table)
    step = replace(ending.step, motion=replace(ending.step.motion, effect=effect))
    assert judge(step, looks, ending.step.scene, SURROUNDINGS).kind is OutcomeKind.NOT_VERIFIED


def test_a_scene_that_was_not_found_again_is_not_verified(table: Table) -> None:
    ending, looks = made(holds.held, table)
    assert judge(ending.step, looks, None, SURROUNDINGS).kind is OutcomeKind.NOT_VERIFIED


def test_a_release_beside_something_is_judged_by_the_sides_of_the_plan(table: Table) -> None:
    """The same ending is left of the reference for one who looks from here, and not for one who looks from there."""
    for seed in range(40):
        table.rng = np.random.default_rng(seed)
        ending = releases.placed(table)
        if ending is not None and ending.step.motion.effect.relation is Relation.NEXT_TO:
            break
    assert ending is not None
    step, effect = ending.step, ending.step.motion.effect
    assert effect.T_base_object is not None
    assert effect.reference is not None
    looks, to_target = look_at(ending, table.plant), np.asarray(effect.T_base_object)[:2, 3]
    to_target = to_target - step.scene.find(effect.reference).T_base_object[:2, 3]
    x, y = to_target / np.linalg.norm(to_target)
    left_of = replace(step.motion, effect=replace(effect, relation=Relation.LEFT_OF))
    for sides, kind in (
        (Sides((x, y), (y, -x)), OutcomeKind.ACHIEVED),
        (Sides((-x, -y), (-y, x)), OutcomeKind.WRONG_EFFECT),
        (None, OutcomeKind.WRONG_EFFECT),
    ):
        seen_so = replace(ending, step=replace(step, motion=left_of, scene=replace(step.scene, sides=sides)))
        assert judged(seen_so, looks).kind is kind


@pytest.mark.parametrize(
    ("height_m", "rise_m", "held", "known"),
    [
        (0.05, 0.002, None, {"below"}),
        (0.05, 0.030, None, set()),  # not on it
        (0.05, 0.002, "moved", set()),  # not let go
        (0.014, 0.002, None, set()),  # so flat that the table could carry it as well
    ],
)
def test_only_what_carries_the_object_may_be_hidden_by_it(
    height_m: float, rise_m: float, held: str | None, known: set[str], table: Table
) -> None:
    ending, looks = made(others.waited, table)
    below = SceneObject("below", Box((0.05, 0.05, height_m)), make_pose([0.5, 0.0, height_m / 2]))
    moved = SceneObject("moved", Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.0, height_m + rise_m + 0.025]))
    effect = Effect("release", "moved", moved.T_base_object, Relation.ON, "below")
    case = gather(ending.step, looks, ending.step.scene, SURROUNDINGS)
    case = replace(case, effect=effect, scene=Scene((below,), ()), measured=Scene((below, moved), (), held=held))
    assert _carrier(case) == known


def outcome(kind: OutcomeKind, reason: Any = None) -> Outcome:
    return Outcome(kind, () if reason is None else (Cause(reason, "because"),))


MOVES = outcome(OutcomeKind.WRONG_EFFECT, EvidenceReason.MOVING)
UNSEEN = outcome(OutcomeKind.NOT_VERIFIED, EvidenceReason.UNMEASURED)
WRONG = outcome(OutcomeKind.WRONG_EFFECT, TaskReason.WRONG_EFFECT)
DONE = outcome(OutcomeKind.ACHIEVED)


@pytest.mark.parametrize(
    ("said", "looks", "last"),
    [
        ([DONE], 2, DONE),
        ([MOVES, UNSEEN, DONE], 4, DONE),
        ([UNSEEN, WRONG], 3, WRONG),
        ([WRONG, DONE], 2, WRONG),
        ([MOVES, MOVES, MOVES, DONE], 4, MOVES),
        ([UNSEEN, UNSEEN, UNSEEN, DONE], 4, UNSEEN),
    ],
)
def test_only_what_a_later_look_may_show_is_looked_at_again(said: list[Outcome], looks: int, last: Outcome) -> None:
    seen = count()
    pairs: list[tuple[int, int]] = []

    def compare(first: Any, second: Any) -> tuple[Outcome, None]:
        pairs.append((first, second))
        return said[len(pairs) - 1], None

    class Clock:
        slept_s = 0.0

        def now_ns(self) -> int:
            return 0

        def sleep(self, seconds: float) -> None:
            self.slept_s += seconds

    clock = Clock()
    assert look_until_sure(lambda: next(seen), compare, clock) == (last, None)  # type: ignore[arg-type, return-value]
    assert next(seen) == looks
    assert pairs == [(n, n + 1) for n in range(looks - 1)], "each look is compared with the one right before it"
    assert clock.slept_s == pytest.approx(LOOK_GAP_S * len(pairs))
