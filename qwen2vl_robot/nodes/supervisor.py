"""The supervisor: a small process beside the controller that halts the arm when that one no longer can.

It hears `stop` itself, and halts when the controller is silent. It remembers a stop beyond the controller's end, so
that a restart does not release it. It imports neither Bullet nor torch, and computes nothing that could take long.
"""

from __future__ import annotations

import gc
import logging
import math
import secrets
import threading
from typing import Any

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import RobotState
from qwen2vl_robot.nodes.halting import Halting
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.heartbeat import (
    GOODBYES,
    PERIOD_S,
    REASON_CHARS,
    ControllerBeat,
    Pulse,
    SupervisorBeat,
    read_beat,
)
from qwen2vl_robot.nodes.joints import JointStates

_log = logging.getLogger(__name__)
_CLOSE_S = 1.0
RESTARTED = "the supervisor may have been restarted, and does not know whether a stop was latched before"


class Supervisor:
    """Watches one controller, in its namespace.

    Args:
        limit_s: a silence of the controller that is longer halts the arm.
        begins_stopped: whether a stop is latched from the start: who restarts this node without a person must say so.
    """

    def __init__(
        self, graph: interface.Graph, profile: RobotProfile, limit_s: float, *, begins_stopped: bool = False
    ) -> None:
        self._graph, self._robot = graph, profile.digest
        self._halting = Halting(graph, profile)
        # Only a point to hold needs to know where the arm is, and it needs no fingers.
        needs_joints = self._halting.publisher is not None
        health = Health(graph, hardware_id=profile.name, facts=dict)
        self._joints = JointStates(graph, profile, health, max_gripper_age_s=math.inf) if needs_joints else None
        graph.on_jump(lambda seconds: self._forget())
        self._instance = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._pulse = Pulse(limit_s)
        self._controller: ControllerBeat | None = None  # the latest one's latest, None after its goodbye
        self._is_lost = False  # whether it fell silent and was not heard since
        self._stops, self._stopped_by = 0, None if not begins_stopped else RESTARTED
        self._publisher = graph.publisher(interface.SUPERVISOR_HEARTBEAT)
        self._ended, self._failure = threading.Event(), ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        graph.on_broken(lambda problem: self._halt(f"a callback of the supervisor failed: {problem}"))
        for topic in (interface.STOP, interface.ANY_STOP):
            graph.subscribe(topic, self._on_stop)
        graph.subscribe(interface.CONTROLLER_HEARTBEAT, self._on_beat)

    def start(self) -> None:
        """Begin to look and to send."""
        gc.freeze()  # a collection that goes through all that is loaded takes up to 0.1 s on a busy machine
        self._thread.start()

    def end(self) -> None:
        """Let `wait` return."""
        self._ended.set()

    def wait(self) -> None:
        """Wait for `end`.

        Raises:
            ExecutionError: the watch failed. This node is silent from then on, so the controller stops the arm.
        """
        self._ended.wait()
        if self._failure:
            raise ExecutionError(self._failure)

    def close(self) -> None:
        """Say goodbye, so that the silence afterwards is no alarm."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        for _ in range(GOODBYES):
            self._send(is_leaving=True)

    def stopped_by(self) -> str | None:
        """Return why a stop is latched, None when none is."""
        return self._stopped_by

    # --------------------------------------------------------------------------------------------- halting

    def _halt(self, why: str | None) -> None:
        """Send the halt; with a reason also latch a stop, and tell the controller at once."""
        self._halting.send(self._newest)
        if why is not None:
            with self._lock:
                self._stops += 1
                self._stopped_by = self._stopped_by or why[:REASON_CHARS]
            self._send()
            _log.warning("stopped: %s", why)

    def _newest(self) -> RobotState | None:
        return None if self._joints is None else self._joints.newest()

    def _forget(self) -> None:
        if self._joints is not None:
            self._joints.forget()  # what is stamped by another time says no more where the arm is

    def _on_stop(self, message: Any) -> None:
        if message.data:
            self._halt("topic stop")

    def _run(self) -> None:
        try:
            while not self._ended.wait(PERIOD_S):
                self._look()
                self._send()
        except Exception as error:  # noqa: BLE001 - the top of a thread
            _log.exception("the watch failed")
            self._failure = f"the watch failed: {type(error).__name__}: {error}"
            self._ended.set()

    def _look(self) -> None:
        """Halt once when the controller falls silent; only in a motion must a person release that afterwards."""
        with self._lock:
            self._pulse.look()
            beat = self._controller
            if beat is None or self._is_lost or not self._pulse.is_silent:
                return
            self._is_lost = True
            why = f"the controller was silent for {self._pulse.silence_s:.2f} s"
            _log.warning("%s", why)
            self._halt((beat.stopped_by or f"{why} in a motion") if beat.is_moving else None)

    # ------------------------------------------------------------------------------------------- heartbeats

    def _on_beat(self, message: Any) -> None:
        try:
            beat = read_beat(message, ControllerBeat)
        except BadInputError as error:
            _log.warning("%s", error)
            return
        with self._lock:
            before, was_lost = self._controller, self._is_lost
            self._pulse.hear()
            self._controller, self._is_lost = None if beat.is_leaving else beat, False
            if before is not None and before.instance != beat.instance:
                how = "ended without a goodbye" if was_lost else "is there beside another one"
                self._halt(before.stopped_by or f"a controller {how}")
            if beat.is_leaving and beat.stopped_by is not None and before is not None:
                self._halt(beat.stopped_by)
            if (beat.supervisor, beat.released) == (self._instance, self._stops) and self._stopped_by is not None:
                _log.info("released: a person has reset the controller")
                self._stopped_by = None
            is_late = beat.is_moving and beat.stopped_by is None
            if self._stopped_by is not None and is_late:  # it has not heard of the stop, or stood still until now
                self._halt(None)

    def _send(self, *, is_leaving: bool = False) -> None:
        can_halt = self._halting.reaches_arm() and (self._joints is None or self._newest() is not None)
        with self._lock:
            controller = self._controller
            beat = SupervisorBeat(
                instance=self._instance,
                robot=self._robot,
                hears="" if controller is None or self._is_lost else controller.instance,
                can_halt=can_halt,
                stops=self._stops,
                stopped_by=self._stopped_by,
                is_leaving=is_leaving,
            )
            kind = self._graph.message(interface.SUPERVISOR_HEARTBEAT.type)
            self._publisher.publish(kind(data=beat.model_dump_json()))
