"""A glance finds what an examination finds, and the next one in the same scene finds that scene still standing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Box, Effect, Motion, RobotState, Scene, freeze
from qwen2vl_robot.validation.pool import RehearsalProcess
from qwen2vl_robot.validation.rehearsal import Twin
from tests.validation.conftest import stands

HAND_M = (0.45, 0.0, 0.25)
WALL = stands("wall", Box((0.3, 0.02, 0.5)), 0.45, 0.2)
FREE, WALLED = Scene((), ()), Scene((), (WALL,))
UNSEEN_M = np.array([[[x, y, 0.0], [x + 0.03, y + 0.03, 0.03]] for x in np.arange(-0.2, 0.2, 0.04)
                     for y in np.arange(0.4, 0.7, 0.02)])  # fmt: skip


@pytest.fixture
def chunks(new_hand: Callable[[], Any]) -> tuple[Motion, Motion]:
    """To the left, where the wall may stand, and a little up."""
    return tuple(new_hand().to(HAND_M).to(end_m).motion() for end_m in ((0.45, 0.2, 0.25), (0.45, 0.0, 0.3)))  # type: ignore[return-value]


def test_a_glance_finds_what_an_examination_finds_whatever_was_looked_at_before(
    twin: Twin, chunks: tuple[Motion, Motion], start: RobotState, hand: Any
) -> None:
    left, up = chunks
    orders = [(left, WALLED), (left, WALLED), (up, WALLED), (left, FREE), (left, WALLED), (left, FREE), (left, FREE)]
    wanted = {scene: {m: twin.examine(m, scene, start).violations for m in chunks} for scene in (FREE, WALLED)}
    assert [bool(wanted[scene][left]) for scene in (FREE, WALLED)] == [False, True]
    assert [twin.glance(m, scene, start).violations for m, scene in orders] == [wanted[s][m] for m, s in orders]
    twin.rehearse(hand.move(hand.q_rad + 0.05, 0.5).motion(), FREE, start)  # builds a world of its own
    assert twin.glance(left, WALLED, start).violations == wanted[WALLED][left]


def test_what_is_held_is_taken_along_again_and_again(twin: Twin, chunks: tuple[Motion, Motion], hand: Any) -> None:
    block = stands("block", Box((0.04, 0.04, 0.2)), 0.1, 0.5)
    T_tool_held = np.eye(4)
    T_tool_held[2, 3] = 0.05
    start = RobotState(0, freeze(hand.q_rad), freeze(np.zeros(7)), 0.04, "block")
    low = stands("box", Box((0.2, 0.2, 0.12)), 0.45, 0.0)  # the hand passes it, the block does not
    scene = Scene((block,), (low,), held="block", T_tool_held=freeze(T_tool_held))
    wanted = twin.examine(chunks[0], scene, start).violations
    assert {name for violation in wanted for name in violation.bodies} >= {"block", "box"}
    assert [twin.glance(chunks[0], scene, start).violations for _ in range(3)] == [wanted] * 3


def test_a_second_glance_builds_nothing(twin: Twin, chunks: tuple[Motion, Motion], start: RobotState) -> None:
    scene, seconds = replace(FREE, unseen_m=freeze(UNSEEN_M)), []
    for _ in range(3):
        began_s = time.process_time()
        assert not twin.glance(chunks[1], scene, start).violations
        seconds.append(time.process_time() - began_s)
    assert min(seconds[1:]) < 0.5 * seconds[0]


def test_a_glance_is_for_the_arm_alone(
    twin: Twin, profile: RobotProfile, new_hand: Callable[[], Any], start: RobotState
) -> None:
    grips = new_hand().move(np.array(profile.home_q_rad), 0.5).grip(0.0).motion()
    holds = new_hand().move(np.array(profile.home_q_rad) + 0.01, 0.5).motion(Effect("hold", "block"))
    for motion in (grips, holds):
        with pytest.raises(BadInputError, match="arm alone"):
            twin.glance(motion, FREE, start)
    with RehearsalProcess(profile, budget_s=60.0, workers=1) as pool:
        verdict = pool.glance(grips, FREE, start)
    assert verdict.is_partial and not verdict.accepted
    assert [v.kind for v in verdict.violations] == ["worker_raised"]
