"""What a motion expects of its gripper: a result, rest, and a width that was rehearsed."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.gripping import Gripping
from qwen2vl_robot.messages import Effect, GripperSegment, Motion, RobotState, freeze
from tests.cells import PROFILE

STEP_NS = 20_000_000
CLOSE = GripperSegment(0.0, 0.8, 0.0, 0.040)
OPEN = GripperSegment(0.0, 0.8, 0.070, 0.070)


def measured(grip: GripperSegment, widths_m: list[float]) -> Gripping:
    """What was measured every 20 ms since the command, which was given as the fingers were at the first width."""
    gripping = Gripping(Motion(PROFILE.name, (grip,), Effect("none")))
    for i, width_m in enumerate(widths_m):
        gripping.measure(RobotState(i * STEP_NS, freeze(np.zeros(7)), freeze(np.zeros(7)), width_m))
        assert gripping.slip(i * 0.02) is None
    return gripping


def lacks(grip: GripperSegment, widths_m: list[float], has_result: bool = True) -> str | None:
    cause = measured(grip, widths_m).lacks(has_result)
    return None if cause is None else str(cause.reason)


@pytest.mark.parametrize("width_m", [0.0, 0.033, 0.040, 0.049])
def test_fingers_at_rest_about_as_wide_as_the_object_have_closed(width_m: float) -> None:
    assert lacks(CLOSE, [0.08] * 3 + [width_m] * 20) is None


def test_without_a_result_nothing_is_done() -> None:
    assert lacks(CLOSE, [0.08] * 3 + [0.040] * 20, has_result=False) == "gripper_late"


@pytest.mark.parametrize("speed_mps", [0.0125, 0.1, -0.0125, 0.003])
def test_fingers_that_still_move_are_not_done_whatever_their_controller_says(speed_mps: float) -> None:
    assert lacks(CLOSE, [0.045 - speed_mps * i * 0.02 for i in range(30)]) == "gripper_late"


def test_rest_that_was_not_measured_long_enough_is_none() -> None:
    assert lacks(CLOSE, [0.040] * 5) == "gripper_late"


@pytest.mark.parametrize("width_m", [0.051, 0.066, 0.08])
def test_fingers_that_rest_too_wide_for_what_was_rehearsed_are_off(width_m: float) -> None:
    assert lacks(CLOSE, [0.08] * 3 + [width_m] * 20) == "grip_off"


def test_fingers_that_never_left_their_place_have_met_nothing_though_the_object_is_nearly_as_wide() -> None:
    wide = GripperSegment(0.0, 0.8, 0.0, 0.072)
    assert lacks(wide, [0.08] * 20) == "grip_off"
    assert lacks(wide, [0.08] * 3 + [0.074] * 20) is None


@pytest.mark.parametrize(("width_m", "reason"), [(0.070, None), (0.065, "grip_off"), (0.0, "grip_off")])
def test_fingers_that_did_not_open_are_off(width_m: float, reason: str | None) -> None:
    assert lacks(OPEN, [0.0] * 3 + [width_m] * 20) == reason


def test_a_thin_thing_is_lost_before_the_fingers_have_closed_on_nothing() -> None:
    assert slips(measured(CLOSE, [0.08] * 3 + [0.010] * 20), 0.004)


@pytest.mark.parametrize(("slip_m", "is_lost"), [(0.0, False), (0.019, False), (-0.021, True), (0.021, True)])
def test_what_is_held_may_turn_between_the_fingers_but_not_be_lost(slip_m: float, is_lost: bool) -> None:
    gripping = measured(CLOSE, [0.08] * 3 + [0.040] * 20)
    assert slips(gripping, 0.040 + slip_m) == is_lost


@pytest.mark.parametrize(("slip_m", "is_lost"), [(0.0, False), (0.009, False), (-0.011, True), (0.011, True)])
def test_fingers_that_hold_nothing_stay(slip_m: float, is_lost: bool) -> None:
    gripping = measured(OPEN, [0.0] * 3 + [0.070] * 20)
    assert slips(gripping, 0.070 + slip_m) == is_lost


def slips(gripping: Gripping, width_m: float) -> bool:
    """Whether what was done is undone, once the fingers are so wide."""
    gripping.done()
    gripping.measure(RobotState(10**9, freeze(np.zeros(7)), freeze(np.zeros(7)), width_m))
    cause = gripping.slip(1.0)
    return cause is not None and cause.reason == "grip_lost"
