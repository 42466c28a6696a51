"""A Verdict → the answer of `check` as JSON holds it: the worst violation first, with the value and its limit."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from qwen2vl_robot.config import JointLimits
from qwen2vl_robot.messages import JointSegment, Verdict, Violation
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.explain import explain
from qwen2vl_robot.validation.findings import RehearsalCase

_HITS = (ViolationKind.COLLISION, ViolationKind.SELF_COLLISION, ViolationKind.FORCE, ViolationKind.CONTACT)
_PLACES = (ViolationKind.ZONE, ViolationKind.UNSEEN, ViolationKind.WORKSPACE)
_OBJECTS = (
    ViolationKind.DROPPED,
    ViolationKind.MOVED_OTHER,
    ViolationKind.GRASP_SLIP,
    ViolationKind.UNSETTLED,
    ViolationKind.WRONG_EFFECT,
)
_RATES = (
    ViolationKind.JOINT_POSITION,
    ViolationKind.JOINT_VELOCITY,
    ViolationKind.JOINT_ACCELERATION,
    ViolationKind.JOINT_JERK,
    ViolationKind.JOINT_TORQUE,
    ViolationKind.TOOL_SPEED,
    ViolationKind.ZONE_SPEED,
)
# What is not listed says that the motion could not be judged at all, and comes before everything.
_RANKS = (*((kind,) for kind in _HITS), *((kind,) for kind in _PLACES), *((k,) for k in _OBJECTS), _RATES)


def to_answer(verdict: Verdict, case: RehearsalCase) -> dict[str, Any]:
    """The answer as JSON holds it.

    A violation of a limit that has one number also holds this `limit` and the `value` that breaks it.
    """
    violations = worst_first(verdict.violations, case)
    return {
        "accepted": verdict.accepted,
        "violations": [_as_json(violation, case) for violation in violations],
        "explanation": _explain(verdict, violations, case),
        "trials": None if verdict.trials is None else asdict(verdict.trials),
        "seconds": round(verdict.seconds, 3),
    }


def worst_first(violations: tuple[Violation, ...], case: RehearsalCase) -> tuple[Violation, ...]:
    """Order by what would happen, then by how badly.

    Something is hit, a place is entered, an object is lost, a limit is broken.
    """

    def rank(violation: Violation) -> tuple[int, float]:
        kind = next((i for i, kinds in enumerate(_RANKS, 1) if violation.kind in kinds), 0)
        if violation.kind == ViolationKind.UNCERTAIN:
            kind = len(_RANKS) + 1
        known = value_and_limit(violation, case)
        excess = violation.amount if known is None else abs(known[0] / known[1]) if known[1] else math.inf
        return kind, -excess

    return tuple(sorted(violations, key=rank))


def value_and_limit(violation: Violation, case: RehearsalCase) -> tuple[float, float] | None:
    """What is beyond a limit, and the limit, in the violation's unit; None where no single number is the limit."""
    kind, amount = violation.kind, violation.amount
    if not math.isfinite(amount):
        return None
    if kind == ViolationKind.FORCE:  # its amount is the force itself
        return amount, case.profile.safety.contact_n
    if kind == ViolationKind.JOINT_POSITION:
        return _position(violation, case)
    limit = _limit(violation, case)
    return None if limit is None else (limit + amount, limit)


def _limit(violation: Violation, case: RehearsalCase) -> float | None:
    kind = violation.kind
    if kind == ViolationKind.TOOL_SPEED:
        return case.profile.safety.tool_speed_mps
    if kind == ViolationKind.ZONE_SPEED:
        return next((zone.speed_mps for zone in case.scene.zones if zone.name in violation.bodies), None)
    joint = _joint(violation, case)
    if joint is None:
        return None
    return {
        ViolationKind.JOINT_VELOCITY: joint.velocity_radps,
        ViolationKind.JOINT_ACCELERATION: joint.acceleration_radps2,
        ViolationKind.JOINT_JERK: joint.jerk_radps3,
        ViolationKind.JOINT_TORQUE: joint.effort_nm,
    }.get(kind)


def _joint(violation: Violation, case: RehearsalCase) -> JointLimits | None:
    return next((joint for joint in case.profile.joints if joint.name in violation.bodies), None)


def _position(violation: Violation, case: RehearsalCase) -> tuple[float, float] | None:
    """A joint's position farthest beyond its range (rad), and the end of the range that it passes."""
    joint = _joint(violation, case)
    if joint is None:
        return None
    index = case.profile.joints.index(joint)
    visited = [float(q[index]) for s in case.motion.segments if isinstance(s, JointSegment) for q in s.q_rad]
    low, high = min(visited, default=joint.lower_rad), max(visited, default=joint.upper_rad)
    if joint.lower_rad - low > high - joint.upper_rad:
        return low, joint.lower_rad
    return high, joint.upper_rad


def _explain(verdict: Verdict, violations: tuple[Violation, ...], case: RehearsalCase) -> str:
    """The verdict's own sentence, which knows the way to room, unless it is about a lesser kind or about a limit."""
    certain = [v for v in violations if v.kind != ViolationKind.UNCERTAIN]
    if not certain:
        return verdict.explanation
    worst = certain[0]
    known = value_and_limit(worst, case)
    if known is not None:
        shown = tuple(replace(v, amount=known[0]) if v is worst else v for v in violations)
        return f"{explain(shown, case.scene, case.profile)}; the limit is {known[1]:.4g} {worst.unit}"
    explained = next(v for v in verdict.violations if v.kind != ViolationKind.UNCERTAIN)
    if explained.kind == worst.kind:
        return verdict.explanation
    return explain(violations, case.scene, case.profile)


def _as_json(violation: Violation, case: RehearsalCase) -> dict[str, Any]:
    known = value_and_limit(violation, case)
    return {
        "kind": violation.kind,
        "time_s": violation.time_s,
        "bodies": list(violation.bodies),
        "amount": violation.amount,
        "unit": violation.unit,
        **({} if known is None else {"value": known[0], "limit": known[1]}),
    }
