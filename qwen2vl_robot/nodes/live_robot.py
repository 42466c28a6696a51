"""A robot file's name → its profile, with the live robot_description where the file says so, and whether they agree."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from qwen2vl_robot.config import RobotProfile, load_robot, robot_file
from qwen2vl_robot.description import check_description, take_live, wants_live
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface

if TYPE_CHECKING:  # the supervisor loads this module and reports to nobody
    from qwen2vl_robot.nodes.health import Health

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


class Described:
    """What came as robot_description, compared with the robot file.

    Args:
        is_needed: whether nothing may move before one came.
    """

    def __init__(self, profile: RobotProfile, health: Health, *, is_needed: bool) -> None:
        self._profile, self._health, self._is_needed = profile, health, is_needed
        self._has_come, self._mismatch = False, ""

    def lack(self) -> str | None:
        """Say why nothing may move, None where all is well."""
        if self._is_needed and not self._has_come:
            return "no robot_description has come yet"
        return self._mismatch or None

    def take(self, urdf: str) -> None:
        """Compare one with the robot file; while they differ no instruction is taken."""
        try:
            check_description(urdf, self._profile)
        except BadInputError as error:
            self._mismatch = f"robot_description: {error}"
            self._health.error("robot_description", str(error), lasts=True)
        else:
            self._mismatch = ""
            self._health.fine("robot_description")
        self._has_come = True  # last: no instruction may come between arrival and comparison
