"""The topics, services and actions of `graph.interface` → rclpy, with the node's clock.

Transport only. Each subscription and service has a callback group of its own, so that a stop never queues behind an
image.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rclpy.action import ActionServer
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.clock import LEAP_S, SystemClock
from qwen2vl_robot.graph.frames import Frames, listen
from qwen2vl_robot.graph.ros_actions import (
    OrderedActionClient,
    RosActionClient,
    RosActionServer,
)
from qwen2vl_robot.graph.ros_log import make_handler
from qwen2vl_robot.graph.ros_newest import NewestReader, Unattended
from qwen2vl_robot.graph.ros_process import JOIN_S, THREADS, remap_arguments, spin, start_rclpy
from qwen2vl_robot.graph.ros_qos import is_mismatched, qos_profile
from qwen2vl_robot.graph.ros_services import RosGoalCanceller, call_service

try:  # Iron and later; Humble has the same classes elsewhere
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

if TYPE_CHECKING:
    from rclpy.publisher import Publisher as RclpyPublisher
    from rclpy.subscription import Subscription

T = TypeVar("T")

_SILENCE_S = 5.0
_POLL_S = 0.002


def _has_type(type_name: str) -> bool:
    """Return whether the package of a ROS type is installed."""
    return importlib.util.find_spec(type_name.partition("/")[0]) is not None


class RosGraph:
    """A `graph.interface.Graph` over rclpy.

    Args:
        node: a name, to make a node and spin it here; or a node that its owner spins.
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
        self._on_broken: Callable[[str], None] = lambda problem: None
        self._problems: dict[str, str] = {}
        self._mismatched: dict[str, tuple[interface.Topic, bool]] = {}
        self._entities: list[Callable[[], object]] = []
        self._on_jump: Callable[[float], None] = lambda seconds: None
        self._frames: Frames | None = None
        if isinstance(node, str):
            start_rclpy()
            overrides = [Parameter("use_sim_time", value=use_sim_time)]
            self._node = Node(node, namespace=namespace, cli_args=remap_arguments(remap), parameter_overrides=overrides)
            self._executor = MultiThreadedExecutor(THREADS)
            self._executor.add_node(self._node)
            spinning = (self._executor, partial(self._report, "rclpy"))
            self._thread = threading.Thread(target=spin, args=spinning, name="rclpy", daemon=True)
            self._thread.start()
        else:
            self._node = node
        self._is_simulated = bool(self._node.get_parameter("use_sim_time").value)
        self._system = SystemClock(self._jumped)
        threshold = JumpThreshold(min_forward=Duration(seconds=LEAP_S), min_backward=Duration(nanoseconds=-1))
        self._jumps = self._node.get_clock().create_jump_callback(threshold, post_callback=self._on_sim_jump)
        self._entities.append(self._jumps.unregister)
        self.name: str = self._node.get_fully_qualified_name()

    # ------------------------------------------------------------------------------------- time, messages

    def message(self, type_name: str) -> type[interface.Message]:
        """Return the class of a ROS type; "X_Goal", "X_Request" and the like are attributes of X."""
        package, kind, name = type_name.split("/")
        module = importlib.import_module(f"{package}.{kind}")
        outer, _, inner = name.rpartition("_")
        message_type: type[interface.Message] = (
            getattr(module, name) if kind == "msg" else getattr(getattr(module, outer), inner)
        )
        return message_type

    has_type = staticmethod(_has_type)  # see `interface.Graph`

    def serialize(self, message: interface.Message) -> bytes:
        """Serialize a message as CDR."""
        return bytes(serialize_message(message))

    def resolve(self, name: str) -> str:
        """Return the absolute name of a topic, service or action."""
        return str(self._node.resolve_topic_name(name))

    def now_ns(self) -> int:
        """Return the ROS time of the node's clock, ns."""
        return int(self._node.get_clock().now().nanoseconds) if self._is_simulated else self._system.now_ns()

    def sleep(self, seconds: float) -> None:
        """Wait in ROS time; where it jumps back the waiting ends.

        Raises:
            ExecutionError: simulated time has stopped.
        """
        if not self._is_simulated:
            self._system.sleep(seconds)
            return
        last_ns, moved_s = self.now_ns(), time.monotonic()
        end_ns = last_ns + round(seconds * 1e9)
        while last_ns <= (now_ns := self.now_ns()) < end_ns:
            if now_ns != last_ns:
                last_ns, moved_s = now_ns, time.monotonic()
            elif time.monotonic() - moved_s > _SILENCE_S:
                raise ExecutionError(f"/clock stood still for {_SILENCE_S:g} s")
            time.sleep(_POLL_S)

    def on_jump(self, callback: Callable[[float], None]) -> None:
        """Set what is called when ROS time jumped (see `interface.Graph`)."""
        self._on_jump = callback

    def _on_sim_jump(self, jump: TimeJump) -> None:
        seconds = jump.delta.nanoseconds / 1e9
        if self._is_simulated and self.now_ns() != jump.delta.nanoseconds:  # else it is the first time that came
            self._jumped(seconds)

    def _jumped(self, seconds: float) -> None:
        if self._frames is not None:
            self._frames.forget()
        self._on_jump(seconds)

    # ------------------------------------------------------------------------------------ topics, services

    def publisher(self, topic: interface.Topic) -> _Publisher:
        """Publish on a topic."""
        events = PublisherEventCallbacks(incompatible_qos=lambda event: self._note_qos(topic, True))
        publisher = self._node.create_publisher(
            self.message(topic.type), topic.name, qos_profile(topic.qos), event_callbacks=events
        )
        self._entities.append(lambda: self._node.destroy_publisher(publisher))
        return _Publisher(publisher, topic.qos is interface.Qos.PICTURE)

    def subscribe(self, topic: interface.Topic, callback: interface.MessageCallback) -> None:
        """Call `callback` with each message."""
        self._create(topic, self._guarded(topic.name, callback), MutuallyExclusiveCallbackGroup(), raw=False)

    def subscribe_newest(
        self, topic: interface.Topic, callback: interface.MessageCallback, kind_of: interface.KindOf
    ) -> None:
        """Call `callback` with the newest message of each kind (see `interface.Graph`)."""
        guarded, report = self._guarded(topic.name, callback), partial(self._report, topic.name)
        subscription = self._create(topic, guarded, Unattended(), raw=True)
        reader = NewestReader(subscription, self.message(topic.type), guarded, kind_of, report)
        self._entities.append(reader.close)  # closed first: it takes from the subscription

    def _create(
        self, topic: interface.Topic, callback: Callable[..., object], group: CallbackGroup, *, raw: bool
    ) -> Subscription:
        subscription = self._node.create_subscription(
            self.message(topic.type),
            topic.name,
            callback,
            qos_profile(topic.qos),
            callback_group=group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda event: self._note_qos(topic, False)),
            raw=raw,
        )
        self._entities.append(lambda: self._node.destroy_subscription(subscription))
        return subscription

    def serve(self, service: interface.Service, handler: interface.ServiceHandler) -> None:
        """Serve a service: request → response."""

        def answer(request: interface.Message, response: interface.Message) -> interface.Message:
            return self._guarded(service.name, handler)(request) or response

        kind, group = _rclpy_type(service.type), MutuallyExclusiveCallbackGroup()
        server = self._node.create_service(kind, service.name, answer, callback_group=group)
        self._entities.append(lambda: self._node.destroy_service(server))

    def call(self, service: interface.Service, timeout_s: float, **fields: object) -> interface.Message:
        """Call a service (see `interface.Graph`)."""
        return call_service(self._node, _rclpy_type(service.type), self.resolve(service.name), timeout_s, fields)

    def publishers_of(self, topic: interface.Topic) -> int:
        """Count the publishers of a topic on the whole graph."""
        return int(self._node.count_publishers(self.resolve(topic.name)))

    def subscribers_of(self, name: str) -> int:
        """Count the subscriptions of a topic on the whole graph."""
        return int(self._node.count_subscribers(self.resolve(name)))

    def transform(self, target: str, source: str, stamp_ns: int) -> Array:
        """Look up `T_target_source` at a time (see `interface.Graph`)."""
        if self._frames is None:
            self._frames = listen(self)
        return self._frames.lookup(target, source, stamp_ns)

    def on_broken(self, callback: Callable[[str], None]) -> None:
        """Set what is called when a callback raises (see `interface.Graph`)."""
        self._on_broken = callback

    def problems(self) -> tuple[str, ...]:
        """List mismatched QoS, callbacks that raised when last called and unusable transforms, one line each."""
        noted = tuple(self._mismatched.values())
        names = sorted({self.resolve(topic.name) for topic, ours in noted if is_mismatched(self._node, topic, ours)})
        tf = () if self._frames is None else self._frames.problems()
        return (*self._problems.values(), *(f"{name}: another node's QoS does not match" for name in names), *tf)

    def log_handler(self, level: str) -> logging.Handler:
        """Return a handler that logs to the node's logger (see `interface.Graph`)."""
        return make_handler(self._node.get_logger(), level)

    def close(self) -> None:
        """End the goals served here, leave the graph and destroy what this object made."""
        for destroy in reversed(self._entities):
            destroy()
        self._entities.clear()
        if self._is_own:
            self._executor.shutdown(JOIN_S)
            self._thread.join(JOIN_S)
            self._node.destroy_node()

    # --------------------------------------------------------------------------------------------- actions

    def action_client(self, action: interface.ActionInterface) -> RosActionClient:
        """Make a client of an action."""
        group = ReentrantCallbackGroup()
        client = OrderedActionClient(self._node, _rclpy_type(action.type), action.name, callback_group=group)
        self._entities.append(client.destroy)
        return RosActionClient(client, self, action.name, partial(self._guarded, action.name))

    def goal_canceller(self, action: interface.ActionInterface) -> RosGoalCanceller:
        """Make what cancels all goals of an action."""
        name = f"{self.resolve(action.name)}/_action/cancel_goal"
        canceller = RosGoalCanceller(self._node, _rclpy_type("action_msgs/srv/CancelGoal"), name)
        self._entities.append(canceller.destroy)
        return canceller

    def serve_action(
        self,
        action: interface.ActionInterface,
        accept: interface.AcceptGoal,
        cancel: interface.CancelGoal,
    ) -> None:
        """Serve an action (see `interface.Graph`)."""
        action_type = _rclpy_type(action.type)
        guarded = self._guarded(action.name, accept), self._guarded(action.name, cancel)
        callbacks = RosActionServer(*guarded, self.message(f"{action.type}_Result"))
        server = ActionServer(
            self._node,
            action_type,
            action.name,
            callbacks.execute,
            goal_callback=callbacks.on_goal,
            handle_accepted_callback=callbacks.on_accepted,
            cancel_callback=callbacks.on_cancel,
            callback_group=ReentrantCallbackGroup(),
        )
        self._entities += [server.destroy, callbacks.close]  # closed first: destroying makes its goals unreachable

    def _guarded(self, name: str, callback: Callable[..., T]) -> Callable[..., T | None]:
        """Wrap a callback: what it raises is reported, and then it returns None."""

        def guarded(*arguments: object) -> T | None:
            try:
                result = callback(*arguments)
            except Exception as error:  # noqa: BLE001 - the top of a callback
                self._report(name, error)
                return None
            self._problems.pop(name, None)
            return result

        return guarded

    def _report(self, name: str, error: Exception) -> None:
        problem = f"{name}: {type(error).__name__}: {error}"
        self._problems[name] = problem
        with contextlib.suppress(Exception):  # one that raises must not end the executor, which carries stops
            self._on_broken(problem)

    def _note_qos(self, topic: interface.Topic, is_ours_published: bool) -> None:
        self._mismatched[f"{topic.name} {is_ours_published}"] = (topic, is_ours_published)


class _Publisher:
    """A `graph.interface.Publisher`."""

    def __init__(self, publisher: RclpyPublisher, may_be_missed: bool) -> None:
        self._publisher, self._may_be_missed = publisher, may_be_missed

    def publish(self, message: interface.Message) -> None:
        """Send a message."""
        # A subscriber that takes no pictures makes the middleware wait, and then give up: it misses one.
        with contextlib.suppress(*((RuntimeError,) if self._may_be_missed else ())):
            self._publisher.publish(message)

    def listeners(self) -> int:
        """Count the matching subscriptions."""
        return int(self._publisher.get_subscription_count())


def _rclpy_type(name: str) -> type:
    """Return the class of a service or an action."""
    package, kind, short = name.split("/")
    rclpy_type: type = getattr(importlib.import_module(f"{package}.{kind}"), short)
    return rclpy_type
