"""The arm in the picture says where the camera is, where enough of it shows."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from qwen2vl_robot.geometry import Array, make_pose, rotation_from_rotvec, rotation_z, transform
from qwen2vl_robot.kinematics import Kinematics, box_vertices, hull_triangles
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception.camera_check import check_camera, work_area_m
from qwen2vl_robot.perception.camera_seen import ENOUGH_PX, LIMIT_M, CameraSeen
from qwen2vl_robot.plant.client import PlantProcess
from tests.cells import PROFILE

SCENE = "scenes/tabletop.yaml"
KINEMATICS = Kinematics(PROFILE)
CLEAR, FEW, ROUND = 2, 10, 186  # seeds: much of the arm, nothing of it, and only the round base


@lru_cache(maxsize=8)
def look(seed: int, camera: str | None = None) -> tuple[Observation, Array]:
    """What a scene shows, and the camera's true pose."""
    with PlantProcess(SCENE, seed, camera=camera) as plant:
        return Observation(plant.link.capture(), plant.link.state()), plant.truth.T_base_camera()


def displaced(seed: int, off: Array, camera: str | None = None) -> Observation:
    """The scene, seen by a camera whose published pose is off by a pose (4, 4) in the base frame."""
    observation, T_true = look(seed, camera)
    return replace(observation, frame=replace(observation.frame, T_base_camera=off @ T_true))


def about(point_m: Array, R: Array) -> Array:
    return make_pose(point_m - R @ point_m, R)


def test_a_right_calibration_is_checked_and_passes() -> None:
    seen = check_camera(look(CLEAR)[0], PROFILE, KINEMATICS)
    assert seen.shown_px > ENOUGH_PX
    assert seen.is_checked
    assert not seen.is_off
    assert seen.describe().startswith("camera checked: off by")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("size_m", [0.015, 0.05, 0.15])
def test_a_camera_off_sideways_is_refused_with_size_and_direction(size_m: float, degrees: float) -> None:
    off_m = rotation_z(np.deg2rad(degrees)) @ [size_m, 0.0, 0.0]
    seen = check_camera(displaced(CLEAR, make_pose(off_m)), PROFILE, KINEMATICS)
    assert seen.is_off
    assert seen.off_m is not None
    assert seen.off_m == pytest.approx(off_m, abs=0.005)
    assert f"{1000 * seen.off_m[0]:+.0f} mm along x" in seen.describe()


@pytest.mark.parametrize("degrees", [-20.0, -4.0, 4.0, 20.0])
@pytest.mark.parametrize("where", ["camera", "base", "work place"])
def test_a_turned_camera_is_refused(degrees: float, where: str) -> None:
    centre_m = {"camera": look(CLEAR)[1][:3, 3], "base": np.zeros(3), "work place": work_area_m(PROFILE)[-1]}[where]
    off = about(centre_m, rotation_z(np.deg2rad(degrees)))
    seen = check_camera(displaced(CLEAR, off), PROFILE, KINEMATICS)
    assert seen.is_off
    assert np.rad2deg(seen.turn_rad) == pytest.approx(degrees, abs=1.0)


def test_what_levelling_mends_counts_as_well() -> None:
    tilted = about(look(CLEAR)[1][:3, 3], rotation_from_rotvec([np.deg2rad(1.3), 0.0, 0.0]))
    moved_m = transform(tilted, work_area_m(PROFILE)) - work_area_m(PROFILE)
    seen = check_camera(displaced(CLEAR, tilted), PROFILE, KINEMATICS)
    assert seen.size_m == pytest.approx(np.sqrt((moved_m**2).sum(axis=1).mean()), abs=0.005)
    assert seen.is_off


def test_an_error_within_what_is_usual_passes() -> None:
    for degrees in (0, 90, 180, 270):
        off_m = rotation_z(np.deg2rad(degrees)) @ [0.006, 0.0, 0.0]
        assert not check_camera(displaced(CLEAR, make_pose(off_m)), PROFILE, KINEMATICS).is_off


def test_too_little_of_the_arm_is_unchecked_and_says_so() -> None:
    seen = check_camera(look(FEW)[0], PROFILE, KINEMATICS)
    assert not seen.is_checked
    assert seen.describe() == f"camera unchecked: the arm shows in {seen.shown_px} px, 2000 are needed"


def test_an_arm_that_shows_where_none_should_is_no_excuse() -> None:
    """Turned by 20 degrees the camera should see nothing of the arm, and sees much of it."""
    T_true = look(CLEAR)[1]
    off = about(T_true[:3, 3], rotation_z(np.deg2rad(20.0)))
    for turned in (off, np.linalg.inv(off)):
        assert check_camera(displaced(CLEAR, turned), PROFILE, KINEMATICS).is_off


def test_a_round_base_does_not_tell_how_the_camera_is_turned_about_it() -> None:
    seen = check_camera(look(ROUND)[0], PROFILE, KINEMATICS)
    assert seen.shown_px > ENOUGH_PX
    assert not seen.is_checked
    assert not seen.is_off
    assert "leaves one direction open" in seen.describe()
    away = np.array([0.03, 0.0, 0.0])
    assert check_camera(displaced(ROUND, make_pose(away)), PROFILE, KINEMATICS).is_off, "the other one is known"


def test_how_sure_a_fit_is_counts_all_that_shows_at_its_end() -> None:
    """Where the pose is published, half of what shows of this arm is out of the picture."""
    seen = check_camera(displaced(39, make_pose([0.0, 0.05, 0.0])), PROFILE, KINEMATICS)
    assert seen.is_off
    assert seen.off_m == pytest.approx([0.0, 0.05, 0.0], abs=0.006)


def test_something_before_the_arm_does_not_shift_it() -> None:
    observation, _ = look(CLEAR)
    depth_m = np.array(observation.frame.depth_m)
    depth_m[:, depth_m.shape[1] // 2 - 40 : depth_m.shape[1] // 2 + 40] = 0.3
    hidden = replace(observation, frame=replace(observation.frame, depth_m=depth_m))
    seen = check_camera(hidden, PROFILE, KINEMATICS)
    assert not seen.is_off
    assert seen.size_m is None or seen.size_m < LIMIT_M


def test_a_frame_without_a_table_is_unchecked() -> None:
    observation, _ = look(CLEAR)
    blind = replace(observation.frame, depth_m=np.full_like(observation.frame.depth_m, np.nan))
    seen = check_camera(replace(observation, frame=blind), PROFILE, KINEMATICS)
    assert not seen.is_checked
    assert "no depth" in seen.describe()


def test_the_triangles_of_a_primitive_lie_on_it_and_face_outwards() -> None:
    triangles = hull_triangles(box_vertices(np.array([0.1, 0.2, 0.3])))
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    assert np.linalg.norm(normals, axis=1).sum() / 2 == pytest.approx(2 * (0.02 + 0.03 + 0.06))
    assert (np.einsum("ij,ij->i", normals, a) > 0).all()


@pytest.mark.parametrize("seed", [508, 509])
def test_the_outline_in_colour_tells_what_a_stereo_cameras_depth_leaves_open(seed: int) -> None:
    """By depth alone a camera that errs as a D435 does, and is turned by 12 degrees about the base, passed here."""
    assert not check_camera(look(seed, "d435")[0], PROFILE, KINEMATICS).is_off
    for degrees in (-12.0, 12.0):
        seen = check_camera(
            displaced(seed, make_pose(np.zeros(3), rotation_z(np.deg2rad(degrees))), "d435"), PROFILE, KINEMATICS
        )
        assert seen.is_off
        assert np.rad2deg(seen.turn_rad) == pytest.approx(degrees, abs=2.0)


def test_edges_that_are_not_the_arms_accuse_no_camera() -> None:
    """A table full of lines and an arm in stripes: the outline is lost among them, and depth alone speaks."""
    observation = look(508, "d435")[0]
    rows, columns = np.indices(observation.frame.depth_m.shape)
    for period_px in (5, 9, 16, 31):
        lines = ((rows + columns) // period_px % 2 * 200 + 20).astype(np.uint8)
        frame = replace(observation.frame, rgb=np.repeat(lines[..., None], 3, axis=2))
        assert not check_camera(replace(observation, frame=frame), PROFILE, KINEMATICS).is_off


def test_a_picture_without_edges_leaves_the_camera_unchecked() -> None:
    observation = look(508, "d435")[0]
    grey = np.full_like(observation.frame.rgb, 128)
    seen = check_camera(replace(observation, frame=replace(observation.frame, rgb=grey)), PROFILE, KINEMATICS)
    assert not seen.is_checked and not seen.is_off


def test_what_is_known_in_one_direction_alone_is_said_alone() -> None:
    """A base that is nearly round left the turn open, and 52 mm of a turn that nobody measured were reported."""
    off_m, sure_off_m = np.array([-0.009, -0.052, 0.006]), np.array([-0.009, 0.0, 0.006])
    seen = CameraSeen(8548, off_m, 0.057, sure_off_m, np.deg2rad(-4.6), unsure_m=0.032)
    assert seen.is_off
    assert seen.numbers == (("x_m", -0.009), ("y_m", 0.0))
    assert "11 mm at the work place, or more: -9 mm along x, +0 mm along y, +6 mm along z" in seen.describe()
    assert "52" not in seen.describe()
