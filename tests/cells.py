"""Motions, verdicts and approvals that the tests of gate, executor and plant share."""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.approval import Unattended
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.gate import Gate, GateLimits
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    Effect,
    GripperSegment,
    Intrinsics,
    JointSegment,
    Motion,
    Rehearsed,
    RobotState,
    Scene,
    Trials,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.ports import Arm, Clock

PROFILE = load_robot("franka_panda")
SCENE = Scene((), ())


def reach(start_q_rad: Array, offset_rad: Array | list[float], seconds: float = 1.0) -> Motion:
    """A smooth joint motion from the start by an offset, points every 10 ms."""
    time_s = np.linspace(0.0, seconds, round(seconds * 100) + 1)
    share = time_s / seconds
    smooth = share**3 * (10 - 15 * share + 6 * share**2)
    q_rad = np.asarray(start_q_rad) + smooth[:, None] * np.asarray(offset_rad)
    return Motion(PROFILE.name, (JointSegment(freeze(time_s), freeze(q_rad)),), Effect("none"))


def grip(width_m: float, seconds: float = 1.0) -> Motion:
    """A motion of the gripper alone."""
    return Motion(PROFILE.name, (GripperSegment(0.0, seconds, width_m),), Effect("none"))


def accept(motion: Motion, start: RobotState, scene: Scene = SCENE) -> Verdict:
    """The verdict of a twin that found nothing against a motion."""
    tried = Trials(16, 16, 0.829, 0.8)
    return Verdict(True, (), digest(motion), digest(scene), digest(start), PROFILE.digest, trials=tried)


def rehearsed(motion: Motion, start: RobotState, now_ns: int, scene: Scene = SCENE) -> Rehearsed:
    """A step that a twin accepted just now, with a picture of an empty wall."""
    return Rehearsed(motion, accept(motion, start, scene), scene, start, now_ns, look(now_ns))


def approval_of(step: Rehearsed, halt: Halt | None = None) -> Approval:
    """An approver's yes to this step."""
    answer = Unattended(halt or Halt()).approve(step, ())
    assert isinstance(answer, Approval)
    return answer


def look(stamp_ns: int) -> CameraFrame:
    """A picture of an empty grey wall one metre away."""
    k = Intrinsics(60, 48, 60.0, 60.0, 29.5, 23.5)
    rgb = np.full((48, 60, 3), 128, dtype=np.uint8)
    return CameraFrame(stamp_ns, rgb, np.ones((48, 60), dtype=np.float32), k, freeze(np.eye(4)))


def carry_through(arm: Arm, clock: Clock, at_most_s: float = 20.0) -> None:
    """Let a motion come to its end, with leave to go on after each command to its gripper."""
    end_ns = clock.now_ns() + round(at_most_s * 1e9)
    while arm.is_moving():
        assert clock.now_ns() < end_ns
        if arm.has_gripped():
            arm.go_on()
        clock.sleep(0.05)


def admit(motion: Motion, arm: Arm, clock: Clock, lifetime_s: float = 10.0) -> ApprovedMotion:
    """Let a motion through a real gate, as if it had been rehearsed just now."""
    start = arm.state()
    # A busy machine is no stale state.
    gate = Gate(PROFILE, (), GateLimits(lifetime_s=lifetime_s, max_state_age_s=2.0))
    now_ns = clock.now_ns()
    step = rehearsed(motion, start, now_ns)
    approved = gate.admit(step, arm.state(), look(now_ns), approval_of(step), Halt(), clock.now_ns())
    assert isinstance(approved, ApprovedMotion), approved
    return approved
