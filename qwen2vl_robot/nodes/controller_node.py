"""The controller on the ROS 2 graph: instructions come in, a stop is obeyed at once, everything done is published.

The chain of `controller.py` runs on the thread that calls `spin`; planning and rehearsal have processes of their own,
so the threads that answer a stop never wait for torch or Bullet.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from typing import Any

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.config import RobotProfile, load_robot, robot_file
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.description import check_description, take_live, wants_live
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.graph import interface
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Cause, Instruction, InstructionSource, Outcome, OutcomeKind, Rehearsed, TaskReport
from qwen2vl_robot.nodes.camera_calibration import load_calibration
from qwen2vl_robot.nodes.display import Display
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.graph_camera import CameraSettings, GraphCamera, GraphCameras
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.reports import StatusReport, task_outcome
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.nodes.status import Status
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.reasons import AbortReason
from qwen2vl_robot.validation.pool import RehearsalProcess

_log = logging.getLogger(__name__)
# A thread that wants to answer a stop waits at most this long for one that computes.
_SWITCH_INTERVAL_S = 0.0005
_MAX_TEXT = 300
_MAX_DIGEST = 128
_DESCRIPTION_S = 15.0
_VERDICT_AGE_S = 30.0  # besides the time that a person may take


def _load_robot(name: str, graph: interface.Graph) -> RobotProfile:
    """The robot file; one whose `urdf` is robot_description waits for the robot to describe itself."""
    came = threading.Event()
    descriptions: list[str] = []

    def take(message: Any) -> None:
        descriptions.append(message.data)
        came.set()

    if wants_live(robot_file(name)):
        graph.subscribe(interface.ROBOT_DESCRIPTION, take)
        if not came.wait(_DESCRIPTION_S):
            raise BadInputError(f"{name}: no robot_description came in {_DESCRIPTION_S:g} s; it is this robot's urdf")
        take_live(descriptions[-1])
    return load_robot(name)


class ControllerNode:
    """One controller on the graph: `configure` loads, `activate` listens, `spin` works, `close` ends.

    Raises:
        BadInputError: robot, calibration or checkpoint cannot be used; the text says what is missing.
    """

    def __init__(self, graph: interface.Graph, settings: Settings) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._graph, self._settings = graph, settings
        self._profile: RobotProfile = _load_robot(settings.robot, graph)
        self._tasks: queue.Queue[Instruction | None] = queue.Queue(maxsize=1)
        self._lock = threading.RLock()
        self._has_description, self._described = False, ""
        self._controller: Controller | None = None
        self._status_publisher = graph.publisher(interface.STATUS)
        self.halt = Halt()
        self.approver = AskingApprover(
            self.halt, settings.approval, on_question=self._on_question, timeout_s=settings.approval_timeout_s
        )
        self.status = Status(self.halt, self.approver, self._publish_status)
        self.health = Health(graph, facts=self._facts)
        self.arm = GraphArm(graph, self._profile, self.health)
        poses = zip_longest(settings.cameras, settings.calibrations, fillvalue="")
        self.camera = GraphCameras({prefix: self._make_camera(prefix, calibration) for prefix, calibration in poses})
        self.display = Display(graph, self._profile, self.status, self.health, lambda: self.camera.frame_id)
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
        return GraphCamera(self._graph, camera, self._why_halted)

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
        ports = Ports(self.camera, self.arm, self._graph, self.planner, self.rehearsal, self.approver, (self.display,))
        limits = GateLimits(
            max_state_age_s=self._settings.max_state_age_s,
            max_verdict_age_s=_VERDICT_AGE_S + self._settings.approval_timeout_s,
        )
        self._controller = assemble(self._profile, ports, halt=self.halt, limits=limits, seed=self._settings.seed)
        self.status.configured()
        _log.info("configured: robot %s, approval %s", self._profile.name, self._settings.approval.value)

    def activate(self) -> None:
        """Take instructions from now on."""
        self.status.activated(True)
        _log.info("active: instructions are taken")

    def deactivate(self) -> None:
        """Halt the arm and take no instructions."""
        with self._lock:  # an instruction is accepted before this, and then cancelled, or it is refused
            self.status.activated(False)
            self.halt.cancel("the node was deactivated")
        self.arm.stop()
        self.status.publish()
        _log.info("inactive: no instructions are taken")

    def spin(self) -> None:
        """Carry out instructions until `close`."""
        while (instruction := self._tasks.get()) is not None:
            self._carry_out(instruction)

    def close(self) -> None:
        """Halt the arm and end the workers."""
        self.halt.stop("shutdown")
        self.arm.stop()
        self.end_spin()
        self.health.close()
        self.planner.close()
        self.rehearsal.close()

    def end_spin(self) -> None:
        """Halt the arm, give up the task at hand and have `spin` return."""
        self.halt.cancel("shutdown")
        self.arm.stop()
        try:
            self._tasks.put_nowait(None)
        except queue.Full:
            self._tasks.get_nowait()
            self._tasks.put_nowait(None)

    def _carry_out(self, instruction: Instruction) -> None:
        """One task; the top of the chain, where whatever broke halts the arm and is reported."""
        try:
            if self._controller is None:
                with self.halt.task():
                    raise RobotError("the node is not configured")
            report = self._controller.run(instruction)
            self.health.fine("task")
        except Exception as error:  # noqa: BLE001 - the top of the chain
            self.arm.stop()
            text = str(error) if isinstance(error, RobotError) else f"{type(error).__name__}: {error}"
            self.health.error("task", text)
            outcome = Outcome(OutcomeKind.ABORTED, (Cause(AbortReason.BROKEN, text),))
            report = TaskReport(instruction, outcome, (), (), {})
        self.status.ended(task_outcome(report))

    # -------------------------------------------------------------------------------------------- inputs

    def _listen(self) -> None:
        graph, trigger = self._graph, self._graph.message("std_srvs/srv/Trigger_Response")
        graph.subscribe(interface.STOP, self._on_stop)
        for topic, source in (
            (interface.INSTRUCTION, InstructionSource.TEXT),
            (interface.VOICE_INSTRUCTION, InstructionSource.VOICE),
        ):
            graph.subscribe(topic, partial(self._on_text, source))
        graph.subscribe(interface.APPROVE, lambda message: self._on_approve(message.data))
        graph.subscribe(interface.ROBOT_DESCRIPTION, lambda message: self._on_description(message.data))

        def answer(call: Callable[[], str]) -> Callable[[Any], Any]:
            return lambda request: trigger(success=True, message=call())

        graph.serve(interface.STOP_NOW, answer(lambda: self.stop("service ~/stop")))
        graph.serve(interface.RESET, answer(self.reset))
        graph.serve(interface.CANCEL, answer(self.cancel))

    def stop(self, reason: str) -> str:
        """Latch a stop and halt the arm; the halt is on the wire when this returns."""
        self.halt.stop(reason)
        self.arm.stop()
        self.status.publish()
        _log.warning("stopped: %s", reason)
        return "stopped; release it with ~/reset"

    def stopped_by(self) -> str | None:
        """Why a stop is latched, None when none is."""
        return self.halt.stopped_by()

    def reset(self) -> str:
        """Release a stop."""
        was_stopped = self.halt.stopped_by() is not None
        self.halt.reset()
        self.status.publish()
        _log.info("reset: %s", "released" if was_stopped else "there was no stop")
        return "released" if was_stopped else "there was no stop"

    def cancel(self) -> str:
        """Give up the task that is accepted or under way."""
        if not self.halt.cancel("cancelled by ~/cancel"):
            return "there is no task"
        self.arm.stop()
        self.status.publish()
        _log.info("cancelled by ~/cancel")
        return "cancelled"

    def _why_halted(self) -> str | None:
        cause = self.halt.cause()
        return None if cause is None else cause.text

    def _on_broken(self, text: str) -> None:
        """A callback raised: what it would have done is unknown, so nothing moves until a person has looked."""
        self.health.error("callback", text)
        self.stop(f"a callback failed: {text[:_MAX_TEXT]}")

    def _on_stop(self, message: Any) -> None:
        """True stops; false does nothing, because only ~/reset releases."""
        if message.data:
            self.stop("topic stop")

    def _on_text(self, source: InstructionSource, message: Any) -> None:
        self._on_instruction(message.data, source)

    def _on_instruction(self, text: str, source: InstructionSource) -> None:
        """Accept a task, or say why not; from here on it exists, and can be cancelled."""
        try:
            instruction = Instruction(text, source)
        except BadInputError as error:
            self._refuse(str(error))
            return
        with self._lock:
            reason = self._not_now()
            if reason is None:
                self.halt.begin_task()
                self.status.began(instruction)
                self._tasks.put_nowait(instruction)
        if reason is not None:
            self._refuse(f"not taken: {reason}")

    def _not_now(self) -> str | None:
        if not self.status.is_active:
            return "the node is not active"
        if self.halt.stopped_by() is not None:
            return "stopped; release it with ~/reset"
        if self.halt.has_task or self._tasks.full():
            return "another task is under way; ~/cancel gives it up"
        if self._settings.needs_description and not self._has_description:
            return "no robot_description came yet"
        return self._described or None

    def _refuse(self, reason: str) -> None:
        self.health.warn("instruction", reason)
        self.status.refused(reason)

    def _on_approve(self, verdict_digest: str) -> None:
        given = verdict_digest[:_MAX_DIGEST]
        accepted, reason = self.approver.answer(given)
        self.status.answered(given, accepted, reason)
        if not accepted:
            self.health.warn("approve", reason)

    def _on_question(self, step: Rehearsed, asks: bool) -> None:
        self.display.on_question(step, asks)

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

    # ------------------------------------------------------------------------------------------ publishing

    def _publish_status(self, report: StatusReport) -> None:
        text = self._graph.message("std_msgs/msg/String")(data=report.model_dump_json())
        self._status_publisher.publish(text)

    def _facts(self) -> dict[str, str]:
        counts = {f"{what} messages": str(count) for what, count in self.camera.counts().items()}
        return {"state": self.status.state(), "robot": self._profile.name, **counts}
