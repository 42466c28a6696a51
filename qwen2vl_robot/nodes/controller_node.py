"""The controller's ports on the ROS 2 graph: instructions come in, a stop is obeyed at once, everything done is told.

The chain of `controller.py` runs on the thread that calls `spin`; planning and rehearsal have processes of their own,
so the threads that answer a stop are never held by torch or Bullet.
"""

from __future__ import annotations

import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import numpy as np

from qwen2vl_robot import film
from qwen2vl_robot.config import RelationRules, RobotProfile, Strict, load_robot, load_yaml, robot_file
from qwen2vl_robot.controller import Controller, Parts
from qwen2vl_robot.description import check_description, take_live, wants_live
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.conversions import image_from_rgb
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Instruction, InstructionSource, Motion, Observation, Plan, Scene, StepRecord, Verdict
from qwen2vl_robot.nodes import reports
from qwen2vl_robot.nodes.approval import AskingGate
from qwen2vl_robot.nodes.calibration import load_calibration
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera, GraphCameras
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.perception.labels import load_words
from qwen2vl_robot.planner.contract import check_instruction
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.validation.pool import RehearsalProcess

# A thread that wants to answer a stop waits at most this long for one that computes.
_SWITCH_INTERVAL_S = 0.0005
_MAX_TEXT = 300
_DESCRIPTION_S = 15.0


def _load_robot(name: str, graph: rows.Graph) -> RobotProfile:
    """The robot file; one whose `urdf` is robot_description waits for the robot to describe itself."""
    came = threading.Event()
    told: list[str] = []

    def take(message: Any) -> None:
        told.append(message.data)
        came.set()

    if wants_live(robot_file(name)):
        graph.subscribe(rows.ROBOT_DESCRIPTION, take)
        if not came.wait(_DESCRIPTION_S):
            raise BadInputError(f"{name}: no robot_description came in {_DESCRIPTION_S:g} s; it is this robot's urdf")
        take_live(told[-1])
    return load_robot(name)


class ControllerNode:
    """One controller on the graph: `configure` loads, `activate` listens, `spin` works, `close` ends.

    Raises:
        BadInputError: robot, calibration or checkpoint cannot be used; the text says what is missing.
    """

    def __init__(self, graph: rows.Graph, settings: Settings) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._graph, self._settings = graph, settings
        self._profile: RobotProfile = _load_robot(settings.robot, graph)
        self._kinematics = Kinematics(self._profile)
        self._tasks: queue.Queue[Instruction | None] = queue.Queue(maxsize=1)
        self._lock = threading.RLock()
        self._status = reports.StatusReport(state="starting", doing="")
        self._is_active, self._is_busy = False, False
        self._has_description, self._described = False, ""
        self._scene: Scene | None = None
        self._publishers = {
            row.name: graph.publisher(row)
            for row in (rows.PLAN, rows.VERDICT, rows.STATUS, rows.MARKERS, rows.ANNOTATED, rows.DETECTIONS)
        }
        self.health = Health(graph, facts=self._facts)
        self.arm = GraphArm(graph, self._profile, self.health)
        self._cell = load_rules()
        self.gate = AskingGate(
            graph, self._profile, settings.approval, arm=self.arm, look=lambda: self.camera.capture(),
            on_question=self._on_question, timeout_s=settings.approval_timeout_s,
            max_state_age_s=settings.max_state_age_s, zones=self._cell.zones,
        )  # fmt: skip
        poses = zip_longest(settings.cameras, settings.calibrations, fillvalue="")
        self.camera = GraphCameras({prefix: self._make_camera(prefix, calibration) for prefix, calibration in poses})
        self.planner = PlannerProcess(settings.model or SHIPPED_MODEL)
        self.rehearsal = RehearsalProcess(
            self._profile, budget_s=settings.rehearsal_budget_s, interpreter=settings.worker_python or None
        )
        self._listen()
        graph.on_broken(self._on_broken)
        self.health.start()

    def _make_camera(self, prefix: str, calibration: str) -> GraphCamera:
        settings = self._settings
        camera = CameraSettings(
            self._profile.base_link,
            prefix,
            is_compressed=settings.compressed,
            T_base_camera=load_calibration(calibration) if calibration else None,
            timeout_s=settings.frame_timeout_s,
            max_apart_s=settings.max_apart_s,
            clip_s=settings.clip_s if prefix == settings.cameras[0] else 0.0,
        )
        return GraphCamera(self._graph, camera, self.gate.halted)

    # ------------------------------------------------------------------------------------------ life cycle

    def configure(self) -> None:
        """Load the checkpoint and start the twin.

        Raises:
            RobotError: one of them does not come up.
        """
        with ThreadPoolExecutor(1) as threads:  # both load for seconds
            warming = threads.submit(self.rehearsal.start)
            self.planner.start()
            warming.result()
        parts = Parts(
            camera=self.camera,
            arm=self.arm,
            clock=self._graph,
            planner=self.planner,
            rehearsal=self.rehearsal,
            gate=self.gate,
            profile=self._profile,
            rules=load_yaml(resolve("tasks/relations.yaml"), RelationRules),
            words=load_words(),
            listeners=(self,),
            cell=self._cell,
        )
        self._controller = Controller(parts, seed=self._settings.seed)
        self._tell(state="inactive", doing="")

    def activate(self) -> None:
        """Take instructions from now on."""
        self._is_active = True
        self._tell(state="stopped" if self.gate.is_latched() else "idle", doing="")

    def deactivate(self) -> None:
        """Halt the arm and take no instructions."""
        self._is_active = False
        self.gate.cancel("deactivated")
        self.arm.stop()
        self._tell(state="inactive", doing="")

    def spin(self) -> None:
        """Carry out instructions until `close`."""
        while (instruction := self._tasks.get()) is not None:
            self._carry_out(instruction)

    def close(self) -> None:
        """Halt the arm and end the workers."""
        self.gate.stop("shutdown")
        self.arm.stop()
        self.end_spin()
        self.health.close()
        self.planner.close()
        self.rehearsal.close()

    def end_spin(self) -> None:
        """Halt the arm, give up the task at hand and have `spin` return."""
        self.gate.cancel("shutdown")
        self.arm.stop()
        try:
            self._tasks.put_nowait(None)
        except queue.Full:
            self._tasks.get_nowait()
            self._tasks.put_nowait(None)

    def _carry_out(self, instruction: Instruction) -> None:
        """One task; the top of the chain, where whatever broke halts the arm and is told."""
        self.gate.begin_task(must_ask=instruction.source is InstructionSource.VOICE)
        outcome: reports.TaskOutcome
        try:
            outcome = reports.task_outcome(self._controller.run(instruction))
            self.health.fine("task")
        except Exception as error:  # noqa: BLE001 - the top of the chain
            self.arm.stop()
            told = str(error) if isinstance(error, RobotError) else f"{type(error).__name__}: {error}"
            self.health.error("task", told)
            outcome = reports.TaskOutcome(
                instruction=instruction.text, source=instruction.source.value, outcome="aborted", reasons=[told],
                steps=[], seconds={},
            )  # fmt: skip
        with self._lock:
            self._is_busy = False
            ended = {"tasks": self._status.tasks + 1, "last_task": outcome, "instruction": None, "awaits": None}
            self._tell(state=self._resting_state(), doing="", stopped_by=self.gate.stopped_by(), **ended)

    # -------------------------------------------------------------------------------------------- inputs

    def _listen(self) -> None:
        graph, trigger = self._graph, self._graph.message("std_srvs/srv/Trigger_Response")
        graph.subscribe(rows.STOP, self._on_stop)
        graph.subscribe(rows.INSTRUCTION, lambda message: self._on_instruction(message.data, InstructionSource.TEXT))
        graph.subscribe(
            rows.VOICE_INSTRUCTION, lambda message: self._on_instruction(message.data, InstructionSource.VOICE)
        )
        graph.subscribe(rows.APPROVE, self._on_approve)
        graph.subscribe(rows.ROBOT_DESCRIPTION, lambda message: self._on_description(message.data))

        def answer(call: Any) -> Any:
            return lambda request: trigger(success=True, message=call())

        graph.serve(rows.STOP_NOW, answer(lambda: self.stop("service ~/stop")))
        graph.serve(rows.RESET, answer(self.reset))
        graph.serve(rows.CANCEL, answer(self.cancel))

    def stop(self, reason: str) -> str:
        """Latch a stop and halt the arm; the halt is on the wire when this returns."""
        self.gate.stop(reason)
        self.arm.stop()
        self._tell(state="stopped", stopped_by=reason, awaits=None)
        return "stopped; release it with ~/reset"

    def stopped_by(self) -> str | None:
        """Why a stop is latched, None when none is."""
        return self.gate.stopped_by()

    def _on_broken(self, told: str) -> None:
        """A callback raised: what it would have done is unknown, so nothing moves until a person has looked."""
        self.health.error("callback", told)
        self.stop(f"a callback failed: {told[:_MAX_TEXT]}")

    def reset(self) -> str:
        """Release a stop."""
        was_stopped = self.gate.is_latched()
        self.gate.cancel("a reset came in the middle of the task")
        self.gate.reset()
        with self._lock:
            self._tell(state=self._resting_state(), stopped_by=None)
        return "released" if was_stopped else "there was no stop"

    def cancel(self) -> str:
        """Give up the task at hand."""
        if not self._is_busy:
            return "there is no task"
        self.gate.cancel("cancelled by ~/cancel")
        self.arm.stop()
        return "cancelled"

    def _on_stop(self, message: Any) -> None:
        """True stops; false does nothing, because only ~/reset releases."""
        if message.data:
            self.stop("topic stop")

    def _on_instruction(self, text: str, source: InstructionSource) -> None:
        try:
            instruction = Instruction(check_instruction(text), source)
        except BadInputError as error:
            self._refuse("instruction", str(error))
            return
        with self._lock:
            reason = self._not_now()
            if reason is None:
                self._is_busy = True
                self._tell(state="working", doing="observe", instruction=instruction.text, approval=None)
                self._tasks.put_nowait(instruction)
        if reason is not None:
            self._refuse("instruction", f"not taken: {reason}")

    def _not_now(self) -> str | None:
        if not self._is_active:
            return "the node is not active"
        if self.gate.is_latched():
            return "stopped; release it with ~/reset"
        if self._is_busy or self._tasks.full():
            return "another task is under way; ~/cancel gives it up"
        if self._settings.needs_description and not self._has_description:
            return "no robot_description came yet"
        return self._described or None

    def _on_approve(self, message: Any) -> None:
        accepted, reason = self.gate.approve(message.data[:128])
        self._tell(approval=reports.ApprovalReport(digest=message.data[:128], accepted=accepted, reason=reason))
        if not accepted:
            self.health.warn("approve", reason)

    def _on_description(self, urdf: str) -> None:
        """Compare what the robot says of itself with its file; a difference means no motion."""
        self._has_description = True
        try:
            check_description(urdf, self._profile)
        except BadInputError as error:
            self._described = f"robot_description: {error}"
            self.health.error("robot_description", str(error))
        else:
            self._described = ""
            self.health.fine("robot_description")

    def _refuse(self, subject: str, reason: str) -> None:
        self.health.warn(subject, reason)
        with self._lock:
            is_first = self._status.last_refusal != reason[:_MAX_TEXT]
            count = self._status.refused_instructions + 1
            if is_first:  # a burst is counted, not told one by one
                self._tell(refused_instructions=count, last_refusal=reason[:_MAX_TEXT])
            else:
                self._status = self._status.model_copy(update={"refused_instructions": count})

    # ------------------------------------------------------------------------------------------- telling

    def on_frame(self, observation: Observation) -> None:
        """See `ports.Listener`."""
        self.health.fine("camera")
        self._tell(doing="plan")

    def on_plan(self, plan: Plan, observation: Observation) -> None:
        """See `ports.Listener`."""
        make, frame = self._graph.message, observation.frame
        self._publish(rows.PLAN, reports.plan_report(plan, observation, self._status.instruction or ""))
        self._publishers[rows.DETECTIONS.name].publish(reports.detections(make, plan, frame, self.camera.frame_id))
        boxes = [(a.object.label, b) for a in plan.actions if a.object is not None for b in a.object.boxes]
        picture = image_from_rgb(make, film.annotate(frame, boxes, None), frame.stamp_ns, self.camera.frame_id)
        self._publishers[rows.ANNOTATED.name].publish(picture)
        self._tell(doing="rehearse")

    def on_step(self, step: StepRecord) -> None:
        """See `ports.Listener`."""
        if step.verdict is not None and not step.verdict.accepted:
            duration_s = None if step.motion is None else step.motion.duration_s
            self._publish(
                rows.VERDICT, reports.verdict_report(step.verdict, step.action.describe(), duration_s, asks=False)
            )
            self._mark(self._scene, step.motion, reports.contacts_of(step, self._kinematics.tool_pose))
        self._tell(doing="observe")

    def _on_question(self, motion: Motion, verdict: Verdict, scene: Scene, asks: bool) -> None:
        """A verdict is about to be admitted: show it, and say so where a person must agree."""
        self._scene = scene
        effect = f"{motion.effect.kind} {motion.effect.name or ''}".strip()
        report = reports.verdict_report(verdict, effect, motion.duration_s, asks=asks)
        self._publish(rows.VERDICT, report)
        self._mark(scene, motion, np.zeros((0, 3)))
        if asks:
            self._tell(state="awaiting_approval", doing="admit", awaits=report.digest)
        else:
            self._tell(doing="run")

    def _mark(self, scene: Scene | None, motion: Motion | None, contacts_m: Any) -> None:
        path = None if motion is None else reports.path_of(motion, self._kinematics.tool_pose)
        made = reports.markers(
            self._graph.message, scene, path, contacts_m, self._profile.base_link, self._graph.now_ns()
        )
        self._publishers[rows.MARKERS.name].publish(made)

    def _tell(self, **changes: Any) -> None:
        """Change the status and publish it."""
        with self._lock:
            if self.gate.is_latched() and changes.get("state") in ("working", "idle", "awaiting_approval"):
                changes["state"] = "stopped"
            elif "state" not in changes and self._status.state == "awaiting_approval" and self.gate.awaited() is None:
                changes |= {"state": "working", "awaits": None}
            self._status = self._status.model_copy(update=changes)
            self._publish(rows.STATUS, self._status)

    def _resting_state(self) -> str:
        if self.gate.is_latched():
            return "stopped"
        if self._is_busy:
            return "working"
        return "idle" if self._is_active else "inactive"

    def _publish(self, row: rows.Topic, report: Strict) -> None:
        text = self._graph.message("std_msgs/msg/String")(data=report.model_dump_json())
        self._publishers[row.name].publish(text)

    def _facts(self) -> dict[str, str]:
        counts = {f"{what} messages": str(count) for what, count in self.camera.counts().items()}
        return {"state": self._status.state, "robot": self._profile.name, **counts}
