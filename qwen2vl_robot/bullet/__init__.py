"""Bodies, a robot, physics and pictures in PyBullet; the rest of the package takes them from here."""

from qwen2vl_robot.bullet.camera import Light
from qwen2vl_robot.bullet.client import TABLE, TIME_STEP_S
from qwen2vl_robot.bullet.contacts import Contact, Contacts, Scan
from qwen2vl_robot.bullet.robot import Robot
from qwen2vl_robot.bullet.shapes import Bowl
from qwen2vl_robot.bullet.world import BulletWorld, Friction, robot_on_table

__all__ = [
    "TABLE",
    "TIME_STEP_S",
    "Bowl",
    "BulletWorld",
    "Contact",
    "Contacts",
    "Friction",
    "Light",
    "Robot",
    "Scan",
    "robot_on_table",
]
