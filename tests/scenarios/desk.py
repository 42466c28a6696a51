"""Camera, arm and clock over an empty table, planner, twin and gate; the answer of each can be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

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

_K = Intrinsics(320, 240, 220.0, 220.0, 159.5, 119.5)
_T = look_at((1.5, 0.0, 0.9), (0.35, 0.0, 0.15))
_V, _U = np.mgrid[0 : _K.height_px, 0 : _K.width_px]
_RAYS = np.stack([(_U - _K.cx_px) / _K.fx_px, (_V - _K.cy_px) / _K.fy_px, np.ones(_U.shape)], axis=-1) @ _T[:3, :3].T
_SURROUNDINGS = Surroundings.of(PROFILE)
_STREAM_NS = 200_000_000  # between the frames while it moves
HOME = np.array(PROFILE.home_q_rad)
AWAY = HOME + np.eye(7)[0] * 0.4

Spoil = Callable[[Any, int], Any]


@lru_cache(maxsize=16)
def _depth_m(q_rad: tuple[float, ...]) -> Any:
    """What the camera measures of the table and of the arm before it: each ray ends where it enters a link's hull."""
    depth_m = -_T[2, 3] / _RAYS[..., 2]
    kinematics = _SURROUNDINGS.kinematics
    poses = kinematics.link_poses(np.array(q_rad), 0.08)
    for link, hull_m in kinematics.link_hulls.items():
        corners_m = hull_m @ poses[link][:3, :3].T + poses[link][:3, 3]
        in_camera = (corners_m - _T[:3, 3]) @ _T[:3, :3]
        at_px = in_camera[:, :2] / in_camera[:, 2:] * _K.fx_px + [_K.cx_px, _K.cy_px]
        (x0, y0), (x1, y1) = np.floor(at_px.min(axis=0)).astype(int), np.ceil(at_px.max(axis=0)).astype(int) + 1
        window = np.s_[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        faces = ConvexHull(corners_m).equations
        steep, room_m = _RAYS[window] @ faces[:, :3].T, -(faces[:, :3] @ _T[:3, 3] + faces[:, 3])
        at_m = room_m / np.where(np.abs(steep) < 1e-12, 1e-12, steep)
        enters_m = np.where(steep < 0, at_m, -np.inf).max(axis=-1, initial=-np.inf)
        leaves_m = np.where(steep >= 0, at_m, np.inf).min(axis=-1, initial=np.inf)
        nearer = np.where((enters_m < leaves_m) & (enters_m > 0.0), enters_m, np.inf)
        depth_m[window] = np.minimum(depth_m[window], nearer)
    return depth_m.astype(np.float32)


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

    def see(self) -> CameraFrame:
        """What the camera sees now."""
        depth_m = _depth_m(tuple(self.q_rad.tolist()))
        rgb = np.full((*depth_m.shape, 3), 150, dtype=np.uint8)
        return CameraFrame(self.ns, rgb, depth_m, _K, freeze(_T))

    def capture(self) -> CameraFrame:
        self.frames += 1
        frame: CameraFrame = self._answer("frame", self.see())
        return frame

    def newest(self, since_ns: int) -> CameraFrame | None:
        frame: CameraFrame | None = self._answer("picture", self.see() if self.ns - since_ns >= _STREAM_NS else None)
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

    def retreat(self, from_s: float) -> int:
        raise ExecutionError("nothing is guarded")

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
        approver = AskingApprover(self.halt, self.approval, on_question=lambda step, asks, doubts: None)
        ports = Ports(cell, cell, cell, self.planner, self.rehearsal, approver)
        return assemble(_SURROUNDINGS, ports, halt=self.halt, gate=FaultyGate(self.spoil))
