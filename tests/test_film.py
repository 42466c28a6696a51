"""Pictures show what they say and stay small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.film import FILM_INTRINSICS, T_BASE_FILM, annotate, drawable, join_clips, shoot, write_film
from qwen2vl_robot.geometry import invert, look_at, project, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.legend import arrows
from qwen2vl_robot.messages import CameraFrame, ImageBox, Intrinsics
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.sides import ROBOT_SIDES, sides_in_picture

_INTRINSICS = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
PINHOLE = ("fx_px", "fy_px", "cx_px", "cy_px")


def grey_frame() -> CameraFrame:
    rgb = np.full((120, 160, 3), 128, dtype=np.uint8)
    depth_m = np.ones((120, 160), dtype=np.float32)
    return CameraFrame(0, rgb, depth_m, _INTRINSICS, look_at([1.0, 0.0, 0.5], [0.5, 0.0, 0.0]))


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != 128).any(axis=2)


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Pictures that hardly compress."""
    return np.random.default_rng(seed).integers(0, 256, (count, 240, 320, 3), dtype=np.uint8)


def test_annotate_draws_the_edges_of_a_box_where_it_is() -> None:
    picture = annotate(grey_frame(), [("red block", ImageBox(500, 500, 750, 800))])
    marks = changed(picture)
    assert marks[60:96, 80].all()
    assert marks[60:96, 120].all()
    assert not marks[65:90, 85:115].any()


def test_annotate_leaves_the_frame_as_it_was() -> None:
    frame = grey_frame()
    annotate(frame, [("red block", ImageBox(500, 500, 750, 800))], np.array([[0.5, 0.0, 0.0], [0.5, 0.1, 0.0]]))
    assert (frame.rgb == 128).all()


def test_annotate_draws_the_path_through_its_projection() -> None:
    picture = annotate(grey_frame(), (), np.array([[0.5, -0.1, 0.0], [0.5, 0.0, 0.0], [0.5, 0.1, 0.0]]))
    assert changed(picture)[58:62, 78:82].any()


@pytest.mark.parametrize(
    "path_m",
    [np.zeros((0, 3)), np.array([[5.0, 0.0, 3.0]]), np.array([[np.nan] * 3, [0.5, 0.0, 0.0]])],
    ids=["empty", "behind the camera", "not finite"],
)
def test_annotate_survives_a_path_that_cannot_be_seen(path_m: np.ndarray) -> None:
    assert annotate(grey_frame(), (), path_m).shape == (120, 160, 3)


def test_labels_stay_inside_the_picture() -> None:
    corners = [("a very long label indeed", ImageBox(900, 0, 1000, 50)), ("x", ImageBox(0, 950, 40, 1000))]
    assert annotate(grey_frame(), corners).shape == (120, 160, 3)


def test_a_film_shows_both_sides_until_the_longer_one_ends(tmp_path: Path) -> None:
    left, right = np.zeros((6, 240, 320, 3), dtype=np.uint8), np.full((3, 240, 320, 3), 255, dtype=np.uint8)
    for i in range(6):
        left[i, : 20 * (i + 1)] = (200, 0, 0)
    write_film(tmp_path / "film.gif", left, right)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 6
        assert film.width >= 640
        film.seek(5)
        page = np.asarray(film.convert("RGB"))
    assert page[20, 20, 0] > 150
    assert (page[100, 500] > 240).all()


def test_a_film_stays_below_three_megabytes(tmp_path: Path) -> None:
    write_film(tmp_path / "film.gif", noise(20), noise(20, 1), title="put the red block on the blue plate")
    assert 100_000 < (tmp_path / "film.gif").stat().st_size <= 3_000_000


def test_a_film_of_one_side_alone_is_written(tmp_path: Path) -> None:
    write_film(tmp_path / "film.gif", noise(2), [])
    assert (tmp_path / "film.gif").stat().st_size > 1000


def test_a_film_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        write_film(tmp_path / "film.gif", [], [])


def test_the_films_view_shows_the_arm_before_a_plain_sky() -> None:
    profile = load_robot("franka_panda")
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(profile)
        picture = shoot(world)
        _, _, names = world.render(FILM_INTRINSICS, T_BASE_FILM)
    assert picture.shape == (240, 320, 3)
    assert (names == "robot").sum() > 3000
    assert (picture[0, 0] < 250).all()


def test_the_films_view_shows_all_of_the_table_where_things_are_put_and_the_arm_above() -> None:
    ranges, _ = load_scene("scenes/tabletop.yaml")
    (x0, y0), (x1, y1), beside_m = ranges.area_min_m, ranges.area_max_m, 0.12
    corners = [[x, y, 0.0] for x in (x0 - beside_m, x1 + beside_m) for y in (y0 - beside_m, y1 + beside_m)]
    profile = load_robot("franka_panda")
    hand_m = Kinematics(profile).tool_pose(np.array(profile.home_q_rad))[:3, 3]
    k = FILM_INTRINSICS
    points = transform(invert(T_BASE_FILM), np.array([*corners, hand_m]))
    u, v = project(points, k.fx_px, k.fy_px, k.cx_px, k.cy_px).T
    assert ((u >= 0) & (u < k.width_px)).all(), u
    assert ((v >= 0) & (v < k.height_px)).all(), v


@pytest.mark.parametrize("azimuth_deg", [-60, 0, 60])
def test_the_legend_points_along_the_pictures_sides_and_the_robots_as_they_are_seen(azimuth_deg: float) -> None:
    azimuth = np.deg2rad(azimuth_deg)
    T = look_at([0.5 + 0.7 * np.cos(azimuth), 0.7 * np.sin(azimuth), 0.6], [0.5, 0.0, 0.0])
    sides = sides_in_picture(T)
    assert sides is not None
    ways = arrows(_INTRINSICS, T, sides)
    assert np.allclose(ways["left"], [-1.0, 0.0], atol=0.02)
    assert np.allclose(ways["behind"], [0.0, -1.0], atol=0.02)
    robots = arrows(_INTRINSICS, T, ROBOT_SIDES)
    middle, aside = ([*xy, 0.0] for xy in ((0.5, 0.0), (0.5, 0.02)))  # the robot's left is +y
    (u0, v0), (u, v) = project(
        transform(invert(T), np.array([middle, aside])), *(getattr(_INTRINSICS, n) for n in PINHOLE)
    )
    assert np.allclose(robots["left"], np.array([u - u0, v - v0]) / np.hypot(u - u0, v - v0), atol=0.02)
    assert np.allclose(robots["right"], -robots["left"], atol=0.02)


@pytest.mark.parametrize("height_m", [0.0, 0.3])
def test_a_camera_that_looks_along_the_table_or_is_lost_still_gives_a_picture(height_m: float) -> None:
    level = look_at([1.0, 0.0, height_m], [0.0, 0.0, height_m])
    for T in (level, np.full((4, 4), np.nan)):
        picture = annotate(replace(grey_frame(), T_base_camera=T), (), None, ROBOT_SIDES)
        assert picture.shape == (120, 160, 3)


def test_a_legend_stands_in_the_corner_where_no_box_is() -> None:
    rgb, depth_m = np.full((480, 640, 3), 128, np.uint8), np.ones((480, 640), np.float32)
    k = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    frame = CameraFrame(0, rgb, depth_m, k, look_at([1.0, 0.0, 0.5], [0.5, 0.0, 0.0]))
    sides = sides_in_picture(frame.T_base_camera)
    boxes = [(str(i), ImageBox(*box)) for i, box in enumerate([(0, 0, 450, 1000), (550, 0, 1000, 450)])]
    bare, picture = annotate(frame, boxes), annotate(frame, boxes, None, sides)
    rows, columns = np.nonzero((bare != picture).any(axis=2))
    assert rows.min() > 240
    assert columns.min() > 320


def test_a_picture_without_sides_has_no_legend() -> None:
    assert np.array_equal(annotate(grey_frame(), (), None, None), grey_frame().rgb)


def test_each_step_starts_on_both_sides_at_once() -> None:
    pictures = noise(9)
    left, right = join_clips([(pictures[0:3], pictures[3:5]), (pictures[5:6], pictures[6:9])])
    assert len(left) == len(right) == 6
    assert np.array_equal(right[2], pictures[4])
    assert np.array_equal(left[3], pictures[5])
    assert np.array_equal(right[3], pictures[6])


def test_a_step_that_was_not_executed_shows_no_execution() -> None:
    """The rehearsal shown twice would look like a motion of the plant."""
    pictures, nothing = noise(9), noise(0)
    left, right = join_clips([(pictures[0:3], nothing)])
    assert len(left) == len(right) == 3
    assert (right == right[0, 0, 0, 0]).all()
    _, right = join_clips([(pictures[0:3], pictures[3:5]), (pictures[5:8], nothing)])
    assert all(np.array_equal(picture, pictures[4]) for picture in right[2:])


def test_a_small_bright_object_keeps_its_colour(tmp_path: Path) -> None:
    ramp = np.linspace(90, 200, 320).astype(np.uint8)
    film = np.broadcast_to(ramp[None, None, :, None], (3, 240, 320, 3)).copy()
    film[:, 100:106, 100:106] = (235, 215, 40)
    write_film(tmp_path / "film.gif", film, film)
    with Image.open(tmp_path / "film.gif") as written:
        seen = np.asarray(written.convert("RGB"))[6 + 103, 6 + 103].astype(int)
    assert np.abs(seen - [235, 215, 40]).max() < 16


def test_a_title_that_cannot_be_drawn_gives_way() -> None:
    assert drawable("put the red block on the blue plate!", "pick") == "put the red block on the blue plate!"
    for text in ("coloca el cubo marrón", "放红色方块", "ضع الكرة", "빨간 공", "赤いボール"):
        assert drawable(text, "pick red block") == "pick red block"
    assert drawable("放红色方块") == ""
