"""What rosbags lacks of ROS's message definitions → name and text of each, every one after those that it uses."""

from __future__ import annotations

_OBJECT = "moveit_msgs/CollisionObject"
_MESSAGES = {
    "control_msgs/msg/JointTolerance": "string name\nfloat64 position\nfloat64 velocity\nfloat64 acceleration",
    "control_msgs/msg/JointComponentTolerance": (
        "string joint_name\nuint16 component\nfloat64 position\nfloat64 velocity\nfloat64 acceleration"
    ),
    "control_msgs/msg/GripperCommand": "float64 position\nfloat64 max_effort",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    # What moveit_msgs/PlanningScene holds, the same in every distribution.
    "object_recognition_msgs/msg/ObjectType": "string key\nstring db",
    "octomap_msgs/msg/Octomap": "std_msgs/Header header\nbool binary\nstring id\nfloat64 resolution\nint8[] data",
    "octomap_msgs/msg/OctomapWithPose": (
        "std_msgs/Header header\ngeometry_msgs/Pose origin\noctomap_msgs/Octomap octomap"
    ),
    "moveit_msgs/msg/CollisionObject": (
        "std_msgs/Header header\ngeometry_msgs/Pose pose\nstring id\nobject_recognition_msgs/ObjectType type\n"
        "shape_msgs/SolidPrimitive[] primitives\ngeometry_msgs/Pose[] primitive_poses\nshape_msgs/Mesh[] meshes\n"
        "geometry_msgs/Pose[] mesh_poses\nshape_msgs/Plane[] planes\ngeometry_msgs/Pose[] plane_poses\n"
        "string[] subframe_names\ngeometry_msgs/Pose[] subframe_poses\nbyte operation"
    ),
    "moveit_msgs/msg/AttachedCollisionObject": (
        f"string link_name\n{_OBJECT} object\nstring[] touch_links\n"
        "trajectory_msgs/JointTrajectory detach_posture\nfloat64 weight"
    ),
    "moveit_msgs/msg/RobotState": (
        "sensor_msgs/JointState joint_state\nsensor_msgs/MultiDOFJointState multi_dof_joint_state\n"
        "moveit_msgs/AttachedCollisionObject[] attached_collision_objects\nbool is_diff"
    ),
    "moveit_msgs/msg/AllowedCollisionEntry": "bool[] enabled",
    "moveit_msgs/msg/AllowedCollisionMatrix": (
        "string[] entry_names\nmoveit_msgs/AllowedCollisionEntry[] entry_values\n"
        "string[] default_entry_names\nbool[] default_entry_values"
    ),
    "moveit_msgs/msg/LinkPadding": "string link_name\nfloat64 padding",
    "moveit_msgs/msg/LinkScale": "string link_name\nfloat64 scale",
    "moveit_msgs/msg/ObjectColor": "string id\nstd_msgs/ColorRGBA color",
    "moveit_msgs/msg/PlanningSceneWorld": (f"{_OBJECT}[] collision_objects\noctomap_msgs/OctomapWithPose octomap"),
    "moveit_msgs/msg/PlanningScene": (
        "string name\nmoveit_msgs/RobotState robot_state\nstring robot_model_name\n"
        "geometry_msgs/TransformStamped[] fixed_frame_transforms\n"
        "moveit_msgs/AllowedCollisionMatrix allowed_collision_matrix\nmoveit_msgs/LinkPadding[] link_padding\n"
        "moveit_msgs/LinkScale[] link_scale\nmoveit_msgs/ObjectColor[] object_colors\n"
        "moveit_msgs/PlanningSceneWorld world\nbool is_diff"
    ),
}
# Ours, as the files of msgs/ have them; tests/graph/test_definitions.py compares the two.
_TRAJECTORY = (
    "trajectory_msgs/JointTrajectory joint_trajectory\n"
    "trajectory_msgs/MultiDOFJointTrajectory multi_dof_joint_trajectory"
)
_OUTCOME = "string outcome\nstring reason\nstring text\nstring report"
_PROGRESS = "string doing\nstring verdict\nstring awaits"
OWN_SERVICES = {
    "qwen2vl_robot_msgs/srv/Approve": ("string digest", "bool accepted\nstring text"),
    "qwen2vl_robot_msgs/srv/CheckTrajectory": (
        _TRAJECTORY,
        "bool accepted\nstring reason\nstring text\nstring verdict",
    ),
}
OWN_ACTIONS = {
    "qwen2vl_robot_msgs/action/Execute": (
        "string instruction\nstring source\nstring approval", _OUTCOME, _PROGRESS,
    ),
    "qwen2vl_robot_msgs/action/ExecuteTrajectory": (f"{_TRAJECTORY}\nstring approval", _OUTCOME, _PROGRESS),
}  # fmt: skip
# Name → (request, response).
_SERVICES = {
    "std_srvs/srv/Trigger": ("", "bool success\nstring message"),
    "action_msgs/srv/CancelGoal": (
        "action_msgs/GoalInfo goal_info",
        "int8 return_code\naction_msgs/GoalInfo[] goals_canceling",
    ),
    **OWN_SERVICES,
}
_POINT = "trajectory_msgs/JointTrajectoryPoint"
_MULTI = "trajectory_msgs/MultiDOFJointTrajectoryPoint"
_GRIPPED = "float64 position\nfloat64 effort\nbool stalled\nbool reached_goal"


def _actions(distro: str) -> dict[str, tuple[str, str, str]]:
    """Return name → (goal, result, feedback); Lyrical's control_msgs adds the point's index to the feedback."""
    index, multi_index = ("int32 index\n", "\nint32 multi_dof_index") if distro == "lyrical" else ("", "")
    return {
        "control_msgs/action/FollowJointTrajectory": (
            "trajectory_msgs/JointTrajectory trajectory\ntrajectory_msgs/MultiDOFJointTrajectory multi_dof_trajectory\n"
            "control_msgs/JointTolerance[] path_tolerance\n"
            "control_msgs/JointComponentTolerance[] component_path_tolerance\n"
            "control_msgs/JointTolerance[] goal_tolerance\n"
            "control_msgs/JointComponentTolerance[] component_goal_tolerance\n"
            "builtin_interfaces/Duration goal_time_tolerance",
            "int32 error_code\nstring error_string",
            f"std_msgs/Header header\nstring[] joint_names\n{_POINT} desired\n{_POINT} actual\n{_POINT} error\n{index}"
            f"string[] multi_dof_joint_names\n{_MULTI} multi_dof_desired\n{_MULTI} multi_dof_actual\n"
            f"{_MULTI} multi_dof_error{multi_index}",
        ),
        "control_msgs/action/GripperCommand": ("control_msgs/GripperCommand command", _GRIPPED, _GRIPPED),
        "control_msgs/action/ParallelGripperCommand": (
            "sensor_msgs/JointState command",
            "sensor_msgs/JointState state\nbool stalled\nbool reached_goal",
            "sensor_msgs/JointState state",
        ),
        **OWN_ACTIONS,
    }


def definitions(distro: str) -> dict[str, str]:
    """Return every definition that rosbags may lack, each after the ones that it uses."""
    definitions = dict(_MESSAGES)
    for name, (request, response) in _SERVICES.items():
        definitions |= {f"{name}_Request": request, f"{name}_Response": response}
    goal_id = "unique_identifier_msgs/UUID goal_id"
    for name, (goal, result, feedback) in _actions(distro).items():
        definitions |= {f"{name}_Goal": goal, f"{name}_Result": result, f"{name}_Feedback": feedback}
        definitions |= {
            f"{name}_SendGoal_Request": f"{goal_id}\n{name}_Goal goal",
            f"{name}_SendGoal_Response": "bool accepted\nbuiltin_interfaces/Time stamp",
            f"{name}_GetResult_Request": goal_id,
            f"{name}_GetResult_Response": f"int8 status\n{name}_Result result",
            f"{name}_FeedbackMessage": f"{goal_id}\n{name}_Feedback feedback",
        }
    return definitions
