"""A robot cell as a process of its own and the controller's ports on it, over DDS on the loopback interface."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.messages import ApprovedMotion, CameraFrame, RobotState
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.watch import run_node, wait_for
from tests.cells import PROFILE
from tests.domains import DOMAIN

ROOT = Path(__file__).resolve().parents[2]


class WireCell:
    """Arm, camera and clock of a plant in another process, as `plant.client.PlantLink` is."""

    def __init__(self, domain: int) -> None:
        self._graph = DdsGraph("tester", use_sim_time=True, domain_id=domain)
        self._arm = GraphArm(self._graph, PROFILE, Health(self._graph, hardware_id="arm", facts=dict))
        self._camera = GraphCamera(self._graph, CameraSettings(PROFILE.base_link, timeout_s=30.0))
        self.now_ns, self.sleep = self._graph.now_ns, self._graph.sleep
        self.close = self._graph.close

    def wait(self) -> None:
        """Wait until the plant's topics and actions are there."""
        end_s = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(ObservationError):
                self._arm.state()
                if self._arm._controllers.are_served():
                    return
            assert time.monotonic() < end_s, "the plant did not appear"
            time.sleep(0.05)

    def state(self) -> RobotState:
        return self._arm.state()

    def execute(self, approved: ApprovedMotion) -> None:
        self._arm.execute(approved)

    def is_moving(self) -> bool:
        return self._arm.is_moving()

    def has_gripped(self) -> bool:
        return self._arm.has_gripped()

    def go_on(self) -> int:
        return self._arm.go_on()

    def retreat(self, from_s: float) -> int:
        return self._arm.retreat(from_s)

    def stop(self) -> None:
        self._arm.stop()

    def capture(self) -> CameraFrame:
        return self._camera.capture()

    def newest(self, since_ns: int) -> CameraFrame | None:
        return self._camera.newest(since_ns)


@contextlib.contextmanager
def wire_cell(ready: Path) -> Iterator[WireCell]:
    """Start the plant's process and join it."""
    environment = {"ROS_DOMAIN_ID": str(DOMAIN), "PYTHONPATH": str(ROOT)}
    with run_node(["sim", "--seed", "1", "--graph", "dds"], ready, environment) as plant:
        wait_for(ready.exists, plant, "plant", 120.0)
        cell = WireCell(DOMAIN)
        try:
            cell.wait()
            yield cell
        finally:
            cell.close()
