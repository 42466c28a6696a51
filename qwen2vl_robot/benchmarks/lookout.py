"""Recorded frames of a moving arm, sent over the graph → how many a second the lookout judges on one core.

The frames are the plant's, 640x480 with a D435's errors. The sender is this module, run as a program. The receiving
process has one core: transport, conversions and judging together. The whole way counts as still to come throughout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.hazards.stage import RejectedError, Stage
from qwen2vl_robot.benchmarks.watched import Course, admitted
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import ObservationError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import (
    image_from_depth,
    image_from_rgb,
    info_from_intrinsics,
    joint_state_message,
)
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import CameraFrame, Cause, Intrinsics, Rehearsed, RobotState
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reasons import AbortReason, WorkerReason

_SCENE, _CAMERA, _ROBOT = "scenes/tabletop.yaml", "d435", "franka_panda"
_EVERY_S = 0.1  # of plant time, between two recorded frames
_SENT_HZ = 30.0
_POLL_S = 0.02  # as the executor does
_START_S = 60.0
_SILENT_S = 10.0
_Recorded = list[tuple[CameraFrame, RobotState]]


def run_lookout(frames: int, seed: int) -> dict[str, Any]:
    """Record a motion and judge its frames, sent again and again.

    Raises:
        WorkerError: the sender failed, or its frames do not come.
    """
    use_own_domain()
    around = Surroundings.of(load_robot(_ROBOT))
    step, recorded = _record(around, seed)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frames.npz"
        k = recorded[0][0].intrinsics
        np.savez(
            file,
            rgb=np.array([frame.rgb for frame, _ in recorded]),
            depth_m=np.array([frame.depth_m for frame, _ in recorded]),
            q_rad=np.array([robot.q_rad for _, robot in recorded]),
            width_m=np.array([robot.gripper_width_m for _, robot in recorded]),
            k=np.array([k.fx_px, k.fy_px, k.cx_px, k.cy_px]),
        )
        sender = subprocess.Popen([sys.executable, "-m", __name__, str(file)], stdout=2)
        try:
            os.sched_setaffinity(0, {min(cores)})  # after the sender was started, which is to have the other cores
            totals = _judge(around, step, frames, sender)
        finally:
            sender.kill()
            sender.wait()
            os.sched_setaffinity(0, cores)
    return {"seed": seed, "camera": _CAMERA, "recorded": len(recorded), "sent_hz": _SENT_HZ, "totals": totals}


def _record(around: Surroundings, seed: int) -> tuple[Rehearsed, _Recorded]:
    """Let the arm of a plant cross the table and keep what its camera sees."""
    rng = np.random.default_rng(seed)
    for number in range(seed, seed + 20):
        with PlantProcess(_SCENE, number, camera=_CAMERA) as plant:
            link = plant.link
            try:
                course = Course.draw(Stage(around.profile, around.kinematics), link.state(), rng)
            except RejectedError:
                continue
            approved, step = admitted(link, around, course.segments)
            link.execute(approved)
            recorded = []
            while link.is_moving():
                recorded.append((link.capture(), link.state()))
                link.sleep(_EVERY_S)
            return step, recorded
    raise WorkerError(f"no motion for the seeds from {seed} on", reason=WorkerReason.RAISED)


def _judge(around: Surroundings, step: Rehearsed, frames: int, sender: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert step.seen is not None
    graph = open_graph("dds", "receiver")
    health = Health(graph, hardware_id=_ROBOT, facts=dict)
    settings = CameraSettings(around.profile.base_link, T_base_camera=step.seen.T_base_camera)
    camera, joints = GraphCamera(graph, settings), JointStates(graph, around.profile, health)
    lookout = Lookout(camera, around, step)
    stops, seen_s = list[Cause](), time.monotonic() + _START_S
    began_s = began_cpu_s = 0.0
    first = 0
    try:
        while lookout.frames < first + frames:
            if sender.poll() is not None or time.monotonic() > seen_s + _SILENT_S:
                raise WorkerError("the sender's frames do not come", reason=WorkerReason.CRASHED)
            before = lookout.frames
            try:
                cause = lookout.look(joints.latest(), 0.0, graph.now_ns())
            except ObservationError:  # no joint state yet
                cause = None
            stops += [cause] if cause is not None and lookout.frames else []
            if lookout.frames > before:
                seen_s = time.monotonic()
            if not first and lookout.frames:  # from here on
                first, began_s, began_cpu_s = lookout.frames, time.monotonic(), time.process_time()
            graph.sleep(_POLL_S)
        wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    finally:
        graph.close()
    return {
        "frames": frames,
        "judged_hz": round(frames / wall_s, 1),
        "cpu_ms": round(1000 * cpu_s / frames, 1),
        "one_core_hz": round(frames / cpu_s, 1),
        "false_stops": sum(cause.reason is AbortReason.INTRUSION for cause in stops),
        "starved": sum(cause.reason is AbortReason.UNWATCHED for cause in stops),
    }


def main() -> None:
    """Send the frames of FILE, each with the arm's joints, until killed."""
    data = np.load(sys.argv[1])
    graph, profile = open_graph("dds", "sender"), load_robot(_ROBOT)
    topics = (interface.JOINT_STATES, interface.CAMERA_INFO, interface.DEPTH, interface.IMAGE)
    joints, infos, depths, images = (graph.publisher(topic) for topic in topics)
    names = [*(j.name for j in profile.joints), *profile.gripper.joints]
    height, width = data["depth_m"].shape[1:]
    k = Intrinsics(width, height, *(float(v) for v in data["k"]))
    sent, make = [data[what] for what in ("rgb", "depth_m", "q_rad", "width_m")], graph.message
    while True:
        for rgb, depth_m, q_rad, width_m in zip(*sent, strict=True):
            began_s, now_ns = time.monotonic(), graph.now_ns()
            fingers = np.full(len(profile.gripper.joints), profile.gripper.position(float(width_m)))
            q = np.concatenate([q_rad, fingers])
            joints.publish(joint_state_message(make, names, q, np.zeros(len(q)), now_ns))
            infos.publish(info_from_intrinsics(make, k, now_ns, "camera"))
            depths.publish(image_from_depth(make, depth_m, now_ns, "camera"))
            images.publish(image_from_rgb(make, rgb, now_ns, "camera"))
            time.sleep(max(0.0, 1.0 / _SENT_HZ - (time.monotonic() - began_s)))


if __name__ == "__main__":
    main()
