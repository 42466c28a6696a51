"""What came since the first frame: found from 4 cm on, never noise, edges or the arm itself; and what lies ahead."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from qwen2vl_robot.geometry import Array, transform
from qwen2vl_robot.messages import CameraFrame, Effect, JointSegment, Motion, Observation, freeze
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.intruders import Eye, Patch
from qwen2vl_robot.perception.surfaces import outlines_of
from qwen2vl_robot.perception.way import Way, link_points
from tests.cells import PROFILE, reach
from tests.scenarios.desk import HOME, Cell

AROUND = Surroundings.of(PROFILE)
AWAY = HOME + np.eye(7)[0] * 1.7  # the hand a third of a metre aside
RNG = np.random.default_rng(1)


def way_of(motion: Motion, start_q_rad: Array) -> Way:
    return Way.of(motion, start_q_rad, 0.08, AROUND.kinematics, link_points(AROUND.kinematics), None)


WAY = way_of(reach(AWAY, HOME - AWAY, 2.0), AWAY)


class Watched:
    """An arm over an empty table, and an eye on it from when it stood at `AWAY`."""

    def __init__(self) -> None:
        self.cell = Cell(q_rad=AWAY)
        self.eye = Eye(Observation(self.cell.see(), self.cell.state()), AROUND)

    def see(self, q_rad: Array) -> CameraFrame:
        self.cell.ns += 200_000_000
        self.cell.q_rad = q_rad
        return self.cell.see()

    def look(self, frame: CameraFrame, at_s: float = 0.0) -> list[Patch]:
        poses = AROUND.kinematics.link_poses(self.cell.q_rad, 0.08)
        arm_m = np.vstack([transform(poses[k], p) for k, p in outlines_of(AROUND.kinematics).items()])
        patches = self.eye.look(frame, arm_m, WAY, at_s, ())
        assert patches is not None
        return patches


def with_square(frame: CameraFrame, p_base_m: Array, size_m: float = 0.04) -> CameraFrame:
    """Hang a square that faces the camera at a point."""
    k, T = frame.intrinsics, frame.T_base_camera
    x_m, y_m, z_m = (p_base_m - T[:3, 3]) @ T[:3, :3]
    u, v, half_px = x_m / z_m * k.fx_px + k.cx_px, y_m / z_m * k.fy_px + k.cy_px, size_m / 2 * k.fx_px / z_m
    depth_m = frame.depth_m.copy()
    rows, columns = (slice(round(c - half_px), round(c + half_px)) for c in (v, u))
    depth_m[rows, columns] = np.minimum(depth_m[rows, columns], z_m)
    return replace(frame, depth_m=depth_m)


def between() -> list[Array]:
    return [AWAY + share * (HOME - AWAY) for share in np.linspace(0.0, 1.0, 8)]


def test_the_arm_itself_and_what_it_hid_never_came() -> None:
    watched = Watched()
    assert [watched.look(watched.see(q_rad)) for q_rad in between()] == [[]] * 8


def test_noise_that_grows_with_the_square_of_depth_and_holes_never_come() -> None:
    watched = Watched()
    for q_rad in between() * 3:
        frame = watched.see(q_rad)
        depth_m = frame.depth_m + RNG.normal(0.0, 0.003, frame.depth_m.shape) * frame.depth_m**2
        depth_m[RNG.random(depth_m.shape) < 0.02] = np.nan
        assert watched.look(replace(frame, depth_m=depth_m.astype(np.float32))) == []


def test_flying_pixels_around_the_arm_never_come() -> None:
    watched = Watched()
    for q_rad in between():
        frame = watched.see(q_rad)
        near_m, far_m = (cut(frame.depth_m, np.ones((5, 5), np.uint8)) for cut in (cv2.erode, cv2.dilate))
        edge = far_m - near_m > 0.05  # two pixels to each side
        mixed_m = near_m + RNG.random(near_m.shape) * (far_m - near_m)
        assert watched.look(replace(frame, depth_m=np.where(edge, mixed_m, frame.depth_m).astype(np.float32))) == []


@pytest.mark.parametrize("p_base_m", [[0.6, 0.15, 0.3], [0.5, -0.2, 0.1], [0.8, 0.0, 0.06]])
def test_four_centimetres_are_seen_where_they_are(p_base_m: list[float]) -> None:
    watched = Watched()
    (patch,) = watched.look(with_square(watched.see(AWAY), np.array(p_base_m)))
    assert patch.p_base_m == pytest.approx(p_base_m, abs=0.015)
    assert 0.03 < patch.size_m < 0.06


def test_what_comes_counts_once_it_has_been_seen_for_a_tenth_of_a_second() -> None:
    watched, p_m = Watched(), AROUND.kinematics.tool_pose(HOME)[:3, 3] + [0.1, 0.0, 0.0]
    first, second = (with_square(watched.see(AWAY), p_m) for _ in range(2))
    (patch,) = watched.look(first)
    assert patch.is_ahead
    assert watched.eye.lasting(first.stamp_ns) is None
    watched.look(second)
    assert watched.eye.lasting(second.stamp_ns) is not None


def test_what_comes_where_the_arm_was_is_seen_once_the_place_has_shown() -> None:
    watched = Watched()
    hand_m = AROUND.kinematics.tool_pose(AWAY)[:3, 3]
    assert watched.look(watched.see(HOME)) == []
    assert watched.look(watched.see(HOME)) == []
    (patch,) = watched.look(with_square(watched.see(HOME), hand_m))
    assert patch.p_base_m == pytest.approx(hand_m, abs=0.02)


def test_what_stands_from_the_first_never_came_and_its_going_is_no_coming() -> None:
    watched = Watched()
    square = with_square(watched.see(AWAY), np.array([0.6, 0.15, 0.3]))
    watched.eye = Eye(Observation(square, watched.cell.state()), AROUND)
    assert watched.look(with_square(watched.see(AWAY), np.array([0.6, 0.15, 0.3]))) == []
    assert watched.look(watched.see(AWAY)) == []


def test_a_way_is_ahead_until_the_arm_has_left_it_for_good() -> None:
    outwards = np.array([1.3, 1.3, 1.0])  # away from the elbow, which stays near
    start_m, end_m = (AROUND.kinematics.tool_pose(q)[:3, 3] * outwards for q in (AWAY, HOME))
    assert list(WAY.is_ahead(np.array([start_m, end_m]), 0.0)) == [True, True]
    assert list(WAY.is_ahead(np.array([start_m, end_m]), 2.2)) == [False, True]


def test_the_arm_comes_back_to_where_it_was() -> None:
    there, back = reach(AWAY, HOME - AWAY, 2.0), reach(HOME, AWAY - HOME, 2.0)
    first, second = there.segments[0], back.segments[0]
    assert isinstance(first, JointSegment)
    assert isinstance(second, JointSegment)
    later = JointSegment(freeze(second.time_s + 2.0), second.q_rad)
    way = way_of(Motion(PROFILE.name, (first, later), Effect("none")), AWAY)
    start_m = AROUND.kinematics.tool_pose(AWAY)[None, :3, 3]
    assert way.is_ahead(start_m, 2.0).all()
    assert way.is_ahead(start_m, 4.0).all()


@pytest.mark.parametrize(("off_m", "is_ahead"), [(0.06, True), (0.3, False)])
def test_room_around_the_arm_belongs_to_its_way(off_m: float, is_ahead: bool) -> None:
    tip_m = AROUND.kinematics.tool_pose(HOME)[:3, 3]
    for side in ([1.0, 0.0, 0.0], [0.8, 0.0, 0.6]):
        assert bool(WAY.is_ahead(tip_m + (off_m + 0.01) * np.array(side), 0.0)) == is_ahead


def test_what_is_not_a_number_is_nowhere() -> None:
    assert not WAY.is_ahead(np.array([[np.nan, 0.0, 0.0], [1e9, 0.0, 0.0]]), 0.0).any()
