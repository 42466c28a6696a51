"""The lifecycle node: what each transition does to the managed object; a stop outlives them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, Field

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.transport import has_rclpy

if not has_rclpy():
    reason = "rclpy is not importable here: install ROS 2 and source its setup file to test the lifecycle node"
    pytest.skip(reason, allow_module_level=True)

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from qwen2vl_robot.graph.lifecycle import LifecycleShell
from qwen2vl_robot.graph.ros_process import start_rclpy
from tests.domains import DOMAIN

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Settings(BaseModel):
    patience_s: float = Field(default=2.0, gt=0.0, le=9.0, description="how long")
    names: tuple[str, ...] = ("",)
    share: float = Field(default=0.5, ge=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)
    most: int = Field(default=3, gt=0, le=5)


class Managed:
    """Records its calls."""

    def __init__(self, settings: Settings, done: list[str]) -> None:
        self.settings, self.done = settings, done
        self.stopped: str | None = None
        self.stopped_while_closing: str | None = None

    def configure(self) -> None:
        self.done.append("configure")
        if self.settings.patience_s > 8.0:
            raise BadInputError("no patience")

    def activate(self) -> None:
        self.done.append("activate")

    def deactivate(self) -> None:
        self.done.append("deactivate")

    def spin(self) -> None:
        pass

    def stop(self, reason: str) -> str:
        self.stopped = reason
        return reason

    def stopped_by(self) -> str | None:
        return self.stopped

    def close(self) -> None:
        self.done.append("close")
        self.stopped = self.stopped or self.stopped_while_closing


class Node:
    def __init__(self, **settings: Any) -> None:
        self.done: list[str] = []
        self.made: list[Managed] = []
        start_rclpy()
        self.shell = LifecycleShell("managed", self.make, Settings(**settings), namespace="/", remap={})

    def make(self, graph: Any, settings: Settings) -> Managed:
        self.made.append(Managed(settings, self.done))
        return self.made[-1]


@pytest.fixture(autouse=True)
def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    yield
    rclpy.try_shutdown()


def test_transitions_reach_the_managed_object_in_order() -> None:
    node = Node()
    for step in ("configure", "activate", "deactivate", "cleanup"):
        assert getattr(node.shell, f"trigger_{step}")() == SUCCESS
    assert node.done == ["configure", "activate", "deactivate", "close"]


def test_a_stop_outlives_cleaning_up_and_configuring_again() -> None:
    node = Node()
    node.shell.trigger_configure()
    node.made[0].stop("topic stop")
    node.shell.trigger_cleanup()
    node.shell.trigger_configure()
    assert node.made[1].stopped == "topic stop"
    node.made[1].stopped = None  # released
    node.shell.trigger_cleanup()
    node.shell.trigger_configure()
    assert node.made[2].stopped is None


def test_a_stop_that_comes_while_the_node_is_taken_down_is_latched_too() -> None:
    node = Node()
    node.shell.trigger_configure()
    node.made[0].stopped_while_closing = "topic stop"
    node.shell.trigger_cleanup()
    node.shell.trigger_configure()
    assert node.made[1].stopped == "topic stop"


def test_what_rclpy_raises_stops_the_managed_object() -> None:
    node = Node()
    node.shell.on_broken(ValueError("no node is configured yet"))
    node.shell.trigger_configure()
    node.shell.on_broken(ValueError("inside rclpy"))
    assert node.made[0].stopped == "rclpy failed: inside rclpy"


def test_a_failed_configuration_is_taken_down_and_stays_unconfigured() -> None:
    node = Node(patience_s=8.5)
    assert node.shell.trigger_configure() == FAILURE
    assert node.done == ["configure", "close"]


def test_parameters_have_descriptions_and_bounds_and_cannot_be_set() -> None:
    shell = Node(names=("front/", "side/")).shell
    described = shell.describe_parameter("patience_s")
    assert (described.description, described.read_only) == ("how long", True)
    assert described.floating_point_range[0].to_value == 9.0
    assert described.floating_point_range[0].from_value == np.nextafter(0.0, 1.0), "0 is refused"
    (share,) = shell.describe_parameter("share").floating_point_range
    assert (share.from_value, share.to_value) == (0.0, np.nextafter(1.0, 0.0))
    (seed,), (most,) = (shell.describe_parameter(name).integer_range for name in ("seed", "most"))
    assert (seed.from_value, seed.to_value) == (0, 2**63 - 1)
    assert (most.from_value, most.to_value) == (1, 5)
    assert list(shell.get_parameter("names").value) == ["front/", "side/"]
    assert not shell.set_parameters([Parameter("patience_s", value=3.0)])[0].successful
