"""Relations: what holds, what does not, and that every proposed place makes its relation true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.messages import Box, Container, Cylinder, Relation, SceneObject, Shape, Sphere, shape_size_m
from qwen2vl_robot.relations import free_gap_m, load_relations, placements, reach_m, relation_holds
from qwen2vl_robot.sides import ROBOT_SIDES

RULES = load_relations()
BLOCK = Box((0.05, 0.05, 0.05))
PLATE = Cylinder(0.16, 0.014)
BOWL = Container((0.15, 0.15, 0.05), 0.006)
BESIDE = [Relation.LEFT_OF, Relation.RIGHT_OF, Relation.IN_FRONT_OF, Relation.BEHIND]


def body(name: str, shape: Shape, x: float, y: float, bottom: float = 0.0, yaw_rad: float = 0.0) -> SceneObject:
    z = bottom + shape_size_m(shape)[2] / 2
    return SceneObject(name, shape, make_pose([x, y, z], rotation_z(yaw_rad)))


@pytest.mark.parametrize(
    ("relation", "x", "y"),
    [
        (Relation.LEFT_OF, 0.5, 0.1),
        (Relation.RIGHT_OF, 0.5, -0.1),
        (Relation.BEHIND, 0.6, 0.0),
        (Relation.IN_FRONT_OF, 0.4, 0.0),
    ],
)
def test_each_direction_holds_on_its_side_only(relation: Relation, x: float, y: float) -> None:
    moved, reference = body("a", BLOCK, x, y), body("b", BLOCK, 0.5, 0.0)
    assert [r for r in BESIDE if relation_holds(r, moved, reference, RULES, ROBOT_SIDES)] == [relation]
    assert relation_holds(Relation.NEXT_TO, moved, reference, RULES, ROBOT_SIDES)


@pytest.mark.parametrize(("angle_deg", "holds"), [(0, True), (30, True), (34, True), (36, False), (60, False)])
def test_the_direction_may_turn_only_so_far(angle_deg: float, holds: bool) -> None:
    angle = np.deg2rad(90 + angle_deg)
    moved = body("a", BLOCK, 0.5 + 0.12 * np.cos(angle), 0.12 * np.sin(angle))
    assert relation_holds(Relation.LEFT_OF, moved, body("b", BLOCK, 0.5, 0.0), RULES, ROBOT_SIDES) is holds


@pytest.mark.parametrize(("gap_m", "holds"), [(-0.01, False), (0.002, True), (0.19, True), (0.21, False)])
def test_beside_needs_a_free_gap_that_is_not_too_wide(gap_m: float, holds: bool) -> None:
    moved, reference = body("a", BLOCK, 0.5, 0.05 + gap_m), body("b", BLOCK, 0.5, 0.0)
    assert relation_holds(Relation.LEFT_OF, moved, reference, RULES, ROBOT_SIDES) is holds
    assert relation_holds(Relation.NEXT_TO, moved, reference, RULES, ROBOT_SIDES) is holds


@pytest.mark.parametrize(
    ("x", "rise_m", "holds"), [(0.5, 0.0, True), (0.57, 0.01, True), (0.59, 0.0, False), (0.5, 0.02, False)]
)
def test_on_needs_the_bottom_at_the_top_and_the_centre_over_it(x: float, rise_m: float, holds: bool) -> None:
    moved, plate = body("a", BLOCK, x, 0.0, 0.014 + rise_m), body("plate", PLATE, 0.5, 0.0)
    assert relation_holds(Relation.ON, moved, plate, RULES, ROBOT_SIDES) is holds


@pytest.mark.parametrize(
    ("x", "bottom_m", "holds"),
    [(0.5, 0.006, True), (0.56, 0.02, True), (0.572, 0.006, False), (0.5, 0.051, False), (0.5, -0.03, False)],
)
def test_in_needs_the_centre_in_the_hollow_and_the_bottom_below_the_rim(x: float, bottom_m: float, holds: bool) -> None:
    moved, bowl = body("a", BLOCK, x, 0.0, bottom_m), body("bowl", BOWL, 0.5, 0.0)
    assert relation_holds(Relation.IN, moved, bowl, RULES, ROBOT_SIDES) is holds


def test_a_cylinder_that_fell_over_lies_on_the_plate_by_its_lowest_point() -> None:
    lying = make_pose([0.5, 0.0, 0.014 + 0.025], np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]))
    moved = SceneObject("a", Cylinder(0.05, 0.1), lying)
    assert relation_holds(Relation.ON, moved, body("plate", PLATE, 0.5, 0.0), RULES, ROBOT_SIDES)
    assert reach_m(moved, np.array([1.0, 0.0])) == pytest.approx(0.05)
    assert reach_m(moved, np.array([0.0, 1.0])) == pytest.approx(0.025)


def test_nothing_is_in_what_has_no_hollow() -> None:
    moved, plate = body("a", BLOCK, 0.5, 0.0, 0.006), body("plate", PLATE, 0.5, 0.0)
    assert not relation_holds(Relation.IN, moved, plate, RULES, ROBOT_SIDES)


@pytest.mark.parametrize("relation", list(Relation))
def test_a_pose_that_is_not_finite_holds_no_relation(relation: Relation) -> None:
    lost = SceneObject("a", BLOCK, make_pose([np.nan, 0.1, 0.025]))
    assert not relation_holds(relation, lost, body("b", BOWL, 0.5, 0.0), RULES, ROBOT_SIDES)


@given(
    distance_m=st.floats(0.08, 0.3),
    bearing_rad=st.floats(-3.14, 3.14),
    yaws_rad=st.tuples(st.floats(-3.14, 3.14), st.floats(-3.14, 3.14)),
)
def test_the_free_gap_is_symmetric_and_never_more_than_between_inner_circles(
    distance_m: float, bearing_rad: float, yaws_rad: tuple[float, float]
) -> None:
    a = body("a", BLOCK, 0.5, 0.0, yaw_rad=yaws_rad[0])
    b = body("b", BLOCK, 0.5 + distance_m * np.cos(bearing_rad), distance_m * np.sin(bearing_rad), yaw_rad=yaws_rad[1])
    gap_m = free_gap_m(a, b)
    assert gap_m == pytest.approx(free_gap_m(b, a), abs=1e-9)
    missed_m = distance_m * (1 - np.cos(np.pi / 360))  # bearings are tried every degree
    assert distance_m - 0.05 * np.sqrt(2) - missed_m - 1e-9 <= gap_m <= distance_m - 0.05 + 1e-9


def test_reach_of_a_turned_box_is_its_half_diagonal() -> None:
    assert reach_m(body("a", BLOCK, 0.3, 0.2, yaw_rad=np.pi / 4), np.array([1.0, 0.0])) == pytest.approx(
        0.0353553, abs=1e-6
    )


@given(
    relation=st.sampled_from(list(Relation)),
    shape=st.sampled_from([BLOCK, Cylinder(0.05, 0.09), Sphere(0.06)]),
    x=st.floats(0.38, 0.68),
    y=st.floats(-0.26, 0.26),
    yaw_rad=st.floats(-3.14, 3.14),
)
def test_every_proposed_place_makes_the_relation_hold(
    relation: Relation, shape: Shape, x: float, y: float, yaw_rad: float
) -> None:
    reference = body("r", BOWL if relation is Relation.IN else PLATE, x, y)
    other = body("o", BLOCK, x + 0.02, y + 0.16)
    found = placements(relation, shape, reference, [other], RULES, ROBOT_SIDES)
    assert found
    for p in found:
        placed = SceneObject("a", shape, make_pose(p, rotation_z(yaw_rad)))
        assert relation_holds(relation, placed, reference, RULES, ROBOT_SIDES)
        assert free_gap_m(placed, other) > 0.005


def test_an_occupied_middle_moves_the_place_off_it() -> None:
    plate, block = body("plate", PLATE, 0.5, 0.0), body("b", Box((0.03, 0.03, 0.03)), 0.47, 0.0, 0.014)
    found = placements(Relation.ON, Box((0.04, 0.04, 0.04)), plate, [block], RULES, ROBOT_SIDES)
    assert found
    assert all(np.linalg.norm(p[:2] - [0.5, 0.0]) > 0.01 for p in found)


def test_no_place_is_proposed_where_neighbours_leave_no_room() -> None:
    reference = body("r", BLOCK, 0.5, 0.0)
    wall = body("wall", Box((0.6, 0.3, 0.05)), 0.5, 0.18)
    assert placements(Relation.LEFT_OF, BLOCK, reference, [wall], RULES, ROBOT_SIDES) == []


def test_beside_something_that_stands_on_a_plate_means_on_the_table() -> None:
    plate, block = body("plate", PLATE, 0.5, 0.0), body("b", BLOCK, 0.5, 0.0, 0.014)
    found = placements(Relation.LEFT_OF, BLOCK, block, [plate], RULES, ROBOT_SIDES)
    assert found
    placed = replace(block, name="a", T_base_object=make_pose(found[0]))
    assert placed.bottom_m == pytest.approx(0.0)
    assert free_gap_m(placed, plate) >= RULES.gap_m
