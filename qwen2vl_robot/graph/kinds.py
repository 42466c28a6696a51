"""What an end of the graph is: a topic with its quality of service, a service, an action. The table is `interface`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Qos(Enum):
    """A topic's quality of service: (reliable, transient local, depth)."""

    SENSOR = (False, False, 1)  # only the latest message is useful
    PICTURE = (True, False, 2)  # published, for reliable subscribers (RViz) and others (REP 2003)
    STATE = (False, False, 100)  # joint states: small messages, several publishers at up to 1 kHz between two looks
    COMMAND = (True, False, 10)  # none may be lost, and none sent before we subscribed may act
    ANY = (False, False, 10)  # matches every publisher, also one that is not reliable
    ANY_TF = (False, False, 100)
    LATCHED = (True, True, 1)  # late subscribers get the latest message
    DIFFS = (True, True, 10)  # each builds on the one before: a slow subscriber must not miss one, a late one gets some
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
        """Return the same topic under another name (a second camera, a controller that the robot file names)."""
        return replace(self, name=name)

    def published(self) -> Topic:
        """Return the same topic as its publisher offers it: reliably, where we subscribe to it as sensor data."""
        return replace(self, qos=Qos.PICTURE) if self.qos in (Qos.SENSOR, Qos.STATE) else self


@dataclass(frozen=True, slots=True)
class Service:
    """One service: name, ROS type, meaning."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ActionInterface:
    """One action: name, ROS type ("control_msgs/action/GripperCommand"), meaning."""

    name: str
    type: str
    meaning: str

    def at(self, name: str) -> ActionInterface:
        """Return the same action under another name."""
        return replace(self, name=name)
