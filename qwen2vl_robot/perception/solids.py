"""Parametric upright solids → their outline in the image, depth along rays, and shape message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import numpy as np

from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.messages import Box, Container, Cylinder, Shape, Sphere, shape_size_m
from qwen2vl_robot.perception.rays import meet_bowl, meet_box, meet_cylinder, meet_sphere, meet_tray

Kind = Literal["box", "cylinder", "plate", "sphere", "container"]
Size = tuple[float, float, float]
Steps = Mapping[str, float]
S = TypeVar("S", bound="Solid")
R = TypeVar("R", bound="_Rectangular")
Q = TypeVar("Q", bound="_Round")

WALL_M = 0.006  # of a container; not measured
FOOT_RATIO = 0.8  # of a bowl's foot to its rim, to start a search
FLAT_RATIO = 0.35  # a cylinder lower than this share of its diameter is a plate
_SMALLEST_M, _LARGEST_M = 0.004, 0.6  # of what can stand on a table
_TURN = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])
_SIDES = {  # of a rectangle: the size that ends there, its axis, and which end
    "front": ("length_m", 0, 1.0),
    "back": ("length_m", 0, -1.0),
    "left": ("width_m", 1, 1.0),
    "right": ("width_m", 1, -1.0),
}
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2.0


@dataclass(frozen=True, slots=True)
class Solid(ABC):
    """An upright solid at its place; a subclass adds its sizes.

    Attributes:
        steps: the parameters, or the sides, that a search moves, in this order, and the first step of each.
        pose: the parameters that a search varies when the shape is known.
        bottom_m: height of the lowest point; no search varies it.
        x_m, y_m: of the centre, base frame.
    """

    steps: ClassVar[Steps]
    pose: ClassVar[tuple[str, ...]] = ("x_m", "y_m")
    is_hollow: ClassVar[bool] = False

    bottom_m: float
    x_m: float
    y_m: float

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The kind that nouns are compared with."""

    @property
    @abstractmethod
    def size_m(self) -> Size:
        """Extents along its own x and y, and its height."""

    @abstractmethod
    def outline_m(self, p_camera_m: Array) -> Array:
        """Compute points (n, 3) whose convex hull in the image is the silhouette seen from the camera's centre."""

    @abstractmethod
    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        """Compute the optical depth (n,) at which rays (n, 3) first meet the solid, `rays.MISS_M` where they miss."""

    @abstractmethod
    def message(self) -> tuple[Shape, Array]:
        """Return the shape message and `T_base_object`; a bowl becomes the upright ring around it."""

    @abstractmethod
    def covers(self, xy_m: Array) -> bool:
        """Check whether a point (2,) lies inside the solid's outline from above."""

    @abstractmethod
    def grown(self: S, by_m: float) -> S:
        """Return the same solid with a larger outline."""

    @property
    def top_m(self) -> float:
        return self.bottom_m + self.size_m[2]

    @property
    def centre_m(self) -> Array:
        return np.array([self.x_m, self.y_m, self.bottom_m + self.size_m[2] / 2])

    @property
    def support_m(self) -> float:
        """Height on which something rests on it or in it."""
        return self.bottom_m + WALL_M if self.is_hollow else self.top_m

    @property
    def is_sound(self) -> bool:
        """Whether every size is plausible for an object on a table."""
        return _fits_a_table(self.size_m)

    def moved(self: S, parameter: str, by: float) -> S:
        """Return the same solid with one parameter changed by a step."""
        return replace(self, **{parameter: getattr(self, parameter) + by})

    def stood_like(self: S, other: Solid, bottom_m: float) -> tuple[S, ...]:
        """Put this shape into the pose of another solid of its class; one result for each turn that may fit."""
        return (replace(self, bottom_m=bottom_m, **{name: getattr(other, name) for name in self.pose}),)


@dataclass(frozen=True, slots=True)
class _Rectangular(Solid):
    steps: ClassVar[Steps] = {
        "x_m": 0.002,
        "y_m": 0.002,
        "yaw_rad": 0.06,
        **dict.fromkeys(_SIDES, 0.003),
        "height_m": 0.002,
    }
    pose: ClassVar[tuple[str, ...]] = ("x_m", "y_m", "yaw_rad")

    yaw_rad: float
    length_m: float
    width_m: float
    height_m: float

    @property
    def size_m(self) -> Size:
        return (self.length_m, self.width_m, self.height_m)

    def outline_m(self, p_camera_m: Array) -> Array:
        xy = (_CORNERS * self.size_m[:2]) @ rotation_z(self.yaw_rad)[:2, :2].T + (self.x_m, self.y_m)
        return np.vstack([_at(xy, self.bottom_m), _at(xy, self.top_m)])

    def covers(self, xy_m: Array) -> bool:
        own = rotation_z(self.yaw_rad)[:2, :2].T @ (np.asarray(xy_m) - np.array([self.x_m, self.y_m]))
        return bool((np.abs(own) < self._half_m).all())

    def grown(self: R, by_m: float) -> R:
        return replace(self, length_m=self.length_m + by_m, width_m=self.width_m + by_m)

    def moved(self: R, parameter: str, by: float) -> R:
        """As for every solid; a side moves outwards by itself: what is seen holds, and what is hidden gives way."""
        if parameter not in _SIDES:
            return Solid.moved(self, parameter, by)
        size, axis, sign = _SIDES[parameter]
        x_m, y_m, _ = (float(d) for d in rotation_z(self.yaw_rad)[:, axis] * (sign * by / 2))
        return replace(self, x_m=self.x_m + x_m, y_m=self.y_m + y_m, **{size: getattr(self, size) + by})

    def stood_like(self: R, other: Solid, bottom_m: float) -> tuple[R, ...]:
        (same,) = Solid.stood_like(self, other, bottom_m)
        return tuple(same.moved("yaw_rad", turn_rad) for turn_rad in (0.0, np.pi / 2))

    @property
    def _half_m(self) -> Array:
        return np.array([self.length_m / 2, self.width_m / 2])

    def _seen_from(self, origin_m: Array, rays: Array) -> tuple[Array, Array]:
        """Transform the origin and the directions of rays into the solid's axes; heights stay as they are."""
        turn = rotation_z(self.yaw_rad)
        return (origin_m - [self.x_m, self.y_m, 0.0]) @ turn, rays @ turn

    def _pose(self) -> Array:
        return make_pose(self.centre_m, rotation_z(_fold(self.yaw_rad)))


@dataclass(frozen=True, slots=True)
class BoxSolid(_Rectangular):
    """A block or a brick."""

    @property
    def kind(self) -> Kind:
        return "box"

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        o, rays = self._seen_from(origin_m, rays)
        return meet_box(o, rays, self._half_m, self.bottom_m, self.top_m)

    def message(self) -> tuple[Shape, Array]:
        return Box(self.size_m), self._pose()


@dataclass(frozen=True, slots=True)
class TraySolid(_Rectangular):
    """A rectangular container."""

    is_hollow: ClassVar[bool] = True

    @property
    def kind(self) -> Kind:
        return "container"

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        o, rays = self._seen_from(origin_m, rays)
        return meet_tray(o, rays, self._half_m, self.bottom_m, self.top_m, WALL_M)

    def message(self) -> tuple[Shape, Array]:
        return Container(self.size_m, WALL_M), self._pose()


@dataclass(frozen=True, slots=True)
class _Round(Solid):
    """A solid of revolution; subclasses add the height."""

    diameter_m: float

    def covers(self, xy_m: Array) -> bool:
        offset_m = np.asarray(xy_m) - np.array([self.x_m, self.y_m])
        return float(np.linalg.norm(offset_m)) < self.diameter_m / 2

    def grown(self: Q, by_m: float) -> Q:
        return replace(self, diameter_m=self.diameter_m + by_m)

    def _outline_m(self, foot_ratio: float) -> Array:
        """Compute the points of the foot and of the rim above it."""
        rim, middle = _CIRCLE * (self.diameter_m / 2), (self.x_m, self.y_m)
        return np.vstack([_at(rim * foot_ratio + middle, self.bottom_m), _at(rim + middle, self.top_m)])


@dataclass(frozen=True, slots=True)
class SphereSolid(_Round):
    """A ball."""

    steps: ClassVar[Steps] = {"x_m": 0.002, "y_m": 0.002, "diameter_m": 0.002}

    @property
    def kind(self) -> Kind:
        return "sphere"

    @property
    def size_m(self) -> Size:
        return (self.diameter_m, self.diameter_m, self.diameter_m)

    def outline_m(self, p_camera_m: Array) -> Array:
        return _sphere_outline(self.centre_m, self.diameter_m / 2, p_camera_m)

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        return meet_sphere(origin_m - self.centre_m, rays, self.diameter_m / 2)

    def message(self) -> tuple[Shape, Array]:
        return Sphere(self.diameter_m), make_pose(self.centre_m)


@dataclass(frozen=True, slots=True)
class CylinderSolid(_Round):
    """A can or a plate."""

    steps: ClassVar[Steps] = {"x_m": 0.002, "y_m": 0.002, "diameter_m": 0.003, "height_m": 0.002}

    height_m: float

    @property
    def kind(self) -> Kind:
        return "plate" if self.height_m < FLAT_RATIO * self.diameter_m else "cylinder"

    @property
    def size_m(self) -> Size:
        return (self.diameter_m, self.diameter_m, self.height_m)

    def outline_m(self, p_camera_m: Array) -> Array:
        return self._outline_m(1.0)

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        o = origin_m - [self.x_m, self.y_m, 0.0]
        return meet_cylinder(o, rays, self.diameter_m / 2, self.bottom_m, self.top_m)

    def message(self) -> tuple[Shape, Array]:
        return Cylinder(self.diameter_m, self.height_m), make_pose(self.centre_m)


@dataclass(frozen=True, slots=True)
class BowlSolid(_Round):
    """A round container whose foot is narrower than its rim."""

    steps: ClassVar[Steps] = {"x_m": 0.002, "y_m": 0.002, "diameter_m": 0.003, "height_m": 0.002, "foot_ratio": 0.04}
    pose: ClassVar[tuple[str, ...]] = ("x_m", "y_m", "foot_ratio")  # the message has no foot size
    is_hollow: ClassVar[bool] = True

    height_m: float
    foot_ratio: float

    @property
    def kind(self) -> Kind:
        return "container"

    @property
    def size_m(self) -> Size:
        return (self.diameter_m, self.diameter_m, self.height_m)

    @property
    def is_sound(self) -> bool:
        return 0.4 <= self.foot_ratio <= 1.05 and _fits_a_table(self.size_m)

    def outline_m(self, p_camera_m: Array) -> Array:
        return self._outline_m(self.foot_ratio)

    def depth_m(self, origin_m: Array, rays: Array) -> Array:
        o, rim_m = origin_m - [self.x_m, self.y_m, 0.0], self.diameter_m / 2
        return meet_bowl(o, rays, (rim_m, rim_m * self.foot_ratio), self.bottom_m, self.top_m, WALL_M)

    def message(self) -> tuple[Shape, Array]:
        return Container(self.size_m, WALL_M, is_round=True), make_pose(self.centre_m)


def solid_of(shape: Shape, T_base_object: Array) -> Solid:
    """Create the solid that a search for an object of the messages starts from."""
    x, y, z = (float(p) for p in T_base_object[:3, 3])
    length_m, width_m, height_m = shape_size_m(shape)
    bottom_m = z - height_m / 2
    yaw_rad = float(np.arctan2(T_base_object[1, 0], T_base_object[0, 0]))
    if isinstance(shape, Sphere):
        return SphereSolid(bottom_m, x, y, length_m)
    if isinstance(shape, Cylinder):
        return CylinderSolid(bottom_m, x, y, length_m, height_m)
    if isinstance(shape, Container) and shape.is_round:
        return BowlSolid(bottom_m, x, y, length_m, height_m, FOOT_RATIO)
    rectangular = TraySolid if isinstance(shape, Container) else BoxSolid
    return rectangular(bottom_m, x, y, yaw_rad, length_m, width_m, height_m)


def _fits_a_table(size_m: Size) -> bool:
    return min(size_m) > _SMALLEST_M and max(size_m) < _LARGEST_M


def _fold(yaw_rad: float) -> float:
    """Fold a rectangle's yaw into [-pi/2, pi/2)."""
    return float((yaw_rad + np.pi / 2) % np.pi - np.pi / 2)


def _at(xy_m: Array, z_m: float) -> Array:
    return np.column_stack([xy_m, np.full(len(xy_m), z_m)])


def _sphere_outline(p_m: Array, r_m: float, p_camera_m: Array) -> Array:
    """Compute the circle where rays from the camera touch the sphere."""
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
