"""Cameras that look at one world agree; one that is moved, tilted or scaled contradicts the others, and says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.messages import Box, CameraFrame, SceneObject, freeze
from qwen2vl_robot.perception.agreement import check_cameras
from qwen2vl_robot.reasons import ObservationReason
from tests.validation.test_space import view

BODIES = tuple(
    SceneObject(f"block {i}", Box((0.06, 0.06, height_m)), freeze(make_pose([x, y, height_m / 2])))
    for i, (x, y, height_m) in enumerate(
        [(0.45, -0.15, 0.06), (0.55, 0.0, 0.12), (0.65, 0.15, 0.05), (0.4, 0.12, 0.08), (0.6, -0.15, 0.1)]
    )
)
EYES = ((1.2, 0.0, 0.6), (0.3, 0.7, 0.7), (0.5, -0.8, 0.5), (-0.2, 0.0, 0.9))


def seen(eye: tuple[float, float, float], rng: np.random.Generator) -> CameraFrame:
    frame = view(*BODIES, eye=eye)
    noise_m = rng.normal(0.0, 0.002, frame.depth_m.shape) * frame.depth_m**2
    holes = np.where(rng.random(frame.depth_m.shape) < 0.03, np.nan, 1.0)
    return replace(frame, depth_m=((frame.depth_m + noise_m) * holes).astype(np.float32))


def moved(frame: CameraFrame, shift_m: tuple[float, float, float], turn_deg: float = 0.0) -> CameraFrame:
    """The same with a published pose that is off."""
    off = make_pose(shift_m, rotation_z(np.radians(turn_deg)))
    T = off @ frame.T_base_camera
    return replace(frame, T_base_camera=freeze(T))


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_cameras_that_look_at_one_world_agree(first: int, second: int) -> None:
    rng = np.random.default_rng([first, second])
    check_cameras(replace(seen(EYES[first], rng), others=(seen(EYES[second], rng),)))


@pytest.mark.parametrize("shift_m", [(0.006, 0.0, 0.0), (0.0, -0.006, 0.0), (0.0, 0.0, 0.006)])
@pytest.mark.parametrize("second", range(1, 4))
def test_what_calibration_may_be_off_is_no_contradiction(second: int, shift_m: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(second)
    check_cameras(replace(seen(EYES[0], rng), others=(moved(seen(EYES[second], rng), shift_m),)))


@pytest.mark.parametrize(
    ("shift_m", "turn_deg"),
    [
        ((0.05, 0.0, 0.0), 0.0),
        ((0.0, 0.05, 0.0), 0.0),
        ((0.0, -0.15, 0.0), 0.0),
        ((0.0, 0.0, 0.06), 0.0),
        ((0, 0, 0), 20.0),
    ],
)
@pytest.mark.parametrize("second", range(1, 4))
def test_a_camera_with_a_wrong_pose_contradicts_the_other(
    second: int, shift_m: tuple[float, float, float], turn_deg: float
) -> None:
    rng = np.random.default_rng(second)
    frame = replace(seen(EYES[0], rng), others=(moved(seen(EYES[second], rng), shift_m, turn_deg),))
    with pytest.raises(ObservationError, match="cameras 1 and 2 contradict each other") as caught:
        check_cameras(frame)
    assert caught.value.reason is ObservationReason.CAMERAS_DISAGREE


def test_the_camera_that_differs_from_two_others_is_in_each_pair_that_contradicts() -> None:
    rng = np.random.default_rng(0)
    first, second, third = (seen(eye, rng) for eye in EYES[:3])
    with pytest.raises(ObservationError, match="cameras 1 and 3"):
        check_cameras(replace(first, others=(second, moved(third, (0.0, 0.05, 0.0)))))


def test_depth_in_other_units_contradicts() -> None:
    rng = np.random.default_rng(0)
    other = seen(EYES[1], rng)
    with pytest.raises(ObservationError, match="contradict"):
        check_cameras(replace(seen(EYES[0], rng), others=(replace(other, depth_m=other.depth_m * np.float32(1000)),)))


def test_depth_of_another_size_than_it_says_is_refused() -> None:
    rng = np.random.default_rng(0)
    other = seen(EYES[1], rng)
    with pytest.raises(ObservationError, match="of camera 2 must be 160x120 px"):
        check_cameras(replace(seen(EYES[0], rng), others=(replace(other, depth_m=other.depth_m[:60]),)))
