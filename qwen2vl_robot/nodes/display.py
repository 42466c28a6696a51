"""Each step of the flow → its display: plan, verdict, rehearsal, markers, detections, annotated picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qwen2vl_robot import film
from qwen2vl_robot.config import Strict
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import image_from_rgb
from qwen2vl_robot.messages import (
    Instruction,
    InstructionSource,
    Motion,
    Observation,
    Plan,
    Rehearsed,
    Scene,
    StepRecord,
    Verdict,
)
from qwen2vl_robot.nodes import drawing, reports
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.planning_scene import PlanningScene
from qwen2vl_robot.nodes.rehearsal_report import RehearsalReport, rehearsal_report
from qwen2vl_robot.nodes.status import Status
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.sides import sides_seen_from


class Display:
    """A `ports.Listener` that publishes plans, verdicts and pictures, and updates the status.

    Args:
        camera_frame: returns the tf frame of the latest picture.

    Attributes:
        verdict: the latest one of the current task, as it was published; "" before there is one.
    """

    def __init__(
        self,
        graph: interface.Graph,
        surroundings: Surroundings,
        status: Status,
        health: Health,
        camera_frame: Callable[[], str],
    ) -> None:
        self._graph, self._surroundings = graph, surroundings
        self._status, self._health, self._camera_frame = status, health, camera_frame
        self._kinematics = surroundings.kinematics
        self._scene: Scene | None = None
        self._seen_ns = 0  # stamp of the frame in which it was measured
        self._after_looking = "plan"
        self.verdict = ""
        self._planning_scene = PlanningScene(graph, surroundings.profile)
        topics = (interface.PLAN, interface.VERDICT, interface.REHEARSAL, interface.MARKERS, interface.ANNOTATED)
        self._publishers = {topic.name: graph.publisher(topic) for topic in (*topics, interface.DETECTIONS)}

    def begin(self, instruction: Instruction) -> None:
        """Forget the verdict of the task before."""
        self.verdict = ""
        self._after_looking = "rehearse" if instruction.source is InstructionSource.TRAJECTORY else "plan"

    def on_frame(self, observation: Observation) -> None:
        """Set the status to what follows a look (see `ports.Listener`)."""
        self._health.fine("camera")
        self._seen_ns = observation.frame.stamp_ns
        self._status.doing(self._after_looking)

    def on_plan(self, plan: Plan, observation: Observation) -> None:
        """Publish a plan, its boxes as detections, and the frame with them drawn in (see `ports.Listener`)."""
        make, frame, frame_id = self._graph.message, observation.frame, self._camera_frame()
        self._publish(interface.PLAN, reports.plan_report(plan, observation, self._status.instruction))
        self._publishers[interface.DETECTIONS.name].publish(drawing.detections(make, plan, frame, frame_id))
        boxes = [(a.object.label, b) for a in plan.actions if a.object is not None for b in a.object.boxes]
        rules = self._surroundings.heard(self._status.instruction).rules
        sides = sides_seen_from(rules.seen_from, frame.T_base_camera)
        picture = image_from_rgb(make, film.annotate(frame, boxes, None, sides), frame.stamp_ns, frame_id)
        self._publishers[interface.ANNOTATED.name].publish(picture)
        self._status.doing("rehearse")

    def on_step(self, step: StepRecord) -> None:
        """Publish a refusing verdict with its rehearsal and markers (see `ports.Listener`)."""
        if step.verdict is not None and not step.verdict.accepted:
            duration_s = None if step.motion is None else step.motion.duration_s
            report = reports.verdict_report(step.verdict, step.action.describe(), duration_s, asks=False)
            self._publish(interface.VERDICT, report)
            self._publish(interface.REHEARSAL, self._rehearsal(report, step.verdict, step.scene, step.motion))
            scene = self._scene if step.scene is None else step.scene
            self._mark(scene, step.motion, drawing.contacts_of(step, self._kinematics.tool_pose))
        self._status.doing("observe")

    def on_question(self, step: Rehearsed, asks: bool, doubts: tuple[str, ...]) -> None:
        """Publish the verdict of a step that is about to be admitted; `asks`: whether a person must approve it."""
        self.show(step, asks, doubts)
        self._status.doing("admit" if asks else "run")

    def show(self, step: Rehearsed, asks: bool = False, doubts: tuple[str, ...] = ()) -> None:
        """Publish what was rehearsed, with the scene: it was measured, unlike that of a later step that is refused."""
        self._scene = step.scene
        self._seen_ns = self._seen_ns if step.seen is None else step.seen.stamp_ns
        effect = f"{step.motion.effect.kind} {step.motion.effect.name or ''}".strip()
        report = reports.verdict_report(step.verdict, effect, step.motion.duration_s, asks=asks, doubts=doubts)
        self._publish(interface.VERDICT, report)
        self._publish(interface.REHEARSAL, self._rehearsal(report, step.verdict, step.scene, step.motion))
        self._mark(step.scene, step.motion, np.zeros((0, 3)))
        self.show_scene(step.scene)

    def show_scene(self, scene: Scene | None) -> None:
        """Publish for MoveIt what is believed to be there, once a task has ended."""
        if scene is not None:
            self._planning_scene.show(scene, self._seen_ns)

    def _rehearsal(
        self, report: reports.VerdictReport, verdict: Verdict, scene: Scene | None, motion: Motion | None
    ) -> RehearsalReport:
        return rehearsal_report(report, verdict, scene, motion, self._surroundings.profile, self._kinematics)

    def _mark(self, scene: Scene | None, motion: Motion | None, contacts_m: Array) -> None:
        path = None if motion is None else drawing.path_of(motion, self._kinematics.tool_pose)
        base = self._surroundings.profile.base_link
        markers = drawing.markers(self._graph.message, scene, path, contacts_m, base, self._seen_ns)
        self._publishers[interface.MARKERS.name].publish(markers)

    def _publish(self, topic: interface.Topic, report: Strict) -> None:
        text = report.model_dump_json()
        if topic is interface.VERDICT:
            self.verdict = text
        self._publishers[topic.name].publish(self._graph.message("std_msgs/msg/String")(data=text))
