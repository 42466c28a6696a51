"""Joint states at 1 kHz from another process → this process's share of a core: with all of them converted, and as now.

The sender is this module, run as a program.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.errors import WorkerError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_state_message
from qwen2vl_robot.graph.transport import open_graph
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from qwen2vl_robot.reasons import WorkerReason

HZ = 1000.0
_ROBOT = "franka_panda"
_START_S = 60.0
_WARM_S = 2.0


class _Counting:
    """A graph that counts the messages that come; with `every` each of them counts as the newest."""

    def __init__(self, graph: interface.Graph, every: bool) -> None:
        self.now_ns, self.count = graph.now_ns, 0
        self._graph, self._every = graph, every

    def subscribe_newest(
        self, topic: interface.Topic, callback: interface.MessageCallback, kind_of: interface.KindOf
    ) -> None:
        def counted(cdr: bytes) -> bytes:
            self.count += 1
            return kind_of(cdr)

        def take(message: interface.Message) -> None:
            self.count += 1
            callback(message)

        if self._every:
            self._graph.subscribe(topic, take)
        else:
            self._graph.subscribe_newest(topic, callback, counted)


def run_joint_states(seconds: float, transport: str = "dds") -> dict[str, float]:
    """Measure one after the other, for `seconds` each.

    Returns:
        For all messages ("every_") and for the newest ones "hz", how many came, "core_ratio", and "age_ms", the median
        age of the latest state when looked at every 20 ms.

    Raises:
        WorkerError: the sender ended, or no joint states came.
    """
    graph = open_graph(transport, "receiver")
    profile = load_robot(_ROBOT)
    found: dict[str, float] = {"seconds": seconds}
    with _sending():
        for name in ("every_", ""):
            node = open_graph(transport, f"joints_{name}")
            counting = _Counting(node, every=bool(name))
            joints = JointStates(counting, profile, Health(graph, hardware_id="arm", facts=dict))  # type: ignore[arg-type]
            measured = _measure(counting, joints, seconds)
            found |= {f"{name}{what}": value for what, value in measured.items()}
            node.close()
    graph.close()
    return found


def _measure(counting: _Counting, joints: JointStates, seconds: float) -> dict[str, float]:
    end_s = time.monotonic() + _START_S
    while joints.newest() is None:
        if time.monotonic() > end_s:
            raise WorkerError("no joint states came", reason=WorkerReason.TIMEOUT)
        time.sleep(0.01)
    time.sleep(_WARM_S)
    began_s, cpu_s, count, ages_ns = time.monotonic(), time.process_time(), counting.count, []
    while (took_s := time.monotonic() - began_s) < seconds:
        time.sleep(0.02)
        ages_ns.append(counting.now_ns() - joints.latest().stamp_ns)
    return {
        "hz": round((counting.count - count) / took_s, 1),
        "core_ratio": round((time.process_time() - cpu_s) / took_s, 4),
        "age_ms": round(statistics.median(ages_ns) / 1e6, 1),
    }


@contextmanager
def _sending() -> Iterator[None]:
    sender = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE)
    try:
        yield
        if sender.poll() is not None:
            raise WorkerError(f"the sender ended with {sender.returncode}", reason=WorkerReason.CRASHED)
    finally:
        sender.kill()
        sender.wait()


def main() -> None:
    """Send joint states until killed; what falls behind by more than 2 s is left out."""
    graph, profile = open_graph("dds", "sender"), load_robot(_ROBOT)
    publisher = graph.publisher(interface.JOINT_STATES)
    names = [*(j.name for j in profile.joints), *profile.gripper.joints]
    message = joint_state_message(graph.message, names, _home(profile), np.zeros(len(names)), 0)
    due_s = time.monotonic()
    while True:
        due_s = max(due_s + 1.0 / HZ, time.monotonic() - 2.0)
        time.sleep(max(0.0, due_s - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        publisher.publish(message)


def _home(profile: RobotProfile) -> Array:
    return np.array([*profile.home_q_rad, *[0.04] * len(profile.gripper.joints)])


if __name__ == "__main__":
    main()
