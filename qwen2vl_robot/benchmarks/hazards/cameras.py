"""Seed → a scene seen by a camera whose published pose is wrong, or right enough → does the gate move the arm by it.

The label comes from the two poses: how far points of the work area are taken from where they are. The check sees
neither; it shares no code with this.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.geometry import Array, make_pose, read_only, rotation_from_rotvec
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    Approval,
    CameraFrame,
    Effect,
    JointSegment,
    Motion,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    Trials,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess

_SCENE = "scenes/tabletop.yaml"
_AREA_M = np.array([[x, y, 0.0] for x in (0.38, 0.53, 0.68) for y in (-0.26, 0.0, 0.26)])  # as in the scene's file
_WRONG_M, _RIGHT_M = 0.015, 0.006
_SHOWN_PX = 2000  # of the robot, as the plant's renderer knows
_MOST_TURN_RAD = np.deg2rad(20)
_local = threading.local()


def wrong_camera(
    profile: RobotProfile, rng: np.random.Generator, is_hazard: bool, is_near: bool
) -> tuple[bool, float, str, str]:
    """Publish a camera pose that is off by at least 15 mm at the work place, or by at most 6 mm."""
    frame, robot, T_true = _scene(rng)
    low_m, high_m = {(True, True): (_WRONG_M, 0.02), (True, False): (0.02, 0.15), (False, True): (0.004, _RIGHT_M)}.get(
        (is_hazard, is_near), (0.0, 0.004)
    )
    T, size_m = _displaced(T_true, float(rng.uniform(low_m, high_m)), rng)
    answer = _ask(profile, replace(frame, T_base_camera=read_only(T)), robot)
    return answer is None, size_m, "m", "" if answer is None else answer.text


def _scene(rng: np.random.Generator) -> tuple[CameraFrame, RobotState, Array]:
    """Draw scenes until one shows enough of the arm; returns a frame, the arm's state and the camera's true pose."""
    while True:
        with PlantProcess(_SCENE, int(rng.integers(1_000_000))) as plant:
            frame, robot = plant.link.capture(), plant.link.state()
            if plant.truth.robot_px() >= _SHOWN_PX:
                return frame, robot, plant.truth.T_base_camera()


def _displaced(T_true: Array, size_m: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Move a pose (4, 4) by so much at the work place: along the table, with a turn about the vertical, or anyhow."""
    way = int(rng.integers(3))
    shift, about = rng.normal(size=(2, 3))
    if way < 2:
        shift[2] = about[:2] = 0.0
    turn_rad = 0.0 if way == 0 else size_m / 0.3 * float(rng.uniform(0.2, 1.0))
    turn_rad = min(turn_rad, _MOST_TURN_RAD if way == 1 else np.deg2rad(1.0))
    turn = make_pose([0.0, 0.0, 0.0], rotation_from_rotvec(turn_rad * about / np.linalg.norm(about)))
    at_m = make_pose(T_true[:3, 3])
    turn = at_m @ turn @ np.linalg.inv(at_m)
    low_m, high_m = 0.0, 2.0
    for _ in range(60):  # the shift that gives the wanted size; where the turn alone is larger, none
        middle_m = (low_m + high_m) / 2
        T = make_pose(middle_m * shift / np.linalg.norm(shift)) @ turn @ T_true
        low_m, high_m = (middle_m, high_m) if _size_m(T, T_true) < size_m else (low_m, middle_m)
    return (T, _size_m(T, T_true)) if abs(_size_m(T, T_true) - size_m) < 1e-4 else _displaced(T_true, size_m, rng)


def _size_m(T: Array, T_true: Array) -> float:
    """Compute how far points of the work area are taken from where they are (root mean square)."""
    in_camera = np.linalg.inv(T_true) @ np.column_stack([_AREA_M, np.ones(len(_AREA_M))]).T
    return float(np.sqrt((((T @ in_camera)[:3].T - _AREA_M) ** 2).sum(axis=1).mean()))


def _ask(profile: RobotProfile, frame: CameraFrame, robot: RobotState) -> Refusal | None:
    """Ask a gate as the controller has it about a step that was rehearsed in this frame."""
    if not hasattr(_local, "guard"):  # kinematics belong to one thread
        _local.guard = CameraGuard(Surroundings.of(profile))
    start = replace(robot, dq_radps=freeze(np.zeros(len(profile.joints))))
    q_rad = freeze(np.tile(start.q_rad, (21, 1)))
    motion = Motion(profile.name, (JointSegment(freeze(np.linspace(0.0, 2.0, 21)), q_rad),), Effect("none"))
    scene, n = Scene((), ()), profile.safety.trials
    digests = (digest(motion), digest(scene), digest(start), profile.digest)
    verdict = Verdict(True, (), *digests, trials=Trials(n, n, 1.0, profile.safety.success_ratio))
    step = Rehearsed(motion, verdict, scene, start, start.stamp_ns, frame)
    gate = Gate(profile, (), guard=_local.guard)
    answer = gate.admit(step, start, frame, Approval(digest(verdict), "token", 0), Halt(), start.stamp_ns)
    return answer if isinstance(answer, Refusal) else None
