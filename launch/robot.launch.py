"""Controller and supervisor for a real robot with cameras and controllers; by default a person approves each step.

    ros2 launch qwen2vl_robot robot.launch.py params_file:=/path/to/my_params.yaml image:=/camera/color/image_raw \
        depth:=/camera/aligned_depth_to_color/image_raw camera_info:=/camera/color/camera_info
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = "qwen2vl_robot"
AS_FILE = "; left out: as the parameter file says"
ARGUMENTS = {
    "namespace": ("", "prefix of every relative name"),
    "params_file": ("", "parameters of the controller, a copy of params.yaml; left out: the values of params.yaml"),
    "autostart": ("true", "configure and activate the node at once"),
    "use_respawn": ("false", "restart a node when it ends; a stop is latched from the start, until ~/reset"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "use_sim_time": ("", "take time from the clock topic, true or false" + AS_FILE),
    "approval": ("", "confirm (a person approves each step), never or auto" + AS_FILE),
    "seen_from": ("", "whose left and right count, picture or robot" + AS_FILE),
    "worker_python": ("", "a Python with pybullet, if ROS 2's has none" + AS_FILE),
    "console": ("false", "serve a web page on 127.0.0.1:8765; its address with a token is printed on the screen"),
    "graph": ("auto", "transport: auto (rclpy where it is installed), ros or dds"),
    "image": ("image", "the camera's colour topic, raw or rectified"),
    "depth": ("depth", "its depth topic"),
    "camera_info": ("camera_info", "its intrinsics"),
    "joint_states": ("joint_states", "arm and finger joints"),
    "clock": ("/clock", "the clock topic, for use_sim_time"),
    "remap": ("", "further names, such as those of a second camera: 'side/image:=/side_camera/color/image_raw ...'"),
}
REMAPPED = ("image", "depth", "camera_info", "joint_states")
PARAMETERS = {"use_sim_time": bool, "approval": str, "seen_from": str, "worker_python": str}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the controller and its supervisor, and a console where it is asked for."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """Start both nodes; only an argument that was given wins over the parameter file."""
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    is_given = {name: bool(value[name].perform(context)) for name in ARGUMENTS}
    file = [value["params_file"]] if is_given["params_file"] else []
    given = {n: ParameterValue(value[n], value_type=kind) for n, kind in PARAMETERS.items() if is_given[n]}
    remapped = [
        *(("/tf", "tf"), ("/tf_static", "tf_static"), ("/clock", value["clock"])),
        *((name, value[name]) for name in REMAPPED),
        *(tuple(rule.split(":=", 1)) for rule in value["remap"].perform(context).split()),
    ]
    common = {
        "package": PACKAGE,
        "executable": "qwen2vl-robot",
        "namespace": value["namespace"],
        "output": "screen",
        "respawn": value["use_respawn"],
        "respawn_delay": 2.0,
        "parameters": [*file, *([given] if given else [])],
        "remappings": remapped,
    }
    run = ["--graph", value["graph"], "--autostart", value["autostart"], "--log-level", value["log_level"]]
    controller = Node(name=PACKAGE, arguments=["run", *run], **common)
    watch = ["--graph", value["graph"], "--begin-stopped", value["use_respawn"]]
    supervisor = Node(name="supervisor", arguments=["supervisor", *watch], **common)
    page = ["console", "--graph", value["graph"], "--namespace", f"/{value['namespace'].perform(context).strip('/')}"]
    console = Node(name="console", arguments=page, condition=IfCondition(value["console"]), **common)
    return [controller, supervisor, console]
