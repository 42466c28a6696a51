"""A robot → points on the outside of its links, each with its normal: what a depth camera may see of the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import Array, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import RobotState
from qwen2vl_robot.perception.stored_surfaces import Points, recall
from qwen2vl_robot.perception.view import Mask

OUTLINE_M = 0.01  # between the points of an outline
_VOXEL_M = 0.004  # one point in each
_PER_M2 = 8e4  # points that are drawn before, about one a voxel's face
_MOST = 200_000  # points that are drawn on one link: meshes of screws and gears inside are large
_DIRECTIONS = 26
_CELL_M = 0.006
_FACING = 0.3  # cosine to the normal from which a surface is seen at all
_DEEP_M = 0.006  # behind what is in front; deeper is inside


@dataclass(frozen=True, slots=True, eq=False)
class Surfaces:
    """Points (n, 3) and unit normals outwards (n, 3) of each link, link frame."""

    links: Points

    def at(self, kinematics: Kinematics, state: RobotState) -> tuple[Array, Array]:
        """Place the points (n, 3) and normals (n, 3) in the base frame."""
        poses = kinematics.link_poses(state.q_rad, state.gripper_width_m)
        points = [transform(poses[link], points_m) for link, (points_m, _) in self.links.items()]
        normals = [own @ poses[link][:3, :3].T for link, (_, own) in self.links.items()]
        return np.vstack(points), np.vstack(normals)


_known: dict[str, Surfaces] = {}
_outlines: dict[str, dict[str, Array]] = {}


def surfaces_of(kinematics: Kinematics) -> Surfaces:
    """Sample the links' visual meshes; takes a second or two, once for each robot on a machine."""
    digest = kinematics.profile.digest
    if digest not in _known:
        _known[digest] = Surfaces(recall(kinematics.profile.urdf_path, lambda: _sample_links(kinematics)))
    return _known[digest]


def outlines_of(kinematics: Kinematics) -> dict[str, Array]:
    """Thin the surfaces to one point in each centimetre: link → points (n, 3), link frame."""
    digest = kinematics.profile.digest
    if digest not in _outlines:
        thin = {}
        for link, (points_m, _) in surfaces_of(kinematics).links.items():
            _, first = np.unique(np.floor(points_m / OUTLINE_M).astype(int), axis=0, return_index=True)
            thin[link] = points_m[first]
        _outlines[digest] = thin
    return _outlines[digest]


def _sample_links(kinematics: Kinematics) -> Points:
    rng = np.random.default_rng(0)
    return {link: _outside(*_sample(t, rng)) for link, t in kinematics.link_triangles().items()}


def _sample(triangles_m: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw points on triangles (t, 3, 3) and keep one in each voxel and octant of the normal."""
    a, b, c = triangles_m.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    twice_m2 = np.linalg.norm(normals, axis=1)
    normals = normals / np.maximum(twice_m2, 1e-15)[:, None]
    count = int(np.clip(_PER_M2 * twice_m2.sum() / 2, 100, _MOST))
    index = rng.choice(len(triangles_m), count, p=twice_m2 / twice_m2.sum())
    root, along = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    points_m = (1 - root) * a[index] + root * (1 - along) * b[index] + root * along * c[index]
    voxels = np.column_stack([np.floor(points_m / _VOXEL_M), normals[index] > 0]).astype(np.int64)
    voxels -= voxels.min(axis=0)
    _, first = np.unique(np.ravel_multi_index(tuple(voxels.T), tuple(voxels.max(axis=0) + 1)), return_index=True)
    return points_m[first], normals[index][first]


def _outside(points_m: Array, normals: Array) -> tuple[Array, Array]:
    """Keep the points that can be seen from some direction, their normals to that side: meshes may be inside out."""
    outwards = normals.copy()
    seen: Mask = np.zeros(len(points_m), bool)
    i = np.arange(_DIRECTIONS) + 0.5
    z, angle = 1 - 2 * i / _DIRECTIONS, np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - z * z)
    for direction in np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z]):
        across = np.linalg.svd(direction[None])[2][1:]
        cells = np.floor(points_m @ across.T / _CELL_M).astype(np.int64)
        cells -= cells.min(axis=0)
        cell = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
        near_m = np.full(cell.max() + 1, -np.inf)
        height_m = points_m @ direction
        np.maximum.at(near_m, cell, height_m)
        facing = normals @ direction
        fresh = ~seen & (height_m > near_m[cell] - _DEEP_M) & (np.abs(facing) > _FACING)
        outwards[fresh] *= np.sign(facing[fresh])[:, None]
        seen |= fresh
    return points_m[seen], outwards[seen]
