"""A robot file's name → its profile, with the live robot_description where the file says so."""

from __future__ import annotations

import threading
from typing import Any

from qwen2vl_robot.config import RobotProfile, load_robot, robot_file
from qwen2vl_robot.description import take_live, wants_live
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface

_DESCRIPTION_S = 15.0


def load_live_robot(name: str, graph: interface.Graph) -> RobotProfile:
    """Load the robot file; where its `urdf` is robot_description, wait for that topic first.

    Raises:
        BadInputError: the file cannot be used, or no robot_description came.
    """
    has_come = threading.Event()
    latest: list[str] = []

    def take(message: Any) -> None:
        latest[:] = [message.data]
        has_come.set()

    if wants_live(robot_file(name)):
        graph.subscribe(interface.ROBOT_DESCRIPTION, take)
        if not has_come.wait(_DESCRIPTION_S):
            raise BadInputError(
                f"{name}: its urdf is robot_description, and none came in {_DESCRIPTION_S:g} s; "
                "is robot_state_publisher running?"
            )
        take_live(latest[0])
    return load_robot(name)
