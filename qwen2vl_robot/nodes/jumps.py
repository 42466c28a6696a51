"""A jump of the clock → the task given up, the arm halted, what was stamped before forgotten, and a word about it."""

from __future__ import annotations

import time

from qwen2vl_robot.graph import interface
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.graph_cameras import GraphCameras
from qwen2vl_robot.nodes.health import Health

_SAID_S = 1.0  # two clocks on one topic make a hundred jumps a second


class Jumps:
    """What a node does when ROS time jumped: no stamp from before says any more how old something is."""

    def __init__(
        self, graph: interface.Graph, halt: Halt, arm: GraphArm, cameras: GraphCameras, health: Health
    ) -> None:
        self._graph, self._halt, self._arm, self._cameras, self._health = graph, halt, arm, cameras, health
        self._said_s = -_SAID_S
        graph.on_jump(self._take)

    def _take(self, seconds: float) -> None:
        text = f"the clock went {'back' if seconds < 0.0 else 'on at once'} by {abs(seconds):.3f} s"
        if self._halt.cancel(text):
            self._arm.stop()  # before its state is forgotten: a halt by topic needs it
        self._arm.forget()
        self._cameras.forget()
        if time.monotonic() - self._said_s >= _SAID_S:
            self._said_s = time.monotonic()
            clocks = self._graph.publishers_of(interface.CLOCK)
            two = f"; {clocks} nodes publish {self._graph.resolve(interface.CLOCK.name)}" if clocks > 1 else ""
            self._health.warn("clock", text + two)
