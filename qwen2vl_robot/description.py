"""URDFs → what a robot file takes from them: joint limits, meshes, a live robot_description."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen2vl_robot.bounds import MESH_BYTES, URDF_CHARS, URDF_DEPTH, URDF_ELEMENTS, YAML_BYTES, shown
from qwen2vl_robot.documents import is_file, read_file, read_text
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.resources import data_root, resolve

if TYPE_CHECKING:
    from qwen2vl_robot.config import RobotProfile

LIVE = "robot_description"  # a robot file's `urdf` where the robot publishes its own
_LIVE_PATH = "QWEN2VL_ROBOT_DESCRIPTION"  # an environment variable, so that the workers see it too
_SLACK = 1e-3  # files round their limits differently
_MOVES = ("revolute", "prismatic", "continuous")
# Field of config.JointLimits → field of `UrdfJoint`.
_OF_URDF = {"lower_rad": "lower", "upper_rad": "upper", "velocity_radps": "velocity", "effort_nm": "effort"}


@dataclass(frozen=True, slots=True)
class UrdfJoint:
    """A URDF's limits of a moving joint: rad, rad/s and N m, for a prismatic joint m, m/s and N."""

    name: str
    lower: float
    upper: float
    velocity: float
    effort: float


def read_joints(urdf: str) -> dict[str, UrdfJoint]:
    """Read every joint that turns or slides, by name; one that turns on and on has infinite position limits.

    Raises:
        BadInputError: not a URDF, or a limit is missing or not a finite number.
    """
    root = parse_urdf(urdf)
    return {j.name: j for item in root.findall("joint") if item.get("type") in _MOVES for j in [_joint(item)]}


def find_urdf(reference: str, robot: str) -> Path:
    """Find the file that a robot file's `urdf` names.

    Raises:
        BadInputError: there is none, or no robot_description was received.
    """
    if reference != LIVE:
        return resolve(reference, data_root() / "sim" / "robots" / robot)
    if not is_received():
        raise BadInputError(f"{robot}: its urdf is {LIVE}, and none was received; is robot_state_publisher running?")
    return Path(os.environ[_LIVE_PATH])


def is_received() -> bool:
    """Return whether a robot_description was received."""
    live = os.environ.get(_LIVE_PATH)
    return bool(live) and is_file(Path(str(live)))


def wants_live(robot_file: Path) -> bool:
    """Return whether a robot file's `urdf` is robot_description."""
    lines = read_text(robot_file, YAML_BYTES).splitlines()
    return any(line.split("#")[0].replace('"', "").split() == ["urdf:", LIVE] for line in lines)


def take_live(urdf: str) -> None:
    """Store a received robot_description as the URDF of `urdf: robot_description`, here and in every worker.

    Raises:
        BadInputError: not a URDF, or one of its meshes is not installed here.
    """
    root = parse_urdf(urdf)
    for mesh in root.iter("mesh"):
        mesh.set("filename", str(_mesh_path(mesh.get("filename", ""), Path.cwd())))
    os.environ[_LIVE_PATH] = str(keep_urdf(root))


def fill_limits(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in the limits that a robot file's joints leave out, from its URDF.

    Raises:
        BadInputError: the URDF or a joint in it is missing.
    """
    joints, urdf = data.get("joints"), data.get("urdf")
    if not isinstance(joints, list | tuple) or not isinstance(urdf, str):
        return data
    short = [j for j in joints if isinstance(j, dict) and not _OF_URDF.keys() <= j.keys()]
    if not short:
        return data
    known = read_joints(read_urdf(find_urdf(urdf, shown(data.get("name", "")))))
    missing = [str(j.get("name")) for j in short if j.get("name") not in known]
    if missing:
        raise BadInputError(f"{urdf} has no joint {shown(', '.join(missing))}; it has {shown(', '.join(known))}")
    filled = [
        {**{field: getattr(known[j["name"]], name) for field, name in _OF_URDF.items()}, **j} if j in short else j
        for j in joints
    ]
    return {**data, "joints": filled}


def with_mesh_paths(urdf: Path) -> ElementTree.Element:
    """Parse a URDF and write where each of its meshes is on this machine.

    Raises:
        BadInputError: not a URDF, or a mesh is missing.
    """
    root = parse_urdf(read_urdf(urdf))
    for mesh in root.iter("mesh"):
        mesh.set("filename", str(_mesh_path(mesh.get("filename", ""), urdf.parent)))
    return root


def _mesh_path(reference: str, folder: Path) -> Path:
    """Find a mesh beside its URDF or in the share folder of an installed ROS package."""
    name = reference.removeprefix("file://").removeprefix("package://")
    shares = [Path(p) / "share" for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for place in (folder, *shares):
        if is_file(place / name):
            return (place / name).resolve()
    raise BadInputError(f"mesh {shown(reference)}: not found beside the URDF nor in {_shown(shares)}")


def mesh_digests(urdf: Path) -> tuple[str, ...]:
    """Compute the SHA-256 of each collision mesh of a URDF, in its order; "" for a missing one."""
    digests = []
    for reference in _collision_meshes(urdf):
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
    for reference in _collision_meshes(urdf):
        if _mesh_path(reference, urdf.parent).stat().st_size > MESH_BYTES:
            raise BadInputError(f"mesh {shown(reference)}: more than {MESH_BYTES} bytes")


def _collision_meshes(urdf: Path) -> tuple[str, ...]:
    stat = urdf.stat()
    return _read_meshes(urdf, stat.st_mtime_ns, stat.st_size)


# A robot's digest is computed often, so each version of a file is read once.


@functools.lru_cache(maxsize=16)
def _read_meshes(urdf: Path, mtime_ns: int, size_bytes: int) -> tuple[str, ...]:
    tree = parse_urdf(read_urdf(urdf))
    return tuple(mesh.get("filename", "") for mesh in tree.findall("link/collision/geometry/mesh"))


@functools.lru_cache(maxsize=256)
def _file_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    return hashlib.sha256(read_file(path, MESH_BYTES)).hexdigest()


def _shown(shares: list[Path]) -> str:
    return ", ".join(map(str, shares)) or "AMENT_PREFIX_PATH, which is empty"


def keep_urdf(root: ElementTree.Element) -> Path:
    """Write a URDF to the user's cache, named by its hash, and return its path."""
    text = ElementTree.tostring(root)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen2vl_robot"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{hashlib.sha256(text).hexdigest()[:24]}.urdf"
    if not path.is_file() or path.read_bytes() != text:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    return path


def check_description(urdf: str, profile: RobotProfile) -> None:
    """Compare a live robot_description with the robot file.

    Raises:
        BadInputError: joints or links of the file are missing, or the file allows wider limits than the robot.
    """
    root, joints = parse_urdf(urdf), read_joints(urdf)
    links = {item.get("name") for item in root.findall("link")}
    needed = {profile.base_link, *profile.gripper.finger_links}
    needed |= {profile.tool_link} if profile.tool_mount is None else {profile.tool_mount.parent_link}
    missing = [f"joint {n}" for n in (*(j.name for j in profile.joints), *profile.gripper.joints) if n not in joints]
    missing += [f"link {n}" for n in sorted(needed) if n not in links]
    if missing:
        raise BadInputError(f"it has no {shown(', no '.join(missing))}; the robot file of {profile.name} needs them")
    for ours in profile.joints:
        theirs = joints[ours.name]
        for what, given, allowed in (
            ("upper_rad", ours.upper_rad, theirs.upper),
            ("-lower_rad", -ours.lower_rad, -theirs.lower),
            ("velocity_radps", ours.velocity_radps, theirs.velocity),
        ):
            if not given <= allowed + _SLACK:
                raise BadInputError(f"{ours.name}: the robot file allows {what} {given:g}, the robot {allowed:g}")


def read_urdf(path: Path) -> str:
    """Read a URDF's text.

    Raises:
        BadInputError: it cannot be read, or is too large.
    """
    return read_text(path, URDF_CHARS)


def links_with(urdf: Path, part: str) -> tuple[str, ...]:
    """The names of a URDF's links that have a part such as "collision".

    Raises:
        BadInputError: not a URDF.
    """
    return tuple(
        str(link.get("name")) for link in parse_urdf(read_urdf(urdf)).iter("link") if link.find(part) is not None
    )


def parse_urdf(urdf: str) -> ElementTree.Element:
    """Parse a URDF's text.

    Raises:
        BadInputError: it is none, or is beyond the bounds.
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


def without_turns(urdf: str) -> str:
    """Make joints that turn on and on revolute ones without limits, so that an angle is their only coordinate.

    Raises:
        BadInputError: not a URDF.
    """
    root = parse_urdf(urdf)
    for item in root.findall("joint"):
        if item.get("type") == "continuous":
            item.set("type", "revolute")
            limit = item.find("limit")
            limit = ElementTree.SubElement(item, "limit", effort="0", velocity="0") if limit is None else limit
            limit.attrib |= {"lower": "-1e9", "upper": "1e9"}
    return ElementTree.tostring(root, encoding="unicode")


def _joint(item: ElementTree.Element) -> UrdfJoint:
    name, limit = item.get("name", ""), item.find("limit")
    is_endless = item.get("type") == "continuous"
    if limit is None:
        raise BadInputError(f"joint {shown(name)}: no <limit>")
    try:
        lower, upper = (0.0, 0.0) if is_endless else (float(limit.get(k, "0")) for k in ("lower", "upper"))
        velocity, effort = (float(limit.get(k, "nan")) for k in ("velocity", "effort"))
    except ValueError as error:
        raise BadInputError(f"joint {shown(name)}: {shown(error)}") from error
    if not all(math.isfinite(v) for v in (lower, upper, velocity, effort)):
        raise BadInputError(f"joint {shown(name)}: lower, upper, velocity and effort must be finite numbers")
    return UrdfJoint(name, *((-math.inf, math.inf) if is_endless else (lower, upper)), velocity, effort)
