"""Poses that show the arm: in view, higher than things stand, and by a way that was seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.messages import (
    CameraFrame,
    GroundedAction,
    Intrinsics,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    Verb,
    freeze,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception.camera_seen import ENOUGH_PX
from qwen2vl_robot.perception.showing import foresee
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.reasons import MotionReason
from tests.cells import PROFILE

AROUND = Surroundings.of(PROFILE)
K = Intrinsics(640, 480, 610.0, 610.0, 319.5, 239.5)
TABLE = ((1.1, 0.3, 0.7), (0.52, 0.0, 0.02))
SHOW = GroundedAction(Verb.SHOW)
START = RobotState(0, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)
EMPTY = Scene((), ())


def camera(eye_m: tuple[float, float, float], at_m: tuple[float, float, float]) -> CameraFrame:
    depth_m = np.ones((480, 640), np.float32)
    return CameraFrame(0, np.zeros((480, 640, 3), np.uint8), depth_m, K, freeze(look_at(eye_m, at_m)))


def end_of(motion: Motion) -> RobotState:
    last = motion.segments[-1]
    assert isinstance(last, JointSegment)
    return replace(START, q_rad=freeze(last.q_rad[-1]))


def show(frame: CameraFrame | None, scene: Scene = EMPTY) -> Motion:
    return next(MotionMaker(PROFILE, AROUND.rules).ways(SHOW, scene, START, frame))


def test_the_arm_ends_in_view_above_what_stands_on_the_table() -> None:
    frame = camera(*TABLE)
    motion = show(frame)
    end = end_of(motion)
    px, unsure_m = foresee(frame, AROUND.kinematics, end)
    assert px > ENOUGH_PX
    assert unsure_m < foresee(frame, AROUND.kinematics, START)[1]
    assert AROUND.kinematics.tool_pose(end.q_rad)[2, 3] > PROFILE.safety.things_below_m
    assert motion.effect.kind == "show"


def test_of_two_cameras_both_see_the_arm() -> None:
    frame = camera(*TABLE)
    side = camera((0.5, -0.9, 0.5), (0.5, 0.1, 0.2))
    end = end_of(show(replace(frame, others=(side,))))
    assert all(foresee(one, AROUND.kinematics, end)[0] > ENOUGH_PX for one in (frame, side))


@pytest.mark.parametrize("at_m", [(5.0, 0.0, 5.0), (3.0, 0.0, 0.5)], ids=["up", "away"])
def test_a_camera_that_looks_elsewhere_sees_no_pose(at_m: tuple[float, float, float]) -> None:
    with pytest.raises(MotionError, match="in no pose") as refused:
        show(camera(TABLE[0], at_m))
    assert refused.value.reason is MotionReason.NOT_IN_VIEW


def unseen(from_x_m: float) -> Scene:
    return replace(EMPTY, unseen_m=freeze(np.array([[[from_x_m, -0.7, 0.0], [0.85, 0.7, 1.1]]])))


def test_a_way_through_unseen_space_is_not_taken() -> None:
    first = end_of(show(camera(*TABLE)))
    assert AROUND.kinematics.tool_pose(first.q_rad)[0, 3] > 0.4
    other = end_of(show(camera(*TABLE), unseen(0.4)))
    assert AROUND.kinematics.tool_pose(other.q_rad)[0, 3] < 0.4
    with pytest.raises(MotionError, match="no camera has seen") as refused:
        show(camera(*TABLE), unseen(0.1))
    assert refused.value.reason is MotionReason.NO_PATH


def test_a_full_gripper_and_no_camera_are_refused() -> None:
    held = replace(EMPTY, held="red block")
    for frame, scene, why in ((camera(*TABLE), held, "put it down first"), (None, EMPTY, "no camera")):
        with pytest.raises(MotionError, match=why):
            show(frame, scene)
