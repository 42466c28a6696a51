"""A refusal explains in one sentence what would happen, when, how badly and where there is room, with a picture."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import look_at, make_pose
from qwen2vl_robot.messages import Box, Effect, RobotState, Scene, SceneObject, Violation, freeze
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.sides import ROBOT_SIDES, Sides, sides_in_picture
from qwen2vl_robot.validation.explain import explain
from qwen2vl_robot.validation.pool import RehearsalProcess

BOWL = SceneObject("green bowl", Box((0.1, 0.1, 0.2)), freeze(make_pose([0.5, 0.0, 0.1])))
SCENE = Scene((BOWL,), ())


@pytest.mark.parametrize(
    ("violation", "sentence"),
    [
        (Violation("contact", 1.8, ("panda_leftfinger", "green bowl"), 12.0, "N"),
         "the left finger would touch the green bowl after 1.8 s, 12 N"),
        (Violation("moved_other", 2.0, ("green bowl", "toppled"), 0.4, "rad"),
         "the green bowl would be knocked over after 2.0 s, 0.4 rad"),
        (Violation("joint_velocity", 0.5, ("panda_joint2",), 0.1, "rad/s"),
         "the arm's panda_joint2 would turn too fast after 0.5 s, 0.1 rad/s"),
        (Violation("zone", 0.5, ("panda_hand", "zone people"), 0.01, "m"),
         "the arm's panda_hand would enter the zone people after 0.5 s, 10 mm"),
        (Violation("unseen", 0.5, ("panda_hand", "unseen space 3"), 0.01, "m"),
         "the arm's panda_hand would enter space that no camera has seen after 0.5 s, 10 mm"),
        (Violation("worker_timeout", None, ("no answer within 2 s; killed",), 2.0, "s"),
         "the rehearsal broke off: no answer within 2 s; killed"),
    ],
)  # fmt: skip
def test_each_kind_has_its_sentence(profile: RobotProfile, violation: Violation, sentence: str) -> None:
    assert explain((violation,), SCENE, profile) == sentence


@pytest.mark.parametrize("kind", ViolationKind)
def test_no_kind_is_left_without_a_sentence(profile: RobotProfile, kind: ViolationKind) -> None:
    sentence = explain((Violation(kind, None, ("green bowl", "table"), 0.1, ""),), SCENE, profile)
    assert len(sentence.split()) >= 3
    assert not sentence.startswith(kind.value)


@pytest.mark.parametrize(
    ("sides", "room"),
    [
        (ROBOT_SIDES, "3 cm to the right and 1 cm farther away"),
        (sides_in_picture(look_at([1.4, 0.0, 0.6], [0.5, 0.0, 0.0])), "3 cm to the left and 1 cm closer"),
        (None, "1 cm along x and 3 cm against y"),
    ],
    ids=["robot", "picture of a camera that faces it", "no sides"],
)
def test_the_sentence_says_where_there_is_room(profile: RobotProfile, sides: Sides | None, room: str) -> None:
    hit = Violation("collision", 1.8, ("panda_leftfinger", "green bowl"), 0.012, "m")
    sentence = explain((hit,), replace(SCENE, sides=sides), profile, np.array([0.01, -0.03]))
    assert sentence.endswith(f"; {room} there is room")


def test_doubt_is_told_with_what_it_rests_on(profile: RobotProfile) -> None:
    doubt = Violation("uncertain", None, ("14 of 16 perturbed runs succeed",), 0.2, "")
    slip = Violation("grasp_slip", 3.0, ("green bowl",), 0.03, "m")
    sentence = explain((doubt, slip), SCENE, profile)
    assert (
        sentence == "the green bowl would slip out of the fingers after 3.0 s, 30 mm (14 of 16 perturbed runs succeed)"
    )


def test_a_refusal_comes_with_its_picture(profile: RobotProfile, hand: Any, start: RobotState) -> None:
    motion = hand.to((0.5, 0.2, 0.15), 2.0).to((0.5, -0.2, 0.15), 2.5).motion()
    with RehearsalProcess(profile, budget_s=60.0, workers=1) as rehearsal:
        verdict = rehearsal.rehearse(motion, SCENE, start)
    assert not verdict.accepted
    assert "the green bowl" in verdict.explanation
    assert "there is room" in verdict.explanation
    assert verdict.picture is not None
    assert verdict.picture.ndim == 3
    assert verdict.picture.std() > 5


def test_a_grasp_beside_which_there_is_room_is_told_as_the_nearest_clear_one(
    profile: RobotProfile, hand: Any, start: RobotState
) -> None:
    block = SceneObject("red block", Box((0.08, 0.045, 0.05)), freeze(make_pose([0.5, 0.0, 0.025])))
    post = SceneObject("post", Box((0.03, 0.03, 0.2)), freeze(make_pose([0.532, -0.055, 0.1])))
    motion = hand.pick(block, lift_m=0.2).motion(Effect("hold", "red block"))
    with RehearsalProcess(profile, budget_s=60.0, workers=1) as rehearsal:
        verdict = rehearsal.rehearse(motion, Scene((block, post), (), sides=ROBOT_SIDES), start)
    assert "would hit the post" in verdict.explanation
    assert re.search(r"the nearest clear grasp is \d cm", verdict.explanation), verdict.explanation
