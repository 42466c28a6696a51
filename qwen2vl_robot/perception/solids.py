"""Parametric upright solids: their outline in the image and their depth along camera rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.messages import Box, Container, Cylinder, Shape, Sphere

WALL_M = 0.006  # of a container, until something measures it
MISS_M = 9.0  # optical depth that stands for "the ray misses"
_TURN = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2.0
_FOOT_RATIO = 0.8


@dataclass(frozen=True, slots=True)
class Solid:
    """A kind of upright solid with its parameters and where its bottom is.

    Attributes:
        kind: "box", "cylinder", "sphere", "bowl" (round, hollow) or "tray" (square, hollow).
        values: box and tray x, y, yaw_rad, sx, sy, h; cylinder x, y, d, h; sphere x, y, d;
            bowl x, y, d, h, foot-to-rim ratio. Metres.
        bottom_m: height of the lowest point.
    """

    kind: str
    values: tuple[float, ...]
    bottom_m: float

    @property
    def steps(self) -> tuple[float, ...]:
        """First step of a search along each parameter."""
        return _STEPS[self.kind]

    @property
    def height_m(self) -> float:
        v = self.values
        return v[2] if self.kind == "sphere" else v[5] if self.kind in ("box", "tray") else v[3]

    @property
    def centre_m(self) -> Array:
        return np.array([self.values[0], self.values[1], self.bottom_m + self.height_m / 2])

    @property
    def is_sound(self) -> bool:
        """Whether every size is one that a thing on a table can have."""
        sizes = {"box": self.values[3:], "tray": self.values[3:], "bowl": self.values[2:4]}.get(
            self.kind, self.values[2:]
        )
        if self.kind == "bowl" and not 0.4 <= self.values[4] <= 1.05:
            return False
        return min(sizes) > 0.004 and max(sizes) < 0.6

    def outline_m(self, p_camera_m: Array) -> Array:
        """Points (n, 3) whose image's convex hull is the solid's silhouette seen from the camera's centre."""
        v, low, high = self.values, self.bottom_m, self.bottom_m + self.height_m
        if self.kind == "sphere":
            return _sphere_outline(self.centre_m, v[2] / 2, p_camera_m)
        if self.kind in ("box", "tray"):
            xy = (_CORNERS * v[3:5]) @ rotation_z(v[2])[:2, :2].T + v[:2]
            return np.vstack([_at(xy, low), _at(xy, high)])
        foot = v[4] if self.kind == "bowl" else 1.0
        rim = _CIRCLE * (v[2] / 2)
        return np.vstack([_at(rim * foot + v[:2], low), _at(rim + v[:2], high)])

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        """Optical depth (n,) at which rays (n, 3) first meet the solid, MISS_M where they miss."""
        v, low, high = self.values, self.bottom_m, self.bottom_m + self.height_m
        if self.kind == "sphere":
            return _meet_sphere(origin_m - self.centre_m, rays, v[2] / 2)
        o = origin_m - [v[0], v[1], 0.0]
        if self.kind == "box":
            R = rotation_z(v[2])
            return _meet_box(o @ R, rays @ R, np.array([v[3] / 2, v[4] / 2]), low, high)
        if self.kind == "cylinder":
            return _meet_cylinder(o, rays, v[2] / 2, low, high)
        if self.kind == "tray":
            R = rotation_z(v[2])
            return _meet_tray(o @ R, rays @ R, np.array([v[3] / 2, v[4] / 2]), low, high)
        return _meet_bowl(o, rays, v[2] / 2, v[2] / 2 * v[4], low, high)

    def message(self) -> tuple[Shape, Array]:
        """The shape of the messages and `T_base_object`; a bowl becomes the upright ring around it."""
        v, p = self.values, self.centre_m
        if self.kind == "sphere":
            return Sphere(v[2]), make_pose(p)
        if self.kind == "cylinder":
            return Cylinder(v[2], v[3]), make_pose(p)
        if self.kind == "bowl":
            return Container((v[2], v[2], v[3]), WALL_M, is_round=True), make_pose(p)
        T = make_pose(p, rotation_z(_fold(v[2])))
        return (Box(v[3:6]) if self.kind == "box" else Container(v[3:6], WALL_M)), T  # type: ignore[arg-type]


_STEPS: dict[str, tuple[float, ...]] = {
    "box": (0.002, 0.002, 0.06, 0.003, 0.003, 0.002),
    "tray": (0.002, 0.002, 0.06, 0.003, 0.003, 0.002),
    "cylinder": (0.002, 0.002, 0.003, 0.002),
    "sphere": (0.002, 0.002, 0.002),
    "bowl": (0.002, 0.002, 0.003, 0.002, 0.04),
}


def _fold(yaw_rad: float) -> float:
    """The same rectangle's yaw in [-pi/2, pi/2)."""
    return float((yaw_rad + np.pi / 2) % np.pi - np.pi / 2)


def _at(xy_m: Array, z_m: float) -> Array:
    return np.column_stack([xy_m, np.full(len(xy_m), z_m)])


def _sphere_outline(p_m: Array, r_m: float, p_camera_m: Array) -> Array:
    """The circle where rays from the camera touch the sphere."""
    axis = p_camera_m - p_m
    distance = float(np.linalg.norm(axis))
    axis = axis / distance
    across = float(np.hypot(axis[0], axis[1])) + 1e-9
    side = np.array([axis[1] / across, -axis[0] / across, 0.0])
    up = np.array([side[1] * axis[2], -side[0] * axis[2], side[0] * axis[1] - side[1] * axis[0]])
    ratio = min(r_m / distance, 0.99)
    circle = r_m * np.sqrt(1 - ratio**2) * _CIRCLE
    outline: Array = p_m + r_m * ratio * axis + circle[:, :1] * side + circle[:, 1:] * up
    return outline


def _meet_sphere(o: Array, rays: Array, r_m: float) -> Array:
    a = (rays * rays).sum(axis=1)
    b = rays @ o
    inner = b * b - a * (o @ o - r_m * r_m)
    return np.where(inner > 0, (-b - np.sqrt(np.maximum(inner, 0.0))) / a, MISS_M)


def _slab(o: float, ray: Array, low: float, high: float) -> tuple[Array, Array]:
    step = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
    t0, t1 = (low - o) / step, (high - o) / step
    return np.minimum(t0, t1), np.maximum(t0, t1)


def _meet_box(o: Array, rays: Array, half_m: Array, low: float, high: float) -> Array:
    x0, x1 = _slab(o[0], rays[:, 0], -half_m[0], half_m[0])
    y0, y1 = _slab(o[1], rays[:, 1], -half_m[1], half_m[1])
    z0, z1 = _slab(o[2], rays[:, 2], low, high)
    enter, leave = np.maximum(np.maximum(x0, y0), z0), np.minimum(np.minimum(x1, y1), z1)
    return np.where(enter < leave, enter, MISS_M)


def _round_slab(o: Array, rays: Array, r_m: float) -> tuple[Array, Array]:
    a = (rays[:, :2] ** 2).sum(axis=1)
    b = rays[:, :2] @ o[:2]
    inner = b * b - a * (o[:2] @ o[:2] - r_m * r_m)
    root = np.sqrt(np.maximum(inner, 0.0))
    hit = inner > 0
    return np.where(hit, (-b - root) / a, MISS_M), np.where(hit, (-b + root) / a, -MISS_M)


def _meet_cylinder(o: Array, rays: Array, r_m: float, low: float, high: float) -> Array:
    t0, t1 = _round_slab(o, rays, r_m)
    z0, z1 = _slab(o[2], rays[:, 2], low, high)
    enter, leave = np.maximum(t0, z0), np.minimum(t1, z1)
    return np.where(enter < leave, enter, MISS_M)


def _hollow(enter_m: Array, through: Array, inside_m: Array) -> Array:
    """Depth of a solid with a hollow: rays that enter `through` the opening end at the inside surface."""
    return np.where(through, inside_m, enter_m)


def _meet_tray(o: Array, rays: Array, half_m: Array, low: float, high: float) -> Array:
    enter = _meet_box(o, rays, half_m, low, high)
    rim = o + ((high - o[2]) / rays[:, 2])[:, None] * rays
    inner = half_m - WALL_M
    through = (np.abs(rim[:, :2]) < inner).all(axis=1)
    _, x1 = _slab(o[0], rays[:, 0], -inner[0], inner[0])
    _, y1 = _slab(o[1], rays[:, 1], -inner[1], inner[1])
    floor = (low + WALL_M - o[2]) / rays[:, 2]
    return _hollow(enter, through, np.minimum(np.minimum(x1, y1), floor))


def _meet_bowl(o: Array, rays: Array, rim_m: float, foot_m: float, low: float, high: float) -> Array:
    down = np.where(np.abs(rays[:, 2]) < 1e-9, -1e-9, rays[:, 2])
    top = (high - o[2]) / down
    across = o[:2] + top[:, None] * rays[:, :2]
    radius = np.hypot(across[:, 0], across[:, 1])
    outside, _ = _cone(o, rays, rim_m, foot_m, low, high)
    enter = np.where(radius < rim_m, top, outside)
    _, wall = _cone(o, rays, rim_m - WALL_M, foot_m - WALL_M, low, high)
    floor = (low + WALL_M - o[2]) / down
    return _hollow(enter, radius < rim_m - WALL_M, np.minimum(wall, floor))


def _cone(o: Array, rays: Array, top_m: float, foot_m: float, low: float, high: float) -> tuple[Array, Array]:
    """First and last crossing of the conical wall between two heights; MISS_M where there is none."""
    slope = (top_m - foot_m) / (high - low)
    r0 = foot_m + slope * (o[2] - low)  # radius of the cone at the camera's height
    a = (rays[:, :2] ** 2).sum(axis=1) - (slope * rays[:, 2]) ** 2
    b = rays[:, :2] @ o[:2] - slope * rays[:, 2] * r0
    c = o[:2] @ o[:2] - r0 * r0
    inner = b * b - a * c
    root = np.sqrt(np.maximum(inner, 0.0))
    a = np.where(np.abs(a) < 1e-9, 1e-9, a)
    first, last = (-b - root) / a, (-b + root) / a
    first, last = np.minimum(first, last), np.maximum(first, last)

    def on_wall(t: Array) -> Array:
        z = o[2] + t * rays[:, 2]
        return np.where((inner > 0) & (z >= low - 1e-6) & (z <= high + 1e-6) & (t > 0), t, MISS_M)

    return on_wall(first), on_wall(last)


def foot_ratio() -> float:
    """Foot-to-rim ratio from which the search of a bowl starts."""
    return _FOOT_RATIO
