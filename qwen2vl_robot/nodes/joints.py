"""joint_states of one or several publishers → the arm's state; velocities that nobody gives are measured."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import joint_names_on_wire, joints_from_message, stamp_to_ns, state_from_joints
from qwen2vl_robot.messages import RobotState
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.reasons import ObservationReason

_WINDOW_NS = 20_000_000  # a velocity is measured over at least this long, or the steps of an encoder are speed
_KEPT_NS = 500_000_000  # what is older says nothing about the speed now
_AHEAD_NS = 200_000_000  # of our clock, which may be taken by a thread that runs late; a clock further ahead hides age
_STATES = 40
STANDS_RADPS = 0.02  # a joint that turns slower is taken to stand: 20 ms of an encoder's steps of 0.0004 rad
_NONE = "joint_states: no complete state of the arm came yet"


class JointStates:
    """The latest states of one arm, from the newest message of each publisher and set of joints on joint_states."""

    def __init__(self, graph: interface.Graph, profile: RobotProfile, health: Health) -> None:
        self._graph, self._profile, self._health = graph, profile, health
        self._needed = (*(j.name for j in profile.joints), *profile.gripper.joints)
        self._why_none = _NONE
        self._states: deque[RobotState] = deque(maxlen=_STATES)
        self._stands_since_ns: int | None = None
        self._joints: dict[str, tuple[int, tuple[float, float, float]]] = {}
        self._past: dict[str, deque[tuple[int, float]]] = {name: deque() for name in self._needed}
        graph.subscribe_newest(interface.JOINT_STATES, self._take, joint_names_on_wire)

    def latest(self) -> RobotState:
        """Return the latest state that is not from the future.

        Raises:
            ObservationError: there is none.
        """
        now_ns = self._graph.now_ns()
        states = tuple(self._states)
        for state in reversed(states):
            if state.stamp_ns <= now_ns:
                return state
        why = _ahead(states[0].stamp_ns - now_ns) if states else self._why_none
        raise ObservationError(why, reason=ObservationReason.NO_STATE)

    def newest(self) -> RobotState | None:
        """Return the newest state that came, None where none came: enough to halt by."""
        states = tuple(self._states)
        return states[-1] if states else None

    def stood_ns(self, since_ns: int) -> int:
        """Return for how long after a time every state has shown an arm that stands; 0 or less while it turns."""
        latest, stands_ns = self.newest(), self._stands_since_ns
        return 0 if latest is None or stands_ns is None else latest.stamp_ns - max(stands_ns, since_ns)

    def forget(self) -> None:
        """Forget every state: the clock jumped, and their stamps mean nothing any more."""
        self._why_none = _NONE
        self._states = deque(maxlen=_STATES)
        self._stands_since_ns = None
        self._joints = {}
        self._past = {name: deque() for name in self._needed}

    def _take(self, message: interface.Message) -> None:
        """Merge the joints of one or several publishers into a state, stamped with its oldest part."""
        try:
            stamp_ns = stamp_to_ns(message.header.stamp)
            ahead_ns = stamp_ns - self._graph.now_ns()
            if ahead_ns > _AHEAD_NS:
                self._why_none = _ahead(ahead_ns)
                raise ObservationError(self._why_none, reason=ObservationReason.NO_STATE)
            known = {name: value for name, value in joints_from_message(message).items() if name in self._past}
            moved = {name: self._with_velocity(name, stamp_ns, *value[:2]) for name, value in known.items()}
            told = {name: (*value, known[name][2]) for name, value in moved.items() if value is not None}
            self._joints |= {name: (stamp_ns, value) for name, value in told.items()}
            if None in moved.values():  # a second message tells the speed
                return
            oldest_ns = min((self._joints[n][0] for n in self._needed if n in self._joints), default=stamp_ns)
            state = state_from_joints({n: v for n, (_, v) in self._joints.items()}, self._profile, oldest_ns)
        except ObservationError as error:
            self._health.warn("joint_states", str(error))
            return
        self._health.fine("joint_states")
        if self._states and self._states[-1].stamp_ns > max(state.stamp_ns, self._graph.now_ns()):
            # One from before the clock was set back would hide all that come after it.
            self._states = deque((s for s in self._states if s.stamp_ns <= state.stamp_ns), maxlen=_STATES)
            self._stands_since_ns = None
        if not self._states or state.stamp_ns > self._states[-1].stamp_ns:
            self._states.append(state)
            if fastest_radps(state) > STANDS_RADPS:
                self._stands_since_ns = None
            elif self._stands_since_ns is None:
                self._stands_since_ns = state.stamp_ns

    def _with_velocity(self, name: str, stamp_ns: int, position: float, velocity: float) -> tuple[float, float] | None:
        """A joint's position and velocity; NaN is a velocity that its hardware does not measure.

        Returns:
            None where no earlier position tells the speed.
        """
        if not math.isnan(velocity) or not math.isfinite(position):
            return position, velocity
        past = self._past[name]
        while past and past[-1][0] >= stamp_ns:  # from the future, or from before the clock was set back
            past.pop()
        while past and stamp_ns - past[0][0] > _KEPT_NS:
            past.popleft()
        past.append((stamp_ns, position))
        while len(past) > 2 and stamp_ns - past[1][0] >= _WINDOW_NS:
            past.popleft()
        since_ns = stamp_ns - past[0][0]
        return None if since_ns <= 0 else (position, (position - past[0][1]) / since_ns * 1e9)


def fastest_radps(state: RobotState) -> float:
    """Return the speed of the joint that turns fastest."""
    return float(np.max(np.abs(state.dq_radps), initial=0.0))


def _ahead(ahead_ns: int) -> str:
    return f"joint_states: stamped {ahead_ns / 1e9:.3f} s in the future; check the clocks"
