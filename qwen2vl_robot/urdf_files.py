"""A URDF's file → its tree within the bounds, its meshes, and a file that pinocchio and Bullet both take."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Literal

from qwen2vl_robot.bounds import MESH_BYTES, URDF_CHARS, URDF_DEPTH, URDF_ELEMENTS, shown
from qwen2vl_robot.documents import is_file, read_file, read_text
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.resources import user_cache

Kind = Literal["collision", "visual"]

_log = logging.getLogger(__name__)


def read_urdf(path: Path) -> str:
    """Read a URDF's text.

    Raises:
        BadInputError: it cannot be read, or is too large.
    """
    return read_text(path, URDF_CHARS)


def parse_urdf(urdf: str) -> ElementTree.Element:
    """Parse a URDF.

    Raises:
        BadInputError: not a URDF, or not within the bounds.
    """
    if len(urdf) > URDF_CHARS:
        raise BadInputError(f"a URDF of {len(urdf)} characters; allowed up to {URDF_CHARS}")
    if "<!ENTITY" in urdf:
        raise BadInputError("a URDF must not have entity declarations")
    try:
        root: ElementTree.Element = ElementTree.fromstring(urdf, ElementTree.XMLParser(target=_Tree()))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BadInputError(f"not a URDF: no XML (line {line}, column {column})") from error
    except ValueError as error:  # characters that no encoding has
        raise BadInputError("not a URDF: no XML") from error
    if root.tag != "robot":
        raise BadInputError("not a URDF: its root is not <robot>")
    return root


class _Tree(ElementTree.TreeBuilder):
    """Builds a tree and gives up on a deep or a wide one while it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = 0

    def start(self, tag: Any, attributes: Any, /) -> Any:
        self._depth, self._elements = self._depth + 1, self._elements + 1
        if self._depth > URDF_DEPTH or self._elements > URDF_ELEMENTS:
            raise BadInputError(f"a URDF may have {URDF_ELEMENTS} elements, {URDF_DEPTH} deep")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> Any:
        self._depth -= 1
        return super().end(tag)


def links_with(urdf: Path, part: str) -> tuple[str, ...]:
    """The names of a URDF's links that have a part such as "collision".

    Raises:
        BadInputError: not a URDF.
    """
    return tuple(
        str(link.get("name")) for link in parse_urdf(read_urdf(urdf)).iter("link") if link.find(part) is not None
    )


def usable_urdf(path: Path) -> Path:
    """Return a URDF as pinocchio and Bullet both take it: itself, or a copy in the user's cache.

    In the copy a joint that turns without end is a revolute one of one turn, a mesh has its absolute path, and what is
    to be seen of a link is left out where its mesh is missing.

    Raises:
        BadInputError: not a URDF, or a collision mesh is missing.
    """
    if not is_file(path):
        return path  # who reads it says what it is
    stat = path.stat()
    return _usable(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _usable(path: Path, mtime_ns: int, size_bytes: int) -> Path:
    root = parse_urdf(read_urdf(path))
    turning = [item for item in root.findall("joint") if item.get("type") == "continuous"]
    if not turning and all(_is_beside(mesh, path.parent) for mesh in root.iter("mesh")):
        return path
    find_meshes(root, path.parent)
    for item in turning:
        item.set("type", "revolute")
        limit = item.find("limit")
        given = {} if limit is None else dict(limit.attrib)
        if limit is not None:
            item.remove(limit)
        one_turn = {"lower": str(-math.pi), "upper": str(math.pi)}
        ElementTree.SubElement(item, "limit", {"velocity": "0", "effort": "0", **given, **one_turn})
    return keep_urdf(root)


def with_mesh_paths(path: Path) -> ElementTree.Element:
    """Parse a URDF and find its meshes (see `find_meshes`).

    Raises:
        BadInputError: not a URDF, or a collision mesh is missing.
    """
    root = parse_urdf(read_urdf(path))
    find_meshes(root, path.parent)
    return root


def find_meshes(root: ElementTree.Element, folder: Path) -> None:
    """Give every mesh its absolute path; leave out what is only to be seen where its mesh is missing.

    Raises:
        BadInputError: a collision mesh is missing.
    """
    for link in root.iter("link"):
        for visual in link.findall("visual"):
            try:
                for mesh in visual.iter("mesh"):
                    _mesh_path(mesh.get("filename", ""), folder)
            except BadInputError as error:
                _log.warning("%s; what the camera sees of link %s is not known", error, shown(link.get("name", "")))
                link.remove(visual)
    for mesh in root.iter("mesh"):
        mesh.set("filename", str(_mesh_path(mesh.get("filename", ""), folder)))


def _is_beside(mesh: ElementTree.Element, folder: Path) -> bool:
    """Whether every reader finds a mesh by itself."""
    reference = mesh.get("filename", "")
    return not reference.startswith("file://") and is_file(folder / reference.removeprefix("package://"))


def _mesh_path(reference: str, folder: Path) -> Path:
    """Find a mesh beside its URDF or in the share folder of an installed ROS package."""
    name = reference.removeprefix("file://").removeprefix("package://")
    shares = [Path(p) / "share" for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for place in (folder, *shares):
        if is_file(place / name):
            return (place / name).resolve()
    raise BadInputError(f"mesh {shown(reference)}: not found beside the URDF nor in {_shown(shares)}")


def _shown(shares: list[Path]) -> str:
    return ", ".join(map(str, shares)) or "AMENT_PREFIX_PATH, which is empty"


def keep_urdf(root: ElementTree.Element) -> Path:
    """Write a URDF to the user's cache, named by its hash, and return its path."""
    text = ElementTree.tostring(root)
    folder = user_cache()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{hashlib.sha256(text).hexdigest()[:24]}.urdf"
    if not path.is_file() or path.read_bytes() != text:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    return path


def mesh_digests(urdf: Path, kind: Kind = "collision") -> tuple[str, ...]:
    """Compute the SHA-256 of each mesh of a kind in a URDF, in its order; "" for a missing one."""
    digests = []
    for reference in _meshes(urdf, kind):
        try:
            path = _mesh_path(reference, urdf.parent)
            stat = path.stat()
            digests.append(_file_digest(path, stat.st_mtime_ns, stat.st_size))
        except (BadInputError, OSError):
            digests.append("")  # loading the robot reports what is wrong
    return tuple(digests)


def check_meshes(urdf: Path) -> None:
    """Check a URDF, and that every collision mesh of it is there.

    Raises:
        BadInputError: not a URDF within the bounds, or a mesh is missing or too large.
    """
    for reference in _meshes(urdf, "collision"):
        if _mesh_path(reference, urdf.parent).stat().st_size > MESH_BYTES:
            raise BadInputError(f"mesh {shown(reference)}: more than {MESH_BYTES} bytes")


def _meshes(urdf: Path, kind: Kind) -> tuple[str, ...]:
    stat = urdf.stat()
    return _read_meshes(urdf, kind, stat.st_mtime_ns, stat.st_size)


# A robot's digest is computed often, so each version of a file is read once.


@functools.lru_cache(maxsize=16)
def _read_meshes(urdf: Path, kind: Kind, mtime_ns: int, size_bytes: int) -> tuple[str, ...]:
    tree = parse_urdf(read_urdf(urdf))
    return tuple(mesh.get("filename", "") for mesh in tree.findall(f"link/{kind}/geometry/mesh"))


@functools.lru_cache(maxsize=256)
def _file_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    return hashlib.sha256(read_file(path, MESH_BYTES)).hexdigest()
