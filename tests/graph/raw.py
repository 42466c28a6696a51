"""Publishers and subscribers of ROS 2 topics by Cyclone DDS alone: types and QoS of their own."""

# No `from __future__ import annotations`: Cyclone's classes evaluate their annotations as types.
from dataclasses import dataclass, field

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import float64, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic


@dataclass
class Time(IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: int32 = 0
    nanosec: uint32 = 0


@dataclass
class Header(IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
class String(IdlStruct, typename="std_msgs.msg.dds_.String_"):
    data: str = ""


@dataclass
class JointState(IdlStruct, typename="sensor_msgs.msg.dds_.JointState_"):
    header: Header = field(default_factory=Header)
    name: sequence[str] = field(default_factory=list)
    position: sequence[float64] = field(default_factory=list)
    velocity: sequence[float64] = field(default_factory=list)
    effort: sequence[float64] = field(default_factory=list)


@dataclass
class Image(IdlStruct, typename="sensor_msgs.msg.dds_.Image_"):
    header: Header = field(default_factory=Header)
    height: uint32 = 0
    width: uint32 = 0
    encoding: str = ""
    is_bigendian: uint8 = 0
    step: uint32 = 0
    data: sequence[uint8] = field(default_factory=list)


@dataclass
class KeyValue(IdlStruct, typename="diagnostic_msgs.msg.dds_.KeyValue_"):
    key: str = ""
    value: str = ""


@dataclass
class DiagnosticStatus(IdlStruct, typename="diagnostic_msgs.msg.dds_.DiagnosticStatus_"):
    level: uint8 = 0
    name: str = ""
    message: str = ""
    hardware_id: str = ""
    values: sequence[KeyValue] = field(default_factory=list)


@dataclass
class DiagnosticArray(IdlStruct, typename="diagnostic_msgs.msg.dds_.DiagnosticArray_"):
    header: Header = field(default_factory=Header)
    status: sequence[DiagnosticStatus] = field(default_factory=list)


def qos(*, reliable: bool, depth: int = 10) -> Qos:
    """What a plain ROS 2 publisher or subscription asks for: volatile, and reliable unless it is for sensors."""
    reliability = Policy.Reliability.Reliable(1_000_000_000) if reliable else Policy.Reliability.BestEffort
    representation = Policy.DataRepresentation(use_cdrv0_representation=True)
    return Qos(reliability, Policy.History.KeepLast(depth), representation)


def writer(participant: DomainParticipant, name: str, kind: type, *, reliable: bool, depth: int = 10) -> DataWriter:
    """Publish on a topic, such as /joint_states."""
    return DataWriter(participant, Topic(participant, f"rt{name}", kind), qos(reliable=reliable, depth=depth))


def reader(participant: DomainParticipant, name: str, kind: type, *, reliable: bool, depth: int = 10) -> DataReader:
    """Subscribe to a topic, such as /joint_states."""
    return DataReader(participant, Topic(participant, f"rt{name}", kind), qos(reliable=reliable, depth=depth))
