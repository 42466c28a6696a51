"""The arm's port and the executor drive ros2_control's own controllers, where they are installed, on mock hardware."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot import executor
from qwen2vl_robot.benchmarks.controllers.goals import ArmGoals
from qwen2vl_robot.benchmarks.controllers.worlds import (
    RealControllers,
    bench_profile,
    find_ros2_control,
    use_own_domain,
)
from qwen2vl_robot.config import Controllers
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.gate import Gate, GateLimits
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import ApprovedMotion, Motion
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.health import Health
from tests.cells import approval_of, look, reach, rehearsed

try:
    find_ros2_control()
except BadInputError as missing:
    pytest.skip(str(missing), allow_module_level=True)

_AGE_S = 2.0  # on a busy machine the controllers' own thread is late with the joint states
FAR = np.array([0.8, 0.3, 0.0, 0.4, 0.0, 0.3, -0.5])
PROFILE = bench_profile()
HOME = np.array(PROFILE.home_q_rad)
TOPIC = interface.JOINT_TRAJECTORY.at(f"{PROFILE.controllers.arm}/joint_trajectory")
ACTION = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{PROFILE.controllers.arm}/follow_joint_trajectory")


class Cell:
    """Our arm in front of real controllers."""

    def __init__(self, transport: str, form: str) -> None:
        names = Controllers(**{**PROFILE.controllers.model_dump(), "arm_form": form})
        self.profile = PROFILE.model_copy(update={"controllers": names})
        self.graph = open_graph(transport, "tester")
        self.rested = threading.Event()
        health = Health(self.graph, hardware_id="arm", facts=dict)
        self.arm = GraphArm(self.graph, self.profile, health, on_rest=self.rested.set)
        until(self.is_ready, 30.0)

    def is_ready(self) -> bool:
        with contextlib.suppress(RobotError):
            self.arm.state()
            self.arm._controllers.check()
            return True
        return False

    def admit(self, motion: Motion) -> ApprovedMotion:
        """Let a motion through a gate that has time, for a busy machine is no stale look."""
        gate = Gate(self.profile, (), GateLimits(lifetime_s=20.0, max_state_age_s=5.0, max_frame_age_s=20.0))
        start, now_ns = self.arm.state(), self.graph.now_ns()
        step = rehearsed(motion, start, now_ns)
        step = replace(step, verdict=replace(step.verdict, robot_digest=self.profile.digest))
        admitted = gate.admit(step, self.arm.state(), look(now_ns), approval_of(step), Halt(), self.graph.now_ns())
        assert isinstance(admitted, ApprovedMotion), admitted
        return admitted

    def run(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> executor.ExecutionReport:
        """Carry out a motion, and call something in the middle of it."""
        approved = self.admit(reach(self.arm.state().q_rad, FAR, seconds))
        timer = threading.Timer(1.0, meanwhile)
        timer.start()
        try:
            return executor.run(approved, self.arm, self.graph, self.profile, Halt(), max_state_age_s=_AGE_S)
        finally:
            timer.join()

    def go_home(self) -> None:
        goals = ArmGoals(self.graph.message, self.profile, HOME)
        publisher = self.graph.publisher(TOPIC)
        until(publisher.listeners, 10.0)
        until(lambda: self._is_home(publisher, goals.to(HOME, 0.5)), 30.0)

    def _is_home(self, publisher: interface.Publisher, trajectory: interface.Message) -> bool:
        publisher.publish(trajectory)
        time.sleep(1.5)
        return bool(np.abs(self.arm.state().q_rad - HOME).max() < 0.002)


def until(condition: Callable[[], object], at_most_s: float) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture(params=["dds", "ros"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(20 + os.getpid() % 70))  # one of this process: rclpy keeps its first one
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return str(request.param)


@pytest.fixture
def real(transport: str, tmp_path: Path) -> Iterator[RealControllers]:
    graph = open_graph(transport, "describer")
    controllers = RealControllers(graph, tmp_path)
    yield controllers
    controllers.close()
    graph.close()


@pytest.fixture(params=["action", "topic"])
def cell(request: pytest.FixtureRequest, transport: str, real: RealControllers) -> Iterator[Cell]:
    made = Cell(transport, request.param)
    yield made
    made.graph.close()


def test_a_motion_is_carried_out_and_a_stop_halts_the_next(cell: Cell) -> None:
    report = cell.run(2.0)
    assert report.is_finished, report
    assert np.allclose(cell.arm.state().q_rad, HOME + FAR, atol=0.01)
    cell.go_home()
    cell.arm.execute(cell.admit(reach(HOME, FAR, 3.0)))
    time.sleep(1.2)
    cell.rested.clear()
    cell.arm.stop()
    until(cell.rested.is_set, 3.0)
    assert np.abs(cell.arm.state().q_rad - HOME - FAR).max() > 0.1


@pytest.mark.parametrize("cell", ["action"], indirect=True)
def test_what_others_do_in_the_middle_of_a_motion_aborts_it(cell: Cell, transport: str, real: RealControllers) -> None:
    other = open_graph(transport, "other")
    canceller = other.goal_canceller(ACTION)
    until(canceller.is_served, 10.0)
    report = cell.run(3.0, canceller.cancel_all)
    assert "canceled" in report.causes[0].text, report
    cell.go_home()
    home = ArmGoals(other.message, cell.profile, HOME).to(HOME, 0.5)
    report = cell.run(3.0, lambda: publish(other, home))
    assert report.reason in ("contact", "tracking"), report
    other.close()


def publish(graph: interface.Graph, trajectory: interface.Message) -> None:
    publisher = graph.publisher(TOPIC)
    until(publisher.listeners, 5.0)
    publisher.publish(trajectory)


@pytest.mark.parametrize("cell", ["action"], indirect=True)
@pytest.mark.parametrize(("what", "reasons"), [("deactivate", ("link_lost",)), ("kill", ("stale_state", "link_lost"))])
def test_controllers_that_go_away_abort_a_motion(
    cell: Cell, real: RealControllers, what: str, reasons: tuple[str, ...]
) -> None:
    report = cell.run(20.0, getattr(real, what))
    assert report.reason in reasons, report
    assert report.seconds < 19.0
