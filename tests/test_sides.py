"""Left, right, in front and behind: what they are on the table is what the picture shows, for every camera."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwen2vl_robot.bullet import BulletWorld, robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array, look_at, make_pose
from qwen2vl_robot.messages import Box, Direction, Intrinsics, Relation, SceneObject
from qwen2vl_robot.relations import load_relations, placements, relation_holds, toward
from qwen2vl_robot.sides import (
    ROBOT_SIDES,
    SeenFrom,
    Sides,
    farness,
    leftness,
    sides_in_picture,
    sides_seen_from,
)

RULES = load_relations()
K = Intrinsics(640, 480, 560.0, 560.0, 319.5, 239.5)
BLOCK = Box((0.04, 0.04, 0.04))
MIDDLE = np.array([0.52, 0.0, 0.0])


def camera(azimuth_deg: float, elevation_deg: float, roll_deg: float = 0.0, distance_m: float = 0.9) -> Array:
    """A camera around the middle of the table; azimuth 0 faces the robot, elevation 90 looks straight down."""
    azimuth, elevation = np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)
    around = [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    return look_at(MIDDLE + distance_m * np.array(around), MIDDLE, np.deg2rad(roll_deg))


def block(name: str, xy_m: Array) -> SceneObject:
    return SceneObject(name, BLOCK, make_pose([*xy_m, 0.02]))


def pixel(T_base_camera: Array, body: SceneObject) -> tuple[float, float]:
    """Column and row of a body's centre, and nothing of `sides.py` in them: the pinhole model, written out."""
    x, y, z = T_base_camera[:3, :3].T @ (body.T_base_object[:3, 3] - T_base_camera[:3, 3])
    assert z > 0
    return K.fx_px * x / z + K.cx_px, K.fy_px * y / z + K.cy_px


def seen(T_base_camera: Array) -> Sides:
    sides = sides_in_picture(T_base_camera)
    assert sides is not None
    return sides


azimuths = st.floats(-180.0, 180.0)
places = st.tuples(st.floats(0.38, 0.68), st.floats(-0.26, 0.26)).map(np.array)


@given(azimuth=azimuths, elevation=st.floats(20.0, 90.0), at=places, way=st.sampled_from(list(Relation)[2:6]))
def test_a_place_beside_something_lies_on_that_side_of_it_in_the_picture(
    azimuth: float, elevation: float, at: Array, way: Relation
) -> None:
    T = camera(azimuth, elevation)
    reference = block("b", at)
    for p in placements(way, BLOCK, reference, [], RULES, seen(T)):
        (u, v), (u0, v0) = pixel(T, block("a", p[:2])), pixel(T, reference)
        right, down = u - u0, v - v0
        across = {
            Relation.LEFT_OF: -right,
            Relation.RIGHT_OF: right,
            Relation.BEHIND: -down,
            Relation.IN_FRONT_OF: down,
        }
        assert across[way] > 0


@given(azimuth=azimuths, elevation=st.floats(20.0, 90.0), at=places, bearing=st.floats(-3.14, 3.14))
def test_what_holds_of_two_blocks_is_what_their_columns_say(
    azimuth: float, elevation: float, at: Array, bearing: float
) -> None:
    T = camera(azimuth, elevation)
    a, b = block("a", at + 0.12 * np.array([np.cos(bearing), np.sin(bearing)])), block("b", at)
    is_left = relation_holds(Relation.LEFT_OF, a, b, RULES, seen(T))
    is_right = relation_holds(Relation.RIGHT_OF, a, b, RULES, seen(T))
    (u, _), (u0, _) = pixel(T, a), pixel(T, b)
    assert not (is_left and u >= u0)
    assert not (is_right and u <= u0)


@given(azimuth=azimuths, elevation=st.floats(20.0, 90.0), roll=st.floats(-15.0, 15.0), two=st.tuples(places, places))
def test_leftmost_is_the_one_with_the_smaller_column(
    azimuth: float, elevation: float, roll: float, two: tuple[Array, Array]
) -> None:
    T = camera(azimuth, elevation, roll)
    a, b = (block(name, xy) for name, xy in zip("ab", two, strict=True))
    columns = [pixel(T, body)[0] for body in (a, b)]
    assume(abs(columns[0] - columns[1]) > 0.01)
    lefts = [leftness(seen(T), body.T_base_object[:3, 3]) for body in (a, b)]
    assert (lefts[0] > lefts[1]) == (columns[0] < columns[1])


@given(azimuth=azimuths, elevation=st.floats(20.0, 90.0), two=st.tuples(places, places))
def test_nearest_is_the_one_lower_in_the_picture(azimuth: float, elevation: float, two: tuple[Array, Array]) -> None:
    T = camera(azimuth, elevation)
    a, b = (block(name, xy) for name, xy in zip("ab", two, strict=True))
    rows = [pixel(T, body)[1] for body in (a, b)]
    assume(abs(rows[0] - rows[1]) > 0.01)
    fars = [farness(seen(T), body.T_base_object[:3, 3]) for body in (a, b)]
    assume(abs(fars[0] - fars[1]) > 0.001)  # what is as far away is in other rows where a steep camera sees perspective
    assert (fars[0] < fars[1]) == (rows[0] > rows[1])


@pytest.fixture(scope="module")
def world() -> BulletWorld:
    with robot_on_table(load_robot("franka_panda")) as world:
        for name, (x, y) in {"a": (0.44, 0.13), "b": (0.62, -0.12)}.items():
            world.add_body(name, BLOCK, make_pose([x, y, 0.02]), mass_kg=0.0, rgb=(200, 30, 30))
        yield world


@pytest.mark.parametrize("azimuth", [0.0, 60.0, -60.0, 120.0, 180.0])
@pytest.mark.parametrize("elevation", [45.0, 90.0])
def test_sides_are_those_of_a_rendered_picture(world: BulletWorld, azimuth: float, elevation: float) -> None:
    T = camera(azimuth, elevation)
    _, _, names = world.render(K, T)
    columns, rows = ([float(np.mean(np.nonzero(names == name)[axis])) for name in "ab"] for axis in (1, 0))
    points = [world.pose(name)[:3, 3] for name in "ab"]
    lefts, fars = [leftness(seen(T), p) for p in points], [farness(seen(T), p) for p in points]
    assert (lefts[0] > lefts[1]) == (columns[0] < columns[1])
    assert (fars[0] > fars[1]) == (rows[0] < rows[1])


def test_left_of_a_camera_that_faces_the_robot_is_the_robots_right() -> None:
    facing, beside = seen(camera(0.0, 45.0)), seen(camera(180.0, 45.0))
    assert np.allclose(facing.left_xy, [0.0, -1.0])
    assert np.allclose(facing.behind_xy, [-1.0, 0.0])
    assert np.allclose(beside.left_xy, ROBOT_SIDES.left_xy)
    assert np.allclose(beside.behind_xy, ROBOT_SIDES.behind_xy)


def test_behind_is_up_in_the_picture_of_a_camera_that_looks_straight_down() -> None:
    down = look_at([0.5, 0.0, 0.9], [0.5, 0.0, 0.0])  # up in its picture is +x
    tilted = down @ make_pose([0.0, 0.0, 0.0], np.array([[1, 0, 0], [0, 0.995, -0.0998], [0, 0.0998, 0.995]]))
    for T in (down, tilted):
        assert np.allclose(seen(T).behind_xy, [1.0, 0.0], atol=1e-6)


def test_a_picture_upside_down_has_its_own_left_and_the_far_side_behind() -> None:
    upright, turned = seen(camera(0.0, 45.0)), seen(camera(0.0, 45.0, roll_deg=180.0))
    assert np.allclose(turned.left_xy, -np.array(upright.left_xy))
    assert np.allclose(turned.behind_xy, upright.behind_xy)


def test_a_picture_turned_by_a_quarter_has_no_sides_and_one_hung_a_little_askew_has() -> None:
    assert sides_in_picture(camera(0.0, 45.0, roll_deg=90.0)) is None
    assert sides_in_picture(camera(0.0, 45.0, roll_deg=15.0)) is not None


def test_a_pose_that_is_not_finite_has_no_sides() -> None:
    broken = camera(0.0, 45.0)
    broken[0, 0] = np.nan
    assert sides_in_picture(broken) is None


def test_without_sides_nothing_is_left_of_anything_but_something_is_next_to_it() -> None:
    a, b = block("a", np.array([0.5, 0.1])), block("b", np.array([0.5, 0.0]))
    beside = [r for r in Relation if relation_holds(r, a, b, RULES, None)]
    assert beside == [Relation.NEXT_TO]
    assert placements(Relation.LEFT_OF, BLOCK, b, [], RULES, None) == []
    assert placements(Relation.NEXT_TO, BLOCK, b, [], RULES, None)


def test_with_the_robots_sides_no_camera_matters() -> None:
    for T in (camera(0.0, 45.0), camera(60.0, 90.0)):
        assert sides_seen_from(SeenFrom.ROBOT, T) is ROBOT_SIDES
    assert np.allclose(toward(Relation.LEFT_OF, ROBOT_SIDES), [0.0, 1.0])
    assert np.allclose(toward(Direction.AWAY, ROBOT_SIDES), [1.0, 0.0])
    assert leftness(ROBOT_SIDES, np.array([0.5, 0.2, 0.0])) == pytest.approx(0.2)
    assert farness(ROBOT_SIDES, np.array([0.3, 0.4, 0.0])) == pytest.approx(0.5)


@given(azimuth=azimuths, elevation=st.floats(20.0, 90.0))
def test_a_push_goes_where_the_relation_of_that_side_would_be(azimuth: float, elevation: float) -> None:
    sides = seen(camera(azimuth, elevation))
    relations = (Relation.LEFT_OF, Relation.RIGHT_OF, Relation.BEHIND, Relation.IN_FRONT_OF)
    for push, relation in zip(Direction, relations, strict=True):
        assert np.allclose(toward(push, sides), toward(relation, sides))
