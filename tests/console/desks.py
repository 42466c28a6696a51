"""A controller's stand-in on the wire, and a console that shows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.console.desk import Desk
from qwen2vl_robot.console.server import Console
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import image_from_rgb
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.messages import (
    Box,
    Cylinder,
    Effect,
    JointSegment,
    Motion,
    Scene,
    SceneObject,
    Trials,
    Verdict,
    Violation,
    Zone,
    digest,
)
from qwen2vl_robot.nodes.rehearsal_report import rehearsal_report
from qwen2vl_robot.nodes.reports import (
    ActionReport,
    ApprovalReport,
    ObjectReport,
    PlanReport,
    StatusReport,
    verdict_report,
)
from qwen2vl_robot.reasons import ViolationKind

PANDA = load_robot("franka_panda")
REST_RAD = (0.0, -0.4, 0.0, -2.1, 0.0, 1.8, 0.8)


class StandIn:
    """Answers as the controller does: an approval counts once and for its digest, a stop stops."""

    def __init__(self, domain: int, namespace: str = "/") -> None:
        self.graph = DdsGraph(interface.NODE_NAME, namespace=namespace, domain_id=domain)
        self.heard: dict[str, list[Any]] = {"instruction": [], "stop": [], "~/approve": [], "~/reject": [], "reset": []}
        self.status = StatusReport(state="idle", doing="")
        topics = (interface.STATUS, interface.VERDICT, interface.PLAN, interface.REHEARSAL)
        self._publishers = {t.name: self.graph.publisher(t) for t in topics}
        self._image = self.graph.publisher(interface.IMAGE.published())
        self._joints = self.graph.publisher(interface.JOINT_STATES.published())
        for topic in (interface.INSTRUCTION, interface.STOP, interface.APPROVE, interface.REJECT):
            self.graph.subscribe(topic, lambda message, name=topic.name: self._hear(name, message.data))
        self.graph.serve(interface.RESET, lambda request: self._serve("reset"))
        self.show()

    def say(self, topic: interface.Topic, text: str) -> None:
        self._publishers[topic.name].publish(self.graph.message(topic.type)(data=text))

    def show(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)
        self.say(interface.STATUS, self.status.model_dump_json())

    def picture(self, shade: int = 90) -> None:
        rgb = np.full((480, 640, 3), shade, np.uint8)
        rgb[200:300, 250:330] = (200, 40, 30)
        self._image.publish(image_from_rgb(self.graph.message, rgb, self.graph.now_ns(), "camera"))

    def joints(self) -> None:
        names = [j.name for j in PANDA.joints] + list(PANDA.gripper.joints)
        fields = {"name": names, "position": [*REST_RAD, 0.02, 0.02], "velocity": [0.0] * len(names)}
        self._joints.publish(self.graph.message(interface.JOINT_STATES.type)(**fields))

    def rehearse(self, *, accepted: bool = True, name: str = "red block") -> str:
        """Publish plan, verdict and rehearsal of a step; returns the verdict's digest."""
        verdict, scene, motion = step(accepted=accepted, name=name)
        report = verdict_report(verdict, f"hold {name}", motion.duration_s, asks=accepted, doubts=("it is near a cup",))
        box = ObjectReport(label=name, boxes=[(390.0, 416.0, 516.0, 625.0)])
        plan = PlanReport(
            stamp_s=1.0, instruction=f"pick up the {name}", digest="00", actions=[ActionReport(verb="pick", object=box)]
        )
        self.say(interface.PLAN, plan.model_dump_json())
        self.say(interface.VERDICT, report.model_dump_json())
        self.say(interface.REHEARSAL, rehearsal_report(report, verdict, scene, motion, PANDA).model_dump_json())
        return report.digest

    def ask(self, name: str = "red block") -> str:
        awaited = self.rehearse(name=name)
        self.show(state="awaiting_approval", doing="admit", instruction=f"pick up the {name}", awaits=awaited)
        return awaited

    def close(self) -> None:
        self.graph.close()

    def _hear(self, name: str, data: Any) -> None:
        self.heard[name].append(data)
        if name == "stop":
            self.show(state="stopped", stopped_by="the stop topic", awaits=None)
        elif name == "instruction":
            self.show(state="working", doing="observe", instruction=data)
        elif name == "~/reject":
            digest = json.loads(data)["digest"]
            is_awaited = digest == self.status.awaits
            answer = ApprovalReport(digest=digest, accepted=False, rejected=is_awaited, reason="rejected")
            self.show(**({"state": "idle", "awaits": None} if is_awaited else {}), approval=answer)
        elif data == self.status.awaits:
            answer = ApprovalReport(digest=data, accepted=True, reason="approved")
            self.show(state="working", doing="run", awaits=None, approval=answer)
        else:
            self.show(approval=ApprovalReport(digest=data, accepted=False, reason="nothing awaits an approval"))

    def _serve(self, name: str) -> Any:
        self.heard[name].append(True)
        self.show(state="idle", doing="", stopped_by=None, awaits=None, instruction=None)
        return self.graph.message("std_srvs/srv/Trigger_Response")(success=True, message="released")


def step(*, accepted: bool = True, name: str = "red block") -> tuple[Verdict, Scene, Motion]:
    """A small step as the controller's display gets it."""
    time_s = np.linspace(0.0, 2.0, 201)
    q_rad = np.array(REST_RAD) + np.outer(time_s / 2.0, [0.6, 0.5, 0.0, -0.3, 0.0, 0.4, 0.0])
    motion = Motion(PANDA.name, (JointSegment(time_s, q_rad),), Effect("hold", name))
    T_block, T_plate = np.eye(4), np.eye(4)
    T_block[:3, 3], T_plate[:3, 3] = (0.5, 0.1, 0.02), (0.45, -0.2, 0.01)
    block = SceneObject(name, Box((0.04, 0.04, 0.04)), T_block)
    plate = SceneObject("obstacle 1", Cylinder(0.2, 0.02), T_plate)
    zone, unseen = Zone("shelf", (0.2, 0.4, 0.0), (0.8, 0.5, 0.4)), np.array([[[0.7, -0.3, 0.0], [0.8, 0.0, 0.1]]])
    scene = Scene((block,), (plate,), zones=(zone,), unseen_m=unseen)
    hit = Violation(ViolationKind.COLLISION, 1.2, ("left finger", "obstacle 1"), 0.004, "m")
    trials = Trials(16, 16, 0.83, 0.8) if accepted else None
    verdict = Verdict(accepted, () if accepted else (hit,), digest(motion), digest(scene), "", "", trials=trials)
    return verdict, scene, motion


class Served:
    """A console that runs on a thread of its own."""

    def __init__(self, console: Console, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.console, self._loop, self.address = console, loop, address
        self.base, self.token = address.partition("/#token=")[0], console.door.token
        self.port = int(self.base.rpartition(":")[2])

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.console.close(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextlib.contextmanager
def served(domain: int, *namespaces: str) -> Iterator[Served]:
    """Serve a console of these namespaces on a free port."""
    graphs = [DdsGraph("console", namespace=n, domain_id=domain) for n in namespaces or ("/",)]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> Served:
        console = Console([Desk(g, n) for g, n in zip(graphs, namespaces or ("/",), strict=True)])
        return Served(console, asyncio.get_running_loop(), await console.start(0))

    console = asyncio.run_coroutine_threadsafe(begin(), loop).result(20.0)
    try:
        yield console
    finally:
        console.close()
        thread.join(10.0)
        for graph in graphs:
            graph.close()
