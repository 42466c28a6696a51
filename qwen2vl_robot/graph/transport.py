"""The name of a transport ("dds", "ros" or "auto") → a node on the ROS 2 graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.interface import Graph

TRANSPORTS = ("auto", "dds", "ros")


def has_rclpy() -> bool:
    """Return whether this interpreter finds rclpy, ROS 2's Python client."""
    return importlib.util.find_spec("rclpy") is not None


def check_transport(transport: str) -> None:
    """Check a transport's name before anything is started.

    Raises:
        BadInputError: the transport is unknown, or rclpy is needed and not installed.
    """
    if transport not in TRANSPORTS:
        raise BadInputError(f"--graph {transport}: unknown; allowed: {', '.join(TRANSPORTS)}")
    if transport == "ros" and not has_rclpy():
        raise BadInputError("--graph ros: rclpy is not installed; source a ROS 2 setup file, or use --graph dds")


def open_graph(
    transport: str,
    node: str,
    *,
    namespace: str = "/",
    remap: Mapping[str, str] | None = None,
    use_sim_time: bool = False,
) -> Graph:
    """Join the graph as a node; "auto" uses rclpy where it is installed.

    Args:
        remap: "from" → "to".

    Raises:
        BadInputError: the transport is unknown, rclpy is needed and not installed, or a name cannot be used.
    """
    check_transport(transport)
    if transport == "ros" or (transport == "auto" and has_rclpy()):
        from qwen2vl_robot.graph.ros import RosGraph

        return RosGraph(node, namespace=namespace, remap=remap, use_sim_time=use_sim_time)
    from qwen2vl_robot.graph.dds import DdsGraph

    return DdsGraph(node, namespace=namespace, remap=remap, use_sim_time=use_sim_time)
