"""A shape never contradicts its points, half a thing is none; what no solid explains is held by boxes, or a hull."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.errors import MotionError, PerceptionError
from qwen2vl_robot.geometry import Array, invert, make_pose, rotation_z, transform
from qwen2vl_robot.kinematics import hull_planes
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Direction,
    Effect,
    GripperSegment,
    GroundedAction,
    Hull,
    Motion,
    Relation,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    Verb,
    shape_size_m,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.perception import remeasure
from qwen2vl_robot.perception.bodies import outside_of
from qwen2vl_robot.policy import Response, respond
from qwen2vl_robot.reasons import MotionReason, PerceptionReason, ViolationKind
from qwen2vl_robot.relations import free_gap_m
from qwen2vl_robot.sides import ROBOT_SIDES
from qwen2vl_robot.validation.form import check_form
from tests.motion.test_skills import BALL, HOME, PROFILE, RULES, at_home, best, body, holding, place
from tests.test_perception import BLUE, EYE, GREEN, RED, SURROUNDINGS, Picture, ask, look, pick, stand


@pytest.fixture
def table() -> Iterator[BulletWorld]:
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(PROFILE)
        world.robot.command_arm(HOME)
        yield world


def without_depth(picture: Picture, mask: Array) -> Picture:
    depth_m = picture.observation.frame.depth_m.copy()
    depth_m[mask.astype(bool)] = np.nan
    frame = replace(picture.observation.frame, depth_m=depth_m)
    return replace(picture, observation=replace(picture.observation, frame=frame))


# ----------------------------------------------------------------------------------- outside of a shape


@pytest.mark.parametrize(
    ("shape", "reach_m"),
    [
        (Box((0.04, 0.06, 0.05)), (0.02, 0.03, 0.025)),
        (Cylinder(0.06, 0.1), (0.03, 0.03, 0.05)),
        (Sphere(0.05), (0.025, 0.025, 0.025)),
        (Container((0.12, 0.12, 0.05), 0.006, is_round=True), (0.06, 0.06, 0.025)),
    ],
    ids=lambda value: type(value).__name__,
)
@given(beyond_m=st.floats(0.0, 0.2), yaw_rad=st.floats(-3.0, 3.0), axis=st.integers(0, 2))
def test_how_far_a_point_lies_outside(
    shape: Shape, reach_m: tuple[float, float, float], beyond_m: float, yaw_rad: float, axis: int
) -> None:
    T = make_pose([0.4, -0.1, 0.05], rotation_z(yaw_rad))
    own = np.zeros(3)
    own[axis] = reach_m[axis] + beyond_m
    points = np.array([own, 0.5 * reach_m[axis] * np.eye(3)[axis]]) @ T[:3, :3].T + T[:3, 3]
    assert outside_of(shape, T, points) == pytest.approx([beyond_m, 0.0], abs=1e-9)


# --------------------------------------------------------------------------------- what no shape explains


def odd(world: BulletWorld) -> Picture:
    """A red angle in the table's plane, as one body would be, and a blue plate."""
    stand(world, "foot", Box((0.09, 0.03, 0.04)), 0.505, 0.045, RED, yaw_rad=0.0)
    stand(world, "arm", Box((0.03, 0.07, 0.04)), 0.475, 0.095, RED, yaw_rad=0.0)
    stand(world, "blue plate", Cylinder(0.15, 0.014), 0.55, -0.16, BLUE)
    return look(world, 1)


@pytest.fixture
def thing(table: BulletWorld) -> SceneObject:
    """What is measured of the odd thing when a plan calls it a red block."""
    picture = odd(table)
    return measured(picture).find("red block")


def measured(picture: Picture) -> Scene:
    """The scene of a plan that calls the odd thing a red block."""
    whole = replace(picture, names=np.where(picture.names == "arm", "foot", picture.names))
    scene, _ = ask(whole, pick(whole.reference("foot", "red block")))
    return scene


def test_an_unexplained_thing_is_boxes_that_hold_it_and_the_hull_around_them(thing: SceneObject) -> None:
    assert isinstance(thing.shape, Hull)
    assert len(thing.shape.vertices_m) < 100
    normals, offsets_m = hull_planes(np.array(thing.shape.vertices_m))
    foot = np.array([(x, y, z) for x in (0.46, 0.55) for y in (0.03, 0.06) for z in (0.0, 0.04)])
    arm = np.array([(x, y, z) for x in (0.46, 0.49) for y in (0.06, 0.13) for z in (0.0, 0.04)])
    corners = transform(invert(thing.T_base_object), np.vstack([foot, arm]))
    assert (corners @ normals.T - offsets_m).max() < 0.008, "the true corners lie in it, but for calibration and blur"
    assert thing.bottom_m == pytest.approx(0.0, abs=0.006)
    assert free_of(thing, np.array([[0.53, 0.10, 0.02]])).all(), "the notch of the angle is free"
    middles = np.array([[0.475, 0.10, 0.02], [0.53, 0.045, 0.02], [0.475, 0.045, 0.02]])
    assert not free_of(thing, middles).any()


def free_of(thing: SceneObject, p_base_m: Array) -> Array:
    """Whether points (n, 3) lie outside of all boxes of a thing."""
    assert isinstance(thing.shape, Hull)
    boxes_m = np.array(thing.shape.boxes_m)
    own = transform(invert(thing.T_base_object), p_base_m)[:, None]
    return np.asarray(~((own >= boxes_m[:, 0]) & (own <= boxes_m[:, 1])).all(axis=-1).any(axis=-1))


def test_what_is_held_by_boxes_is_grasped_at_a_part_and_felt_for(thing: SceneObject) -> None:
    scene = Scene((thing,), (), sides=ROBOT_SIDES)
    feeling = replace(at_home(), effort_nm=np.zeros(len(HOME)))
    motion = best(MotionMaker(PROFILE, RULES), GroundedAction(Verb.PICK, "red block"), scene, feeling)
    assert motion.guarded is not None, "its sides are only nearly known"
    closing = [s for s in motion.segments if isinstance(s, GripperSegment)][-1]
    assert 0.024 < closing.meets_m < 0.048, "both parts of the angle are 30 mm wide; the whole thing is 90 mm"
    with pytest.raises(MotionError) as caught:
        best(MotionMaker(PROFILE, RULES), GroundedAction(Verb.PICK, "red block"), scene, at_home())
    assert caught.value.reason is MotionReason.NO_EFFORT


@pytest.mark.parametrize(("left_m", "is_possible"), [(0.07, True), (0.0, False)])
def test_a_thing_without_a_part_for_the_fingers_is_refused(left_m: float, is_possible: bool) -> None:
    block = ((-0.06, -0.06, -0.02), (0.06 - left_m, 0.06, 0.02))
    hull = Hull(tuple((x, y, z) for x in (-0.06, 0.06) for y in (-0.06, 0.06) for z in (-0.02, 0.02)), (block,))
    scene = Scene((SceneObject("crate", hull, make_pose([0.5, 0.0, 0.02])),), (), sides=ROBOT_SIDES)
    action, maker = GroundedAction(Verb.PICK, "crate"), MotionMaker(PROFILE, RULES)
    feeling = replace(at_home(), effort_nm=np.zeros(len(HOME)))
    if is_possible:
        assert best(maker, action, scene, feeling).effect.name == "crate"
        return
    with pytest.raises(MotionError, match="nowhere on crate do the fingers find a part of at most") as caught:
        best(maker, action, scene, feeling)
    assert caught.value.reason is MotionReason.NO_GRASP


@pytest.fixture
def hull(thing: SceneObject) -> SceneObject:
    """The same without its boxes."""
    assert isinstance(thing.shape, Hull)
    return replace(thing, shape=Hull(thing.shape.vertices_m))


@pytest.mark.parametrize(
    "action",
    [
        GroundedAction(Verb.PICK, "red block"),
        GroundedAction(Verb.PUSH, "red block", direction=Direction.LEFT),
        GroundedAction(Verb.PLACE, relation=Relation.ON, reference="red block"),
        GroundedAction(Verb.PLACE, relation=Relation.IN, reference="red block"),
    ],
    ids=lambda action: action.verb.value,
)
def test_what_may_be_anywhere_in_its_hull_is_not_touched(hull: SceneObject, action: GroundedAction) -> None:
    held = body("ball", BALL, 0.45, -0.2, 0.3)
    scene = holding(held, hull) if action.verb is Verb.PLACE else Scene((hull,), (), sides=ROBOT_SIDES)
    state = at_home(0.055, "ball") if action.verb is Verb.PLACE else at_home()
    with pytest.raises(MotionError, match="no shape explains its points") as caught:
        best(MotionMaker(PROFILE, RULES), action, scene, state)
    assert caught.value.reason is MotionReason.UNEXPLAINED
    assert respond(MotionReason.UNEXPLAINED) is Response.END


def test_something_can_be_put_beside_an_unexplained_thing(thing: SceneObject) -> None:
    scene = holding(body("ball", BALL, 0.45, -0.2, 0.3), thing)
    motion = best(MotionMaker(PROFILE, RULES), place(Relation.NEXT_TO, "red block"), scene, at_home(0.055, "ball"))
    assert motion.effect.T_base_object is not None
    put = replace(body("ball", BALL, 0.0, 0.0), T_base_object=motion.effect.T_base_object)
    assert free_gap_m(put, thing) > 0.5 * RULES.gap_m


def test_the_twin_collides_with_a_hull_everywhere_and_with_boxes_where_they_are(
    hull: SceneObject, thing: SceneObject, table: BulletWorld
) -> None:
    notch = make_pose([0.52, 0.085, 0.2])
    assert free_of(thing, notch[None, :3, 3] * [1, 1, 0.1]).all()
    for shown, lies_on_it in ((hull, True), (thing, False)):
        table.add_body("thing", shown.shape, shown.T_base_object, mass_kg=0.0, rgb=None)
        table.add_body("ball", Sphere(0.02), notch, mass_kg=0.05)
        table.step(120)
        assert (table.pose("ball")[2, 3] > 0.025) == lies_on_it
        table.remove("thing")
        table.remove("ball")


def test_a_hull_that_is_no_number_is_refused_by_name(thing: SceneObject) -> None:
    assert isinstance(thing.shape, Hull)
    broken = replace(thing, shape=Hull((*thing.shape.vertices_m, (float("nan"), 0.0, 0.0))))
    motion = Motion(PROFILE.name, (), Effect("none"))
    found = check_form(motion, Scene((broken,), ()), at_home(), PROFILE)
    assert [violation.kind for violation in found][:1] == [ViolationKind.NON_FINITE]
    assert "red block corners" in found[0].bodies


# ------------------------------------------------------------------------------------- a hull, seen again


def test_a_hull_is_found_again_by_its_points(table: BulletWorld) -> None:
    scene = measured(odd(table))
    again = remeasure(scene, look(table, 2).observation, SURROUNDINGS)
    assert again.find("red block").shape == scene.find("red block").shape
    np.testing.assert_array_equal(again.find("red block").T_base_object, scene.find("red block").T_base_object)
    assert [o.name for o in again.obstacles] == ["obstacle 1"], "the plate, and no piece of the hull"


def test_a_hull_that_shows_more_of_itself_is_measured_anew(table: BulletWorld) -> None:
    scene = measured(odd(table))
    table.set_pose("foot", make_pose([0.525, 0.045, 0.02]))
    seen = remeasure(scene, look(table, 2).observation, SURROUNDINGS).find("red block")
    normals, offsets_m = hull_planes(np.array(seen.shape.vertices_m))
    front = np.array([(0.57, y, 0.02) for y in (0.03, 0.06)])
    assert ((front - seen.T_base_object[:3, 3]) @ normals.T - offsets_m).max() < 0.004


def test_a_hull_that_has_gone_is_not_found_in_another_thing(table: BulletWorld) -> None:
    scene = measured(odd(table))
    table.remove("foot")
    table.set_pose("arm", make_pose([0.475, -0.02, 0.02]))
    with pytest.raises(PerceptionError, match="'red block' is not where it should be"):
        remeasure(scene, look(table, 2).observation, SURROUNDINGS)


# ------------------------------------------------------------------------------------ a thing behind another


@pytest.mark.parametrize("yaw_rad", [0.1, 0.5, 0.9, 1.3])
@pytest.mark.parametrize("aside_m", [-0.03, 0.0, 0.03])
def test_a_block_behind_another_thing_keeps_the_size_that_is_seen(
    table: BulletWorld, yaw_rad: float, aside_m: float
) -> None:
    """A part of its foot is hidden: the sides that show hold, and no side grows into what is hidden."""
    at_m, size_m = np.array([0.5, 0.05]), (0.055, 0.045, 0.05)
    stand(table, "red block", Box(size_m), *at_m, RED, yaw_rad=yaw_rad)
    to_camera = EYE[:2, 3] - at_m
    to_camera /= np.linalg.norm(to_camera)
    spot = at_m + 0.085 * to_camera + aside_m * np.array([-to_camera[1], to_camera[0]])
    stand(table, "green block", Box((0.05, 0.05, 0.08)), *spot, GREEN)
    picture = look(table, 1)
    seen = ask(picture, pick(picture.reference("red block")))[0].find("red block")
    assert isinstance(seen.shape, Box)
    assert sorted(shape_size_m(seen.shape)) == pytest.approx(sorted(size_m), abs=0.005)
    assert np.linalg.norm(seen.T_base_object[:2, 3] - at_m) < 0.008


# -------------------------------------------------------------------------------------------- half a thing


def block(world: BulletWorld) -> Picture:
    stand(world, "red block", Box((0.05, 0.045, 0.05)), 0.5, 0.05, RED)
    return look(world, 1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("axis", [0, 1])
def test_half_a_target_is_no_target(table: BulletWorld, share: float, axis: int) -> None:
    picture = block(table)
    mine = picture.names == "red block"
    at = np.indices(mine.shape)[axis]
    gone = mine & (at < np.quantile(at[mine], share))
    with pytest.raises(PerceptionError, match="has no depth") as caught:
        ask(without_depth(picture, gone), pick(picture.reference("red block")))
    assert caught.value.reason is PerceptionReason.NO_DEPTH


@pytest.mark.parametrize("fringe_px", [2, 4])
def test_a_fringe_without_depth_is_ordinary(table: BulletWorld, fringe_px: int) -> None:
    picture = block(table)
    mine = (picture.names == "red block").astype(np.uint8)
    around = cv2.dilate(mine, np.ones((2 * fringe_px + 1,) * 2, np.uint8)) - mine
    scene, _ = ask(without_depth(picture, around), pick(picture.reference("red block")))
    measured = scene.find("red block")
    assert isinstance(measured.shape, Box)
    assert np.linalg.norm(measured.T_base_object[:2, 3] - [0.5, 0.05]) < 0.008


def test_small_holes_between_measured_parts_are_ordinary(table: BulletWorld) -> None:
    """Dark things have them: here 12 px wide, 1.6 cm, in a quarter of the block."""
    picture = block(table)
    mine = picture.names == "red block"
    rows, cols = (at - at[mine].min() for at in np.indices(mine.shape))
    gone = cv2.erode(mine.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    gone &= (rows % 17 >= 5) & (cols % 17 >= 5)
    assert gone.sum() > 0.25 * mine.sum()
    scene, _ = ask(without_depth(picture, gone), pick(picture.reference("red block")))
    measured = scene.find("red block")
    assert isinstance(measured.shape, Box)
    assert np.linalg.norm(measured.T_base_object[:2, 3] - [0.5, 0.05]) < 0.008


@pytest.mark.parametrize("side", ["left", "right", "top"])
def test_a_missing_side_is_none_though_its_far_edge_is_measured(table: BulletWorld, side: str) -> None:
    """A line of depth along the far edge may be another thing's; it makes no hole of a missing side."""
    picture = block(table)
    mine = picture.names == "red block"
    rows, cols = np.indices(mine.shape)
    at = {"left": -cols, "right": cols, "top": -rows}[side]
    gone = mine & (at > np.quantile(at[mine], 0.5)) & (at < at[mine].max() - 2)
    with pytest.raises(PerceptionError, match="has no depth"):
        ask(without_depth(picture, gone), pick(picture.reference("red block")))
