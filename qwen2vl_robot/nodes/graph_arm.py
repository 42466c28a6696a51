"""`ports.Arm` → trajectory and gripper controllers on the graph, by action or by topic as the robot file says.

Each segment of a motion is sent at its time; a joint segment carries its start as a stamp. After a command to the
gripper nothing is sent until `go_on`. Any answer of a controller but success ends the motion. `stop` sends the halt
before it returns.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.geometry import read_only
from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import ApprovedMotion, GripperSegment, JointSegment, Motion, RobotState, Segment, digest
from qwen2vl_robot.nodes.controllers import Controllers
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import MAX_GRIPPER_AGE_S, STANDS_RADPS, JointStates, fastest_radps
from qwen2vl_robot.nodes.urgency import urgent
from qwen2vl_robot.retreat import way_back

_BACK_S = 0.4  # for a halt to be confirmed before the arm goes back
_LEAD_S = 0.2  # a joint segment is sent this long before its start; a motion starts this long after `execute`
_POLL_S = 0.01
_AFTER_S = 0.06  # three heartbeats
_END_S = 1.5  # a motion's last goals must end within this time after it
_HALT_S = 1.0  # controllers must confirm a halt within this time
_WATCH_S = 10.0  # then a halt is no longer watched: what did not rest by then was reported
_REST_S = 0.3  # for a halt to reach the arm and for the joints to be measured, beside the time to slow down
_STANDS_NS = 100_000_000  # for so long in a row: an arm that swings back passes through 0 rad/s


class GraphArm:
    """A `ports.Arm` on the graph.

    Args:
        why_halted: why nothing may move, None when it may; checked as a motion starts and before each segment is sent.
        on_rest: called when the arm is measured at rest after a halt.
        has_supervisor: whether a supervisor publishes on the arm's command topic too, and nobody else may.
        max_gripper_age_s: how much older than the arm's joints the fingers' may be.
    """

    def __init__(
        self,
        graph: interface.Graph,
        profile: RobotProfile,
        health: Health,
        why_halted: Callable[[], str | None] = lambda: None,
        on_rest: Callable[[], None] = lambda: None,
        *,
        has_supervisor: bool = False,
        max_gripper_age_s: float = MAX_GRIPPER_AGE_S,
    ) -> None:
        self._graph, self._profile, self._health = graph, profile, health
        self._why_halted, self._on_rest = why_halted, on_rest
        self._controllers = Controllers(graph, profile, health, has_supervisor=has_supervisor)
        self._joints = JointStates(graph, profile, health, max_gripper_age_s)
        self._start_ns = 0  # of the motion's time 0; later by as much as the gripper kept the motion waiting
        self._grip: GripperSegment | None = None  # sent, and without leave to go on
        self._has_leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._motion: Motion | None = None
        self._back: JointSegment | None = None  # up, on which the arm was sent
        self._failure: str | None = None
        self._is_halted = self._is_halting = self._has_ended = self._is_going_back = False
        self._halts = self._looked_ns = 0
        self._used: set[str] = set()  # tokens of approvals
        self._lock = threading.Lock()

    def state(self) -> RobotState:
        """Return the latest state that is not from the future (see `ports.Arm`)."""
        return self._joints.latest()

    def execute(self, approved: ApprovedMotion) -> None:
        """Start the motion (see `ports.Arm`)."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and not self._has_ended:
                raise ExecutionError("the arm is still moving; wait or stop it first")
            if self._thread is not None:
                self._thread.join()  # it may hurry for a moment yet
            self._check(approved)
            self._used.add(approved.token)
            self._controllers.forget()
            self._failure, self._grip, self._is_halted, self._has_ended = None, None, False, False
            self._motion, self._back, self._is_going_back = approved.motion, None, False
            halted = self._why_halted()  # after the flag: a stop is seen here, or it sets the flag again
            if halted is not None:
                raise ExecutionError(halted)
            self._looked_ns = self._graph.now_ns()
            self._start_ns = start_ns = self._looked_ns + round(_LEAD_S * 1e9)
            (hurrying := ExitStack()).enter_context(urgent())  # before anybody hears that the arm moves
            go = partial(self._hurry_through, approved.motion, hurrying)
            self._thread = threading.Thread(target=go, name="motion", daemon=True)
            self._thread.start()
        while self._graph.now_ns() < start_ns and self._thread.is_alive():
            self._graph.sleep(_POLL_S)  # return when the motion starts: its time counts from there
            self._looked_ns = self._graph.now_ns()

    def is_moving(self) -> bool:
        """Return whether a motion is under way (see `ports.Arm`).

        Raises:
            ExecutionError: a controller rejected or aborted a goal, or is gone.
        """
        # In this order: a failing motion notes its failure before it ends.
        is_moving = self._is_sending
        self._looked_ns = self._graph.now_ns()
        if self._failure is not None:
            raise ExecutionError(self._failure)
        return is_moving

    def has_gripped(self) -> bool:
        """Return whether the command to the gripper has its result (see `ports.Arm`)."""
        grip = self._grip
        if grip is None or not self._is_sending:
            return False
        has_ended = self._controllers.has_gripped()
        if has_ended is None:  # a topic: not before the time that it should take
            return self._graph.now_ns() >= self._start_ns + round(grip.end_s * 1e9)
        return has_ended

    def go_on(self) -> int:
        """Let the motion go on after a command to the gripper (see `ports.Arm`)."""
        grip = self._grip
        if grip is None or not self._is_sending:
            raise ExecutionError("no command to the gripper waits for leave to go on")
        planned_ns = self._start_ns + round(grip.end_s * 1e9)
        late_ns = max(0, self._graph.now_ns() + round(_LEAD_S * 1e9) - planned_ns)
        self._start_ns += late_ns
        self._grip = None
        self._has_leave.set()
        return planned_ns + late_ns

    def retreat(self, from_s: float) -> int:
        """Halt now, and go the guarded segment's way back up (see `ports.Arm`)."""
        if self._motion is None or not self._is_sending or self._back is not None:
            raise ExecutionError("no motion is under way that could go back")
        back = way_back(self._motion, from_s)
        # In this order: the motion's thread must not take the goal's end for a failure.
        self._start_ns, self._back = self._graph.now_ns() + round((_BACK_S + _LEAD_S) * 1e9), back
        self._controllers.halting.send(self._joints.newest, [goal for _, goal in self._controllers.open_goals()])
        return self._start_ns

    def unwatched_s(self) -> float | None:
        """Return for how long, in ROS time (a simulation may stand still), nobody looked at a motion; None without."""
        return max(0.0, (self._graph.now_ns() - self._looked_ns) / 1e9) if self._is_sending else None

    @property
    def _is_sending(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not (self._is_halted or self._has_ended)

    def stop(self) -> None:
        """Halt now (see `ports.Arm`); the halt is sent when this returns, and what follows is watched."""
        self._is_halted = True
        goals = self._controllers.open_goals()
        latest = self._joints.newest()
        self._halts += 1
        moves = latest is not None and fastest_radps(latest) > STANDS_RADPS
        self._is_halting = self._is_halting or bool(goals) or moves
        self._controllers.halting.send(self._joints.newest, [goal for _, goal in goals])
        if self._is_halting:
            arguments = (goals, self._halts, self._graph.now_ns())
            threading.Thread(target=self._watch_halt, args=arguments, name="halt", daemon=True).start()

    @property
    def is_halting(self) -> bool:
        """Whether a halt was sent, and no measured state has shown yet that the arm stands."""
        return self._is_halting

    def _watch_halt(self, goals: list[tuple[str, interface.SentGoal]], halt: int, since_ns: int) -> None:
        """Wait until the controllers confirm a halt and the arm is measured at rest; say which of them did not come."""
        limit_s = max(j.velocity_radps / j.acceleration_radps2 for j in self._profile.joints) + _REST_S
        begins_s = time.monotonic()
        while halt == self._halts:
            late = sorted({what for what, goal in goals if goal.outcome() is None})
            latest = self._joints.newest()
            shows = latest is not None and latest.stamp_ns > since_ns
            speed_radps = fastest_radps(latest) if latest is not None and shows else math.inf
            if not late and self._joints.stood_ns(since_ns) >= _STANDS_NS:
                self._is_halting = False
                if "arm" in self._health.problems() and self._failure is None:
                    self._health.fine("arm")
                self._on_rest()
                return
            waited_s = time.monotonic() - begins_s
            is_late = (self._graph.now_ns() - since_ns) / 1e9 > limit_s or waited_s > _HALT_S
            if is_late and speed_radps > STANDS_RADPS:
                how = f"it moves at {speed_radps:.3f} rad/s" if shows else "no joint state shows that it stands"
                self._health.error("arm", f"the arm did not stop within {limit_s:.2f} s: {how}", lasts=True)
            if late and waited_s > _HALT_S:
                told = f"the controller of the {', '.join(late)} did not confirm a halt in {_HALT_S:g} s"
                self._health.error("arm", told, lasts=True)
            if waited_s > _WATCH_S:
                return
            time.sleep(_POLL_S if not is_late else 10 * _POLL_S)

    def _check(self, approved: ApprovedMotion) -> None:
        """Check approval, start and controllers; raises ExecutionError where one forbids the motion."""
        if approved.token in self._used:
            raise ExecutionError("this approval was used before; each is good for one motion")
        _check_approval(approved, self._profile, self._graph.now_ns())
        _check_start(approved, self._profile, self.state)
        self._controllers.check()

    def forget(self) -> None:
        """Forget the joint states: the clock jumped."""
        self._joints.forget()

    def _hurry_through(self, motion: Motion, hurrying: ExitStack) -> None:
        """Perform, and hurry until the heartbeat says that the motion ended: a late one would be a silence in it."""
        with hurrying:
            self._perform(motion)
            self._has_ended = True
            time.sleep(_AFTER_S)

    def _perform(self, motion: Motion) -> None:
        """Send each segment at its time and wait for the motion's end; the top of a thread."""
        try:
            try:
                self._carry_out(motion.segments, motion.duration_s)
            except ExecutionError:
                if self._back is None or self._is_halted:
                    raise
                self._go_back(self._back)
            if not self._is_halted:
                self._health.fine("arm")
        except Exception as error:  # noqa: BLE001 - the top of this thread: halt, and say why
            if not self._is_halted:
                self._failure = f"{error}" if isinstance(error, ExecutionError) else f"{type(error).__name__}: {error}"
                self._health.error("arm", self._failure, lasts=True)
                self.stop()

    def _carry_out(self, segments: tuple[Segment, ...], duration_s: float) -> None:
        """Send each segment at its time; raises ExecutionError where something keeps the arm from it."""
        for segment in _join_segments(segments):
            lead_s = _LEAD_S if isinstance(segment, JointSegment) else 0.0  # a gripper acts on arrival
            self._wait_until(segment.start_s - lead_s)
            if self._is_halted:
                return
            halted = self._why_halted()
            if halted is not None:
                raise ExecutionError(halted)
            self._send(segment)
        self._wait_until(duration_s)
        end_ns = self._start_ns + round((duration_s + _END_S) * 1e9)
        while not self._is_halted and self._controllers.open_goals():
            if self._graph.now_ns() > end_ns:
                raise ExecutionError(f"a goal did not end within {_END_S:g} s after the motion")
            self._pause(_POLL_S)
        self._controllers.check_goals(self._is_halted)

    def _go_back(self, back: JointSegment) -> None:
        """Once the controllers have confirmed the halt, send the way back."""
        while self._controllers.open_goals() and not self._is_halted:
            if self._graph.now_ns() > self._start_ns - round(_LEAD_S * 1e9):
                raise ExecutionError(f"a goal did not end within {_BACK_S:g} s of the halt before the way back")
            self._graph.sleep(_POLL_S)
        self._controllers.forget()
        self._is_going_back = True
        self._carry_out((back,), back.end_s)

    def _send(self, segment: Segment) -> None:
        """Send one segment, a gripper's until there is leave to go on; a stop that came meanwhile halts it at once."""
        self._has_leave.clear()
        self._controllers.send(segment, self._start_ns + round(segment.start_s * 1e9))
        if self._is_halted:
            self.stop()
        if isinstance(segment, GripperSegment):
            self._grip = segment
            while not self._has_leave.is_set() and not self._is_halted:
                self._pause(_POLL_S)

    def _wait_until(self, time_s: float) -> None:
        """Wait for a time of the motion."""
        while (left_s := (self._start_ns - self._graph.now_ns()) / 1e9 + time_s) > 0.0 and not self._is_halted:
            self._pause(min(_POLL_S, max(0.0005, left_s)))

    def _pause(self, seconds: float) -> None:
        if self._back is not None and not self._is_going_back:
            raise ExecutionError("the arm was sent back")
        self._controllers.check_goals(self._is_halted)
        self._graph.sleep(seconds)


def _check_approval(approved: ApprovedMotion, profile: RobotProfile, now_ns: int) -> None:
    """Check digest, robot and expiry of an approval.

    Raises:
        ExecutionError: one of them does not fit.
    """
    if digest(approved.motion) != approved.digest:
        raise ExecutionError("the motion is not the one that was approved; its digest differs")
    if approved.robot_digest != profile.digest or approved.motion.robot != profile.name:
        raise ExecutionError(f"the motion was approved for another robot than {profile.name}")
    if now_ns > approved.expires_ns:
        raise ExecutionError(f"the approval expired {(now_ns - approved.expires_ns) / 1e9:.2f} s ago")


def _check_start(approved: ApprovedMotion, profile: RobotProfile, measure: Callable[[], RobotState]) -> None:
    """Check that the arm is where the motion begins.

    Raises:
        ExecutionError: it is elsewhere, or nobody knows where.
    """
    try:
        q_rad = measure().q_rad
    except ObservationError as error:
        raise ExecutionError(str(error)) from error
    segments = approved.motion.segments
    first = next((s.q_rad[0] for s in segments if isinstance(s, JointSegment)), approved.start_q_rad)
    for what, expected in (("approved start", approved.start_q_rad), ("motion's first point", first)):
        off_rad, allowed_rad = float(np.max(np.abs(q_rad - expected))), profile.start_tolerance_rad
        if not off_rad <= allowed_rad:
            raise ExecutionError(f"the arm is {off_rad:.4f} rad from the {what}; allowed {allowed_rad} rad")


def _join_segments(segments: tuple[Segment, ...]) -> list[Segment]:
    """Join joint segments that follow each other without a pause, so that one goal carries them."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if (
            isinstance(segment, JointSegment)
            and isinstance(last, JointSegment)
            and segment.start_s - last.end_s < _POLL_S
        ):
            skip = int(segment.start_s <= last.end_s)  # the common point
            times = np.concatenate([last.time_s, segment.time_s[skip:]])
            joined[-1] = JointSegment(read_only(times), read_only(np.concatenate([last.q_rad, segment.q_rad[skip:]])))
        else:
            joined.append(segment)
    return joined
