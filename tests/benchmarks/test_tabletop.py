"""Episodes are drawn as the suite says, and scored by what is true."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.episodes import Episode
from qwen2vl_robot.benchmarks.shares import wilson_interval
from qwen2vl_robot.benchmarks.tabletop import Suite, summarise
from qwen2vl_robot.geometry import look_at, make_pose
from qwen2vl_robot.messages import Box, Cause, Cylinder, Outcome, OutcomeKind
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.reasons import PerceptionReason, TaskReason
from qwen2vl_robot.sides import ROBOT_SIDES, SeenFrom, sides_seen_from

ACHIEVED = Outcome(OutcomeKind.ACHIEVED)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return Suite("truth", "")


@pytest.fixture(scope="module")
def episodes(suite: Suite) -> list[Episode]:
    return [suite.draw(i, 1000 + i) for i in range(50)]


def test_the_five_tasks_take_turns_and_half_of_the_scenes_are_crowded(episodes: list[Episode]) -> None:
    assert {e.task.name for e in episodes} == {"on_plate", "in_bowl", "stack", "left_of", "missing"}
    assert sum(e.count >= 5 for e in episodes) >= 25
    assert all(2 <= e.count <= 8 for e in episodes)


def test_each_episode_has_a_distractor_that_shares_colour_or_kind(episodes: list[Episode]) -> None:
    for e in episodes:
        colour, kind = e.target.split()
        others = [o for o in e.always if f"{o.colour} {o.kind}" not in (e.target, e.reference)]
        assert any(o.colour == colour or o.kind == kind for o in others)


def test_a_missing_target_is_not_put_into_the_scene(episodes: list[Episode]) -> None:
    for e in episodes:
        labels = {f"{o.colour} {o.kind}" for o in e.always}
        assert (e.target in labels) != e.task.is_missing
        assert e.reference in labels


def test_a_seed_draws_the_same_episode_again(suite: Suite, episodes: list[Episode]) -> None:
    assert suite.draw(3, 1003) == episodes[3]


def world_of(episode: Episode, *, on: bool, speed_mps: float = 0.0) -> dict[str, TrueObject]:
    plate = TrueObject(episode.reference, Cylinder(0.16, 0.014), make_pose([0.5, -0.1, 0.007]), 0.0, 0.3, 0.8, False)
    where = [0.5, -0.1, 0.014 + 0.025] if on else [0.5, 0.1, 0.025]
    block = TrueObject(episode.target, Box((0.05, 0.05, 0.05)), make_pose(where), speed_mps, 0.1, 0.8, True)
    return {episode.reference: plate, episode.target: block}


def test_only_a_resting_object_where_it_was_asked_for_is_a_success(suite: Suite, episodes: list[Episode]) -> None:
    e = next(e for e in episodes if e.task.name == "on_plate")
    before = world_of(e, on=False)
    assert suite._is_success(e, ACHIEVED, before, world_of(e, on=True), ROBOT_SIDES)
    assert not suite._is_success(e, ACHIEVED, before, before, ROBOT_SIDES)
    assert not suite._is_success(e, ACHIEVED, before, world_of(e, on=True, speed_mps=0.5), ROBOT_SIDES)


def test_a_missing_task_succeeds_only_by_asking_with_nothing_touched(suite: Suite, episodes: list[Episode]) -> None:
    e = next(e for e in episodes if e.task.is_missing)
    before = world_of(e, on=False)
    asked = Outcome(OutcomeKind.ASKED, (Cause(TaskReason.ASKED, "?"),))
    assert suite._is_success(e, asked, before, before, ROBOT_SIDES)
    assert not suite._is_success(e, ACHIEVED, before, before, ROBOT_SIDES)
    nudged = {
        k: dataclasses.replace(o, T_base_object=o.T_base_object @ make_pose([0.02, 0, 0])) for k, o in before.items()
    }
    assert not suite._is_success(e, asked, before, nudged, ROBOT_SIDES)


def test_said_achieved_but_not_so_is_a_false_success() -> None:
    one = {
        "task": "stack",
        "question_due": False,
        "outcome": "achieved",
        "success": False,
        "seconds": {},
        "peak_memory_mb": 1,
    }
    totals = summarise([one, {**one, "success": True}, {**one, "outcome": "refused"}])
    assert totals["false_success"] == 1
    assert totals["success_ratio"] == round(1 / 3, 4)


@pytest.fixture(scope="module")
def references() -> Suite:
    return Suite("truth", "", name="references")


def test_a_bare_name_is_borne_by_two_or_three(references: Suite) -> None:
    episodes = [references.draw(i, 6000 + i) for i in range(30)]
    for e in (e for e in episodes if e.task.is_bare):
        kinds = [o.kind for o in e.always]
        assert 2 <= len(e.bearers) == kinds.count(e.target) <= 3
        assert bool(e.where) != e.task.is_question
        assert f"the {e.where} {e.target}".replace("  ", " ") in e.instruction


@pytest.mark.parametrize(
    ("where", "of_robot", "in_picture"),
    [
        ("nearest", 0, 1),
        ("farthest", 1, 0),
        ("leftmost", 1, 0),
        ("rightmost", 0, 1),
        ("largest", 0, 0),
        ("smallest", 1, 1),
    ],
)
@pytest.mark.parametrize("seen_from", list(SeenFrom))
def test_a_superlative_is_scored_by_what_is_true(
    references: Suite, where: str, of_robot: int, in_picture: int, seen_from: SeenFrom
) -> None:
    sides = sides_seen_from(seen_from, look_at([1.4, 0.0, 0.6], [0.5, 0.0, 0.0]))
    assert sides is not None
    meant = of_robot if seen_from is SeenFrom.ROBOT else in_picture
    labels = ("red block", "blue block")
    e = dataclasses.replace(references.draw(2, 6002), target="block", bearers=labels, where=where)
    plate = TrueObject(e.reference, Cylinder(0.16, 0.014), make_pose([0.5, -0.1, 0.007]), 0.0, 0.3, 0.8, False)
    stands = {
        label: TrueObject(label, Box((side_m,) * 3), make_pose([x, y, side_m / 2]), 0.0, 0.1, 0.8, True)
        for label, side_m, x, y in zip(labels, (0.055, 0.045), (0.42, 0.6), (0.1, 0.2), strict=True)
    }
    before = {e.reference: plate, **stands}
    for index, label in enumerate(labels):
        moved = dataclasses.replace(
            stands[label], T_base_object=make_pose([0.5, -0.1, 0.014 + (0.0275, 0.0225)[index]])
        )
        after = {**before, label: moved}
        assert references._is_success(e, ACHIEVED, before, after, sides) is (index == meant)
        other = labels[1 - index]
        nudged = dataclasses.replace(stands[other], T_base_object=stands[other].T_base_object @ make_pose([0.02, 0, 0]))
        assert not references._is_success(e, ACHIEVED, before, {**after, other: nudged}, sides)


def test_a_bare_name_of_several_succeeds_only_by_asking(references: Suite) -> None:
    e = references.draw(0, 6000)
    before = {label: world_of_one(label) for label in (*e.bearers, e.reference)}
    assert e.task.name == "ambiguous"
    which_one = Outcome(OutcomeKind.ASKED, (Cause(PerceptionReason.AMBIGUOUS, "2 things"),))
    unseen = Outcome(OutcomeKind.ASKED, (Cause(TaskReason.ASKED, "I see no block."),))
    assert references._is_success(e, which_one, before, before, ROBOT_SIDES)
    assert not references._is_success(e, unseen, before, before, ROBOT_SIDES)
    assert not references._is_success(e, ACHIEVED, before, before, ROBOT_SIDES)


def world_of_one(label: str) -> TrueObject:
    return TrueObject(label, Box((0.05, 0.05, 0.05)), make_pose([0.5, 0.1, 0.025]), 0.0, 0.1, 0.8, True)


def test_the_interval_holds_the_share() -> None:
    for successes in range(11):
        low, high = wilson_interval(successes, 10)
        assert 0.0 <= low <= successes / 10 <= high <= 1.0
    assert np.isclose(wilson_interval(50, 50)[0], 0.9287)
