"""Controller and supervisor as real processes over real sockets: whichever dies, the arm halts, and a stop stays."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_state_message
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.transport import has_rclpy
from qwen2vl_robot.nodes.urgency import CONTROLLER, hurry
from qwen2vl_robot.nodes.watch import run_node
from qwen2vl_robot.plant.controllers import GripperServer, TrajectoryServer
from tests.cells import PROFILE
from tests.domains import DOMAIN

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "ROS_DOMAIN_ID": str(DOMAIN),
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}
TRANSPORTS = ["dds", "ros"] if has_rclpy() else ["dds"]
START_S = 60.0
LONG_S = 8.0  # a motion that ends by itself long after every halt of a test
HALT_S = 1.0  # `bench kills` has the figures; a machine that also runs the other tests may be late


class Arm:
    """An arm that follows its motors at once, behind a trajectory and a gripper controller on the graph."""

    def __init__(self, namespace: str, form: str) -> None:
        controllers = PROFILE.controllers.model_copy(update={"arm_form": form})
        profile = PROFILE.model_copy(update={"controllers": controllers})
        self.graph = DdsGraph("arm", namespace=namespace, domain_id=DOMAIN)
        self.q_rad, self.moved_s = np.array(PROFILE.home_q_rad), time.monotonic()
        self._server = TrajectoryServer(self.graph, profile, self.q_rad, 0.0)
        self._gripper = GripperServer(self.graph, profile, 0.08, 0.0)
        self._publisher = self.graph.publisher(interface.JOINT_STATES)
        self.stop = self.graph.publisher(interface.STOP)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        hurry(CONTROLLER, but=threading.main_thread().native_id)  # a late joint state is not what these tests are about

    def _run(self) -> None:
        names = [*(j.name for j in PROFILE.joints), *PROFILE.gripper.joints]
        before_ns = self.graph.now_ns()
        while not self._ended.wait(0.01):
            now_ns = self.graph.now_ns()
            before = self.q_rad
            self.q_rad = np.array(self._server.targets(now_ns / 1e9, before)[0])
            self._gripper.target(now_ns / 1e9, 0.08)
            dq = (self.q_rad - before) / (now_ns - before_ns) * 1e9
            before_ns = now_ns
            if np.max(np.abs(dq)) > 0.005:
                self.moved_s = time.monotonic()
            q, speeds = np.concatenate([self.q_rad, [0.04, 0.04]]), np.concatenate([dq, [0.0, 0.0]])
            self._publisher.publish(joint_state_message(self.graph.message, names, q, speeds, now_ns))

    @property
    def is_moving(self) -> bool:
        return time.monotonic() - self.moved_s < 0.15

    def publish_stop(self) -> None:
        self.stop.publish(self.graph.message("std_msgs/msg/Bool")(data=True))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5)
        self.graph.close()


class ControllerProcess:
    """`supervised.py` in a process."""

    def __init__(self, namespace: str, robot: str, transport: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes.supervised", namespace, robot, transport],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self) -> ControllerProcess:
        """Wait until it is ready."""
        assert self.answer(START_S) == {"is": "ready"}
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(json.loads(line))

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def answer(self, at_most_s: float = 60.0) -> dict[str, Any]:
        return self._answers.get(timeout=at_most_s)

    @property
    def has_answered(self) -> bool:
        return not self._answers.empty()

    def look(self) -> dict[str, Any]:
        self.say("look")
        return self.answer()

    def reset(self) -> None:
        """Reset until nothing is latched: a reset releases no stop of which the controller has not heard yet."""
        for _ in range(5):
            self.say("reset")
            assert "answer" in self.answer()
            time.sleep(0.5)
            if self.look()["stopped_by"] is None:
                return
        raise AssertionError("the stop comes back")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Cell:
    """An arm, and what is started for it, in a namespace."""

    def __init__(self, folder: Path, form: str = "action", namespace: str = "/", transport: str = "dds") -> None:
        self._transport = transport
        self.namespace, self._folder, self._stack = namespace, folder, contextlib.ExitStack()
        described = PROFILE.model_dump(mode="json")
        described["controllers"] |= {"arm_form": form}
        self.robot = folder / "robot.yaml"
        self.robot.write_text(yaml.safe_dump(described), encoding="utf-8")
        self.arm = Arm(namespace, form)
        self._stack.callback(self.arm.close)

    def start_supervisor(self, *more: str, silence_s: float = 0.25) -> subprocess.Popen[bytes]:
        parameters = ["-p", f"robot:={self.robot}", "-p", f"silence_s:={silence_s}"]
        command = ["supervisor", *parameters, "--graph", self._transport, "--namespace", self.namespace, *more]
        ready = self._folder / f"supervisor{time.monotonic_ns()}.ready"
        process = self._stack.enter_context(run_node(command, ready, ENVIRONMENT))
        until(ready.exists, START_S)
        return process

    def start_controller(self) -> ControllerProcess:
        return self._begin_controller().wait()

    def start(self, *more: str, silence_s: float = 0.25) -> tuple[subprocess.Popen[bytes], ControllerProcess]:
        """Start a supervisor and a controller at once."""
        controller = self._begin_controller()
        return self.start_supervisor(*more, silence_s=silence_s), controller.wait()

    def _begin_controller(self) -> ControllerProcess:
        controller = ControllerProcess(self.namespace, str(self.robot), self._transport)
        self._stack.callback(controller.close)
        return controller

    def move(self, controller: ControllerProcess, seconds: float = LONG_S) -> None:
        """Begin a motion, and wait until the arm moves; a busy machine's late joint states may end a first try."""
        for _ in range(3):
            until(lambda: controller.look()["lack"] is None, START_S)
            controller.say(f"move {seconds}")
            until(lambda: self.arm.is_moving or controller.has_answered)
            if not controller.has_answered:
                return
            causes = controller.answer()["causes"]
            assert causes and causes[0].startswith("stale_state"), causes
        raise AssertionError(causes)

    def finish_a_motion(self, controller: ControllerProcess) -> None:
        for _ in range(3):
            self.move(controller, 1.0)
            causes = controller.answer()["causes"]
            if not causes:
                return
            assert causes[0].startswith("stale_state"), causes
        raise AssertionError(causes)

    def assert_halted(self, since_s: float) -> None:
        until(lambda: not self.arm.is_moving, HALT_S + 0.15)
        at = self.arm.q_rad.copy()
        time.sleep(0.5)
        assert self.arm.moved_s - since_s <= HALT_S
        assert np.allclose(self.arm.q_rad, at, atol=1e-6)
        assert abs(at[0] - PROFILE.home_q_rad[0]) < 0.7, "the motion of 0.8 rad went to its end"

    def close(self) -> None:
        self._stack.close()


def until(condition: Callable[[], object], at_most_s: float = 60.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    fresh = Cell(tmp_path)
    yield fresh
    fresh.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("form", ["action", "topic"])
def test_a_killed_controller_is_halted_and_the_next_one_begins_stopped(
    tmp_path: Path, form: str, transport: str
) -> None:
    cell = Cell(tmp_path, form, transport=transport)
    try:
        _, controller = cell.start()
        cell.move(controller)
        since_s = time.monotonic()
        controller.signal(signal.SIGKILL)
        cell.assert_halted(since_s)
        again = cell.start_controller()
        until(lambda: again.look()["stopped_by"] is not None)
        assert "the controller was silent" in again.look()["stopped_by"]
        again.say("move 1")
        assert again.answer()["causes"][0].startswith("stopped: ")
        again.reset()
        # Until the middleware gives the dead one up, it counts as another publisher on the command topic.
        if form == "action":
            cell.finish_a_motion(again)
    finally:
        cell.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("form", ["action", "topic"])
def test_a_controller_that_stood_still_is_halted_and_does_not_go_on(tmp_path: Path, form: str, transport: str) -> None:
    cell = Cell(tmp_path, form, transport=transport)
    try:
        _, controller = cell.start()
        cell.move(controller)
        since_s = time.monotonic()
        controller.signal(signal.SIGSTOP)
        cell.assert_halted(since_s)
        at = cell.arm.q_rad.copy()
        controller.signal(signal.SIGCONT)
        assert controller.answer()["causes"], "it must not count as finished"
        time.sleep(1.0)
        assert np.allclose(cell.arm.q_rad, at, atol=0.002)
        assert controller.look()["stopped_by"] is not None
        controller.say("move 1")
        assert controller.answer()["causes"][0].startswith("stopped: ")
    finally:
        cell.close()


def test_a_stop_is_heard_while_the_controller_hears_nothing(cell: Cell) -> None:
    _, controller = cell.start(silence_s=2.0)  # so that it is not the silence that halts
    cell.move(controller)
    since_s = time.monotonic()
    controller.signal(signal.SIGSTOP)
    cell.arm.publish_stop()
    cell.assert_halted(since_s)
    controller.signal(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_silent_supervisor_makes_the_controller_halt(cell: Cell, number: int) -> None:
    supervisor, controller = cell.start()
    cell.move(controller)
    since_s = time.monotonic()
    supervisor.send_signal(number)
    cell.assert_halted(since_s)
    causes = controller.answer()["causes"]
    supervisor.send_signal(signal.SIGCONT)
    assert "the supervisor was silent" in causes[0] or causes[0].startswith("no_supervisor")
    assert "the supervisor was silent" in controller.look()["stopped_by"]


def test_without_a_supervisor_nothing_moves(cell: Cell) -> None:
    controller = cell.start_controller()
    until(lambda: controller.process.poll() is None)
    time.sleep(0.5)  # for the arm's joint states to come
    controller.say("move 1")
    assert controller.answer()["causes"][0].startswith("no_supervisor: no supervisor is heard")
    assert not cell.arm.is_moving
    assert controller.look()["stopped_by"] is None


def test_a_supervisor_with_another_robot_file_is_none(cell: Cell, tmp_path: Path) -> None:
    _, controller = cell.start("-p", "robot:=xarm6")
    until(lambda: "another robot file" in str(controller.look()["lack"]))


def test_a_stop_survives_a_restart_of_the_controller(cell: Cell) -> None:
    _, controller = cell.start()
    until(lambda: controller.look()["lack"] is None)
    cell.arm.publish_stop()
    until(lambda: controller.look()["stopped_by"] == "topic stop")
    controller.signal(signal.SIGKILL)
    again = cell.start_controller()
    until(lambda: again.look()["stopped_by"] == "topic stop")
    again.end()  # also one that ends as it should
    third = cell.start_controller()
    until(lambda: third.look()["stopped_by"] == "topic stop")
    third.reset()


def test_a_stop_survives_a_restart_of_the_supervisor(cell: Cell) -> None:
    supervisor, controller = cell.start()
    until(lambda: controller.look()["lack"] is None)
    cell.arm.publish_stop()
    until(lambda: controller.look()["stopped_by"] == "topic stop")
    supervisor.kill()
    cell.start_supervisor()
    until(lambda: controller.look()["lack"] is None)
    controller.signal(signal.SIGKILL)
    again = cell.start_controller()
    until(lambda: again.look()["stopped_by"] == "topic stop")


def test_where_nodes_restart_by_themselves_the_cell_begins_stopped(cell: Cell) -> None:
    """Both may have died at once: nobody remembers a stop then."""
    _, controller = cell.start("--begin-stopped", "true")
    until(lambda: controller.look()["stopped_by"] is not None)
    controller.reset()
    cell.finish_a_motion(controller)


def test_ending_a_node_is_no_alarm(cell: Cell) -> None:
    supervisor, controller = cell.start()
    until(lambda: controller.look()["lack"] is None)
    controller.end()
    assert controller.process.returncode == 0
    again = cell.start_controller()
    until(lambda: again.look()["lack"] is None)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(10) == 0
    until(lambda: again.look()["lack"] is not None)
    cell.start_supervisor()
    cell.finish_a_motion(again)
    assert again.look()["stopped_by"] is None


def test_two_cells_of_one_graph_do_not_halt_each_other(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("left", "right")]
    for folder in folders:
        folder.mkdir()
    cells = [Cell(folder, namespace=f"/{folder.name}") for folder in folders]
    left, right = cells
    try:
        controllers = [each.start()[1] for each in cells]
        right.move(controllers[1], 4.0)
        left.move(controllers[0])
        since_s = time.monotonic()
        controllers[0].signal(signal.SIGKILL)
        left.arm.publish_stop()
        left.assert_halted(since_s)
        assert controllers[1].answer() == {"causes": []}
        assert controllers[1].look() == {"stopped_by": None, "lack": None}
    finally:
        for each in cells:
            each.close()


def test_the_supervisor_loads_neither_model_nor_simulator_nor_planner() -> None:
    code = "import sys, qwen2vl_robot.cli, qwen2vl_robot.nodes.supervisor, qwen2vl_robot.nodes.live_robot\n"
    code += "import qwen2vl_robot.nodes.launching, qwen2vl_robot.graph.dds\n"
    code += "print(*(n for n in ('torch', 'pybullet', 'transformers', 'ompl', 'cv2', 'pinocchio') if n in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout.split()) == (0, []), answer.stderr
