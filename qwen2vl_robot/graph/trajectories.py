"""JointTrajectory messages ↔ joint segments in robot-file order, checked as ros2_control does; and those of others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qwen2vl_robot.bounds import JOINTS, TRAJECTORY_POINTS, shown
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.foreign import MAX_LOOK_AGE_S, MAX_POINTS, ForeignTrajectory, given_rows
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.graph.conversions import doubles, duration_from_s, duration_to_s, header, stamp_to_ns
from qwen2vl_robot.graph.interface import Message, MessageMaker
from qwen2vl_robot.messages import JointSegment, Refusal, RobotState
from qwen2vl_robot.reasons import TrajectoryReason

_NO_VELOCITY = float(np.finfo(np.float32).eps)  # joint_trajectory_controller refuses a final velocity above it
_AHEAD_S = 0.1  # of a stamp from another computer's clock
_MIN_HOLD_S = 0.05  # also a slow arm gets some cycles of its controller


def trajectory_message(make: MessageMaker, profile: RobotProfile, segment: JointSegment, start_ns: int) -> Message:
    """Make a trajectory_msgs/msg/JointTrajectory of a joint segment; it starts at `start_ns` (0: at once).

    It carries positions only: a controller then interpolates linearly between them, as the twin rehearsed.
    """
    point = make("trajectory_msgs/msg/JointTrajectoryPoint")
    points = [
        point(positions=doubles(q), time_from_start=duration_from_s(make, float(t - segment.start_s)))
        for t, q in zip(segment.time_s, segment.q_rad, strict=True)
    ]
    return make("trajectory_msgs/msg/JointTrajectory")(
        header=header(make, start_ns, ""), joint_names=[j.name for j in profile.joints], points=points
    )


def hold_message(make: MessageMaker, profile: RobotProfile, state: RobotState, age_s: float) -> Message:
    """Make a trajectory_msgs/msg/JointTrajectory of one point: where the arm comes to rest within its accelerations.

    A controller refuses a trajectory without points, and one that ends in motion. A point with velocities is joined by
    a cubic, so the arm slows down instead of jumping back to where it was measured.

    Args:
        state: the latest measured one.
        age_s: by which it is older than now; the arm went on meanwhile.
    """
    speed, most = state.dq_radps, np.array([j.acceleration_radps2 for j in profile.joints])
    slowing_s = max(float(np.max(np.abs(speed) / most)), _MIN_HOLD_S)
    rest_rad = state.q_rad + speed * (age_s + slowing_s / 2)
    rest_rad = np.clip(rest_rad, [j.lower_rad for j in profile.joints], [j.upper_rad for j in profile.joints])
    point = make("trajectory_msgs/msg/JointTrajectoryPoint")(
        positions=doubles(rest_rad),
        velocities=doubles(np.zeros_like(rest_rad)),
        time_from_start=duration_from_s(make, slowing_s),
    )
    return make("trajectory_msgs/msg/JointTrajectory")(
        header=header(make, 0, ""), joint_names=[j.name for j in profile.joints], points=[point]
    )


def segment_from_trajectory(message: Message, profile: RobotProfile) -> JointSegment:
    """Read a trajectory_msgs/msg/JointTrajectory as a joint segment in robot-file order, times from its own start.

    It refuses what joint_trajectory_controller refuses, and nothing else but too much of it. So positions may be NaN or
    infinite, the first time may be negative, and a joint that is missing because another one is named twice goes to 0.

    Raises:
        BadInputError: no point or too many, not as many joints as the robot has or an unknown one, a point without a
            position for each joint, times that do not rise, a final velocity that is not zero, or efforts.
    """
    if len(message.joint_names) > JOINTS or not 0 < len(message.points) <= TRAJECTORY_POINTS:
        found = f"{len(message.joint_names)} joints, {len(message.points)} points"
        raise BadInputError(f"{found}; allowed are {JOINTS} and 1 to {TRAJECTORY_POINTS}")
    names, points = list(message.joint_names), list(message.points)
    expected = [j.name for j in profile.joints]
    if len(names) != len(expected) or not set(names) <= set(expected):
        raise BadInputError(f"joints: {shown(', '.join(names)) or 'none'}; needed: {', '.join(expected)}")
    if any(len(p.positions) != len(names) for p in points):
        raise BadInputError(f"every point needs {len(names)} positions")
    time_s = np.array([duration_to_s(p.time_from_start) for p in points])
    late = np.flatnonzero(~(np.diff(time_s) > 0))
    if len(late):
        i = int(late[0])
        raise BadInputError(
            f"times must rise; point {i + 1} is at {time_s[i + 1]:g} s, point {i} before it at {time_s[i]:g} s"
        )
    last = list(points[-1].velocities)
    if any(abs(v) > _NO_VELOCITY for v in last):
        raise BadInputError(f"the final velocity {shown(last)} is not zero")
    if any(len(point.effort) for point in points):
        raise BadInputError("efforts are for controllers with an effort interface")
    return JointSegment(read_only(time_s), _in_order([p.positions for p in points], names, expected))


def derivatives_from_trajectory(message: Message, profile: RobotProfile) -> tuple[Array, Array]:
    """Read velocities and accelerations (k, n) of a JointTrajectory in robot-file order; NaN where a point has none.

    One that is given as NaN is infinite: the polynomial through it has no numbers either. The joint names must be the
    robot's; `segment_from_trajectory` checks that.

    Raises:
        BadInputError: a point has some velocities or accelerations but not one per joint.
    """
    names, points = list(message.joint_names), list(message.points)
    expected = [j.name for j in profile.joints]
    none = [math.nan] * len(names)
    for i, point in enumerate(points):
        for given in (point.velocities, point.accelerations):
            if len(given) not in (0, len(names)):
                raise BadInputError(f"point {i}: {shown(list(given[:JOINTS]))}; allowed: none, or {len(names)} numbers")
    speeds, accelerations = (
        [[math.inf if math.isnan(v) else v for v in given] if len(given) else none for given in column]
        for column in ([p.velocities for p in points], [p.accelerations for p in points])
    )
    return _in_order(speeds, names, expected), _in_order(accelerations, names, expected)


def _in_order(rows: Sequence[Sequence[float]], names: list[str], expected: list[str]) -> Array:
    """Sort columns named `names` as `expected`; of those named alike the last counts; a missing one is 0."""
    given = np.array(rows, dtype=np.float64).reshape(-1, len(names))
    ordered = np.zeros((len(given), len(expected)))
    for column, name in enumerate(names):
        ordered[:, expected.index(name)] = given[:, column]
    return read_only(ordered)


def foreign_trajectory(message: Message, now_ns: int) -> ForeignTrajectory | Refusal:
    """Read what somebody wants checked: a message with the two fields of moveit_msgs/RobotTrajectory.

    What is no motion of this robot `foreign.motion_of` refuses; here, what only a message can be: too large to be
    converted, for other joints than those of the arm, or meant for another time. Efforts are not read.

    Args:
        now_ns: ROS time.
    """
    given, other = message.joint_trajectory, message.multi_dof_joint_trajectory
    if len(other.joint_names) or len(other.points):
        text = "multi_dof_joint_trajectory is not empty; this arm has no joint of several degrees of freedom"
        return Refusal(TrajectoryReason.JOINTS, text)
    if len(given.joint_names) > JOINTS or len(given.points) > MAX_POINTS:
        text = f"{len(given.joint_names)} joints and {len(given.points)} points; at most {JOINTS} and {MAX_POINTS}"
        numbers = (("joints", float(len(given.joint_names))), ("points", float(len(given.points))))
        return Refusal(TrajectoryReason.POINTS, text, numbers)
    stamp_ns = stamp_to_ns(given.header.stamp)
    age_s = (now_ns - stamp_ns) / 1e9
    if stamp_ns and not -_AHEAD_S <= age_s <= MAX_LOOK_AGE_S:
        text = f"its stamp is {age_s:.3f} s old; allowed is none, or one of the last {MAX_LOOK_AGE_S:g} s"
        return Refusal(TrajectoryReason.TIMES, text, (("age_s", age_s), ("allowed_s", MAX_LOOK_AGE_S)))
    points = list(given.points)
    return ForeignTrajectory(
        tuple(given.joint_names),
        [duration_to_s(point.time_from_start) for point in points],
        [list(point.positions) for point in points],
        given_rows([point.velocities for point in points]),
        given_rows([point.accelerations for point in points]),
        given.header.frame_id,
    )
