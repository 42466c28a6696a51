"""What drivers send as joint_states, message by message: the state of the arm, or the reason why there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.nodes.health import Health
from qwen2vl_robot.nodes.joints import JointStates
from tests.cells import PROFILE
from tests.graph.drivers import joint_state
from tests.nodes.local_graph import LocalGraph
from tests.test_driver_descriptions import GEN3, profile_of, urdf

ARM = [joint.name for joint in PROFILE.joints]
FINGERS = list(PROFILE.gripper.joints)
HOME = list(PROFILE.home_q_rad)
OPEN = [0.04, 0.04]
NAN = [math.nan]
MS = 10**6


@dataclass
class Driver:
    """A publisher at its own rate.

    Attributes:
        positions, velocities: of the seconds since the beginning.
        lag_s: how far its stamps lie in the past.
    """

    names: Sequence[str]
    hz: float
    positions: Callable[[float], Sequence[float]]
    velocities: Callable[[float], Sequence[float]] = lambda s: ()
    lag_s: float = 0.0
    begins_s: float = 0.0
    ends_s: float = math.inf
    sent: int = field(default=0, init=False)

    def due(self, seconds: float) -> bool:
        return self.begins_s <= seconds < self.ends_s and seconds >= self.begins_s + self.sent / self.hz

    def message(self, seconds: float, now_ns: int) -> Message:
        self.sent += 1
        stamp_ns = now_ns - round(self.lag_s * 1e9)
        return joint_state(self.names, self.positions(seconds), self.velocities(seconds), stamp_ns=stamp_ns)


def listened(
    drivers: Sequence[Driver], seconds: float = 1.0, profile: RobotProfile = PROFILE
) -> tuple[JointStates, Health, int]:
    """Let drivers publish for a time, in steps of a millisecond of the graph's clock."""
    graph = LocalGraph()
    graph.foreign_publishers["joint_states"] = len(drivers) - 1
    health = Health(graph, hardware_id="arm", facts=dict)
    joints = JointStates(graph, profile, health)
    begin_ns = graph.now_ns()
    publisher = graph.publisher(interface.JOINT_STATES)
    for step in range(round(seconds * 1000) + 1):
        graph.time_ns = begin_ns + step * MS
        for driver in drivers:
            if driver.due(step / 1000):
                publisher.publish(driver.message(step / 1000, graph.time_ns))
    return joints, health, graph.time_ns


def still(s: float) -> list[float]:
    return [*HOME, *OPEN]


def turning(s: float) -> list[float]:
    return [*(np.array(HOME) + 0.3 * s), *OPEN]


def arm_turning(s: float) -> list[float]:
    return turning(s)[:7]


BOTH = [*ARM, *FINGERS]

# Who publishes, the speed of every joint at the end, how old the state may be then.
RIGHT: dict[str, tuple[list[Driver], float, float]] = {
    "joint_state_broadcaster, arm and fingers at 1 kHz": (
        [Driver(BOTH, 1000, turning, lambda s: [0.3] * 9)], 0.3, 0.002
    ),
    "joint_state_broadcaster on hardware with positions only: NaN": (
        [Driver(BOTH, 100, turning, lambda s: NAN * 9)], 0.3, 0.011
    ),
    "joint_state_publisher: no velocities": ([Driver(BOTH, 50, turning)], 0.3, 0.021),
    "velocities of the arm alone, NaN for the fingers": (
        [Driver(BOTH, 100, turning, lambda s: [0.3] * 7 + NAN * 2)], 0.3, 0.011
    ),
    "names in alphabetical order, other joints between": (
        [Driver(
            ["a_head", *FINGERS, *ARM[::-1], "z_torso"], 100,
            lambda s: [7.0, *OPEN, *turning(s)[6::-1], -7.0], lambda s: [0.0, 0.0, 0.0, *[0.3] * 7, 0.0],
        )],
        0.3, 0.011,
    ),
    "a gripper driver at 30 Hz": (
        [Driver(ARM, 500, arm_turning, lambda s: [0.3] * 7), Driver(FINGERS, 30, lambda s: OPEN)], 0.3, 0.003
    ),
    "a gripper driver at 5 Hz": (
        [Driver(ARM, 500, arm_turning, lambda s: [0.3] * 7), Driver(FINGERS, 5, lambda s: OPEN)], 0.3, 0.003
    ),
    "a gripper driver that lags by 0.3 s": (
        [Driver(ARM, 500, arm_turning), Driver(FINGERS, 10, lambda s: OPEN, lag_s=0.3)], 0.3, 0.003
    ),
    "two publishers of the same values": ([Driver(BOTH, 100, turning), Driver(BOTH, 50, turning)], 0.3, 0.021),
    "joint_state_publisher that merges, 20 ms late, beside the broadcaster": (
        [Driver(ARM, 500, arm_turning), Driver(BOTH, 50, lambda s: turning(s - 0.02), lag_s=0.02)], 0.3, 0.021
    ),
    "each joint in a message of its own": (
        [Driver([name], 100, lambda s, i=i: [turning(s)[i]], lambda s: [0.3]) for i, name in enumerate(ARM)]
        + [Driver(FINGERS, 100, lambda s: OPEN)],
        0.3, 0.011,
    ),
    "another robot's joints on the same topic": (
        [Driver(BOTH, 100, turning), Driver(["left_joint1", "left_joint2"], 100, lambda s: [math.nan, 9.0])], 0.3, 0.011
    ),
}  # fmt: skip


def with_nan(at: int) -> Callable[[float], list[float]]:
    return lambda s: [*still(s)[:at], math.nan, *still(s)[at + 1 :]]


# Who publishes; the reason, in /diagnostics.
WRONG: dict[str, tuple[list[Driver], str]] = {
    "a joint whose encoder is not initialized": (
        [Driver(BOTH, 100, with_nan(2))], f"the position of {ARM[2]} is nan; does its hardware interface send one"
    ),
    "a finger without a position": ([Driver(BOTH, 100, with_nan(8))], f"the position of {FINGERS[1]} is nan"),
    "an infinite velocity": (
        [Driver(BOTH, 100, still, lambda s: [0.0] * 3 + [math.inf] + [0.0] * 5)], f"the velocity of {ARM[3]} is inf"
    ),
    "no fingers": ([Driver(ARM, 100, lambda s: HOME)], f"{FINGERS[0]}, {FINGERS[1]} missing; received {ARM[0]}"),
    "a gripper driver that died": (
        [Driver(ARM, 100, lambda s: HOME), Driver(FINGERS, 30, lambda s: OPEN, ends_s=0.2)],
        f"{FINGERS[0]} is 0.8. s older than the arm's joints; allowed 0.5 s, the parameter max_gripper_age_s",
    ),
    "positions that are cut": ([Driver(BOTH, 100, lambda s: HOME)], "9 names, 7 positions"),
    "a name twice": ([Driver([*ARM, *ARM[:2]], 100, still)], "allowed: each name once"),
    "effort_controllers' velocities of some joints": (
        [Driver(BOTH, 100, still, lambda s: [0.0] * 7)], "9 names, 9 positions, 7 velocities"
    ),
    "joint_state_publisher_gui beside the robot": (
        [Driver(BOTH, 100, turning), Driver(BOTH, 10, lambda s: [*[0.0] * 7, *OPEN], begins_s=0.5)],
        rf"{ARM[0]} is at \d\.\d+ and, 0\.0.. s apart, at .*; 2 publishers are on /joint_states .* may send this joint",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_the_state_is_what_the_drivers_measured(case: str) -> None:
    drivers, speed_radps, age_s = RIGHT[case]
    for driver in drivers:
        driver.sent = 0
    joints, _, now_ns = listened(drivers)
    state = joints.latest()
    assert (now_ns - state.stamp_ns) / 1e9 <= age_s
    then_s = 1.0 - (now_ns - state.stamp_ns) / 1e9
    assert state.q_rad == pytest.approx(turning(then_s)[:7], abs=0.01)
    assert state.dq_radps == pytest.approx(np.full(7, speed_radps), abs=0.02)
    assert state.gripper_width_m == pytest.approx(0.08)


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_cannot_be_known_is_named(case: str) -> None:
    drivers, reason = WRONG[case]
    for driver in drivers:
        driver.sent = 0
    joints, health, now_ns = listened(drivers)
    problem = health.problems().get("joint_states")
    assert problem is not None
    assert re.search(reason, problem.text), problem.text
    newest = joints.newest()
    assert newest is None or now_ns - newest.stamp_ns > 0.2e9, "the gate finds it stale"


def test_publishers_that_disagree_hold_motion_at_once_and_until_one_is_gone() -> None:
    robot = Driver(BOTH, 100, still)
    other = Driver(BOTH, 10, lambda s: [0.5, *still(s)[1:]], begins_s=0.2, ends_s=0.205)
    joints, _, _ = listened([robot, other], seconds=0.21)
    with pytest.raises(ObservationError, match=f"{ARM[0]} is at"):
        joints.latest()
    robot.sent = other.sent = 0
    joints, _, now_ns = listened([robot, other], seconds=4.0)
    assert now_ns - joints.latest().stamp_ns < 20 * MS


def test_one_leap_of_fingers_is_named_too() -> None:
    fingers = [Driver(FINGERS, 50, lambda s: OPEN), Driver(FINGERS, 50, lambda s: [0.0, 0.0], begins_s=0.5)]
    joints, _, _ = listened([Driver(ARM, 100, lambda s: HOME), *fingers])
    with pytest.raises(ObservationError, match=f"{FINGERS[0]} is at"):
        joints.latest()


def test_fingers_that_close_at_full_speed_are_no_leap() -> None:
    share_mps = PROFILE.gripper.speed_mps / 2
    closing = Driver(FINGERS, 5, lambda s: [max(0.0, 0.04 - share_mps * s)] * 2)
    joints, _, _ = listened([Driver(ARM, 100, lambda s: HOME), closing], seconds=0.6)
    assert joints.latest().gripper_width_m < 0.08


def knuckle(position: Callable[[float], float], begins_s: float = 0.0) -> Driver:
    """A gripper driver that sends the one joint of tests/arms/knuckle_arm.yaml, rad: 0.8 is closed."""
    return Driver(["left_knuckle_joint"], 10, lambda s: [position(s)], begins_s=begins_s)


def test_a_gripper_whose_joint_turns_is_no_leap_at_full_speed_and_one_when_it_jumps() -> None:
    """Its joint goes 0.8 rad for 85 mm, so that metres of width are no measure of its steps."""
    profile = load_robot(str(Path(__file__).parents[1] / "arms" / "knuckle_arm.yaml"))
    arm = Driver([j.name for j in profile.joints], 100, lambda s: profile.home_q_rad)
    full = profile.gripper.speed_mps * 0.8 / 0.085
    joints, health, _ = listened([arm, knuckle(lambda s: min(0.8, full * s))], seconds=1.1, profile=profile)
    assert joints.latest().gripper_width_m == pytest.approx(0.0, abs=0.001)
    assert "joint_states" not in health.problems()
    joints, _, _ = listened([arm, knuckle(lambda s: 0.0), knuckle(lambda s: 0.8, begins_s=0.5)], profile=profile)
    with pytest.raises(ObservationError, match="left_knuckle_joint is at"):
        joints.latest()


def gen3(first: Callable[[float], float], hz: float = 100) -> Driver:
    """kortex_driver's joint_states, of which joint_1 turns without end; it sends no velocity here."""
    names = [*(name for name, *_ in GEN3), "left_joint", "right_joint"]
    return Driver(names, hz, lambda s: [first(s), *[0.0] * 6, 0.02, 0.02])


def test_a_joint_without_end_that_is_wrapped_by_its_driver_is_no_leap(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, GEN3, urdf(GEN3))
    driver = gen3(lambda s: math.remainder(3.1 + 0.3 * s, math.tau))
    joints, health, _ = listened([driver], seconds=0.2, profile=profile)
    assert joints.latest().q_rad[0] == pytest.approx(3.16 - math.tau, abs=0.01)
    assert joints.latest().dq_radps[0] == pytest.approx(0.3, abs=0.01), "not a turn in 10 ms"
    assert "joint_states" not in health.problems()


@pytest.mark.parametrize(("at_rad", "back_rad"), [(7.0, -6.283), (-9.0, 6.283), (16.0, -18.850)])
def test_a_joint_without_end_that_is_whole_turns_away_says_how_to_turn_it(
    at_rad: float, back_rad: float, tmp_path: Path
) -> None:
    """A controller that counts turns would go all the way back to a goal within one turn."""
    profile = profile_of(tmp_path, GEN3, urdf(GEN3))
    joints, health, _ = listened([gen3(lambda s: at_rad)], seconds=0.1, profile=profile)
    text = f"joint_1 is at {at_rad:.3f} rad, the robot file allows -3.142 to 3.142; turn it by {back_rad:.3f} rad"
    assert text in health.problems()["joint_states"].text
    assert joints.newest() is None


def test_a_prefix_of_joints_is_named() -> None:
    driver = Driver([f"left_{name}" for name in BOTH], 100, still)
    _, health, _ = listened([driver], seconds=0.1)
    text = health.problems()["joint_states"].text
    assert f"{ARM[0]}, {ARM[1]}" in text
    assert "all of them have the prefix 'left_' there" in text


def test_fingers_that_come_after_the_arm_are_in_its_latest_state() -> None:
    graph = LocalGraph()
    joints = JointStates(graph, PROFILE, Health(graph, hardware_id="arm", facts=dict))
    publisher = graph.publisher(interface.JOINT_STATES)
    publisher.publish(joint_state(BOTH, still(0.0), [0.0] * 9, stamp_ns=graph.time_ns))
    publisher.publish(joint_state(FINGERS, [0.039, 0.039], [0.0] * 2, stamp_ns=graph.time_ns + MS))
    graph.time_ns += MS
    assert joints.latest().gripper_width_m == pytest.approx(0.078)
