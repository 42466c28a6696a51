"""A URDF → which joints are the arm's, which one drives the gripper, and the links between them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.urdf_files import parse_urdf

_TURNS, _SLIDES = ("revolute", "continuous"), ("prismatic",)


@dataclass(frozen=True, slots=True)
class Joint:
    """One joint of a URDF; limits in rad or m, None where the URDF gives none."""

    name: str
    kind: str
    parent: str
    child: str
    mimics: str | None
    lower: float | None
    upper: float | None
    velocity: float | None
    effort: float | None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Who is who in a URDF.

    Attributes:
        base_link: the root.
        arm: the arm's joints, from the base on.
        drivers: the gripper's one joint, or its two that slide.
        hand_link: the link that carries the gripper's joints.
        moved_links: links that the gripper moves.
    """

    name: str
    base_link: str
    arm: tuple[Joint, ...]
    drivers: tuple[Joint, ...]
    hand_link: str
    moved_links: tuple[str, ...]


def dissect(urdf: str) -> Anatomy:
    """Find arm and gripper in a URDF's text.

    Raises:
        BadInputError: no single arm or gripper is in it; the message names what is too many or missing.
    """
    root = parse_urdf(urdf)
    joints = [_joint(item) for item in root.findall("joint")]
    above = {j.child: j for j in joints}
    roots = [str(item.get("name")) for item in root.findall("link") if item.get("name") not in above]
    if len(roots) != 1:
        raise BadInputError(f"one root link is needed, found {shown(', '.join(roots)) or 'none'}")
    moving = [j for j in joints if j.kind in _TURNS + _SLIDES]
    mimicked = {j.mimics for j in moving if j.mimics is not None}
    drivers = [j for j in moving if j.mimics is None and (j.name in mimicked or j.kind in _SLIDES)]
    if not drivers:
        raise BadInputError(
            "no gripper found: no joint slides, and none is mimicked by others; give a URDF of arm and gripper "
            "together, or write `gripper_mount` by hand"
        )
    if len(drivers) > 2 or (len(drivers) == 2 and {d.kind for d in drivers} != {"prismatic"}):
        names = ", ".join(d.name for d in drivers)
        raise BadInputError(f"one joint must drive the gripper, or two that slide; found {shown(names)}")
    fingers = [j for j in moving if j in drivers or j.mimics is not None]
    ways = [_way(j.parent, above) for j in fingers]
    shared = [link for link in ways[0] if all(link in way for way in ways)]
    hand = shared[0]
    arm = [above[link] for link in reversed(_way(hand, above)) if link in above]
    arm = [j for j in arm if j.kind in _TURNS and j not in fingers]
    others = [j.name for j in moving if j not in arm and j not in fingers]
    if others or not arm:
        what = f"joints that belong to neither: {shown(', '.join(others))}" if others else "no joint that turns"
        raise BadInputError(f"an arm with one gripper is needed; between {roots[0]} and {hand} there are {what}")
    moved = [link for link in above if set(_way(link, above)) & {j.child for j in fingers}]
    return Anatomy(str(root.get("name", "robot")), roots[0], tuple(arm), tuple(drivers), hand, tuple(moved))


def _way(link: str, above: dict[str, Joint]) -> list[str]:
    """List a link and the links that carry it, down to the root."""
    way = [link]
    while way[-1] in above and len(way) <= len(above):
        way.append(above[way[-1]].parent)
    return way


def _joint(item: ElementTree.Element) -> Joint:
    def link(tag: str) -> str:
        found = item.find(tag)
        return "" if found is None else found.get("link", "")

    limit, mimic, kind = item.find("limit"), item.find("mimic"), item.get("type", "")

    def number(key: str) -> float | None:
        try:
            return None if limit is None or key not in limit.attrib else float(limit.attrib[key])
        except ValueError as error:
            raise BadInputError(f"joint {shown(item.get('name', ''))}: {shown(error)}") from error

    is_endless = kind == "continuous"
    return Joint(
        name=item.get("name", ""),
        kind=kind,
        parent=link("parent"),
        child=link("child"),
        mimics=None if mimic is None else mimic.get("joint", ""),
        lower=None if is_endless else number("lower"),
        upper=None if is_endless else number("upper"),
        velocity=number("velocity"),
        effort=number("effort"),
    )
