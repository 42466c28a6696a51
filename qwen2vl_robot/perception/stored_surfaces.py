"""Surfaces of a robot's links that were sampled once → the user's cache, and back: reading them is fifty times faster.

A file is named by the hash of all that its points follow from, and begins with the hash of its content; one that is
cut, foreign or changed is sampled anew. Without a place to write everything works as well, more slowly.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qwen2vl_robot.bounds import CONFIG_BYTES, SURFACES_BYTES, URDF_CHARS
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.resources import user_cache
from qwen2vl_robot.results import UnsavedError, write_bytes
from qwen2vl_robot.urdf_files import mesh_digests

Points = dict[str, tuple[Array, Array]]

_SOURCES = ("geometry.py", "kinematics.py", "link_meshes.py", "perception/stored_surfaces.py", "perception/surfaces.py")
_KEPT = 12  # files; the oldest go


def recall(urdf: Path, sample: Callable[[], Points]) -> Points:
    """The points and normals (n, 3) of each link, from the cache where they are there, else sampled and put there.

    Args:
        urdf: the robot's file; its visual meshes count by their content.
    """
    said = hashlib.sha256(f"{_sources()}{np.__version__}{mesh_digests(urdf, 'visual')}".encode())
    said.update(read_file(urdf, URDF_CHARS))
    file = user_cache() / f"surfaces-{said.hexdigest()[:40]}.npz"
    found = _read(file)
    if found is None:
        found = sample()
        _write(file, found)
    return found


@functools.lru_cache(maxsize=1)
def _sources() -> str:
    root = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"".join(read_file(root / name, CONFIG_BYTES) for name in _SOURCES)).hexdigest()


def _read(file: Path) -> Points | None:
    try:
        head, _, body = read_file(file, SURFACES_BYTES).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != head:
            return None
        with np.load(io.BytesIO(body), allow_pickle=False) as content:
            links, *pairs = [content[f"arr_{at}"] for at in range(len(content.files))]
            return {str(link): (pair[0], pair[1]) for link, pair in zip(links, pairs, strict=True)}
    except (BadInputError, EOFError, IndexError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write(file: Path, found: Points) -> None:
    """Keep the points; where nothing can be written they are sampled again."""
    content = io.BytesIO()
    np.savez(content, np.array(list(found)), *map(np.stack, found.values()))
    body = content.getvalue()
    with contextlib.suppress(OSError, UnsavedError):
        write_bytes(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        for old in sorted(file.parent.glob("surfaces-*.npz"), key=lambda old: old.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
