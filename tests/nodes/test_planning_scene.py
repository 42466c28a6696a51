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


def shown(*scenes: Scene) -> Any:
    """What was published last."""
    graph = LocalGraph()
    publisher = PlanningScene(graph, PROFILE)
    for scene in scenes:
        publisher.show(scene, 7_000_000_005)
    return graph.sent["planning_scene"][-1]


def test_a_scene_is_a_diff_in_the_base_frame() -> None:
    message = shown(Scene((BLOCK,), (SceneObject("obstacle 1", Sphere(0.1), AT),)))
    assert message.is_diff and message.robot_state.is_diff
    assert [(o.id, o.operation) for o in message.world.collision_objects] == [("red block", 0), ("obstacle 1", 0)]
    first = message.world.collision_objects[0]
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
    T_tool_held = make_pose([0.0, 0.0, 0.01])
    message = shown(Scene((BLOCK,), ()), Scene((BLOCK,), (), held="red block", T_tool_held=T_tool_held))
    (attached,) = message.robot_state.attached_collision_objects
    assert (attached.object.id, attached.object.operation) == ("red block", 0)
    assert attached.link_name == attached.object.header.frame_id
    assert set(PROFILE.gripper.finger_links) <= set(attached.touch_links)
    assert attached.link_name != "" and message.world.collision_objects == []  # MoveIt takes it out of the world


def test_a_tool_frame_that_only_our_file_knows_is_not_named() -> None:
    graph = LocalGraph()
    mount = ToolMount(parent_link="panda_hand", xyz_m=(0.0, 0.0, 0.1), rpy_rad=(0.0, 0.0, np.pi / 2))
    profile = PROFILE.model_copy(update={"tool_link": "our_tool", "tool_mount": mount})
    held = Scene((BLOCK,), (), held="red block", T_tool_held=make_pose([0.01, 0.0, 0.0]))
    PlanningScene(graph, profile).show(held, 0)
    (attached,) = graph.sent["planning_scene"][-1].robot_state.attached_collision_objects
    assert attached.link_name == "panda_hand"
    position = attached.object.primitive_poses[0].position
    assert np.allclose([position.x, position.y, position.z], [0.0, 0.01, 0.1])


def test_what_is_let_go_is_detached_and_stands_again() -> None:
    held = Scene((BLOCK,), (), held="red block", T_tool_held=np.eye(4))
    message = shown(held, Scene((BLOCK,), ()))
    (detached,) = message.robot_state.attached_collision_objects
    assert (detached.object.id, detached.object.operation) == ("red block", 1)
    assert [(o.id, o.operation) for o in message.world.collision_objects] == [("red block", 0)]


def test_what_is_gone_is_removed_once_and_by_its_name() -> None:
    other = replace(BLOCK, name="green ball")
    message = shown(Scene((BLOCK, other), ()), Scene((other,), ()))
    assert [(o.id, o.operation) for o in message.world.collision_objects] == [("red block", 1), ("green ball", 0)]
    message = shown(Scene((BLOCK, other), ()), Scene((other,), ()), Scene((other,), ()))
    assert [o.id for o in message.world.collision_objects] == ["green ball"]
    assert all(o.id for o in message.world.collision_objects)  # a removal without a name would clear the whole world


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
    assert [o.id for o in cell.graph.sent["planning_scene"][-1].world.collision_objects] == ["red block"]
    cell.close()


def test_an_operation_is_a_byte_where_the_transport_has_bytes() -> None:
    def rclpy_has(type_name: str) -> Any:
        if type_name != "moveit_msgs/msg/CollisionObject":
            return message_class(type_name)
        return lambda **fields: SimpleNamespace(**{"operation": bytes(1), **fields})

    pen = _Pen(rclpy_has, PROFILE, 0)
    assert (pen.removed("red block").operation, pen.standing(BLOCK).operation) == (b"\x01", b"\x00")


def test_without_moveits_messages_nothing_is_published() -> None:
    graph = LocalGraph()
    graph.lacks = ("moveit_msgs",)
    PlanningScene(graph, PROFILE).show(Scene((BLOCK,), ()), 0)
    assert "planning_scene" not in graph.sent
