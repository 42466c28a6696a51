"""A client of the arm's and the gripper's controllers: raw goals, our halt, and where the joints were when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.controllers.goals import ArmGoals, Goal
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import WorkerError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import stamp_to_ns
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from qwen2vl_robot.reasons import WorkerReason

_START_S, _ANSWER_S, _POLL_S = 60.0, 5.0, 0.005
_HOME_S, _HOME_RAD = 0.3, 0.002
_MOVES_RADPS = 0.02
_KEPT = 1000  # joint states: 5 s
_STEPS = 4  # joint states over which a speed is measured


@dataclass(frozen=True, slots=True)
class Rest:
    """How the arm came to rest after a moment.

    Attributes:
        speed_radps: of the fastest joint at that moment.
        after_s: when the fastest joint was last faster than 0.02 rad/s.
        way_rad, back_rad: of the joint that goes farthest, and how far it turned back.
    """

    speed_radps: float
    after_s: float
    way_rad: float
    back_rad: float


class Client:
    """One client of an arm whose controllers have the names in the robot file."""

    def __init__(self, graph: interface.Graph, profile: RobotProfile) -> None:
        self.graph, self.profile = graph, profile
        self.home_q_rad = np.array(profile.home_q_rad)
        self._names = [j.name for j in profile.joints]
        self._past: list[tuple[int, Array]] = []  # appended to by the transport's thread
        self.has_velocities = False  # in the latest joint states
        self.states = JointStates(graph, profile, Health(graph, hardware_id=profile.name, facts=dict))
        graph.subscribe(interface.JOINT_STATES, self._take)
        arm = profile.controllers.arm
        self._action = interface.FOLLOW_JOINT_TRAJECTORY.at(f"{arm}/follow_joint_trajectory")
        self._arm = graph.action_client(self._action)
        self.topic = graph.publisher(interface.JOINT_TRAJECTORY.at(f"{arm}/joint_trajectory"))
        self._start()

    def goals(self) -> ArmGoals:
        """Return the maker of goals for where the arm is."""
        return ArmGoals(self.graph.message, self.profile, self.q_rad())

    def q_rad(self) -> Array:
        """Return the joints' positions, measured after the call.

        Raises:
            WorkerError: no joint states come.
        """
        now_ns, end_s = self.graph.now_ns(), time.monotonic() + _ANSWER_S
        while self._past[-1][0] <= now_ns:
            if time.monotonic() > end_s:
                raise WorkerError("no joint states come any more", reason=WorkerReason.TIMEOUT)
            time.sleep(_POLL_S)
        return self._past[-1][1]

    def send(self, trajectory: interface.Message, **fields: Any) -> interface.SentGoal:
        """Send a goal."""
        kind = self.graph.message(f"{self._action.type}_Goal")
        return self._arm.send(kind(trajectory=trajectory, **fields))

    def try_goal(self, goal: Goal) -> tuple[bool | None, str]:
        """Send a goal, wait, and cancel what still runs: whether it was accepted, and how it ended by then."""
        sent = self.send(goal[0], **goal[1])
        accepted, ended = self.ending(sent, 2.0)
        if accepted and not ended:
            sent.cancel()
            self.ending(sent, _ANSWER_S)
        return accepted, ended

    def ending(self, sent: interface.SentGoal, at_most_s: float) -> tuple[bool | None, str]:
        """Wait for a goal's end: whether it was accepted, and its status with the code of its result, "" if it runs."""
        end_s = time.monotonic() + at_most_s
        while sent.outcome() is None and sent.accepted() is not False and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        outcome = sent.outcome()
        if sent.accepted() is not True or outcome is None:
            return sent.accepted(), ""
        status, result = outcome
        return True, " ".join([status.name.lower(), *([str(result.error_code)] if result is not None else [])])

    def go_home(self) -> None:
        """Move the arm back.

        Raises:
            WorkerError: it does not come.
        """
        for _ in range(5):
            if np.abs(self.q_rad() - self.home_q_rad).max() <= _HOME_RAD:
                return
            self.ending(self.send(self.goals().to(self.home_q_rad, _HOME_S)), _ANSWER_S)
            time.sleep(0.05)
        raise WorkerError(f"the arm does not go home; it is at {self.q_rad()}", reason=WorkerReason.TIMEOUT)

    def has_servers(self) -> bool:
        """Return whether the arm's controller is served and listens."""
        return self._arm.is_served() and self.topic.listeners() > 0

    def rest_since(self, since_ns: int) -> Rest:
        """Measure how the arm came to rest after a moment, from the joint states of about a second since."""
        past = self._past[-_KEPT:]
        stamps_ns, q_rad = np.array([stamp_ns for stamp_ns, _ in past]), np.array([q for _, q in past])
        times_s = (stamps_ns - since_ns) / 1e9
        speeds = (q_rad[_STEPS:] - q_rad[:-_STEPS]) / np.maximum(times_s[_STEPS:] - times_s[:-_STEPS], 1e-6)[:, None]
        fastest, after_s = np.abs(speeds).max(axis=1), times_s[_STEPS:]
        before = int(np.searchsorted(times_s, 0.0)) - 1
        moves_s = after_s[(after_s > 0.0) & (fastest > _MOVES_RADPS)]
        way_rad = q_rad[before:] - q_rad[before]
        joint = int(np.abs(way_rad).max(axis=0).argmax())
        farthest_rad = float(np.abs(way_rad[:, joint]).max())
        return Rest(
            float(fastest[max(before - _STEPS, 0)]),
            float(moves_s[-1]) if len(moves_s) else 0.0,
            farthest_rad,
            farthest_rad - float(abs(way_rad[-1, joint])),
        )

    def _start(self) -> None:
        end_s = time.monotonic() + _START_S
        while not (self._past and self.has_servers()):
            if time.monotonic() > end_s:
                raise WorkerError("the arm's controllers did not answer", reason=WorkerReason.TIMEOUT)
            time.sleep(0.02)

    def _take(self, message: interface.Message) -> None:
        found = dict(zip(message.name, message.position, strict=True))
        speeds = dict(zip(message.name, message.velocity, strict=True)) if len(message.velocity) else {}
        if all(name in found for name in self._names):
            self.has_velocities = bool(np.isfinite([speeds.get(name, np.nan) for name in self._names]).all())
            self._past.append((stamp_to_ns(message.header.stamp), np.array([found[name] for name in self._names])))
