"""OBJ files of pybullet_data → upright triangle meshes, centred, of a given height."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from qwen2vl_robot.bounds import MESH_BYTES, shown
from qwen2vl_robot.documents import read_text
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array

_UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # the files have y up, we have z


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh object of the plant: a file of pybullet_data, scaled to a height.

    Attributes:
        is_in_parts: whether each object of the file is convex, so that together they collide as the thing itself does;
            otherwise its convex hull does.
    """

    file: str
    height_m: float
    is_in_parts: bool = False

    @property
    def size_m(self) -> Array:
        """Return the outer size (3,) along x, y, z, metres."""
        size: Array = np.ptp(triangles(self.file)[0], axis=0) * self.height_m
        return size


def path_of(file: str) -> Path:
    """Return where a file of pybullet_data is.

    Raises:
        BadInputError: there is no such package.
    """
    try:
        return Path(str(resources.files("pybullet_data") / file))
    except ModuleNotFoundError as error:
        raise BadInputError(f"mesh {shown(file)}: pybullet_data is not installed") from error


def upright(file: str) -> tuple[Array, Array, float]:
    """Rotation (3, 3) from a file's axes to ours, the middle (3,) in ours and the height there, in the file's unit."""
    points = _read(file)[0]
    low, high = points.min(axis=0), points.max(axis=0)
    return _UPRIGHT, (low + high) / 2, float(high[2] - low[2])


@functools.lru_cache(maxsize=16)
def triangles(file: str) -> tuple[Array, Array, list[int]]:
    """Read vertices (n, 3), centred and of height 1, their normals (n, 3), and three vertex indices per triangle.

    Raises:
        BadInputError: pybullet_data has no such file, or it has no triangles.
    """
    points, faces = _read(file)
    corners = np.array([[f[0], f[k], f[k + 1]] for f in faces for k in range(1, len(f) - 1)])
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high[2] - low[2])
    a, b, c = (points[corners[:, k]] for k in range(3))
    normals = np.zeros_like(points)
    for k in range(3):
        np.add.at(normals, corners[:, k], np.cross(b - a, c - a))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return points, normals, corners.ravel().tolist()


@functools.lru_cache(maxsize=16)
def _read(file: str) -> tuple[Array, list[list[int]]]:
    """Read vertices (n, 3), z up, and the vertices of each face."""
    try:
        lines = [line.split() for line in read_text(path_of(file), MESH_BYTES).splitlines()]
        points = np.array([[float(v) for v in line[1:4]] for line in lines if line[:1] == ["v"]]) @ _UPRIGHT.T
        faces = [[int(part.split("/")[0]) - 1 for part in line[1:]] for line in lines if line[:1] == ["f"]]
    except (BadInputError, ValueError) as error:
        raise BadInputError(f"mesh {shown(file)}: pybullet_data has no such OBJ file") from error
    if not faces:
        raise BadInputError(f"mesh {file}: it has no triangles")
    return points, faces
