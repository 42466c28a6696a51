"""REQUEST.yaml → a rehearsed answer, without camera or planner; see sim/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from qwen2vl_robot.bounds import BODIES, SEGMENTS
from qwen2vl_robot.cell import ZoneRule
from qwen2vl_robot.config import NonNegative, RobotProfile, Strict, load_robot, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_quat
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Effect,
    GripperSegment,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Segment,
    Shape,
    Sphere,
    Verdict,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.sides import ROBOT_SIDES
from qwen2vl_robot.validation.answer import to_answer
from qwen2vl_robot.validation.findings import RehearsalCase
from qwen2vl_robot.validation.form import MAX_DURATION_S, MIN_STEP_S
from qwen2vl_robot.validation.pool import RehearsalProcess

_GRIP_S = 1.0  # default duration of a gripper segment
_BUDGET_S, _BUDGET_RATIO = 20.0, 4.0  # fixed part, and per second of motion; enough for a slow machine
_SAME_RAD = 1e-6
_STANDS_M = 0.01  # a body without support within this distance is fixed in space
_SIZES = {"box": "[x, y, z]", "cylinder": "[diameter, height]", "sphere": "[diameter]", "container": "[x, y, z, wall]"}
_Size = Annotated[float, Field(gt=0.0, le=2.0)]
_Near = Annotated[float, Field(ge=-5.0, le=5.0)]
_Time = Annotated[float, Field(ge=0.0, le=MAX_DURATION_S)]


class ObjectRequest(Strict):
    """A body of the scene; its pose is that of the shape's centre. Mass 0 fixes the body in space."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    shape: Literal["box", "cylinder", "sphere", "container"]
    size_m: tuple[_Size, ...]
    position_m: tuple[_Near, _Near, _Near]
    quat_xyzw: tuple[_Near, _Near, _Near, _Near] = (0.0, 0.0, 0.0, 1.0)
    mass_kg: NonNegative | None = None
    friction: NonNegative | None = None

    @field_validator("quat_xyzw")
    @classmethod
    def _is_unit(cls, quat_xyzw: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        length = float(np.linalg.norm(quat_xyzw))
        if abs(length - 1.0) > 0.02:
            raise ValueError(f"its length is {length:g}, a unit quaternion is needed")
        return quat_xyzw

    @model_validator(mode="after")
    def _size_fits_shape(self) -> ObjectRequest:
        wanted = _SIZES[self.shape]
        if len(self.size_m) != wanted.count(",") + 1:
            raise ValueError(f"size_m of a {self.shape} is {wanted}, given {list(self.size_m)}")
        if self.shape == "container" and self.size_m[3] >= min(self.size_m[0] / 2, self.size_m[1] / 2, self.size_m[2]):
            raise ValueError(f"a wall of {self.size_m[3]} m leaves no hollow in {list(self.size_m[:3])} m")
        return self

    def to_object(self) -> SceneObject:
        """Convert to a body of a scene."""
        s = self.size_m
        shape: Shape
        if self.shape == "box":
            shape = Box((s[0], s[1], s[2]))
        elif self.shape == "cylinder":
            shape = Cylinder(s[0], s[1])
        elif self.shape == "sphere":
            shape = Sphere(s[0])
        else:
            shape = Container((s[0], s[1], s[2]), s[3])
        pose = freeze(make_pose(self.position_m, rotation_from_quat(self.quat_xyzw)))
        return SceneObject(self.name, shape, pose, mass_kg=self.mass_kg, friction=self.friction)


class PointRequest(Strict):
    """Positions of all joints at a time from the motion's start."""

    time_s: _Time
    positions_rad: tuple[float, ...]


class GripperRequest(Strict):
    """A movement of the fingers to a width while the arm rests."""

    width_m: NonNegative
    seconds: Annotated[float, Field(gt=0.0, le=30.0)] | None = None


class SegmentRequest(Strict):
    """Either a run of joint points or a movement of the gripper."""

    joints: Annotated[tuple[PointRequest, ...], Field(min_length=1)] | None = None
    gripper: GripperRequest | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> SegmentRequest:
        if (self.joints is None) == (self.gripper is None):
            raise ValueError("a segment is either joints or gripper")
        return self


class Request(Strict):
    """A motion to check, with everything that it depends on."""

    robot: str = "franka_panda"
    joint_names: tuple[str, ...] | None = None
    start_q_rad: tuple[float, ...]
    start_width_m: NonNegative | None = None
    table_height_m: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    objects: Annotated[tuple[ObjectRequest, ...], Field(max_length=BODIES)] = ()
    zones: Annotated[tuple[ZoneRule, ...], Field(max_length=BODIES)] = ()
    motion: Annotated[tuple[SegmentRequest, ...], Field(min_length=1, max_length=SEGMENTS)]
    picks: str | None = None


def check_request(path: str | Path) -> dict[str, Any]:
    """Rehearse the motion of a request file; `to_answer` says what the answer holds.

    Raises:
        BadInputError: the file is wrong; one line names the value and what is allowed.
    """
    return to_answer(*rehearse_request(path))


def rehearse_request(path: str | Path) -> tuple[Verdict, RehearsalCase]:
    """Rehearse the motion of a request file: the verdict, with a picture of a refusal, and what it is about.

    Raises:
        BadInputError: as `check_request`.
    """
    profile, scene, start, motion = load_request(path)
    budget_s = _BUDGET_S + _BUDGET_RATIO * motion.duration_s
    with RehearsalProcess(profile, budget_s=budget_s) as rehearsal:
        rehearsal.start()  # a robot that cannot be loaded is bad input, not a refusal
        return rehearsal.rehearse(motion, scene, start), RehearsalCase(motion, scene, start, profile)


def load_request(path: str | Path) -> tuple[RobotProfile, Scene, RobotState, Motion]:
    """Read a request file into the messages for a rehearsal.

    Raises:
        BadInputError: as `check_request`.
    """
    file = Path(path)
    return understand(load_yaml(file, Request), file)


def understand(request: Request, file: Path) -> tuple[RobotProfile, Scene, RobotState, Motion]:
    """Convert a request into the messages for a rehearsal; `file` is for messages.

    Raises:
        BadInputError: as `check_request`.
    """
    profile = load_robot(request.robot)
    request = _in_robot_order(request, profile, file)
    start = _start(request, profile, file)
    scene = _scene(request, file)
    motion = Motion(profile.name, _segments(request, profile, file), _effect(request, scene, file))
    return profile, scene, start, motion


def _in_robot_order(request: Request, profile: RobotProfile, file: Path) -> Request:
    """Reorder all joints to the order of the robot file."""
    names, known = request.joint_names, [joint.name for joint in profile.joints]
    if names is None:
        return request
    for name in names:
        if name not in known:
            raise BadInputError(
                f"{file}: joint_names: {name!r} is no joint of {profile.name}; it has {', '.join(known)}"
            )
    if sorted(names) != sorted(known):
        raise BadInputError(f"{file}: joint_names: each of {', '.join(known)} is needed once")

    def ordered(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) != len(names) else tuple(values[names.index(name)] for name in known)

    motion = tuple(
        segment
        if segment.joints is None
        else segment.model_copy(
            update={
                "joints": tuple(
                    p.model_copy(update={"positions_rad": ordered(p.positions_rad)}) for p in segment.joints
                )
            }
        )
        for segment in request.motion
    )
    return request.model_copy(update={"start_q_rad": ordered(request.start_q_rad), "motion": motion})


def _effect(request: Request, scene: Scene, file: Path) -> Effect:
    loose = [body.name for body in scene.objects]
    if request.picks is None:
        return Effect("none")
    if request.picks not in loose:
        movable = ", ".join(loose) or "none"
        raise BadInputError(f"{file}: picks: no movable object {request.picks!r}; movable objects: {movable}")
    return Effect("hold", request.picks)


def _start(request: Request, profile: RobotProfile, file: Path) -> RobotState:
    _check_count("start_q_rad", request.start_q_rad, profile, file)
    for joint, q in zip(profile.joints, request.start_q_rad, strict=True):
        if not joint.lower_rad <= q <= joint.upper_rad:
            allowed = f"allowed {joint.lower_rad} to {joint.upper_rad}"
            raise BadInputError(f"{file}: start_q_rad of {joint.name} is {q} rad, {allowed}")
    width_m = profile.gripper.max_width_m if request.start_width_m is None else request.start_width_m
    _check_width("start_width_m", width_m, profile, file)
    return RobotState(0, freeze(request.start_q_rad), freeze(np.zeros(len(profile.joints))), width_m)


def _check_count(what: str, values: tuple[float, ...], profile: RobotProfile, file: Path) -> None:
    if len(values) != len(profile.joints):
        raise BadInputError(f"{file}: {what} has {len(values)} values, {profile.name} has {len(profile.joints)} joints")


def _check_width(what: str, width_m: float, profile: RobotProfile, file: Path) -> None:
    if width_m > profile.gripper.max_width_m:
        raise BadInputError(f"{file}: {what} is {width_m} m, allowed 0 to {profile.gripper.max_width_m}")


# ------------------------------------------------------------------------------------------------- scene


def _scene(request: Request, file: Path) -> Scene:
    names = [body.name for body in request.objects]
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"{file}: {names.count(name)} objects are named {name!r}; each needs a name of its own")
    bodies = [body.to_object() for body in request.objects]
    loose = tuple(body for body in bodies if body.mass_kg != 0.0 and _stands(body, bodies, request.table_height_m))
    fixed = tuple(body for body in bodies if body not in loose)
    zones = tuple(zone.to_zone() for zone in request.zones)
    return Scene(loose, fixed, request.table_height_m, zones=zones, sides=ROBOT_SIDES)


def _stands(body: SceneObject, bodies: list[SceneObject], table_height_m: float) -> bool:
    """Check whether the table or another body is right below a body; otherwise something must hold it in the air."""
    low, high = _bounds_m(body)
    if low[2] < table_height_m + _STANDS_M:
        return True
    for other in bodies:
        other_low, other_high = _bounds_m(other)
        overlaps = (other_low[:2] < high[:2]).all() and (low[:2] < other_high[:2]).all()
        if other is not body and overlaps and other_low[2] < low[2] < other_high[2] + _STANDS_M:
            return True
    return False


def _bounds_m(body: SceneObject) -> tuple[Array, Array]:
    """Compute the lowest and highest corner (3,) of a body's bounding box, base frame."""
    half_m = np.abs(body.T_base_object[:3, :3]) @ np.array(shape_size_m(body.shape)) / 2
    return body.T_base_object[:3, 3] - half_m, body.T_base_object[:3, 3] + half_m


# ------------------------------------------------------------------------------------------------ motion


def _segments(request: Request, profile: RobotProfile, file: Path) -> tuple[Segment, ...]:
    """Join the segments in time."""
    segments: list[Segment] = []
    at_s, q_rad = 0.0, freeze(request.start_q_rad)
    for index, segment in enumerate(request.motion):
        name = f"motion.{index}"
        if segment.joints is not None:
            stretch = _joints(name, segment.joints, at_s, q_rad, profile, file)
            segments.append(stretch)
            q_rad = stretch.q_rad[-1]
        elif segment.gripper is not None:
            _check_width(f"{name}.gripper.width_m", segment.gripper.width_m, profile, file)
            end_s = _grip_end_s(request, index, at_s, q_rad, file)
            segments.append(GripperSegment(at_s, end_s, segment.gripper.width_m))
        at_s = segments[-1].end_s
    if at_s > MAX_DURATION_S:
        raise BadInputError(f"{file}: the motion lasts {at_s:g} s, allowed are {MAX_DURATION_S:g} s")
    return tuple(segments)


def _joints(
    name: str, points: tuple[PointRequest, ...], at_s: float, q_rad: Array, profile: RobotProfile, file: Path
) -> JointSegment:
    """Build a joint segment; if its first point is later than `at_s`, start it where the arm is."""
    for number, point in enumerate(points):
        _check_count(f"{name}.joints.{number}.positions_rad", point.positions_rad, profile, file)
    time_s = [point.time_s for point in points]
    positions = [np.array(point.positions_rad) for point in points]
    if time_s[0] > at_s + MIN_STEP_S:
        time_s, positions = [at_s, *time_s], [q_rad, *positions]
    elif at_s > 0.0 and np.abs(positions[0] - q_rad).max() > _SAME_RAD:
        jump_rad = float(np.abs(positions[0] - q_rad).max())
        raise BadInputError(
            f"{file}: {name} begins {jump_rad:g} rad from where the arm is at {at_s:g} s; segments must join"
        )
    if abs(time_s[0] - at_s) > MIN_STEP_S:
        raise BadInputError(f"{file}: {name} begins at {time_s[0]:g} s, the segment before it ends at {at_s:g} s")
    time_s[0] = at_s
    if len(time_s) < 2:
        raise BadInputError(
            f"{file}: {name}.joints has one point, at its start; add points with a position and a later time"
        )
    for before_s, after_s in zip(time_s[:-1], time_s[1:], strict=True):
        if after_s - before_s < MIN_STEP_S:
            raise BadInputError(f"{file}: {name}.joints: time_s {after_s:g} after {before_s:g}; times must increase")
    return JointSegment(freeze(time_s), freeze(positions))


def _grip_end_s(request: Request, index: int, at_s: float, q_rad: Array, file: Path) -> float:
    """End after the given `seconds`, else when the next joints begin at the arm's place, else after 1 s."""
    gripper, following = request.motion[index].gripper, request.motion[index + 1 : index + 2]
    if gripper is not None and gripper.seconds is not None:
        return at_s + gripper.seconds
    first = following[0].joints[0] if following and following[0].joints is not None else None
    if first is None or first.positions_rad != tuple(q_rad.tolist()):
        return at_s + _GRIP_S
    if first.time_s < at_s + MIN_STEP_S:
        raise BadInputError(
            f"{file}: motion.{index + 1} begins at {first.time_s:g} s, when the gripper begins to move; "
            f"give it time until {at_s + _GRIP_S:g} s or set gripper.seconds"
        )
    return first.time_s
