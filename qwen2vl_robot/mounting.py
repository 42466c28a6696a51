"""URDFs → one URDF with a gripper on an arm, or with a tool frame, in the user's cache."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.urdf_files import keep_urdf, with_mesh_paths


def compose(arm: Path, gripper: Path, parent_link: str, xyz_m: Sequence[float], rpy_rad: Sequence[float]) -> Path:
    """Write the URDF of an arm with a gripper fixed to one of its links, to the user's cache.

    Args:
        xyz_m, rpy_rad: pose of the gripper's root link in `parent_link`.

    Raises:
        BadInputError: one of them is no URDF, a mesh is missing, or the arm lacks the link.
    """
    root, hand = (with_mesh_paths(path) for path in (arm, gripper))
    links = [item.get("name") for item in root.findall("link")]
    if parent_link not in links:
        raise BadInputError(f"{arm} has no link {parent_link!r}; it has {shown(', '.join(map(str, links)))}")
    children = {item.get("link") for item in hand.iter("child")}
    base = next((item.get("name", "") for item in hand.findall("link") if item.get("name") not in children), None)
    if base is None:
        raise BadInputError(f"{gripper}: it has no link to mount it by")
    _fix(root, base, parent_link, xyz_m, rpy_rad)
    root.extend(item for item in hand if item.tag in ("link", "joint"))
    return keep_urdf(root)


def add_link(urdf: Path, link: str, parent_link: str, xyz_m: Sequence[float], rpy_rad: Sequence[float]) -> Path:
    """Write a URDF with one more link without a shape, to the user's cache.

    Raises:
        BadInputError: not a URDF, a mesh is missing, it has such a link already, or lacks its parent.
    """
    root = with_mesh_paths(urdf)
    links = [str(item.get("name")) for item in root.findall("link")]
    if link in links or parent_link not in links:
        has = f"a link {link!r} already" if link in links else f"no link {parent_link!r}; it has {', '.join(links)}"
        raise BadInputError(f"{urdf} has {shown(has)}")
    ElementTree.SubElement(root, "link", name=link)
    _fix(root, link, parent_link, xyz_m, rpy_rad)
    return keep_urdf(root)


def _fix(
    root: ElementTree.Element, link: str, parent_link: str, xyz_m: Sequence[float], rpy_rad: Sequence[float]
) -> None:
    joint = ElementTree.SubElement(root, "joint", name=f"{link}_mount", type="fixed")
    ElementTree.SubElement(joint, "parent", link=parent_link)
    ElementTree.SubElement(joint, "child", link=link)
    ElementTree.SubElement(joint, "origin", xyz=" ".join(map(str, xyz_m)), rpy=" ".join(map(str, rpy_rad)))
