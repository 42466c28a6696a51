"""Motion, scene and start → what is not well formed, or does not begin where the arm is.

Later stages rely on what passes here: types, finite numbers, shapes, joins, rigid poses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.guarded import Guarded
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Effect,
    GripperSegment,
    Hull,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Segment,
    Sphere,
    Violation,
    Zone,
    shape_size_m,
)
from qwen2vl_robot.reasons import ViolationKind

MAX_DURATION_S = 300.0
MIN_STEP_S = 1e-4  # closer points leave too few digits for a jerk
MAX_POINTS = 100_000
MAX_TOLERANCE_M = 0.1  # of an effect's place
MAX_FAR_M = 20.0  # no table scene is larger
_TIME_SLACK_S = 1e-6
_JUMP_SLACK_RAD = 1e-6
_EFFECTS = ("hold", "release", "push", "show", "none")


def check_form(motion: Motion, scene: Scene, start: RobotState, profile: RobotProfile) -> tuple[Violation, ...]:
    """Check the form of a motion, its scene and its start; report the first group of checks that fails.

    Later groups rely on the earlier ones.
    """
    groups = (  # generators: a later one runs only where the earlier ones found nothing
        _check_types(motion, scene, start),
        _check_finite(motion, scene, start),
        _check_format(motion, profile),
        _check_scene(motion.effect, scene, start),
        _check_start(motion, start, profile),
    )
    for group in groups:
        found = tuple(group)
        if found:
            return found
    return ()


def _check_types(motion: Motion, scene: Scene, start: RobotState) -> Iterator[Violation]:
    """Check types at run time, because the input need not come from our own code."""
    given: list[tuple[object, type | tuple[type, ...]]] = [(motion, Motion), (scene, Scene), (start, RobotState)]
    if isinstance(motion, Motion):
        given += [(motion.effect, Effect), (motion.guarded, (Guarded, type(None)))]
        given += [(motion.guarded.index, int)] if isinstance(motion.guarded, Guarded) else []
        given += [*((s, (JointSegment, GripperSegment)) for s in motion.segments)]
    if isinstance(scene, Scene):
        given += [(body, SceneObject) for body in scene.bodies()]
        given += [(body.shape, (Box, Cylinder, Sphere, Container, Hull)) for body in scene.bodies()]
        given += [(zone, Zone) for zone in scene.zones]
    found = False
    for value, kind in given:
        if not isinstance(value, kind):
            found = True
            yield Violation(
                ViolationKind.FORMAT, None, (f"a {type(value).__name__} where it does not belong",), 1.0, ""
            )
    for name, numbers in () if found else _numbers(motion, scene, start):
        if not _is_numeric(numbers):
            yield Violation(ViolationKind.FORMAT, None, (f"{name} is not made of numbers",), 1.0, "")


def _is_numeric(numbers: object) -> bool:
    if isinstance(numbers, np.ndarray):
        return numbers.dtype.kind in "fiu"
    return all(isinstance(n, int | float) for n in (numbers if isinstance(numbers, tuple | list) else (numbers,)))


# ----------------------------------------------------------------------------------------------- finite


def _check_finite(motion: Motion, scene: Scene, start: RobotState) -> Iterator[Violation]:
    for name, values in _numbers(motion, scene, start):
        array = np.asarray(values, dtype=np.float64)
        wrong = int(np.count_nonzero(~np.isfinite(array)))
        if wrong:
            yield Violation(ViolationKind.NON_FINITE, None, (name,), float(wrong), "values")


def _numbers(motion: Motion, scene: Scene, start: RobotState) -> Iterator[tuple[str, object]]:
    """Yield every number used in a computation, with the name for messages."""
    for index, segment in enumerate(motion.segments):
        if isinstance(segment, JointSegment):
            yield f"segment {index} time_s", segment.time_s
            yield f"segment {index} q_rad", segment.q_rad
        else:
            yield f"segment {index}", (segment.start_s, segment.end_s, segment.width_m, segment.meets_m)
    if motion.guarded is not None:
        yield "guarded segment", (motion.guarded.since_s, *np.ravel(motion.guarded.height_m))
    yield "effect tolerance_m", motion.effect.tolerance_m
    if motion.effect.T_base_object is not None:
        yield "effect T_base_object", motion.effect.T_base_object
    for body in scene.bodies():
        yield f"{body.name} pose", body.T_base_object
        yield f"{body.name} corners", [x for corner in getattr(body.shape, "vertices_m", ()) for x in corner]
        yield f"{body.name} boxes", np.ravel(getattr(body.shape, "boxes_m", ()))
        yield f"{body.name} size", shape_size_m(body.shape)
        yield f"{body.name} wall", getattr(body.shape, "wall_m", 0.0)
        yield f"{body.name} mass and friction", [v for v in (body.mass_kg, body.friction) if v is not None]
    yield "table height", scene.table_height_m
    if scene.T_tool_held is not None:
        yield "T_tool_held", scene.T_tool_held
    for zone in scene.zones:
        yield f"zone {zone.name}", (*zone.min_m, *zone.max_m, zone.speed_mps)
    for what, boxes_m in (("unseen space", scene.unseen_m), ("unseen room", scene.shadow_m)):
        if boxes_m is not None:
            yield what, boxes_m
    if scene.sides is not None:
        yield "sides", (*scene.sides.left_xy, *scene.sides.behind_xy)
    yield "start q_rad", start.q_rad
    yield "start dq_radps", start.dq_radps
    yield "start gripper_width_m", start.gripper_width_m


# ----------------------------------------------------------------------------------------------- format


def _check_format(motion: Motion, profile: RobotProfile) -> Iterator[Violation]:
    if motion.robot != profile.name:
        yield Violation(ViolationKind.FORMAT, None, (f"motion for {motion.robot!r}, robot {profile.name!r}",), 1.0, "")
    if not motion.segments:
        yield Violation(ViolationKind.FORMAT, None, ("a motion without segments",), 0.0, "segments")
    if motion.effect.kind not in _EFFECTS:
        yield Violation(
            ViolationKind.FORMAT, None, (f"effect {motion.effect.kind!r}; known: {', '.join(_EFFECTS)}",), 1.0, ""
        )
    points = sum(len(s.time_s) for s in motion.segments if isinstance(s, JointSegment))
    if points > MAX_POINTS:
        yield Violation(ViolationKind.FORMAT, None, (f"at most {MAX_POINTS} points",), float(points), "points")
    found = [v for i, s in enumerate(motion.segments) for v in _check_segment(i, s, len(profile.joints))]
    yield from found
    if not found:
        yield from _check_joins(motion)
        yield from _check_guarded(motion)


def _check_segment(index: int, segment: Segment, joints: int) -> Iterator[Violation]:
    name = f"segment {index}"
    if isinstance(segment, GripperSegment):
        if segment.end_s - segment.start_s < MIN_STEP_S:
            yield Violation(ViolationKind.FORMAT, segment.start_s, (name,), segment.end_s - segment.start_s, "s")
        return
    time_s, q_rad = np.asarray(segment.time_s), np.asarray(segment.q_rad)
    if time_s.ndim != 1 or len(time_s) < 2 or q_rad.shape != (len(time_s), joints):
        shapes = f"{name} has times {time_s.shape} and positions {q_rad.shape}; (m,) and (m, {joints}) with m >= 2"
        yield Violation(ViolationKind.FORMAT, None, (shapes,), 1.0, "")
        return
    steps_s = np.diff(time_s)
    short = int(np.argmin(steps_s))
    if steps_s[short] < MIN_STEP_S:
        yield Violation(
            ViolationKind.FORMAT, float(time_s[short]), (f"{name} point {short + 1}",), float(steps_s[short]), "s later"
        )


def _check_guarded(motion: Motion) -> Iterator[Violation]:
    """Check that what is guarded is one joint segment, with a time in it and a height for each of its points."""
    guarded = motion.guarded
    if guarded is None:
        return
    segment = motion.segments[guarded.index] if 0 <= guarded.index < len(motion.segments) else None
    if (
        not isinstance(segment, JointSegment)
        or np.shape(guarded.height_m) != segment.time_s.shape
        or not segment.start_s < guarded.since_s < segment.end_s
    ):
        yield Violation(ViolationKind.FORMAT, None, (f"segment {guarded.index} cannot be guarded",), 1.0, "")


def _check_joins(motion: Motion) -> Iterator[Violation]:
    """Check that times and joints join without gaps; a gripper segment keeps the joints where they are."""
    end_s = 0.0
    q_rad: Array | None = None
    for index, segment in enumerate(motion.segments):
        gap_s = segment.start_s - end_s
        if abs(gap_s) > _TIME_SLACK_S:
            yield Violation(ViolationKind.FORMAT, end_s, (f"segment {index} does not join in time",), gap_s, "s")
        end_s = segment.end_s
        if isinstance(segment, JointSegment):
            if q_rad is not None:
                jump_rad = float(np.abs(segment.q_rad[0] - q_rad).max())
                if jump_rad > _JUMP_SLACK_RAD:
                    yield Violation(
                        ViolationKind.FORMAT,
                        segment.start_s,
                        (f"segment {index} does not join in joints",),
                        jump_rad,
                        "rad",
                    )
            q_rad = segment.q_rad[-1]
    if end_s > MAX_DURATION_S:
        yield Violation(ViolationKind.FORMAT, None, (f"longer than {MAX_DURATION_S:g} s",), end_s, "s")


# ------------------------------------------------------------------------------------ scene, start, effect


def _check_scene(effect: Effect, scene: Scene, start: RobotState) -> Iterator[Violation]:
    names = [body.name for body in scene.bodies()]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield Violation(ViolationKind.FORMAT, None, (name,), float(names.count(name)), "bodies of one name")
    for body in scene.bodies():
        yield from _check_body(body)
    for zone in scene.zones:
        thin_m = min(high - low for low, high in zip(zone.min_m, zone.max_m, strict=True))
        if thin_m <= 0.0 or zone.speed_mps < 0.0:
            yield Violation(
                ViolationKind.FORMAT, None, (f"zone {zone.name} is inside out",), min(thin_m, zone.speed_mps), "m"
            )
    for given_m in (scene.unseen_m, scene.shadow_m):
        boxes_m = np.zeros((0, 2, 3)) if given_m is None else np.asarray(given_m)
        if boxes_m.ndim != 3 or boxes_m.shape[1:] != (2, 3) or (boxes_m[:, 0] >= boxes_m[:, 1]).any():
            yield Violation(ViolationKind.FORMAT, None, ("unseen space is not made of boxes",), 1.0, "")
    if scene.held != start.held:
        problem = f"scene holds {scene.held!r}, start state {start.held!r}"
        yield Violation(ViolationKind.START_STATE, None, (problem,), 1.0, "")
    if scene.held is not None:
        if scene.held not in [body.name for body in scene.objects]:
            yield Violation(ViolationKind.START_STATE, None, (f"held {scene.held!r} is not in the scene",), 1.0, "")
        if scene.T_tool_held is None or not _is_pose(scene.T_tool_held):
            yield Violation(ViolationKind.START_STATE, None, (f"held {scene.held!r} has no pose in the tool",), 1.0, "")
    yield from _check_effect(effect, scene)


def _check_body(body: SceneObject) -> Iterator[Violation]:
    smallest_m = min(*shape_size_m(body.shape), getattr(body.shape, "wall_m", 1.0))
    if smallest_m <= 0.0:
        yield Violation(ViolationKind.FORMAT, None, (body.name, "size"), smallest_m, "m")
    if not _is_pose(body.T_base_object):
        yield Violation(ViolationKind.FORMAT, None, (body.name, "is not at a rigid pose"), 1.0, "")
        return
    farthest_m = float(max(np.abs(body.T_base_object[:3, 3]).max(), *shape_size_m(body.shape)))
    if farthest_m > MAX_FAR_M:
        yield Violation(
            ViolationKind.FORMAT, None, (body.name, f"more than {MAX_FAR_M:g} m large or away"), farthest_m, "m"
        )
    for what, value in (("mass_kg", body.mass_kg), ("friction", body.friction)):
        if value is not None and value < 0.0:
            yield Violation(ViolationKind.FORMAT, None, (body.name, what), value, "")


def _is_pose(T: Array) -> bool:
    T = np.asarray(T)
    if T.shape != (4, 4) or not np.allclose(T[3], [0, 0, 0, 1], atol=1e-9):
        return False
    R = T[:3, :3]
    return bool(np.allclose(R @ R.T, np.eye(3), atol=1e-6) and np.linalg.det(R) > 0.0)


def _check_effect(effect: Effect, scene: Scene) -> Iterator[Violation]:
    objects = [body.name for body in scene.objects]
    if effect.kind not in ("show", "none") and effect.name not in objects:
        yield Violation(
            ViolationKind.FORMAT, None, (f"effect on {effect.name!r}; the scene has {', '.join(objects)}",), 1.0, ""
        )
    if effect.kind in ("release", "push") and (effect.T_base_object is None or not _is_pose(effect.T_base_object)):
        yield Violation(ViolationKind.FORMAT, None, (f"effect {effect.kind} without a rigid pose",), 1.0, "")
    if not 0.0 < effect.tolerance_m <= MAX_TOLERANCE_M:  # with a wide tolerance any result would pass
        yield Violation(
            ViolationKind.FORMAT, None, (f"effect tolerance, at most {MAX_TOLERANCE_M} m",), effect.tolerance_m, "m"
        )
    expected = effect.name if effect.kind == "release" else None
    if effect.kind != "none" and scene.held != expected:
        problem = f"{effect.kind} {effect.name} with {scene.held or 'nothing'} in the gripper"
        yield Violation(ViolationKind.START_STATE, 0.0, (problem,), 1.0, "")


def _check_start(motion: Motion, start: RobotState, profile: RobotProfile) -> Iterator[Violation]:
    q_rad = np.asarray(start.q_rad)
    if q_rad.shape != (len(profile.joints),):
        problem = f"start has {q_rad.size} joints, {profile.name} {len(profile.joints)}"
        yield Violation(ViolationKind.START_STATE, 0.0, (problem,), float(q_rad.size), "joints")
        return
    if not 0.0 <= start.gripper_width_m <= profile.gripper.max_width_m + 0.002:
        yield Violation(ViolationKind.START_STATE, 0.0, ("gripper",), start.gripper_width_m, "m")
    for joint, q in zip(profile.joints, q_rad, strict=True):
        over_rad = max(joint.lower_rad - q, q - joint.upper_rad)
        if over_rad > 0.0:
            yield Violation(ViolationKind.START_STATE, 0.0, (joint.name,), float(over_rad), "rad")
    first = next((s.q_rad[0] for s in motion.segments if isinstance(s, JointSegment)), None)
    if first is not None:
        for joint, off_rad in zip(profile.joints, np.abs(first - q_rad), strict=True):
            if off_rad > profile.start_tolerance_rad:
                yield Violation(ViolationKind.START_STATE, 0.0, (joint.name,), float(off_rad), "rad")
