"""A simulated robot cell, the controller and its supervisor; optionally a recorder and a voice node.

ros2 launch qwen2vl_robot sim.launch.py seed:=3
ros2 topic pub --once /instruction std_msgs/msg/String "{data: put the red block on the blue plate}"
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "qwen2vl_robot"
ARGUMENTS = {
    "namespace": ("", "prefix of every relative name of all nodes"),
    "use_sim_time": ("true", "the controller takes its time from the plant's /clock"),
    "params_file": (None, "parameters of the controller; this package's params.yaml if left out"),
    "autostart": ("true", "configure and activate the controller at once"),
    "use_respawn": ("false", "restart a node when it ends; a stop is latched from the start, until ~/reset"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "approval": ("auto", "auto, confirm (a person approves each step) or never"),
    "seen_from": ("", "whose left and right count, picture or robot; empty: as the parameter file says"),
    "graph": ("auto", "transport: auto (rclpy where it is installed), ros or dds"),
    "scene": ("scenes/default.yaml", "scene file, by its path or its path under sim/; the seed draws from its ranges"),
    "seed": ("0", "draws poses, light, camera and the plant's faults"),
    "camera_hz": ("2.0", "pictures per second of simulated time"),
    "recorder": ("false", "record the graph's topics as MCAP, in recording_DATE_TIME where launch was started"),
    "voice": ("false", "listen to the microphone; a person must approve the motions of a spoken instruction"),
    "worker_python": ("", "a Python with pybullet, if ROS 2's has none"),
}
# Relative tf names, so that a namespace contains a whole robot.
REMAPPINGS = [("/tf", "tf"), ("/tf_static", "tf_static")]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the plant, the controller and its supervisor."""
    shipped = PathJoinSubstitution([FindPackageShare(PACKAGE), "launch", "params.yaml"])
    declared = [
        DeclareLaunchArgument(name, default_value=shipped if default is None else default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    common = {
        "package": PACKAGE,
        "executable": "qwen2vl-robot",
        "namespace": value["namespace"],
        "output": "screen",
        "respawn": value["use_respawn"],
        "respawn_delay": 2.0,
        "remappings": REMAPPINGS,
    }
    options = ("graph", "scene", "seed", "camera_hz", "worker_python", "log_level")
    simulated = [part for name in options for part in (f"--{name.replace('_', '-')}", value[name])]
    plant = Node(name="plant", arguments=["sim", *simulated], **common)
    parameters = [
        value["params_file"],
        {"use_sim_time": ParameterValue(value["use_sim_time"], value_type=bool)},
        {name: ParameterValue(value[name], value_type=str) for name in ("approval", "seen_from", "worker_python")},
    ]
    given = ["--graph", value["graph"], "--autostart", value["autostart"], "--log-level", value["log_level"]]
    controller = Node(name=PACKAGE, arguments=["run", *given], parameters=parameters, **common)
    guarded = ["--begin-stopped", value["use_respawn"], "--params-file", value["params_file"]]
    clock = ["-p", ["use_sim_time:=", value["use_sim_time"]]]
    supervisor = Node(
        name="supervisor", arguments=["supervisor", "--graph", value["graph"], *guarded, *clock], **common
    )
    optional = [
        Node(name=name, arguments=[command, "--graph", value["graph"]], condition=IfCondition(value[name]), **common)
        for name, command in (("recorder", "record"), ("voice", "voice"))
    ]
    return LaunchDescription([*declared, plant, controller, supervisor, *optional])
