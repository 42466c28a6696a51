"""Surfaces of a robot's links that were sampled once → the user's cache, and back: reading them is fifty times faster.

A file is named by the hash of all that its points follow from; see kept.py.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qwen2vl_robot.bounds import SURFACES_BYTES, URDF_CHARS
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kept import code_digest, keep, read_kept
from qwen2vl_robot.resources import user_cache
from qwen2vl_robot.urdf_files import mesh_digests

Points = dict[str, tuple[Array, Array]]

_SOURCES = ("geometry.py", "kinematics.py", "link_meshes.py", "perception/stored_surfaces.py", "perception/surfaces.py")
_KEPT = 12  # files; the oldest go


def recall(urdf: Path, sample: Callable[[], Points]) -> Points:
    """The points and normals (n, 3) of each link, from the cache where they are there, else sampled and put there.

    Args:
        urdf: the robot's file; its visual meshes count by their content.
    """
    said = hashlib.sha256(f"{code_digest(*_SOURCES)}{np.__version__}{mesh_digests(urdf, 'visual')}".encode())
    said.update(read_file(urdf, URDF_CHARS))
    file = user_cache() / f"surfaces-{said.hexdigest()[:40]}.npz"
    found = _read(file)
    if found is None:
        found = sample()
        _write(file, found)
    return found


def _read(file: Path) -> Points | None:
    body = read_kept(file, SURFACES_BYTES)
    if body is None:
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as content:
            links, *pairs = [content[f"arr_{at}"] for at in range(len(content.files))]
            return {str(link): (pair[0], pair[1]) for link, pair in zip(links, pairs, strict=True)}
    except (EOFError, IndexError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write(file: Path, found: Points) -> None:
    content = io.BytesIO()
    np.savez(content, np.array(list(found)), *map(np.stack, found.values()))
    keep(file, content.getvalue(), _KEPT)
