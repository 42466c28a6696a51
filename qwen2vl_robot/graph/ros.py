"""The rows of `graph.interface` → rclpy: topics, services, actions, tf2 and the node's clock.

Transport only. Each row has a callback group of its own, so that a stop never queues behind an image.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import rclpy
import tf2_ros
from rclpy.action import ActionClient, ActionServer
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time

from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface as rows
from qwen2vl_robot.graph.conversions import pose_from_transform
from qwen2vl_robot.graph.ros_actions import RosActionClient, RosActionServer
from qwen2vl_robot.graph.ros_log import RosHandler
from qwen2vl_robot.reasons import ObservationReason

try:  # Iron and later; Humble has the same classes elsewhere
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

if TYPE_CHECKING:
    from rclpy.publisher import Publisher as RclpyPublisher

T = TypeVar("T")

THREADS = 12
_SILENCE_S = 5.0
_MAX_TEXT = 300
_POLL_S = 0.002
JOIN_S = 5.0


class RosGraph:
    """A `graph.interface.Graph` over rclpy.

    Args:
        node: a name, for a node and an executor of this object's own; or a node that somebody else spins.
    """

    def __init__(
        self,
        node: str | Node,
        *,
        namespace: str = "/",
        remap: Mapping[str, str] | None = None,
        use_sim_time: bool = False,
    ) -> None:
        self._is_own = isinstance(node, str)
        self._on_broken: Callable[[str], None] = lambda told: None
        self._problems: dict[str, str] = {}
        self._entities: list[Callable[[], object]] = []
        self._tf: tf2_ros.Buffer | None = None
        if isinstance(node, str):
            start_rclpy()
            overrides = [Parameter("use_sim_time", value=use_sim_time)]
            self._node = Node(node, namespace=namespace, cli_args=remap_arguments(remap), parameter_overrides=overrides)
            self._executor = MultiThreadedExecutor(THREADS)
            self._executor.add_node(self._node)
            self._thread = threading.Thread(target=spin, args=(self._executor,), name="rclpy", daemon=True)
            self._thread.start()
        else:
            self._node = node
        self.name: str = self._node.get_fully_qualified_name()

    # ------------------------------------------------------------------------------------- time, messages

    def message(self, type_name: str) -> type[rows.Message]:
        """The class of a ROS type; "X_Goal", "X_Request" and the like are found inside X."""
        package, kind, name = type_name.split("/")
        module = importlib.import_module(f"{package}.{kind}")
        outer, _, inner = name.rpartition("_")
        found: type[rows.Message] = getattr(module, name) if kind == "msg" else getattr(getattr(module, outer), inner)
        return found

    def serialize(self, message: rows.Message) -> bytes:
        """A message as CDR."""
        return bytes(serialize_message(message))

    def resolve(self, name: str) -> str:
        """Absolute name of a row."""
        return str(self._node.resolve_topic_name(name))

    def now_ns(self) -> int:
        """ROS time of the node's clock."""
        return int(self._node.get_clock().now().nanoseconds)

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time.

        Raises:
            ExecutionError: simulated time stopped.
        """
        if not self._node.get_parameter("use_sim_time").value:
            time.sleep(seconds)
            return
        last_ns, moved_s = self.now_ns(), time.monotonic()
        end_ns = last_ns + round(seconds * 1e9)
        while (now_ns := self.now_ns()) < end_ns:
            if now_ns != last_ns:
                last_ns, moved_s = now_ns, time.monotonic()
            elif time.monotonic() - moved_s > _SILENCE_S:
                raise ExecutionError(f"/clock stood still for {_SILENCE_S:g} s")
            time.sleep(_POLL_S)

    # ------------------------------------------------------------------------------------ topics, services

    def publisher(self, topic: rows.Topic) -> _Publisher:
        """Offer a topic."""
        events = PublisherEventCallbacks(incompatible_qos=lambda event: self._note_qos(topic.name))
        made = self._node.create_publisher(
            self.message(topic.type), topic.name, _qos(topic.qos), event_callbacks=events
        )
        self._entities.append(lambda: self._node.destroy_publisher(made))
        return _Publisher(made)

    def subscribe(self, topic: rows.Topic, callback: rows.Take) -> None:
        """Have each message handed to `callback`."""
        events = SubscriptionEventCallbacks(incompatible_qos=lambda event: self._note_qos(topic.name))
        made = self._node.create_subscription(
            self.message(topic.type),
            topic.name,
            self._guarded(topic.name, callback),
            _qos(topic.qos),
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=events,
        )
        self._entities.append(lambda: self._node.destroy_subscription(made))

    def serve(self, service: rows.Service, handler: rows.Answer) -> None:
        """Answer a service: request → response."""

        def answer(request: rows.Message, response: rows.Message) -> rows.Message:
            return self._guarded(service.name, handler)(request) or response

        made = self._node.create_service(
            _interface(service.type), service.name, answer, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self._entities.append(lambda: self._node.destroy_service(made))

    def publishers_of(self, topic: rows.Topic) -> int:
        """How many publishers a topic has on the whole graph."""
        return int(self._node.count_publishers(self.resolve(topic.name)))

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """`T_target_source` at a time (see `interface.Graph`)."""
        if self._tf is None:
            self._tf = tf2_ros.Buffer()
            listener = tf2_ros.TransformListener(self._tf, self._node, spin_thread=False)
            self._entities.append(listener.unregister)
        try:
            found = self._tf.lookup_transform(target, source, Time(nanoseconds=stamp_ns))
        except tf2_ros.TransformException as error:
            raise ObservationError(
                f"tf: {' '.join(str(error).split())[:_MAX_TEXT]}", reason=ObservationReason.NO_TRANSFORM
            ) from error
        return pose_from_transform(found.transform)

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Who is told when a callback raises (see `interface.Graph`)."""
        self._on_broken = callback

    def problems(self) -> tuple[str, ...]:
        """Mismatched QoS and broken callbacks."""
        return tuple(self._problems.values())

    def log_handler(self) -> logging.Handler:
        """See `interface.Graph`."""
        return RosHandler(self._node.get_logger())

    def close(self) -> None:
        """Leave the graph, and take down what this object made."""
        for destroy in reversed(self._entities):
            destroy()
        self._entities.clear()
        if self._is_own:
            self._executor.shutdown(JOIN_S)
            self._thread.join(JOIN_S)
            self._node.destroy_node()

    # --------------------------------------------------------------------------------------------- actions

    def action_client(self, action: rows.Action) -> RosActionClient:
        """Reach an action server."""
        made = ActionClient(self._node, _interface(action.type), action.name, callback_group=ReentrantCallbackGroup())
        self._entities.append(made.destroy)
        return RosActionClient(made)

    def serve_action(
        self,
        action: rows.Action,
        accept: rows.Accept,
        cancel: rows.Cancel,
    ) -> None:
        """Serve an action (see `interface.Graph`)."""
        server = RosActionServer(accept, cancel)
        made = ActionServer(
            self._node,
            _interface(action.type),
            action.name,
            server.execute,
            goal_callback=server.on_goal,
            handle_accepted_callback=server.on_accepted,
            cancel_callback=server.on_cancel,
            callback_group=ReentrantCallbackGroup(),
        )
        self._entities.append(made.destroy)

    def _guarded(self, name: str, callback: Callable[[rows.Message], T]) -> Callable[[rows.Message], T | None]:
        """The callback; what it raises is reported, so that the executor goes on."""

        def guarded(message: rows.Message) -> T | None:
            try:
                return callback(message)
            except Exception as error:  # noqa: BLE001 - the top of a callback
                told = f"{name}: {type(error).__name__}: {error}"
                self._problems[name] = told
                self._on_broken(told)
                return None

        return guarded

    def _note_qos(self, name: str) -> None:
        self._problems[f"{name} qos"] = f"{name}: another node's QoS does not fit"


class _Publisher:
    """A `graph.interface.Publisher`."""

    def __init__(self, publisher: RclpyPublisher) -> None:
        self._publisher = publisher

    def publish(self, message: rows.Message) -> None:
        """Send."""
        self._publisher.publish(message)

    def listeners(self) -> int:
        """How many subscriptions match."""
        return int(self._publisher.get_subscription_count())


def start_rclpy() -> None:
    """Start rclpy once; signals stay ours, so that an arm is halted before the graph is left."""
    if not rclpy.ok():
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)


def spin(executor: MultiThreadedExecutor) -> None:
    """Serve callbacks until rclpy is shut down."""
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def remap_arguments(remap: Mapping[str, str] | None) -> list[str]:
    """Remapping rules as a node's command line."""
    rules = [part for left, right in (remap or {}).items() for part in ("-r", f"{left}:={right}")]
    return ["--ros-args", *rules] if rules else []


def _interface(name: str) -> type:
    """The class of a service or an action."""
    package, kind, short = name.split("/")
    found: type = getattr(importlib.import_module(f"{package}.{kind}"), short)
    return found


def _qos(qos: rows.Qos) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.is_latched else DurabilityPolicy.VOLATILE,
    )
