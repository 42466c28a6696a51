"""The mesh file of a link → its triangles.

coal's reader, which pinocchio uses, has the right corners, but joins wrong ones where one object of a file has several
materials: the Panda's forearm had 38 times its surface. trimesh reads OBJ, STL and Collada; the two have to agree on
where the corners are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array

_SAME_M = 0.001


def read_triangles(file: Path, scale: Array, corners_m: Array) -> Array:
    """Read the triangles (t, 3, 3) of a mesh, metres.

    Args:
        scale: (3,) of the file's numbers, to metres.
        corners_m: (k, 3) corners as another reader has them.

    Raises:
        BadInputError: the file cannot be read, holds no triangles, or lies elsewhere than the other reader says.
    """
    import trimesh  # takes a second, and only who looks at the arm needs it

    try:
        mesh = trimesh.load_mesh(file, process=False, skip_materials=True)
        triangles_m = np.asarray(mesh.triangles, dtype=np.float64) * scale
    except Exception as error:  # a reader of many formats fails in many ways, all of them the file's
        raise BadInputError(f"{file}: cannot be read as a mesh ({type(error).__name__}: {error})") from error
    if not len(triangles_m):
        raise BadInputError(f"{file}: holds no triangles")
    if not (np.isfinite(triangles_m).all() and np.isfinite(corners_m).all()):
        raise BadInputError(f"{file}: holds numbers that are not finite")
    ends_m = [np.array([p.min(axis=0), p.max(axis=0)]) for p in (triangles_m.reshape(-1, 3), corners_m)]
    apart_m = float(np.abs(ends_m[0] - ends_m[1]).max())
    if not apart_m < _SAME_M:
        raise BadInputError(
            f"{file}: two readers of meshes disagree by {1000 * apart_m:.0f} mm on where it is (its unit or its upward "
            "axis): save it as STL in metres"
        )
    return triangles_m
