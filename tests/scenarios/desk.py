"""Camera, arm and clock over an empty table, planner, twin and gate; the answer of each can be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    ApprovalMode,
    ApprovedMotion,
    CameraFrame,
    Instruction,
    Intrinsics,
    Motion,
    Observation,
    Plan,
    RobotState,
    Scene,
    StepRecord,
    Verdict,
    freeze,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.plant.trajectory import Trajectory
from tests.cells import PROFILE, accept

_K = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
_T = look_at((1.1, 0.0, 0.7), (0.45, 0.0, 0.0))
HOME = np.array(PROFILE.home_q_rad)
AWAY = HOME + np.eye(7)[0] * 0.4

Spoil = Callable[[Any, int], Any]


@dataclass
class Cell:
    """Camera, arm and clock over an empty table; each answer can be spoilt once the fault is due.

    Attributes:
        spoils: name of an answer → what becomes of it, given how often it was asked since the fault is due.
        looked_ns, stopped_ns: the true time of the last answer before a stop, and of the stop.
    """

    spoils: dict[str, Spoil] = field(default_factory=dict)
    after_s: float = 0.3
    ns: int = 100_000_000_000
    q_rad: Any = field(default_factory=lambda: AWAY.copy())
    track: Trajectory | None = None
    motion: Motion | None = None
    began_ns: int = 0
    frozen_at_ns: int | None = None
    looked_ns: int = 0
    stopped_ns: int | None = None
    asked: dict[str, int] = field(default_factory=dict)
    pace: float = 1.0
    lag_s: float = 0.0
    frames: int = 0
    is_deaf: bool = False

    def _answer(self, name: str, value: Any) -> Any:
        if self.stopped_ns is None:
            self.looked_ns = self.ns
        is_due = self.motion is not None and (self.ns - self.began_ns) / 1e9 >= self.after_s
        if name == "frame":
            is_due = self.frames > 1
        if name not in self.spoils or not is_due:
            return value
        self.asked[name] = self.asked.get(name, 0) + 1
        return self.spoils[name](value, self.asked[name])

    def _move(self) -> None:
        if self.track is None or self.motion is None or self.frozen_at_ns is not None:
            return
        since_s = (self.ns - self.began_ns) / 1e9
        self.q_rad = self.track.at(max(0.0, since_s * self.pace - self.lag_s))[0]
        if since_s * self.pace - self.lag_s > self.motion.duration_s:
            self.track = None

    def now_ns(self) -> Any:
        return self._answer("now", self.ns)

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)
        self._move()

    def capture(self) -> CameraFrame:
        self.frames += 1
        v, u = np.mgrid[0 : _K.height_px, 0 : _K.width_px]
        rays = np.stack([(u - _K.cx_px) / _K.fx_px, (v - _K.cy_px) / _K.fy_px, np.ones(u.shape)], axis=-1)
        depth_m = (-_T[2, 3] / (rays @ _T[:3, :3].T)[..., 2]).astype(np.float32)
        rgb = np.full((*u.shape, 3), 150, dtype=np.uint8)
        frame: CameraFrame = self._answer("frame", CameraFrame(self.ns, rgb, depth_m, _K, freeze(_T)))
        return frame

    def state(self) -> RobotState:
        state = RobotState(self.ns, freeze(self.q_rad), freeze(np.zeros(7)), 0.08)
        answer: RobotState = self._answer("state", state)
        return state if self.frames < 2 else answer

    def execute(self, approved: ApprovedMotion) -> None:
        if self.is_deaf:
            raise ExecutionError("the controller box is off")
        self.motion, self.began_ns = approved.motion, self.ns
        self.track = Trajectory.of_motion(approved.motion, self.q_rad)

    def is_moving(self) -> bool:
        moving: bool = self._answer("moving", self.track is not None)
        return moving

    def has_gripped(self) -> bool:
        return False

    def go_on(self) -> int:
        raise ExecutionError("it has no gripper")

    def stop(self) -> None:
        if self.stopped_ns is None:
            self.stopped_ns = self.ns
        self.track, self.frozen_at_ns = None, self.ns
        if "stop" in self.spoils:
            self.spoils["stop"](None, 1)


@dataclass
class Planner:
    """Says "home", unless spoilt."""

    cell: Cell
    spoil: Spoil = lambda plan, n: plan
    asked: int = 0

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        self.asked += 1
        plan: Plan = self.spoil(parse_reply('{"objects":[],"actions":[{"do":"home"}]}'), self.asked)
        return plan


@dataclass
class Rehearsal:
    """Accepts, unless spoilt."""

    cell: Cell
    spoil: Spoil = lambda verdict, n: verdict
    asked: int = 0

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, *, refused: int = 0) -> Verdict:
        self.asked += 1
        after = replace(start, q_rad=freeze(HOME))
        verdict: Verdict = self.spoil(
            replace(accept(motion, start, scene), scene_after=scene, state_after=after), self.asked
        )
        return verdict


class FaultyGate(Gate):
    """A gate of which the answer is spoilt."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(PROFILE, ())
        self._spoil = spoil

    def admit(self, *args: Any, **named: Any) -> Any:
        return self._spoil(super().admit(*args, **named), 1)


@dataclass
class Setup:
    cell: Cell
    planner: Planner
    rehearsal: Any
    halt: Halt = field(default_factory=Halt)
    approval: ApprovalMode = ApprovalMode.AUTO
    spoil: Spoil = lambda answer, n: answer

    def controller(self) -> Controller:
        """A controller of these parts, with a gate of which the answer is spoilt."""
        cell = self.cell
        approver = AskingApprover(self.halt, self.approval, on_question=lambda step, asks: None)
        ports = Ports(cell, cell, cell, self.planner, self.rehearsal, approver)
        return assemble(Surroundings.of(PROFILE), ports, halt=self.halt, gate=FaultyGate(self.spoil))
