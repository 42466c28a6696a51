"""Plans, verdicts and tasks → what the node publishes: JSON with a schema, markers and detections.

docs/schemas holds the schemas of the models below; tests/nodes/test_reports.py checks that they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import Strict
from qwen2vl_robot.executor import JointTrack
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph.conversions import header, pose_message
from qwen2vl_robot.graph.interface import Message, MessageMaker
from qwen2vl_robot.messages import (
    Action,
    CameraFrame,
    Cylinder,
    Direction,
    ImageBox,
    InstructionSource,
    Intrinsics,
    JointSegment,
    Motion,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    Scene,
    SceneObject,
    Sphere,
    StepRecord,
    TaskReport,
    Verb,
    Verdict,
    digest,
    shape_size_m,
)
from qwen2vl_robot.reasons import AnyReason, ViolationKind

_MAX_TEXT = 500


class ObjectReport(Strict):
    """The object of an action: a label and its boxes (x0, y0, x1, y1), 0..1000 of the image."""

    label: str
    boxes: list[tuple[float, float, float, float]]


class ActionReport(Strict):
    verb: Verb
    object: ObjectReport | None = None
    relation: Relation | None = None
    direction: Direction | None = None
    seconds: float | None = None
    text: str | None = None


class PlanReport(Strict):
    """The latest plan, published on ~/plan."""

    version: Literal[1] = 1
    stamp_s: float = Field(description="ROS time of the frame that the plan is based on")
    instruction: str
    digest: str
    actions: list[ActionReport]


class ViolationReport(Strict):
    kind: ViolationKind
    time_s: float | None
    bodies: list[str]
    amount: float | None
    unit: str
    text: str


class VerdictReport(Strict):
    """The latest verdict, published on ~/verdict."""

    version: Literal[1] = 1
    digest: str = Field(description="~/approve must repeat it")
    accepted: bool
    awaits_approval: bool
    action: str
    duration_s: float | None = Field(description="the motion's duration")
    violations: list[ViolationReport]
    rehearsal_s: float


class CauseReport(Strict):
    """Why a step or a task ended; `numbers` maps names with units to values."""

    reason: AnyReason
    text: str
    numbers: dict[str, float | None]


class StepOutcome(Strict):
    action: str
    outcome: OutcomeKind
    causes: list[CauseReport]
    reasons: list[str] = Field(description="the text of each cause")


class TaskOutcome(Strict):
    instruction: str
    source: InstructionSource
    outcome: OutcomeKind
    causes: list[CauseReport]
    reasons: list[str] = Field(description="the text of each cause")
    steps: list[StepOutcome]
    seconds: dict[str, float]
    camera: str = Field(default="", description="checked by the arm in the picture, or unchecked and why")


class ApprovalReport(Strict):
    digest: str
    accepted: bool
    reason: str


StatusState = Literal["starting", "idle", "working", "awaiting_approval", "stopping", "stopped", "inactive"]


class StatusReport(Strict):
    """The node's state, published on ~/status."""

    version: Literal[1] = 1
    state: StatusState
    doing: str = Field(description="the current task's step, in one word")
    stopped_by: str | None = None
    instruction: str | None = None
    awaits: str | None = Field(default=None, description="digest that ~/approve must repeat")
    approval: ApprovalReport | None = Field(
        default=None, description="the answer to the latest ~/approve; a new task clears it"
    )
    refused_instructions: int = 0
    last_refusal: str | None = None
    tasks: int = Field(default=0, description="number of tasks that ended since the start")
    last_task: TaskOutcome | None = None


def plan_report(plan: Plan, observation: Observation, instruction: str) -> PlanReport:
    """Make the report of a plan."""
    return PlanReport(
        stamp_s=observation.frame.stamp_ns / 1e9,
        instruction=instruction[:_MAX_TEXT],
        digest=digest(plan),
        actions=[_action_report(a) for a in plan.actions],
    )


def _action_report(action: Action) -> ActionReport:
    boxes = [] if action.object is None else [(b.x0, b.y0, b.x1, b.y1) for b in action.object.boxes]
    return ActionReport(
        verb=action.verb,
        object=None if action.object is None else ObjectReport(label=action.object.label, boxes=boxes),
        relation=action.relation,
        direction=action.direction,
        seconds=action.seconds,
        text=action.text,
    )


def verdict_report(verdict: Verdict, action: str, duration_s: float | None, *, asks: bool) -> VerdictReport:
    """Make the report of a verdict; `action` is the step in words, `asks` whether a person must approve it."""
    violations = [
        ViolationReport(
            kind=v.kind,
            time_s=_finite(v.time_s),
            bodies=list(v.bodies),
            amount=_finite(v.amount),
            unit=v.unit,
            text=v.describe(),
        )
        for v in verdict.violations
    ]
    return VerdictReport(
        digest=digest(verdict),
        accepted=verdict.accepted,
        awaits_approval=asks,
        action=action,
        duration_s=duration_s,
        violations=violations,
        rehearsal_s=round(verdict.seconds, 3),
    )


def task_outcome(report: TaskReport) -> TaskOutcome:
    """Make the report of a task that ended."""
    return TaskOutcome(
        instruction=report.instruction.text[:_MAX_TEXT],
        source=report.instruction.source,
        outcome=report.outcome.kind,
        causes=causes(report.outcome),
        reasons=list(report.outcome.reasons),
        steps=[_step(s.action, s.outcome) for s in report.steps],
        seconds={k: round(v, 3) for k, v in report.seconds.items()},
        camera=report.camera,
    )


def _step(action: Action, outcome: Outcome) -> StepOutcome:
    return StepOutcome(
        action=action.describe(), outcome=outcome.kind, causes=causes(outcome), reasons=list(outcome.reasons)
    )


def causes(outcome: Outcome) -> list[CauseReport]:
    """Make the reports of an outcome's causes; numbers that are not finite become None."""
    return [
        CauseReport(reason=c.reason, text=c.text, numbers={name: _finite(value) for name, value in c.numbers})
        for c in outcome.causes
    ]


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


# ---------------------------------------------------------------------------------------- detections, markers


def detections(make: MessageMaker, plan: Plan, frame: CameraFrame, frame_id: str) -> Message:
    """Make a vision_msgs/msg/Detection2DArray of the plan's boxes, pixels."""
    head = header(make, frame.stamp_ns, frame_id)
    entries = [
        _detection(make, a.object.label, box, frame.intrinsics, head)
        for a in plan.actions
        if a.object is not None
        for box in a.object.boxes
    ]
    return make("vision_msgs/msg/Detection2DArray")(header=head, detections=entries)


def _detection(make: MessageMaker, label: str, box: ImageBox, k: Intrinsics, head: Message) -> Message:
    x = (box.x0 + box.x1) / 2000.0 * k.width_px
    y = (box.y0 + box.y1) / 2000.0 * k.height_px
    center = make("vision_msgs/msg/Pose2D")(position=make("vision_msgs/msg/Point2D")(x=x, y=y))
    size_x, size_y = (box.x1 - box.x0) / 1000.0 * k.width_px, (box.y1 - box.y0) / 1000.0 * k.height_px
    bounds = make("vision_msgs/msg/BoundingBox2D")(center=center, size_x=size_x, size_y=size_y)
    hypothesis = make("vision_msgs/msg/ObjectHypothesis")(class_id=label[:_MAX_TEXT], score=1.0)  # it is named
    results = [make("vision_msgs/msg/ObjectHypothesisWithPose")(hypothesis=hypothesis)]
    return make("vision_msgs/msg/Detection2D")(header=head, results=results, bbox=bounds, id=label[:_MAX_TEXT])


Rgba = tuple[float, float, float, float]

_CUBE, _SPHERE, _CYLINDER, _LINE, _POINTS, _DELETE_ALL = 1, 2, 3, 4, 7, 3
_SHAPES = {Cylinder: _CYLINDER, Sphere: _SPHERE}  # all others are drawn as the cuboid around them
_GREEN, _GREY, _BLUE, _RED = (0.2, 0.8, 0.3, 0.6), (0.5, 0.5, 0.5, 0.5), (0.2, 0.4, 1.0, 0.9), (1.0, 0.1, 0.1, 0.9)
_PATH_M, _CONTACT_M = 0.004, 0.02  # width of a drawn path, size of a drawn contact


def markers(
    make: MessageMaker, scene: Scene | None, path_m: Array | None, contacts_m: Array, base_frame: str, stamp_ns: int
) -> Message:
    """Make a visualization_msgs/msg/MarkerArray: objects green, obstacles grey, path blue, contacts red.

    Args:
        path_m: (m, 3) points of the tool in the base frame, or None.
        contacts_m: (k, 3) points in the base frame.
        stamp_ns: of the frame in which the scene was measured.
    """
    pen = _Pen(make, header(make, stamp_ns, base_frame))
    drawn = [pen.draw(action=_DELETE_ALL)]
    groups = () if scene is None else (("objects", scene.objects, _GREEN), ("obstacles", scene.obstacles, _GREY))
    for space, bodies, colour in groups:
        drawn += [pen.body(space, number, body, colour) for number, body in enumerate(bodies)]
    if path_m is not None and len(path_m):
        drawn.append(pen.points("path", _LINE, path_m, _BLUE, _PATH_M))
    if len(contacts_m):
        drawn.append(pen.points("contacts", _POINTS, contacts_m, _RED, _CONTACT_M))
    return make("visualization_msgs/msg/MarkerArray")(markers=drawn)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Makes markers with one header."""

    make: MessageMaker
    header: Message

    def draw(self, **fields: object) -> Message:
        return self.make("visualization_msgs/msg/Marker")(header=self.header, **fields)

    def body(self, space: str, number: int, body: SceneObject, colour: Rgba) -> Message:
        pose, scale = pose_message(self.make, body.T_base_object), self._vector(*shape_size_m(body.shape))
        return self.draw(
            ns=space,
            id=number,
            type=_SHAPES.get(type(body.shape), _CUBE),
            pose=pose,
            scale=scale,
            color=self._colour(colour),
            text=body.name,
        )

    def points(self, space: str, shape: int, points_m: Array, colour: Rgba, thick_m: float) -> Message:
        point = self.make("geometry_msgs/msg/Point")
        return self.draw(
            ns=space,
            id=0,
            type=shape,
            pose=pose_message(self.make, np.eye(4)),
            color=self._colour(colour),
            scale=self._vector(thick_m, thick_m, thick_m),
            points=[point(x=float(p[0]), y=float(p[1]), z=float(p[2])) for p in points_m],
        )

    def _vector(self, x: float, y: float, z: float) -> Message:
        return self.make("geometry_msgs/msg/Vector3")(x=x, y=y, z=z)

    def _colour(self, rgba: Rgba) -> Message:
        r, g, b, a = rgba
        return self.make("std_msgs/msg/ColorRGBA")(r=r, g=g, b=b, a=a)


def contacts_of(step: StepRecord, tool_at: Callable[[Array], Array]) -> Array:
    """Return the tool's positions (k, 3) at the times of the verdict's violations, base frame, metres.

    Args:
        tool_at: joints (n,) rad → `T_base_tool` (4, 4).
    """
    if step.verdict is None or step.motion is None:
        return np.zeros((0, 3))
    times = [v.time_s for v in step.verdict.violations if v.time_s is not None and np.isfinite(v.time_s)]
    joints = [s for s in step.motion.segments if isinstance(s, JointSegment)]
    if not joints:
        return np.zeros((0, 3))
    track = JointTrack(step.motion, joints[0].q_rad[0])
    return np.array([tool_at(track.at(t)[0])[:3, 3] for t in times]).reshape(-1, 3)


def path_of(motion: Motion, tool_at: Callable[[Array], Array]) -> Array:
    """Return tool positions (m, 3) at every fifth joint point of a motion, base frame, metres.

    Args:
        tool_at: joints (n,) rad → `T_base_tool` (4, 4).
    """
    joints = [q for s in motion.segments if isinstance(s, JointSegment) for q in s.q_rad[::5]]
    return np.array([tool_at(q)[:3, 3] for q in joints]).reshape(-1, 3)
