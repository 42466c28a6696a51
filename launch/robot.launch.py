"""Controller and supervisor for a real robot with cameras and controllers; by default a person approves each step.

    ros2 launch qwen2vl_robot robot.launch.py params_file:=/path/to/my_params.yaml image:=/camera/color/image_raw \
        depth:=/camera/aligned_depth_to_color/image_raw camera_info:=/camera/color/camera_info
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "qwen2vl_robot"
ARGUMENTS = {
    "namespace": ("", "prefix of every relative name"),
    "use_sim_time": ("false", "take time from /clock"),
    "params_file": (None, "parameters of the controller; this package's params.yaml if left out"),
    "autostart": ("true", "configure and activate the node at once"),
    "use_respawn": ("false", "restart a node when it ends; a stop is latched from the start, until ~/reset"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "approval": ("confirm", "confirm (a person approves each step), never or auto"),
    "seen_from": ("", "whose left and right count, picture or robot; empty: as the parameter file says"),
    "graph": ("auto", "transport: auto (rclpy where it is installed), ros or dds"),
    "image": ("image", "the camera's rectified colour topic"),
    "depth": ("depth", "its depth topic, registered to colour"),
    "camera_info": ("camera_info", "its intrinsics"),
    "joint_states": ("joint_states", "arm and finger joints"),
}
REMAPPED = ("image", "depth", "camera_info", "joint_states")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the controller and its supervisor."""
    shipped = PathJoinSubstitution([FindPackageShare(PACKAGE), "launch", "params.yaml"])
    declared = [
        DeclareLaunchArgument(name, default_value=shipped if default is None else default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    controller = Node(
        package=PACKAGE,
        executable="qwen2vl-robot",
        name=PACKAGE,
        namespace=value["namespace"],
        output="screen",
        respawn=value["use_respawn"],
        respawn_delay=2.0,
        arguments=[
            *("run", "--graph", value["graph"]),
            *("--autostart", value["autostart"], "--log-level", value["log_level"]),
        ],
        parameters=[
            value["params_file"],
            {
                "use_sim_time": ParameterValue(value["use_sim_time"], value_type=bool),
                "approval": ParameterValue(value["approval"], value_type=str),
                "seen_from": ParameterValue(value["seen_from"], value_type=str),
            },
        ],
        remappings=[("/tf", "tf"), ("/tf_static", "tf_static"), *((name, value[name]) for name in REMAPPED)],
    )
    supervisor = Node(
        package=PACKAGE,
        executable="qwen2vl-robot",
        name="supervisor",
        namespace=value["namespace"],
        output="screen",
        respawn=value["use_respawn"],
        respawn_delay=2.0,
        arguments=[
            *("supervisor", "--graph", value["graph"], "--begin-stopped", value["use_respawn"]),
            *("--params-file", value["params_file"], "-p", ["use_sim_time:=", value["use_sim_time"]]),
        ],
        remappings=[("joint_states", value["joint_states"])],
    )
    return LaunchDescription([*declared, controller, supervisor])
