"""The controller's ROS 2 graph, defined once: every topic, service and action with its type, its QoS and its meaning.

Two transports carry them: `graph.ros` (rclpy) where ROS 2 is installed, `graph.dds` (Cyclone DDS from pip) elsewhere.
Most names are relative, so that namespaces and remapping apply; `~/` stands for the node's own name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any, Protocol

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph.kinds import ActionInterface as ActionInterface
from qwen2vl_robot.graph.kinds import Qos as Qos
from qwen2vl_robot.graph.kinds import Service as Service
from qwen2vl_robot.graph.kinds import Topic as Topic

NODE_NAME = "qwen2vl_robot"
PLANT_NAME = "plant"
SUPERVISOR_NAME = "supervisor"

# ------------------------------------------------------------------------------------------------------ in

IMAGE = Topic("image", "sensor_msgs/msg/Image", Qos.SENSOR, "colour frame: RGB, grey, YUV 4:2:2 or Bayer")
COMPRESSED = Topic("image/compressed", "sensor_msgs/msg/CompressedImage", Qos.SENSOR, "colour frame as JPEG or PNG")
DEPTH = Topic("depth", "sensor_msgs/msg/Image", Qos.SENSOR, "32FC1 in m or 16UC1 in mm (REP 118)")
COMPRESSED_DEPTH = Topic("depth/compressedDepth", "sensor_msgs/msg/CompressedImage", Qos.SENSOR, "depth as PNG or RVL")
CAMERA_INFO = Topic("camera_info", "sensor_msgs/msg/CameraInfo", Qos.SENSOR, "intrinsics of image and depth")
JOINT_STATES = Topic("joint_states", "sensor_msgs/msg/JointState", Qos.STATE, "arm and finger joints, any order")
ROBOT_DESCRIPTION = Topic("robot_description", "std_msgs/msg/String", Qos.LATCHED, "URDF; must fit the robot file")
TF = Topic("/tf", "tf2_msgs/msg/TFMessage", Qos.TF, "moving frames; the camera's pose at the frame's time")
ANY_TF = replace(TF, qos=Qos.ANY_TF)  # the same from publishers that are not reliable
TF_STATIC = Topic("/tf_static", "tf2_msgs/msg/TFMessage", Qos.TF_STATIC, "fixed frames")
CLOCK = Topic("/clock", "rosgraph_msgs/msg/Clock", Qos.SENSOR, "simulated time, where use_sim_time is set")
INSTRUCTION = Topic("instruction", "std_msgs/msg/String", Qos.COMMAND, "what to do, in words")
VOICE_INSTRUCTION = Topic(
    "voice_instruction", "std_msgs/msg/String", Qos.COMMAND,
    "transcript; it never approves or resets, and a person must approve each of its motions",
)  # fmt: skip
AGENT_INSTRUCTION = replace(VOICE_INSTRUCTION, name="agent_instruction", meaning="from software; as of a voice")
STOP = Topic("stop", "std_msgs/msg/Bool", Qos.COMMAND, "true stops and latches; only ~/reset releases")
ANY_STOP = replace(STOP, qos=Qos.ANY)  # the same from publishers that are not reliable; a reliable one reaches both
ANY_INSTRUCTION = replace(INSTRUCTION, qos=Qos.ANY)  # of publishers that are not reliable only a stop word is taken
ANY_VOICE_INSTRUCTION, ANY_AGENT_INSTRUCTION = (replace(t, qos=Qos.ANY) for t in (VOICE_INSTRUCTION, AGENT_INSTRUCTION))
SUPERVISOR_HEARTBEAT = Topic("supervisor_heartbeat", "std_msgs/msg/String", Qos.STATE, "its life and its stop, JSON")
APPROVE = Topic("~/approve", "std_msgs/msg/String", Qos.COMMAND, "digest (hex) of the verdict that a person agrees to")
REJECT = Topic("~/reject", "std_msgs/msg/String", Qos.COMMAND, "a person's no: digest and reason, JSON; ends the task")

# ----------------------------------------------------------------------------------------------------- out

JOINT_TRAJECTORY = Topic(
    "joint_trajectory", "trajectory_msgs/msg/JointTrajectory", Qos.COMMAND,
    "the motion, where the robot file sets arm_form: topic; one point with zero velocities halts",
)  # fmt: skip
GRIPPER_TOPIC = Topic("gripper_command", "std_msgs/msg/Float64MultiArray", Qos.COMMAND, "finger positions, topic form")
PLAN = Topic("~/plan", "std_msgs/msg/String", Qos.LATCHED, "the latest plan, JSON")
VERDICT = Topic("~/verdict", "std_msgs/msg/String", Qos.LATCHED, "the latest verdict with digest and reasons, JSON")
REHEARSAL = Topic("~/rehearsal", "std_msgs/msg/String", Qos.LATCHED, "scene, motion and trials of the verdict, JSON")
STATUS = Topic("~/status", "std_msgs/msg/String", Qos.LATCHED, "the node's state and what it waits for, JSON")
MARKERS = Topic("~/markers", "visualization_msgs/msg/MarkerArray", Qos.LATCHED, "objects, obstacles, path, contacts")
ANNOTATED = Topic("~/annotated", "sensor_msgs/msg/Image", Qos.PICTURE, "the planned frame with the plan's boxes")
DETECTIONS = Topic("~/detections", "vision_msgs/msg/Detection2DArray", Qos.COMMAND, "the plan's boxes, pixels")
DIAGNOSTICS = Topic(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", Qos.COMMAND, "health, 1 Hz; no safety function"
)
PLANNING_SCENE = Topic(
    "planning_scene", "moveit_msgs/msg/PlanningScene", Qos.DIFFS, "a diff for MoveIt: what was measured, what is held"
)
CONTROLLER_HEARTBEAT = Topic("controller_heartbeat", "std_msgs/msg/String", Qos.STATE, "the node's life and stop, JSON")

RESET = Service("~/reset", "std_srvs/srv/Trigger", "release a stop")
STOP_NOW = Service("~/stop", "std_srvs/srv/Trigger", "stop and latch")
CANCEL = Service("~/cancel", "std_srvs/srv/Trigger", "cancel the current task; an aborted motion latches a stop")
CHECK_CAMERA = Service("~/check_camera", "std_srvs/srv/Trigger", "show the arm to the cameras and check them by it")
APPROVE_NOW = Service("~/approve", "qwen2vl_robot_msgs/srv/Approve", "as the topic, and answers whether the yes counts")
CHECK_TRAJECTORY = Service(
    "~/check_trajectory", "qwen2vl_robot_msgs/srv/CheckTrajectory", "another's motion → a verdict; nothing moves"
)

FOLLOW_JOINT_TRAJECTORY = ActionInterface(
    "follow_joint_trajectory", "control_msgs/action/FollowJointTrajectory", "the motion, monitored by its controller"
)
GRIPPER_COMMAND = ActionInterface("gripper_cmd", "control_msgs/action/GripperCommand", "gripper, older form")
PARALLEL_GRIPPER_COMMAND = ActionInterface(
    "gripper_cmd", "control_msgs/action/ParallelGripperCommand", "gripper, newer form"
)

EXECUTE = ActionInterface("~/execute", "qwen2vl_robot_msgs/action/Execute", "a task, with its outcome as the result")
EXECUTE_TRAJECTORY = ActionInterface(
    "~/execute_trajectory", "qwen2vl_robot_msgs/action/ExecuteTrajectory", "another's motion, checked, admitted and run"
)

TOPICS_IN = (
    IMAGE, COMPRESSED, DEPTH, COMPRESSED_DEPTH, CAMERA_INFO, JOINT_STATES, ROBOT_DESCRIPTION, TF, TF_STATIC, CLOCK,
    INSTRUCTION, VOICE_INSTRUCTION, AGENT_INSTRUCTION, STOP, APPROVE, REJECT, SUPERVISOR_HEARTBEAT,
)  # fmt: skip
TOPICS_OUT = (
    JOINT_TRAJECTORY, GRIPPER_TOPIC, PLAN, VERDICT, REHEARSAL, STATUS, MARKERS, ANNOTATED, DETECTIONS, DIAGNOSTICS,
    PLANNING_SCENE, CONTROLLER_HEARTBEAT,
)  # fmt: skip
SERVICES = (RESET, STOP_NOW, CANCEL, CHECK_CAMERA, APPROVE_NOW, CHECK_TRAJECTORY)
ACTIONS = (FOLLOW_JOINT_TRAJECTORY, GRIPPER_COMMAND, PARALLEL_GRIPPER_COMMAND, EXECUTE, EXECUTE_TRAJECTORY)


# ------------------------------------------------------------------------------------------------- transport


class Message(Protocol):
    """A message of either transport; its class is made at run time, so mypy cannot know its fields."""

    def __init__(self, **fields: Any) -> None: ...

    def __getattr__(self, field: str) -> Any: ...

    def __setattr__(self, field: str, value: Any) -> None: ...


MessageMaker = Callable[[str], type[Message]]  # `Graph.message`: a ROS type's name → its class
MessageCallback = Callable[[Message], None]
KindOf = Callable[[bytes], bytes]  # a message's bytes on the wire → what of them says what it is about
NEWEST_EVERY_S = 0.01
ServiceHandler = Callable[[Message], Message]  # request → response


class GoalStatus(int, Enum):
    """action_msgs/msg/GoalStatus."""

    UNKNOWN = 0
    ACCEPTED = 1
    EXECUTING = 2
    CANCELING = 3
    SUCCEEDED = 4
    CANCELED = 5
    ABORTED = 6

    @property
    def is_final(self) -> bool:
        return self.value >= GoalStatus.SUCCEEDED.value


class Publisher(Protocol):
    """The sending end of a topic."""

    def publish(self, message: Message) -> None:
        """Send a message without waiting for its delivery."""

    def listeners(self) -> int:
        """Count the matching subscriptions, in this process and in others."""


GoalOutcome = tuple[GoalStatus, Message | None]  # how a goal ended; None where there is no result


class SentGoal(Protocol):
    """One goal, at the client's side."""

    def accepted(self) -> bool | None:
        """Return whether the server accepted the goal; None while it has not answered."""

    def outcome(self) -> GoalOutcome | None:
        """Return the final status and result; None while the goal runs."""

    def cancel(self) -> None:
        """Ask the server to cancel the goal; the request is sent when this returns, or follows its acceptance."""


class ActionClient(Protocol):
    """The client of an action."""

    def is_served(self) -> bool:
        """Return whether a server is there now."""

    def others(self) -> int:
        """Count the other clients of the action on the whole graph."""

    def foreign_goals(self) -> int:
        """Count the goals of other clients that the server has accepted and not ended."""

    def send(self, goal: Message, on_feedback: MessageCallback | None = None) -> SentGoal:
        """Send a goal; returns at once."""


class GoalCanceller(Protocol):
    """Who may end every goal of an action and sends none."""

    def is_served(self) -> bool:
        """Return whether a server is there now."""

    def cancel_all(self) -> None:
        """Ask the server to cancel every goal, whoever sent it; the request is sent when this returns."""


class GoalHandle(Protocol):
    """One accepted goal, at the server's side."""

    def feedback(self, feedback: Message) -> None:
        """Send feedback to the client."""

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """End the goal; a second call changes nothing."""


AcceptGoal = Callable[[Message, GoalHandle], bool]  # whether the goal is accepted
CancelGoal = Callable[[GoalHandle], None]


class Graph(Protocol):
    """A node on the ROS 2 graph.

    Callbacks run on the transport's threads, those of one topic or service one at a time.
    """

    name: str

    def message(self, type_name: str) -> type[Message]:
        """Return the class of a ROS type such as "std_msgs/msg/String"; fields by keyword, others at ROS's defaults."""

    def has_type(self, type_name: str) -> bool:
        """Return whether a ROS type can be used; rclpy has those of the packages that are installed beside it."""

    def serialize(self, message: Message) -> bytes:
        """Serialize a message as CDR, the bytes on the wire."""

    def resolve(self, name: str) -> str:
        """Return the absolute name of a topic, service or action."""

    def now_ns(self) -> int:
        """Return ROS time, ns: the system's, or the simulation's where use_sim_time is set."""

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time.

        Raises:
            ExecutionError: simulated time has stopped.
        """

    def publisher(self, topic: Topic) -> Publisher:
        """Publish on a topic."""

    def subscribe(self, topic: Topic, callback: MessageCallback) -> None:
        """Call `callback` with each message."""

    def subscribe_newest(self, topic: Topic, callback: MessageCallback, kind_of: KindOf) -> None:
        """Call `callback` every `NEWEST_EVERY_S` at most, with the newest message of each publisher and kind since.

        The others are neither converted nor missed: a topic at 1 kHz would take most of a core. Over rclpy, which does
        not say who sent a message, the newest of each kind comes.
        """

    def serve(self, service: Service, handler: ServiceHandler) -> None:
        """Serve a service: request → response."""

    def call(self, service: Service, timeout_s: float, **fields: object) -> Message:
        """Call a service with the fields of its request, and wait for its response.

        Raises:
            ExecutionError: none came in time.
        """

    def action_client(self, action: ActionInterface) -> ActionClient:
        """Make a client of an action."""

    def goal_canceller(self, action: ActionInterface) -> GoalCanceller:
        """Make what cancels all goals of an action."""

    def serve_action(self, action: ActionInterface, accept: AcceptGoal, cancel: CancelGoal) -> None:
        """Serve an action: `accept` accepts or rejects a goal, `cancel` gets the goal that is to end."""

    def publishers_of(self, topic: Topic) -> int:
        """Count the publishers of a topic on the whole graph, ours included."""

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """Look up `T_target_source` (4, 4) at a time.

        Raises:
            ObservationError: the frames are not connected, or not at that time.
        """

    def on_jump(self, callback: Callable[[float], None]) -> None:
        """Set what is called when ROS time jumped, with the seconds (negative: back); transforms are forgotten before.

        The system's clock jumps where somebody sets it; /clock where it goes back, or on by more than 10 s at once.
        """

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Set what is called, with the problem, when a callback raises; a node that moves an arm stops it then."""

    def problems(self) -> tuple[str, ...]:
        """List the transport's problems: mismatched QoS, callbacks that raised."""

    def log_handler(self, level: str) -> logging.Handler:
        """Return the handler of the node's log: stderr, or over rclpy the node's logger and /rosout.

        Args:
            level: one of `log.LEVELS`, from which on a line is wanted.
        """

    def close(self) -> None:
        """End the goals served here as ABORTED and leave the graph."""
