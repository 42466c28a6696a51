"""Our quality of service → rclpy's, and whether another node's does not match it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from qwen2vl_robot.graph import interface

if TYPE_CHECKING:
    from rclpy.node import Node


def qos_profile(qos: interface.Qos) -> QoSProfile:
    """Make rclpy's profile."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.is_latched else DurabilityPolicy.VOLATILE,
    )


def is_mismatched(node: Node, topic: interface.Topic, is_ours_published: bool) -> bool:
    """Return whether the other end of a topic has an endpoint now whose QoS does not match ours."""
    name, ours = node.resolve_topic_name(topic.name), qos_profile(topic.qos)
    if is_ours_published:
        pairs = [(ours, theirs.qos_profile) for theirs in node.get_subscriptions_info_by_topic(name)]
    else:
        pairs = [(theirs.qos_profile, ours) for theirs in node.get_publishers_info_by_topic(name)]
    return any(qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR for pair in pairs)
