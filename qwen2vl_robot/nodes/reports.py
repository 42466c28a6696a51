"""Plans, verdicts and tasks → what the node publishes: JSON with a schema.

docs/schemas holds the schemas of the models below; tests/nodes/test_reports.py checks that they agree.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.camera_verdict import CameraChecked, CameraVerdict
from qwen2vl_robot.config import Strict
from qwen2vl_robot.messages import (
    Action,
    Direction,
    InstructionSource,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    TaskReport,
    Verb,
    Verdict,
    digest,
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
    doubts: list[str] = Field(default=[], description="why a person has to agree, whatever `approval` says")
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


class CameraReport(Strict):
    """What the arm says of one camera: how far things at the work place are measured from where they are."""

    name: str
    verdict: CameraVerdict
    text: str
    shown_px: int = Field(description="pixels with depth where the arm should show")
    size_m: float | None
    off_m: tuple[float, float, float] | None = Field(description="the same along x, y and z of the base frame")
    unsure_m: float | None = Field(description="standard deviation in the direction that is known least")
    turn_rad: float | None = Field(description="of the camera about the vertical")


class TaskOutcome(Strict):
    instruction: str
    source: InstructionSource
    outcome: OutcomeKind
    causes: list[CauseReport]
    reasons: list[str] = Field(description="the text of each cause")
    steps: list[StepOutcome]
    seconds: dict[str, float]
    cameras: list[CameraReport] = Field(default=[], description="each camera, checked by the arm in its picture or not")


class ApprovalReport(Strict):
    """What became of the latest yes or no."""

    digest: str
    accepted: bool = Field(description="whether a yes counts")
    rejected: bool = Field(default=False, description="whether a no counts")
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


def verdict_report(
    verdict: Verdict, action: str, duration_s: float | None, *, asks: bool, doubts: tuple[str, ...] = ()
) -> VerdictReport:
    """Make the report of a verdict; `action` is the step in words, `asks` whether a person must approve it, for
    `doubts` or because every motion is approved by a person."""
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
        doubts=[doubt[:_MAX_TEXT] for doubt in doubts],
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
        cameras=[_camera(camera) for camera in report.cameras],
    )


def _camera(camera: CameraChecked) -> CameraReport:
    return CameraReport(
        name=camera.name,
        verdict=camera.verdict,
        text=camera.text[:_MAX_TEXT],
        shown_px=camera.shown_px,
        size_m=_finite(camera.size_m),
        off_m=camera.off_m,
        unsure_m=_finite(camera.unsure_m),
        turn_rad=camera.turn_rad,
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
