"""What serves the controllers of an arm: ros2_control with mock hardware in processes of its own, or the stand-in.

Everything lives on a ROS domain of its own on this machine, so that no goal of this benchmark can reach a robot.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qwen2vl_robot.config import Controllers, RobotProfile, load_robot
from qwen2vl_robot.errors import BadInputError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_state_message
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.plant.controllers import GripperServer, TrajectoryServer
from qwen2vl_robot.reasons import WorkerReason
from qwen2vl_robot.urdf_files import read_urdf

RATE_HZ = 200
OLD_GRIPPER = "old_gripper_controller"  # takes GripperCommand; `gripper_controller` takes ParallelGripperCommand
PACKAGES = (
    *("controller_manager", "hardware_interface", "joint_trajectory_controller", "joint_state_broadcaster"),
    *("parallel_gripper_controller", "gripper_controllers", "rclpy", "rmw_cyclonedds_cpp", "rmw_fastrtps_cpp"),
)
_WIDTH_M = 0.08
_SAID_CHARS = 2000
_SPAWN_S = 180.0
_PATIENT = ("--controller-manager-timeout", "60", "--service-call-timeout", "60", "--switch-timeout", "60")


def bench_profile() -> RobotProfile:
    """Return the Panda with ros2_control's own names for its controllers."""
    controllers = Controllers(gripper_form="parallel_action")
    return load_robot("franka_panda").model_copy(update={"controllers": controllers})


def find_ros2_control() -> Path:
    """Return the folder with controller_manager's programs.

    Raises:
        BadInputError: there is none.
    """
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        folder = Path(prefix) / "lib" / "controller_manager"
        if prefix and (folder / "ros2_control_node").is_file():
            return folder
    raise BadInputError("no controller_manager found; source a ROS 2 with ros2_control and ros2_controllers")


def versions(programs: Path) -> dict[str, str]:
    """Read the versions of the packages beside controller_manager, as far as they are installed there."""
    found = {}
    for name in PACKAGES:
        file = programs.parents[1] / "share" / name / "package.xml"
        if file.is_file() and (version := re.search(r"<version>(.*?)</version>", file.read_text(encoding="utf-8"))):
            found[name] = version[1]
    return found


class RealControllers:
    """controller_manager with mock hardware, joint_state_broadcaster, joint_trajectory_controller and two grippers.

    Args:
        graph: publishes the robot_description, which alone makes the hardware a mock.
        folder: for the parameter file and the processes' output.
        has_velocity: whether the mock measures the arm's velocities.
    """

    def __init__(self, graph: interface.Graph, folder: Path, *, has_velocity: bool = True) -> None:
        self._programs = find_ros2_control()
        profile = bench_profile()
        parameters = folder / "controllers.yaml"
        parameters.write_text(json.dumps(_parameters(profile, has_velocity)), encoding="utf-8")
        self._log = (folder / "ros2_control.log").open("ab")
        description = graph.publisher(interface.ROBOT_DESCRIPTION)
        description.publish(graph.message("std_msgs/msg/String")(data=_mock_description(profile, has_velocity)))
        arguments = ["--ros-args", "--params-file", str(parameters)]
        self._manager = self._start([str(self._programs / "ros2_control_node"), *arguments])
        names = profile.controllers
        self._call("spawner", "joint_state_broadcaster", names.arm, names.gripper, *_PATIENT)

    def use_old_gripper(self) -> None:
        """Let the controller that takes GripperCommand have the fingers."""
        self._call("unspawner", bench_profile().controllers.gripper)
        self._call("spawner", OLD_GRIPPER, *_PATIENT)

    def deactivate(self) -> None:
        """Deactivate and unload the arm's controller."""
        self._call("unspawner", bench_profile().controllers.arm)

    def kill(self) -> None:
        """Kill controller_manager."""
        self._manager.kill()

    def close(self) -> None:
        """End all processes."""
        self._manager.terminate()
        try:
            self._manager.wait(10.0)
        except subprocess.TimeoutExpired:
            self._manager.kill()
            self._manager.wait()
        self._log.close()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def _call(self, program: str, *arguments: str) -> None:
        process = self._start([sys.executable, str(self._programs / program), *arguments])
        try:
            code = process.wait(_SPAWN_S)
        except BaseException:  # too late, or interrupted: nothing stays behind
            process.kill()
            process.wait()
            self.close()
            raise
        if code:
            self.close()
            said = Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-_SAID_CHARS:]
            told = f"{program} {' '.join(arguments)} ended with {code}; the end of what was said: {said}"
            raise WorkerError(told, reason=WorkerReason.CRASHED)


class StandIn:
    """The plant's controllers before an arm that follows its targets at once, at the same rate."""

    def __init__(self, transport: str, *, has_velocity: bool = True, gripper_form: str = "parallel_action") -> None:
        self._graph, self._has_velocity = open_graph(transport, "stand_in"), has_velocity
        profile = bench_profile()
        names = profile.controllers.model_dump()
        if gripper_form == "action":
            names |= {"gripper": OLD_GRIPPER, "gripper_form": "action"}
        self._profile = profile.model_copy(update={"controllers": Controllers(**names)})
        self._q_rad, self._width_m = np.array(profile.home_q_rad), _WIDTH_M
        self._arm = TrajectoryServer(self._graph, self._profile, self._q_rad, 0.0)
        self._gripper = GripperServer(self._graph, self._profile, self._width_m, 0.0)
        self._states = self._graph.publisher(interface.JOINT_STATES.published())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        self._graph.close()

    def _run(self) -> None:
        names = [*(j.name for j in self._profile.joints), *self._profile.gripper.joints]
        fingers = len(self._profile.gripper.joints)
        before_ns, before_rad = self._graph.now_ns(), self._q_rad
        while not self._ended.wait(1.0 / RATE_HZ):
            now_ns = self._graph.now_ns()
            target_rad, _ = self._arm.targets(now_ns / 1e9, self._q_rad)
            self._q_rad = np.array(target_rad)
            self._width_m = self._gripper.target(now_ns / 1e9, self._width_m)
            positions = np.array([*self._q_rad, *[self._profile.gripper.position(self._width_m)] * fingers])
            speed_radps = (self._q_rad - before_rad) / max((now_ns - before_ns) / 1e9, 1e-4)
            before_ns, before_rad = now_ns, self._q_rad
            speed_radps = speed_radps if self._has_velocity else np.full_like(speed_radps, np.nan)
            speeds = np.array([*speed_radps, *[0.0] * fingers])
            self._states.publish(joint_state_message(self._graph.message, names, positions, speeds, now_ns))


@contextlib.contextmanager
def closing(world: RealControllers | StandIn) -> Iterator[RealControllers | StandIn]:
    """Close a world at the end."""
    try:
        yield world
    finally:
        world.close()
        time.sleep(0.5)  # so that the next one does not find its servers


def _parameters(profile: RobotProfile, has_velocity: bool) -> dict[str, object]:
    """Parameters of controller_manager and its controllers; JSON is YAML too."""
    names, finger = profile.controllers, profile.gripper.joints[0]
    types = {
        "joint_state_broadcaster": "joint_state_broadcaster/JointStateBroadcaster",
        names.arm: "joint_trajectory_controller/JointTrajectoryController",
        names.gripper: "parallel_gripper_action_controller/GripperActionController",
        OLD_GRIPPER: "position_controllers/GripperActionController",
    }
    manager = {"update_rate": RATE_HZ, **{name: {"type": kind} for name, kind in types.items()}}
    arm = {
        "joints": [j.name for j in profile.joints][::-1],  # not in our order
        "command_interfaces": ["position"],
        "state_interfaces": ["position", *(["velocity"] if has_velocity else [])],
    }
    nodes: dict[str, object] = {"controller_manager": manager, names.arm: arm}
    nodes |= {name: {"joint": finger} for name in (names.gripper, OLD_GRIPPER)}
    return {name: {"ros__parameters": parameters} for name, parameters in nodes.items()}


def _mock_description(profile: RobotProfile, has_velocity: bool) -> str:
    """The robot's URDF with mock hardware in it, without shapes."""
    urdf = re.sub(r"<!--.*?-->|<(visual|collision)>.*?</\1>", "", read_urdf(profile.urdf_path), flags=re.DOTALL)
    first, *others = profile.gripper.joints
    finger_m = profile.gripper.position(_WIDTH_M)
    joints = [
        *(_joint(j.name, q, has_velocity) for j, q in zip(profile.joints, profile.home_q_rad, strict=True)),
        _joint(first, finger_m, True),  # the grippers' controllers do not run without
        *(_joint(name, finger_m, True, is_commanded=False) for name in others),
    ]
    plugin = "<plugin>mock_components/GenericSystem</plugin>"
    hardware = f'<hardware>{plugin}<param name="calculate_dynamics">true</param></hardware>'
    control = f'<ros2_control name="mock" type="system">{hardware}{"".join(joints)}</ros2_control>'
    return urdf.replace("</robot>", f"{control}</robot>")


def _joint(name: str, position: float, has_velocity: bool, *, is_commanded: bool = True) -> str:
    command = '<command_interface name="position"/>' if is_commanded else ""
    state = f'<state_interface name="position"><param name="initial_value">{position}</param></state_interface>'
    speed = '<state_interface name="velocity"/>' if has_velocity else ""
    return f'<joint name="{name}">{command}{state}{speed}</joint>'
