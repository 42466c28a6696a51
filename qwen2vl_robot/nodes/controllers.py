"""Segments of a motion → goals and messages to the robot's controllers, and how the goals end."""

from __future__ import annotations

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.trajectories import trajectory_message
from qwen2vl_robot.messages import GripperSegment, JointSegment, Segment
from qwen2vl_robot.nodes.commanders import Commanders
from qwen2vl_robot.nodes.goals import gripper_goal, trajectory_goal
from qwen2vl_robot.nodes.halting import Halting, actions_of
from qwen2vl_robot.nodes.health import Health


class Controllers:
    """The controllers of arm and gripper that a robot file names, each an action or a topic.

    Attributes:
        halting: halts them.
    """

    def __init__(
        self, graph: interface.Graph, profile: RobotProfile, health: Health, *, has_supervisor: bool = False
    ) -> None:
        self._graph, self._profile, self._has_supervisor = graph, profile, has_supervisor
        self._commanders, self.halting = Commanders(graph, health), Halting(graph, profile)
        self._clients = {what: (action, graph.action_client(action)) for what, action in actions_of(profile).items()}
        self._goals: dict[str, interface.SentGoal] = {}
        self._gripper_topic = interface.GRIPPER_TOPIC.at(
            f"{profile.controllers.gripper}/{profile.controllers.gripper_topic}"
        )
        if "gripper" not in self._clients:
            self._gripper_publisher = graph.publisher(self._gripper_topic)

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
        arm_topic, publisher = self.halting.arm_topic, self.halting.publisher
        self._commanders.check_topic(arm_topic, expected=0 if publisher is None else 1 + self._has_supervisor)
        self._commanders.check_topic(self._gripper_topic, expected=int("gripper" not in self._clients))
        commanded = [(arm_topic, publisher)] if publisher is not None else []
        commanded += [(self._gripper_topic, self._gripper_publisher)] if "gripper" not in self._clients else []
        for topic, ours in commanded:
            if not ours.listeners():
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
        trajectory = trajectory_message(self._graph.message, self._profile, segment, start_ns)
        if self.halting.publisher is not None:
            self.halting.publisher.publish(trajectory)
            return
        goal = trajectory_goal(self._graph.message, self._profile, trajectory)
        self._note("arm", self._clients["arm"][1].send(goal))

    def _send_gripper(self, segment: GripperSegment) -> None:
        gripper, make = self._profile.gripper, self._graph.message
        position = gripper.position(segment.width_m)
        if "gripper" not in self._clients:
            kind = make(interface.GRIPPER_TOPIC.type)
            self._gripper_publisher.publish(kind(data=[position] * len(gripper.joints)))
            return
        action, client = self._clients["gripper"]
        self._note("gripper", client.send(gripper_goal(make, action, self._profile, position)))

    def _note(self, what: str, goal: interface.SentGoal) -> None:
        self._goals = {**self._goals, what: goal}  # a new one: a halt reads it on another thread


def _is_success(what: str, status: GoalStatus, result: interface.Message | None) -> bool:
    """Return whether a goal succeeded; a gripper stalls on an object, which some controllers report as aborted."""
    if what == "gripper" and result is not None and result.stalled:
        return True
    return status is GoalStatus.SUCCEEDED and getattr(result, "error_code", 0) == 0
