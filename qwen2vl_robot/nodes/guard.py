"""The controller's half of the watch that it and its supervisor keep on each other.

One thread looks and then sends the heartbeat: that this process did not stand still, and that somebody looks at the
motion under way. So a heartbeat says that the arm is watched, not merely that a thread lives.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.nodes.graph_arm import GraphArm
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

_log = logging.getLogger(__name__)
_UNWATCHED_S = 0.5  # in a motion; the executor looks every 20 ms, but may get no core for a while
_REPORT_S = 5.0
_LASTS_S = 1.0  # at rest; both processes may get no core for a while, and nothing moves meanwhile
_CLOSE_S = 1.0


class Guard:
    """Sends the controller's heartbeat, hears the supervisor's, and stops where one of both is amiss.

    Args:
        profile: the robot file; the supervisor must have the same.
        limit_s: a silence of the supervisor, or a standstill of this process, that is longer halts the arm.
        stop: halts the arm and latches a stop.
    """

    def __init__(
        self,
        graph: interface.Graph,
        profile: RobotProfile,
        limit_s: float,
        halt: Halt,
        arm: GraphArm,
        stop: Callable[[str], object],
        health: Health,
    ) -> None:
        self._graph, self._robot, self._limit_s = graph, profile.digest, limit_s
        self._halt, self._arm, self._stop, self._health = halt, arm, stop, health
        self._instance = secrets.token_hex(8)
        self._pulse = Pulse(limit_s)
        self._supervisor: SupervisorBeat | None = None  # None too after its goodbye
        self._released = ("", 0)  # a supervisor's instance, and the number of its latest stop that was released
        self._looked_s = self._reported_s = time.monotonic()
        self._was_moving = self._was_silent = False
        self._guarded_s = -math.inf  # when nothing was lacking last
        self._publisher = graph.publisher(interface.CONTROLLER_HEARTBEAT)
        self._ended = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        graph.subscribe(interface.SUPERVISOR_HEARTBEAT, self._on_beat)

    def start(self) -> None:
        """Begin to look and to send."""
        self._looked_s = time.monotonic()
        self._thread.start()

    def lack(self) -> str | None:
        """Return what is missing of a supervisor that could halt the arm now; None when nothing is."""
        if self._failure is not None:
            return self._failure
        beat, still_s = self._supervisor, time.monotonic() - self._looked_s
        if still_s > self._limit_s:
            return f"this process stood still for {still_s:.2f} s"
        if beat is None or self._pulse.is_silent:
            return "no supervisor is heard; start `qwen2vl-robot supervisor` beside this node"
        if beat.robot != self._robot:
            return "the supervisor was started with another robot file"
        if beat.hears != self._instance:
            return "the supervisor does not hear this node"
        return None if beat.can_halt else "the supervisor does not reach the arm's controller"

    def lasting_lack(self) -> str | None:
        """Return what `lack` returns, but at rest no silence that may pass: it would end a task for nothing."""
        lack = self.lack()
        if lack is None or self._supervisor is None or self._arm.unwatched_s() is not None:
            return lack
        return lack if time.monotonic() - self._guarded_s > _LASTS_S else None

    def wait(self) -> None:
        """Wait until nothing is lacking, at most as long as a lack may last at rest."""
        end_s = time.monotonic() + _LASTS_S
        while self.lack() is not None and time.monotonic() < end_s:
            time.sleep(PERIOD_S)

    def release(self) -> None:
        """Release the supervisor's stop too, as far as this node has heard of it, with the next heartbeat."""
        beat = self._supervisor
        if beat is not None:
            self._released = (beat.instance, beat.stops)

    def close(self) -> None:
        """Say goodbye, so that the silence afterwards is no alarm; the arm must be halted before."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        for _ in range(GOODBYES):
            self._send(is_leaving=True)

    def _run(self) -> None:
        try:
            while not self._ended.wait(PERIOD_S):
                self._look()
                self._send()
        except Exception as error:  # noqa: BLE001 - the top of a thread; without heartbeats the supervisor halts too
            _log.exception("the watch failed")
            self._failure = f"the watch of the supervisor failed: {type(error).__name__}: {error}"
            self._stop(self._failure)

    def _look(self) -> None:
        """Stop where this process stood still, where nobody watches a motion, or where the supervisor fell silent."""
        now_s, unwatched_s = time.monotonic(), self._arm.unwatched_s()
        still_s, self._looked_s = now_s - self._looked_s, now_s
        if still_s > self._limit_s and (self._was_moving or unwatched_s is not None):
            self._stop(f"the controller's process stood still for {still_s:.2f} s in a motion")
        if unwatched_s is not None and unwatched_s > _UNWATCHED_S:
            self._stop(f"nothing has watched the arm for {unwatched_s:.2f} s of a motion")
        self._pulse.look()
        is_silent = self._pulse.is_silent
        if is_silent and not self._was_silent and self._supervisor is not None:
            self._on_loss(f"the supervisor was silent for {self._pulse.silence_s:.2f} s")
        self._was_silent, self._was_moving = is_silent, unwatched_s is not None
        if self.lack() is None:
            self._guarded_s = now_s
        self._report(now_s)

    def _on_loss(self, why: str) -> None:
        """Halt; in a motion also latch a stop, elsewhere `lack` keeps the next motion back."""
        if self._was_moving or self._arm.unwatched_s() is not None:
            self._stop(f"{why} in a motion")
        else:
            _log.warning("%s", why)
            self._arm.stop()

    def _on_beat(self, message: interface.Message) -> None:
        try:
            beat = read_beat(message, SupervisorBeat)
        except BadInputError as error:
            self._health.warn("supervisor", str(error))
            return
        self._pulse.hear()
        had_one, self._supervisor = self._supervisor is not None, None if beat.is_leaving else beat
        if beat.is_leaving and had_one:
            self._on_loss("the supervisor ended")
        instance, released = self._released
        is_released = beat.instance == instance and beat.stops <= released
        if beat.stopped_by is not None and not is_released and self._halt.stopped_by() is None:
            self._stop(beat.stopped_by)

    def _send(self, *, is_leaving: bool = False) -> None:
        stopped_by, (supervisor, released) = self._halt.stopped_by(), self._released
        beat = ControllerBeat(
            instance=self._instance,
            is_moving=self._arm.unwatched_s() is not None,
            stopped_by=None if stopped_by is None else stopped_by[:REASON_CHARS],
            supervisor=supervisor,
            released=released,
            is_leaving=is_leaving,
        )
        kind = self._graph.message(interface.CONTROLLER_HEARTBEAT.type)
        self._publisher.publish(kind(data=beat.model_dump_json()))

    def _report(self, now_s: float) -> None:
        if now_s - self._reported_s < _REPORT_S:
            return
        self._reported_s, lack = now_s, self.lack()
        if lack is None:
            self._health.fine("supervisor")
        else:
            self._health.warn("supervisor", lack)
