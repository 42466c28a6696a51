"""A guess → robot.yaml with a comment at each guess, and a picture of the robot at home."""

from __future__ import annotations

import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.arms.guess import Guess
from qwen2vl_robot.bounds import shown
from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile, load_unconfirmed_robot
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.urdf_files import with_mesh_paths

_K = Intrinsics(480, 480, 560.0, 560.0, 239.5, 239.5)


def robot_yaml(guess: Guess) -> str:
    """Write the robot file; every block says where its values come from and what a person has to compare."""
    d, g, hand = guess.data, guess.data["gripper"], guess.hand
    lines = [
        f"# {d['name']}: guessed by `qwen2vl-robot robot init` from its URDF, and not compared with the robot.",
        "# Nothing moves before a person has confirmed each of these; take out the names of what you have confirmed,",
        "# then run `qwen2vl-robot robot check` on this file.",
        f"unconfirmed: [{', '.join(d['unconfirmed'])}]",
        f"name: {d['name']}",
        f"urdf: {_text(d['urdf'])}",
        f"base_link: {_text(d['base_link'])}",
        "",
        "# tool_link. GUESS: z is the way to the fingertips, the origin lies between the pads, behind their ends.",
        *(
            ["# A link of the URDF that stands there."]
            if hand.tool_link
            else ["# The URDF has no link there, so this file adds one. Compare with the gripper's drawing."]
        ),
        f"tool_link: {_text(d['tool_link'])}",
    ]
    if "tool_mount" in d:
        lines.append(f"tool_mount: {_flow(d['tool_mount'])}")
    lines += [
        "",
        "# limits. Position, velocity and effort: the URDF. GUESS: acceleration and jerk. Compare with the manual.",
        *(f"# GUESS: {joint}: the URDF gives no {' and no '.join(gaps)}." for joint, gaps in guess.missing.items()),
        f"limits_source: {_text(d['limits_source'])}",
        "joints:",
        *(f"  - {_flow(joint)}" for joint in d["joints"]),
        "",
        "# gripper. From the URDF: joints and limits. Measured on its shapes: which links are the pads, the width at",
        "# each position, thickness and depth. GUESS: speed and force. Does the real driver open where this opens?",
        "gripper:",
        *(f"  {key}: {_flow(value)}" for key, value in g.items()),
        "",
        "# home. GUESS: the tool points down in front of the arm, nothing touches. Look at the picture; the camera",
        "# must see the table from there.",
        f"home_q_rad: {_flow(d['home_q_rad'])}",
        "",
        f"# allowed_contacts. GUESS: these touch in nearly all of {guess.contacts.samples} random postures, so by",
        "# design, or are parts of the gripper's linkage. A pair that is too many hides a collision.",
        *(["# Touching at home, and not allowed: " + str(guess.contacts.at_home)] if guess.contacts.at_home else []),
        "allowed_contacts:",
        *(f"  - {_flow(pair)}" for pair in d["allowed_contacts"]),
        *_srdf(guess),
        "",
        "# workspace. GUESS: in front of the arm, as far as it reaches. Give the box that the tool may be in.",
        "workspace:",
        f"  min_m: {_flow(d['workspace']['min_m'])}",
        f"  max_m: {_flow(d['workspace']['max_m'])}",
        "",
        "# limits. GUESS: the tool's largest speed. A faster motion is refused; it is not slowed down.",
        "safety:",
        f"  tool_speed_mps: {d['safety']['tool_speed_mps']}",
        "",
        "# The names of your controllers; these are the defaults.",
        "controllers: {arm: joint_trajectory_controller, gripper: gripper_controller, gripper_action: gripper_cmd}",
    ]
    return "\n".join(lines) + "\n"


def _srdf(guess: Guess) -> list[str]:
    """Write what was taken from the SRDF, with its reasons; nothing where there is none."""
    found = guess.disabled
    if found is None:
        return []
    ratios, total = guess.contacts.ratios, guess.contacts.samples
    lines = [
        "",
        f"# srdf_contacts. The SRDF disables {found.count} pairs. These touch in some of {total} random postures by",
        "# their hulls, and in none by their true shapes. What never touches stays checked.",
        *(f"# Checked all the same: {shown(list(pair))}, {why}." for pair, why in found.kept.items()),
        *([f"# Links that the URDF has not: {shown(list(found.unknown))}"] if found.unknown else []),
        "srdf_contacts:" if found.taken else "srdf_contacts: []",
    ]
    for pair, reason in found.taken.items():
        lines.append(f"  - {_flow(pair)}  # {reason or 'no reason'}; in {ratios.get(pair, 0.0):.0%} of the postures")
    return lines


def _flow(value: Any) -> str:
    """Write a value on one line, as YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """Quote a text for YAML: links and joints may bear any name, also "y" or "on"."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def picture(profile: RobotProfile) -> npt.NDArray[np.uint8]:
    """Show the robot at home, beside its hand with open and with half closed fingers (480, 1440, 3)."""
    gripper, home = profile.gripper, np.array(profile.home_q_rad)
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(profile)
        world.robot.reset_arm(home, gripper.max_width_m)
        T = world.robot.tool_pose()
        size_m = max(0.5, float(np.linalg.norm(T[:3, 3])))
        eye = np.array([1.5, 1.5, 1.2]) * size_m
        shots = [world.render(_K, look_at(eye, np.array([0.35, 0.0, 0.35]) * size_m))[0]]
        across = T[:3, "xy".index("x" if gripper.closing_axis == "y" else "y")]
        near = T[:3, 3] + 0.42 * across + np.array([0.0, 0.0, 0.16])
        aim = T[:3, 3] - 0.06 * T[:3, 2]
        for width_m in (gripper.max_width_m, gripper.max_width_m / 3):
            world.robot.reset_arm(home, width_m)
            shots.append(world.render(_K, look_at(near, aim))[0])
    shown: npt.NDArray[np.uint8] = np.ascontiguousarray(np.concatenate(shots, axis=1), dtype=np.uint8)
    return shown


def write_robot(
    folder: Path, urdf: Path, guess_robot: Callable[[Path, str, Path | None], Guess], srdf: Path | None = None
) -> list[str]:
    """Write robot.yaml, the URDF that it uses and robot.png into a new folder; return what is in it, a line a file.

    The URDF is a copy that says where each mesh is on this machine.

    Raises:
        BadInputError: the URDF cannot be used; no folder is left then.
    """
    name = folder.resolve().name
    root = with_mesh_paths(urdf)
    with tempfile.TemporaryDirectory(prefix="robot_init_") as kept:
        copy = Path(kept) / f"{name}.urdf"
        copy.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
        guess = guess_robot(copy, name, srdf)
        guess.data["urdf"] = copy.name
        (Path(kept) / "robot.yaml").write_text(robot_yaml(guess), encoding="utf-8")
        profile = load_unconfirmed_robot(str(Path(kept) / "robot.yaml"))
        Image.fromarray(picture(profile)).save(Path(kept) / "robot.png")
        shutil.copytree(kept, folder)
    gripper = guess.data["gripper"]
    opening = f"{gripper['max_width_m'] * 1000:.0f} mm between {' and '.join(gripper['finger_links'])}"
    of_srdf = []
    if (found := guess.disabled) is not None:
        line = f"{srdf}: of its {found.count} pairs {len(found.taken)} touch by their hulls alone and are taken"
        line += f", {len(found.kept)} stay checked" if found.kept else ""
        line += f"; it names links that the URDF has not: {shown(', '.join(found.unknown))}" if found.unknown else ""
        of_srdf = [line]
    return [
        f"{folder / 'robot.yaml'}: {len(guess.data['joints'])} joints, a gripper that opens {opening}; guessed",
        f"{folder / copy.name}: the URDF, with the meshes of this machine",
        f"{folder / 'robot.png'}: at home, and its hand open and a third open; is it so?",
        *of_srdf,
        f"next: qwen2vl-robot robot check {folder / 'robot.yaml'}",
    ]
