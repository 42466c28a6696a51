"""PyBullet bodies, a robot, physics and pictures, for the rest of the package."""

from qwen2vl_robot.bullet.camera import Light
from qwen2vl_robot.bullet.client import TABLE, TIME_STEP_S
from qwen2vl_robot.bullet.contacts import Contact, Contacts, Scan
from qwen2vl_robot.bullet.robot import BulletRobot
from qwen2vl_robot.bullet.shapes import Bowl
from qwen2vl_robot.bullet.world import BulletWorld, Friction, robot_on_table

__all__ = [
    "TABLE",
    "TIME_STEP_S",
    "Bowl",
    "BulletRobot",
    "BulletWorld",
    "Contact",
    "Contacts",
    "Friction",
    "Light",
    "Scan",
    "robot_on_table",
]
