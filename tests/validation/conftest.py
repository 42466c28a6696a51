"""Scenes and hand-made motions for the validation tests, with inverse kinematics but no planner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import (
    Effect,
    GripperSegment,
    JointSegment,
    Motion,
    RobotState,
    SceneObject,
    Segment,
    Shape,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.validation.rehearsal import Twin

DOWN = np.diag([1.0, -1.0, -1.0])


class Hand:
    """Strings joint and gripper segments together, each stretch smooth and from rest to rest."""

    def __init__(self, profile: RobotProfile) -> None:
        self.profile = profile
        self._kinematics = Kinematics(profile)
        self.q_rad = np.array(profile.home_q_rad)
        self.segments: list[Segment] = []

    @property
    def now_s(self) -> float:
        return self.segments[-1].end_s if self.segments else 0.0

    def solve(self, p_m: tuple[float, float, float], yaw_rad: float = 0.0) -> Array:
        """Joints (n,) that bring the tool to a point, pointing down."""
        wanted = make_pose(p_m, rotation_z(yaw_rad) @ DOWN)
        q_rad = self.q_rad.copy()
        for _ in range(200):
            T = self._kinematics.tool_pose(q_rad)
            turn = sum(np.cross(T[:3, i], wanted[:3, i]) for i in range(3)) / 2
            error = np.concatenate([wanted[:3, 3] - T[:3, 3], turn])
            J = self._kinematics.tool_jacobian(q_rad)
            q_rad = q_rad + np.clip(J.T @ np.linalg.solve(J @ J.T + 1e-6 * np.eye(6), error), -0.2, 0.2)
        assert np.abs(error).max() < 1e-5, f"no joints for {p_m}"
        return q_rad

    def move(self, q_rad: Array, seconds: float) -> Hand:
        """A quintic from rest to rest, 10 ms apart."""
        s = np.linspace(0.0, 1.0, max(2, round(seconds / 0.01) + 1))
        blend = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
        points = self.q_rad + blend[:, None] * (np.asarray(q_rad) - self.q_rad)
        self.segments.append(JointSegment(freeze(self.now_s + s * seconds), freeze(points)))
        self.q_rad = np.asarray(q_rad)
        return self

    def to(self, p_m: tuple[float, float, float], seconds: float = 1.5, yaw_rad: float = 0.0) -> Hand:
        return self.move(self.solve(p_m, yaw_rad), seconds)

    def grip(self, width_m: float, seconds: float = 1.0) -> Hand:
        self.segments.append(GripperSegment(self.now_s, self.now_s + seconds, width_m))
        return self

    def home(self, seconds: float = 2.0) -> Hand:
        return self.move(np.array(self.profile.home_q_rad), seconds)

    def motion(self, effect: Effect | None = None) -> Motion:
        return Motion(self.profile.name, tuple(self.segments), effect or Effect("none"))

    def pick(self, body: SceneObject, grip_m: float | None = None, lift_m: float = 0.12) -> Hand:
        """Down on an object, close, up, home."""
        x, y, z = (float(v) for v in body.T_base_object[:3, 3])
        grip_m = z if grip_m is None else grip_m
        self.to((x, y, grip_m + lift_m), 2.0).to((x, y, grip_m), 1.2)
        return self.grip(0.0).to((x, y, grip_m + lift_m), 1.2).home()


def stands(name: str, shape: Shape, x_m: float, y_m: float, yaw_rad: float = 0.0, on_m: float = 0.0) -> SceneObject:
    """An object that stands on the table, or `on_m` above it."""
    pose = make_pose([x_m, y_m, on_m + shape_size_m(shape)[2] / 2], rotation_z(yaw_rad))
    return SceneObject(name, shape, freeze(pose), (200.0, 40.0, 40.0))


@pytest.fixture(scope="session")
def profile() -> RobotProfile:
    return load_robot("franka_panda")


@pytest.fixture(scope="session")
def new_hand(profile: RobotProfile) -> Callable[[], Hand]:
    return lambda: Hand(profile)


@pytest.fixture
def hand(profile: RobotProfile) -> Hand:
    """A new motion, empty, at home."""
    return Hand(profile)


@pytest.fixture(scope="session")
def twin(profile: RobotProfile) -> Iterator[Twin]:
    rehearses = Twin(profile)
    yield rehearses
    rehearses.close()


def home_state(profile: RobotProfile) -> RobotState:
    """At home, open, at rest, with nothing in the gripper."""
    at_rest = freeze(np.zeros(len(profile.joints)))
    return RobotState(0, freeze(profile.home_q_rad), at_rest, profile.gripper.max_width_m)


@pytest.fixture(scope="session")
def start(profile: RobotProfile) -> RobotState:
    return home_state(profile)
