"""A robot file → what was tried with it in simulation, what came out, and what is left for a person to confirm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.arms.contacts import sample_contacts
from qwen2vl_robot.bounds import shown
from qwen2vl_robot.bullet import TABLE, BulletWorld
from qwen2vl_robot.config import RelationRules, RobotProfile, load_yaml
from qwen2vl_robot.errors import BadInputError, MotionError
from qwen2vl_robot.geometry import make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, GroundedAction, RobotState, Scene, SceneObject, Verb, freeze
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.rehearsal import Twin

_POSTURES, _SAME_M = 50, 0.001
_SAMPLES, _DESIGN_RATIO, _FREE_RATIO = 300, 0.98, 0.2
_DOWN_COSINE = 0.99
_BLOCK_RATIO = 0.5  # of the opening
_PLACES_M = ((0.0, 0.0), (0.0, 0.08), (-0.06, -0.08))  # of the block, from under the tool at home
_TURN_RAD, _WAYS = 0.4, 3
_PICKED = 2  # of the places: one in an awkward spot, or with a perturbed world against it, says little
TO_CONFIRM = {
    "limits": "position, velocity, acceleration, jerk and effort of each joint: the manual's, or lower",
    "tool_link": "z points to the fingertips, the origin lies between the pads: measure on the hand",
    "gripper": "command the width 0 and the largest by hand: it closes and opens; speed and force suit it",
    "home": "the arm gets there from where it is; the camera sees the table past it",
    "allowed_contacts": "each pair touches by design; one of the SRDF by its hulls alone, never by its true shapes",
    "workspace": "no person, wall or cable is in the box",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check, and what came out."""

    check: str
    is_right: bool
    detail: str


def check_robot(profile: RobotProfile) -> list[Finding]:
    """Try a robot file in simulation, whether or not a person has confirmed it; nothing moves on the graph."""
    found = []
    for name, check in _CHECKS.items():
        try:
            found += [Finding(name, *result) for result in check(profile)]
        except (BadInputError, MotionError, ValueError) as error:
            found.append(Finding(name, False, str(error)))
        if name == "kinematics" and not found[-1].is_right:
            break  # nothing else can be tried
    return found


Results = Iterator[tuple[bool, str]]


def _kinematics(profile: RobotProfile) -> Results:
    """Motion's kinematics and the twin's must put the tool at the same place."""
    kinematics, rng = Kinematics(profile), np.random.default_rng(0)
    off_m = 0.0
    with BulletWorld() as world:
        world.add_robot(profile)
        for _ in range(_POSTURES):
            q_rad = rng.uniform(kinematics.lower_rad, kinematics.upper_rad)
            width_m = float(rng.uniform(0.0, profile.gripper.max_width_m))
            world.robot.reset_arm(q_rad, width_m)
            poses = kinematics.link_poses(q_rad, width_m)
            links = (profile.tool_link, *profile.gripper.finger_links)
            off_m = max(off_m, *(float(np.abs(poses[n] - world.robot.link_pose(n)).max()) for n in links))
    yield off_m < _SAME_M, f"two libraries put tool and fingers {off_m * 1000:.2f} mm apart in {_POSTURES} postures"


def _gripper(profile: RobotProfile) -> Results:
    kinematics, gripper = Kinematics(profile), profile.gripper
    widths_m = np.linspace(0.0, gripper.max_width_m, 12)
    off_m = max(abs(kinematics.pad_gap_m(float(w)) - float(w)) for w in widths_m)
    ends = f"{gripper.joints[0]}: closed {gripper.position(0.0):g}, open {gripper.position(gripper.max_width_m):g}"
    yield off_m <= 0.004, f"{ends}; the URDF's pads are within {off_m * 1000:.1f} mm of each width"


def _home(profile: RobotProfile) -> Results:
    T = Kinematics(profile).tool_pose(np.array(profile.home_q_rad), profile.gripper.max_width_m)
    x, y, z = T[:3, 3]
    low, high = profile.workspace.min_m, profile.workspace.max_m
    is_inside = bool((T[:3, 3] > low).all() and (T[:3, 3] < high).all())
    yield bool(T[2, 2] < -_DOWN_COSINE), f"the tool leans {np.rad2deg(np.arccos(np.clip(-T[2, 2], -1, 1))):.1f} deg"
    yield is_inside, f"the tool is at ({x:.3f}, {y:.3f}, {z:.3f}) m, {'in' if is_inside else 'outside'} the workspace"


def _self_collision(profile: RobotProfile) -> Results:
    """What is allowed must touch by design: a pair that only sometimes touches is a collision that nobody would see."""
    sampled = sample_contacts(profile, samples=_SAMPLES)
    touching = ", ".join(f"{a} and {b}" for a, b in sampled.at_home + sampled.by_design)
    yield not touching, f"touching at home or nearly always, and not allowed: {touching or 'none'}"
    share = f"{sampled.free_ratio:.0%} of {_SAMPLES} random postures are free of contact"
    yield sampled.free_ratio >= _FREE_RATIO, share
    nothing: dict[str, object] = {"allowed_contacts": (), "srdf_contacts": ()}
    bare = sample_contacts(profile.model_copy(update=nothing), samples=_SAMPLES)
    hand = _hand_links(profile)
    for a, b in profile.allowed_contacts:
        ratio = bare.ratios.get((min(a, b), max(a, b)), 0.0)
        if TABLE not in (a, b) and ratio < _DESIGN_RATIO and not {a, b} & hand:
            yield False, f"{a} and {b} are allowed to touch, and do in {ratio:.0%} of the postures: not by design"
    if profile.srdf_contacts:
        ratios = [bare.ratios.get((min(pair), max(pair)), 0.0) for pair in profile.srdf_contacts]
        idle = [pair for pair, ratio in zip(profile.srdf_contacts, ratios, strict=True) if not ratio]
        text = f"{len(ratios)} pairs of the SRDF touch in up to {max(ratios):.0%} of the postures, and none is refused"
        yield not idle, text + (f"; {shown(idle)} never touch: take them out" if idle else "")


def _hand_links(profile: RobotProfile) -> set[str]:
    kinematics = Kinematics(profile)
    frames = {f.name: f.parentJoint for f in kinematics.model.frames}
    return {link for link in kinematics.moving_links if frames[link] in kinematics.finger_joints}


def _pick(profile: RobotProfile) -> Results:
    """A block below the tool at home must be picked in the twin, in all its perturbed worlds."""
    kinematics = Kinematics(profile)
    at_m = kinematics.tool_pose(np.array(profile.home_q_rad))[:3, 3]
    side_m = round(_BLOCK_RATIO * profile.gripper.max_width_m, 3)
    rules = load_yaml(data_root() / "sim" / "tasks" / "relations.yaml", RelationRules)
    maker, twin = MotionMaker(profile, rules), Twin(profile)
    start = RobotState(
        0, freeze(np.array(profile.home_q_rad)), freeze(np.zeros(len(profile.joints))), profile.gripper.max_width_m
    )
    tried: list[tuple[bool, str]] = []
    try:
        for dx, dy in _PLACES_M:
            T = make_pose([at_m[0] + dx, at_m[1] + dy, side_m / 2], rotation_z(_TURN_RAD))
            block = SceneObject("block", Box((side_m, side_m, side_m)), freeze(T))
            tried.append(_try_pick(maker, twin, Scene((block,), ()), start, f"({T[0, 3]:.2f}, {T[1, 3]:.2f}) m"))
    finally:
        twin.close()
    picked = sum(is_picked for is_picked, _ in tried)
    yield picked >= _PICKED, f"{picked} of {len(tried)} blocks; {_PICKED} are enough. {'; '.join(t for _, t in tried)}"


def _try_pick(maker: MotionMaker, twin: Twin, scene: Scene, start: RobotState, where: str) -> tuple[bool, str]:
    why = ""
    try:
        for motion, _ in zip(maker.ways(GroundedAction(Verb.PICK, "block"), scene, start), range(_WAYS), strict=False):
            verdict = twin.rehearse(motion, scene, start)
            if verdict.accepted:
                return True, f"at {where}: in {motion.duration_s:.1f} s"
            why = why or verdict.violations[0].describe()
    except MotionError as error:
        why = why or str(error)
    return False, f"at {where}: not: {why}"


_CHECKS = {
    "kinematics": _kinematics,
    "gripper": _gripper,
    "home": _home,
    "self-collision": _self_collision,
    "pick in the twin": _pick,
}
