"""rclpy in this process: started once, spun on a thread, without its handlers of signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions

THREADS = 12
JOIN_S = 5.0


def start_rclpy(arguments: Sequence[str] = ()) -> None:
    """Start rclpy once, without its signal handlers: the arm is halted before the node leaves the graph.

    Args:
        arguments: of the process, such as ["--enclave", "/arm"]; remapping and parameters are each node's own.
    """
    if not rclpy.ok():
        given = ["--ros-args", *arguments] if arguments else []
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)


def spin(executor: MultiThreadedExecutor, report: Callable[[Exception], None]) -> None:
    """Run callbacks until rclpy or the executor shuts down; what rclpy raises is reported, and stops still come."""
    while True:
        try:
            executor.spin()
        except ExternalShutdownException:
            return
        except Exception as error:  # noqa: BLE001 - the top of a thread
            report(error)
        else:
            return


def remap_arguments(remap: Mapping[str, str] | None) -> list[str]:
    """Turn remapping rules into command-line arguments of a node."""
    rules = [part for left, right in (remap or {}).items() for part in ("-r", f"{left}:={right}")]
    return ["--ros-args", *rules] if rules else []
