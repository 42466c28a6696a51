"""Draws cover the stated uncertainty, spans cover possible contacts, and the bound is Clopper and Pearson's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box, Container, Effect, Motion, RobotState, Scene, SceneObject, freeze
from qwen2vl_robot.validation.findings import Approach, Swept, lower_bound, most_failures, stricter
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.timeline import timeline
from qwen2vl_robot.validation.trials import WEAKEST, Draw, draw, seed_of, spans

BLOCK = SceneObject("red block", Box((0.05, 0.045, 0.05)), freeze(make_pose([0.5, 0.1, 0.025])))
LID = SceneObject("lid", Box((0.05, 0.05, 0.02)), freeze(make_pose([0.5, 0.1, 0.06])))
SCENE = Scene((BLOCK,), ())
REACH_M = np.full(7, 1.0)
PROFILE = load_robot("franka_panda")


@given(st.integers(1, 200), st.data())
def test_the_bound_is_clopper_and_pearsons(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    expected = beta.ppf(0.05, successes, count - successes + 1) if successes else 0.0
    assert lower_bound(successes, count, 0.95) == pytest.approx(expected, abs=1e-9)


def test_sixteen_of_sixteen_clear_the_threshold_and_fifteen_do_not() -> None:
    assert lower_bound(16, 16, 0.95) == pytest.approx(0.8293, abs=1e-4)
    assert most_failures(16, 0.8, 0.95) == 0
    assert most_failures(32, 0.8, 0.95) == 2
    assert most_failures(4, 0.8, 0.95) == -1


@given(st.integers(0, 10_000), st.integers(0, 63))
def test_a_draw_stays_within_what_the_robot_file_states(seed: int, index: int) -> None:
    profile = PROFILE
    u = profile.safety.uncertainty
    found = draw(SCENE, profile, REACH_M, seed, index)
    body = found.scene.objects[0]
    assert body.mass_kg is not None
    assert body.friction is not None
    assert abs(body.mass_kg / profile.object_mass_kg - 1.0) <= u.mass_ratio + 1e-9
    assert abs(body.friction / profile.object_friction - 1.0) <= u.friction_ratio + 1e-9
    assert np.abs(found.q_offset_rad).max() <= u.joint_rad
    assert isinstance(body.shape, Box)
    assert np.abs(np.subtract(body.shape.size_m, (0.05, 0.045, 0.05))).max() <= u.size_m + 1e-9
    assert body.bottom_m == pytest.approx(0.0, abs=1e-9)
    assert np.linalg.norm(body.T_base_object[:3, 3] - BLOCK.T_base_object[:3, 3]) <= found.reach_m(body.name)


def test_draws_shift_the_scene_by_what_the_camera_may_be_wrong() -> None:
    drawn = [draw(SCENE, PROFILE, REACH_M, 1, i).scene.objects[0].T_base_object[:2, 3] for i in range(200)]
    off_m = np.linalg.norm(np.array(drawn) - [0.5, 0.1], axis=1)
    assert 0.003 < np.median(off_m) < 0.008
    assert off_m.max() < 0.015


def test_what_carries_something_keeps_its_height() -> None:
    scene = Scene((BLOCK, LID), ())
    for index in range(20):
        block, lid = draw(scene, PROFILE, REACH_M, 3, index).scene.objects
        assert lid.bottom_m == pytest.approx(block.top_m, abs=1e-9)


def test_the_first_draw_has_the_weakest_grip() -> None:
    body = draw(SCENE, PROFILE, REACH_M, 5, WEAKEST).scene.objects[0]
    assert body.mass_kg == pytest.approx(1.3 * PROFILE.object_mass_kg)
    assert body.friction == pytest.approx(0.7 * PROFILE.object_friction)


def test_draws_depend_on_content_alone(hand: Any) -> None:
    motion = hand.to((0.5, 0.0, 0.3)).motion()
    seed = seed_of(SCENE, motion)
    assert seed == seed_of(Scene((BLOCK,), ()), motion)
    again = draw(SCENE, PROFILE, REACH_M, seed, 3)
    assert np.array_equal(again.q_offset_rad, draw(SCENE, PROFILE, REACH_M, seed, 3).q_offset_rad)


def test_every_moment_at_which_a_draw_could_touch_is_simulated(hand: Any, start: RobotState) -> None:
    motion: Motion = hand.pick(BLOCK).motion(Effect("hold", "red block"))
    time_s = np.linspace(0.0, motion.duration_s, 200)
    clearance_m = 0.06 - 0.06 * np.exp(-((time_s - 3.5) ** 2))
    way_m = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(clearance_m)))])
    looks = slice(None, None, 4)  # what lies between two looks must not escape
    swept = Swept((), (Approach(BLOCK.name, None, time_s[looks], way_m[looks], clearance_m[looks]),), 200)
    for moved_m in (0.0, 0.005, 0.015):
        drawn = Draw(SCENE, np.zeros(7), {BLOCK.name: moved_m}, 0.001)
        found = spans(swept, timeline(motion, start), drawn, False)
        for at_s in time_s[:197][clearance_m[:197] <= moved_m + 0.001]:
            assert any(a <= at_s <= b for a, b in found)
        assert all(a < b for a, b in found)
        assert all(before[1] < after[0] for before, after in zip(found, found[1:], strict=False))


def test_the_weakest_grip_is_carried_all_the_way(hand: Any, start: RobotState, twin: Twin) -> None:
    motion: Motion = hand.pick(BLOCK).motion(Effect("hold", "red block"))
    swept = twin.examine(motion, SCENE, start)
    grip_s = next(s.start_s for s in motion.segments if not hasattr(s, "q_rad"))
    found = spans(swept, timeline(motion, start), draw(SCENE, PROFILE, REACH_M, 0, WEAKEST), True)
    assert any(a <= grip_s and b >= motion.duration_s for a, b in found)


def test_a_pick_that_works_as_measured_but_not_nearby_is_refused(twin: Twin, hand: Any, start: RobotState) -> None:
    tight = twin_with(hand.profile, extrinsics_m=0.04)
    motion: Motion = hand.pick(BLOCK).motion(Effect("hold", "red block"))
    verdict = tight.rehearse(motion, SCENE, start)
    tight.close()
    assert not verdict.accepted
    assert verdict.trials is not None
    assert verdict.trials.successes < verdict.trials.count
    assert verdict.violations[0].kind == "uncertain"
    assert verdict.explanation


def twin_with(profile: RobotProfile, **changes: float) -> Twin:
    safety = profile.safety
    uncertainty = safety.uncertainty.model_copy(update=changes)
    return Twin(profile.model_copy(update={"safety": safety.model_copy(update={"uncertainty": uncertainty})}))


def test_law_clearance_falls_nowhere_below_what_two_looks_promise(
    new_hand: Callable[[], Any], start: RobotState, twin: Twin
) -> None:
    post = SceneObject("post", Box((0.04, 0.04, 0.12)), freeze(make_pose([0.5, 0.0, 0.06])))
    motion: Motion = new_hand().to((0.45, 0.2, 0.2), 1.5).to((0.5, -0.2, 0.22), 1.5).motion()
    swept = twin.examine(motion, Scene((), (post,)), start)
    assert swept.violations == ()
    line = timeline(motion, start)
    (near,) = (a for a in swept.approaches if a.name == "post")
    for low_m, begin_s, end_s in zip(near.lowest_m(), near.time_s[:-1], near.time_s[1:], strict=True):
        for q_rad in line.q_at(np.linspace(begin_s, end_s, 7)):
            twin._world.robot.reset_arm(q_rad, 0.08)
            assert twin._world.contacts.clearance_m("post", None, 0.2) >= low_m - 1e-6


def test_a_round_container_stays_round_in_every_draw() -> None:
    bowl = SceneObject("bowl", Container((0.15, 0.15, 0.05), 0.006, is_round=True), freeze(make_pose([0.5, 0, 0.025])))
    shape = draw(Scene((bowl,), ()), PROFILE, REACH_M, 2, 1).scene.objects[0].shape
    assert isinstance(shape, Container)
    assert shape.is_round


def test_each_way_that_trials_refused_makes_the_next_one_harder() -> None:
    safety = PROFILE.safety
    assert stricter(safety, 0) == safety
    asked = [stricter(safety, refused) for refused in range(4)]
    assert [s.trials for s in asked] == [16, 17, 19, 20]
    for refused, s in enumerate(asked):
        assert 1.0 - s.confidence == pytest.approx(0.05 / (1 + refused))
        assert lower_bound(s.trials, s.trials, s.confidence) >= safety.success_ratio


def test_a_profile_whose_trials_can_never_suffice_is_not_made_to() -> None:
    few = PROFILE.safety.model_copy(update={"trials": 4})
    assert stricter(few, 3) == few
