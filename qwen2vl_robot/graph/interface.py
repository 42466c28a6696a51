"""The controller's ROS 2 graph, stated once: every topic, service and action with its type, its QoS and what it means.

Two transports carry these rows: `graph.ros` (rclpy) where ROS 2 is installed, `graph.dds` (Cyclone DDS from pip) where
it is not. Names are relative, so that a namespace or a remapping moves them; `~/` stands for the node's own name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array

NODE_NAME = "qwen2vl_robot"
PLANT_NAME = "plant"


class Qos(Enum):
    """How a topic travels: (reliable, transient local, depth)."""

    SENSOR = (False, False, 1)  # the newest counts, a late one is worthless
    STATE = (False, False, 20)  # joint states: each is small, a short burst is kept
    COMMAND = (True, False, 10)  # nothing may be lost, nothing from before we listened may act
    LATCHED = (True, True, 1)  # whoever comes later gets the last one
    TF = (True, False, 100)
    TF_STATIC = (True, True, 100)

    @property
    def is_reliable(self) -> bool:
        return self.value[0]

    @property
    def is_latched(self) -> bool:
        return self.value[1]

    @property
    def depth(self) -> int:
        return self.value[2]


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: name, ROS type ("std_msgs/msg/String"), QoS, meaning."""

    name: str
    type: str
    qos: Qos
    meaning: str

    def at(self, name: str) -> Topic:
        """The same row under another name (a second camera, a controller that the robot file names)."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    type: str
    meaning: str

    def at(self, name: str) -> Action:
        """The same row under another name."""
        return replace(self, name=name)


# ------------------------------------------------------------------------------------------------------ in

IMAGE = Topic("image", "sensor_msgs/msg/Image", Qos.SENSOR, "colour frame: rgb8, bgr8, rgba8, bgra8 or mono8")
COMPRESSED = Topic("image/compressed", "sensor_msgs/msg/CompressedImage", Qos.SENSOR, "colour frame as JPEG or PNG")
DEPTH = Topic("depth", "sensor_msgs/msg/Image", Qos.SENSOR, "registered to the image: 32FC1 m or 16UC1 mm (REP 118)")
CAMERA_INFO = Topic("camera_info", "sensor_msgs/msg/CameraInfo", Qos.SENSOR, "intrinsics of image and depth")
JOINT_STATES = Topic("joint_states", "sensor_msgs/msg/JointState", Qos.STATE, "arm and finger joints, any order")
ROBOT_DESCRIPTION = Topic("robot_description", "std_msgs/msg/String", Qos.LATCHED, "URDF; has the robot file's joints")
TF = Topic("/tf", "tf2_msgs/msg/TFMessage", Qos.TF, "moving frames; gives the camera's pose at the time of its frame")
TF_STATIC = Topic("/tf_static", "tf2_msgs/msg/TFMessage", Qos.TF_STATIC, "fixed frames")
CLOCK = Topic("/clock", "rosgraph_msgs/msg/Clock", Qos.SENSOR, "simulated time, where use_sim_time is set")
INSTRUCTION = Topic("instruction", "std_msgs/msg/String", Qos.COMMAND, "what to do, in words")
VOICE_INSTRUCTION = Topic(
    "voice_instruction", "std_msgs/msg/String", Qos.COMMAND,
    "a transcript: never approves, never resets, and moves nothing before a person approved it",
)  # fmt: skip
STOP = Topic("stop", "std_msgs/msg/Bool", Qos.COMMAND, "true stops and latches; only ~/reset releases")
APPROVE = Topic("~/approve", "std_msgs/msg/String", Qos.COMMAND, "digest (hex) of the verdict that a person agrees to")

# ----------------------------------------------------------------------------------------------------- out

JOINT_TRAJECTORY = Topic(
    "joint_trajectory", "trajectory_msgs/msg/JointTrajectory", Qos.COMMAND,
    "the motion, where the robot file asks for the topic form; an empty one halts",
)  # fmt: skip
GRIPPER_TOPIC = Topic("gripper_command", "std_msgs/msg/Float64MultiArray", Qos.COMMAND, "finger positions, topic form")
PLAN = Topic("~/plan", "std_msgs/msg/String", Qos.LATCHED, "the planner's last answer, JSON")
VERDICT = Topic("~/verdict", "std_msgs/msg/String", Qos.LATCHED, "the last rehearsal with digest and reasons, JSON")
STATUS = Topic("~/status", "std_msgs/msg/String", Qos.LATCHED, "what the controller does and awaits, JSON")
MARKERS = Topic("~/markers", "visualization_msgs/msg/MarkerArray", Qos.LATCHED, "objects, obstacles, path, contacts")
ANNOTATED = Topic("~/annotated", "sensor_msgs/msg/Image", Qos.SENSOR, "the planned frame with boxes and path")
DETECTIONS = Topic("~/detections", "vision_msgs/msg/Detection2DArray", Qos.COMMAND, "the plan's groundings, pixels")
DIAGNOSTICS = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", Qos.COMMAND, "health, 1 Hz; no safety path")

RESET = Service("~/reset", "std_srvs/srv/Trigger", "release a stop")
STOP_NOW = Service("~/stop", "std_srvs/srv/Trigger", "stop and latch")
CANCEL = Service("~/cancel", "std_srvs/srv/Trigger", "give up the task at hand; a motion cut short latches a stop")

FOLLOW_JOINT_TRAJECTORY = Action(
    "follow_joint_trajectory", "control_msgs/action/FollowJointTrajectory", "the motion, watched by its controller"
)
GRIPPER_COMMAND = Action("gripper_cmd", "control_msgs/action/GripperCommand", "gripper, older form")
PARALLEL_GRIPPER_COMMAND = Action("gripper_cmd", "control_msgs/action/ParallelGripperCommand", "gripper, newer form")

TOPICS_IN = (
    IMAGE, COMPRESSED, DEPTH, CAMERA_INFO, JOINT_STATES, ROBOT_DESCRIPTION, TF, TF_STATIC, CLOCK, INSTRUCTION,
    VOICE_INSTRUCTION, STOP, APPROVE,
)  # fmt: skip
TOPICS_OUT = (
    JOINT_TRAJECTORY, GRIPPER_TOPIC, PLAN, VERDICT, STATUS, MARKERS, ANNOTATED, DETECTIONS, DIAGNOSTICS,
)  # fmt: skip
SERVICES = (RESET, STOP_NOW, CANCEL)
ACTIONS = (FOLLOW_JOINT_TRAJECTORY, GRIPPER_COMMAND, PARALLEL_GRIPPER_COMMAND)


# --------------------------------------------------------------------------------------- what a transport is


class Message(Protocol):
    """A message of either transport: its class comes from a definition at run time, so mypy cannot know its fields."""

    def __init__(self, **fields: Any) -> None: ...

    def __getattr__(self, field: str) -> Any: ...

    def __setattr__(self, field: str, value: Any) -> None: ...


MessageMaker = Callable[[str], type[Message]]  # `Graph.message`: a ROS type's name → its class
Take = Callable[[Message], None]
Answer = Callable[[Message], Message]  # of a service: request → response


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
    def publish(self, message: Message) -> None:
        """Send; returns at once."""

    def listeners(self) -> int:
        """How many subscriptions match, near and far."""


Ending = tuple[GoalStatus, Message | None]  # how a goal ended; without a result where nobody gave one


class Goal(Protocol):
    """One goal that was sent to an action server."""

    def accepted(self) -> bool | None:
        """Whether the server took it; None while it has not answered."""

    def outcome(self) -> Ending | None:
        """Final status and result message; None while it runs."""

    def cancel(self) -> None:
        """Ask the server to end it; the request is on the wire when this returns."""


class ActionClient(Protocol):
    def is_served(self) -> bool:
        """Whether a server is there now."""

    def send(self, goal: Message, on_feedback: Take | None = None) -> Goal:
        """Send a goal; returns at once."""


class GoalHandle(Protocol):
    """One accepted goal, at the side that serves it."""

    def feedback(self, feedback: Message) -> None:
        """Tell its sender how it goes."""

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """Finish it; a second end changes nothing."""


Accept = Callable[[Message, GoalHandle], bool]  # takes a goal or refuses it
Cancel = Callable[[GoalHandle], None]


class Graph(Protocol):
    """A node on the ROS 2 graph. Callbacks come on the transport's threads, one at a time for each row."""

    name: str

    def message(self, type_name: str) -> type[Message]:
        """The class of a ROS type such as "std_msgs/msg/String"; fields by keyword, the others at ROS's defaults."""

    def serialize(self, message: Message) -> bytes:
        """A message as CDR, the bytes that go over the wire."""

    def resolve(self, name: str) -> str:
        """Absolute name of a row."""

    def now_ns(self) -> int:
        """ROS time: the system's, or the simulation's where use_sim_time is set."""

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time."""

    def publisher(self, topic: Topic) -> Publisher:
        """Offer a topic."""

    def subscribe(self, topic: Topic, callback: Take) -> None:
        """Have each message handed to `callback`."""

    def serve(self, service: Service, handler: Answer) -> None:
        """Answer a service: request → response."""

    def action_client(self, action: Action) -> ActionClient:
        """Reach an action server."""

    def serve_action(self, action: Action, accept: Accept, cancel: Cancel) -> None:
        """Serve an action: `accept` takes a goal or refuses it, `cancel` is told which goal should end."""

    def publishers_of(self, topic: Topic) -> int:
        """How many publishers a topic has on the whole graph, ours included."""

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """`T_target_source` (4, 4) at a time.

        Raises:
            ObservationError: no path between the frames, or not at that time.
        """

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Who is told when a callback raises what it should not have; whoever moves an arm stops it then."""

    def problems(self) -> tuple[str, ...]:
        """What the transport itself has to report: mismatched QoS, a callback that raised."""

    def log_handler(self) -> logging.Handler:
        """Where the node's log goes on this transport: stderr, or the node's own logger and /rosout."""

    def close(self) -> None:
        """Leave the graph."""


# ------------------------------------------------------------------------------------------------- names

_NAME = re.compile(r"^(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")


def resolve_name(name: str, node: str, namespace: str = "/", remap: Mapping[str, str] | None = None) -> str:
    """Absolute name of a row, as ROS 2 resolves it: remapping first, then `~/`, then the namespace.

    Raises:
        BadInputError: not a name that ROS 2 allows.

    >>> resolve_name("~/plan", "qwen2vl_robot", "/left")
    '/left/qwen2vl_robot/plan'
    >>> resolve_name("image", "n", "/", {"image": "/camera/color/image_raw"})
    '/camera/color/image_raw'
    """
    base = "/" + namespace.strip("/")
    full = _expand(name, node, base)
    for left, right in (remap or {}).items():
        if _expand(left, node, base) == full:
            full = _expand(right, node, base)
            break
    return full


def _expand(name: str, node: str, base: str) -> str:
    if not _NAME.match(name):
        raise BadInputError(f"{name!r} is no ROS name; letters, digits, _ and / are, no part begins with a digit")
    if name.startswith("/"):
        return name
    prefix = "" if base == "/" else base
    return f"{prefix}/{node}/{name[2:]}" if name.startswith("~/") else f"{prefix}/{name}"


def parse_remaps(rules: list[str], node: str, namespace: str) -> tuple[dict[str, str], str, str]:
    """Read "from:=to" rules: the mapping, then the node's name and namespace, which `__node` and `__ns` change.

    Raises:
        BadInputError: a rule has another form.
    """
    pairs = [rule.split(":=") for rule in rules]
    for rule, pair in zip(rules, pairs, strict=True):
        if len(pair) != 2 or not (pair[0] == "__ns" or all(_NAME.match(name) for name in pair)):
            raise BadInputError(f"--remap {rule}: the form is from:=to, both ROS names")
    found = {pair[0]: pair[1] for pair in pairs}
    return found, found.pop("__node", node), found.pop("__ns", namespace)
