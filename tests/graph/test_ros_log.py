"""The package's log over rclpy: by the node's logger to /rosout, at its level, and the same line once a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.transport import has_rclpy
from qwen2vl_robot.log import start_logging
from tests.domains import DOMAIN
from tests.graph.peer import until

if not has_rclpy():
    reason = "rclpy is not importable here: install ROS 2 and source its setup file to test the log over it"
    pytest.skip(reason, allow_module_level=True)

from qwen2vl_robot.graph.ros import RosGraph

ROSOUT = interface.Topic("/rosout", "rcl_interfaces/msg/Log", interface.Qos.TF, "every node's log")
ARRIVES_S = 0.3
WARN, FATAL = 30, 50  # of rcl_interfaces/msg/Log
EXAMPLE = logging.getLogger("qwen2vl_robot.example")


class Node:
    """A node whose log is on, and what another node receives of it on /rosout: level and text of each line."""

    def __init__(self, listener: RosGraph, level: str, namespace: str = "/") -> None:
        self._came: list[Any] = []
        others = listener.publishers_of(ROSOUT)
        self.graph = RosGraph("talker", namespace=namespace)
        listener.subscribe(ROSOUT, self._came.append)
        until(lambda: listener.publishers_of(ROSOUT) > others)
        start_logging(level, self.graph.log_handler(level))
        until(self._is_heard)
        self._came.clear()

    def _is_heard(self) -> bool:
        EXAMPLE.critical("can you hear me")
        time.sleep(ARRIVES_S)
        return bool(self.lines())

    def lines(self) -> list[tuple[int, str]]:
        """Return what came, after whatever is still under way has arrived."""
        time.sleep(ARRIVES_S)
        name = self.graph.name.strip("/").replace("/", ".")
        return [(message.level, message.msg) for message in self._came if message.name == name]


@pytest.fixture
def make_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    listener = RosGraph("listener")
    made: list[Node] = []

    def make(level: str, namespace: str = "/") -> Node:
        made.append(Node(listener, level, namespace))
        return made[-1]

    yield make
    start_logging("warn")
    for node in made:
        node.graph.close()
    listener.close()


def test_a_refusal_reaches_rosout_once_as_a_warning(make_node: Callable[..., Node]) -> None:
    node = make_node("info")
    EXAMPLE.warning("not taken: %s", "100 %s\n")
    assert node.lines() == [(WARN, "example: not taken: 100 %s\\n")]


def test_the_same_line_comes_once_a_second(make_node: Callable[..., Node]) -> None:
    node = make_node("info")
    for _ in range(100):
        EXAMPLE.warning("joint_states: too old")
    assert node.lines() == [(WARN, "example: joint_states: too old")]


@pytest.mark.parametrize("namespace", ["/", "/left"])
@pytest.mark.parametrize(("level", "seen"), [("debug", [10, 20, 30, 40, 50]), ("info", [20, 30, 40, 50])])
def test_each_severity_passes_from_the_chosen_one_on(
    make_node: Callable[..., Node], namespace: str, level: str, seen: list[int]
) -> None:
    node = make_node(level, namespace)
    for severity in range(FATAL, 0, -10):
        EXAMPLE.log(severity, "severity %d", severity)
    assert [came for came, _ in node.lines()] == seen[::-1]
