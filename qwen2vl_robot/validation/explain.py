"""Violations → one sentence: what would happen, when, how badly, and where there is room."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Scene, Violation
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.sides import Sides
from qwen2vl_robot.validation.unseen import unseen_index

_JOINT_RATES = {
    ViolationKind.JOINT_POSITION: "go beyond its limit",
    ViolationKind.JOINT_VELOCITY: "turn too fast",
    ViolationKind.JOINT_ACCELERATION: "speed up too hard",
    ViolationKind.JOINT_JERK: "jerk",
    ViolationKind.JOINT_TORQUE: "need more torque than it has",
}
_BREAKAGE = (ViolationKind.WORKER_CRASHED, ViolationKind.WORKER_TIMEOUT, ViolationKind.WORKER_RAISED)


def explain(
    violations: tuple[Violation, ...],
    scene: Scene,
    profile: RobotProfile,
    room_m: Array | None = None,
    *,
    is_grasp: bool = False,
) -> str:
    """Explain the first violation in one sentence; empty without violations.

    Args:
        room_m: (2,) the shortest known shift (x, y), base frame, that clears everything; None when none is known.
        is_grasp: whether the target of the grasp would still be between the fingers after that shift.
    """
    if not violations:
        return ""
    first = next((v for v in violations if v.kind != ViolationKind.UNCERTAIN), violations[0])
    event = _happens(first, [_called(name, scene, profile) for name in first.bodies])
    when = "" if first.time_s is None else f" after {first.time_s:.1f} s"
    doubt = next((f" ({v.bodies[0]})" for v in violations if v.kind == ViolationKind.UNCERTAIN), "")
    more = _to_vouch_for(violations, scene, profile) if first.kind == ViolationKind.UNSEEN else ""
    if room_m is not None:
        way = _way(room_m, scene.sides)
        more = f"; the nearest clear grasp is {way}" if is_grasp else f"; {way} there is room"
    return f"{event}{when}{_amount(first)}{doubt}{more}"


def _happens(v: Violation, names: list[str]) -> str:
    """Write the clause for a violation; `names` are its bodies as people call them."""
    a, b = (*names, "", "")[:2]
    if v.kind in _JOINT_RATES:
        return f"{a} would {_JOINT_RATES[v.kind]}"
    if v.kind in _BREAKAGE:
        return f"the rehearsal broke off: {', '.join(v.bodies)}"
    sentences = {
        ViolationKind.FORMAT: f"the motion or the scene is not well formed: {', '.join(v.bodies)}",
        ViolationKind.COLLISION: f"{a} would hit {b}",
        ViolationKind.SELF_COLLISION: f"{a} would hit {b}",
        ViolationKind.CONTACT: f"{a} would touch {b}",
        ViolationKind.FORCE: f"{a} would press too hard on {b}",
        ViolationKind.ZONE: f"{_other(names, 'zone')} would enter the {_one(v, 'zone')}",
        ViolationKind.ZONE_SPEED: f"{a} would be too fast in the zone {v.bodies[-1] if v.bodies else ''}",
        ViolationKind.TOOL_SPEED: f"{a} would be too fast",
        ViolationKind.WORKSPACE: f"{a} would leave the workspace",
        ViolationKind.UNSEEN: f"{_other(names, 'unseen')} would enter space that no camera has seen",
        ViolationKind.GRASP_SLIP: f"{a} would slip out of the fingers",
        ViolationKind.MOVED_OTHER: f"{a} would be {'knocked over' if 'toppled' in v.bodies else 'pushed away'}",
        ViolationKind.DROPPED: f"{a} would be let go too high and fall",
        ViolationKind.UNSETTLED: f"{a} {v.bodies[-1]}",
        ViolationKind.WRONG_EFFECT: f"{a} {v.bodies[-1]} in the end"
        if len(v.bodies) > 1
        else f"{a} would not get where it should",
        ViolationKind.START_STATE: f"the motion does not begin where the arm is: {', '.join(v.bodies)}",
        ViolationKind.NON_FINITE: f"{a} holds a number that is not finite",
        ViolationKind.UNCERTAIN: f"too uncertain: {', '.join(v.bodies)}",
    }
    return sentences[v.kind]


def _to_vouch_for(violations: tuple[Violation, ...], scene: Scene, profile: RobotProfile) -> str:
    """Write the box that the cell's file would have to declare free; empty where things stand and nobody can."""
    named = {unseen_index(body) for v in violations if v.kind == ViolationKind.UNSEEN for body in v.bodies}
    entered = [index for index in named if index is not None]
    if not entered or scene.unseen_m is None:
        return ""
    corners_m = scene.unseen_m[entered]
    low_m, high_m = np.floor(corners_m[:, 0].min(axis=0) * 100) / 100, np.ceil(corners_m[:, 1].max(axis=0) * 100) / 100
    if corners_m[:, 0, 2].min() < scene.table_height_m + profile.safety.things_below_m - 1e-6:
        return ""
    box = f"min_m: {[round(float(v), 2) for v in low_m]}, max_m: {[round(float(v), 2) for v in high_m]}"
    return f"; if nothing is ever there, the cell's file can say so: free: [{{name: above, {box}}}]"


def _amount(v: Violation) -> str:
    if v.kind in _BREAKAGE or v.unit not in ("m", "N", "m/s", "rad", "rad/s", "rad/s^2", "rad/s^3", "N m"):
        return ""
    return f", {v.amount * 1000:.0f} mm" if v.unit == "m" else f", {v.amount:.3g} {v.unit}"


def _called(name: str, scene: Scene, profile: RobotProfile) -> str:
    """Name a body as a person would: its label, the table, a finger, a part of the arm."""
    for side, link in zip(("left", "right"), profile.gripper.finger_links, strict=True):
        if name == link:
            return f"the {side} finger"
    known = {"table", *(body.name for body in scene.bodies())}
    return f"the {name}" if name in known else f"the arm's {name}"


def _one(v: Violation, word: str) -> str:
    return next((b for b in v.bodies if b.startswith(word)), word)


def _other(names: list[str], word: str) -> str:
    return next((n for n in names if word not in n), "the arm")


def _way(room_m: Array, sides: Sides | None) -> str:
    """Describe a shift (2,) by the scene's sides; where it has none, along the base frame's axes."""
    if sides is None:
        shifts = ((room_m[0], "along x", "against x"), (room_m[1], "along y", "against y"))
    else:  # in the picture of a camera that hangs askew left and behind are not square to each other
        left_m, away_m = np.linalg.solve(np.array([sides.left_xy, sides.behind_xy]).T, room_m)
        shifts = ((left_m, "to the left", "to the right"), (away_m, "farther away", "closer"))
    parts = [f"{abs(m) * 100:.0f} cm {more if m > 0 else less}" for m, more, less in shifts if abs(m) >= 0.005]
    return " and ".join(parts)
