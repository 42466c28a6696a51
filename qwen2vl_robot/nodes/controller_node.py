"""The controller on the ROS 2 graph: takes instructions, obeys a stop at once, publishes what it does.

The flow of `controller.py` runs on the thread that calls `spin`; planning and rehearsal have processes of their own,
so the threads that answer a stop never wait for torch or Bullet.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.assembly import Ports
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import BadInputError, ObservationError, RobotError
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.graph import interface
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Cause, Instruction, InstructionSource, Outcome, OutcomeKind, TaskReport
from qwen2vl_robot.nodes.answers import Answers
from qwen2vl_robot.nodes.display import Display
from qwen2vl_robot.nodes.graph_arm import GraphArm
from qwen2vl_robot.nodes.graph_cameras import cameras_of
from qwen2vl_robot.nodes.guard import Guard
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.jobs import Job, Jobs
from qwen2vl_robot.nodes.jumps import Jumps
from qwen2vl_robot.nodes.live_robot import Described, load_live_robot
from qwen2vl_robot.nodes.programs import Programs
from qwen2vl_robot.nodes.recording import Session, believed, close_recording, make_controller
from qwen2vl_robot.nodes.reports import StatusReport, task_outcome
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.nodes.status import Status
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.checking import CHECK
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.reading import asks_to_stop, load_words
from qwen2vl_robot.reasons import AbortReason, ObservationReason, RefusalReason, RequestReason
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.validation.pool import RehearsalProcess

_log = logging.getLogger(__name__)
# A thread that answers a stop waits about this long for the interpreter lock of one that computes.
_SWITCH_INTERVAL_S = 0.0005
_MAX_TEXT = 300
_MAX_STOP_TEXT = 60  # of a sentence that begins with a stop word, as a stop's reason
_VERDICT_AGE_S = 30.0  # plus the time that a person may take to approve


class ControllerNode:
    """A controller on the graph: `configure` loads, `activate` takes instructions, `spin` carries them out.

    Raises:
        BadInputError: the robot file or a calibration cannot be used.
    """

    def __init__(self, graph: interface.Graph, settings: Settings) -> None:
        _prepare()
        self._graph, self._settings = graph, settings
        self._profile: RobotProfile = load_live_robot(settings.robot, graph)
        self._controller: Controller | Session | None = None
        self._status_publisher = graph.publisher(interface.STATUS)
        self.halt = Halt(lambda: self.guard.lasting_lack(), lambda: self.guard.wait())
        wait_s = settings.approval_timeout_s
        self.approver = AskingApprover(
            self.halt, settings.approval, on_question=lambda *step: self.display.on_question(*step), timeout_s=wait_s
        )
        self.health = Health(graph, hardware_id=self._profile.name, facts=self._facts)
        self._described = Described(self._profile, self.health, is_needed=settings.needs_description)
        self.arm = GraphArm(
            graph, self._profile, self.health, self._why_halted, lambda: self.status.publish(),
            has_supervisor=True, max_gripper_age_s=settings.max_gripper_age_s,
        )  # fmt: skip
        self.guard = Guard(graph, self._profile, settings.silence_s, self.halt, self.arm, self.stop, self.health)
        self.status = Status(self.halt, self.approver, self._publish_status, lambda: self.arm.is_halting)
        self.camera = cameras_of(graph, self._profile.base_link, settings, self._why_halted)
        Jumps(graph, self.halt, self.arm, self.camera, self.health)
        self.jobs = Jobs(self.halt, self.status, self.health, self._began, self._lack)
        self._around = Surroundings.of(self._profile, settings.whose_sides)
        self.display = Display(graph, self._around, self.status, self.health, lambda: self.camera.frame_id)
        self.planner = PlannerProcess(settings.model or SHIPPED_MODEL, seen_from=settings.whose_sides)
        python, budget_s = settings.worker_python or None, settings.rehearsal_budget_s
        self.rehearsal = RehearsalProcess(self._profile, budget_s=budget_s, interpreter=python)
        graph.on_broken(self._on_broken)
        self._listen()
        self.health.start()
        self.guard.start()

    # ------------------------------------------------------------------------------------------ life cycle

    def configure(self) -> None:
        """Load the planner's checkpoint and start the twin.

        Raises:
            RobotError: one of them cannot be started, or the cell's rules cannot be used.
        """
        settings = self._settings
        load_rules(settings.rules)  # first: what is wrong in it is said at once
        with ThreadPoolExecutor(1) as threads:  # both load for seconds
            twin = threads.submit(self.rehearsal.start)
            self.planner.start()
            twin.result()
        links = (self.camera, self.arm, self._graph, self.planner, self.rehearsal, self.approver, (self.display,))
        ports = Ports(*links, _guard(self._around, settings, self.health))
        verdict_age_s = _VERDICT_AGE_S + settings.approval_timeout_s
        limits = GateLimits(max_state_age_s=settings.max_state_age_s, max_verdict_age_s=verdict_age_s)
        self._controller = make_controller(settings, self._around, ports, limits, self.halt, self.stop)
        self.status.configured()
        _log.info("configured: robot %s, approval %s", self._profile.name, self._settings.approval.value)

    def activate(self) -> None:
        """Start to take instructions."""
        self.status.activated(True)
        _log.info("active: instructions are taken")

    def deactivate(self) -> None:
        """Cancel the current task, halt the arm and take no more instructions."""
        self._give_up("the node was deactivated")
        self.status.publish()
        _log.info("inactive: no instructions are taken")

    def spin(self) -> None:
        """Carry out instructions until `end_spin` or `close`."""
        while (job := self.jobs.next()) is not None:
            self._carry_out(job)

    def close(self) -> None:
        """Halt the arm and end the workers; a stop that comes meanwhile stays in `stopped_by`."""
        self.end_spin()
        self.guard.close()
        self.health.close()
        self.planner.close()
        self.rehearsal.close()
        close_recording(self._controller)

    def end_spin(self) -> None:
        """Halt the arm, cancel the current task, take no instructions, and have `spin` return."""
        self._give_up("shutdown")
        self.jobs.close()

    def _give_up(self, reason: str) -> None:
        """Cancel the current task, take no further one, and halt the arm."""
        self.jobs.deactivate(reason)
        self.arm.stop()

    def _carry_out(self, job: Job) -> None:
        """Carry out one task; the top of the flow, where every exception halts the arm and is reported."""
        try:
            if self._controller is None:
                raise RobotError("the node is not configured")
            self.approver.demand(job.approval)
            report = job.run(self._controller)
            self.health.fine("task")
        except Exception as error:  # noqa: BLE001 - the top of the flow
            self.arm.stop()
            outcome = _outcome_of(error, self.halt)
            if outcome.kind is OutcomeKind.ABORTED:
                self.health.error("task", outcome.reasons[0], lasts=True)
            report = TaskReport(job.instruction, outcome, (), (), {})
        self.jobs.release(job)
        try:
            self.status.ended(task_outcome(report))
            self.jobs.ended(job, report)
            self.display.show_scene(believed(self._controller))
        except Exception as error:  # noqa: BLE001 - the top of the flow
            self._on_broken(f"the end of a task could not be reported: {error}")

    # -------------------------------------------------------------------------------------------- inputs

    def _listen(self) -> None:
        graph, trigger = self._graph, self._graph.message("std_srvs/srv/Trigger_Response")
        for topic in (interface.STOP, interface.ANY_STOP):
            graph.subscribe(topic, self._on_stop)
        for topic, anyhow, source in (
            (interface.INSTRUCTION, interface.ANY_INSTRUCTION, InstructionSource.TEXT),
            (interface.VOICE_INSTRUCTION, interface.ANY_VOICE_INSTRUCTION, InstructionSource.VOICE),
            (interface.AGENT_INSTRUCTION, interface.ANY_AGENT_INSTRUCTION, InstructionSource.AGENT),
        ):
            graph.subscribe(topic, partial(self._on_instruction, source, False))
            graph.subscribe(anyhow, partial(self._on_instruction, source, True))
        Answers(graph, self.approver, self.status, self.health, self.arm.stop)
        show, halt_arm = self.display.show, self._halt_arm
        Programs(graph, self._settings, self.jobs, self.halt, show=show, stop=self.stop, halt_arm=halt_arm)
        graph.subscribe(interface.ROBOT_DESCRIPTION, lambda message: self._described.take(message.data))

        def answer(call: Callable[[], str]) -> Callable[[Any], Any]:
            def respond(request: Any) -> Any:
                said = call()
                return trigger(success=not said.startswith("not "), message=said)

            return respond

        graph.serve(interface.STOP_NOW, answer(lambda: self.stop("service ~/stop")))
        graph.serve(interface.RESET, answer(self.reset))
        graph.serve(interface.CANCEL, answer(self.cancel))
        graph.serve(interface.CHECK_CAMERA, answer(lambda: self._take(CHECK)))

    def stop(self, reason: str) -> str:
        """Latch a stop and halt the arm; the halt is sent when this returns."""
        self.halt.stop(reason)
        self.arm.stop()
        self.status.publish()
        _log.warning("stopped: %s", reason)
        return f"{'the arm comes to rest' if self.arm.is_halting else 'stopped'}; release it with ~/reset"

    def stopped_by(self) -> str | None:
        """Return why a stop is latched, None when none is."""
        return self.halt.stopped_by()

    def reset(self) -> str:
        """Release a stop; a task under way is cancelled."""
        was_stopped, had_task = self.stopped_by() is not None, self.halt.has_task
        self.guard.release()  # before this node's own stop, or the supervisor's next heartbeat would latch it again
        self.halt.reset()
        self.health.fine("arm", "callback", "task")  # a person has looked
        self.status.publish()
        answer = "released" if was_stopped else f"there was no stop{'; the task is cancelled' if had_task else ''}"
        return _logged("reset", answer)

    def cancel(self) -> str:
        """Cancel the current task, accepted or under way, and halt the arm."""
        if not self.halt.cancel("cancelled by ~/cancel"):
            return "there is no task"
        self._halt_arm()
        _log.info("cancelled by ~/cancel")
        return "cancelled"

    def _halt_arm(self) -> None:
        self.arm.stop()
        self.status.publish()

    def _why_halted(self) -> str | None:
        cause = self.halt.cause()
        return None if cause is None else cause.text

    def _on_broken(self, text: str) -> None:
        """Stop after a callback raised: its effect is unknown, so a person has to look first."""
        self.health.error("callback", text, lasts=True)
        self.stop(f"a callback failed: {text[:_MAX_TEXT]}")

    def _on_stop(self, message: Any) -> None:
        if message.data:  # false does nothing, because only ~/reset releases a stop
            self.stop("topic stop")

    def _on_instruction(self, source: InstructionSource, stop_only: bool, message: Any) -> None:
        """Accept an instruction as the next task, which can be cancelled from then on, or refuse it."""
        is_stop = asks_to_stop(message.data)
        if is_stop:
            self.stop(f"{source.value} instruction {message.data[:_MAX_STOP_TEXT]!r}")
        if stop_only or is_stop:
            return
        try:
            instruction = Instruction(message.data, source)
        except BadInputError as error:
            self.jobs.refuse(str(error))
            return
        self._take(instruction)

    def _take(self, instruction: Instruction) -> str:
        """Accept an instruction as the next task or refuse it; says which."""
        refused = self.jobs.take(Job(instruction, lambda flow: flow.run(instruction)))
        return "taken" if refused is None else f"not taken: {refused.text}"

    def _began(self, instruction: Instruction) -> None:
        self.display.begin(instruction)
        self.status.began(instruction)

    def _lack(self) -> Cause | None:
        """Why nothing can be moved now, beside what `Jobs` knows itself."""
        described, unguarded = self._described.lack(), self.guard.lasting_lack()
        if described is not None:
            return Cause(RequestReason.DESCRIPTION, described)
        return None if unguarded is None else Cause(RefusalReason.NO_SUPERVISOR, unguarded)

    # ------------------------------------------------------------------------------------------ publishing

    def _publish_status(self, report: StatusReport) -> None:
        self._status_publisher.publish(self._graph.message("std_msgs/msg/String")(data=report.model_dump_json()))
        self.jobs.progress(report, self.display.verdict)

    def _facts(self) -> dict[str, str]:
        counts = {f"{what} messages": str(count) for what, count in self.camera.counts().items()}
        return {"state": self.status.state(), "robot": self._profile.name, **counts}


def _prepare() -> None:
    """Load every word before anything is heard, for the first may be a stop; let threads take turns often."""
    load_words()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def _logged(what: str, answer: str) -> str:
    _log.info("%s: %s", what, answer)
    return answer


def _guard(around: Surroundings, settings: Settings, health: Health) -> CameraGuard:
    return CameraGuard(
        around,
        names=tuple(prefix.strip("/") for prefix in settings.cameras),
        is_required=settings.camera_check == "required",
        on_seen=health.on_camera,
        on_health=health.on_camera_health,
    )


def _outcome_of(error: Exception, halt: Halt) -> Outcome:
    """Return the outcome of a task that an exception ended: refused by a stop or a cancel, else broken."""
    if isinstance(error, ObservationError) and error.reason is ObservationReason.HALTED:
        cause = halt.cause()
        reason = RefusalReason.CANCELLED if cause is None else cause.reason
        return Outcome(OutcomeKind.REFUSED, (Cause(reason, str(error)),))
    text = str(error) if isinstance(error, RobotError) else f"{type(error).__name__}: {error}"
    return Outcome(OutcomeKind.ABORTED, (Cause(AbortReason.BROKEN, text),))
