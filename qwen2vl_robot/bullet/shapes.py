"""A shape of the scene → Bullet's collision and visual shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.bullet.client import pybullet
from qwen2vl_robot.geometry import Array, make_pose, quat_from_rotation
from qwen2vl_robot.meshes import Mesh, path_of, triangles, upright
from qwen2vl_robot.messages import Box, Container, Cylinder, Hull, Shape, Sphere, shape_size_m

_BOWL_PANELS = 14  # plus two for the floor makes 16, Bullet's limit for a compound; it silently drops the rest
_BOWL_BASE_RATIO = 0.8  # foot to rim diameter of the round container
_SPECULAR = (0.1, 0.1, 0.1)

Colour = list[float]  # red, green, blue and opacity, ratios


@dataclass(frozen=True, slots=True)
class Bowl:
    """A round container as the plant builds it; perception and twin know only `messages.Container`."""

    diameter_m: float
    height_m: float
    wall_m: float


def make_shape(client: int, shape: Shape | Bowl | Mesh, colour: Colour | None, collides: bool) -> tuple[int, int]:
    """Create the collision and the visual shape; -1 for the one that is not wanted.

    Args:
        client: Bullet's id of the connection.

    Raises:
        ValueError: a size is not finite and above 0.
        TypeError: the type of the shape is unknown.
    """
    if isinstance(shape, Container | Bowl):
        return _make_hollow(client, shape, colour, collides)
    if isinstance(shape, Mesh):
        return _make_mesh(client, shape, colour, collides)
    if isinstance(shape, Hull):
        return _make_hull(client, shape, collides)
    return _make_solid(client, shape, colour, collides)


def _make_solid(client: int, shape: Box | Cylinder | Sphere, colour: Colour | None, collides: bool) -> tuple[int, int]:
    kind: int
    arguments: dict[str, object]
    if isinstance(shape, Box):
        kind, arguments = pybullet.GEOM_BOX, {"halfExtents": [s / 2 for s in shape.size_m]}
        _check_sizes(*shape.size_m)
    elif isinstance(shape, Cylinder):
        kind, arguments = pybullet.GEOM_CYLINDER, {"radius": shape.diameter_m / 2, "height": shape.height_m}
        _check_sizes(shape.diameter_m, shape.height_m)
    elif isinstance(shape, Sphere):
        kind, arguments = pybullet.GEOM_SPHERE, {"radius": shape.diameter_m / 2}
        _check_sizes(shape.diameter_m)
    else:
        raise TypeError(f"unknown shape {type(shape).__name__}")
    collision = pybullet.createCollisionShape(kind, **arguments, physicsClientId=client) if collides else -1
    if colour is None:
        return collision, -1
    if isinstance(shape, Cylinder):  # Bullet shades its own flat cylinders like cones
        r, z = shape.diameter_m / 2, shape.height_m / 2
        return collision, _show(client, *_revolve([(0.0, -z), (r, -z), (r, z), (0.0, z)]), colour)
    visual = pybullet.createVisualShape(
        kind, **arguments, rgbaColor=colour, specularColor=_SPECULAR, physicsClientId=client
    )
    return collision, visual


def _make_hollow(client: int, shape: Container | Bowl, colour: Colour | None, collides: bool) -> tuple[int, int]:
    """Build a compound of a floor and walls; the origin is the centre of the outer size."""
    panels = _panels_of(shape)
    half = [(size / 2).tolist() for size, _ in panels]
    positions = [T[:3, 3].tolist() for _, T in panels]
    orientations = [quat_from_rotation(T[:3, :3]).tolist() for _, T in panels]
    collision = _collide_as(client, half, positions, orientations) if collides else -1
    if colour is None:
        return collision, -1
    if isinstance(shape, Bowl):
        return collision, _show(client, *_revolve(_bowl_profile(shape)), colour)
    visual = pybullet.createVisualShapeArray(
        shapeTypes=[pybullet.GEOM_BOX] * len(panels),
        halfExtents=half,
        visualFramePositions=positions,
        visualFrameOrientations=orientations,
        rgbaColors=[colour] * len(panels),
        physicsClientId=client,
    )
    return collision, visual


def _make_mesh(client: int, shape: Mesh, colour: Colour | None, collides: bool) -> tuple[int, int]:
    """Show a mesh as it is; for collisions use its convex hull, or its convex parts."""
    _check_sizes(shape.height_m)
    points, normals, indices = triangles(shape.file)
    vertices = (points * shape.height_m).tolist()
    collision = -1
    if collides and shape.is_in_parts:
        rotation, middle, height = upright(shape.file)
        scale = shape.height_m / height
        collision = pybullet.createCollisionShape(  # Bullet makes one convex part of each object of a file
            pybullet.GEOM_MESH,
            fileName=str(path_of(shape.file)),
            meshScale=[scale] * 3,
            collisionFramePosition=(-scale * middle).tolist(),
            collisionFrameOrientation=quat_from_rotation(rotation).tolist(),
            physicsClientId=client,
        )
    elif collides:
        collision = pybullet.createCollisionShape(pybullet.GEOM_MESH, vertices=vertices, physicsClientId=client)
    return collision, -1 if colour is None else _show(client, vertices, normals.tolist(), indices, colour)


def _make_hull(client: int, shape: Hull, collides: bool) -> tuple[int, int]:
    """Bullet takes vertices without triangles as the convex hull around them; the plant, which draws, has no hulls."""
    _check_sizes(*shape_size_m(shape))
    if not collides:
        return -1, -1
    if shape.boxes_m:
        half = [(np.subtract(high, low) / 2).tolist() for low, high in shape.boxes_m]
        middles = [(np.add(low, high) / 2).tolist() for low, high in shape.boxes_m]
        return _collide_as(client, half, middles, [[0.0, 0.0, 0.0, 1.0]] * len(half)), -1
    vertices = [list(corner) for corner in shape.vertices_m]
    return pybullet.createCollisionShape(pybullet.GEOM_MESH, vertices=vertices, physicsClientId=client), -1


def _collide_as(
    client: int, half: list[list[float]], positions: list[list[float]], orientations: list[list[float]]
) -> int:
    """Create a collision shape of boxes: half their sizes, middles, quaternions."""
    collision: int = pybullet.createCollisionShapeArray(
        shapeTypes=[pybullet.GEOM_BOX] * len(half),
        halfExtents=half,
        collisionFramePositions=positions,
        collisionFrameOrientations=orientations,
        physicsClientId=client,
    )
    return collision


def _show(
    client: int, vertices: list[list[float]], normals: list[list[float]], indices: list[int], colour: Colour
) -> int:
    """Create a visual shape of triangles."""
    visual: int = pybullet.createVisualShape(
        pybullet.GEOM_MESH,
        vertices=vertices,
        normals=normals,
        indices=indices,
        rgbaColor=colour,
        specularColor=_SPECULAR,
        physicsClientId=client,
    )
    return visual


def _check_sizes(*sizes_m: float) -> None:
    if not all(np.isfinite(s) and s > 0 for s in sizes_m):
        raise ValueError(f"sizes {sizes_m} m must be finite and above 0")


# --------------------------------------------------------------------------------------------- hollows


def _panels_of(shape: Container | Bowl) -> list[tuple[Array, Array]]:
    """List (size (3,), pose in the object frame) of floor and walls."""
    if isinstance(shape, Bowl):
        return _ring_panels(shape.diameter_m / 2, shape.diameter_m / 2 * _BOWL_BASE_RATIO, shape.height_m, shape.wall_m)
    if shape.is_round:
        return _ring_panels(shape.size_m[0] / 2, shape.size_m[0] / 2, shape.size_m[2], shape.wall_m)
    return _tray_panels(shape)


def _tray_panels(shape: Container) -> list[tuple[Array, Array]]:
    x, y, z = shape.size_m
    w = shape.wall_m
    _check_sizes(x - 2 * w, y - 2 * w, z - w, w)
    return [
        (np.array([x, y, w]), make_pose([0, 0, (w - z) / 2])),
        (np.array([w, y, z - w]), make_pose([(x - w) / 2, 0, w / 2])),
        (np.array([w, y, z - w]), make_pose([(w - x) / 2, 0, w / 2])),
        (np.array([x - 2 * w, w, z - w]), make_pose([0, (y - w) / 2, w / 2])),
        (np.array([x - 2 * w, w, z - w]), make_pose([0, (w - y) / 2, w / 2])),
    ]


def _ring_panels(rim_m: float, foot_m: float, height_m: float, wall_m: float) -> list[tuple[Array, Array]]:
    """Build an octagon-like floor and a ring of wall panels that lean from the foot's radius to the rim's."""
    _check_sizes(foot_m - wall_m, height_m - wall_m, wall_m)
    tilt = np.arctan2(rim_m - foot_m, height_m)
    middle_m = (rim_m + foot_m) / 2 - wall_m / 2
    panels = []
    for index in range(_BOWL_PANELS):
        angle = 2 * np.pi * index / _BOWL_PANELS
        R = _rotation_zy(angle, tilt)
        p = [middle_m * np.cos(angle), middle_m * np.sin(angle), 0.0]
        width_m = 2 * rim_m * np.tan(np.pi / _BOWL_PANELS)
        panels.append((np.array([wall_m, width_m, height_m / np.cos(tilt)]), make_pose(p, R)))
    side_m = foot_m * np.sqrt(2.0)
    for angle in (0.0, np.pi / 4):  # two crossed squares make the floor
        size = np.array([side_m, side_m, wall_m])
        panels.append((size, make_pose([0, 0, (wall_m - height_m) / 2], _rotation_zy(angle, 0.0))))
    return panels


def _rotation_zy(yaw_rad: float, pitch_rad: float) -> Array:
    cz, sz, cy, sy = np.cos(yaw_rad), np.sin(yaw_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    R: Array = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1.0]]) @ np.array([[cy, 0, sy], [0, 1.0, 0], [-sy, 0, cy]])
    return R


def _bowl_profile(shape: Bowl) -> list[tuple[float, float]]:
    rim, h, w = shape.diameter_m / 2, shape.height_m, shape.wall_m
    foot = rim * _BOWL_BASE_RATIO
    return [(0.0, -h / 2), (foot, -h / 2), (rim, h / 2), (rim - w, h / 2), (foot - w, w - h / 2), (0.0, w - h / 2)]


def _revolve(profile: list[tuple[float, float]]) -> tuple[list[list[float]], list[list[float]], list[int]]:
    """Revolve a profile of (radius, height) points: vertices, normals and triangle indices."""
    count = 32
    vertices: list[list[float]] = []
    normals: list[list[float]] = []
    indices: list[int] = []
    for (r0, z0), (r1, z1) in zip(profile[:-1], profile[1:], strict=True):
        length = float(np.hypot(r1 - r0, z1 - z0))
        out_r, out_z = (z1 - z0) / length, -(r1 - r0) / length
        start = len(vertices)
        for i in range(count + 1):
            c, s = float(np.cos(2 * np.pi * i / count)), float(np.sin(2 * np.pi * i / count))
            vertices += [[r0 * c, r0 * s, z0], [r1 * c, r1 * s, z1]]
            normals += [[out_r * c, out_r * s, out_z]] * 2
        for i in range(count):
            a, b, c_, d = (start + 2 * i + k for k in range(4))
            indices += [a, c_, b, b, c_, d]
    return vertices, normals, indices
