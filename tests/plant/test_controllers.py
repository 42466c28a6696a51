"""The plant's controllers answer like those of ros2_control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.bounds import JOINTS, TRAJECTORY_POINTS
from qwen2vl_robot.config import Controllers
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import duration_from_s, stamp_from_ns
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.graph.trajectories import hold_message, segment_from_trajectory
from qwen2vl_robot.messages import RobotState
from qwen2vl_robot.plant.controllers import TrajectoryServer
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

NAMES = [j.name for j in PROFILE.joints]
HOME = np.array(PROFILE.home_q_rad)
ARM = interface.FOLLOW_JOINT_TRAJECTORY.at("joint_trajectory_controller/follow_joint_trajectory")
TOPIC = interface.JOINT_TRAJECTORY.at("joint_trajectory_controller/joint_trajectory")
PLAIN = PROFILE.model_copy(update={"controllers": Controllers()})


class Bench:
    """A trajectory server with an arm that reaches its targets at once, or does not move."""

    def __init__(self, lag_s: float = 0.0) -> None:
        self.graph = LocalGraph()
        self.q = HOME.copy()
        self.now_s = 100.0
        self.server = TrajectoryServer(self.graph, PLAIN, HOME, lag_s)
        self.client = self.graph.action_client(ARM)
        self.step(0.0)

    def step(self, seconds: float, *, follow: bool = True) -> np.ndarray[Any, Any]:
        """Let time pass in ticks of 10 ms; the arm follows its targets, or stands."""
        for _ in range(max(1, round(seconds / 0.01))):
            self.now_s += 0.01 if seconds else 0.0
            target, _ = self.server.targets(self.now_s, self.q)
            if follow:
                self.q = np.array(target)
        return self.q

    def trajectory(self, offset_rad: float = 0.2, seconds: float = 1.0, **changes: Any) -> Any:
        make = self.graph.message
        point = make("trajectory_msgs/msg/JointTrajectoryPoint")
        first = point(positions=list(HOME), time_from_start=duration_from_s(make, 0.0))
        last = point(positions=list(HOME + offset_rad), time_from_start=duration_from_s(make, seconds))
        trajectory = make("trajectory_msgs/msg/JointTrajectory")(joint_names=NAMES, points=[first, last])
        for field, value in changes.items():
            setattr(trajectory, field, value)
        return trajectory

    def goal(self, trajectory: Any = None, path_rad: float = 0.0, goal_rad: float = 0.0, time_s: float = 0.0) -> Any:
        make = self.graph.message
        tolerance = make("control_msgs/msg/JointTolerance")
        return make(f"{ARM.type}_Goal")(
            trajectory=trajectory or self.trajectory(),
            path_tolerance=[tolerance(name=n, position=path_rad) for n in NAMES],
            goal_tolerance=[tolerance(name=n, position=goal_rad) for n in NAMES],
            goal_time_tolerance=duration_from_s(make, time_s),
        )

    def send(self, goal: Any) -> Any:
        return self.client.send(goal)


def code(sent: Any) -> tuple[GoalStatus, int]:
    assert sent.ended is not None
    return sent.ended[0], sent.ended[1].error_code


def test_a_goal_is_followed_and_succeeds() -> None:
    bench = Bench()
    sent = bench.send(bench.goal(goal_rad=0.01, time_s=0.5))
    assert bench.step(0.5) == pytest.approx(HOME + 0.1, abs=0.005)
    bench.step(0.7)
    assert code(sent) == (GoalStatus.SUCCEEDED, 0)
    assert bench.step(1.0) == pytest.approx(HOME + 0.2)


def test_joints_may_come_in_any_order() -> None:
    bench = Bench()
    trajectory = bench.trajectory(joint_names=NAMES[::-1])
    for point in trajectory.points:
        point.positions = list(point.positions)[::-1]
    bench.send(bench.goal(trajectory))
    assert bench.step(1.2) == pytest.approx(HOME + 0.2)


def test_points_with_velocities_are_joined_by_a_cubic() -> None:
    bench = Bench()
    trajectory = bench.trajectory()
    for point in trajectory.points:
        point.velocities = [0.0] * 7
    bench.send(bench.goal(trajectory))
    assert bench.step(0.25) == pytest.approx(HOME + 0.2 * (3 * 0.25**2 - 2 * 0.25**3), abs=0.005)
    assert bench.step(0.75) == pytest.approx(HOME + 0.2, abs=0.005)


def test_a_start_in_the_future_is_waited_for() -> None:
    bench = Bench()
    trajectory = bench.trajectory()
    trajectory.header.stamp = stamp_from_ns(bench.graph.message, round((bench.now_s + 1.0) * 1e9))
    bench.send(bench.goal(trajectory))
    assert bench.step(0.9) == pytest.approx(HOME)
    assert bench.step(0.6) == pytest.approx(HOME + 0.1, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"joint_names": [*NAMES[:-1], "elbow"]},
        {"joint_names": NAMES[:-1]},
        {"points": []},
        {"joint_names": NAMES * 100_000},
        {"joint_names": ["x" * 1_000_000, *NAMES[1:]]},
    ],
)
def test_a_goal_for_other_joints_or_without_points_is_rejected(changes: dict[str, Any]) -> None:
    bench = Bench()
    assert bench.send(bench.goal(bench.trajectory(**changes))).accepted() is False
    assert bench.step(0.5) == pytest.approx(HOME)


def test_bad_times_sizes_and_velocities_are_refused() -> None:
    bench = Bench()
    moving, timeless, old, short = (bench.trajectory() for _ in range(4))
    moving.points[-1].velocities = [0.1] * 7
    timeless.points[-1].time_from_start = timeless.points[0].time_from_start
    old.header.stamp = stamp_from_ns(bench.graph.message, round((bench.now_s - 5.0) * 1e9))
    short.points[0].velocities = [0.0] * 6
    for trajectory in (moving, timeless, old, short):
        assert bench.send(bench.goal(trajectory)).accepted() is False


def test_two_points_of_one_time_are_named() -> None:
    trajectory = Bench().trajectory()
    trajectory.points[-1].time_from_start = trajectory.points[0].time_from_start
    with pytest.raises(BadInputError, match=r"times must rise; point 1 is at (\S+) s, point 0 before it at \1 s"):
        segment_from_trajectory(trajectory, PROFILE)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("field", ["positions", "velocities", "accelerations"])
def test_a_number_that_is_none_is_taken_as_a_real_controller_takes_it(field: str, number: float) -> None:
    """Nothing behind us refuses it, so the gate must; here the joint stays, and the others go on."""
    bench = Bench()
    trajectory = bench.trajectory()
    first = trajectory.points[0]
    first.velocities = first.accelerations = trajectory.points[-1].velocities = [0.0] * 7
    trajectory.points[-1].accelerations = [0.0] * 7
    setattr(first, field, [number, *list(getattr(first, field))[1:]])
    sent = bench.send(bench.goal(trajectory))
    assert sent.accepted() is True
    halfway = bench.step(0.5)
    assert halfway[0] == pytest.approx(HOME[0])
    assert halfway[1:] == pytest.approx(HOME[1:] + 0.1, abs=0.005)


def test_a_goal_that_is_no_number_counts_as_reached() -> None:
    bench = Bench()
    trajectory = bench.trajectory()
    trajectory.points[-1].positions = [NAN, *list(trajectory.points[-1].positions)[1:]]
    sent = bench.send(bench.goal(trajectory, goal_rad=0.01))
    assert bench.step(1.2)[0] == pytest.approx(HOME[0])
    assert code(sent) == (GoalStatus.SUCCEEDED, 0)


def test_a_joint_named_twice_in_place_of_another_is_taken() -> None:
    bench = Bench()
    sent = bench.send(bench.goal(bench.trajectory(joint_names=[*NAMES[:-1], NAMES[0]])))
    assert sent.accepted() is True
    assert bench.step(1.2)[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("first_s", [-0.5, -1.0])
def test_a_trajectory_that_began_before_its_start_is_joined_where_it_is_by_now(first_s: float) -> None:
    bench = Bench()
    trajectory = bench.trajectory(seconds=1.0)
    trajectory.points[0].time_from_start = duration_from_s(bench.graph.message, first_s)
    assert bench.send(bench.goal(trajectory)).accepted() is True
    assert bench.step(0.01) == pytest.approx(HOME + 0.2 * -first_s / (1.0 - first_s), abs=0.005)


def test_a_trajectory_whose_times_are_all_negative_is_carried_out_at_once() -> None:
    """Only with a stamp is the end compared with the clock."""
    bench = Bench()
    trajectory = bench.trajectory()
    for point, time_s in zip(trajectory.points, (-1.0, -0.5), strict=True):
        point.time_from_start = duration_from_s(bench.graph.message, time_s)
    assert bench.send(bench.goal(trajectory)).accepted() is True
    assert bench.step(0.02) == pytest.approx(HOME + 0.2)


@pytest.mark.parametrize("which", ["unknown joint", "below -1", "time"])
def test_wrong_tolerances_are_replaced_by_the_controllers_own(which: str) -> None:
    bench = Bench()
    goal = bench.goal(path_rad=0.05)
    if which == "unknown joint":
        goal.path_tolerance[-1].name = "elbow"
    elif which == "below -1":
        goal.path_tolerance[-1].position = -2.0
    else:
        goal = bench.goal(time_s=-2.0)
    sent = bench.send(goal)
    assert sent.accepted() is True
    bench.step(0.9, follow=False)
    assert sent.ended is None


@pytest.mark.parametrize("path_rad", [0.0, -1.0])
def test_a_tolerance_of_zero_or_minus_one_is_none(path_rad: float) -> None:
    bench = Bench()
    sent = bench.send(bench.goal(path_rad=path_rad))
    bench.step(0.9, follow=False)
    assert sent.ended is None


def test_an_arm_off_its_path_ends_the_goal_with_minus_four() -> None:
    bench = Bench()
    sent = bench.send(bench.goal(path_rad=0.05))
    bench.step(0.5, follow=False)
    assert code(sent) == (GoalStatus.ABORTED, -4)
    before = bench.q.copy()
    assert bench.step(1.0) == pytest.approx(before)


def test_an_arm_that_does_not_arrive_ends_the_goal_with_minus_five() -> None:
    bench = Bench()
    sent = bench.send(bench.goal(goal_rad=0.01, time_s=0.3))
    bench.step(1.2, follow=False)
    assert sent.ended is None
    bench.step(0.2, follow=False)
    assert code(sent) == (GoalStatus.ABORTED, -5)


def test_a_new_goal_ends_the_one_before() -> None:
    bench = Bench()
    first = bench.send(bench.goal())
    bench.step(0.3)
    bench.send(bench.goal(bench.trajectory(0.0)))
    assert code(first) == (GoalStatus.ABORTED, -1)
    assert "a new goal" in first.ended[1].error_string


def test_a_trajectory_by_topic_takes_the_place_of_a_goals_and_ends_it() -> None:
    """joint_trajectory_controller looks for an active goal only when an action comes."""
    bench = Bench()
    sent = bench.send(bench.goal(goal_rad=0.01))
    bench.step(0.3)
    for callback in bench.graph._callbacks[TOPIC.name]:
        callback(bench.trajectory(-0.2))
    bench.step(0.5)
    assert sent.ended is None
    assert bench.step(0.7) == pytest.approx(HOME - 0.2, abs=0.005)
    assert code(sent) == (GoalStatus.SUCCEEDED, 0)


def test_a_cancelled_goal_holds_where_the_arm_is() -> None:
    bench = Bench()
    sent = bench.send(bench.goal())
    halfway = bench.step(0.5).copy()
    sent.cancel()
    assert sent.ended[0] is GoalStatus.CANCELED
    assert bench.step(1.0) == pytest.approx(halfway, abs=0.005)


@pytest.mark.parametrize("empty", ["nothing at all", "no points", "no names"])
def test_an_empty_topic_message_is_refused_and_halts_nothing(empty: str) -> None:
    """As joint_trajectory_controller's validation does, whatever its documentation says of empty messages."""
    bench = Bench()
    sent = bench.send(bench.goal())
    bench.step(0.5)
    fields = {
        "nothing at all": {},
        "no points": {"joint_names": NAMES},
        "no names": {"points": bench.trajectory().points},
    }
    bench.graph.give(TOPIC, **fields[empty])
    assert bench.step(0.8) == pytest.approx(HOME + 0.2, abs=0.005)
    assert sent.ended[0] is GoalStatus.SUCCEEDED


def test_a_trajectory_with_efforts_or_a_final_velocity_is_refused() -> None:
    bench = Bench()
    forced, moving = bench.trajectory(), bench.trajectory()
    forced.points[-1].effort = [1.0] * len(NAMES)
    moving.points[-1].velocities = [0.0] * (len(NAMES) - 1) + [2e-7]
    assert bench.send(bench.goal(forced)).accepted() is False
    assert bench.send(bench.goal(moving)).accepted() is False


def test_a_point_to_hold_slows_a_moving_arm_down_to_it() -> None:
    bench = Bench()
    bench.send(bench.goal(bench.trajectory(0.5, 1.0)))
    halfway = bench.step(0.5).copy()
    state = RobotState(0, halfway, np.full(len(NAMES), 0.5), 0.0)
    message = hold_message(bench.graph.message, PROFILE, state, 0.0)
    for callback in bench.graph._callbacks[TOPIC.name]:
        callback(message)
    ways = np.array([bench.step(0.01).copy() for _ in range(30)])
    rest_rad = np.array(message.points[0].positions)
    assert (np.diff(ways, axis=0) >= -1e-9).all()
    assert (ways <= rest_rad + 1e-9).all()
    assert ways[-1] == pytest.approx(rest_rad, abs=1e-6)
    slowest = min(joint.acceleration_radps2 for joint in PROFILE.joints)
    assert rest_rad == pytest.approx(halfway + 0.5**2 / 2 / slowest)


def test_commands_take_effect_after_the_lag() -> None:
    bench = Bench(lag_s=0.1)
    bench.send(bench.goal())
    assert bench.step(0.6) == pytest.approx(HOME + 0.1, abs=0.006)


def test_a_million_points_are_rejected_before_they_are_looked_at() -> None:
    bench = Bench()
    trajectory = bench.trajectory()
    trajectory.points = trajectory.points[:1] * 1_000_000
    with pytest.raises(BadInputError, match=f"1000000 points; allowed are {JOINTS} and 1 to {TRAJECTORY_POINTS}"):
        segment_from_trajectory(trajectory, PROFILE)
