"""Joint states at any rate, from publishers that know nothing of us."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_names_on_wire
from qwen2vl_robot.graph.transport import has_rclpy, open_graph
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from tests.cells import PROFILE
from tests.domains import DOMAIN
from tests.graph import raw
from tests.graph.peer import until

ARM = [joint.name for joint in PROFILE.joints]
FINGERS = list(PROFILE.gripper.joints)
NO_RCLPY = "rclpy is not importable here: install ROS 2 and source its setup file to run this suite on it"


@pytest.fixture(params=["dds", pytest.param("ros", marks=pytest.mark.skipif(not has_rclpy(), reason=NO_RCLPY))])
def graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[interface.Graph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    joined = open_graph(request.param, "tester")
    yield joined
    joined.close()


class Counted(JointStates):
    """Counts the messages that were converted."""

    converted = 0

    def _take(self, message: Any) -> None:
        self.converted += 1
        super()._take(message)


class Sender:
    """A publisher by Cyclone DDS alone, as joint_state_broadcaster publishes: reliable and volatile."""

    def __init__(self, names: list[str], value: Callable[[int], float]) -> None:
        from cyclonedds.domain import DomainParticipant

        self.names, self.value, self.sent = names, value, 0
        self._participant = DomainParticipant(DOMAIN)
        self.writer = raw.writer(self._participant, "/joint_states", raw.JointState, reliable=True)

    def send(self) -> None:
        values = [self.value(self.sent)] * len(self.names)
        sec, nanosec = divmod(time.time_ns(), 10**9)
        head = raw.Header(raw.Time(sec, nanosec), "base")
        self.writer.write(raw.JointState(head, self.names, values, [0.0] * len(values), []))
        self.sent += 1


def test_the_newest_of_each_publisher_and_set_of_names_makes_the_state(graph: interface.Graph) -> None:
    joints = Counted(graph, PROFILE, Health(graph, hardware_id="arm", facts=dict))
    # The same publisher may send its arm and its fingers in turns; another one sends joints that are not ours.
    arm = Sender(ARM, lambda n: n / 10_000.0)
    fingers = Sender(FINGERS, lambda n: n / 100_000.0)
    stranger = Sender(["elsewhere", *ARM[:1]][:1], lambda n: 1.0)
    until(lambda: all(s.writer.get_matched_subscriptions() for s in (arm, fingers, stranger)))
    for _ in range(1000):
        for sender in (arm, fingers, stranger):
            sender.send()
        time.sleep(0.001)
    until(lambda: joints.newest() is not None and joints.latest().q_rad[0] == (arm.sent - 1) / 10_000.0)
    until(lambda: joints.latest().gripper_width_m == pytest.approx(2 * (fingers.sent - 1) / 100_000.0, abs=1e-9))
    assert np.ptp(joints.latest().q_rad) == 0.0
    assert joints.converted < 1500, "of 3000; the others were converted for nothing"


def cdr(names: list[str]) -> bytes:
    head = raw.Header(raw.Time(1, 2), "some frame")
    values = [1.0] * len(names)
    return raw.JointState(head, names, values, values, []).serialize(use_version_2=False)


def test_the_names_tell_messages_apart_and_nothing_else_does() -> None:
    a, b = cdr(ARM), cdr(ARM)
    assert joint_names_on_wire(a) == joint_names_on_wire(b)
    assert len(joint_names_on_wire(a)) < len(a) / 2
    assert joint_names_on_wire(a) != joint_names_on_wire(cdr(ARM[::-1]))
    assert joint_names_on_wire(a) != joint_names_on_wire(cdr(ARM[:-1]))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_a_kind_of_their_own(data: bytes) -> None:
    assert joint_names_on_wire(data) in data


@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_spoilt_message_ends_nothing(spoilt: bytes, at: int) -> None:
    data = cdr(ARM)
    data = data[:at] + spoilt + data[at + len(spoilt) :]
    assert joint_names_on_wire(data) in data
