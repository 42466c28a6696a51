"""Goals and topics of ros2_control → motor targets, with its error codes and tolerances; the plant's node serves them.

Times are plant time, seconds. A command takes effect one actuation lag after it arrived, as on hardware.
"""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import duration_to_s, stamp_to_ns
from qwen2vl_robot.graph.interface import GoalHandle, GoalStatus
from qwen2vl_robot.graph.trajectories import derivatives_from_trajectory, segment_from_trajectory
from qwen2vl_robot.plant.trajectory import Trajectory

SUCCESSFUL, INVALID_GOAL, PATH_TOLERANCE_VIOLATED, GOAL_TOLERANCE_VIOLATED = 0, -1, -4, -5
_FEEDBACK_S = 0.05
# Of one finger joint: ros2_control's goal_tolerance, stall_velocity_threshold and stall_timeout.
# In the joint's own unit, m or rad.
_REACHED, _STALL_SPEED, _STALL_S = 0.01, 0.001, 1.0


@dataclass(slots=True)
class _Course:
    """One trajectory under way; `handle` is None if it came by topic or its goal was cancelled."""

    track: Trajectory
    start_s: float
    end_s: float
    goal_q_rad: Array
    handle: GoalHandle | None
    path_rad: Array  # tolerance of each joint, infinite where there is none
    goal_rad: Array
    goal_time_s: float


class TrajectoryServer:
    """A joint trajectory controller: one goal at a time, a new one preempts; what a real one refuses is ignored."""

    def __init__(self, graph: interface.Graph, profile: RobotProfile, start_q_rad: Array, lag_s: float) -> None:
        self._profile, self._lag_s = profile, lag_s
        self._lock = threading.RLock()
        self._hold_rad = np.array(start_q_rad)
        self._course: _Course | None = None
        self._halts_s: float | None = None
        self._now_s, self._q_rad, self._dq_radps = 0.0, np.array(start_q_rad), np.zeros(len(start_q_rad))
        self._feedback_s = 0.0
        action = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{profile.controllers.arm}/follow_joint_trajectory")
        self._result = graph.message(f"{action.type}_Result")
        self._feedback = graph.message(f"{action.type}_Feedback")
        self._point = graph.message("trajectory_msgs/msg/JointTrajectoryPoint")
        if profile.controllers.arm_form == "action":
            graph.serve_action(action, self._accept, self._cancel)
        topic = interface.JOINT_TRAJECTORY.at(f"{profile.controllers.arm}/joint_trajectory")
        graph.subscribe(topic, self._on_topic)

    def targets(self, now_s: float, q_rad: Array) -> tuple[Array, Array]:
        """Check the arm's position and return the motors' targets now: positions and velocities (n,)."""
        with self._lock, np.errstate(invalid="ignore"):  # of numbers that are none
            if now_s > self._now_s:
                self._dq_radps = (np.asarray(q_rad) - self._q_rad) / (now_s - self._now_s)
            self._now_s, self._q_rad = now_s, np.array(q_rad)
            if self._halts_s is not None and now_s >= self._halts_s:
                self._hold_rad, self._course, self._halts_s = self._q_rad, None, None
            if self._course is not None:
                self._watch(self._course)
            course = self._course
            if course is None or now_s - self._lag_s < course.start_s:
                return self._hold_rad, np.zeros_like(self._hold_rad)
            return self._numbers(*course.track.at(now_s - self._lag_s - course.start_s))

    def _numbers(self, q_rad: Array, dq_radps: Array) -> tuple[Array, Array]:
        """Targets as motors take them: where one is no number, the joint stays where it is."""
        is_number = np.isfinite(q_rad) & np.isfinite(dq_radps)
        return np.where(is_number, q_rad, self._q_rad), np.where(is_number, dq_radps, 0.0)

    # -------------------------------------------------------------------------------------------- commands

    def _accept(self, goal: Any, handle: GoalHandle) -> bool:
        with self._lock:
            try:
                course = self._make_course(goal.trajectory)
            except BadInputError:
                return False
            names = [j.name for j in self._profile.joints]
            with contextlib.suppress(BadInputError):  # then the controller's own tolerances apply: none here
                path_rad, goal_rad = _tolerances(goal.path_tolerance, names), _tolerances(goal.goal_tolerance, names)
                course.path_rad, course.goal_rad = path_rad, goal_rad
                course.goal_time_s = max(0.0, duration_to_s(goal.goal_time_tolerance))
            course.handle = handle
            self._preempt()
            self._course, self._halts_s = course, None
            return True

    def _on_topic(self, message: Any) -> None:
        """Follow a trajectory that came by topic; a goal under way goes on, and ends when this trajectory does."""
        with self._lock:
            try:
                course = self._make_course(message)
            except BadInputError:
                return
            old = self._course
            if old is not None:
                course.handle, course.path_rad, course.goal_rad = old.handle, old.path_rad, old.goal_rad
                course.goal_time_s = old.goal_time_s
            self._course, self._halts_s = course, None

    def _cancel(self, handle: GoalHandle) -> None:
        with self._lock:
            if self._course is not None and self._course.handle is handle:
                self._halts_s = self._now_s + self._lag_s
                self._course.handle = None
            handle.end(GoalStatus.CANCELED, self._result(error_code=SUCCESSFUL, error_string="cancelled"))

    def _make_course(self, trajectory: Any) -> _Course:
        if not trajectory.points:
            raise BadInputError("a trajectory without points")
        segment = segment_from_trajectory(trajectory, self._profile)
        derivatives = derivatives_from_trajectory(trajectory, self._profile)
        stamp_ns = stamp_to_ns(trajectory.header.stamp)
        start_s = self._now_s if stamp_ns == 0 else stamp_ns / 1e9
        if stamp_ns != 0 and start_s + segment.end_s < self._now_s:
            raise BadInputError("the trajectory ended in the past")
        unlimited = np.full(len(self._profile.joints), np.inf)
        speed, goal = self._dq_radps, segment.q_rad[-1]
        track = Trajectory(self._q_rad, segment.time_s, segment.q_rad, *derivatives, start_dq_radps=speed)
        return _Course(track, start_s, start_s + segment.end_s, goal, None, unlimited, unlimited, 0.0)

    def _preempt(self) -> None:
        course = self._course
        if course is not None and course.handle is not None:
            message = "a new goal took its place"
            course.handle.end(GoalStatus.ABORTED, self._result(error_code=INVALID_GOAL, error_string=message))

    # -------------------------------------------------------------------------------------------- watching

    def _watch(self, course: _Course) -> None:
        since_s = self._now_s - self._lag_s - course.start_s
        if since_s < 0.0 or self._halts_s is not None:
            return
        desired, velocity = course.track.at(since_s)
        error = self._q_rad - desired
        if course.handle is not None and self._now_s - self._feedback_s >= _FEEDBACK_S:
            self._publish_feedback(course.handle, desired, velocity, error)
        if self._now_s - self._lag_s < course.end_s:
            self._check_path(course, error)
            return
        off = np.abs(self._q_rad - course.goal_q_rad)
        if not (off > course.goal_rad).any():  # so that a goal that is no number counts as reached, as it does there
            self._end(course, GoalStatus.SUCCEEDED, SUCCESSFUL, "")
        elif course.goal_time_s > 0.0 and self._now_s > course.end_s + self._lag_s + course.goal_time_s:
            message = f"{self._profile.joints[int(np.argmax(off))].name} is {off.max():.4f} rad off the goal"
            self._end(course, GoalStatus.ABORTED, GOAL_TOLERANCE_VIOLATED, message)

    def _check_path(self, course: _Course, error: Array) -> None:
        worst = int(np.argmax(np.abs(error) - course.path_rad))
        if abs(error[worst]) > course.path_rad[worst]:
            joint = self._profile.joints[worst].name
            message = f"{joint} is {abs(error[worst]):.4f} rad off the path"
            self._end(course, GoalStatus.ABORTED, PATH_TOLERANCE_VIOLATED, message)
            self._halts_s = self._now_s

    def _end(self, course: _Course, status: GoalStatus, code: int, message: str) -> None:
        if course.handle is not None:
            course.handle.end(status, self._result(error_code=code, error_string=message))
        if status is GoalStatus.SUCCEEDED:
            self._hold_rad = np.where(np.isfinite(course.goal_q_rad), course.goal_q_rad, self._q_rad)
            self._course = None

    def _publish_feedback(self, handle: GoalHandle, desired: Array, velocity: Array, error: Array) -> None:
        self._feedback_s = self._now_s
        values = (desired, self._q_rad, error)
        wanted, actual, off = (self._point(positions=[float(v) for v in q]) for q in values)
        wanted.velocities = [float(v) for v in velocity]
        names = [j.name for j in self._profile.joints]
        handle.feedback(self._feedback(joint_names=names, desired=wanted, actual=actual, error=off))


class GripperServer:
    """A gripper controller in the form that the robot file sets, with the defaults of ros2_control's two.

    It ends a goal as reached while its joint is up to 0.01 m or rad away, and as aborted once the joint has stood
    elsewhere for 1 s: on an object too. It does not look at limits or at the joint's name.
    """

    def __init__(self, graph: interface.Graph, profile: RobotProfile, width_m: float, lag_s: float) -> None:
        self._graph, self._profile, self._lag_s = graph, profile, lag_s
        self._lock = threading.RLock()
        self._gripper = profile.gripper
        self._width_m = self._wanted_m = self._applied_m = width_m
        self._since_s = self._now_s = self._moved_s = 0.0
        self._handle: GoalHandle | None = None
        names = profile.controllers
        if names.gripper_form == "topic":
            graph.subscribe(interface.GRIPPER_TOPIC.at(f"{names.gripper}/{names.gripper_topic}"), self._on_topic)
            return
        self._is_parallel = names.gripper_form == "parallel_action"
        action = interface.PARALLEL_GRIPPER_COMMAND if self._is_parallel else interface.GRIPPER_COMMAND
        self._action = action.at(f"{names.gripper}/{names.gripper_action}")
        graph.serve_action(self._action, self._accept, self._cancel)

    def target(self, now_s: float, width_m: float) -> float:
        """Check the gripper's width and return the motors' target width now, m."""
        with self._lock:
            travel_per_m = self._gripper.travel_per_m
            if abs(width_m - self._width_m) * travel_per_m > _STALL_SPEED * (now_s - self._now_s):
                self._moved_s = now_s
            self._now_s, self._width_m = now_s, width_m
            if now_s >= self._since_s + self._lag_s:
                if math.isfinite(self._wanted_m):  # motors take no other number
                    self._applied_m = self._wanted_m
                if abs(self._wanted_m - width_m) * travel_per_m < _REACHED:
                    self._end(GoalStatus.SUCCEEDED, is_stalled=False)
                elif now_s - self._moved_s > _STALL_S:
                    self._end(GoalStatus.ABORTED, is_stalled=True)
            return self._applied_m

    def _accept(self, goal: Any, handle: GoalHandle) -> bool:
        position = goal.command.position
        if self._is_parallel:
            if len(position) != 1:
                return False
            position = position[0]
        self._drive(self._gripper.width_m([float(position)] * len(self._gripper.joints)), handle)
        return True

    def _on_topic(self, message: Any) -> None:
        if len(message.data) == len(self._gripper.joints):
            self._drive(self._gripper.width_m([float(v) for v in message.data]), None)

    def _drive(self, width_m: float, handle: GoalHandle | None) -> None:
        with self._lock:
            self._end(GoalStatus.CANCELED, is_stalled=False)
            self._wanted_m, self._handle = width_m, handle
            self._since_s = self._moved_s = self._now_s

    def _cancel(self, handle: GoalHandle) -> None:
        with self._lock:
            if self._handle is handle:
                self._wanted_m, self._since_s = self._width_m, self._now_s
                self._end(GoalStatus.CANCELED, is_stalled=False)

    def _end(self, status: GoalStatus, *, is_stalled: bool) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        reached = status is GoalStatus.SUCCEEDED
        position, make = self._gripper.position(self._width_m), self._graph.message
        kind = make(f"{self._action.type}_Result")
        if self._is_parallel:
            state = make("sensor_msgs/msg/JointState")(name=[self._profile.gripper.joints[0]], position=[position])
            handle.end(status, kind(state=state, stalled=is_stalled, reached_goal=reached))
        else:
            handle.end(status, kind(position=position, stalled=is_stalled, reached_goal=reached))


def _tolerances(given: Any, names: list[str]) -> Array:
    """Read the joints' tolerances (n,) rad, infinite for 0 (the controller's own: none here) and for -1 (erased).

    Raises:
        BadInputError: the joint is unknown, or the tolerance is negative and not -1.
    """
    tolerances_rad = np.full(len(names), np.inf)
    for tolerance in given:
        if tolerance.name not in names or (tolerance.position < 0.0 and tolerance.position != -1.0):
            raise BadInputError(f"tolerance {tolerance.position} of joint {tolerance.name!r}")
        if tolerance.position > 0.0:
            tolerances_rad[names.index(tolerance.name)] = tolerance.position
    return tolerances_rad
