"""What changed between two views and was not to: found by depth, whatever it is called."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box, CameraFrame, Intrinsics, Observation, RobotState, SceneObject, freeze
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.changes import trace, unexplained
from qwen2vl_robot.perception.view import LevelledView, make_view
from tests.cells import PROFILE

SURROUNDINGS = Surroundings.of(PROFILE)
K = Intrinsics(320, 240, 400.0, 400.0, 159.5, 119.5)
T_DOWN = make_pose([0.6, 0.0, 1.0], [[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # right is -y, down is -x
HOME = RobotState(0, freeze(PROFILE.home_q_rad), freeze([0.0] * 7), 0.08)
SIZE_M = 0.05
RGB = np.full((K.height_px, K.width_px, 3), 150, dtype=np.uint8)
LOW_M = 0.012  # as high as a plate


def block(x_m: float, y_m: float, height_m: float = SIZE_M) -> SceneObject:
    pose = freeze(make_pose([x_m, y_m, height_m / 2]))
    return SceneObject("block", Box((SIZE_M, SIZE_M, height_m)), pose)


def seen(*blocks: SceneObject, hole: tuple[slice, slice] | None = None) -> LevelledView:
    """A noisy view from above; only tops are drawn."""
    depth_m = np.random.default_rng(3).normal(1.0, 0.002, (K.height_px, K.width_px))
    for each in blocks:
        x_m, y_m, _ = each.T_base_object[:3, 3]
        v, u = np.mgrid[0 : K.height_px, 0 : K.width_px]
        top_m = 1.0 - each.top_m
        off_u, off_v = (u - K.cx_px) * top_m / K.fx_px + y_m, (v - K.cy_px) * top_m / K.fy_px + (x_m - 0.6)
        depth_m[(np.abs(off_u) < SIZE_M / 2) & (np.abs(off_v) < SIZE_M / 2)] -= each.top_m
    if hole is not None:
        depth_m[hole] = np.nan
    frame = CameraFrame(0, RGB, depth_m.astype(np.float32), K, freeze(T_DOWN))
    return make_view(Observation(frame, HOME), SURROUNDINGS.kinematics, PROFILE)


def test_noise_alone_changes_nothing() -> None:
    assert unexplained(seen(block(0.6, 0.1)), seen(block(0.601, 0.1))) == []


@pytest.mark.parametrize("height_m", [SIZE_M, LOW_M])
def test_a_thing_that_slid_by_two_centimetres_has_left_and_arrived(height_m: float) -> None:
    changes = unexplained(seen(block(0.6, 0.1, height_m)), seen(block(0.62, 0.1, height_m)))
    assert {change.is_gone for change in changes} == {True, False}


def test_what_was_to_move_is_no_surprise_where_it_was_and_where_it_is() -> None:
    was, now = block(0.6, 0.1), block(0.6, -0.1)
    assert unexplained(seen(was), seen(now), (was,), (now,)) == []
    assert unexplained(seen(was), seen(now), (was,), ())
    assert unexplained(seen(was), seen(now), (), (now,))


def test_the_change_says_where_it_is() -> None:
    (change,) = unexplained(seen(block(0.6, 0.1)), seen())
    assert change.is_gone
    assert change.p_base_m == pytest.approx([0.6, 0.1, SIZE_M], abs=0.005)


def test_the_traces_of_a_body_that_stayed_left_or_is_covered() -> None:
    there = block(0.6, 0.0)
    before = seen(there)
    assert trace(before, seen(there), there).same_ratio > 0.95
    gone = trace(before, seen(), there)
    assert (gone.same_ratio < 0.05, gone.hidden_ratio < 0.05) == (True, True)
    assert trace(before, seen(there, hole=np.s_[60:180, 60:180]), there).hidden_ratio > 0.95
    assert trace(before, seen(block(0.6, 0.0, 0.2)), there).hidden_ratio > 0.95
    assert trace(seen(), seen(), there).shown_px == 0


def test_noise_that_neighbours_share_is_no_change() -> None:
    rng = np.random.default_rng(5)

    def noisy() -> LevelledView:
        coarse = rng.normal(0.0, 0.004, (K.height_px // 8, K.width_px // 8))
        field = np.kron(coarse, np.ones((8, 8)))
        frame = CameraFrame(0, RGB, (1.0 + field).astype(np.float32), K, freeze(T_DOWN))
        return make_view(Observation(frame, HOME), SURROUNDINGS.kinematics, PROFILE)

    assert unexplained(noisy(), noisy()) == []


def test_a_pixel_between_two_surfaces_is_no_point_and_what_stands_on_both_is() -> None:
    depth_m = np.full((K.height_px, K.width_px), 1.0)
    depth_m[80:160, 120:200] = 0.9
    depth_m[80:160, 200:202] = (0.93, 0.97)
    frame = CameraFrame(0, RGB, depth_m.astype(np.float32), K, freeze(T_DOWN))
    view = make_view(Observation(frame, HOME), SURROUNDINGS.kinematics, PROFILE)
    assert np.isnan(view.depth_m[90:150, 200:202]).all()
    assert np.isfinite(view.depth_m[90:150, 120:200]).all()
    assert np.isfinite(view.depth_m[90:150, 202:240]).all()
