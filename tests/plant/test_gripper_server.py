"""The plant's gripper controllers answer like ros2_control's two, with their defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import Controllers
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.plant.controllers import GripperServer
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

FINGERS = len(PROFILE.gripper.joints)
FORMS = ("action", "parallel_action")
NAN, INF = float("nan"), float("inf")


class Hand:
    """A gripper server with fingers that move at a speed, and meet something at a width."""

    def __init__(self, form: str, speed_mps: float = 0.1) -> None:
        self.graph = LocalGraph()
        self._profile = PROFILE.model_copy(update={"controllers": Controllers(gripper_form=form)})
        self.width_m, self.speed_mps, self.blocked_m = 0.08, speed_mps, 0.0
        self.now_s = 0.0
        self.server = GripperServer(self.graph, self._profile, self.width_m, 0.0)
        if form == "topic":
            return
        self.is_old = form == "action"
        kind = interface.GRIPPER_COMMAND if self.is_old else interface.PARALLEL_GRIPPER_COMMAND
        self.action = kind.at("gripper_controller/gripper_cmd")
        self.client = self.graph.action_client(self.action)

    def send(self, *positions: float, name: list[str] | None = None) -> Any:
        make = self.graph.message
        if self.is_old:
            command = make("control_msgs/msg/GripperCommand")(position=positions[0])
        else:
            names = [PROFILE.gripper.joints[0]] if name is None else name
            command = make("sensor_msgs/msg/JointState")(name=names, position=list(positions))
        return self.client.send(make(f"{self.action.type}_Goal")(command=command))

    def step(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.now_s += 0.01
            wanted_m = max(self.server.target(self.now_s, self.width_m), self.blocked_m)
            most_m = self.speed_mps * 0.01
            self.width_m += float(np.clip(wanted_m - self.width_m, -most_m, most_m))


@pytest.mark.parametrize("form", FORMS)
def test_a_goal_is_reached_within_ten_millimetres_of_a_finger(form: str) -> None:
    """So its result is no word for where the fingers are: they may still move."""
    hand = Hand(form)
    sent = hand.send(0.01)
    hand.step(0.3)
    assert sent.ended is None
    hand.step(0.2)
    assert (sent.ended[0], sent.ended[1].reached_goal, sent.ended[1].stalled) == (GoalStatus.SUCCEEDED, True, False)
    assert hand.width_m > 0.02 + 0.005
    hand.step(0.5)
    assert hand.width_m == pytest.approx(0.02)


@pytest.mark.parametrize("form", FORMS)
def test_fingers_that_stand_elsewhere_for_a_second_end_the_goal_as_aborted(form: str) -> None:
    hand = Hand(form)
    hand.blocked_m = 0.05
    sent = hand.send(0.0)
    hand.step(1.2)
    assert sent.ended is None
    hand.step(0.4)
    assert (sent.ended[0], sent.ended[1].reached_goal, sent.ended[1].stalled) == (GoalStatus.ABORTED, False, True)


@pytest.mark.parametrize("form", FORMS)
def test_a_slow_finger_does_not_stall(form: str) -> None:
    hand = Hand(form, speed_mps=0.01)
    sent = hand.send(0.0)
    hand.step(5.0)
    assert sent.ended is None
    hand.step(2.0)
    assert sent.ended[0] is GoalStatus.SUCCEEDED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", [NAN, INF])
def test_a_width_that_is_no_number_is_accepted_moves_nothing_and_stalls(form: str, position: float) -> None:
    hand = Hand(form)
    sent = hand.send(position)
    assert sent.accepted() is True
    hand.step(1.5)
    assert (hand.width_m, sent.ended[0]) == (0.08, GoalStatus.ABORTED)


@pytest.mark.parametrize("form", FORMS)
def test_no_limit_is_looked_at(form: str) -> None:
    hand = Hand(form)
    assert hand.send(0.5).accepted() is True
    assert hand.server.target(hand.now_s, hand.width_m) == pytest.approx(0.5 * FINGERS)


def test_a_parallel_goal_has_one_position_and_any_name() -> None:
    hand = Hand("parallel_action")
    assert hand.send(0.02, name=["elbow"]).accepted() is True
    assert hand.send(0.02, name=[]).accepted() is True
    assert hand.send().accepted() is False
    assert hand.send(0.02, 0.02).accepted() is False


@pytest.mark.parametrize("form", FORMS)
def test_a_new_goal_and_a_cancel_end_a_goal_as_cancelled(form: str) -> None:
    hand = Hand(form)
    first, second = hand.send(0.0), hand.send(0.01)
    assert first.ended[0] is GoalStatus.CANCELED
    hand.step(0.1)
    second.cancel()
    assert second.ended[0] is GoalStatus.CANCELED
    width_m = hand.width_m
    hand.step(0.5)
    assert hand.width_m == pytest.approx(width_m, abs=0.002)


def test_a_topic_takes_one_number_a_finger() -> None:
    hand = Hand("topic")
    topic = interface.GRIPPER_TOPIC.at("gripper_controller/commands")
    hand.graph.give(topic, data=[0.01] * (FINGERS + 1))
    hand.step(0.5)
    assert hand.width_m == pytest.approx(0.08)
    hand.graph.give(topic, data=[0.01] * FINGERS)
    hand.step(1.0)
    assert hand.width_m == pytest.approx(0.01 * FINGERS)
