"""The graph → who else commands the arm: refused where somebody does, said where somebody could."""

from __future__ import annotations

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.nodes.health import Health

_ONE = "only one may command the arm"


class Commanders:
    """Looks for others at the arm's controllers.

    A publisher on a command topic counts as a commander, for its next message moves the arm. A client of an action is
    only named, because tools such as MoveIt keep one open; its goal counts.
    """

    def __init__(self, graph: interface.Graph, health: Health) -> None:
        self._graph, self._health = graph, health

    def check_topic(self, topic: interface.Topic, *, expected: int) -> None:
        """Check that nobody else publishes on a command topic.

        Args:
            expected: how many publishers there are of this node and its supervisor.

        Raises:
            ExecutionError: somebody else does, or one of these is missing.
        """
        others, name = self._graph.publishers_of(topic) - expected, self._graph.resolve(topic.name)
        if others < 0:
            raise ExecutionError(f"{name}: no publisher of the supervisor is seen; it could not halt the arm")
        if others > 0:
            self._refuse(topic.name, f"{name} has {others} publishers besides this node; {_ONE}")
        self._health.fine(topic.name)

    def check_action(self, name: str, client: interface.ActionClient) -> None:
        """Check that no goal of others runs, and say who could send one (raises as `check_goals`)."""
        self.check_goals(name, client)
        others = client.others()
        if others > 0:
            self._health.warn(name, f"{self._graph.resolve(name)} has {others} clients besides this node; {_ONE}")
        else:
            self._health.fine(name)

    def check_goals(self, name: str, client: interface.ActionClient) -> None:
        """Check that a server has no goal of others.

        Raises:
            ExecutionError: it has.
        """
        goals = client.foreign_goals()
        if goals > 0:
            self._refuse(name, f"{self._graph.resolve(name)} has {goals} goals that this node did not send; {_ONE}")

    def _refuse(self, name: str, problem: str) -> None:
        self._health.error(name, problem)
        raise ExecutionError(problem)
