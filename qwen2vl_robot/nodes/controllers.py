"""Segments of a motion → goals and messages to the robot's controllers, and how the goals end."""

from __future__ import annotations

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import duration_from_s
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.trajectories import hold_message, trajectory_message
from qwen2vl_robot.messages import GripperSegment, JointSegment, RobotState, Segment
from qwen2vl_robot.nodes.commanders import Commanders
from qwen2vl_robot.nodes.health import Health

_GOAL_TIME_S = 1.0


class Controllers:
    """The controllers of arm and gripper that a robot file names, each an action or a topic."""

    def __init__(self, graph: interface.Graph, profile: RobotProfile, health: Health) -> None:
        self._graph, self._profile, self._commanders = graph, profile, Commanders(graph, health)
        names = profile.controllers
        self._arm_topic = interface.JOINT_TRAJECTORY.at(f"{names.arm}/joint_trajectory")
        self._gripper_topic = interface.GRIPPER_TOPIC.at(f"{names.gripper}/commands")
        self._clients: dict[str, tuple[interface.ActionInterface, interface.ActionClient]] = {}
        self._goals: dict[str, interface.SentGoal] = {}
        if names.arm_form == "action":
            action = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{names.arm}/follow_joint_trajectory")
            self._clients["arm"] = (action, graph.action_client(action))
        else:
            self._arm_publisher = graph.publisher(self._arm_topic)
        if names.gripper_form == "topic":
            self._gripper_publisher = graph.publisher(self._gripper_topic)
        else:
            action = interface.GRIPPER_COMMAND if names.gripper_form == "action" else interface.PARALLEL_GRIPPER_COMMAND
            action = action.at(f"{names.gripper}/gripper_cmd")
            self._clients["gripper"] = (action, graph.action_client(action))

    def check(self) -> None:
        """Check that every controller is there and that nobody else commands it.

        Raises:
            ExecutionError: one is not there, or somebody else commands it.
        """
        for action, client in self._clients.values():
            if not client.is_served():
                name = self._graph.resolve(action.name)
                raise ExecutionError(f"no action server {name}; is the controller loaded and active?")
            self._commanders.check_action(action.name, client)
        for is_ours, topic in (
            ("arm" not in self._clients, self._arm_topic),
            ("gripper" not in self._clients, self._gripper_topic),
        ):
            self._commanders.check_topic(topic, is_ours=is_ours)
        for what, topic in (("arm", self._arm_topic), ("gripper", self._gripper_topic)):
            if what not in self._clients and not self._publisher(what).listeners():
                name = self._graph.resolve(topic.name)
                raise ExecutionError(f"nobody listens on {name}; is the controller loaded and active?")

    def are_served(self) -> bool:
        """Return whether every action has its server."""
        return all(client.is_served() for _, client in self._clients.values())

    def send(self, segment: Segment, start_ns: int) -> None:
        """Send one segment; the joints' carries its start."""
        if isinstance(segment, JointSegment):
            self._send_joints(segment, start_ns)
        else:
            self._send_gripper(segment)

    def hold(self, latest: RobotState, age_s: float) -> None:
        """Halt an arm that takes topics where it can stop; one that takes actions is halted by cancelling its goal."""
        if "arm" not in self._clients:
            self._arm_publisher.publish(hold_message(self._graph.message, self._profile, latest, age_s))

    def forget(self) -> None:
        """Forget the goals of an earlier motion."""
        self._goals = {}

    def open_goals(self) -> list[tuple[str, interface.SentGoal]]:
        """Return the goals that have not ended, by whose they are."""
        return [(what, goal) for what, goal in self._goals.items() if goal.outcome() is None]

    def has_gripped(self) -> bool | None:
        """Return whether the latest goal of the gripper succeeded; None where topics give no result."""
        if "gripper" not in self._clients:
            return None
        outcome = self._goals["gripper"].outcome()
        return outcome is not None and _is_success("gripper", *outcome)

    def check_goals(self, is_halted: bool) -> None:
        """Check that each goal runs or succeeded; after a halt they end as they like.

        Raises:
            ExecutionError: a goal was rejected or aborted, or its server is gone.
        """
        for what, goal in self._goals.items():
            outcome = goal.outcome()
            if goal.accepted() is False:
                raise ExecutionError(f"the controller of the {what} refused the goal")
            if outcome is not None and not _is_success(what, *outcome) and not is_halted:
                status, result = outcome
                code, text = getattr(result, "error_code", ""), getattr(result, "error_string", "")
                raise ExecutionError(
                    f"the controller of the {what} ended {status.name.lower()}: {code} {text}".rstrip(": ")
                )
            if outcome is not None or is_halted:
                continue
            action, client = self._clients[what]
            if not client.is_served():
                name = self._graph.resolve(action.name)
                raise ExecutionError(f"the action server {name} is gone in the middle of a goal")
            self._commanders.check_goals(action.name, client)

    def _send_joints(self, segment: JointSegment, start_ns: int) -> None:
        make = self._graph.message
        trajectory = trajectory_message(make, self._profile, segment, start_ns)
        if "arm" not in self._clients:
            self._arm_publisher.publish(trajectory)
            return
        goal = _trajectory_goal(make, self._profile, trajectory)
        self._note("arm", self._clients["arm"][1].send(goal))

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
        self._note("gripper", client.send(make(f"{action.type}_Goal")(command=command)))

    def _note(self, what: str, goal: interface.SentGoal) -> None:
        self._goals = {**self._goals, what: goal}  # a new one: a halt reads it on another thread

    def _publisher(self, what: str) -> interface.Publisher:
        return self._arm_publisher if what == "arm" else self._gripper_publisher


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


def _is_success(what: str, status: GoalStatus, result: interface.Message | None) -> bool:
    """Return whether a goal succeeded; a gripper stalls on an object, which some controllers report as aborted."""
    if what == "gripper" and result is not None and result.stalled:
        return True
    return status is GoalStatus.SUCCEEDED and getattr(result, "error_code", 0) == 0
