"""A rehearsed step → what ~/rehearsal shows of it: the scene, the motion over time, the trials, what refused it.

docs/schemas holds the model's schema. Everything is bounded, so that the message stays below about 300 kB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import RobotProfile, Strict
from qwen2vl_robot.executor import JointTrack
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    GripperSegment,
    Hull,
    JointSegment,
    Motion,
    Scene,
    SceneObject,
    Sphere,
    Trace,
    Verdict,
    shape_size_m,
)
from qwen2vl_robot.nodes.reports import VerdictReport

MOST_SAMPLES, MOST_BODIES, MOST_UNSEEN, MOST_ZONES, MOST_CORNERS, MOST_JOINTS = 120, 64, 400, 64, 128, 16
MOST_TRACES, MOST_POINTS = 32, 60
_SAMPLED_S = 0.12  # a simulated span has a sample each 0.1 s
_MAX_NAME = 120
_KINDS: dict[type, Literal["box", "cylinder", "sphere", "container", "hull"]] = {
    Box: "box",
    Cylinder: "cylinder",
    Sphere: "sphere",
    Container: "container",
    Hull: "hull",
}

Number = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Number, Number, Number]
Name = Annotated[str, Field(max_length=_MAX_NAME)]


class BodyReport(Strict):
    """One body of the scene, as it was measured or is predicted."""

    name: Name
    is_named: bool = Field(description="false for an obstacle, which no plan names")
    is_held: bool = False
    kind: Literal["box", "cylinder", "sphere", "container", "hull"]
    size_m: Point
    wall_m: Number | None = None
    is_round: bool = False
    corners_m: list[Point] = Field(default=[], max_length=MOST_CORNERS, description="of a hull, in its own frame")
    T_base_body: list[Number] = Field(min_length=16, max_length=16, description="row by row")


class ZoneReport(Strict):
    name: Name
    min_m: Point
    max_m: Point
    speed_mps: Number = Field(description="0 keeps everything out")


class SceneReport(Strict):
    """The belief about the table in which the motion was rehearsed, base frame."""

    table_height_m: Number
    bodies: list[BodyReport] = Field(max_length=MOST_BODIES)
    zones: list[ZoneReport] = Field(max_length=MOST_ZONES)
    unseen_m: list[tuple[Point, Point]] = Field(
        max_length=MOST_UNSEEN, description="the largest boxes into which no camera has looked"
    )
    left_out: int = Field(description="bodies, zones, boxes and corners that are too many to show")


class UncertaintyReport(Strict):
    """How far the truth may lie from what is shown; the trials draw from it."""

    position_m: Number = Field(description="standard deviation of each body's place, horizontally")
    yaw_rad: Number = Field(description="standard deviation of each body's turn")
    size_m: Number = Field(description="each size may be off by this")
    camera_m: Number = Field(description="the camera's place may be off by this; it shifts all bodies alike")


class MotionReport(Strict):
    """The motion, sampled evenly; between two samples it is close to linear."""

    duration_s: Number
    time_s: list[Number] = Field(max_length=MOST_SAMPLES)
    q_rad: list[Annotated[list[Number], Field(max_length=MOST_JOINTS)]] = Field(max_length=MOST_SAMPLES)
    width_m: list[Number | None] = Field(
        max_length=MOST_SAMPLES, description="the opening that is commanded; null before the first command"
    )


class TrialsReport(Strict):
    count: int
    successes: int
    lower_bound: Number = Field(description="one-sided confidence bound of the share of successes")
    threshold: Number = Field(description="what the bound must reach")


class TraceReport(Strict):
    """Where the tool went in one perturbed roll-out, at times spread evenly over the motion.

    Where nothing could be touched no roll-out is simulated; there it is the motion with the joint error that was drawn.
    """

    failed: bool
    failed_s: Number | None = Field(description="when; null where no moment is known, or it did not fail")
    p_base_tool_m: list[Point] = Field(max_length=MOST_POINTS)


class RehearsalReport(Strict):
    """What the latest verdict is about, published on ~/rehearsal."""

    version: Literal[1] = 1
    robot: Name
    verdict: VerdictReport
    explanation: Annotated[str, Field(max_length=2000)] = ""
    uncertainty: UncertaintyReport
    scene: SceneReport | None
    motion: MotionReport | None
    trials: TrialsReport | None
    traces: list[TraceReport] = Field(default=[], max_length=MOST_TRACES, description="those that failed come first")


def rehearsal_report(
    report: VerdictReport,
    verdict: Verdict,
    scene: Scene | None,
    motion: Motion | None,
    profile: RobotProfile,
    kinematics: Kinematics | None = None,
) -> RehearsalReport:
    """Make the report of a step; `report` is what ~/verdict says of it. Without kinematics it has no traces."""
    u, trials = profile.safety.uncertainty, verdict.trials
    return RehearsalReport(
        robot=profile.name[:_MAX_NAME],
        verdict=report,
        explanation=verdict.explanation[:2000],
        uncertainty=UncertaintyReport(
            position_m=u.position_m, yaw_rad=u.yaw_rad, size_m=u.size_m, camera_m=u.extrinsics_m
        ),
        scene=None if scene is None else _scene(scene),
        motion=None if motion is None else _motion(motion),
        trials=None
        if trials is None
        else TrialsReport(
            count=trials.count,
            successes=trials.successes,
            lower_bound=trials.lower_bound,
            threshold=trials.threshold,
        ),
        traces=[] if kinematics is None else _traces(verdict.traces, motion, kinematics),
    )


def _scene(scene: Scene) -> SceneReport:
    bodies = [(body, True) for body in scene.objects] + [(body, False) for body in scene.obstacles]
    unseen = np.zeros((0, 2, 3)) if scene.unseen_m is None else np.asarray(scene.unseen_m)
    largest = unseen[np.argsort(-np.prod(unseen[:, 1] - unseen[:, 0], axis=1), kind="stable")][:MOST_UNSEEN]
    hulls = [body.shape for body, _ in bodies[:MOST_BODIES] if isinstance(body.shape, Hull)]
    too_many = ((len(bodies), MOST_BODIES), (len(scene.zones), MOST_ZONES), (len(unseen), MOST_UNSEEN))
    too_many += tuple((len(hull.vertices_m), MOST_CORNERS) for hull in hulls)  # type: ignore[assignment]
    return SceneReport(
        table_height_m=scene.table_height_m,
        bodies=[_body(body, is_named, scene) for body, is_named in bodies[:MOST_BODIES]],
        zones=[
            ZoneReport(name=z.name[:_MAX_NAME], min_m=z.min_m, max_m=z.max_m, speed_mps=z.speed_mps)
            for z in scene.zones[:MOST_ZONES]
        ],
        unseen_m=[(_point(low), _point(high)) for low, high in largest],
        left_out=sum(max(0, count - most) for count, most in too_many),
    )


def _body(body: SceneObject, is_named: bool, scene: Scene) -> BodyReport:
    shape = body.shape
    return BodyReport(
        name=body.name[:_MAX_NAME],
        is_named=is_named,
        is_held=body.name == scene.held,
        kind=_KINDS[type(shape)],
        size_m=_point(shape_size_m(shape)),
        wall_m=shape.wall_m if isinstance(shape, Container) else None,
        is_round=isinstance(shape, Container) and shape.is_round,
        corners_m=[_point(v) for v in shape.vertices_m[:MOST_CORNERS]] if isinstance(shape, Hull) else [],
        T_base_body=[round(float(v), 5) for v in np.asarray(body.T_base_object).ravel()],
    )


def _motion(motion: Motion) -> MotionReport | None:
    joints = [s for s in motion.segments if isinstance(s, JointSegment)]
    if not joints:
        return None
    track, grips = JointTrack(motion, joints[0].q_rad[0]), [s for s in motion.segments if isinstance(s, GripperSegment)]
    times_s = np.linspace(0.0, motion.duration_s, MOST_SAMPLES)
    return MotionReport(
        duration_s=motion.duration_s,
        time_s=[round(float(t), 4) for t in times_s],
        q_rad=[[round(float(q), 5) for q in track.at(float(t))[0]] for t in times_s],
        width_m=[_width(grips, float(t)) for t in times_s],
    )


def _traces(traces: Sequence[Trace], motion: Motion | None, kinematics: Kinematics) -> list[TraceReport]:
    """Each roll-out's way: as it was simulated, and between these spans the motion with the drawn joint error."""
    joints = [] if motion is None else [s for s in motion.segments if isinstance(s, JointSegment)]
    if motion is None or not joints:
        return []
    track, times_s = JointTrack(motion, joints[0].q_rad[0]), np.linspace(0.0, motion.duration_s, MOST_POINTS)
    planned = [kinematics.tool_pose_and_jacobian(track.at(float(t))[0]) for t in times_s]
    p_planned_m, jacobians = np.array([T[:3, 3] for T, _ in planned]), np.array([J[:3] for _, J in planned])
    reports = []
    for trace in sorted(traces, key=lambda t: not t.failed)[:MOST_TRACES]:
        way_m = p_planned_m + jacobians @ np.asarray(trace.q_offset_rad)  # errors are a few mrad: linear to some um
        for index, near in _simulated(times_s, np.asarray(trace.track)):
            way_m[index] = near
        points = [_point(p) for p in way_m]
        failed_s = None if trace.failed_s is None else round(trace.failed_s, 4)
        reports.append(TraceReport(failed=trace.failed, failed_s=failed_s, p_base_tool_m=points))
    return reports


def _simulated(times_s: Array, track: Array) -> Iterator[tuple[int, Array]]:
    """Which of the times were simulated, and where the tool was then."""
    for index, time_s in enumerate(times_s if len(track) else ()):
        nearest = int(np.argmin(np.abs(track[:, 0] - time_s)))
        if abs(track[nearest, 0] - time_s) < _SAMPLED_S:
            yield index, np.array([np.interp(time_s, track[:, 0], track[:, axis]) for axis in (1, 2, 3)])


def _width(grips: list[GripperSegment], time_s: float) -> float | None:
    """The opening after the latest command that has ended: what the fingers are expected to meet counts."""
    ended = [grip for grip in grips if grip.end_s <= time_s]
    return max(ended[-1].width_m, ended[-1].meets_m) if ended else None


def _point(values: object) -> Point:
    x, y, z = (round(float(v), 5) for v in np.asarray(values, dtype=np.float64).ravel())
    return x, y, z
