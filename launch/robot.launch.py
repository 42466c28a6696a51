"""Check this machine for driving a robot: runs `qwen2vl-robot doctor` and ends.

    ros2 launch qwen2vl_robot robot.launch.py

Driving a robot over the ROS graph is not part of this version: nothing here connects to an arm or a camera.
"""

import sys

from launch import LaunchDescription
from launch.actions import ExecuteProcess, LogInfo

NOTICE = "qwen2vl_robot: this version drives the simulated robot only (sim.launch.py); checking the machine"


def generate_launch_description() -> LaunchDescription:
    """Say what this version does not do, then show what is installed."""
    doctor = [sys.executable, "-m", "qwen2vl_robot", "doctor"]
    return LaunchDescription([LogInfo(msg=NOTICE), ExecuteProcess(cmd=doctor, output="screen")])
