"""URDFs → what a robot file takes from them: joint limits, a live robot_description."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen2vl_robot.bounds import YAML_BYTES, shown
from qwen2vl_robot.documents import is_file, read_text
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.resources import data_root, resolve
from qwen2vl_robot.urdf_files import find_meshes, keep_urdf, parse_urdf, read_urdf

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
    """A URDF's limits of a moving joint: rad, rad/s and N m, for a prismatic joint m, m/s and N.

    Attributes:
        is_continuous: whether it turns without end; its limits are then those of one turn, -pi to pi, and a velocity or
            an effort that the URDF leaves out is infinite.
    """

    name: str
    lower: float
    upper: float
    velocity: float
    effort: float
    is_continuous: bool = False


def read_joints(urdf: str) -> dict[str, UrdfJoint]:
    """Read every revolute, prismatic and continuous joint, by name.

    Raises:
        BadInputError: not a URDF, or a limit is missing or not a finite number.
    """
    root = parse_urdf(urdf)
    return {j.name: j for item in root.findall("joint") if item.get("type") in _MOVES for j in [_joint(item)]}


def turning_joints(profile: RobotProfile) -> frozenset[str]:
    """The robot's joints that turn without end: there a position and one that is whole turns away are the same place.

    Raises:
        BadInputError: the URDF is missing, or none.
    """
    known = read_joints(read_urdf(find_urdf(profile.urdf, profile.name)))
    return frozenset(j.name for j in profile.joints if j.name in known and known[j.name].is_continuous)


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
    find_meshes(root, Path.cwd())
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


def prefix_of(needed: Iterable[str], found: Iterable[str]) -> str:
    """Say with which prefix all needed names were found, "" where there is none.

    >>> prefix_of(["joint1", "joint2"], ["left_joint2", "left_joint1", "joint9"])
    "; all of them have the prefix 'left_' there: write them so in the robot file"
    """
    needed, found = list(needed), set(found)
    for name in sorted(found):
        prefix = name.removesuffix(needed[0]) if needed else name
        if prefix not in ("", name) and all(prefix + each in found for each in needed):
            return f"; all of them have the prefix {shown(prefix)!r} there: write them so in the robot file"
    return ""


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
        prefix = prefix_of([j.name for j in profile.joints], joints)
        raise BadInputError(
            f"it has no {shown(', no '.join(missing))}; the robot file of {profile.name} needs them{prefix}"
        )
    for ours in profile.joints:
        theirs = joints[ours.name]
        for what, given, allowed in (
            ("upper_rad", ours.upper_rad, theirs.upper),
            ("-lower_rad", -ours.lower_rad, -theirs.lower),
            ("velocity_radps", ours.velocity_radps, theirs.velocity),
        ):
            if not given <= allowed + _SLACK:
                raise BadInputError(f"{ours.name}: the robot file allows {what} {given:g}, the robot {allowed:g}")


def _joint(item: ElementTree.Element) -> UrdfJoint:
    name, limit = item.get("name", ""), item.find("limit")
    is_continuous = item.get("type") == "continuous"
    if limit is None:
        if is_continuous:
            return UrdfJoint(name, -math.pi, math.pi, math.inf, math.inf, is_continuous)
        raise BadInputError(f"joint {shown(name)}: no <limit>")
    try:
        lower, upper = (float(limit.get(k, "0")) for k in ("lower", "upper"))
        velocity, effort = (float(limit.get(k, "nan")) for k in ("velocity", "effort"))
    except ValueError as error:
        raise BadInputError(f"joint {shown(name)}: {shown(error)}") from error
    if not all(math.isfinite(v) for v in (lower, upper, velocity, effort)):
        raise BadInputError(f"joint {shown(name)}: lower, upper, velocity and effort must be finite numbers")
    if is_continuous:
        lower, upper = -math.pi, math.pi
    return UrdfJoint(name, lower, upper, velocity, effort, is_continuous)
