"""`ports.Arm` → trajectory and gripper controllers on the graph, by action or by topic as the robot file says.

Each segment of a motion is sent at its time; a joint segment carries its start as a stamp. Any answer of a controller
but success ends the motion. `stop` sends the halt before it returns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from qwen2vl_robot.bounds import JOINTS
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.geometry import read_only
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import (
    duration_from_s,
    joints_from_message,
    stamp_to_ns,
    state_from_joints,
)
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.trajectories import trajectory_message
from qwen2vl_robot.messages import ApprovedMotion, GripperSegment, JointSegment, Motion, RobotState, Segment, digest
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.reasons import ObservationReason

_LEAD_S = 0.2  # a joint segment is sent this long before its start; a motion starts this long after `execute`
_POLL_S = 0.01
_END_S = 1.5  # a motion's last goals must end within this time after it
_HALT_S = 1.0  # controllers must confirm a halt within this time
_GOAL_TIME_S = 1.0


class GraphArm:
    """A `ports.Arm` on the graph.

    Args:
        why_halted: why nothing may move, None when it may; checked as a motion starts, so that no earlier stop is lost.
    """

    def __init__(
        self,
        graph: interface.Graph,
        profile: RobotProfile,
        health: Health,
        why_halted: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._graph, self._profile, self._health, self._why_halted = graph, profile, health, why_halted
        names = profile.controllers
        self._arm_action = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{names.arm}/follow_joint_trajectory")
        self._arm_topic = interface.JOINT_TRAJECTORY.at(f"{names.arm}/joint_trajectory")
        self._gripper_topic = interface.GRIPPER_TOPIC.at(f"{names.gripper}/commands")
        self._clients: dict[str, tuple[interface.ActionInterface, interface.ActionClient]] = {}
        if names.arm_form == "action":
            self._clients["arm"] = (self._arm_action, graph.action_client(self._arm_action))
        else:
            self._arm_publisher = graph.publisher(self._arm_topic)
        if names.gripper_form == "topic":
            self._gripper_publisher = graph.publisher(self._gripper_topic)
        else:
            action = interface.GRIPPER_COMMAND if names.gripper_form == "action" else interface.PARALLEL_GRIPPER_COMMAND
            action = action.at(f"{names.gripper}/gripper_cmd")
            self._clients["gripper"] = (action, graph.action_client(action))
        self._states: deque[RobotState] = deque(maxlen=40)
        self._joints: dict[str, tuple[int, tuple[float, float]]] = {}
        self._goals: list[tuple[str, interface.SentGoal]] = []
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._is_halted = False
        self._used: set[str] = set()  # tokens of approvals
        self._lock = threading.Lock()
        graph.subscribe(interface.JOINT_STATES, self._take_joints)

    # ---------------------------------------------------------------------------------------------- state

    def state(self) -> RobotState:
        """Return the latest state that is not from the future (see `ports.Arm`)."""
        now_ns = self._graph.now_ns()
        states = tuple(self._states)
        for state in reversed(states):
            if state.stamp_ns <= now_ns:
                return state
        if not states:
            raise ObservationError(
                "joint_states: no complete state of the arm came yet", reason=ObservationReason.NO_STATE
            )
        ahead_s = (states[0].stamp_ns - now_ns) / 1e9
        raise ObservationError(
            f"joint_states: stamped {ahead_s:.3f} s in the future; check the clocks", reason=ObservationReason.NO_STATE
        )

    def _take_joints(self, message: interface.Message) -> None:
        """Merge the joints of one or several publishers into a state, stamped with its oldest part."""
        try:
            stamp_ns = stamp_to_ns(message.header.stamp)
            needed = [*(j.name for j in self._profile.joints), *self._profile.gripper.joints]
            for name, value in joints_from_message(message).items():
                if name in needed or name in self._joints or len(self._joints) < JOINTS:  # names may be made up
                    self._joints[name] = (stamp_ns, value)
            oldest_ns = min((self._joints[n][0] for n in needed if n in self._joints), default=stamp_ns)
            state = state_from_joints({n: v for n, (_, v) in self._joints.items()}, self._profile, oldest_ns)
        except ObservationError as error:
            self._health.warn("joint_states", str(error))
            return
        self._health.fine("joint_states")
        if self._states and self._states[-1].stamp_ns > max(state.stamp_ns, self._graph.now_ns()):
            # One message from the future would hide all that come after it.
            self._states = deque((s for s in self._states if s.stamp_ns <= state.stamp_ns), maxlen=self._states.maxlen)
        if not self._states or state.stamp_ns > self._states[-1].stamp_ns:
            self._states.append(state)

    # --------------------------------------------------------------------------------------------- motion

    def execute(self, approved: ApprovedMotion) -> None:
        """Start the motion (see `ports.Arm`)."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise ExecutionError("the arm is still moving; wait or stop it first")
            self._check(approved)
            self._used.add(approved.token)
            self._failure, self._goals, self._is_halted = None, [], False
            halted = self._why_halted()  # after the flag: a stop is seen here, or it sets the flag again
            if halted is not None:
                raise ExecutionError(halted)
            start_ns = self._graph.now_ns() + round(_LEAD_S * 1e9)
            arguments = (approved.motion, start_ns)
            self._thread = threading.Thread(target=self._perform, args=arguments, name="motion", daemon=True)
            self._thread.start()
        while self._graph.now_ns() < start_ns and self._thread.is_alive():
            self._graph.sleep(_POLL_S)  # return when the motion starts: its time counts from there

    def is_moving(self) -> bool:
        """Return whether a motion is under way (see `ports.Arm`).

        Raises:
            ExecutionError: a controller rejected or aborted a goal, or is gone.
        """
        # In this order: a failing motion notes its failure before it ends.
        is_moving = self._thread is not None and self._thread.is_alive() and not self._is_halted
        if self._failure is not None:
            raise ExecutionError(self._failure)
        return is_moving

    def stop(self) -> None:
        """Halt now (see `ports.Arm`); the halt is sent when this returns."""
        self._is_halted = True
        goals = list(self._goals)
        try:
            _cancel_all([goal for _, goal in goals if goal.outcome() is None])
        finally:
            if "arm" not in self._clients:
                self._arm_publisher.publish(self._graph.message(interface.JOINT_TRAJECTORY.type)())
        if any(goal.outcome() is None for _, goal in goals):
            threading.Thread(target=self._watch_halt, args=(goals,), name="halt", daemon=True).start()

    def _watch_halt(self, goals: list[tuple[str, interface.SentGoal]]) -> None:
        end_s = time.monotonic() + _HALT_S
        while time.monotonic() < end_s:
            if all(goal.outcome() is not None for _, goal in goals):
                return
            time.sleep(_POLL_S)
        late = ", ".join(sorted({what for what, goal in goals if goal.outcome() is None}))
        self._health.error("arm", f"the controller of the {late} did not confirm a halt in {_HALT_S:g} s")

    def _check(self, approved: ApprovedMotion) -> None:
        """Check approval, start and controllers; raises ExecutionError where one forbids the motion."""
        if approved.token in self._used:
            raise ExecutionError("this approval was used before; each is good for one motion")
        _check_approval(approved, self._profile, self._graph.now_ns())
        segments = approved.motion.segments
        first = next((s.q_rad[0] for s in segments if isinstance(s, JointSegment)), approved.start_q_rad)
        try:
            q_rad = self.state().q_rad
        except ObservationError as error:
            raise ExecutionError(str(error)) from error
        for what, expected in (("approved start", approved.start_q_rad), ("motion's first point", first)):
            off_rad = float(np.max(np.abs(q_rad - expected)))
            if not off_rad <= self._profile.start_tolerance_rad:
                allowed = self._profile.start_tolerance_rad
                raise ExecutionError(f"the arm is {off_rad:.4f} rad from the {what}; allowed {allowed} rad")
        self._check_controllers()

    def _check_controllers(self) -> None:
        """Check that every controller is there and that nobody else commands it (raises as `_check`)."""
        for action, client in self._clients.values():
            if not client.is_served():
                raise ExecutionError(f"no action server {action.name}; is the controller loaded and active?")
        for is_ours, topic in (
            ("arm" not in self._clients, self._arm_topic),
            ("gripper" not in self._clients, self._gripper_topic),
        ):
            others = self._graph.publishers_of(topic) - int(is_ours)
            if others > 0:
                problem = f"{topic.name} has {others} publishers besides this node; only one may command the arm"
                self._health.error("command topic", problem)
                raise ExecutionError(problem)
        self._health.fine("command topic")
        if "arm" not in self._clients and not self._arm_publisher.listeners():
            raise ExecutionError(f"nobody listens on {self._arm_topic.name}; is the controller loaded and active?")

    def _perform(self, motion: Motion, start_ns: int) -> None:
        """Send each segment at its time and wait for the motion's end; the top of a thread."""
        try:
            for segment in _join_segments(motion.segments):
                lead_s = _LEAD_S if isinstance(segment, JointSegment) else 0.0  # a gripper acts on arrival
                self._wait_until(start_ns + round((segment.start_s - lead_s) * 1e9))
                if self._is_halted:
                    return
                self._send(segment, start_ns + round(segment.start_s * 1e9))
            end_ns = start_ns + round(motion.duration_s * 1e9)
            self._wait_until(end_ns)
            while not self._is_halted and any(goal.outcome() is None for _, goal in self._goals):
                if self._graph.now_ns() > end_ns + round(_END_S * 1e9):
                    raise ExecutionError(f"a goal did not end within {_END_S:g} s after the motion")
                self._check_goals()
                self._graph.sleep(_POLL_S)
            self._check_goals()
        except Exception as error:  # noqa: BLE001 - the top of this thread: halt, and say why
            if not self._is_halted:
                self._failure = f"{error}" if isinstance(error, ExecutionError) else f"{type(error).__name__}: {error}"
                self._health.error("arm", self._failure)
                self.stop()

    def _wait_until(self, time_ns: int) -> None:
        while self._graph.now_ns() < time_ns and not self._is_halted:
            self._check_goals()
            self._graph.sleep(min(_POLL_S, max(0.0005, (time_ns - self._graph.now_ns()) / 1e9)))

    def _check_goals(self) -> None:
        """Check that each goal runs or succeeded.

        Raises:
            ExecutionError: a goal was rejected or aborted, or its server is gone.
        """
        for what, goal in self._goals:
            outcome = goal.outcome()
            if goal.accepted() is False:
                raise ExecutionError(f"the controller of the {what} refused the goal")
            if outcome is not None and not _is_success(what, *outcome) and not self._is_halted:
                status, result = outcome
                code, text = getattr(result, "error_code", ""), getattr(result, "error_string", "")
                raise ExecutionError(
                    f"the controller of the {what} ended {status.name.lower()}: {code} {text}".rstrip(": ")
                )
            if outcome is None and not self._clients[what][1].is_served() and not self._is_halted:
                raise ExecutionError(f"the action server {self._clients[what][0].name} is gone in the middle of a goal")

    def _send(self, segment: Segment, start_ns: int) -> None:
        """Send one segment; a stop that came meanwhile halts it at once."""
        if isinstance(segment, JointSegment):
            self._send_joints(segment, start_ns)
        else:
            self._send_gripper(segment)
        if self._is_halted:
            self.stop()

    def _send_joints(self, segment: JointSegment, start_ns: int) -> None:
        make = self._graph.message
        trajectory = trajectory_message(make, self._profile, segment, start_ns)
        if "arm" not in self._clients:
            self._arm_publisher.publish(trajectory)
            return
        goal = _trajectory_goal(make, self._profile, trajectory)
        self._goals = [(w, g) for w, g in self._goals if w != "arm"]
        self._goals.append(("arm", self._clients["arm"][1].send(goal)))

    def _send_gripper(self, segment: GripperSegment) -> None:
        gripper, make = self._profile.gripper, self._graph.message
        position = segment.width_m / len(gripper.joints)
        if "gripper" not in self._clients:
            kind = make(interface.GRIPPER_TOPIC.type)
            self._gripper_publisher.publish(kind(data=[position] * len(gripper.joints)))
            return
        action, client = self._clients["gripper"]
        if action.type == interface.GRIPPER_COMMAND.type:
            command = make("control_msgs/msg/GripperCommand")(position=position, max_effort=gripper.force_n)
        else:
            command = make("sensor_msgs/msg/JointState")(
                name=[gripper.joints[0]], position=[position], effort=[gripper.force_n]
            )
        self._goals = [(w, g) for w, g in self._goals if w != "gripper"]
        self._goals.append(("gripper", client.send(make(f"{action.type}_Goal")(command=command))))


def _cancel_all(goals: list[interface.SentGoal]) -> None:
    """Cancel each goal; one that cannot be cancelled keeps none of the others going."""
    if goals:
        try:
            goals[0].cancel()
        finally:
            _cancel_all(goals[1:])


def _trajectory_goal(
    make: interface.MessageMaker, profile: RobotProfile, trajectory: interface.Message
) -> interface.Message:
    """Make a FollowJointTrajectory goal with the robot file's tolerances."""
    tolerance, names = make("control_msgs/msg/JointTolerance"), [j.name for j in profile.joints]
    return make(f"{interface.FOLLOW_JOINT_TRAJECTORY.type}_Goal")(
        trajectory=trajectory,
        path_tolerance=[tolerance(name=n, position=profile.tracking_tolerance_rad) for n in names],
        goal_tolerance=[tolerance(name=n, position=profile.start_tolerance_rad) for n in names],
        goal_time_tolerance=duration_from_s(make, _GOAL_TIME_S),
    )


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


def _is_success(what: str, status: GoalStatus, result: interface.Message | None) -> bool:
    """Return whether a goal succeeded; a gripper stalls on an object, which some controllers report as aborted."""
    if what == "gripper" and result is not None and result.stalled:
        return True
    return status is GoalStatus.SUCCEEDED and getattr(result, "error_code", 0) == 0
