"""Robot, held object and scene → the two bodies that come too close, by pinocchio and coal.

The hulls come from the URDF. The twin checks the same motion again with Bullet, which shares none of this code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import coal
import numpy as np
import pinocchio

from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Container, Cylinder, Hull, SceneObject, Shape, Sphere

TABLE = "table"
_TABLE_SIZE_M = 4.0
_TABLE_THICKNESS_M = 0.1
_SELF_MARGIN_M = 0.002
_RING_PANELS = 8

Pair = frozenset[str]


class CollisionModel:
    """A robot among fixed bodies, with or without an object in its gripper; not thread-safe.

    Attributes:
        kinematics: kinematics of the robot.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        bodies: Iterable[SceneObject],
        table_height_m: float,
        held: tuple[str, Shape, Array] | None = None,
        *,
        clearance_m: float = 0.0,
        near: frozenset[str] = frozenset(),
    ) -> None:
        """Build the geometry.

        Args:
            bodies: fixed bodies of the scene.
            table_height_m: height of the table's top, base frame.
            held: name, shape and `T_tool_held` of what the gripper holds; it may touch the fingers and the hand.
            clearance_m: smallest distance to every body, even if a query asks for a smaller margin.
            near: names to which `clearance_m` does not apply; it never applies to the table.
        """
        self.kinematics = kinematics
        self._clearance_m, self._near = clearance_m, near | {TABLE}
        self._geometry = pinocchio.GeometryModel()
        self._owners: list[str] = []
        robot = [self._add_link(link, hull) for link, hull in kinematics.link_hulls.items()]
        grasped = [] if held is None else self._add_held(*held)
        table = coal.Box(_TABLE_SIZE_M, _TABLE_SIZE_M, _TABLE_THICKNESS_M)
        fixed = [self._add(TABLE, 0, 0, make_pose([0, 0, table_height_m - _TABLE_THICKNESS_M / 2]), table)]
        for body in bodies:
            fixed += [
                self._add(body.name, 0, 0, body.T_base_object @ T, shape) for shape, T in _convex_parts(body.shape)
            ]
        self._self_pairs = self._pair_links(robot)
        self._pair_with_scene(robot, grasped, fixed)
        self._data = self._geometry.createData()
        self._model_data = kinematics.model.createData()
        self._setting: tuple[float, frozenset[Pair]] | None = None

    def closest(
        self, q_rad: Array, width_m: float, margin_m: float, ignored: frozenset[Pair] = frozenset()
    ) -> tuple[str, str] | None:
        """Name two bodies that are closer than `margin_m` at joints (n,) and a gripper opening, or None.

        Robot links among themselves only need to be a fixed 2 mm apart.

        Args:
            ignored: pairs of names that may come close.
        """
        self._set(margin_m, ignored)
        q = self.kinematics.configuration(q_rad, width_m)
        if not pinocchio.computeCollisions(
            self.kinematics.model, self._model_data, self._geometry, self._data, q, True
        ):
            return None
        for index, result in enumerate(self._data.collisionResults):
            if self._data.activeCollisionPairs[index] and result.isCollision():
                return self._names(index)
        raise RuntimeError("coal reports a collision but no colliding pair")

    def all_close(self, q_rad: Array, width_m: float, margin_m: float) -> frozenset[Pair]:
        """Collect every pair of names that is closer than `margin_m` at joints (n,) and a gripper opening."""
        pairs: frozenset[Pair] = frozenset()
        while (pair := self.closest(q_rad, width_m, margin_m, pairs)) is not None:
            pairs |= {frozenset(pair)}
        return pairs

    def _set(self, margin_m: float, ignored: frozenset[Pair]) -> None:
        if self._setting == (margin_m, ignored):
            return
        for index in range(len(self._geometry.collisionPairs)):
            is_self, is_near = index < self._self_pairs, self._names(index)[1] in self._near
            kept_m = _SELF_MARGIN_M if is_self else margin_m if is_near else max(margin_m, self._clearance_m)
            self._data.collisionRequests[index].security_margin = kept_m
            self._data.activeCollisionPairs[index] = frozenset(self._names(index)) not in ignored
        self._setting = (margin_m, ignored)

    def _names(self, index: int) -> tuple[str, str]:
        pair = self._geometry.collisionPairs[index]
        return self._owners[pair.first], self._owners[pair.second]

    def _add(self, owner: str, joint: int, frame: int, placement: Array, shape: coal.CollisionGeometry) -> int:
        name = f"{owner} {len(self._owners)}"
        item = pinocchio.GeometryObject(name, joint, frame, pinocchio.SE3(placement), shape)
        self._owners.append(owner)
        return int(self._geometry.addGeometryObject(item))

    def _add_link(self, link: str, hull_m: Array) -> int:
        model = self.kinematics.model
        frame_id = model.getFrameId(link)
        frame = model.frames[frame_id]
        return self._add(link, frame.parentJoint, frame_id, np.asarray(frame.placement.homogeneous), convex(hull_m))

    def _add_held(self, name: str, shape: Shape, T_tool_held: Array) -> list[int]:
        model = self.kinematics.model
        frame_id = model.getFrameId(self.kinematics.profile.tool_link)
        frame = model.frames[frame_id]
        T_joint_held = np.asarray(frame.placement.homogeneous) @ T_tool_held
        return [self._add(name, frame.parentJoint, frame_id, T_joint_held @ T, s) for s, T in _convex_parts(shape)]

    def _pair_links(self, robot: list[int]) -> int:
        """Pair links that no joint connects directly; return the number of pairs."""
        allowed = {frozenset(pair) for pair in self.kinematics.profile.contacts_ignored}
        for i, a in enumerate(robot):
            for b in robot[i + 1 :]:
                if not self._are_neighbours(a, b) and frozenset((self._owners[a], self._owners[b])) not in allowed:
                    self._geometry.addCollisionPair(pinocchio.CollisionPair(a, b))
        return len(self._geometry.collisionPairs)

    def _are_neighbours(self, a: int, b: int) -> bool:
        parents = self.kinematics.model.parents
        joint_a, joint_b = (self._geometry.geometryObjects[i].parentJoint for i in (a, b))
        both_fingers = {self._owners[a], self._owners[b]} == set(self.kinematics.profile.gripper.finger_links)
        return both_fingers or joint_a == joint_b or parents[joint_a] == joint_b or parents[joint_b] == joint_a

    def _pair_with_scene(self, robot: list[int], grasped: list[int], fixed: list[int]) -> None:
        allowed = {frozenset(pair) for pair in self.kinematics.profile.allowed_contacts}
        holding = {self._geometry.geometryObjects[i].parentJoint for i in grasped}
        holding |= {self.kinematics.model.frames[f].parentJoint for f in self._finger_frames()} if grasped else set()
        near = [i for i in robot if self._geometry.geometryObjects[i].parentJoint in holding]
        pairs = [(a, b) for a in robot for b in fixed]
        pairs += [(a, b) for a in grasped for b in fixed]
        pairs += [(a, b) for a in robot if a not in near for b in grasped]
        for a, b in pairs:
            if frozenset((self._owners[a], self._owners[b])) not in allowed:
                self._geometry.addCollisionPair(pinocchio.CollisionPair(a, b))

    def _finger_frames(self) -> Iterator[int]:
        return (self.kinematics.model.getFrameId(link) for link in self.kinematics.profile.gripper.finger_links)


def convex(vertices_m: Array) -> coal.CollisionGeometry:
    """Build the convex hull of vertices (m, 3), metres."""
    cloud = coal.BVHModelOBBRSS()
    cloud.beginModel(0, len(vertices_m))
    cloud.addVertices(np.ascontiguousarray(vertices_m))
    cloud.endModel()
    cloud.buildConvexHull(True, "Qt")
    return cloud.convex


def _convex_parts(shape: Shape) -> list[tuple[coal.CollisionGeometry, Array]]:
    """Split a shape into convex parts with poses in the object frame; a container becomes its floor and walls."""
    if isinstance(shape, Box):
        return [(coal.Box(*shape.size_m), np.eye(4))]
    if isinstance(shape, Cylinder):
        return [(coal.Cylinder(shape.diameter_m / 2, shape.height_m), np.eye(4))]
    if isinstance(shape, Sphere):
        return [(coal.Sphere(shape.diameter_m / 2), np.eye(4))]
    if isinstance(shape, Hull):
        boxes = [(np.array(low), np.array(high)) for low, high in shape.boxes_m]
        parts = [(coal.Box(*(high - low)), make_pose((low + high) / 2)) for low, high in boxes]
        return parts or [(convex(np.array(shape.vertices_m)), np.eye(4))]
    return _panels(shape)


def _panels(shape: Container) -> list[tuple[coal.CollisionGeometry, Array]]:
    (x, y, z), w = shape.size_m, shape.wall_m
    if shape.is_round:
        return _ring(x / 2, z, w)
    parts = [(coal.Box(x, y, w), make_pose([0.0, 0.0, (w - z) / 2]))]
    for side in (-1.0, 1.0):
        parts.append((coal.Box(w, y, z - w), make_pose([side * (x - w) / 2, 0.0, w / 2])))
        parts.append((coal.Box(x - 2 * w, w, z - w), make_pose([0.0, side * (y - w) / 2, w / 2])))
    return parts


def _ring(radius_m: float, height_m: float, wall_m: float) -> list[tuple[coal.CollisionGeometry, Array]]:
    parts: list[tuple[coal.CollisionGeometry, Array]] = [
        (coal.Cylinder(radius_m, wall_m), make_pose([0.0, 0.0, (wall_m - height_m) / 2]))
    ]
    width_m = 2 * radius_m * np.tan(np.pi / _RING_PANELS)
    for yaw in 2 * np.pi * np.arange(_RING_PANELS) / _RING_PANELS:
        p = [(radius_m - wall_m / 2) * np.cos(yaw), (radius_m - wall_m / 2) * np.sin(yaw), wall_m / 2]
        parts.append((coal.Box(wall_m, width_m, height_m - wall_m), make_pose(p, rotation_z(float(yaw)))))
    return parts
