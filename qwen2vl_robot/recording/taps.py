"""A controller's ports → the same ports, of which every answer is told to a sink: all that a flow learns from outside.

A listener would not do. It sees the frames of `_look`, but not the gate's fresh frame and those by which a motion is
watched, no joint state, no time, no approval and no stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from qwen2vl_robot.approval import Unattended
from qwen2vl_robot.assembly import Ports
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.halt import Authority, Halt
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    Cause,
    Instruction,
    Motion,
    Observation,
    Plan,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    StepRecord,
    TaskReport,
    Verdict,
    digest,
)
from qwen2vl_robot.planner.contract import failure_line
from qwen2vl_robot.ports import Approver, Arm, Camera, Clock, Planner, Rehearsal
from qwen2vl_robot.reading import read

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One thing that the flow asked, learned or decided.

    Attributes:
        name: such as "camera.capture"; with `INPUTS` what comes from outside, all else is computed from these.
        answer: a message, or None.
        error: the port's error instead of an answer.
        asked: what was asked with.
    """

    name: str
    answer: object = None
    error: RobotError | None = None
    asked: dict[str, object] = field(default_factory=dict)


Sink = Callable[[Call], None]

SETUP, TASK, READING, PLAN, REHEARSAL, STEP, OUTCOME = (
    *("setup", "task", "reading", "planner.plan"),
    *("rehearsal.rehearse", "step", "outcome"),
)
OUTPUTS = frozenset({READING, PLAN, REHEARSAL, STEP, OUTCOME, "arm.execute.asked", "approver.approve.asked"})
HALTS = ("halt.cause", "halt.stops")


def tap(ports: Ports, halt: Halt, sink: Sink) -> tuple[Ports, Halt]:
    """The same ports and halt for a controller, with every answer told to a sink."""
    tapped = replace(
        ports,
        camera=_Camera(ports.camera, sink),
        arm=_Arm(ports.arm, sink),
        clock=_Clock(ports.clock, sink),
        planner=_Planner(ports.planner, sink),
        rehearsal=_Rehearsal(ports.rehearsal, sink),
        approver=_Approver(ports.approver or Unattended(halt), sink),
        listeners=(*ports.listeners, _Steps(sink)),
    )
    return tapped, TappedHalt(halt, sink)


def run(controller: Controller, instruction: Instruction, sink: Sink) -> TaskReport:
    """Carry out an instruction with a controller of tapped ports, and tell how it began and ended.

    Raises:
        RobotError: as `Controller.run`.
    """
    sink(Call(TASK, instruction))
    sink(Call(READING, read(instruction.text)))
    report = _tell(sink, OUTCOME, lambda: controller.run(instruction))
    return report


def _tell(sink: Sink, name: str, call: Callable[[], _T], **asked: object) -> _T:
    try:
        answer = call()
    except RobotError as error:
        sink(Call(name, error=error, asked=asked))
        raise
    sink(Call(name, answer, asked=asked))
    return answer


class _Camera:
    def __init__(self, camera: Camera, sink: Sink) -> None:
        self._camera, self._sink = camera, sink

    def capture(self) -> CameraFrame:
        return _tell(self._sink, "camera.capture", self._camera.capture)

    def newest(self, since_ns: int) -> CameraFrame | None:
        return _tell(self._sink, "camera.newest", lambda: self._camera.newest(since_ns))


class _Arm:
    def __init__(self, arm: Arm, sink: Sink) -> None:
        self._arm, self._sink = arm, sink

    def state(self) -> RobotState:
        return _tell(self._sink, "arm.state", self._arm.state)

    def execute(self, approved: ApprovedMotion) -> None:
        asked = {"motion": approved.digest, "verdict": approved.verdict_digest}
        self._sink(Call("arm.execute.asked", asked=dict(asked)))
        _tell(self._sink, "arm.execute", lambda: self._arm.execute(approved))

    def is_moving(self) -> bool:
        return _tell(self._sink, "arm.is_moving", self._arm.is_moving)

    def has_gripped(self) -> bool:
        return _tell(self._sink, "arm.has_gripped", self._arm.has_gripped)

    def go_on(self) -> int:
        return _tell(self._sink, "arm.go_on", self._arm.go_on)

    def retreat(self, from_s: float) -> int:
        return _tell(self._sink, "arm.retreat", lambda: self._arm.retreat(from_s), from_s=from_s)

    def stop(self) -> None:
        _tell(self._sink, "arm.stop", self._arm.stop)


class _Clock:
    def __init__(self, clock: Clock, sink: Sink) -> None:
        self._clock, self._sink = clock, sink

    def now_ns(self) -> int:
        return _tell(self._sink, "clock.now_ns", self._clock.now_ns)

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)


class _Planner:
    def __init__(self, planner: Planner, sink: Sink) -> None:
        self._planner, self._sink = planner, sink

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        failures = tuple(failure_line(step) for step in history if step.outcome.reasons)
        return _tell(
            self._sink,
            PLAN,
            lambda: self._planner.plan(observation, instruction, history),
            frame_ns=observation.frame.stamp_ns,
            instruction=instruction,
            failures=failures,
        )


class _Rehearsal:
    def __init__(self, rehearsal: Rehearsal, sink: Sink) -> None:
        self._rehearsal, self._sink = rehearsal, sink

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        return _tell(
            self._sink,
            REHEARSAL,
            lambda: self._rehearsal.rehearse(motion, scene, start, refused=refused),
            scene=scene,
            motion=motion,
            start=start,
            refused=refused,
        )


class _Approver:
    def __init__(self, approver: Approver, sink: Sink) -> None:
        self._approver, self._sink = approver, sink

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        self._sink(
            Call("approver.approve.asked", asked={"verdict": digest(rehearsed.verdict), "doubts": doubts})
        )  # before a person's minute
        return _tell(self._sink, "approver.approve", lambda: self._approver.approve(rehearsed, doubts))


class _Steps:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def on_frame(self, observation: Observation) -> None:
        """Told by the camera."""

    def on_plan(self, plan: Plan, observation: Observation) -> None:
        """Told by the planner."""

    def on_step(self, step: StepRecord) -> None:
        self._sink(Call(STEP, step.outcome, asked={"action": step.action}))


class TappedHalt(Halt):
    """A view of a halt for the flow's own thread; told are the polls that bring a change, by their number."""

    def __init__(self, halt: Halt, sink: Sink) -> None:
        super().__init__()
        self._halt, self._sink = halt, sink
        self._causes = 0
        self._cause: Cause | None = None
        self._counts, self._count = 0, 0

    def cause(self) -> Cause | None:
        cause = self._halt.cause()
        self._causes += 1
        if cause != self._cause:
            self._cause = cause
            self._sink(Call("halt.cause", cause, asked={"poll": self._causes}))
        return cause

    def await_guard(self) -> None:
        self._halt.await_guard()

    @property
    def stops(self) -> int:
        stops = self._halt.stops
        self._counts += 1
        if stops != self._count:
            self._count = stops
            self._sink(Call("halt.stops", stops, asked={"poll": self._counts}))
        return stops

    def stop(self, why: str) -> None:
        self._halt.stop(why)

    def reset(self, by: Authority = Authority.PERSON) -> None:
        self._halt.reset(by)

    def cancel(self, why: str) -> bool:
        return self._halt.cancel(why)

    def begin_task(self) -> None:
        self._halt.begin_task()

    def end_task(self) -> None:
        self._halt.end_task()

    @contextmanager
    def task(self) -> Iterator[None]:
        with self._halt.task():
            yield

    @property
    def has_task(self) -> bool:
        return self._halt.has_task

    def stopped_by(self) -> str | None:
        return self._halt.stopped_by()
