"""One robot's topics → what the page shows of it, as the newest JSON and picture of each kind.

Nothing queues up: each kind has one value and a number that rises when it changes. Who reads slowly misses old ones.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from typing import Any

import cv2

from qwen2vl_robot.bounds import JOINTS, shown
from qwen2vl_robot.console.body import RobotBody, load_body
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_names_on_wire, joints_from_message
from qwen2vl_robot.graph.pictures import rgb_from_image
from qwen2vl_robot.nodes.rehearsal_report import RehearsalReport
from qwen2vl_robot.nodes.reports import PlanReport, StatusReport, VerdictReport
from qwen2vl_robot.nodes.shell import Shell, describe, describe_task, own_topic, read_report

PICTURE = "picture"
_JPEG_QUALITY = 80
_LINES, _LINE_CHARS = 200, 600
_PARTS, _PART_CHARS = 64, 300  # of /diagnostics
_SILENT_S = 3.0
_OPEN_M = 0.04  # drawn before the gripper's first command where no joint state has come


class Desk:
    """What one robot's controller publishes, newest first. Thread-safe.

    Attributes:
        shell: speaks with the controller.
        body: what is drawn of the robot, None until a rehearsal names a robot that is shipped.
    """

    def __init__(self, graph: interface.Graph, name: str) -> None:
        self.name, self.shell = name, Shell(graph, self.log)
        self.body: RobotBody | None = None
        self._graph, self._lock = graph, threading.Lock()
        self._values: dict[str, tuple[int, str | bytes]] = {}
        self._count = 0
        self._lines: deque[dict[str, Any]] = deque(maxlen=_LINES)
        self._image: interface.Message | None = None
        self._image_count, self._is_watched = 0, False
        self._joints: dict[str, tuple[float, float, float]] = {}
        self._joints_are_new = False
        self._said = ""
        self._tasks = -1
        self._parts: dict[str, dict[str, Any]] = {}
        graph.subscribe(own_topic(interface.STATUS), self._on_status)
        graph.subscribe(own_topic(interface.PLAN), self._on_plan)
        graph.subscribe(own_topic(interface.VERDICT), self._on_verdict)
        graph.subscribe(own_topic(interface.REHEARSAL), self._on_rehearsal)
        graph.subscribe(interface.DIAGNOSTICS, self._on_diagnostics)

    # -------------------------------------------------------------------------------------------- reading

    def newer(self, than: int) -> list[tuple[int, str, str | bytes]]:
        """List what has changed since a number: (its number, kind, JSON text or JPEG), the oldest first."""
        with self._lock:
            found = [(number, kind, value) for kind, (number, value) in self._values.items() if number > than]
        return sorted(found, key=lambda entry: entry[0])

    def watch(self) -> None:
        """Begin to take pictures and joint states, the first time that somebody looks."""
        with self._lock:
            is_first, self._is_watched = not self._is_watched, True
        if is_first:
            self._graph.subscribe(interface.IMAGE, self._on_image)
            self._graph.subscribe_newest(interface.JOINT_STATES, self._on_joints, joint_names_on_wire)

    def refresh(self) -> None:
        """Encode the newest picture and place the robot's links; called while somebody looks, at the page's rate."""
        with self._lock:
            image, self._image = self._image, None
            joints, self._joints_are_new = (dict(self._joints) if self._joints_are_new else None), False
        if image is not None:
            self._encode(image)
        if joints is not None and self.body is not None and (poses := self.body.poses(joints)) is not None:
            self._set("robot", json.dumps(poses, separators=(",", ":")), only_if_new=True)
        is_heard = self._graph.publishers_of(own_topic(interface.STATUS)) > 0
        self._set("heard", json.dumps(is_heard), only_if_new=True)

    def log(self, text: str) -> None:
        """Add a line to the log that every page shows."""
        with self._lock:
            self._lines.append({"at_s": round(time.time(), 2), "text": shown(text, _LINE_CHARS)})
            lines = list(self._lines)
        self._set("log", json.dumps(lines))

    # ------------------------------------------------------------------------------------------ listening

    def _set(self, kind: str, value: str | bytes, *, only_if_new: bool = False) -> None:
        with self._lock:
            if only_if_new and kind in self._values and self._values[kind][1] == value:
                return
            self._count += 1
            self._values[kind] = (self._count, value)

    def _on_status(self, message: interface.Message) -> None:
        if (status := read_report(message, StatusReport)) is None:
            return
        self._set("status", status.model_dump_json(), only_if_new=True)
        if (said := describe(status)) != self._said:
            self._said = said
            self.log(said)
        if status.last_task is not None and status.tasks != self._tasks:
            self._tasks = status.tasks
            self.log(f"ended: {describe_task(status.last_task)}")

    def _on_plan(self, message: interface.Message) -> None:
        if (plan := read_report(message, PlanReport)) is not None:
            self._set("plan", plan.model_dump_json())

    def _on_verdict(self, message: interface.Message) -> None:
        if (verdict := read_report(message, VerdictReport)) is not None:
            self._set("verdict", verdict.model_dump_json())
            what = "accepted" if verdict.accepted else "refused: " + "; ".join(v.text for v in verdict.violations)
            self.log(f"the twin: {verdict.action} {what}")

    def _on_rehearsal(self, message: interface.Message) -> None:
        if (rehearsal := read_report(message, RehearsalReport)) is None:
            return
        self._set("rehearsal", rehearsal.model_dump_json())
        if self.body is None:
            self._take_body(load_body(rehearsal.robot))
        poses = None
        if self.body is not None and rehearsal.motion is not None:
            with self._lock:
                fingers = [value for name, (value, *_) in self._joints.items() if "finger" in name]
            poses = self.body.motion_poses(rehearsal.motion, sum(fingers) if fingers else _OPEN_M)
        self._set("motion", json.dumps(poses, separators=(",", ":")))

    def _take_body(self, body: RobotBody | None) -> None:
        if body is not None:
            self.body, self._joints_are_new = body, bool(self._joints)
            self._set("mesh", body.mesh_json)

    def _on_diagnostics(self, message: interface.Message) -> None:
        for part in list(message.status)[:_PARTS]:
            name = shown(part.name, _PART_CHARS)
            if len(self._parts) < _PARTS or name in self._parts:
                level = part.level[0] if isinstance(part.level, bytes) else int(part.level)
                self._parts[name] = {"name": name, "level": level, "text": shown(part.message, _PART_CHARS)}
        self._set("diagnostics", json.dumps(sorted(self._parts.values(), key=lambda p: p["name"])), only_if_new=True)

    def _on_image(self, message: interface.Message) -> None:
        with self._lock:
            self._image = message

    def _on_joints(self, message: interface.Message) -> None:
        try:
            joints = joints_from_message(message)
        except ObservationError:
            return
        with self._lock:
            drawn = {name: (position, 0.0, math.nan) for name, (position, *_) in joints.items()}
            self._joints.update(drawn)  # not judged
            if len(self._joints) > JOINTS:
                self._joints.clear()
            self._joints_are_new = True

    def _encode(self, image: interface.Message) -> None:
        try:
            rgb = rgb_from_image(image)
            is_encoded, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        except (ObservationError, cv2.error):
            return
        if is_encoded:
            self._set(PICTURE, jpeg.tobytes())
