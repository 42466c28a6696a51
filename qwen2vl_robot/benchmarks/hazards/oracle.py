"""Joints over time and bodies → clearance by pinocchio and coal, to check the twin's results.

Shares no code with the twin: other kinematics, other collision library, the same convex shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import coal
import numpy as np

from qwen2vl_robot.geometry import Array, invert, make_pose, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Cylinder, Hull, JointSegment, Rehearsed, SceneObject, Shape, Sphere
from qwen2vl_robot.motion.collision import convex

_APART_M = 0.02
_BASE_M = 0.25
_SAMPLES = 120  # of each segment
_Part = tuple[coal.CollisionGeometry, Array]


class PathOracle:
    """The convex parts of arm and load at each of many configurations.

    Attributes:
        tool_m: (m, 3) positions of the tool.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        q_rad: Array,
        width_m: float,
        held: tuple[Shape, Array] | None = None,
        rounding_m: Mapping[str, float] | None = None,
    ) -> None:
        """Place all parts at each configuration.

        Args:
            q_rad: (m, n) joints, dense enough that no body fits between two of them.
            held: shape and `T_tool_held` of the load.
            rounding_m: by how much to enlarge each link's hull; by default not at all.
        """
        self._names = list(kinematics.link_hulls)
        self._shapes = [convex(hull) for hull in kinematics.link_hulls.values()]
        balls = [_ball(hull) for hull in kinematics.link_hulls.values()]
        for index, name in enumerate(self._names if rounding_m is not None else ()):
            margin_m = 0.0 if rounding_m is None else rounding_m[name]
            self._shapes[index].setSweptSphereRadius(margin_m)
            balls[index] = (balls[index][0], balls[index][1] + margin_m)
        tool = kinematics.profile.tool_link
        frames = [*self._names]
        offsets = [np.eye(4)] * len(frames)
        for shape, T_tool_part in () if held is None else _parts_of_held(*held):
            self._shapes.append(shape)
            self._names.append("load")
            frames.append(tool)
            offsets.append(T_tool_part)
            balls.append(_ball(np.array([[0.0, 0.0, 0.0], _half_diagonal(shape)])))
            balls[-1] = (np.zeros(3), float(np.linalg.norm(_half_diagonal(shape))))
        poses = [kinematics.link_poses(q, width_m) for q in q_rad]
        self._poses = np.array([[T[f] @ o for f, o in zip(frames, offsets, strict=True)] for T in poses])
        self.tool_m = np.array([T[tool][:3, 3] for T in poses])
        centres = [self._poses[:, i, :3, :3] @ centre + self._poses[:, i, :3, 3] for i, (centre, _) in enumerate(balls)]
        self._centres_m = np.stack(centres, axis=1)
        self._radii_m = np.array([radius for _, radius in balls])

    def clearance_m(self, body: SceneObject, ignored: Iterable[str] = ()) -> float:
        """Compute the smallest distance of arm or load to a body over all configurations; negative for overlap."""
        return min(self._to_part(shape, body.T_base_object @ T, set(ignored)) for shape, T in _parts(body.shape))

    def to_box_m(self, low_m: Array, high_m: Array, ignored: Iterable[str] = ()) -> float:
        """Compute the same distance to an upright box of space."""
        low, high = np.asarray(low_m, dtype=float), np.asarray(high_m, dtype=float)
        return self._to_part(coal.Box(*(high - low)), make_pose((low + high) / 2), set(ignored))

    def places_m(self, index: int) -> Array:
        """Return the middles (k, 3) of the parts that are above the base, at one of the configurations."""
        middles_m: Array = self._centres_m[index]
        return middles_m[np.hypot(middles_m[:, 0], middles_m[:, 1]) > _BASE_M]

    def to_moving_m(self, shape: Shape, poses: Array) -> Array:
        """Compute the distance (m,) of arm or load at each configuration to a body with a pose (m, 4, 4) at each."""
        (part, T_part), *_ = _parts(shape)
        half_m, found_m = float(np.linalg.norm(_half_diagonal(part))), np.empty(len(poses))
        for index, T in enumerate(poses @ T_part):
            bounds_m = np.linalg.norm(self._centres_m[index] - T[:3, 3], axis=1) - self._radii_m - half_m
            best_m = np.inf
            for link in np.argsort(bounds_m):
                if bounds_m[link] >= best_m:
                    break
                best_m = min(best_m, _distance_m(self._shapes[link], self._poses[index, link], part, T))
            found_m[index] = best_m
        return found_m

    def self_clearance_m(self, apart_at_rest: PathOracle | None = None) -> float:
        """Compute the smallest distance between links that are not neighbours in the chain.

        Args:
            apart_at_rest: the arm at rest; links that are close to each other there by design do not count.
        """
        best_m = np.inf
        links = [i for i, name in enumerate(self._names) if name != "load"]
        for a, b in ((a, b) for a in links for b in links if b > a + 1):
            if apart_at_rest is None or apart_at_rest._between_m(a, b, np.inf) > _APART_M:
                best_m = min(best_m, self._between_m(a, b, best_m))
        return float(best_m)

    def _between_m(self, a: int, b: int, best_m: float) -> float:
        gaps_m = np.linalg.norm(self._centres_m[:, a] - self._centres_m[:, b], axis=1)
        gaps_m = gaps_m - self._radii_m[a] - self._radii_m[b]
        for index in np.argsort(gaps_m):
            if gaps_m[index] >= best_m:
                break
            poses = self._poses[index]
            best_m = min(best_m, _distance_m(self._shapes[a], poses[a], self._shapes[b], poses[b]))
        return best_m

    def _to_part(self, shape: coal.CollisionGeometry, T: Array, ignored: set[str]) -> float:
        half_m = _half_diagonal(shape)
        local = transform(invert(T), self._centres_m.reshape(-1, 3))
        outside_m = np.linalg.norm(np.maximum(np.abs(local) - half_m, 0.0), axis=1)
        bounds_m = outside_m.reshape(self._centres_m.shape[:2]) - self._radii_m
        bounds_m[:, [name in ignored for name in self._names]] = np.inf
        best_m = np.inf
        for flat in np.argsort(bounds_m, axis=None):
            index, link = np.unravel_index(flat, bounds_m.shape)
            if bounds_m[index, link] >= best_m:
                break
            best_m = min(best_m, _distance_m(self._shapes[link], self._poses[index, link], shape, T))
        return float(best_m)


def _distance_m(a: coal.CollisionGeometry, T_a: Array, b: coal.CollisionGeometry, T_b: Array) -> float:
    request, result = coal.DistanceRequest(), coal.DistanceResult()
    request.enable_signed_distance = True
    coal.distance(
        a, coal.Transform3s(T_a[:3, :3], T_a[:3, 3]), b, coal.Transform3s(T_b[:3, :3], T_b[:3, 3]), request, result
    )
    return float(result.min_distance)


def _half_diagonal(shape: coal.CollisionGeometry) -> Array:
    """Compute half of the size (3,) of a centred shape's box."""
    shape.computeLocalAABB()
    half: Array = np.abs(np.stack([shape.aabb_local.min_, shape.aabb_local.max_])).max(axis=0)
    return half


def hand_clearance_m(kinematics: Kinematics, step: Rehearsed, body: SceneObject) -> float:
    """Measure how far the open hand stays from a true shape until the fingers close."""
    width_m, q_rad = step.start.gripper_width_m, [np.array(step.start.q_rad)[None]]
    for segment in step.motion.segments:
        if isinstance(segment, JointSegment):
            q_rad.append(segment.q_rad[:: max(1, len(segment.q_rad) // _SAMPLES)])
            q_rad.append(segment.q_rad[-1:])
        elif len(q_rad) > 1 and segment.width_m < width_m:
            break
        else:
            width_m = segment.width_m
    return PathOracle(kinematics, np.concatenate(q_rad), width_m).clearance_m(body)


def _ball(points_m: Array) -> tuple[Array, float]:
    centre = (points_m.min(axis=0) + points_m.max(axis=0)) / 2
    return centre, float(np.linalg.norm(points_m - centre, axis=1).max())


def _parts(shape: Shape) -> list[_Part]:
    """List convex shapes and their poses in the object frame; every container counts as rectangular."""
    if isinstance(shape, Box):
        return [(coal.Box(*shape.size_m), np.eye(4))]
    if isinstance(shape, Cylinder):
        return [(coal.Cylinder(shape.diameter_m / 2, shape.height_m), np.eye(4))]
    if isinstance(shape, Sphere):
        return [(coal.Sphere(shape.diameter_m / 2), np.eye(4))]
    if isinstance(shape, Hull):
        return [(convex(np.array(shape.vertices_m)), np.eye(4))]
    (x, y, z), w = shape.size_m, shape.wall_m
    parts = [(coal.Box(x, y, w), make_pose([0.0, 0.0, (w - z) / 2]))]
    for side in (-1.0, 1.0):
        parts.append((coal.Box(w, y, z - w), make_pose([side * (x - w) / 2, 0.0, w / 2])))
        parts.append((coal.Box(x - 2 * w, w, z - w), make_pose([0.0, side * (y - w) / 2, w / 2])))
    return parts


def _parts_of_held(shape: Shape, T_tool_held: Array) -> list[_Part]:
    return [(part, T_tool_held @ T) for part, T in _parts(shape)]
