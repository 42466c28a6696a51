"""Joint positions → poses of the tool and of every link, with pinocchio (never the twin's Bullet)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import coal
import numpy as np
import pinocchio

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, invert, read_only, transform
from qwen2vl_robot.joint_kinds import followers
from qwen2vl_robot.link_meshes import read_triangles
from qwen2vl_robot.urdf_files import check_meshes

_PAD_SLACK_M = 0.004  # the gate takes fingers that are as far from where the twin had them for the same
_ROUND_SIDES = 24  # a round collision shape becomes a prism with this many sides that encloses it


class Kinematics:
    """Forward kinematics of one robot; not thread-safe, because it reuses pinocchio's working data.

    Attributes:
        model: pinocchio's model of the whole URDF.
        dof: number of arm joints n.
        lower_rad, upper_rad: joint limits (n,) of the profile, in its order.
        link_hulls: link → vertices (m, 3) of the convex hull of its collision geometry, link frame, metres.
        moving_links: links that some joint moves.
        finger_joints: numbers in `model` of the gripper's joints and of those that follow them.
    """

    def __init__(self, profile: RobotProfile, *, checks_pads: bool = True) -> None:
        """Read the profile's URDF.

        Args:
            checks_pads: whether the fingers must stand where the profile says; only who looks for that says no.

        Raises:
            BadInputError: the URDF lacks a joint or link of the profile, a joint is of a kind that is not supported, or
                the fingers stand elsewhere than the profile says of a width.
        """
        path = profile.urdf_path
        check_meshes(path)  # also that the file is within the bounds, before pinocchio reads it
        self.profile = profile
        self.dof = len(profile.joints)
        self.lower_rad = read_only([j.lower_rad for j in profile.joints])
        self.upper_rad = read_only([j.upper_rad for j in profile.joints])
        self.model = pinocchio.buildModelFromUrdf(str(path))
        self._data = self.model.createData()
        self._q = pinocchio.neutral(self.model)
        self._arm = np.array([self._coordinate(j.name) for j in profile.joints])
        self._followers = followers(profile)
        fingers = [*profile.gripper.joints, *(f.name for f in self._followers)]
        self._fingers = np.array([self._coordinate(j) for j in fingers], dtype=int)
        self.finger_joints = frozenset(self.model.getJointId(j) for j in fingers)
        self._velocity = np.array([self.model.joints[self.model.getJointId(j.name)].idx_v for j in profile.joints])
        self._links = {f.name: i for i, f in enumerate(self.model.frames) if f.type == pinocchio.FrameType.BODY}
        for link in (profile.base_link, profile.tool_link, *profile.gripper.finger_links):
            self._check_link(link)
        self._tool = self._links[profile.tool_link]
        self._T_base_root = self._measure_base(profile.base_link)
        self.link_hulls = self._read_hulls()
        self.moving_links = frozenset(n for n, i in self._links.items() if self.model.frames[i].parentJoint != 0)
        if checks_pads:
            self._check_pads()

    def tool_pose(self, q_rad: Array, width_m: float = 0.0) -> Array:
        """Compute `T_base_tool` (4, 4) at joints (n,) rad and a gripper width, m."""
        self._set(q_rad, width_m)
        pinocchio.framesForwardKinematics(self.model, self._data, self._q)
        return self._in_base(self._data.oMf[self._tool])

    def tool_jacobian(self, q_rad: Array) -> Array:
        """Compute the tool's Jacobian (6, n): linear then angular velocity in base axes, per joint velocity."""
        self._set(q_rad, 0.0)
        J = pinocchio.computeFrameJacobian(
            self.model, self._data, self._q, self._tool, pinocchio.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )[:, self._velocity]
        R = self._T_base_root[:3, :3]
        turned: Array = np.vstack([R @ J[:3], R @ J[3:]])
        return turned

    def tool_pose_and_jacobian(self, q_rad: Array) -> tuple[Array, Array]:
        """Compute `tool_pose` and `tool_jacobian` at little more than the cost of one."""
        jacobian = self.tool_jacobian(q_rad)
        placement = pinocchio.updateFramePlacement(self.model, self._data, self._tool)
        return self._in_base(placement), jacobian

    def link_poses(self, q_rad: Array, width_m: float) -> dict[str, Array]:
        """Compute `T_base_link` (4, 4) of every URDF link at joints (n,) rad and a gripper width, m."""
        self._set(q_rad, width_m)
        pinocchio.framesForwardKinematics(self.model, self._data, self._q)
        frames = self._data.oMf
        return {link: self._in_base(frames[index]) for link, index in self._links.items()}

    def configuration(self, q_rad: Array, width_m: float) -> Array:
        """Return the coordinates of `model` at joints (n,) and a gripper width; valid until the next call here."""
        self._set(q_rad, width_m)
        values: Array = self._q
        return values

    def _set(self, q_rad: Array, width_m: float) -> None:
        q = np.asarray(q_rad, dtype=np.float64)
        if q.shape != (self.dof,) or not np.isfinite(q).all() or not np.isfinite(width_m):
            raise ValueError(f"{self.dof} finite joint positions needed, given {q!r}, width {width_m} m")
        self._q[self._arm] = q
        position = self.profile.gripper.position(width_m)
        drivers = [position] * len(self.profile.gripper.joints)
        self._q[self._fingers] = [*drivers, *(f.position(position) for f in self._followers)]

    def _in_base(self, placement: pinocchio.SE3) -> Array:
        pose: Array = self._T_base_root @ np.asarray(placement.homogeneous)
        return pose

    def _coordinate(self, joint: str) -> int:
        """Return the index of a joint's only coordinate; pinocchio gives an unknown name a wrong one silently."""
        if not self.model.existJointName(joint):
            known = ", ".join(list(self.model.names)[1:])
            raise BadInputError(f"{self.profile.urdf} has no joint {joint!r}; it has {known}")
        model_joint = self.model.joints[self.model.getJointId(joint)]
        if model_joint.nq != 1:
            raise BadInputError(f"joint {joint!r} has {model_joint.nq} coordinates; only joints with one are supported")
        return int(model_joint.idx_q)

    def pad_gap_m(self, width_m: float) -> float:
        """Measure how far apart the finger links stand at a width, along the closing axis; negative where they overlap.

        Raises:
            BadInputError: a finger has no collision shape.
        """
        gripper = self.profile.gripper
        missing = [link for link in gripper.finger_links if link not in self.link_hulls]
        if missing:
            raise BadInputError(f"{self.profile.urdf}: finger {missing[0]} has no collision shape")
        poses, axis = self.link_poses(np.array(self.profile.home_q_rad), width_m), "xy".index(gripper.closing_axis)
        T_tool_base = invert(poses[self.profile.tool_link])
        along = [transform(T_tool_base @ poses[n], self.link_hulls[n])[:, axis] for n in gripper.finger_links]
        low, high = sorted(along, key=lambda one_m: float(one_m.mean()))
        return float(high.min() - low.max())

    def _check_pads(self) -> None:
        """Check that the fingers open as the robot file says: one that closes where it should open is refused here."""
        gripper = self.profile.gripper
        rows_m = [width_m for width_m, _ in gripper.position_by_width_m] or [0.0, gripper.max_width_m]
        for width_m in rows_m:
            gap_m = self.pad_gap_m(width_m)
            if abs(gap_m - width_m) > _PAD_SLACK_M:
                at = f"{gripper.joints[0]} = {gripper.position(width_m):.4g}"
                raise BadInputError(
                    f"{self.profile.name}: at a width of {width_m * 1000:.0f} mm ({at}) the URDF's fingers stand "
                    f"{gap_m * 1000:.0f} mm apart, allowed {_PAD_SLACK_M * 1000:.0f} mm more or less; look at "
                    "position_by_width_m, joints, finger_links and closing_axis of the gripper"
                )

    def _check_link(self, link: str) -> None:
        if link not in self._links:
            raise BadInputError(f"{self.profile.urdf} has no link {link!r}; it has {', '.join(self._links)}")

    def _measure_base(self, base_link: str) -> Array:
        """Compute `T_base_root` (4, 4); no joint may move the base link."""
        frame = self.model.frames[self._links[base_link]]
        if frame.parentJoint != 0:
            raise BadInputError(f"base_link {base_link!r} moves with a joint; give a fixed link")
        return invert(np.asarray(frame.placement.homogeneous))

    def link_triangles(self) -> dict[str, Array]:
        """Read what links look like: link → triangles (t, 3, 3), link frame, metres; takes about a second."""
        return self._read_geometry(pinocchio.GeometryType.VISUAL, _triangles)

    def _read_hulls(self) -> dict[str, Array]:
        points = self._read_geometry(pinocchio.GeometryType.COLLISION, _vertices)
        return {link: read_only(hull_vertices(points_m)) for link, points_m in points.items()}

    def _read_geometry(self, kind: Any, points_of: Callable[[Any], Array]) -> dict[str, Array]:
        """Read one kind of the URDF's geometry: link → points (k, ..., 3), link frame, metres."""
        points: dict[str, list[Array]] = {}
        for item in _geometry(self, kind).geometryObjects:
            frame = self.model.frames[item.parentFrame]
            T_link_geometry = invert(np.asarray(frame.placement.homogeneous)) @ np.asarray(item.placement.homogeneous)
            points.setdefault(frame.name, []).append(transform(T_link_geometry, points_of(item)))
        return {link: np.vstack(parts) for link, parts in points.items()}


def true_contacts(
    kinematics: Kinematics, pairs: Sequence[tuple[str, str]], postures: Iterable[tuple[Array, float]]
) -> Counter[tuple[str, str]]:
    """Count for pairs of links in how many postures, joints and a width each, their own meshes and solids meet."""
    geometry = _geometry(kinematics, pinocchio.GeometryType.COLLISION)
    of_link: dict[str, list[int]] = {}
    for index, item in enumerate(geometry.geometryObjects):
        of_link.setdefault(kinematics.model.frames[item.parentFrame].name, []).append(index)
        if isinstance(item.geometry, coal.BVHModelBase):
            item.geometry = _mesh(_triangles(item))  # coal's reader may have joined wrong corners
    owners: list[tuple[str, str]] = []
    for a, b in pairs:
        for i, j in itertools.product(of_link.get(a, []), of_link.get(b, [])):
            geometry.addCollisionPair(pinocchio.CollisionPair(i, j))
            owners.append((a, b))
    data, shapes, found = kinematics.model.createData(), geometry.createData(), Counter[tuple[str, str]]()
    for q_rad, width_m in postures:
        q = kinematics.configuration(q_rad, width_m)
        pinocchio.computeCollisions(kinematics.model, data, geometry, shapes, q, False)
        found.update({pair for pair, r in zip(owners, shapes.collisionResults, strict=True) if r.isCollision()})
    return found


def _geometry(kinematics: Kinematics, kind: Any) -> Any:
    """Read one kind of the URDF's geometry with pinocchio."""
    path = kinematics.profile.urdf_path
    return pinocchio.buildGeomFromUrdf(kinematics.model, str(path), kind, package_dirs=[str(path.parent)])


def hull_vertices(points_m: Array) -> Array:
    """Compute the vertices (m, 3) of the convex hull of points (k, 3)."""
    hull = _convex_hull(points_m)
    return np.array([hull.point(i) for i in range(hull.num_points)])


def hull_planes(points_m: Array) -> tuple[Array, Array]:
    """Compute the faces of the convex hull of points (k, 3): unit normals outwards (f, 3) and offsets (f,), metres.

    A point p is inside where normal · p <= offset for every face.
    """
    hull = _convex_hull(points_m)
    normals, offsets_m = np.array(hull.normals()), np.array(hull.offsets()).ravel()
    return normals, -offsets_m


def _convex_hull(points_m: Array) -> coal.ConvexBase:
    cloud = coal.BVHModelOBBRSS()
    cloud.beginModel(0, len(points_m))
    cloud.addVertices(np.ascontiguousarray(points_m))
    cloud.endModel()
    cloud.buildConvexHull(False, "Qt")
    return cloud.convex


def _mesh(triangles_m: Array) -> coal.BVHModelOBBRSS:
    mesh, corners_m = coal.BVHModelOBBRSS(), triangles_m.reshape(-1, 3)
    mesh.beginModel(len(triangles_m), len(corners_m))
    mesh.addVertices(np.ascontiguousarray(corners_m))
    mesh.addTriangles(np.arange(len(corners_m), dtype=np.int64).reshape(-1, 3))
    mesh.endModel()
    return mesh


def _triangles(item: Any) -> Array:
    """Return the triangles (t, 3, 3) of a shape in its own frame; of a primitive those of a hull around it."""
    corners_m = _vertices(item)
    if isinstance(item.geometry, coal.BVHModelBase):
        return read_triangles(Path(item.meshPath), np.asarray(item.meshScale), corners_m)
    return hull_triangles(corners_m)


def hull_triangles(points_m: Array) -> Array:
    """Return the triangles (t, 3, 3) of the convex hull of points (k, 3), corners anticlockwise from outside."""
    triangles = []
    for *normal, offset_m in np.unique(np.column_stack(hull_planes(points_m)).round(9), axis=0):
        face_m = points_m[points_m @ normal > offset_m - 1e-9]
        across = np.linalg.svd(face_m - face_m.mean(axis=0))[2][:2]
        if np.cross(*across) @ normal < 0:
            across = across[::-1]
        around = np.arctan2(*((face_m - face_m.mean(axis=0)) @ across.T).T[::-1])
        ring_m = face_m[np.argsort(around)]
        triangles += [np.array([ring_m[0], ring_m[i], ring_m[i + 1]]) for i in range(1, len(ring_m) - 1)]
    return np.array(triangles)


def _vertices(item: Any) -> Array:
    """Return points (k, 3) whose hull encloses a shape of pinocchio's, in the shape's own frame."""
    geometry = item.geometry
    if isinstance(geometry, coal.BVHModelBase):
        return np.array(geometry.vertices())
    if isinstance(geometry, coal.Box):
        return box_vertices(2 * np.asarray(geometry.halfSide))
    if isinstance(geometry, coal.Cylinder):
        return prism_vertices(geometry.radius, 2 * geometry.halfLength)
    if isinstance(geometry, coal.Capsule):
        return prism_vertices(geometry.radius, 2 * (geometry.halfLength + geometry.radius))
    if isinstance(geometry, coal.Sphere):
        return prism_vertices(geometry.radius, 2 * geometry.radius)
    raise BadInputError(f"collision shape {item.name}: {type(geometry).__name__} is unknown; use a mesh or a primitive")


def box_vertices(size_m: Array) -> Array:
    """Return the eight corners (8, 3) of a centred box, metres."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    return signs * np.asarray(size_m) / 2


def prism_vertices(radius_m: float, height_m: float) -> Array:
    """Return the corners (2 k, 3) of a centred upright prism that encloses the cylinder of this radius and height."""
    angles = 2 * np.pi * np.arange(_ROUND_SIDES) / _ROUND_SIDES
    outer_m = radius_m / np.cos(np.pi / _ROUND_SIDES)
    ring = np.column_stack([outer_m * np.cos(angles), outer_m * np.sin(angles)])
    halves = [np.column_stack([ring, np.full(_ROUND_SIDES, z)]) for z in (-height_m / 2, height_m / 2)]
    return np.vstack(halves)
