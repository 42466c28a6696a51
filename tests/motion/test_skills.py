"""Skills: in Bullet they really pick, place and push; an impossible action is refused with its numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from qwen2vl_robot.bullet import TIME_STEP_S, Bowl, BulletWorld, Friction
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert, look_at, make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Direction,
    GripperSegment,
    GroundedAction,
    JointSegment,
    Motion,
    Relation,
    RobotState,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    Verb,
    digest,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.relations import load_relations, relation_holds
from qwen2vl_robot.sides import ROBOT_SIDES, sides_in_picture

PROFILE = load_robot("franka_panda")
RULES = load_relations()
# From the front and the side of the robot, so that the picture's sides are none of the robot's.
T_BASE_CAMERA = look_at([1.05, 0.55, 0.7], [0.5, 0.0, 0.0])
SIDES = sides_in_picture(T_BASE_CAMERA)
HOME = np.array(PROFILE.home_q_rad)
BLOCK, CYLINDER, BALL = Box((0.05, 0.045, 0.05)), Cylinder(0.05, 0.1), Sphere(0.055)
PLATE, BOWL = Cylinder(0.16, 0.014), Container((0.15, 0.15, 0.05), 0.006)


def body(name: str, shape: Shape, x: float, y: float, bottom_m: float = 0.0, yaw_rad: float = 0.0) -> SceneObject:
    return SceneObject(name, shape, make_pose([x, y, bottom_m + shape_size_m(shape)[2] / 2], rotation_z(yaw_rad)))


def at_home(width_m: float = 0.08, held: str | None = None) -> RobotState:
    return RobotState(0, freeze(HOME), freeze(np.zeros(7)), width_m, held)


def holding(item: SceneObject, *others: SceneObject) -> Scene:
    """A scene with an object held by its middle at home, upright."""
    T_tool_held = np.diag([1.0, -1.0, -1.0, 1.0])
    return Scene((item, *others), (), held=item.name, T_tool_held=T_tool_held, sides=ROBOT_SIDES)


def pick(name: str) -> GroundedAction:
    return GroundedAction(Verb.PICK, target=name)


def place(relation: Relation, reference: str) -> GroundedAction:
    return GroundedAction(Verb.PLACE, relation=relation, reference=reference)


def best(maker: MotionMaker, action: GroundedAction, scene: Scene, state: RobotState) -> Motion:
    return next(maker.ways(action, scene, state))


@pytest.fixture(scope="module")
def maker() -> MotionMaker:
    return MotionMaker(PROFILE, RULES)


# ------------------------------------------------------------------------------------- in Bullet's physics


@pytest.fixture
def world() -> Iterator[BulletWorld]:
    with BulletWorld() as bullet:
        bullet.add_table()
        bullet.add_robot(PROFILE)
        bullet.robot.command_arm(HOME)
        yield bullet


def in_camera(T_base_object: Array) -> Array:
    """A pose's place in the camera's frame: right, down, ahead."""
    return (invert(T_BASE_CAMERA) @ T_base_object)[:3, 3]


def populate(world: BulletWorld, bodies: tuple[SceneObject, ...]) -> None:
    """Stand the bodies on the table; a container is built round, as the plant does it."""
    for item in bodies:
        shape = item.shape
        if isinstance(shape, Container):
            shape = Bowl(shape.size_m[0], shape.size_m[2], shape.wall_m)
        world.add_body(item.name, shape, item.T_base_object, mass_kg=0.1, friction=Friction(rolling=0.002))


def replay(world: BulletWorld, motion: Motion) -> None:
    """Let the joint motors follow a motion, and half a second more."""
    for segment in motion.segments:
        times_s = np.arange(segment.start_s, segment.end_s, TIME_STEP_S)
        if isinstance(segment, GripperSegment):
            world.robot.command_gripper(segment.width_m, PROFILE.gripper.force_n)
            world.step(len(times_s))
            continue
        targets = np.column_stack([np.interp(times_s, segment.time_s, q) for q in segment.q_rad.T])
        for q_rad in targets:
            world.robot.command_arm(q_rad)
            world.step()
    world.step(120)


def seen(world: BulletWorld, bodies: tuple[SceneObject, ...], held: str | None = None) -> tuple[Scene, RobotState]:
    """The scene and the state as they are in Bullet now, with the sides of the camera's picture."""
    now = tuple(SceneObject(b.name, b.shape, world.pose(b.name)) for b in bodies)
    q_rad, dq_radps, width_m = world.robot.arm_state()
    T_tool_held = invert(world.robot.tool_pose()) @ world.pose(held) if held else None
    scene = Scene(now, (), held=held, T_tool_held=T_tool_held, sides=SIDES)
    return scene, RobotState(0, q_rad, dq_radps, width_m, held)


@pytest.mark.parametrize(
    ("item", "relation", "reference"),
    [
        (body("a", BLOCK, 0.45, -0.15, yaw_rad=0.7), Relation.ON, body("r", PLATE, 0.55, 0.1)),
        (body("a", BALL, 0.42, 0.15), Relation.IN, body("r", BOWL, 0.6, -0.05)),
        (body("a", BLOCK, 0.6, 0.2, yaw_rad=-0.4), Relation.ON, body("r", Box((0.06, 0.05, 0.04)), 0.45, 0.0)),
        (body("a", CYLINDER, 0.62, -0.2), Relation.LEFT_OF, body("r", BLOCK, 0.5, 0.0, yaw_rad=0.3)),
    ],
    ids=["block on plate", "ball in bowl", "stack", "cylinder left of block"],
)
def test_what_is_picked_and_placed_ends_where_it_was_asked(
    maker: MotionMaker, world: BulletWorld, item: SceneObject, relation: Relation, reference: SceneObject
) -> None:
    bodies = (item, reference)
    populate(world, bodies)
    replay(world, best(maker, pick("a"), *seen(world, bodies)))
    assert np.linalg.norm(world.pose("a")[:3, 3] - world.robot.tool_pose()[:3, 3]) < 0.05
    motion = best(maker, place(relation, "r"), *seen(world, bodies, held="a"))
    replay(world, motion)
    scene, _ = seen(world, bodies)
    assert relation_holds(relation, scene.find("a"), scene.find("r"), RULES, SIDES)
    assert motion.effect.T_base_object is not None
    assert np.linalg.norm((world.pose("a") - motion.effect.T_base_object)[:3, 3]) < motion.effect.tolerance_m
    np.testing.assert_allclose(scene.find("r").T_base_object[:3, 3], reference.T_base_object[:3, 3], atol=0.01)


@pytest.mark.parametrize("direction", list(Direction))
def test_what_is_pushed_ends_where_predicted_and_on_that_side_of_the_picture(
    maker: MotionMaker, world: BulletWorld, direction: Direction
) -> None:
    bodies = (body("a", BLOCK, 0.5, 0.0, yaw_rad=0.2),)
    populate(world, bodies)
    motion = best(maker, GroundedAction(Verb.PUSH, target="a", direction=direction), *seen(world, bodies))
    before = in_camera(world.pose("a"))
    replay(world, motion)
    right_m, down_m, _ = in_camera(world.pose("a")) - before
    wanted = {Direction.LEFT: -right_m, Direction.RIGHT: right_m, Direction.AWAY: -down_m, Direction.CLOSER: down_m}
    assert wanted[direction] > 0.03
    assert motion.effect.T_base_object is not None
    assert np.linalg.norm((world.pose("a") - motion.effect.T_base_object)[:3, 3]) < motion.effect.tolerance_m


# ------------------------------------------------------------------------------------------- the messages


def test_a_pick_starts_where_the_arm_is_and_ends_at_home(maker: MotionMaker) -> None:
    q_rad = HOME + 0.02
    state = RobotState(0, freeze(q_rad), freeze(np.zeros(7)), 0.08)
    motion = best(maker, pick("a"), Scene((body("a", BLOCK, 0.5, 0.1),), ()), state)
    arm = [segment for segment in motion.segments if isinstance(segment, JointSegment)]
    assert np.array_equal(arm[0].q_rad[0], q_rad)
    np.testing.assert_allclose(arm[-1].q_rad[-1], HOME, atol=1e-12)
    ends = [segment.end_s for segment in motion.segments]
    starts = [segment.start_s for segment in motion.segments]
    assert starts == [0.0, *ends[:-1]]
    for before, after in zip(arm, arm[1:], strict=False):
        np.testing.assert_allclose(before.q_rad[-1], after.q_rad[0], atol=1e-12)
    assert motion.effect.kind == "hold"
    assert motion.effect.name == "a"


def test_fingertips_stay_above_the_rim_of_a_bowl(maker: MotionMaker) -> None:
    item, bowl = body("a", BLOCK, 0.3, 0.3), body("bowl", BOWL, 0.55, 0.0)
    motion = best(maker, place(Relation.IN, "bowl"), holding(item, bowl), at_home(0.045, "a"))
    lowest_m = min(tool_heights_m(motion))
    assert lowest_m - PROFILE.gripper.pad_depth_m >= bowl.top_m + 0.004


def tool_heights_m(motion: Motion) -> list[float]:
    kinematics = Kinematics(PROFILE)
    arm = [segment for segment in motion.segments if isinstance(segment, JointSegment)]
    return [float(kinematics.tool_pose(q)[2, 3]) for segment in arm for q in segment.q_rad]


def test_a_wait_stands_still_for_as_long_as_asked(maker: MotionMaker) -> None:
    motion = best(maker, GroundedAction(Verb.WAIT, seconds=1.5), Scene((), ()), at_home())
    (segment,) = motion.segments
    assert isinstance(segment, JointSegment)
    assert motion.duration_s == pytest.approx(1.5)
    assert np.all(segment.q_rad == HOME)


def test_home_from_home_stays_there(maker: MotionMaker) -> None:
    """A motion without segments would be refused as malformed, and the person with it."""
    (segment,) = best(maker, GroundedAction(Verb.HOME), Scene((), ()), at_home()).segments
    assert isinstance(segment, JointSegment)
    assert np.all(segment.q_rad == HOME)


def test_ways_are_many_and_all_different(maker: MotionMaker) -> None:
    scene = Scene((body("a", BLOCK, 0.5, 0.1, yaw_rad=0.3),), ())
    ways = list(islice(maker.ways(pick("a"), scene, at_home()), 4))
    assert len({digest(way) for way in ways}) == len(ways) == 4
    assert digest(ways[0]) == digest(best(maker, pick("a"), scene, at_home()))


def test_the_best_way_keeps_its_distance_from_a_neighbour(maker: MotionMaker) -> None:
    neighbour = body("b", CYLINDER, 0.526, 0.185)
    scene = Scene((body("a", BLOCK, 0.5, 0.1, yaw_rad=0.3), neighbour), ())
    neighbours = CollisionModel(Kinematics(PROFILE), [neighbour], 0.0)
    motion = best(maker, pick("a"), scene, at_home())
    for segment, width_m in with_widths(motion):
        for q_rad in segment.q_rad:
            assert "b" not in names_close(neighbours, q_rad, width_m, 0.0115)


def with_widths(motion: Motion) -> Iterator[tuple[JointSegment, float]]:
    width_m = 0.08
    for segment in motion.segments:
        if isinstance(segment, GripperSegment):
            width_m = segment.width_m
        else:
            yield segment, width_m


def names_close(model: CollisionModel, q_rad: Array, width_m: float, margin_m: float) -> set[str]:
    return {name for pair in model.all_close(q_rad, width_m, margin_m) for name in pair}


def hand_bearing_rad(motion: Motion) -> float:
    """The bearing, modulo half a turn, along which the fingers close when they first move at the object."""
    kinematics = Kinematics(PROFILE)
    arrival = [s for s in motion.segments if isinstance(s, JointSegment)]
    lowest = min((kinematics.tool_pose(s.q_rad[-1]) for s in arrival), key=lambda T: float(T[2, 3]))
    return float(np.arctan2(lowest[1, 1], lowest[0, 1]) % np.pi)


def test_a_grasp_whose_hand_would_enter_unseen_room_comes_last(maker: MotionMaker) -> None:
    scene = Scene((body("ball", BALL, 0.5, 0.0),), ())
    free = hand_bearing_rad(best(maker, pick("ball"), scene, at_home()))
    across = np.array([np.cos(free), np.sin(free), 0.0])
    spots_m = [np.array([0.5, 0.0, 0.12]) + side * 0.09 * across for side in (-1.0, 1.0)]
    unseen_m = freeze([[spot - 0.015, spot + 0.015] for spot in spots_m])
    other = hand_bearing_rad(best(maker, pick("ball"), replace(scene, unseen_m=unseen_m), at_home()))
    assert abs((free - other + np.pi / 2) % np.pi - np.pi / 2) > np.radians(14)


def test_a_place_over_which_the_hand_would_enter_unseen_room_comes_last(maker: MotionMaker) -> None:
    scene = holding(body("block", BLOCK, 0.3, 0.3, 0.3), body("bowl", BOWL, 0.5, 0.0))
    first = best(maker, place(Relation.NEXT_TO, "bowl"), scene, at_home(0.045, "block")).effect.T_base_object
    assert first is not None
    unseen_m = freeze([[first[:3, 3] + [-0.15, -0.15, 0.0], first[:3, 3] + [0.15, 0.15, 0.3]]])
    hidden = replace(scene, unseen_m=unseen_m)
    second = best(maker, place(Relation.NEXT_TO, "bowl"), hidden, at_home(0.045, "block")).effect.T_base_object
    assert second is not None
    assert np.linalg.norm(second[:3, 3] - first[:3, 3]) > 0.1


def test_fresh_processes_make_the_same_motion(maker: MotionMaker) -> None:
    program = (
        "from tests.motion import test_skills as t\n"
        "scene = t.Scene((t.body('a', t.BLOCK, 0.5, 0.1, yaw_rad=0.3), t.body('b', t.CYLINDER, 0.5, 0.17)), ())\n"
        "print(t.digest(t.best(t.MotionMaker(t.PROFILE, t.RULES), t.pick('a'), scene, t.at_home())))\n"
    )
    printed = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(2)
    ]
    scene = Scene((body("a", BLOCK, 0.5, 0.1, yaw_rad=0.3), body("b", CYLINDER, 0.5, 0.17)), ())
    assert printed == [digest(best(maker, pick("a"), scene, at_home()))] * 2


# ------------------------------------------------------------------------------------------ what is refused


def refused(maker: MotionMaker, action: GroundedAction, scene: Scene, state: RobotState | None = None) -> MotionError:
    with pytest.raises(MotionError) as caught:
        best(maker, action, scene, state or at_home())
    return caught.value


def test_an_object_out_of_reach_is_refused(maker: MotionMaker) -> None:
    error = refused(maker, pick("a"), Scene((body("a", BLOCK, 0.84, 0.5),), ()))
    assert error.reason == "out_of_reach"
    assert "cannot reach (0.840, 0.500" in str(error)


def test_an_object_outside_the_workspace_is_refused(maker: MotionMaker) -> None:
    error = refused(maker, pick("a"), Scene((body("a", BLOCK, 2.0, 0.0),), ()))
    assert error.reason == "out_of_reach"
    assert "outside the workspace" in str(error)


@pytest.mark.parametrize("shape", [PLATE, BOWL, Box((0.1, 0.09, 0.05))])
def test_what_is_wider_than_the_fingers_open_is_refused(maker: MotionMaker, shape: Shape) -> None:
    error = refused(maker, pick("a"), Scene((body("a", shape, 0.5, 0.0),), ()))
    assert error.reason == "no_grasp"
    assert "mm wide; the gripper takes at most 72 mm" in str(error)


def test_what_is_too_flat_for_the_fingers_is_refused(maker: MotionMaker) -> None:
    error = refused(maker, pick("a"), Scene((body("a", Box((0.05, 0.05, 0.008)), 0.5, 0.0),), ()))
    assert error.reason == "no_grasp"
    assert "8 mm high" in str(error)


def test_what_carries_something_is_not_picked_from_under_it(maker: MotionMaker) -> None:
    scene = Scene((body("a", BLOCK, 0.5, 0.0), body("b", BLOCK, 0.5, 0.0, 0.05)), ())
    error = refused(maker, pick("a"), scene)
    assert error.reason == "no_grasp"
    assert "b stands on a" in str(error)


def test_an_object_walled_in_is_refused_by_the_name_of_what_is_in_the_way(maker: MotionMaker) -> None:
    walls = [body(f"wall {i}", Box((0.03, 0.03, 0.2)), 0.5 + x, y) for i, (x, y) in enumerate(_ring(0.06))]
    error = refused(maker, pick("a"), Scene((body("a", BLOCK, 0.5, 0.0),), tuple(walls)))
    assert error.reason == "no_path"
    assert "wall" in str(error)


def _ring(radius_m: float) -> list[Array]:
    return [radius_m * np.array([np.cos(b), np.sin(b)]) for b in np.arange(8) * np.pi / 4]


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (pick("blue cup"), "no 'blue cup' to pick; the scene has a"),
        (GroundedAction(Verb.PICK), "nothing is named to pick"),
        (place(Relation.ON, "a"), "the gripper holds nothing"),
        (GroundedAction(Verb.PUSH, target="a"), "push needs a direction: left, right"),
        (GroundedAction(Verb.WAIT, seconds=float("nan")), "wait of nan s; allowed"),
        (GroundedAction(Verb.WAIT, seconds=1e6), "allowed: above 0 to 60 s"),
        (GroundedAction(Verb.ASK, text="which?"), "ask is not a motion; motions are pick, place"),
    ],
)
def test_what_cannot_be_done_now_is_refused(maker: MotionMaker, action: GroundedAction, text: str) -> None:
    error = refused(maker, action, Scene((body("a", BLOCK, 0.5, 0.0),), ()))
    assert error.reason == "unsupported"
    assert text in str(error)


@pytest.mark.parametrize(
    ("relation", "shape", "text"),
    [
        (Relation.IN, PLATE, "no hollow"),
        (Relation.ON, BOWL, "no flat top .* use in"),
        (Relation.ON, BALL, "no flat top .* use next_to"),
    ],
)
def test_a_relation_that_a_shape_cannot_have_is_refused(
    maker: MotionMaker, relation: Relation, shape: Shape, text: str
) -> None:
    scene = holding(body("a", BLOCK, 0.3, 0.3), body("r", shape, 0.5, 0.0))
    with pytest.raises(MotionError, match=text):
        best(maker, place(relation, "r"), scene, at_home(0.045, "a"))


def test_no_room_beside_is_refused(maker: MotionMaker) -> None:
    wall = body("wall", Box((0.6, 0.4, 0.05)), 0.5, 0.25)
    scene = holding(body("a", BLOCK, 0.3, -0.3), body("r", BLOCK, 0.5, 0.0), wall)
    error = refused(maker, place(Relation.LEFT_OF, "r"), scene, at_home(0.045, "a"))
    assert error.reason == "no_space"
    assert "35 mm must stay free" in str(error)


def test_a_full_gripper_picks_and_pushes_nothing(maker: MotionMaker) -> None:
    scene = holding(body("a", BLOCK, 0.3, 0.3), body("r", BLOCK, 0.5, 0.0))
    for action in (pick("r"), GroundedAction(Verb.PUSH, target="r", direction=Direction.LEFT)):
        assert "holds a" in str(refused(maker, action, scene, at_home(0.045, "a")))


def test_a_push_that_would_topple_or_hit_a_neighbour_is_refused(maker: MotionMaker) -> None:
    push = GroundedAction(Verb.PUSH, target="a", direction=Direction.LEFT)
    tall = Scene((body("a", Cylinder(0.04, 0.105), 0.5, 0.0),), (), sides=ROBOT_SIDES)
    assert "would topple" in str(refused(maker, push, tall))
    beside = Scene((body("a", BLOCK, 0.5, 0.0), body("b", BLOCK, 0.5, 0.08)), (), sides=ROBOT_SIDES)
    error = refused(maker, push, beside)
    assert error.reason == "no_space"
    assert "b is in the way of a" in str(error)


def test_a_scene_without_sides_refuses_what_needs_one_and_nothing_else(maker: MotionMaker) -> None:
    sideless = replace(holding(body("a", BLOCK, 0.3, -0.3), body("r", BLOCK, 0.5, 0.0)), sides=None)
    for relation in (Relation.LEFT_OF, Relation.RIGHT_OF, Relation.IN_FRONT_OF, Relation.BEHIND):
        error = refused(maker, place(relation, "r"), sideless, at_home(0.045, "a"))
        assert error.reason == "unsupported"
        assert "turned too far" in str(error)
    push = GroundedAction(Verb.PUSH, target="a", direction=Direction.LEFT)
    assert "turned too far" in str(refused(maker, push, Scene((body("a", BLOCK, 0.5, 0.0),), ())))
    assert best(maker, place(Relation.NEXT_TO, "r"), sideless, at_home(0.045, "a")).effect.relation is Relation.NEXT_TO


@pytest.mark.parametrize("bad_rad", [np.nan, 9.0])
def test_a_start_outside_the_joint_limits_is_refused(maker: MotionMaker, bad_rad: float) -> None:
    q_rad = HOME.copy()
    q_rad[3] = bad_rad
    state = RobotState(0, q_rad, np.zeros(7), 0.08)
    error = refused(maker, GroundedAction(Verb.HOME), Scene((), ()), state)
    assert f"panda_joint4 starts at {bad_rad:.4f} rad, allowed -3.0718 to -0.0698" in str(error)
