"""The scene as it was measured → a diff of moveit_msgs/PlanningScene: things to go around, and what is held.

Zones, unseen space and the table are not in it: the twin judges by them, and MoveIt has no word for the first two. The
table belongs to a cell's own MoveIt configuration, where the base may touch it.

MoveIt removes by id alone: there is no prefix, and an empty id or a scene that is no diff would clear what others put
there. So ids are counted, not named, and a controller that starts can remove what the one before it had shown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_rotvec, rotation_z
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import doubles, header, pose_message
from qwen2vl_robot.graph.interface import Message, MessageMaker
from qwen2vl_robot.kinematics import hull_triangles
from qwen2vl_robot.messages import Box, Container, Cylinder, Hull, Scene, SceneObject, Sphere

_BOX, _SPHERE, _CYLINDER = 1, 2, 3  # of shape_msgs/SolidPrimitive
_ADD, _REMOVE = 0, 1  # of moveit_msgs/CollisionObject
_PANELS = 16  # of a round wall
_COUNTED = 64  # ids that a first scene clears; MoveIt logs a line for each that it does not know
Part = tuple[int, tuple[float, ...], Array]  # kind, dimensions in metres, pose (4, 4) in the object's frame


class PlanningScene:
    """Publishes scenes; what is no longer in one is removed from MoveIt, and things of others stay.

    Ids are "qwen2vl_robot_1", "qwen2vl_robot_2" ...; a thing keeps its own while it is shown, and `type.key` has its
    name. The first scene also removes whatever stands under the first 64 of them from before. Without the package
    moveit_msgs beside rclpy nothing is published.
    """

    def __init__(self, graph: interface.Graph, profile: RobotProfile) -> None:
        self._graph, self._profile = graph, profile
        has_type = graph.has_type(interface.PLANNING_SCENE.type)
        self._publisher = graph.publisher(interface.PLANNING_SCENE) if has_type else None
        self._ids: dict[str, str] = {}  # of what is shown, by its name
        self._standing = self._attached = frozenset(_id(k) for k in range(1, _COUNTED + 1))  # perhaps, from before

    def show(self, scene: Scene, stamp_ns: int) -> None:
        """Publish a scene.

        Args:
            stamp_ns: of the frame in which it was measured.
        """
        if self._publisher is None:
            return
        pen = _Pen(self._graph.message, self._profile, stamp_ns)
        bodies = {body.name: body for body in scene.bodies()}
        ids = self._ids = _count(self._ids, bodies)
        held = bodies.pop(scene.held, None) if scene.held is not None and scene.T_tool_held is not None else None
        attached, standing = {ids[held.name]} if held else set(), {ids[name] for name in bodies}
        hand = [pen.detached(each) for each in _in_order(self._attached - attached)]
        if held is not None and scene.T_tool_held is not None:
            hand.append(pen.attached(ids[held.name], held, scene.T_tool_held))
        # MoveIt first puts down what is detached, and takes what is attached out of the world by itself.
        gone = (self._standing | self._attached) - standing - attached
        world = [pen.removed(each) for each in _in_order(gone)]
        world += [pen.standing(ids[body.name], body) for body in bodies.values()]
        self._publisher.publish(pen.scene(world, hand))
        self._standing, self._attached = frozenset(standing), frozenset(attached)


def _id(count: int) -> str:
    return f"{interface.NODE_NAME}_{count}"


def _in_order(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=lambda each: (len(each), each))


def _count(before: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Give each name an id: its own from before, else the lowest that is free."""
    kept = {name: before[name] for name in names if name in before}
    free = (each for each in map(_id, itertools.count(1)) if each not in kept.values())
    return {name: kept[name] if name in kept else next(free) for name in names}


class _Pen:
    """Makes the messages of one scene."""

    def __init__(self, make: MessageMaker, profile: RobotProfile, stamp_ns: int) -> None:
        self._make, self._profile, self._stamp_ns = make, profile, stamp_ns

    def scene(self, objects: list[Message], attached: list[Message]) -> Message:
        state = self._make("moveit_msgs/msg/RobotState")(attached_collision_objects=attached, is_diff=True)
        world = self._make("moveit_msgs/msg/PlanningSceneWorld")(collision_objects=objects)
        return self._make("moveit_msgs/msg/PlanningScene")(robot_state=state, world=world, is_diff=True)

    def standing(self, each: str, body: SceneObject) -> Message:
        return self._object(each, body, self._profile.base_link, body.T_base_object)

    def removed(self, each: str) -> Message:
        return self._bare(each, self._profile.base_link, _REMOVE)

    def attached(self, each: str, body: SceneObject, T_tool_held: Array) -> Message:
        """What is held, on a link that the robot's own URDF has: `tool_mount` adds one that MoveIt cannot know."""
        mount = self._profile.tool_mount
        link = self._profile.tool_link if mount is None else mount.parent_link
        T_link_tool = np.eye(4) if mount is None else make_pose(mount.xyz_m, _rotation(mount.rpy_rad))
        held = self._object(each, body, link, T_link_tool @ T_tool_held)
        touches = [*self._profile.gripper.finger_links, link]
        kind = self._make("moveit_msgs/msg/AttachedCollisionObject")
        return kind(link_name=link, object=held, touch_links=touches)

    def detached(self, each: str) -> Message:
        gone = self._bare(each, self._profile.base_link, _REMOVE)
        return self._make("moveit_msgs/msg/AttachedCollisionObject")(object=gone)

    def _object(self, each: str, body: SceneObject, frame: str, T_frame_object: Array) -> Message:
        """Give each part its pose in the frame: MoveIt of Humble does not read the pose of the whole."""
        shown, shape = self._bare(each, frame, _ADD), body.shape
        shown.type = self._make("object_recognition_msgs/msg/ObjectType")(key=body.name)
        if isinstance(shape, Hull):
            shown.meshes = [self._mesh(hull_triangles(np.array(shape.vertices_m)))]
            shown.mesh_poses = [pose_message(self._make, T_frame_object)]
            return shown
        found = list(_parts(shape))
        primitive = self._make("shape_msgs/msg/SolidPrimitive")
        shown.primitives = [primitive(type=kind, dimensions=doubles(sizes_m)) for kind, sizes_m, _ in found]
        shown.primitive_poses = [pose_message(self._make, T_frame_object @ T) for _, _, T in found]
        return shown

    def _bare(self, each: str, frame: str, operation: int) -> Message:
        kind = self._make("moveit_msgs/msg/CollisionObject")
        is_bytes = isinstance(kind().operation, bytes)  # of rclpy; an int over DDS
        value = bytes([operation]) if is_bytes else operation
        return kind(header=header(self._make, self._stamp_ns, frame), id=each, operation=value)

    def _mesh(self, triangles_m: Array) -> Message:
        """Make a shape_msgs/Mesh of triangles (t, 3, 3)."""
        point, triangle = self._make("geometry_msgs/msg/Point"), self._make("shape_msgs/msg/MeshTriangle")
        corners, index = np.unique(triangles_m.reshape(-1, 3), axis=0, return_inverse=True)
        return self._make("shape_msgs/msg/Mesh")(
            vertices=[point(x=float(p[0]), y=float(p[1]), z=float(p[2])) for p in corners],
            triangles=[triangle(vertex_indices=[int(i) for i in row]) for row in index.reshape(-1, 3)],
        )


def _parts(shape: Box | Cylinder | Sphere | Container) -> Iterator[Part]:
    """The solids that make up a shape; a hollow one is floor and walls, so that something can go into it."""
    if isinstance(shape, Box):
        yield _BOX, shape.size_m, np.eye(4)
    elif isinstance(shape, Sphere):
        yield _SPHERE, (shape.diameter_m / 2,), np.eye(4)
    elif isinstance(shape, Cylinder):
        yield _CYLINDER, (shape.height_m, shape.diameter_m / 2), np.eye(4)
    elif shape.is_round:
        yield from _round(shape)
    else:
        (x, y, z), w = shape.size_m, shape.wall_m
        yield _BOX, (x, y, w), make_pose([0.0, 0.0, (w - z) / 2])
        for side in (-1.0, 1.0):
            yield _BOX, (w, y, z), make_pose([side * (x - w) / 2, 0.0, 0.0])
            yield _BOX, (x, w, z), make_pose([0.0, side * (y - w) / 2, 0.0])


def _round(shape: Container) -> Iterator[Part]:
    radius, height, wall = shape.size_m[0] / 2, shape.size_m[2], shape.wall_m
    yield _CYLINDER, (wall, radius), make_pose([0.0, 0.0, (wall - height) / 2])
    width = 2.0 * radius * math.tan(math.pi / _PANELS)
    for k in range(_PANELS):
        turned = make_pose([0.0, 0.0, 0.0], rotation_z(2.0 * math.pi * k / _PANELS))
        yield _BOX, (wall, width, height), turned @ make_pose([radius - wall / 2, 0.0, 0.0])


def _rotation(rpy_rad: tuple[float, float, float]) -> Array:
    """The rotation of a URDF's roll, pitch and yaw: about the fixed axes, one after the other."""
    roll, pitch, yaw = (rotation_from_rotvec(np.eye(3)[axis] * rpy_rad[axis]) for axis in range(3))
    return yaw @ pitch @ roll
