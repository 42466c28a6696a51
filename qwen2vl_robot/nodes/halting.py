"""The halt of an arm on the graph, by whoever has to send it: the controller or its supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.trajectories import hold_message
from qwen2vl_robot.messages import RobotState

_OLDEST_S = 0.2  # a state tells no further ahead where the arm is
_WAIT_S, _POLL_S = 0.05, 0.002  # for a fresh state; a halt must not wait for long


class Halting:
    """Cancels the goals of an arm and its gripper, and in topic form sends a point to hold.

    Attributes:
        arm_topic: the arm's command topic.
        publisher: on that topic, None where the arm takes actions.
    """

    def __init__(self, graph: interface.Graph, profile: RobotProfile) -> None:
        self._graph, self._profile = graph, profile
        names = profile.controllers
        self.arm_topic = interface.JOINT_TRAJECTORY.at(f"{names.arm}/joint_trajectory")
        self.publisher = graph.publisher(self.arm_topic) if names.arm_form == "topic" else None
        self._cancellers = {what: graph.goal_canceller(action) for what, action in actions_of(profile).items()}

    def send(self, newest: Callable[[], RobotState | None], goals: Iterable[interface.SentGoal] = ()) -> None:
        """Halt: cancel every goal, whoever sent it, and by topic send a point at which the arm can rest.

        A gripper in topic form is left as it is: no message of its halts it, and opening it would drop what it holds.

        Args:
            newest: the newest measured state; without one a topic cannot halt.
            goals: of this node; one that is not accepted yet is cancelled once it is.
        """
        try:
            _each([*(goal.cancel for goal in goals), *(each.cancel_all for each in self._cancellers.values())])
        finally:
            if self.publisher is not None:
                self._hold(newest, self.publisher)

    def _hold(self, newest: Callable[[], RobotState | None], publisher: interface.Publisher) -> None:
        """Publish the point to hold, by a fresh state where one comes in time.

        A process that stood still knows where the arm was before: a point from there would pull it back.
        """
        until_s = time.monotonic() + _WAIT_S
        while (latest := newest()) is not None:
            age_s = max(0.0, (self._graph.now_ns() - latest.stamp_ns) / 1e9)
            if age_s <= _OLDEST_S or time.monotonic() > until_s:
                hold = hold_message(self._graph.message, self._profile, latest, min(age_s, _OLDEST_S))
                publisher.publish(hold)
                return
            time.sleep(_POLL_S)

    def reaches_arm(self) -> bool:
        """Whether the arm's controller is there to take a halt."""
        if self.publisher is not None:
            return self.publisher.listeners() > 0
        return self._cancellers["arm"].is_served()


def actions_of(profile: RobotProfile) -> dict[str, interface.ActionInterface]:
    """The actions of "arm" and "gripper", as far as the robot file gives them actions."""
    names, found = profile.controllers, {}
    if names.arm_form == "action":
        found["arm"] = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{names.arm}/follow_joint_trajectory")
    if names.gripper_form != "topic":
        action = interface.GRIPPER_COMMAND if names.gripper_form == "action" else interface.PARALLEL_GRIPPER_COMMAND
        found["gripper"] = action.at(f"{names.gripper}/{names.gripper_action}")
    return found


def _each(calls: Sequence[Callable[[], None]]) -> None:
    """Make each call; one that fails keeps none of the others from being made."""
    if calls:
        try:
            calls[0]()
        finally:
            _each(calls[1:])
