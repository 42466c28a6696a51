"""URDF text → joint limits, for robot files that leave them to the URDF, and for comparing a live robot_description."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen2vl_robot.errors import BadInputError

if TYPE_CHECKING:
    from qwen2vl_robot.config import RobotProfile

_MAX_CHARS = 5_000_000
_SLACK = 1e-3  # files round their limits differently
_MOVES = ("revolute", "prismatic")


@dataclass(frozen=True, slots=True)
class UrdfJoint:
    """What a URDF says of a joint that moves; rad and rad/s, for a prismatic one m and m/s."""

    name: str
    lower: float
    upper: float
    velocity: float
    effort: float


def read_joints(urdf: str) -> dict[str, UrdfJoint]:
    """Every joint with limits, by name.

    Raises:
        BadInputError: not a URDF, or a limit is missing or no number.
    """
    root = _parse(urdf)
    return {j.name: j for item in root.findall("joint") if item.get("type") in _MOVES for j in [_joint(item)]}


def check_description(urdf: str, profile: RobotProfile) -> None:
    """Compare a live robot_description with the robot file.

    Raises:
        BadInputError: joints or links of the file are missing, or the file allows more than the robot does.
    """
    root, joints = _parse(urdf), read_joints(urdf)
    links = {item.get("name") for item in root.findall("link")}
    needed = {profile.base_link, profile.tool_link, *profile.gripper.finger_links}
    missing = [f"joint {n}" for n in (*(j.name for j in profile.joints), *profile.gripper.joints) if n not in joints]
    missing += [f"link {n}" for n in sorted(needed) if n not in links]
    if missing:
        raise BadInputError(f"it has no {', no '.join(missing)}, which the robot file of {profile.name} names")
    for ours in profile.joints:
        theirs = joints[ours.name]
        for what, given, allowed in (
            ("upper_rad", ours.upper_rad, theirs.upper),
            ("-lower_rad", -ours.lower_rad, -theirs.lower),
            ("velocity_radps", ours.velocity_radps, theirs.velocity),
        ):
            if not given <= allowed + _SLACK:
                raise BadInputError(f"{ours.name}: the robot file allows {what} {given:g}, the robot {allowed:g}")


def _parse(urdf: str) -> ElementTree.Element:
    if len(urdf) > _MAX_CHARS:
        raise BadInputError(f"a URDF of {len(urdf)} characters; allowed up to {_MAX_CHARS}")
    if "<!ENTITY" in urdf:
        raise BadInputError("a URDF with entity declarations is not read")
    try:
        root = ElementTree.fromstring(urdf)
    except ElementTree.ParseError as error:
        raise BadInputError(f"not a URDF: {error}") from error
    if root.tag != "robot":
        raise BadInputError(f"not a URDF: its root is <{root.tag}>, not <robot>")
    return root


def _joint(item: ElementTree.Element) -> UrdfJoint:
    name, limit = item.get("name", ""), item.find("limit")
    if limit is None:
        raise BadInputError(f"joint {name}: no <limit>")
    try:
        lower, upper = (float(limit.get(k, "0")) for k in ("lower", "upper"))
        velocity, effort = (float(limit.get(k, "nan")) for k in ("velocity", "effort"))
    except ValueError as error:
        raise BadInputError(f"joint {name}: {error}") from error
    if not all(math.isfinite(v) for v in (lower, upper, velocity, effort)):
        raise BadInputError(f"joint {name}: lower, upper, velocity and effort must be finite numbers")
    return UrdfJoint(name, lower, upper, velocity, effort)
