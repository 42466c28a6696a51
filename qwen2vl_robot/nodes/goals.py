"""A segment's trajectory or width → the goal that its controller's action takes."""

from __future__ import annotations

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import duration_from_s

_GOAL_TIME_S = 1.0


def trajectory_goal(
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


def gripper_goal(
    make: interface.MessageMaker, action: interface.ActionInterface, profile: RobotProfile, position: float
) -> interface.Message:
    """Make a goal of either gripper action; the position is that of one joint of the gripper."""
    given = profile.controllers.gripper_max_effort
    max_effort = profile.gripper.force_n if given is None else given
    if action.type == interface.GRIPPER_COMMAND.type:
        command = make("control_msgs/msg/GripperCommand")(position=position, max_effort=max_effort)
    else:
        command = make("sensor_msgs/msg/JointState")(
            name=[profile.gripper.joints[0]], position=[position], effort=[max_effort] if max_effort else []
        )
    return make(f"{action.type}_Goal")(command=command)
