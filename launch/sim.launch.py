"""Run the simulated demo once: an instruction goes in, a simulated arm moves, OUT/report.json says how it ended.

    ros2 launch qwen2vl_robot sim.launch.py instruction:='put the red block on the blue plate' seed:=3

The command runs as a process of its own and talks to no ROS topic; the plant on the graph is not part of this version.
"""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "instruction": ("put the red block on the blue plate", "what the robot is asked to do"),
    "scene": ("scenes/default.yaml", "scene file, also by its path under sim/: ranges from which the seed draws"),
    "seed": ("0", "draws poses, light, camera and the plant's faults"),
    "out": ("out/demo", "folder for report.json, the annotated frame and the film"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments of `qwen2vl-robot demo` and run it."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    # colcon puts console scripts outside PATH, so the module is run by this interpreter.
    command = [sys.executable, "-m", "qwen2vl_robot", "demo", "--headless"]
    for name in ARGUMENTS:
        command += [f"--{name}", LaunchConfiguration(name)]
    return LaunchDescription([*declared, ExecuteProcess(cmd=command, output="screen")])
