"""Depth that errs → how noisy perception takes it for: as noisy as it is, and no more than a camera can be."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from qwen2vl_robot.geometry import Array, transform
from qwen2vl_robot.messages import CameraFrame, Observation, freeze
from qwen2vl_robot.perception.changes import unexplained
from qwen2vl_robot.perception.fitting import EXPLAINED_COST_M, explained_cost_m
from qwen2vl_robot.perception.segments import find_segments
from qwen2vl_robot.perception.view import MOST_NOISE_RATIO, LevelledView, make_view
from qwen2vl_robot.plant.cameras import ErringCamera, load_camera
from tests.test_changes import HOME, PROFILE, SURROUNDINGS, T_DOWN, K

BLOCK = np.s_[100:130, 150:180]  # 7.5 cm, and 4 cm high
RED = (200, 30, 30)


def scene() -> tuple[Array, Array]:
    """A grey table one metre below the camera, and a red block on it."""
    rgb, depth_m = np.full((K.height_px, K.width_px, 3), 150, np.uint8), np.full((K.height_px, K.width_px), 1.0)
    rgb[BLOCK], depth_m[BLOCK] = RED, 0.96
    return rgb, depth_m


def view_of(rgb: Array, depth_m: Array) -> LevelledView:
    frame = CameraFrame(0, rgb, depth_m.astype(np.float32), K, freeze(T_DOWN))
    return make_view(Observation(frame, HOME), SURROUNDINGS.kinematics, PROFILE)


def seen_by(camera: str) -> LevelledView:
    rgb, depth_m = scene()
    return view_of(
        *ErringCamera(load_camera(camera), K, np.random.default_rng(1)).see(rgb, depth_m.astype(np.float32), {})
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ideal_camera_gets_no_allowance(seed: int) -> None:
    (block,) = find_segments(seen_by("ideal"))
    assert explained_cost_m(block) == EXPLAINED_COST_M


def test_an_allowance_grows_with_the_frame_s_own_noise() -> None:
    segments = find_segments(seen_by("d435"))
    assert len(segments) == 1, "the block, and no speck"
    assert 0.001 < segments[0].noise_m < 0.008
    assert EXPLAINED_COST_M < explained_cost_m(segments[0]) < EXPLAINED_COST_M + segments[0].noise_m


def test_what_covers_half_of_the_table_is_no_noise() -> None:
    """Tiles of 0, 10 and 18 mm: taken for noise, they would hide whatever is less than 3 cm higher."""
    rgb, depth_m = scene()
    height_m = np.random.default_rng(4).choice([0.0, 0.010, 0.018], (6, 8), p=[0.4, 0.2, 0.4])
    depth_m -= np.kron(height_m, np.ones((40, 40)))
    depth_m[BLOCK] = 0.956
    view = view_of(rgb, depth_m)
    assert view.noise_ratio == MOST_NOISE_RATIO
    assert any(s.mask[BLOCK].mean() > 0.5 for s in find_segments(view))


def test_a_picture_that_moved_as_a_whole_is_not_still() -> None:
    rgb, depth_m = scene()
    most = np.s_[:, 60:]
    moved_m = depth_m.copy()
    moved_m[most] = 0.93  # a hand, a cloth, a tray that was pushed in
    assert unexplained(view_of(rgb, depth_m), view_of(rgb, moved_m))


def test_a_speck_far_from_a_body_is_no_part_of_it() -> None:
    rgb, depth_m = scene()
    depth_m[100:104, 250:255] = 0.96
    rgb[101:103, 251:254] = RED
    segments = find_segments(view_of(rgb, depth_m))
    assert len(segments) == 1
    assert segments[0].x1 < 190


def test_background_begins_where_no_link_can_come() -> None:
    rng, kinematics = np.random.default_rng(0), SURROUNDINGS.kinematics
    limits = np.array([(joint.lower_rad, joint.upper_rad) for joint in PROFILE.joints])
    low_m, high_m = np.array(PROFILE.workspace.min_m), np.array(PROFILE.workspace.max_m)
    region_m = view_of(*scene()).region_m
    for q_rad in rng.uniform(limits[:, 0], limits[:, 1], (2500, len(limits))):
        tool_m = kinematics.tool_pose(q_rad, 0.08)[:3, 3]
        if not ((tool_m > low_m) & (tool_m < high_m)).all():
            continue
        poses = kinematics.link_poses(q_rad, 0.08)
        for link, own_m in kinematics.link_hulls.items():
            hull_m = transform(poses[link], own_m)
            assert (hull_m > region_m[0]).all() and (hull_m < region_m[1]).all(), link


def test_a_still_table_far_away_never_changes() -> None:
    """Of 66 pairs of views of a table at 1.2 m ten differ by more than four times the noise of most pixels."""
    erring = ErringCamera(load_camera("d435"), K, np.random.default_rng(3))
    rgb, depth_m = np.full((K.height_px, K.width_px, 3), 150, np.uint8), np.full((K.height_px, K.width_px), 1.2)
    T = T_DOWN.copy()
    T[2, 3] = 1.2
    views = []
    for _ in range(12):
        seen_rgb, seen_m = erring.see(rgb, depth_m.astype(np.float32), {})
        frame = CameraFrame(0, seen_rgb, seen_m, K, freeze(T))
        views.append(make_view(Observation(frame, HOME), SURROUNDINGS.kinematics, PROFILE))
    assert [unexplained(*pair) for pair in combinations(views, 2)] == [[]] * 66
