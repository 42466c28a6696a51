"""A held object and its goal → motions that set it down there, let go and return home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert, make_pose, read_only
from qwen2vl_robot.messages import Container, Effect, Hull, Motion, Relation, SceneObject, Sphere, shape_size_m
from qwen2vl_robot.motion.attempts import Attempt
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import TIP_CLEARANCE_M, by_turn, downward, unexplained
from qwen2vl_robot.motion.job import LINE_SPEED_RATIO, Job, line_space, unsupported
from qwen2vl_robot.motion.path import check_line
from qwen2vl_robot.motion.timeline import PathFinder
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.relations import extent_m, has_side, outline_radius_m, placement_at, placements, spot_placements
from qwen2vl_robot.spots import Spot

_RELEASE_M = 0.004  # height of the object's bottom above its support when the fingers open
_RIM_CLEARANCE_M = 0.005  # height of the fingertips above a container's rim
_OPEN_ROOM_M = (0.030, 0.016)
_RELEASE_YAWS = 8
_PLACE_TOLERANCE_M = 0.03
_FALL_TOLERANCE_M = 0.05  # objects fall into a container


@dataclass(frozen=True, slots=True, eq=False)
class _Placing:
    """What to place where: the held object with `T_tool_held`; a relation and its reference object, or a spot."""

    held: SceneObject
    T_tool_held: Array
    relation: Relation | None = None
    reference: SceneObject | None = None
    spot: Spot | None = None

    @property
    def near(self) -> frozenset[str]:
        """Names of bodies that may come close during the motion."""
        if self.reference is None or self.relation not in (Relation.ON, Relation.IN):
            return frozenset({self.held.name})
        return frozenset({self.held.name, self.reference.name})

    @property
    def where(self) -> str:
        """Where that is, in words."""
        if self.relation is None or self.reference is None:
            return self.spot.text if self.spot is not None else ""
        return f"{self.relation.value} {self.reference.name}"


@dataclass(frozen=True, slots=True, eq=False)
class _Release:
    """A pose at which the fingers open.

    Attributes:
        T_base_tool: (4, 4) tool pose.
        p_base_m: (3,) centre of the object when it rests.
        room_m: how far the fingers open.
    """

    T_base_tool: Array
    p_base_m: Array
    room_m: float


def place(job: Job) -> Iterator[Motion]:
    """Make motions that set down what the gripper holds.

    Raises:
        MotionError: there is no free place, nothing is held, or the relation does not fit the objects.
    """
    placing = _read(job)
    others = [body for body in job.scene.bodies() if body is not placing.held]
    releases = _releases(job, placing, _free_places(job, placing, others))

    def attempts(clearance_m: float) -> Iterator[Attempt]:
        attached = (placing.held, placing.T_tool_held)
        before = job.model(others, attached, clearance_m=clearance_m, near=placing.near)
        for release in releases:
            yield partial(_attempt_release, job, before, clearance_m, placing, release)

    return job.each(attempts)


def _read(job: Job) -> _Placing:
    scene, action = job.scene, job.action
    if scene.held is None or scene.T_tool_held is None:
        raise unsupported("the gripper holds nothing to place; pick something first")
    held = job.find(scene.held, "place")
    if action.target not in (None, held.name):
        raise unsupported(f"the gripper holds {held.name}, not {action.target}; place what it holds")
    if isinstance(held.shape, Hull) and not held.shape.boxes_m:
        raise unexplained(held)
    if action.spot is not None and action.relation is None:
        return _Placing(held, scene.T_tool_held, spot=action.spot)
    reference = job.find(action.reference, "place beside, on or in")
    relation = _check_relation(action.relation, held, reference)
    return _Placing(held, scene.T_tool_held, relation, reference, action.spot)


def _check_relation(relation: Relation | None, held: SceneObject, reference: SceneObject) -> Relation:
    if relation is None:
        raise unsupported(f"place needs a relation: {', '.join(r.value for r in Relation)}")
    if reference.name == held.name:
        raise unsupported(f"{held.name} cannot be placed {relation.value} itself")
    if relation in (Relation.ON, Relation.IN) and isinstance(reference.shape, Hull):
        raise unexplained(reference)
    is_hollow = isinstance(reference.shape, Container)
    if relation is Relation.IN and not is_hollow:
        raise unsupported(f"{reference.name} has no hollow to place something in; use on or next_to")
    if relation is Relation.ON and (is_hollow or isinstance(reference.shape, Sphere)):
        instead = Relation.IN if is_hollow else Relation.NEXT_TO
        raise unsupported(f"{reference.name} has no flat top to place something on; use {instead.value}")
    return relation


def _free_places(job: Job, placing: _Placing, others: list[SceneObject]) -> list[Array]:
    """Find resting points (3,) in the workspace, the best first."""
    held, reference, relation = placing.held, placing.reference, placing.relation
    table_m = job.scene.table_height_m
    if relation is not None and reference is not None:
        blockers = [body for body in others if body is not reference]
        sides = job.sides if has_side(relation) else None
        points = placements(relation, held.shape, reference, blockers, job.rules, sides, table_m)
        if placing.spot is not None and relation in (Relation.ON, Relation.IN):
            points = [*placement_at(placing.spot, relation, held.shape, reference, blockers), *points]
    else:
        points = [] if placing.spot is None else spot_placements(placing.spot, held.shape, others, job.rules, table_m)
    points = [p for p in points if job.is_in_workspace(p)]
    if not points:
        across = f"{2000 * outline_radius_m(held.shape):.0f} mm across"
        raise MotionError(
            f"no free place {placing.where} for {held.name}, {across}: "
            f"{job.rules.gap_m * 1000:.0f} mm must stay free around it",
            reason=MotionReason.NO_SPACE,
        )
    return points


def _releases(job: Job, placing: _Placing, points: list[Array]) -> list[_Release]:
    """List the releases at every point, the best seen ones first; first with wide openings, then with narrow ones."""
    poses = [(T, p) for p in points for T in _tool_poses(job, placing, p)]
    poses.sort(key=lambda pose: job.hidden(pose[0]))
    return [_Release(T_base_tool, p, room_m) for room_m in _OPEN_ROOM_M for T_base_tool, p in poses]


def _tool_poses(job: Job, placing: _Placing, p_base_m: Array) -> Iterator[Array]:
    """Yield `T_base_tool` (4, 4) over one resting point (3,) for the yaws with the smallest turns of the wrist."""
    hand, shape, now_rad = job.robot.hand, placing.held.shape, job.current_yaw_rad
    yaws = by_turn([2 * np.pi * k / _RELEASE_YAWS + now_rad for k in range(_RELEASE_YAWS)], now_rad)
    support_m = p_base_m[2] - shape_size_m(shape)[2] / 2
    tips_m = support_m + TIP_CLEARANCE_M
    if placing.relation is Relation.IN and placing.reference is not None:
        tips_m = placing.reference.top_m + _RIM_CLEARANCE_M
    for yaw in yaws[: _RELEASE_YAWS // 2 + 1]:
        R = downward(p_base_m, yaw, hand.closing_axis)[:3, :3] @ placing.T_tool_held[:3, :3]
        bottom_m = float(extent_m(shape, R, np.array([[0.0, 0.0, -1.0]]))[0])
        T_base_held = make_pose([p_base_m[0], p_base_m[1], support_m + _RELEASE_M + bottom_m], R)
        T_base_tool = T_base_held @ invert(placing.T_tool_held)
        T_base_tool[2, 3] = max(T_base_tool[2, 3], tips_m + hand.pad_depth_m)
        yield T_base_tool


def _attempt_release(
    job: Job, before: CollisionModel, clearance_m: float, placing: _Placing, release: _Release, find_path: PathFinder
) -> Motion:
    held, width_m = placing.held, job.state.gripper_width_m
    line = job.descent(before, width_m, release.T_base_tool)
    upright = make_pose(release.p_base_m, _yaw_only(release.T_base_tool[:3, :3] @ placing.T_tool_held[:3, :3]))
    placed = replace(held, T_base_object=read_only(upright))
    rest = [body for body in job.scene.bodies() if body is not held]
    after = job.model([*rest, placed], clearance_m=clearance_m, near=placing.near)
    opening_m = min(width_m + release.room_m, job.robot.profile.gripper.max_width_m)
    check_line(line_space(after, opening_m, job.touching_fingers(held.name)), line[::-1])
    builder = job.builder()
    builder.travel(before, line[0], find_path)
    builder.follow(line, LINE_SPEED_RATIO)
    builder.open_to(opening_m)
    builder.follow(line[::-1], LINE_SPEED_RATIO)
    builder.travel(after, job.robot.home_rad, find_path)
    tolerance_m = _FALL_TOLERANCE_M if placing.relation is Relation.IN else _PLACE_TOLERANCE_M
    beside = None if placing.reference is None else placing.reference.name
    return builder.motion(Effect("release", held.name, placed.T_base_object, placing.relation, beside, tolerance_m))


def _yaw_only(R: Array) -> Array:
    """Compute the upright rotation nearest to one that is almost upright."""
    yaw = np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1])
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
