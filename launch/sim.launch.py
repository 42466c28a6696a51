"""A simulated robot cell and the controller, two nodes; a recorder and a voice where asked for.

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
    "namespace": ("", "stands before every relative name of both nodes"),
    "use_sim_time": ("true", "the controller takes its time from the plant's /clock"),
    "params_file": (None, "parameters of the controller; this package's params.yaml if left out"),
    "autostart": ("true", "configure and activate the controller at once"),
    "use_respawn": ("false", "start a node again when it ends"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "approval": ("auto", "auto, confirm (a person agrees to each step) or never"),
    "graph": ("auto", "transport: auto (rclpy where it is installed), ros or dds"),
    "scene": ("scenes/default.yaml", "ranges from which the seed draws, also by the path under sim/"),
    "seed": ("0", "draws poses, light, camera and the plant's faults"),
    "camera_hz": ("2.0", "pictures a second of simulated time"),
    "recorder": ("false", "record the graph's topics as MCAP, in recording_DATE_TIME where launch was started"),
    "voice": ("false", "listen at the microphone; what is said must be approved before anything moves"),
    "worker_python": ("", "the Python that has pybullet, if another one than ROS 2's"),
}
# tf by its relative name, so that a namespace holds a whole robot.
REMAPPINGS = [("/tf", "tf"), ("/tf_static", "tf_static")]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the plant and the controller."""
    shipped = PathJoinSubstitution([FindPackageShare(PACKAGE), "launch", "params.yaml"])
    declared = [
        DeclareLaunchArgument(name, default_value=shipped if default is None else default, description=told)
        for name, (default, told) in ARGUMENTS.items()
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
        {name: ParameterValue(value[name], value_type=str) for name in ("approval", "worker_python")},
    ]
    told = ["--graph", value["graph"], "--autostart", value["autostart"], "--log-level", value["log_level"]]
    controller = Node(name=PACKAGE, arguments=["run", *told], parameters=parameters, **common)
    further = [
        Node(name=name, arguments=[command, "--graph", value["graph"]], condition=IfCondition(value[name]), **common)
        for name, command in (("recorder", "record"), ("voice", "voice"))
    ]
    return LaunchDescription([*declared, plant, controller, *further])
