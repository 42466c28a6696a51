"""A stop on the wire → the halt command on the wire: the controller's latency, idle or busy.

The controller runs in its own process (this module, run as a program) with an arm in topic form, so that it answers
every stop with a point to hold. The time is measured outside, so it includes both paths over loopback.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError, PlannerError, WorkerError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_state_message
from qwen2vl_robot.graph.own_domain import use_own_domain
from qwen2vl_robot.graph.transport import check_transport, open_graph
from qwen2vl_robot.messages import Effect, Instruction, JointSegment, Motion, PlannerRequest, RobotState, Scene, freeze
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.reasons import WorkerReason

LOADS = ("idle", "plan", "rehearse")
_START_S = 120.0
_ANSWER_S = 2.0
_PAUSE_S = 0.01


class Halts:
    """A controller in a process of its own, and the moments at which it halts its arm; `close` ends it.

    Attributes:
        has_feed: whether somebody else publishes joint states; two who disagree hold the arm's state back.

    Raises:
        WorkerError: the controller did not start.
    """

    def __init__(self, load: str, transport: str = "dds") -> None:
        use_own_domain()
        self._graph = open_graph("dds", "operator")
        self._halted, self._came_s, self.has_feed = threading.Event(), (0.0, 0.0), False
        profile = load_robot("franka_panda")
        halt = interface.JOINT_TRAJECTORY.at(f"{profile.controllers.arm}/joint_trajectory")
        self._graph.subscribe(halt, self._take)
        self._stop, self._joints = self._graph.publisher(interface.STOP), self._graph.publisher(interface.JOINT_STATES)
        self._names = [*(j.name for j in profile.joints), *profile.gripper.joints]
        self._at_home = np.array([*profile.home_q_rad, *[0.04] * len(profile.gripper.joints)])
        self._folder = tempfile.TemporaryDirectory()
        ready = Path(self._folder.name) / "ready"
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, load, str(ready), transport], stdin=subprocess.PIPE, stdout=2
        )
        try:
            heard = self._stop.listeners
            _wait_for(self._child, lambda: ready.exists() and heard() > 1 and self._joints.listeners() > 0)
            _wait_for(self._child, lambda: self.time_stop_ms() is not None)  # until both ends of all topics are known
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Give the controller a joint state, which a point to hold needs, and forget earlier halts."""
        if self._child.poll() is not None:
            raise WorkerError(f"the controller ended with {self._child.returncode}", reason=WorkerReason.CRASHED)
        time.sleep(_PAUSE_S)
        if not self.has_feed:
            now_ns, at_rest = self._graph.now_ns(), np.zeros(len(self._names))
            self._joints.publish(joint_state_message(self._graph.message, self._names, self._at_home, at_rest, now_ns))
        time.sleep(_PAUSE_S)
        self._halted.clear()

    def time_stop_ms(self) -> float | None:
        """Milliseconds from a stop of ours to its halt, None where none came."""
        self.prepare()
        sent_s = time.perf_counter()
        self._stop.publish(self._graph.message("std_msgs/msg/Bool")(data=True))
        return (self._came_s[0] - sent_s) * 1e3 if self._halted.wait(_ANSWER_S) else None

    def halted_at_s(self) -> float | None:
        """The wall time of the first halt since `prepare`, None where none comes; for stops that others send."""
        return self._came_s[1] if self._halted.wait(_ANSWER_S) else None

    def close(self) -> None:
        """End the controller and leave the graph."""
        self._child.kill()
        self._child.wait()
        self._graph.close()
        self._folder.cleanup()

    def _take(self, message: Any) -> None:
        if len(message.points) == 1 and not self._halted.is_set():
            self._came_s = time.perf_counter(), time.time()
            self._halted.set()


def run_stop(trials: int, load: str, transport: str = "dds") -> dict[str, Any]:
    """Send stops over DDS and time the halts of a controller on either transport, once one has been answered.

    Returns:
        "load", "transport", "trials", and "totals" with median_ms, p99_ms, max_ms and lost.

    Raises:
        BadInputError: the load or the transport is unknown.
        WorkerError: the controller did not start, or ended early.
    """
    if load not in LOADS:
        raise BadInputError(f"--load {load}: unknown; choose one of {', '.join(LOADS)}")
    check_transport(transport)
    with contextlib.closing(Halts(load, transport)) as halts:
        answers = [halts.time_stop_ms() for _ in range(trials)]
    return {"load": load, "transport": transport, "trials": trials, "totals": summarise_ms(answers)}


def summarise_ms(answers: Sequence[float | None]) -> dict[str, float]:
    """Median, 99 % and most of some times in ms, and how many are lost (None)."""
    late_ms = [answer for answer in answers if answer is not None]
    shares = {"median_ms": 50, "p99_ms": 99, "max_ms": 100}
    totals = {name: round(float(np.percentile(late_ms, share)), 2) for name, share in shares.items() if late_ms}
    return {**totals, "lost": len(answers) - len(late_ms)}


def _wait_for(child: subprocess.Popen[bytes], condition: Any) -> None:
    end_s = time.monotonic() + _START_S
    while not condition():
        if child.poll() is not None or time.monotonic() > end_s:
            raise WorkerError("the controller did not start", reason=WorkerReason.CRASHED)
        time.sleep(0.05)


def main() -> None:
    """Run the controller: LOAD READY TRANSPORT; ends when it is killed."""
    load, ready, transport = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    profile = load_robot("franka_panda")
    described = profile.model_dump(mode="json")
    described["controllers"] |= {"arm_form": "topic", "gripper_form": "topic"}
    robot = ready.parent / "robot.yaml"
    robot.write_text(yaml.safe_dump(described), encoding="utf-8")
    node = ControllerNode(open_graph(transport, interface.NODE_NAME), Settings(robot=str(robot)))
    if load == "plan":
        node.planner.start()
    elif load == "rehearse":
        node.rehearsal.start()
    home = RobotState(0, freeze(profile.home_q_rad), freeze(np.zeros(len(profile.joints))), 0.08)
    time_s = np.linspace(0.0, 3.0, 301)
    q_rad = np.array(profile.home_q_rad) + 0.2 * np.sin(time_s)[:, None] * np.eye(len(profile.joints))[0]
    motion = Motion(profile.name, (JointSegment(freeze(time_s), freeze(q_rad)),), Effect("none"))
    grey = np.full((480, 640, 3), 128, dtype=np.uint8)
    request = PlannerRequest(grey, Instruction("put the red block on the blue plate"))
    ready.touch()
    while True:
        if load == "plan":
            with contextlib.suppress(PlannerError):  # the picture is empty
                node.planner.plan_picture(request)
        elif load == "rehearse":
            node.rehearsal.rehearse(motion, Scene((), ()), home)
        else:
            time.sleep(1.0)


if __name__ == "__main__":
    main()
