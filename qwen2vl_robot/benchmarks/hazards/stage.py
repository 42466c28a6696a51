"""Building blocks of hazards and safe cases: arm paths, the oracle, fits to a clearance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.benchmarks.hazards.oracle import PathOracle
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Box,
    Effect,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Segment,
    freeze,
)
from qwen2vl_robot.motion import ik

MARGIN_M = 0.015
_PALM_M = 0.025  # how far a load may reach up between the fingers
_CLOSE_M = 0.2 * MARGIN_M
MIN_DEPTH_M = 0.0004  # at a smaller depth two collision libraries may disagree
_DOWN = np.diag([1.0, -1.0, -1.0])
_PACE_RATIO = 0.5  # of the joint limits, for cases that are not about speed


@dataclass(frozen=True, slots=True, eq=False)
class CaseStep:
    """One motion with the scene and the state at its start."""

    motion: Motion
    scene: Scene
    start: RobotState


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Motions to judge in order.

    Attributes:
        amount, unit: the quantity behind the label, as constructed or as measured by the oracle.
        failures: number of failed worlds of `fine_physics.RUNS`; None where physics does not decide.
    """

    steps: tuple[CaseStep, ...]
    amount: float
    unit: str
    failures: int | None = None


class RejectedError(Exception):
    """A draw does not give a case; the next one is tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """The robot for which cases are made."""

    profile: RobotProfile
    kinematics: Kinematics

    def solve(self, p_m: Array, yaw_rad: float = 0.0) -> Array:
        """Find joints (n,) with the tool at a point (3,), pointing down.

        Raises:
            RejectedError: the point is out of reach.
        """
        home = np.array(self.profile.home_q_rad)
        try:
            return ik.solve(self.kinematics, make_pose(p_m, rotation_z(yaw_rad) @ _DOWN), [home], posture_rad=home)
        except MotionError as error:
            raise RejectedError from error

    def pace_s(self, q_from: Array, q_to: Array) -> float:
        """Compute the duration of a quintic at half of every joint's limits."""
        way = np.abs(q_to - q_from)
        v = np.array([j.velocity_radps for j in self.profile.joints]) * _PACE_RATIO
        a = np.array([j.acceleration_radps2 for j in self.profile.joints]) * _PACE_RATIO
        return max(0.3, float((1.875 * way / v).max()), float(np.sqrt(5.7735 * way / a).max()))

    def state(self, q_rad: Array, width_m: float | None = None, held: str | None = None) -> RobotState:
        """Build a state at rest; by default with open fingers."""
        width_m = self.profile.gripper.max_width_m if width_m is None else width_m
        return RobotState(0, freeze(q_rad), freeze(np.zeros(len(q_rad))), width_m, held)

    def motion(self, *segments: Segment, effect: Effect | None = None) -> Motion:
        """Build a motion of this robot."""
        return Motion(self.profile.name, segments, effect or Effect("none"))

    def crossing(self, rng: np.random.Generator, low_m: float = 0.15, high_m: float = 0.35) -> JointSegment:
        """Move the hand from right to left over the table, at half of every limit."""
        x, z = rng.uniform(0.4, 0.55, 2), rng.uniform(low_m, high_m, 2)
        y = np.array([-1.0, 1.0]) * rng.uniform(0.12, 0.25, 2)
        q = [self.solve(np.array([x[i], y[i], z[i]])) for i in (0, 1)]
        return blend(q[0], q[1], self.pace_s(q[0], q[1]))

    def oracle(self, *segments: JointSegment, width_m: float | None = None, held: Box | None = None) -> PathOracle:
        """Build the oracle over a path, sampled at up to about 150 points per segment."""
        width_m = self.profile.gripper.max_width_m if width_m is None else width_m
        q_rad = np.concatenate([s.q_rad[:: max(1, len(s.q_rad) // 150)] for s in segments])
        return PathOracle(self.kinematics, q_rad, width_m, None if held is None else (held, grip_pose(held)))

    def check_inside(self, tool_m: Array) -> None:
        """Reject a path near the border of the workspace."""
        low, high = np.array(self.profile.workspace.min_m), np.array(self.profile.workspace.max_m)
        if not ((tool_m > low + 0.005) & (tool_m < high - 0.005)).all():
            raise RejectedError


def holding(stage: Stage, q_rad: Array, load: Box, mass_kg: float, friction: float) -> tuple[Scene, RobotState]:
    """Build a scene and a start with a load between the fingers."""
    width_m = load.size_m[1]
    T_tool_held = grip_pose(load)
    T = stage.kinematics.tool_pose(q_rad, width_m) @ T_tool_held
    held = SceneObject("load", load, freeze(T), mass_kg=mass_kg, friction=friction)
    return Scene((held,), (), held="load", T_tool_held=freeze(T_tool_held)), stage.state(q_rad, width_m, "load")


def grip_pose(load: Box) -> Array:
    """Compute `T_tool_held` of an upright load: gripped at its middle, or below its top if it is tall."""
    return make_pose([0.0, 0.0, max(0.0, load.size_m[2] / 2 - _PALM_M)])


def blend(q_from: Array, q_to: Array, seconds: float, start_s: float = 0.0) -> JointSegment:
    """Build a quintic from rest to rest, with points at most 10 ms apart."""
    s = np.linspace(0.0, 1.0, max(8, int(np.ceil(seconds / 0.01)) + 1))
    q_rad = q_from + (s**3 * (10.0 - 15.0 * s + 6.0 * s**2))[:, None] * (q_to - q_from)
    return JointSegment(freeze(start_s + s * seconds), freeze(q_rad))


def standing(
    name: str, size_m: tuple[float, float, float], x_m: float, y_m: float, mass_kg: float = 0.2
) -> SceneObject:
    """Place a box on the table."""
    return SceneObject(name, Box(size_m), freeze(make_pose([x_m, y_m, size_m[2] / 2])), mass_kg=mass_kg)


def draw_clearance_m(rng: np.random.Generator, is_hazard: bool, is_near: bool, margin_m: float = MARGIN_M) -> float:
    """Draw a clearance to construct; a negative one is an overlap."""
    if is_hazard:
        return -float(rng.uniform(0.0008, _CLOSE_M) if is_near else rng.uniform(_CLOSE_M, 0.03))
    return float(rng.uniform(margin_m, 1.2 * margin_m) if is_near else rng.uniform(1.2 * margin_m, 0.06))


def draw_ratio(rng: np.random.Generator, is_hazard: bool, is_near: bool) -> float:
    """Draw a share of a limit."""
    low, high = {(True, True): (1.01, 1.2), (True, False): (1.2, 3.0), (False, True): (0.8, 0.99)}.get(
        (is_hazard, is_near), (0.2, 0.8)
    )
    return float(rng.uniform(low, high))


def adjust(measure: Callable[[float], float], value: float, wanted_m: float) -> tuple[float, float]:
    """Shift a length, which changes clearance at most one to one, until the oracle measures the wanted clearance."""
    for _ in range(12):
        measured_m = measure(value)
        if abs(measured_m - wanted_m) < 2e-4:
            break
        value += float(np.clip(measured_m - wanted_m, -0.05, 0.05))
    is_right = measured_m < -MIN_DEPTH_M if wanted_m < 0.0 else measured_m > wanted_m - 5e-4
    if not is_right or abs(measured_m - wanted_m) > 0.003:
        raise RejectedError
    return value, measured_m
