"""A simulated robot cell and the controller, two nodes; say what to do on the topic `instruction`.

ros2 launch qwen2vl_robot sim.launch.py seed:=3
ros2 topic pub --once /instruction std_msgs/msg/String "{data: put the red block on the blue plate}"
"""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "namespace": ("/", "stands before every relative name of both nodes"),
    "use_sim_time": ("true", "the controller takes its time from the plant's /clock"),
    "params_file": (None, "parameters of the controller; this package's params.yaml if left out"),
    "autostart": ("true", "configure and activate the controller at once"),
    "use_respawn": ("false", "start a node again when it ends"),
    "log_level": ("info", "debug, info, warn or error"),
    "approval": ("auto", "auto, confirm or never"),
    "graph": ("auto", "transport: auto, ros or dds"),
    "scene": ("scenes/default.yaml", "ranges from which the seed draws, also by the path under sim/"),
    "seed": ("0", "draws poses, light, camera and the plant's faults"),
    "camera_hz": ("2.0", "pictures a second of simulated time"),
    "worker_python": ("", "the Python that has pybullet, if another one than ROS 2's"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the plant and the controller."""
    default_params = PathJoinSubstitution([FindPackageShare("qwen2vl_robot"), "launch", "params.yaml"])
    declared = [
        DeclareLaunchArgument(name, default_value=default_params if default is None else default, description=told)
        for name, (default, told) in ARGUMENTS.items()
    ]
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    # colcon puts console scripts outside PATH, so the module is run by this interpreter.
    robot = [sys.executable, "-m", "qwen2vl_robot"]
    common = ["--graph", value["graph"], "--namespace", value["namespace"]]
    plant = [*robot, "sim", "--scene", value["scene"], "--seed", value["seed"], "--camera-hz", value["camera_hz"]]
    plant += ["--worker-python", value["worker_python"], *common]
    run = [*robot, "run", "--params-file", value["params_file"], "--autostart", value["autostart"], *common]
    for name in ("approval", "use_sim_time", "worker_python"):
        run += ["-p", [f"{name}:='", value[name], "'"] if name == "worker_python" else [f"{name}:=", value[name]]]
    run += ["--log-level", value["log_level"]]
    nodes = [
        ExecuteProcess(cmd=command, name=name, output="screen", respawn=value["use_respawn"], respawn_delay=2.0)
        for name, command in (("plant", plant), ("qwen2vl_robot", run))
    ]
    return LaunchDescription([*declared, *nodes])
