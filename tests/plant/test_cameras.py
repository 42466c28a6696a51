"""A camera errs as its file in sim/cameras says: noise, gaps, flying pixels, steps, losses and colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.plant.cameras import CameraModel, ErringCamera, Noise, Stereo, camera_names, load_camera

K = Intrinsics(640, 480, 620.0, 620.0, 319.5, 239.5)
TABLE_M, TOP_M = 0.85, 0.80  # a thing of 5 cm
GREY = np.full((480, 640, 3), 150, np.uint8)
THING = np.s_[150:330, 200:400]
Float = npt.NDArray[np.float32]


def plane() -> Float:
    return np.full((480, 640), TABLE_M, np.float32)


def thing() -> Float:
    depth_m = plane()
    depth_m[THING] = TOP_M
    return depth_m


def camera(name: str, seed: int = 1, **changed: object) -> ErringCamera:
    model = CameraModel.model_validate({**load_camera(name).model_dump(), "shift_px": 0.0, **changed})
    return ErringCamera(model, K, np.random.default_rng(seed))


def off_px(depth_m: Float, baseline_m: float) -> Float:
    """How far disparity is from that of the plane."""
    fb = K.fx_px * baseline_m
    return (fb / depth_m - fb / TABLE_M).astype(np.float32)


def alike(field: Float, lag_px: int) -> float:
    """How far pixels at a distance err alike, 0 to 1."""
    return float(np.nanmean(field[:, lag_px:] * field[:, :-lag_px]) / np.nanmean(field**2))


def test_every_camera_of_sim_can_be_loaded_and_another_is_refused() -> None:
    assert camera_names() == ["d435", "ideal", "structured_light"]
    assert all(isinstance(load_camera(name), CameraModel) for name in camera_names())
    with pytest.raises(BadInputError, match="there are: d435, ideal, structured_light"):
        load_camera("d453")


@pytest.mark.parametrize(("name", "baseline_m"), [("d435", 0.050), ("structured_light", 0.075)])
def test_disparity_is_noisy_as_real_tables_are_and_neighbours_err_alike(name: str, baseline_m: float) -> None:
    _, depth_m = camera(name).see(GREY, plane(), {})
    error_px = off_px(depth_m, baseline_m)
    assert 0.05 < np.nanstd(error_px) < 0.15
    # Four real frames (docs/cameras.md): 0.8 to 0.9 at 2 px, 0.4 to 0.7 at 8 px.
    assert alike(error_px, 2) > 0.6
    assert 0.3 < alike(error_px, 8) < 0.8


def test_the_ideal_camera_errs_by_two_millimetres_and_each_pixel_by_itself() -> None:
    _, depth_m = camera("ideal").see(GREY, plane(), {})
    assert np.nanstd(depth_m) == pytest.approx(0.002, rel=0.02)
    assert abs(alike(depth_m - np.float32(TABLE_M), 1)) < 0.05
    assert np.isnan(depth_m).mean() == pytest.approx(0.01, rel=0.1)


def test_a_part_of_the_noise_lasts_from_frame_to_frame() -> None:
    stands = camera("d435")
    first, second = (off_px(stands.see(GREY, plane(), {})[1], 0.05) for _ in range(2))
    common = float(np.nanmean(first * second) / np.nanmean(first**2))
    assert 0.3 < common < 0.7


def test_depth_comes_in_whole_millimetres() -> None:
    _, depth_m = camera("d435").see(GREY, thing(), {})
    millimetres = 1000.0 * depth_m[np.isfinite(depth_m)]
    assert np.abs(millimetres - np.round(millimetres)).max() < 0.01


def test_the_shadow_beside_an_edge_is_four_to_eight_pixels_wide_on_one_side() -> None:
    quiet = {**load_camera("d435").model_dump()["stereo"], "flying_ratio": 0.0}
    _, depth_m = camera("d435", stereo=quiet, missing_ratio=0.0).see(GREY, thing(), {})
    rows = depth_m[THING[0]][20:-20]
    left, right = np.isnan(rows[:, 180:200]).sum(axis=1), np.isnan(rows[:, 400:420]).sum(axis=1)
    assert 4 <= np.median(left) <= 8
    assert np.median(right) < np.median(left)
    assert not np.isnan(rows[:, 210:390]).any()


def test_some_pixels_at_an_edge_lie_between_the_two_surfaces_and_none_elsewhere() -> None:
    stereo = {**load_camera("d435").model_dump()["stereo"], "noise": []}
    _, depth_m = camera("d435", stereo=stereo).see(GREY, thing(), {})
    with np.errstate(invalid="ignore"):
        between = (depth_m > TOP_M + 0.006) & (depth_m < TABLE_M - 0.006)
    rows, cols = np.nonzero(between)
    assert len(rows) > 100
    beside = np.minimum(np.abs(cols - 199.5), np.abs(cols - 399.5))
    beside = np.minimum(beside, np.minimum(np.abs(rows - 149.5), np.abs(rows - 329.5)))
    assert beside.max() <= 2.5


def test_dark_shiny_and_clear_things_lose_depth_and_matt_ones_do_not() -> None:
    rgb = GREY.copy()
    rgb[:, :160] = 10
    masks = {"shiny": np.zeros((480, 640), bool), "clear": np.zeros((480, 640), bool)}
    masks["shiny"][:, 160:320] = masks["clear"][:, 320:480] = True
    _, depth_m = camera("d435").see(rgb, plane(), masks)  # type: ignore[arg-type]
    dark, shiny, clear, matt = (np.isnan(depth_m[:, x : x + 160]).mean() for x in (0, 160, 320, 480))
    assert matt < 0.01 < 0.15 < dark < 0.45 < clear
    assert 0.3 < shiny < 0.6


def test_depth_lies_up_to_two_pixels_beside_its_colour_and_stays_there() -> None:
    model = CameraModel(shift_px=2.0)
    shifts = set()
    for seed in range(30):
        stands = ErringCamera(model, K, np.random.default_rng(seed))
        first, second = (stands.see(GREY, thing(), {})[1] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        rows, cols = np.nonzero(first == np.float32(TOP_M))
        shifts.add((int(cols[0]) - 200, int(rows[0]) - 150))
    assert max(np.hypot(*shift) for shift in shifts) <= 2.9  # whole pixels each way
    assert len(shifts) > 4


def test_colours_drift_from_frame_to_frame_within_limits() -> None:
    stands = camera("d435")
    means = np.array([stands.see(GREY, plane(), {})[0].reshape(-1, 3).mean(axis=0) for _ in range(40)])
    steps = np.abs(np.diff(means, axis=0))
    assert 0.5 < steps.max() < 0.06 * 150
    assert np.ptp(means[:, 1]) > 3.0
    assert (np.abs(means / 150.0 - 1.0) < 0.17).all()


def test_a_smaller_picture_errs_as_the_large_one_does() -> None:
    k = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    model = CameraModel(stereo=Stereo(baseline_m=0.05, noise=(Noise(disparity_px=0.3, over_px=20.0, lasts=True),)))
    large = ErringCamera(model, k, np.random.default_rng(1))
    small = large.smaller(320, np.random.default_rng(2))
    assert small.intrinsics == Intrinsics(320, 240, 300.0, 300.0, 159.5, 119.5)
    rgb, wall_m = np.full((480, 640, 3), 128, np.uint8), np.ones((480, 640), np.float32)
    whole_m, half_m = large.see(rgb, wall_m, {})[1], small.see(rgb[::2, ::2], wall_m[::2, ::2], {})[1]
    assert whole_m.std() > 0.005
    assert np.abs(half_m - whole_m[::2, ::2]).max() < 0.2 * whole_m.std()


def test_noise_is_the_same_everywhere_in_the_picture() -> None:
    fields = [ErringCamera(load_camera("d435"), K, np.random.default_rng(i))._field(10.0) for i in range(80)]
    deviation = np.std(fields, axis=0)
    middle = deviation[100:-100, 100:-100].mean()
    for edge in (deviation[-8:], deviation[:8], deviation[:, :8], deviation[:, -8:], deviation[-8:, -8:]):
        assert edge.mean() == pytest.approx(middle, rel=0.25)
