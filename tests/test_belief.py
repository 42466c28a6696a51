"""What is believed to be held is lost when the fingers say so, or when nobody saw it held."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.belief import Belief
from qwen2vl_robot.messages import (
    Box,
    Cause,
    Effect,
    Outcome,
    OutcomeKind,
    RobotState,
    Scene,
    SceneObject,
    freeze,
)
from qwen2vl_robot.reasons import TaskReason
from tests.cells import PROFILE

BLOCK = SceneObject("red block", Box((0.04, 0.04, 0.05)), np.eye(4))
HOLDING = Scene((BLOCK,), (), held="red block", T_tool_held=np.eye(4))


class Fingers:
    """An arm that says how far its fingers are open."""

    def __init__(self, width_m: float) -> None:
        self.width_m = width_m

    def state(self) -> RobotState:
        return RobotState(0, freeze(PROFILE.home_q_rad), freeze([0.0] * 7), self.width_m)


def believing(width_m: float) -> Belief:
    """A belief in a hold that was measured with the fingers this far apart."""
    belief = Belief()
    belief.scene, belief.grip_width_m = HOLDING, width_m
    return belief


def test_what_is_held_stays_held_while_the_fingers_stay() -> None:
    assert believing(0.04).state_of(Fingers(0.042)).held == "red block"


@pytest.mark.parametrize("width_m", [0.0, 0.08])
def test_fingers_that_closed_or_opened_have_lost_what_they_held(width_m: float) -> None:
    belief = believing(0.04)
    assert belief.state_of(Fingers(width_m)).held is None
    assert belief.scene is not None
    assert belief.scene.held is None


@pytest.mark.parametrize(
    ("effect", "kind", "still_holds"),
    [
        (Effect("hold", "red block"), OutcomeKind.NOT_VERIFIED, False),
        (Effect("hold", "red block"), OutcomeKind.NO_MOTION, False),
        (Effect("none"), OutcomeKind.WRONG_EFFECT, False),
        (Effect("release", "red block"), OutcomeKind.NOT_VERIFIED, False),
        (Effect("release", "red block"), OutcomeKind.NO_MOTION, True),  # measured: still in the gripper
    ],
)
def test_a_step_that_failed_leaves_no_belief_in_a_hold(effect: Effect, kind: OutcomeKind, still_holds: bool) -> None:
    belief = believing(0.04)
    belief.fail(effect, Outcome(kind, (Cause(TaskReason.NO_MOTION, "why"),)))
    assert belief.scene is not None
    assert (belief.scene.held is not None) == still_holds
