"""Another vendor's node, as far as the wire shows: Cyclone DDS alone, with ROS 2's messages written out by hand.

It shares nothing with `qwen2vl_robot.graph` but Cyclone DDS. The IDL reads the annotations, so they are types here.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any

from cyclonedds.core import DDSException, Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float64, int8, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

NS = 10**9
_LOOPBACK = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex><Peers><Peer address="localhost"/></Peers></Discovery>
</Domain></CycloneDDS>"""
_domains: list[Domain] = []


@dataclass
class Time(IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: int32 = 0
    nanosec: uint32 = 0


@dataclass
class Header(IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
class Clock(IdlStruct, typename="rosgraph_msgs.msg.dds_.Clock_"):
    clock: Time = field(default_factory=Time)


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


@dataclass
class Vector3(IdlStruct, typename="geometry_msgs.msg.dds_.Vector3_"):
    x: float64 = 0.0
    y: float64 = 0.0
    z: float64 = 0.0


@dataclass
class Quaternion(IdlStruct, typename="geometry_msgs.msg.dds_.Quaternion_"):
    x: float64 = 0.0
    y: float64 = 0.0
    z: float64 = 0.0
    w: float64 = 1.0


@dataclass
class Transform(IdlStruct, typename="geometry_msgs.msg.dds_.Transform_"):
    translation: Vector3 = field(default_factory=Vector3)
    rotation: Quaternion = field(default_factory=Quaternion)


@dataclass
class TransformStamped(IdlStruct, typename="geometry_msgs.msg.dds_.TransformStamped_"):
    header: Header = field(default_factory=Header)
    child_frame_id: str = ""
    transform: Transform = field(default_factory=Transform)


@dataclass
class TFMessage(IdlStruct, typename="tf2_msgs.msg.dds_.TFMessage_"):
    transforms: sequence[TransformStamped] = field(default_factory=list)


@dataclass
class UUID(IdlStruct, typename="unique_identifier_msgs.msg.dds_.UUID_"):
    uuid: array[uint8, 16] = field(default_factory=lambda: [0] * 16)


@dataclass
class GoalInfo(IdlStruct, typename="action_msgs.msg.dds_.GoalInfo_"):
    goal_id: UUID = field(default_factory=UUID)
    stamp: Time = field(default_factory=Time)


@dataclass
class GoalStatus(IdlStruct, typename="action_msgs.msg.dds_.GoalStatus_"):
    goal_info: GoalInfo = field(default_factory=GoalInfo)
    status: int8 = 0


@dataclass
class GoalStatusArray(IdlStruct, typename="action_msgs.msg.dds_.GoalStatusArray_"):
    status_list: sequence[GoalStatus] = field(default_factory=list)


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


def stamp(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS)


def transform(parent: str, child: str, z_m: float, stamp_ns: int) -> TFMessage:
    """A frame straight above another."""
    pose = Transform(translation=Vector3(z=z_m))
    return TFMessage([TransformStamped(Header(stamp(stamp_ns), parent), child, pose)])


class Sender:
    """One participant with one writer; closed by `close`.

    Args:
        name: of the ROS topic, such as "/left/clock".
    """

    def __init__(self, domain: int, name: str, kind: Any, *, reliable: bool = True, latched: bool = False) -> None:
        with contextlib.suppress(DDSException):  # another node of this process has configured the domain
            _domains.append(Domain(domain, _LOOPBACK))
        reliability = Policy.Reliability.Reliable(NS) if reliable else Policy.Reliability.BestEffort
        policies = [reliability, Policy.History.KeepLast(10), Policy.DataRepresentation(use_cdrv0_representation=True)]
        policies += [Policy.Durability.TransientLocal] if latched else []
        self.participant = DomainParticipant(domain)
        self.writer: Any = DataWriter(self.participant, Topic(self.participant, f"rt{name}", kind), Qos(*policies))

    def listeners(self) -> int:
        return len(self.writer.get_matched_subscriptions())

    def send(self, message: Any) -> None:
        self.writer.write(message)
