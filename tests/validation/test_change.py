"""Two frames → whether the scene changed: noise, edges and the camera's gain did not, a thing that moved did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.messages import CameraFrame, Intrinsics, freeze
from qwen2vl_robot.plant.cameras import ErringCamera, load_camera
from qwen2vl_robot.validation.change import difference

K = Intrinsics(640, 480, 620.0, 620.0, 319.5, 239.5)
STEP_PX = 7  # a centimetre at 0.85 m
EVERYWHERE = np.array([[-9.0] * 3, [9.0] * 3])


def camera(name: str) -> ErringCamera:
    return ErringCamera(load_camera(name), K, np.random.default_rng(2))


def seen(by: ErringCamera, column: int, away_m: float = 0.85) -> CameraFrame:
    """A red thing of 5 cm on a grey table, seen from above."""
    rgb, depth_m = np.full((480, 640, 3), 150, np.uint8), np.full((480, 640), away_m, np.float32)
    rgb[200:240, column : column + 40], depth_m[200:240, column : column + 40] = (200, 30, 30), away_m - 0.05
    rgb, depth_m = by.see(rgb, depth_m, {})
    return CameraFrame(0, rgb, depth_m, K, freeze(np.eye(4)))


@pytest.mark.parametrize("name", ["ideal", "d435", "structured_light"])
@pytest.mark.parametrize("away_m", [0.85, 1.3])
def test_a_still_scene_has_not_changed_whatever_the_camera(name: str, away_m: float) -> None:
    by = camera(name)
    frames = [seen(by, 300, away_m) for _ in range(6)]
    assert [difference(frames[0], frame, EVERYWHERE) for frame in frames[1:]] == [None] * 5


@pytest.mark.parametrize("name", ["ideal", "d435", "structured_light"])
def test_a_thing_that_moved_by_a_centimetre_and_a_half_has(name: str) -> None:
    by = camera(name)
    assert "something moved near" in str(difference(seen(by, 300), seen(by, 300 + STEP_PX + STEP_PX // 2), EVERYWHERE))


@pytest.mark.parametrize("name", ["ideal", "d435", "structured_light"])
@pytest.mark.parametrize("away_m", [0.7, 1.2])
@pytest.mark.parametrize("place", ["alone", "beside", "between", "before"])
def test_a_thing_of_three_centimetres_is_seen_anywhere(name: str, away_m: float, place: str) -> None:
    """It has the table's colour, so that depth alone can tell: a cube of 3 cm, on the table or on a block."""
    by, side_px = camera(name), round(0.03 * K.fx_px / away_m)
    rgb, was_m = np.full((480, 640, 3), 150, np.uint8), np.full((480, 640), away_m, np.float32)
    ends = {"alone": [], "beside": [(100, 200)], "between": [(100, 200), (200 + side_px, 300)], "before": [(100, 300)]}
    for left, right in ends[place]:
        was_m[150:350, left:right] -= np.float32(0.05)
    is_m, low_m = was_m.copy(), away_m - (0.05 if place == "before" else 0.0)
    is_m[220 : 220 + side_px, 200 : 200 + side_px] = low_m - 0.03
    before, after = (CameraFrame(0, *by.see(rgb, depth_m, {}), K, freeze(np.eye(4))) for depth_m in (was_m, is_m))
    assert "something moved near" in str(difference(before, after, EVERYWHERE))
    assert "something moved near" in str(difference(after, before, EVERYWHERE)), "or it is gone"


def test_a_gain_is_no_change_and_a_thing_of_another_colour_is() -> None:
    before = seen(camera("ideal"), 300)
    brighter = replace(before, rgb=np.clip(before.rgb * 1.2, 0, 255).astype(np.uint8))
    assert difference(before, brighter, EVERYWHERE) is None
    other = brighter.rgb.copy()
    other[200:240, 300:340] = (40, 150, 50)
    assert "something moved near" in str(difference(before, replace(brighter, rgb=other), EVERYWHERE))


def test_what_changes_where_the_arm_cannot_come_does_not_count_until_it_comes_nearer() -> None:
    by = camera("ideal")
    before, after = seen(by, 300, 1.6), seen(by, 300 + 2 * STEP_PX, 1.6)
    near = np.array([[-0.5, -0.5, 0.2], [0.5, 0.5, 1.2]])  # ends before the thing at 1.55 m
    assert difference(before, after, EVERYWHERE) is not None
    assert difference(before, after, near) is None
    comes = seen(by, 300, 0.85)
    assert difference(before, comes, near) is not None
    dark = replace(after, depth_m=np.full_like(after.depth_m, np.nan))
    assert difference(before, dark, near) is not None, "without depth nobody knows where it is"
