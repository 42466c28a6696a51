"""The plant → a robot cell on the ROS 2 graph: camera, joint states, tf, robot_description, ros2_control's interfaces.

The simulation runs in a worker; this process only communicates. It publishes plant time on /clock, so that nodes with
use_sim_time wait while a picture is rendered and do not take it for a lost link.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qwen2vl_robot.config import RobotProfile, SceneRanges, load_robot, load_yaml
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import (
    image_from_depth,
    image_from_rgb,
    info_from_intrinsics,
    joint_state_message,
    stamp_from_ns,
    transform_message,
)
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import CameraFrame, RobotState
from qwen2vl_robot.plant.controllers import GripperServer, TrajectoryServer
from qwen2vl_robot.process import Worker
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.urdf_files import read_urdf

_log = logging.getLogger(__name__)
CAMERA_FRAME = "camera_color_optical_frame"
_TICK_S = 1.0 / 120.0  # two time steps of Bullet
_CALL_S = 30.0
_TF_EVERY = 12  # ticks
_MAX_DEBT_S = 0.1


class PlantNode:
    """One plant on the graph.

    Args:
        scene: file of sim/scenes.
        seed: draws the scene and its faults.
        camera: a model of sim/cameras, instead of the scene's own.
        camera_hz: pictures per second of plant time, taken only while the image topic has subscribers.
        speed: largest ratio of plant time to wall time.
        interpreter: the Python that has pybullet, else this one.
    """

    def __init__(
        self,
        graph: interface.Graph,
        scene: str,
        seed: int,
        *,
        camera: str | None = None,
        camera_hz: float = 2.0,
        speed: float = 1.0,
        interpreter: str | None = None,
    ) -> None:
        file = resolve(scene)
        ranges = load_yaml(file, SceneRanges)
        self._graph, self._speed = graph, speed
        self._profile: RobotProfile = load_robot(ranges.robot)
        self._kinematics = Kinematics(self._profile)
        self._worker = Worker(
            "qwen2vl_robot.plant.cell:Plant", str(file), seed, None, None, False, camera, interpreter=interpreter
        )
        state: RobotState = self._worker.call("state", timeout_s=_CALL_S)
        lag_s = ranges.faults.actuation_lag_s
        self._arm = TrajectoryServer(graph, self._profile, state.q_rad, lag_s)
        self._gripper = GripperServer(graph, self._profile, state.gripper_width_m, lag_s)
        self._state, self._ticks = state, 0
        self._every = max(1, round(1.0 / (camera_hz * _TICK_S)))
        topics = (
            interface.CLOCK,
            interface.JOINT_STATES,
            interface.IMAGE,
            interface.DEPTH,
            interface.CAMERA_INFO,
            interface.TF,
            interface.TF_STATIC,
        )
        self._publishers = {t.name: graph.publisher(t.published()) for t in topics}
        description = graph.publisher(interface.ROBOT_DESCRIPTION)
        urdf = read_urdf(self._profile.urdf_path)
        description.publish(graph.message(interface.ROBOT_DESCRIPTION.type)(data=urdf))
        self._publish_camera_pose(self._capture())

    def run(self, has_ended: Callable[[], bool] = lambda: False) -> None:
        """Simulate and publish until `has_ended`; a delay of more than 0.1 s behind the schedule is dropped."""
        _log.info("simulating %s at up to %g times real time", self._profile.name, self._speed)
        due_s = time.monotonic()
        while not has_ended():
            self.tick()
            due_s = max(due_s + _TICK_S / self._speed, time.monotonic() - _MAX_DEBT_S)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def tick(self) -> None:
        """Advance by one tick of plant time: command, simulate, measure, publish."""
        now_s = self._state.stamp_ns / 1e9
        q, dq = self._arm.targets(now_s, self._state.q_rad)
        width_m = self._gripper.target(now_s, self._state.gripper_width_m)
        self._state = self._worker.call("drive", q, dq, width_m, _TICK_S, timeout_s=_CALL_S)
        self._ticks += 1
        self._publish_joints()
        if self._ticks % _TF_EVERY == 0:
            self._publish_links()
        if self._ticks % self._every == 0 and self._publishers[interface.IMAGE.name].listeners():
            self._publish_frame(self._capture())

    def close(self) -> None:
        """End the simulation."""
        _log.info("ended")
        self._worker.close()

    def _capture(self) -> CameraFrame:
        frame: CameraFrame = self._worker.call("capture", timeout_s=_CALL_S)
        return frame

    def _publish_joints(self) -> None:
        """Publish /clock, then joint_states, so that no state is stamped later than the clock."""
        make, state = self._graph.message, self._state
        clock = make(interface.CLOCK.type)(clock=stamp_from_ns(make, state.stamp_ns))
        self._publishers[interface.CLOCK.name].publish(clock)
        fingers = self._profile.gripper.joints
        names = [*(j.name for j in self._profile.joints), *fingers]
        finger = self._profile.gripper.position(state.gripper_width_m)
        q = np.concatenate([state.q_rad, np.full(len(fingers), finger)])
        dq = np.concatenate([state.dq_radps, np.zeros(len(fingers))])
        effort = None if state.effort_nm is None else np.concatenate([state.effort_nm, np.zeros(len(fingers))])
        message = joint_state_message(make, names, q, dq, state.stamp_ns, effort)
        self._publishers[interface.JOINT_STATES.name].publish(message)

    def _publish_links(self) -> None:
        base = self._profile.base_link
        poses = self._kinematics.link_poses(self._state.q_rad, self._state.gripper_width_m)
        self._publish_tf(interface.TF, [(base, link, T) for link, T in poses.items() if link != base])

    def _publish_camera_pose(self, frame: CameraFrame) -> None:
        self._publish_tf(interface.TF_STATIC, [(self._profile.base_link, CAMERA_FRAME, frame.T_base_camera)])

    def _publish_tf(self, topic: interface.Topic, poses: list[Any]) -> None:
        make, stamp_ns = self._graph.message, self._state.stamp_ns
        transforms = [transform_message(make, parent, child, T, stamp_ns) for parent, child, T in poses]
        self._publishers[topic.name].publish(make(topic.type)(transforms=transforms))

    def _publish_frame(self, frame: CameraFrame) -> None:
        make, stamp_ns = self._graph.message, frame.stamp_ns
        self._publishers[interface.CAMERA_INFO.name].publish(
            info_from_intrinsics(make, frame.intrinsics, stamp_ns, CAMERA_FRAME)
        )
        self._publishers[interface.DEPTH.name].publish(image_from_depth(make, frame.depth_m, stamp_ns, CAMERA_FRAME))
        self._publishers[interface.IMAGE.name].publish(image_from_rgb(make, frame.rgb, stamp_ns, CAMERA_FRAME))
