"""A well-formed motion → where it breaks limits: joint range and rates, tool speed, places.

Arithmetic only, without a robot model or a world. Between points the joints move linearly. Acceleration and jerk are
divided differences of the points. Each equals a short-time mean of the value of any smooth motion through these points,
so a value beyond the limit here is beyond the limit in every such motion. A motion starts and ends at rest, and rests
while the gripper moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.guarded import SPEED_MPS
from qwen2vl_robot.messages import GripperSegment, JointSegment, Motion, RobotState, Scene, Violation, Zone
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.form import check_form

_JOINT_SLACK_RAD = 1e-6
_HEIGHT_SLACK_M = 0.002  # of a guarded segment: far less than it takes to mistake a force
_RATIO_SLACK = 1e-3  # a motion at its limit may exceed it by rounding


def check(motion: Motion, scene: Scene, start: RobotState, profile: RobotProfile) -> tuple[Violation, ...]:
    """Check the numbers of a motion, its scene and its start: first their form, then the limits.

    Amounts of joint violations are the excess over the limit.
    """
    malformed = check_form(motion, scene, start, profile)
    if malformed:
        return malformed
    return (*_check_positions(motion, profile), *_check_rates(motion, profile), *_check_widths(motion, profile))


# ----------------------------------------------------------------------------------------- joints, gripper


def _check_positions(motion: Motion, profile: RobotProfile) -> Iterator[Violation]:
    for time_s, q_rad in _runs(motion):
        for j, joint in enumerate(profile.joints):
            over_rad = np.maximum(joint.lower_rad - q_rad[:, j], q_rad[:, j] - joint.upper_rad)
            if over_rad.max() > _JOINT_SLACK_RAD:
                first = float(time_s[np.argmax(over_rad > _JOINT_SLACK_RAD)])
                yield Violation(ViolationKind.JOINT_POSITION, first, (joint.name,), float(over_rad.max()), "rad")


def _check_rates(motion: Motion, profile: RobotProfile) -> Iterator[Violation]:
    limits = (
        (ViolationKind.JOINT_VELOCITY, [j.velocity_radps for j in profile.joints], "rad/s"),
        (ViolationKind.JOINT_ACCELERATION, [j.acceleration_radps2 for j in profile.joints], "rad/s^2"),
        (ViolationKind.JOINT_JERK, [j.jerk_radps3 for j in profile.joints], "rad/s^3"),
    )
    for run in _runs(motion):
        time_s, q_rad = _with_rest(*run)
        for order, (kind, limit, unit) in enumerate(limits, start=1):
            rate = np.abs(_divided_difference(time_s, q_rad, order))
            for j, joint in enumerate(profile.joints):
                too_fast = rate[:, j] > limit[j] * (1.0 + _RATIO_SLACK)
                if too_fast.any():
                    at_s = float(np.clip(time_s[np.argmax(too_fast)], run[0][0], run[0][-1]))
                    yield Violation(kind, at_s, (joint.name,), float(rate[:, j].max() - limit[j]), unit)


def _runs(motion: Motion) -> Iterator[tuple[Array, Array]]:
    """Yield times (m,) and positions (m, n) of each run of consecutive joint segments."""
    run: list[JointSegment] = []
    for segment in (*motion.segments, None):
        if isinstance(segment, JointSegment):
            run.append(segment)
        elif run:
            # Each later segment repeats the last point of the one before it.
            time_s = np.concatenate([run[0].time_s, *(s.time_s[1:] for s in run[1:])])
            yield time_s, np.concatenate([run[0].q_rad, *(s.q_rad[1:] for s in run[1:])])
            run = []


def _with_rest(time_s: Array, q_rad: Array) -> tuple[Array, Array]:
    """Add three points at rest before and after, spaced like the points next to them."""
    first_s, last_s = time_s[1] - time_s[0], time_s[-1] - time_s[-2]
    before_s = time_s[0] - first_s * np.array([3.0, 2.0, 1.0])
    after_s = time_s[-1] + last_s * np.array([1.0, 2.0, 3.0])
    padded = np.concatenate([[q_rad[0]] * 3, q_rad, [q_rad[-1]] * 3])
    return np.concatenate([before_s, time_s, after_s]), padded


def _divided_difference(time_s: Array, q_rad: Array, order: int) -> Array:
    """Compute the derivative of an order, (m - order, n), as a mean over `order` + 1 points.

    >>> _divided_difference(np.array([0.0, 1.0, 3.0]), np.array([[0.0], [1.0], [9.0]]), 2).tolist()
    [[2.0]]
    """
    values = q_rad
    for k in range(1, order + 1):
        values = np.diff(values, axis=0) / (time_s[k:] - time_s[:-k])[:, None] * k
    return values


def _check_widths(motion: Motion, profile: RobotProfile) -> Iterator[Violation]:
    for segment in motion.segments:
        if isinstance(segment, GripperSegment):
            for width_m in (segment.width_m, segment.meets_m):
                over_m = max(-width_m, width_m - profile.gripper.max_width_m)
                if over_m > 1e-9:
                    yield Violation(ViolationKind.FORMAT, segment.start_s, ("gripper width",), width_m, "m")


def states_of_motion(motion: Motion) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield times (k,), positions, velocities and accelerations (k, n) of each run, by divided differences."""
    for run in _runs(motion):
        time_s, q_rad = _with_rest(*run)
        dq, ddq = (_divided_difference(time_s, q_rad, order) for order in (1, 2))
        inner = slice(1, -1)
        yield time_s[inner], q_rad[inner], (dq[1:] + dq[:-1]) / 2, ddq


# ------------------------------------------------------------------------------------- the tool's places


def check_workspace(time_s: Array, p_base_tool_m: Array, profile: RobotProfile) -> tuple[Violation, ...]:
    """Check the tool's positions (m, 3) at times (m,): report how far it leaves the profile's workspace, if it does."""
    low, high = np.array(profile.workspace.min_m), np.array(profile.workspace.max_m)
    outside_m = np.maximum(low - p_base_tool_m, p_base_tool_m - high).max(axis=1)
    worst = int(np.argmax(outside_m))
    if outside_m[worst] <= 0.0:
        return ()
    first = int(np.argmax(outside_m > 0.0))
    return (
        Violation(ViolationKind.WORKSPACE, float(time_s[first]), (profile.tool_link,), float(outside_m[worst]), "m"),
    )


def check_speed(
    time_s: Array, p_base_tool_m: Array, profile: RobotProfile, zones: tuple[Zone, ...]
) -> Iterator[Violation]:
    """Check the tool's speed between positions (m, 3) at times (m,), everywhere and inside zones."""
    steps_s = np.diff(time_s)
    moved_m = np.linalg.norm(np.diff(p_base_tool_m, axis=0), axis=1)
    speed_mps = np.divide(moved_m, steps_s, out=np.zeros_like(moved_m), where=steps_s > 0.0)
    yield from _too_fast(
        ViolationKind.TOOL_SPEED, (profile.tool_link,), time_s, speed_mps, profile.safety.tool_speed_mps
    )
    for zone in zones:
        is_in = np.all((p_base_tool_m >= zone.min_m) & (p_base_tool_m <= zone.max_m), axis=1)
        inside: Array = np.where(is_in[:-1] | is_in[1:], speed_mps, 0.0)
        if zone.speed_mps > 0.0:
            yield from _too_fast(
                ViolationKind.ZONE_SPEED, (profile.tool_link, zone.name), time_s, inside, zone.speed_mps
            )


def check_guarded(time_s: Array, p_base_tool_m: Array, motion: Motion, profile: RobotProfile) -> Iterator[Violation]:
    """Check that a guarded segment is slow and its heights are true, by the tool's positions (m, 3) at times (m,)."""
    if motion.guarded is None:
        return
    segment = motion.segments[motion.guarded.index]
    assert isinstance(segment, JointSegment)
    is_in = (time_s >= segment.start_s) & (time_s <= segment.end_s)
    told_m = np.interp(time_s[is_in], segment.time_s, motion.guarded.height_m)
    off_m = float(np.abs(told_m - p_base_tool_m[is_in, 2]).max(initial=0.0))
    if is_in.sum() < 2 or off_m > _HEIGHT_SLACK_M or not (np.diff(motion.guarded.height_m) <= 0.0).all():
        yield Violation(ViolationKind.FORMAT, segment.start_s, ("heights of a guarded segment",), off_m, "m")
        return
    steps_s, moved_m = np.diff(time_s[is_in]), np.linalg.norm(np.diff(p_base_tool_m[is_in], axis=0), axis=1)
    speed_mps = np.divide(moved_m, steps_s, out=np.zeros_like(moved_m), where=steps_s > 0.0)
    yield from _too_fast(ViolationKind.TOOL_SPEED, (profile.tool_link,), time_s[is_in], speed_mps, SPEED_MPS)


def _too_fast(
    kind: ViolationKind, bodies: tuple[str, ...], time_s: Array, speed_mps: Array, limit_mps: float
) -> Iterator[Violation]:
    if len(speed_mps) and speed_mps.max() > limit_mps * (1.0 + _RATIO_SLACK):
        first = float(time_s[np.argmax(speed_mps > limit_mps * (1.0 + _RATIO_SLACK))])
        yield Violation(kind, first, bodies, float(speed_mps.max() - limit_mps), "m/s")
