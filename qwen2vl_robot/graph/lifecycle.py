"""The controller → a ROS 2 lifecycle node: configure loads, activate takes instructions, the other transitions halt."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import rclpy
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter

from qwen2vl_robot.config import parse
from qwen2vl_robot.errors import ExecutionError, RobotError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.ros import RosGraph
from qwen2vl_robot.graph.ros_log import make_handler
from qwen2vl_robot.graph.ros_process import JOIN_S, THREADS, remap_arguments, spin, start_rclpy
from qwen2vl_robot.log import start_logging

if TYPE_CHECKING:
    from rclpy.lifecycle import State

SettingsType = TypeVar("SettingsType", bound=BaseModel)


class Managed(Protocol):
    """What a lifecycle node manages, such as `nodes.controller_node.ControllerNode`."""

    def configure(self) -> None: ...

    def activate(self) -> None: ...

    def deactivate(self) -> None: ...

    def spin(self) -> None: ...

    def stop(self, reason: str) -> str: ...

    def stopped_by(self) -> str | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LifecycleOptions:
    """How a lifecycle node is started.

    Attributes:
        namespace: prefix of every relative name.
        remap: "from" → "to".
        autostart: whether it configures and activates itself.
        log_level: "debug" to "fatal", as in `log.LEVELS`.
        ready: file to create as soon as the node is started.
    """

    namespace: str
    remap: Mapping[str, str]
    autostart: bool = True
    log_level: str = "info"
    ready: Path | None = None


class LifecycleShell(LifecycleNode):
    """The parameters and transitions of a lifecycle node around a `Managed`."""

    def __init__(
        self,
        name: str,
        make: Callable[[interface.Graph, SettingsType], Managed],
        settings: SettingsType,
        *,
        namespace: str,
        remap: Mapping[str, str],
    ) -> None:
        given = settings.model_dump(mode="json")
        overrides = [Parameter("use_sim_time", value=given.pop("use_sim_time", False))]
        super().__init__(name, namespace=namespace, cli_args=remap_arguments(remap), parameter_overrides=overrides)
        self._make, self._settings_type = make, type(settings)
        self._names = tuple(given)
        for field, value in given.items():
            self.declare_parameter(field, value, _descriptor(type(settings), field))
        self._managed: Managed | None = None
        self._graph: RosGraph | None = None
        self._work: threading.Thread | None = None
        self._stopped_by: str | None = None  # outlives the managed object: only ~/reset releases a stop

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load the model and start the workers; the log says what is missing."""
        names = (*self._names, "use_sim_time")
        values = {n: self.get_parameter(n).value for n in names if n in self._settings_type.model_fields}
        try:
            settings = parse(values, self._settings_type, "parameters")
            self._graph = RosGraph(self)
            self._managed = self._make(self._graph, settings)
            if self._stopped_by is not None:
                self._managed.stop(self._stopped_by)
            self._managed.configure()
        except RobotError as error:
            self.get_logger().error(f"not configured: {error}")
            self.take_down()
            return TransitionCallbackReturn.FAILURE
        self._work = threading.Thread(target=self._managed.spin, name="work", daemon=True)
        self._work.start()
        return super().on_configure(state)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start to take instructions."""
        if self._managed is not None:
            self._managed.activate()
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Halt the arm and take no more instructions."""
        if self._managed is not None:
            self._managed.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Halt the arm and unload."""
        self.take_down()
        return super().on_cleanup(state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Halt the arm and unload."""
        self.take_down()
        return super().on_shutdown(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Halt the arm and unload."""
        self.take_down()
        return super().on_error(state)

    def on_broken(self, error: Exception) -> None:
        """Stop after rclpy raised: its effect is unknown, so a person has to look first."""
        self.get_logger().error(f"rclpy: {type(error).__name__}: {error}")
        if self._managed is not None:
            self._managed.stop(f"rclpy failed: {error}")

    def take_down(self) -> None:
        """Halt the arm and unload; a second call does nothing."""
        managed, graph, self._managed, self._graph = self._managed, self._graph, None, None
        if managed is not None:
            managed.close()
        if self._work is not None:
            self._work.join(JOIN_S)
        if graph is not None:
            graph.close()
        if managed is not None:  # last: a stop may come until the graph is closed
            self._stopped_by = managed.stopped_by()


def run_lifecycle(
    name: str,
    make: Callable[[interface.Graph, SettingsType], Managed],
    settings: SettingsType,
    options: LifecycleOptions,
) -> None:
    """Run a lifecycle node until SIGINT or SIGTERM.

    Raises:
        ExecutionError: with `options.autostart`, it could not be configured or activated; the log says why.
    """
    start_rclpy()
    node = LifecycleShell(name, make, settings, namespace=options.namespace, remap=options.remap)
    start_logging(options.log_level, make_handler(node.get_logger(), options.log_level))
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    executor = MultiThreadedExecutor(THREADS)
    executor.add_node(node)
    spinning = threading.Thread(target=spin, args=(executor, node.on_broken), name="rclpy", daemon=True)
    spinning.start()
    try:
        if options.autostart:
            for step in (node.trigger_configure, node.trigger_activate):
                if step() != TransitionCallbackReturn.SUCCESS:
                    raise ExecutionError(f"{name} could not be started; the log says why")
        if options.ready is not None:
            options.ready.touch()
        ended.wait()
    finally:
        node.take_down()
        executor.shutdown(JOIN_S)
        spinning.join(JOIN_S)
        node.destroy_node()
        rclpy.try_shutdown()


def _descriptor(settings: type[BaseModel], field: str) -> ParameterDescriptor:
    """Describe a settings field; read-only, because the settings are read once, when the node is configured."""
    info = settings.model_fields[field]
    descriptor = ParameterDescriptor(description=info.description or "", read_only=True)
    if info.annotation is float:
        low, high = (_bound(info, *names) for names in (("ge", "gt", math.inf), ("le", "lt", -math.inf)))
        bounds = -sys.float_info.max if low is None else low, sys.float_info.max if high is None else high
        descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1], step=0.0)]
    elif info.annotation is int:
        low, high = (_bound(info, *names) for names in (("ge", "gt", 1), ("le", "lt", -1)))
        limits = -(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high)
        descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=1)]
    return descriptor


def _bound(info: FieldInfo, inclusive: str, exclusive: str, inwards: float) -> float | None:
    """The last value that is allowed, None where there is none: an exclusive bound is the next number `inwards`."""
    for constraint in info.metadata:
        if (value := getattr(constraint, inclusive, None)) is not None:
            return float(value)
        if (value := getattr(constraint, exclusive, None)) is not None:
            return float(value + inwards if math.isfinite(inwards) else np.nextafter(float(value), inwards))
    return None
