"""Motions that others made, through this gate. Run it: python examples/anybodys_motion.py

Camera and arm are those of own_camera_and_arm.py: a recorded picture, and an arm that moves in no world.
"""

import time

import numpy as np
from own_camera_and_arm import DATA, Arm, Camera, Clock

import qwen2vl_robot as qr
from qwen2vl_robot.foreign import ForeignTrajectory, from_chunk

ROBOT = qr.load_robot("franka_panda")
NAMES = tuple(joint.name for joint in ROBOT.joints)
HERE = np.array(DATA["q_rad"], dtype=float)


def moveit_shape(way_rad: list[float], seconds: float) -> ForeignTrajectory:
    """The fields of moveit_msgs/RobotTrajectory.joint_trajectory: names, times, positions and their derivatives."""
    time_s = np.linspace(0.0, seconds, round(seconds * 10) + 1)
    s, way = time_s[:, None] / seconds, np.array(way_rad)
    q_rad = HERE + (s**3 * (10 - 15 * s + 6 * s**2)) * way
    speed = (30 * s**2 - 60 * s**3 + 30 * s**4) * way / seconds
    pull = (60 * s - 180 * s**2 + 120 * s**3) * way / seconds**2
    return ForeignTrajectory(NAMES, time_s, q_rad, speed, pull)


def lerobot_shape() -> np.ndarray:
    """A chunk of 14 actions, degrees: LeRobot's arms count so; the last column is the gripper's."""
    s = np.arange(1, 15)[:, None] / 14
    joints = np.rad2deg(HERE + 0.03 * s**3 * (10 - 15 * s + 6 * s**2) * np.eye(7)[0])
    return np.hstack([joints, np.full((14, 1), 100.0)])


def openpi_shape() -> dict[str, np.ndarray]:
    """What a policy server of openpi sends: {"actions": (horizon, 8)}, here joint positions in rad and a gripper."""
    s = np.arange(1, 8)[:, None] / 7
    return {"actions": np.hstack([HERE + 0.02 * s**3 * (10 - 15 * s + 6 * s**2) * np.eye(7)[0], np.ones((7, 1))])}


def say(what: str, answer: object) -> None:
    """Print a verdict, or why there is none."""
    if isinstance(answer, qr.Rehearsed):
        found = "; ".join(v.describe() for v in answer.verdict.violations) or "nothing against it"
        kind = "partial" if answer.verdict.is_partial else "whole"
        print(f"{what}: {kind} verdict in {answer.verdict.seconds * 1000:.0f} ms: {found}")
    elif isinstance(answer, qr.Outcome):
        print(f"{what}: {answer.kind.value}", *answer.reasons, sep="; ")


if __name__ == "__main__":
    with qr.RehearsalProcess(ROBOT, budget_s=60.0) as twin:
        twin.start()
        ports = qr.Ports(Camera(), Arm(), Clock(), qr.PlannerProcess(), twin)  # the planner is never asked
        foreign = qr.assemble(qr.Surroundings.of(ROBOT), ports).foreign
        say("down through the table", foreign.check(moveit_shape([0.0, 1.9, 0.0, 0.6, 0.0, 0.0, 0.0], 6.0)))
        say("too fast", foreign.check(moveit_shape([1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.5)))
        say("another robot", foreign.check(ForeignTrajectory(("elbow",), [0.0, 1.0], [[0.0], [0.1]])))
        say("a turn, run", foreign.execute(moveit_shape([0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2.0)))
        HERE = Arm().state().q_rad
        foreign = qr.assemble(
            qr.Surroundings.of(ROBOT), qr.Ports(Camera(), Arm(), Clock(), qr.PlannerProcess(), twin)
        ).foreign
        for what, chunk, rate_hz in (
            ("LeRobot", np.deg2rad(lerobot_shape()[:, :7]), 30.0),
            ("openpi", openpi_shape()["actions"][:, :7], 15.0),
        ):
            world, began_s = foreign.look(twin.glance), time.perf_counter()
            say(what, foreign.check_chunk(from_chunk(chunk, rate_hz, NAMES, HERE), world, twin.glance))
            print(f"  answered after {(time.perf_counter() - began_s) * 1000:.0f} ms")
