"""joint_states of one or several publishers → the arm's state; velocities that nobody gives are measured."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.description import turning_joints
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
MAX_GRIPPER_AGE_S = 0.5  # of finger joints in messages of their own: many a gripper is read at 5 Hz
_SAME_RAD, _SAME_WIDTH_M = 0.05, 0.02  # one joint in two messages of one moment; what is further apart are two joints
_BEYOND_RAD = 0.1  # its limits a joint may be measured
_FASTER_RATIO = 2.0  # than its limit a joint may look, by stamps that are not exact
_CONTESTED_NS = 3_000_000_000  # after a leap; a publisher that sends once a second is still there
STANDS_RADPS = 0.02  # a joint that turns slower is taken to stand: 20 ms of an encoder's steps of 0.0004 rad
_NONE = "joint_states: no complete state of the arm came yet"


class JointStates:
    """The latest states of one arm, from the newest message of each publisher and set of joints on joint_states.

    Args:
        max_gripper_age_s: how much older than the arm's joints the fingers' may be.
    """

    def __init__(
        self,
        graph: interface.Graph,
        profile: RobotProfile,
        health: Health,
        max_gripper_age_s: float = MAX_GRIPPER_AGE_S,
    ) -> None:
        self._graph, self._profile, self._health = graph, profile, health
        self._max_gripper_age_s = max_gripper_age_s
        # How far apart two messages of one moment may put a joint, and how much further each second.
        per_m, speed_mps = profile.gripper.travel_per_m, profile.gripper.speed_mps
        fingers = dict.fromkeys(profile.gripper.joints, (_SAME_WIDTH_M * per_m, 2 * speed_mps * per_m))
        self._apart = fingers | {j.name: (_SAME_RAD, j.velocity_radps) for j in profile.joints}
        self._turning = turning_joints(profile)
        self._sent: dict[str, tuple[int, float]] = {}  # each joint's last stamp and position, by whomever
        self._contested: tuple[int, str] | None = None  # stamp of the last leap, and what it was
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
        contested = self._contested
        if contested is not None and abs(now_ns - contested[0]) < _CONTESTED_NS:
            raise ObservationError(contested[1], reason=ObservationReason.NO_STATE)
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
        self._joints, self._sent, self._contested = {}, {}, None
        self._past = {name: deque() for name in self._needed}

    def _take(self, message: interface.Message) -> None:
        """Merge the joints of one or several publishers into a state, stamped with the arm's oldest joint."""
        try:
            stamp_ns = stamp_to_ns(message.header.stamp)
            ahead_ns = stamp_ns - self._graph.now_ns()
            if ahead_ns > _AHEAD_NS:
                self._why_none = _ahead(ahead_ns)
                raise ObservationError(self._why_none, reason=ObservationReason.NO_STATE)
            received = joints_from_message(message)
            known = {name: value for name, value in received.items() if name in self._past}
            if not known and not self._joints:
                state_from_joints(received, self._profile, stamp_ns)  # says what came instead
            self._check_agreement(stamp_ns, {name: position for name, (position, _, _) in known.items()})
            moved = {name: self._with_velocity(name, stamp_ns, *value[:2]) for name, value in known.items()}
            told = {name: (*value, known[name][2]) for name, value in moved.items() if value is not None}
            self._joints |= {name: (stamp_ns, value) for name, value in told.items()}
            if None in moved.values():  # a second message tells the speed
                return
            arm = [j.name for j in self._profile.joints]
            oldest_ns = min((self._joints[n][0] for n in arm if n in self._joints), default=stamp_ns)
            state = state_from_joints({n: v for n, (_, v) in self._joints.items()}, self._profile, oldest_ns)
            self._check_fingers(oldest_ns)
            self._check_turns(state)
        except ObservationError as error:
            self._health.warn("joint_states", str(error))
            return
        self._health.fine("joint_states")
        if self._states and self._states[-1].stamp_ns > max(state.stamp_ns, self._graph.now_ns()):
            # One from before the clock was set back would hide all that come after it.
            self._states = deque((s for s in self._states if s.stamp_ns <= state.stamp_ns), maxlen=_STATES)
            self._stands_since_ns = None
        if self._states and state.stamp_ns == self._states[-1].stamp_ns:
            self._states[-1] = state  # fingers that came after the arm's joints
        elif not self._states or state.stamp_ns > self._states[-1].stamp_ns:
            self._states.append(state)
            if fastest_radps(state) > STANDS_RADPS:
                self._stands_since_ns = None
            elif self._stands_since_ns is None:
                self._stands_since_ns = state.stamp_ns

    def _check_agreement(self, stamp_ns: int, positions: dict[str, float]) -> None:
        """Check that each joint is where it can have come to since it was last sent.

        Raises:
            ObservationError: one leaps, or leapt a moment ago, as if two publishers had a joint of that name each.
        """
        leaps = []
        for name, position in positions.items():
            before_ns, before = self._sent.get(name, (stamp_ns, position))
            if math.isfinite(position):
                self._sent[name] = stamp_ns, position
            same, faster = self._apart[name]
            apart_s = abs(stamp_ns - before_ns) / 1e9
            if abs(self._way(name, before, position)) > same + _FASTER_RATIO * faster * apart_s:
                leaps.append(f"{name} is at {before:.3f} and, {apart_s:.3f} s apart, at {position:.3f}")
        if leaps:
            count, topic = self._graph.publishers_of(interface.JOINT_STATES), interface.JOINT_STATES.name
            who = f"{count} publishers are on {self._graph.resolve(topic)} (ros2 topic info -v names them)"
            text = f"joint_states: {leaps[0]}; {who}, and one alone may send this joint"
            self._contested = stamp_ns, text
        if self._contested is not None:
            if abs(stamp_ns - self._contested[0]) < _CONTESTED_NS:
                raise ObservationError(self._contested[1], reason=ObservationReason.NO_STATE)
            self._contested = None
            self._past = {name: deque() for name in self._needed}

    def _way(self, name: str, begin: float, end: float) -> float:
        """How far a joint went between two positions; one that turns without end, the shorter way."""
        return math.remainder(end - begin, math.tau) if name in self._turning else end - begin

    def _check_turns(self, state: RobotState) -> None:
        """Check that no joint that turns without end is whole turns away from where the robot file has it.

        Raises:
            ObservationError: one is; a goal of ours would turn it all the way back.
        """
        for joint, q_rad in zip(self._profile.joints, state.q_rad, strict=True):
            beyond_rad = max(joint.lower_rad - q_rad, q_rad - joint.upper_rad)
            if joint.name in self._turning and beyond_rad > _BEYOND_RAD:
                back_rad = math.remainder(q_rad, math.tau) - q_rad
                raise ObservationError(
                    f"joint_states: {joint.name} is at {q_rad:.3f} rad, the robot file allows {joint.lower_rad:.3f} to "
                    f"{joint.upper_rad:.3f}; turn it by {back_rad:.3f} rad, with its cables, and go on",
                    reason=ObservationReason.NO_STATE,
                )

    def _check_fingers(self, oldest_ns: int) -> None:
        """Check that no finger's position is too old beside the arm's.

        Raises:
            ObservationError: one is.
        """
        for name in self._profile.gripper.joints:
            late_s = (oldest_ns - self._joints[name][0]) / 1e9
            if late_s > self._max_gripper_age_s:
                raise ObservationError(
                    f"joint_states: {name} is {late_s:.2f} s older than the arm's joints; allowed "
                    f"{self._max_gripper_age_s:g} s, the parameter max_gripper_age_s; is the gripper's driver running?",
                    reason=ObservationReason.NO_STATE,
                )

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
        return None if since_ns <= 0 else (position, self._way(name, past[0][1], position) / since_ns * 1e9)


def fastest_radps(state: RobotState) -> float:
    """Return the speed of the joint that turns fastest."""
    return float(np.max(np.abs(state.dq_radps), initial=0.0))


def _ahead(ahead_ns: int) -> str:
    return f"joint_states: stamped {ahead_ns / 1e9:.3f} s in the future; check the clocks"
