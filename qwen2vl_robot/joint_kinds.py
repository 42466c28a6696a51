"""A robot file and its URDF → which joints follow the fingers, or why the robot is of a kind that is not supported."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.urdf_files import parse_urdf, read_urdf

if TYPE_CHECKING:
    from qwen2vl_robot.config import RobotProfile

_TURNS, _SLIDES = ("revolute", "continuous"), ("prismatic",)
_CHAIN = 16  # joints that mimic joints that mimic ...


@dataclass(frozen=True, slots=True)
class Mimic:
    """A URDF's `<mimic>`: position = multiplier · position of `joint` + offset."""

    joint: str
    multiplier: float
    offset: float


@dataclass(frozen=True, slots=True)
class Follower:
    """A joint that follows a joint of the gripper.

    Attributes:
        driver: which of the gripper's joints, by its place in the robot file.
        multiplier, offset: position = multiplier · position of the driver + offset.
    """

    name: str
    driver: int
    multiplier: float
    offset: float

    def position(self, driver: float) -> float:
        """Return its position at the driver's."""
        return self.multiplier * driver + self.offset


@dataclass(frozen=True, slots=True)
class UrdfKinds:
    """What a URDF says of its joints: the type of each, and whom it mimics."""

    types: dict[str, str]
    mimics: dict[str, Mimic]


def followers(profile: RobotProfile) -> tuple[Follower, ...]:
    """List the joints that follow the gripper's, in the URDF's order.

    Raises:
        BadInputError: an arm that does not only turn, a joint that nothing drives, or another kind of joint that is not
            supported.
    """
    urdf = profile.urdf_path
    stat = urdf.stat()
    kinds = _kinds_of(urdf, stat.st_mtime_ns, stat.st_size)
    drivers, arm = list(profile.gripper.joints), [j.name for j in profile.joints]
    _check_named(profile, kinds, arm, drivers)
    found = []
    for name, kind in kinds.types.items():
        if kind == "fixed" or name in arm or name in drivers:
            continue
        if kind not in _TURNS + _SLIDES:
            raise BadInputError(f"{profile.urdf}: joint {shown(name)} is {shown(kind)}; no such joint is supported")
        follower = _follow(name, kinds.mimics, drivers)
        if follower is None:
            raise BadInputError(
                f"{profile.urdf}: nothing drives joint {shown(name)}: it is no joint of the arm or of the gripper, and "
                "mimics none of the gripper's; name it in the robot file, or make it fixed"
            )
        found.append(follower)
    return tuple(found)


def read_kinds(urdf: str) -> UrdfKinds:
    """Read the type of every joint and its `<mimic>`.

    Raises:
        BadInputError: not a URDF, or a number is not finite.
    """
    types, mimics = {}, {}
    for item in parse_urdf(urdf).findall("joint"):
        name = item.get("name", "")
        types[name] = item.get("type", "")
        mimic = item.find("mimic")
        if mimic is not None:
            try:
                multiplier, offset = float(mimic.get("multiplier", "1")), float(mimic.get("offset", "0"))
            except ValueError as error:
                raise BadInputError(f"joint {shown(name)}: <mimic>: {shown(error)}") from error
            if not (math.isfinite(multiplier) and math.isfinite(offset)):
                raise BadInputError(f"joint {shown(name)}: <mimic> must have finite numbers")
            mimics[name] = Mimic(mimic.get("joint", ""), multiplier, offset)
    return UrdfKinds(types, mimics)


@functools.lru_cache(maxsize=16)
def _kinds_of(urdf: Path, mtime_ns: int, size_bytes: int) -> UrdfKinds:
    return read_kinds(read_urdf(urdf))


def _check_named(profile: RobotProfile, kinds: UrdfKinds, arm: list[str], drivers: list[str]) -> None:
    """Check that the joints which the robot file names are there, once, and of a kind that can be driven."""
    named = [*arm, *drivers]
    twice = sorted({n for n in named if named.count(n) > 1})
    if twice:
        raise BadInputError(f"{profile.name}: the robot file names {shown(', '.join(twice))} twice")
    missing = [n for n in named if n not in kinds.types]
    if missing:
        known = ", ".join(n for n, kind in kinds.types.items() if kind != "fixed")
        raise BadInputError(f"{profile.urdf} has no joint {shown(', '.join(missing))}; it has {shown(known)}")
    for name in named:
        kind, allowed = kinds.types[name], _TURNS if name in arm else _TURNS + _SLIDES
        if kind not in allowed:
            whose = "the arm" if name in arm else "the gripper"
            raise BadInputError(
                f"{profile.urdf}: joint {shown(name)} is {shown(kind)}; joints of {whose} may be {', '.join(allowed)}"
            )
    mimicking = [n for n in arm if n in kinds.mimics]
    if mimicking:
        raise BadInputError(f"{profile.urdf}: joint {shown(mimicking[0])} mimics another; an arm's joints must not")
    if {kinds.types[n] for n in drivers} & set(_TURNS) and not profile.gripper.position_by_width_m:
        raise BadInputError(
            f"{profile.name}: the gripper's joint {shown(drivers[0])} turns; give position_by_width_m, for how far a "
            "joint turns is no width"
        )


def _follow(name: str, mimics: dict[str, Mimic], drivers: list[str]) -> Follower | None:
    """Follow a joint's `<mimic>` to a joint of the gripper; None where it leads elsewhere or in a circle."""
    multiplier, offset, at = 1.0, 0.0, name
    for _ in range(_CHAIN):
        mimic = mimics.get(at)
        if mimic is None or mimic.multiplier == 0.0:
            return None
        offset += multiplier * mimic.offset
        multiplier *= mimic.multiplier
        at = mimic.joint
        if at in drivers:
            return Follower(name, drivers.index(at), multiplier, offset)
    return None
