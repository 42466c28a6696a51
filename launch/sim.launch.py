"""A simulated robot cell, the controller and its supervisor; optionally a console, a recorder and a voice node.

ros2 launch qwen2vl_robot sim.launch.py seed:=3
ros2 topic pub --once /instruction std_msgs/msg/String "{data: put the red block on the blue plate}"
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = "qwen2vl_robot"
ARGUMENTS = {
    "namespace": ("", "prefix of every relative name of all nodes, of /tf and of /clock"),
    "params_file": ("", "parameters of the controller, a copy of params.yaml; left out: the values of params.yaml"),
    "autostart": ("true", "configure and activate the controller at once"),
    "use_respawn": ("false", "restart a node when it ends; a stop is latched from the start, until ~/reset"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "use_sim_time": ("", "take time from the plant's clock; left out: as the parameter file says, else true"),
    "approval": ("", "auto, confirm (a person approves) or never; left out: as the parameter file says, else auto"),
    "seen_from": ("", "whose left and right count, picture or robot; left out: as the parameter file says"),
    "worker_python": ("", "a Python with pybullet, if ROS 2's has none; left out: as the parameter file says"),
    "console": ("false", "serve a web page on 127.0.0.1:8765; its address with a token is printed on the screen"),
    "graph": ("auto", "transport: auto (rclpy where it is installed), ros or dds"),
    "scene": ("scenes/default.yaml", "scene file, by its path or its path under sim/; the seed draws from its ranges"),
    "seed": ("0", "draws poses, light, camera and the plant's faults"),
    "camera": ("", "how the camera errs: ideal, d435, structured_light or a file; left out: as the scene says"),
    "camera_hz": ("2.0", "pictures per second of simulated time"),
    "recorder": ("false", "record the graph's topics as MCAP, in recording_DATE_TIME where launch was started"),
    "voice": ("false", "listen to the microphone; a person must approve the motions of a spoken instruction"),
}
PARAMETERS = {"use_sim_time": bool, "approval": str, "seen_from": str, "worker_python": str}
SIMULATED = {"use_sim_time": True, "approval": "auto"}  # what a simulation has, unless file or argument says otherwise
# Relative names, so that a namespace contains a whole robot with its frames and its time.
REMAPPINGS = [("/tf", "tf"), ("/tf_static", "tf_static"), ("/clock", "clock")]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; start the plant, the controller and its supervisor."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """Start the nodes; only an argument that was given wins over the parameter file."""
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    is_given = {name: bool(value[name].perform(context)) for name in ARGUMENTS}
    file = [value["params_file"]] if is_given["params_file"] else []
    given = {n: ParameterValue(value[n], value_type=kind) for n, kind in PARAMETERS.items() if is_given[n]}
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
    simulated += ["--camera", value["camera"]] if is_given["camera"] else []
    plant = Node(name="plant", arguments=["sim", *simulated], **common)
    options_of_run = ["--graph", value["graph"], "--autostart", value["autostart"], "--log-level", value["log_level"]]
    parameters = [SIMULATED, *file, *([given] if given else [])]
    controller = Node(name=PACKAGE, arguments=["run", *options_of_run], parameters=parameters, **common)
    watch = ["--graph", value["graph"], "--begin-stopped", value["use_respawn"]]
    supervisor = Node(name="supervisor", arguments=["supervisor", *watch], parameters=parameters, **common)
    optional = [
        Node(name=name, arguments=[command, "--graph", value["graph"]], condition=IfCondition(value[name]), **common)
        for name, command in (("recorder", "record"), ("voice", "voice"))
    ]
    page = ["console", "--graph", value["graph"], "--namespace", f"/{value['namespace'].perform(context).strip('/')}"]
    console = Node(name="console", arguments=page, condition=IfCondition(value["console"]), **common)
    return [plant, controller, supervisor, console, *optional]
