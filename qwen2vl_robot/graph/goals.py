"""The status topic of an action → how many goals of other clients its server has."""

from __future__ import annotations

from collections import deque

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus, Message

_OWN = 1000  # ids of goals that are kept; a server tells of the last few
_OPEN = (GoalStatus.ACCEPTED.value, GoalStatus.EXECUTING.value, GoalStatus.CANCELING.value)


class GoalWatch:
    """The open goals of one action server; it publishes them whenever one of them changes.

    Args:
        topic: absolute name of the status topic.
    """

    def __init__(self, graph: interface.Graph, topic: str) -> None:
        self._own: deque[bytes] = deque(maxlen=_OWN)
        self._open: frozenset[bytes] = frozenset()
        status = interface.Topic(topic, "action_msgs/msg/GoalStatusArray", interface.Qos.LATCHED, "goals of a server")
        graph.subscribe(status, self._take)

    def sends(self, goal_id: bytes) -> None:
        """Note the id of a goal that this client is about to send."""
        self._own.append(goal_id)

    def forget(self) -> None:
        """Forget the goals of a server that is gone; it cannot tell of their end."""
        self._open = frozenset()

    def foreign(self) -> int:
        """Count the open goals that this client did not send."""
        return len(self._open.difference(self._own))

    def _take(self, message: Message) -> None:
        self._open = frozenset(
            bytes(entry.goal_info.goal_id.uuid) for entry in message.status_list if entry.status in _OPEN
        )
