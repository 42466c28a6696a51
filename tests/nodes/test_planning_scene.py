"""What was measured, as MoveIt takes it: whole things where they are, what is held on the hand, what is gone goes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import ToolMount
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.graph.idl import message_class
from qwen2vl_robot.messages import (
    Action,
    Box,
    Container,
    Cylinder,
    Hull,
    ImageBox,
    ObjectReference,
    Outcome,
    OutcomeKind,
    Relation,
    RobotState,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    StepRecord,
    Verb,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.nodes.planning_scene import PlanningScene, _Pen
from tests.cells import PROFILE, reach, rehearsed
from tests.nodes.local_graph import LocalGraph
from tests.nodes.test_controller_node import Cell

CORNERS = tuple((x, y, z) for x in (-0.02, 0.02) for y in (-0.03, 0.03) for z in (-0.04, 0.04))
AT = make_pose([0.5, 0.1, 0.04])
BLOCK = SceneObject("red block", Box((0.04, 0.05, 0.06)), AT)
GREEN = SceneObject("green ball", Sphere(0.05), AT)
MANY = [SceneObject(f"obstacle {k}", Sphere(0.05), AT) for k in range(40)]


HELD = Scene((BLOCK,), (), held="red block", T_tool_held=make_pose([0.0, 0.0, 0.01]))


class MoveIt:
    """What MoveIt makes of the scenes: first the hand, then the world; see its planning_scene.cpp.

    Attributes:
        world, hand: name of each thing by its id; things of others are named "theirs".
    """

    def __init__(self) -> None:
        self.world, self.hand = {"their shelf": "theirs"}, {"their tool": "theirs"}

    def take(self, message: Any) -> None:
        assert message.is_diff and message.robot_state.is_diff
        for attached in message.robot_state.attached_collision_objects:
            body = attached.object
            assert body.id  # none would detach everything, others' too
            if body.operation == 0:
                self.world.pop(body.id, None)
                self.hand[body.id] = body.type.key
            elif body.id in self.hand:
                self.world.setdefault(body.id, self.hand.pop(body.id))
        for body in message.world.collision_objects:
            assert body.id  # none would clear the whole world
            if body.operation == 0:
                self.world[body.id] = body.type.key
            else:
                self.world.pop(body.id, None)

    def ours(self) -> tuple[list[str], list[str]]:
        """Names in the world and in the hand, once things of others were seen to be left alone."""
        assert (self.world["their shelf"], self.hand["their tool"]) == ("theirs", "theirs")
        found = [sorted(set(names.values()) - {"theirs"}) for names in (self.world, self.hand)]
        return found[0], found[1]


def messages(*scenes: Scene) -> list[Any]:
    """What one controller publishes."""
    graph = LocalGraph()
    publisher = PlanningScene(graph, PROFILE)
    for scene in scenes:
        publisher.show(scene, 7_000_000_005)
    found: list[Any] = graph.sent["planning_scene"]
    return found


def shown(*scenes: Scene) -> Any:
    """What was published last, after a first scene that clears what was there before."""
    return messages(Scene((), ()), *scenes)[-1]


def test_a_scene_is_a_diff_in_the_base_frame() -> None:
    message = shown(Scene((BLOCK,), (SceneObject("obstacle 1", Sphere(0.1), AT),)))
    assert message.is_diff and message.robot_state.is_diff
    assert [(o.id, o.operation) for o in message.world.collision_objects] == [
        ("qwen2vl_robot_1", 0), ("qwen2vl_robot_2", 0),
    ]  # fmt: skip
    first, second = message.world.collision_objects
    assert (first.type.key, second.type.key) == ("red block", "obstacle 1")
    assert (first.header.frame_id, first.header.stamp.sec) == (PROFILE.base_link, 7)
    assert (first.primitives[0].type, list(first.primitives[0].dimensions)) == (1, [0.04, 0.05, 0.06])
    position = first.primitive_poses[0].position
    assert (position.x, position.y, position.z) == (0.5, 0.1, 0.04)
    assert not message.allowed_collision_matrix.entry_names  # an empty one in a diff changes nothing


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        (Box((0.1, 0.1, 0.1)), [1]),
        (Sphere(0.1), [2]),
        (Cylinder(0.1, 0.2), [3]),
        (Container((0.2, 0.2, 0.05), 0.01), [1] * 5),
        (Container((0.2, 0.2, 0.05), 0.01, is_round=True), [3, *[1] * 16]),
    ],
)
def test_every_shape_is_made_of_solids_that_stay_within_its_size(shape: Shape, kinds: list[int]) -> None:
    (body,) = shown(Scene((SceneObject("thing", shape, np.eye(4)),), ())).world.collision_objects
    assert [p.type for p in body.primitives] == kinds
    assert len(body.primitive_poses) == len(kinds)
    middles = np.array([[p.position.x, p.position.y, p.position.z] for p in body.primitive_poses])
    assert np.abs(middles).max() < 0.1


def test_a_cylinder_has_its_height_before_its_radius() -> None:
    (body,) = shown(Scene((SceneObject("can", Cylinder(0.06, 0.2), AT),), ())).world.collision_objects
    assert list(body.primitives[0].dimensions) == [0.2, 0.03]


def test_something_fits_into_a_bowl() -> None:
    bowl = SceneObject("bowl", Container((0.2, 0.2, 0.06), 0.01, is_round=True), np.eye(4))
    (body,) = shown(Scene((bowl,), ())).world.collision_objects
    floor, *walls = zip(body.primitives, body.primitive_poses, strict=True)
    assert floor[1].position.z + floor[0].dimensions[0] / 2 == pytest.approx(-0.02)
    assert all(np.hypot(pose.position.x, pose.position.y) > 0.08 for _, pose in walls)


def test_what_no_shape_explains_is_a_closed_mesh() -> None:
    (body,) = shown(Scene((), (SceneObject("obstacle 1", Hull(CORNERS), AT),))).world.collision_objects
    (mesh,) = body.meshes
    assert len(mesh.vertices) == 8
    edges = [
        tuple(sorted((t[i], t[i - 1]))) for t in (list(t.vertex_indices) for t in mesh.triangles) for i in range(3)
    ]
    assert all(edges.count(edge) == 2 for edge in edges)
    assert body.mesh_poses[0].position.x == 0.5


def test_what_is_held_is_attached_to_the_hand_and_may_touch_the_fingers() -> None:
    message = shown(Scene((BLOCK,), ()), HELD)
    (attached,) = message.robot_state.attached_collision_objects
    assert (attached.object.type.key, attached.object.operation) == ("red block", 0)
    assert attached.link_name == attached.object.header.frame_id
    assert set(PROFILE.gripper.finger_links) <= set(attached.touch_links)
    assert attached.link_name != ""
    assert not any(o.operation == 0 for o in message.world.collision_objects)


def test_a_tool_frame_that_only_our_file_knows_is_not_named() -> None:
    graph = LocalGraph()
    mount = ToolMount(parent_link="panda_hand", xyz_m=(0.0, 0.0, 0.1), rpy_rad=(0.0, 0.0, np.pi / 2))
    profile = PROFILE.model_copy(update={"tool_link": "our_tool", "tool_mount": mount})
    held = Scene((BLOCK,), (), held="red block", T_tool_held=make_pose([0.01, 0.0, 0.0]))
    PlanningScene(graph, profile).show(held, 0)
    attached = graph.sent["planning_scene"][-1].robot_state.attached_collision_objects[-1]
    assert attached.link_name == "panda_hand"
    position = attached.object.primitive_poses[0].position
    assert np.allclose([position.x, position.y, position.z], [0.0, 0.01, 0.1])


@pytest.mark.parametrize(
    ("scenes", "world", "hand"),
    [
        ([Scene((BLOCK, GREEN), ())], ["green ball", "red block"], []),
        ([Scene((BLOCK, GREEN), ()), HELD], [], ["red block"]),
        ([HELD, Scene((BLOCK,), ())], ["red block"], []),
        ([HELD, Scene((GREEN,), ())], ["green ball"], []),
        ([HELD, Scene((), ())], [], []),
        ([Scene((BLOCK, GREEN), ()), Scene((GREEN,), ()), Scene((GREEN, BLOCK), ())], ["green ball", "red block"], []),
    ],
)
def test_moveit_has_exactly_what_was_measured_last_and_what_others_put_there(
    scenes: list[Scene], world: list[str], hand: list[str]
) -> None:
    moveit = MoveIt()
    for message in messages(*scenes):
        moveit.take(message)
    assert moveit.ours() == (world, hand)


def test_a_thing_keeps_its_id_while_it_is_shown() -> None:
    moveit = MoveIt()
    for message in messages(
        Scene((BLOCK, GREEN), ()), Scene((GREEN,), ()), Scene((replace(BLOCK, name="cup"), GREEN), ())
    ):
        moveit.take(message)
        assert moveit.world["qwen2vl_robot_2"] == "green ball"
    assert moveit.world["qwen2vl_robot_1"] == "cup"


@pytest.mark.parametrize("after", [Scene((), ()), Scene((GREEN,), ()), Scene((GREEN, BLOCK), ()), HELD])
@pytest.mark.parametrize("before", [Scene((BLOCK, GREEN), ()), HELD, Scene(tuple(MANY), ())])
def test_a_controller_that_was_restarted_removes_what_the_one_before_it_had_shown(before: Scene, after: Scene) -> None:
    moveit, alone = MoveIt(), MoveIt()
    for message in messages(before):
        moveit.take(message)
    (message,) = messages(after)
    moveit.take(message)
    alone.take(message)
    assert moveit.ours() == alone.ours()
    assert sum(map(len, moveit.ours())) == len(list(after.bodies()))


def test_only_the_first_scene_removes_what_nobody_here_has_shown() -> None:
    first, second, third = messages(Scene((BLOCK, GREEN), ()), Scene((GREEN,), ()), Scene((GREEN,), ()))
    assert len(first.world.collision_objects) == 64
    assert [(o.id, o.operation) for o in second.world.collision_objects] == [
        ("qwen2vl_robot_1", 1), ("qwen2vl_robot_2", 0),
    ]  # fmt: skip
    assert [o.id for o in third.world.collision_objects] == ["qwen2vl_robot_2"]
    assert third.robot_state.attached_collision_objects == []


def test_what_is_only_predicted_is_not_shown() -> None:
    """The second step of a plan is refused in the world that the first one would leave behind."""
    cell = Cell()
    motion = reach(freeze(PROFILE.home_q_rad), [0.1, 0, 0, 0, 0, 0, 0])
    verdict = Verdict(False, (), digest(motion), "", "", "")
    predicted = Scene((BLOCK,), (), held="red block", T_tool_held=np.eye(4))
    place = Action(Verb.PLACE, ObjectReference("blue plate", (ImageBox(0, 0, 9, 9),)), relation=Relation.ON)
    cell.node.display.on_step(StepRecord(place, motion, verdict, Outcome(OutcomeKind.REFUSED), predicted))
    assert "planning_scene" not in cell.graph.sent
    start = RobotState(0, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)
    cell.node.display.show(rehearsed(motion, start, 0, Scene((BLOCK,), ())))
    things = cell.graph.sent["planning_scene"][-1].world.collision_objects
    assert [o.type.key for o in things if o.operation == 0] == ["red block"]
    cell.close()


def test_an_operation_is_a_byte_where_the_transport_has_bytes() -> None:
    def rclpy_has(type_name: str) -> Any:
        if type_name != "moveit_msgs/msg/CollisionObject":
            return message_class(type_name)
        return lambda **fields: SimpleNamespace(**{"operation": bytes(1), **fields})

    pen = _Pen(rclpy_has, PROFILE, 0)
    assert (pen.removed("red block").operation, pen.standing("red block", BLOCK).operation) == (b"\x01", b"\x00")


def test_without_moveits_messages_nothing_is_published() -> None:
    graph = LocalGraph()
    graph.lacks = ("moveit_msgs",)
    PlanningScene(graph, PROFILE).show(Scene((BLOCK,), ()), 0)
    assert "planning_scene" not in graph.sent
