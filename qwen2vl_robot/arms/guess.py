"""A URDF → a robot file's data, guessed: what the URDF says, what its shapes show, cautious numbers for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.arms.contacts import Sampled, sample_contacts
from qwen2vl_robot.arms.hand import FoundHand, find_hand
from qwen2vl_robot.arms.joints import Anatomy, Joint, dissect
from qwen2vl_robot.arms.srdf import Disabled, read_disabled, sort_out
from qwen2vl_robot.bullet import TABLE
from qwen2vl_robot.config import RobotProfile, parse
from qwen2vl_robot.errors import BadInputError, MotionError
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.motion import ik
from qwen2vl_robot.urdf_files import read_urdf

_ONE_TURN_RAD = 3.1415  # either way, of a joint that turns without end; a driver may count its turns or not
_MOST_RAD = 6.2831
_SPEED_RADPS, _EFFORT_NM = 1.0, 20.0  # where the URDF gives none, or 0
_ACCELERATION_RADPS2, _JERK_RADPS3 = 2.0, 200.0
_WIDTH_MPS, _FORCE_N = 0.05, 20.0
_SAMPLES = 300
_DOWN = np.diag([1.0, -1.0, -1.0])
_AWAY_RATIO, _HEIGHT_RATIO = (0.5, 0.42, 0.58), (0.42, 0.5, 0.34)  # of the reach, for home
_YAWS_RAD = (0.0, math.pi / 2, -math.pi / 2, math.pi)
_TOOL_MPS = 1.0
CONFIRM = ("limits", "tool_link", "gripper", "home", "allowed_contacts", "workspace")


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """A robot file's data with what it was taken from.

    Attributes:
        data: the file's fields.
        missing: joint → limits that the URDF does not give, or gives as 0.
        disabled: what became of the SRDF's pairs, None without one.
    """

    data: dict[str, Any]
    anatomy: Anatomy
    hand: FoundHand
    contacts: Sampled
    missing: dict[str, tuple[str, ...]]
    disabled: Disabled | None = None


def guess_robot(urdf: Path, name: str, srdf: Path | None = None) -> Guess:
    """Guess everything that a robot file needs; nothing of it has been compared with the robot.

    Args:
        srdf: of the same robot: contacts that it disables are none, as far as `srdf.sort_out` takes them.

    Raises:
        BadInputError: not a URDF of one arm with one gripper, a mesh is missing, or no home pose was found.
    """
    anatomy = dissect(read_urdf(urdf))
    limits = [_limits(joint) for joint in anatomy.arm]
    data: dict[str, Any] = {
        "name": name,
        "urdf": str(urdf),
        "base_link": anatomy.base_link,
        "tool_link": anatomy.hand_link,
        "limits_source": "the URDF; acceleration and jerk are cautious choices",
        "joints": limits,
        "gripper": _blank_gripper(anatomy),
        "home_q_rad": [(j["lower_rad"] + j["upper_rad"]) / 2 for j in limits],
        "workspace": {"min_m": [-9.0, -9.0, -9.0], "max_m": [9.0, 9.0, 9.0]},
    }
    lower, upper = _way(anatomy.drivers[0])
    bare = Kinematics(parse(data, RobotProfile, str(urdf)), checks_pads=False)
    hand = find_hand(bare, anatomy.hand_link, anatomy.moved_links, lower, upper)
    data |= {"gripper": _gripper(anatomy, hand), "tool_link": hand.tool_link or f"{name}_tool"}
    if hand.tool_link is None:
        data["tool_mount"] = _mount(anatomy.hand_link, hand.T_hand_tool)
    data |= {"safety": {"tool_speed_mps": _TOOL_MPS}, "allowed_contacts": []}
    kinematics = Kinematics(parse(data, RobotProfile, str(urdf)))
    data["allowed_contacts"] = [[n, TABLE] for n in kinematics.link_hulls if n not in kinematics.moving_links]
    reach_m = _reach_m(kinematics)
    data["workspace"] = _workspace(reach_m)
    contacts = sample_contacts(kinematics.profile, anatomy.moved_links, _SAMPLES)
    data["allowed_contacts"] += [list(pair) for pair in contacts.by_design]
    disabled = None
    if srdf is not None:
        disabled = sort_out(read_disabled(srdf), kinematics, anatomy.moved_links, contacts)
        data["srdf_contacts"] = [list(pair) for pair in disabled.taken]
    data["home_q_rad"] = _home(kinematics, reach_m, parse(data, RobotProfile, str(urdf)))
    data["unconfirmed"] = list(CONFIRM)
    missing = {j.name: gaps for j in anatomy.arm if (gaps := _missing(j))}
    return Guess(data, anatomy, hand, contacts, missing, disabled)


def _missing(joint: Joint) -> tuple[str, ...]:
    values = {"position": joint.upper, "velocity": joint.velocity, "effort": joint.effort}
    gaps = tuple(name for name, value in values.items() if not value)
    return tuple(name for name in gaps if not (name == "position" and joint.kind == "continuous"))


def _limits(joint: Joint) -> dict[str, Any]:
    lower, upper = joint.lower, joint.upper
    if lower is None or upper is None or lower >= upper:
        lower, upper = -_ONE_TURN_RAD, _ONE_TURN_RAD
    return {
        "name": joint.name,
        "lower_rad": round(max(lower, -_MOST_RAD), 4),
        "upper_rad": round(min(upper, _MOST_RAD), 4),
        "velocity_radps": joint.velocity or _SPEED_RADPS,
        "acceleration_radps2": _ACCELERATION_RADPS2,
        "jerk_radps3": _JERK_RADPS3,
        "effort_nm": joint.effort or _EFFORT_NM,
    }


def _way(driver: Joint) -> tuple[float, float]:
    if driver.lower is None or driver.upper is None or driver.lower >= driver.upper:
        raise BadInputError(f"joint {driver.name} drives the gripper and has no limits: open and closed are not known")
    return driver.lower, driver.upper


def _blank_gripper(anatomy: Anatomy) -> dict[str, Any]:
    """A gripper whose widths are its driver's way from the lower limit: only to look at it."""
    lower, upper = _way(anatomy.drivers[0])
    links = anatomy.moved_links
    return {
        "joints": [d.name for d in anatomy.drivers],
        "position_by_width_m": [[0.0, lower], [upper - lower, upper]],
        "finger_links": [links[0], links[-1]],
        "max_width_m": upper - lower,
        "speed_mps": _WIDTH_MPS,
        "force_n": _FORCE_N,
        "pad_depth_m": 0.0,
        "finger_thickness_m": 0.01,
        "closing_axis": "y",
    }


def _gripper(anatomy: Anatomy, hand: FoundHand) -> dict[str, Any]:
    return _blank_gripper(anatomy) | {
        "position_by_width_m": [list(row) for row in hand.rows],
        "finger_links": list(hand.finger_links),
        "max_width_m": hand.rows[-1][0],
        "pad_depth_m": hand.pad_depth_m,
        "finger_thickness_m": hand.finger_thickness_m,
        "closing_axis": hand.closing_axis,
    }


def _mount(hand_link: str, T_hand_tool: Array) -> dict[str, Any]:
    R, p = T_hand_tool[:3, :3], T_hand_tool[:3, 3]
    pitch = math.asin(max(-1.0, min(1.0, -R[2, 0])))
    if abs(R[2, 0]) < 0.999:
        roll, yaw = math.atan2(R[2, 1], R[2, 2]), math.atan2(R[1, 0], R[0, 0])
    else:  # x points along the hand's z: only roll and yaw together are known
        roll, yaw = math.atan2(-R[1, 2], R[1, 1]), 0.0
    return {
        "parent_link": hand_link,
        "xyz_m": [round(float(v), 4) for v in p],
        "rpy_rad": [round(v, 6) for v in (roll, pitch, yaw)],
    }


def _reach_m(kinematics: Kinematics) -> float:
    """How far the tool comes from the base's axis, by random postures."""
    draws = np.random.default_rng(0).uniform(kinematics.lower_rad, kinematics.upper_rad, (400, kinematics.dof))
    return float(max(np.hypot(*kinematics.tool_pose(q)[:2, 3]) for q in draws))


def _workspace(reach_m: float) -> dict[str, list[float]]:
    side = round(min(0.9 * reach_m, 0.75), 2)
    return {"min_m": [-0.3, -side, -0.01], "max_m": [round(0.95 * reach_m, 2), side, round(reach_m + 0.3, 2)]}


def _home(kinematics: Kinematics, reach_m: float, profile: RobotProfile) -> list[float]:
    """Find joints with the tool in front of the arm, pointing down, the links high, with nothing that touches."""
    found: list[tuple[float, list[float]]] = []
    for away, up in zip(_AWAY_RATIO, _HEIGHT_RATIO, strict=True):
        for yaw in _YAWS_RAD:
            T = make_pose([away * reach_m, 0.0, up * reach_m], rotation_z(yaw) @ _DOWN)
            for near in np.random.default_rng(1).uniform(-1.6, 1.6, (8, kinematics.dof)):
                start = np.clip(near, kinematics.lower_rad, kinematics.upper_rad)
                try:
                    q_rad = ik.solve(kinematics, T, [start], posture_rad=start, random_seeds=0)
                except MotionError:
                    continue
                found.append((_merit(kinematics, q_rad), [round(float(q), 4) for q in q_rad]))
        for _, home in sorted(found, reverse=True):
            tried = profile.model_copy(update={"home_q_rad": tuple(home)})
            if not sample_contacts(tried, samples=0).at_home:
                return home
    raise BadInputError("no home pose was found: the tool pointing down in front of the arm; write home_q_rad by hand")


def _merit(kinematics: Kinematics, q_rad: Array) -> float:
    """Prefer links that are high, so that the elbow is over the table; then joints that are far from their limits."""
    poses = kinematics.link_poses(q_rad, 0.0)
    heights_m = [float(poses[link][2, 3]) for link in kinematics.moving_links]
    room_rad = float(np.minimum(q_rad - kinematics.lower_rad, kinematics.upper_rad - q_rad).min())
    turned_rad = float(np.abs(q_rad).max())
    return 10.0 * float(np.mean(heights_m)) + 2.0 * min(room_rad, 0.3) - 0.3 * turned_rad
