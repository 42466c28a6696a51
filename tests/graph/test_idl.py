"""Every type's bytes are those of rosbags' serialiser, which shares no code with Cyclone's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import Nodetype

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.idl import DISTROS, message_class, service_class, type_hash, typestore

TOPICS = sorted({t.type for t in (*interface.TOPICS_IN, *interface.TOPICS_OUT)})
ACTIONS = sorted({a.type for a in interface.ACTIONS})
SERVICES = sorted({s.type for s in interface.SERVICES} | {"action_msgs/srv/CancelGoal"})
ENDS = ("SendGoal_Request", "SendGoal_Response", "GetResult_Request", "GetResult_Response", "FeedbackMessage")
TYPES = [
    *TOPICS,
    "action_msgs/msg/GoalStatusArray",
    "rmw_dds_common/msg/ParticipantEntitiesInfo",
    *(f"{a}_{end}" for a in ACTIONS for end in ENDS),
    *(f"{s}_{end}" for s in SERVICES for end in ("Request", "Response")),
]
NUMPY = {"byte": "uint8", "char": "uint8", "octet": "uint8"}


class Pair:
    """Makes messages of rosbags and of ours with the same random content."""

    def __init__(self, distro: str, seed: int) -> None:
        self.distro, self.store, self.rng = distro, typestore(distro), np.random.default_rng(seed)

    def message(self, name: str) -> tuple[Any, Any]:
        pairs = {field: self.value(d) for field, d in self.store.fielddefs[name][1]}
        theirs = self.store.types[name](**{f: p[0] for f, p in pairs.items()})
        return theirs, message_class(name, self.distro)(**{f: p[1] for f, p in pairs.items()})

    def value(self, description: Any) -> tuple[Any, Any]:
        kind, detail = description
        if kind == Nodetype.NAME:
            return self.message(detail)
        if kind == Nodetype.BASE:
            return (self.plain(detail[0]),) * 2
        count = detail[1] if kind == Nodetype.ARRAY else int(self.rng.integers(0, 4))
        items = [self.value(detail[0]) for _ in range(count)]
        base = detail[0][1][0] if detail[0][0] == Nodetype.BASE else "string"
        ours = [b for _, b in items]
        if base == "string":
            return [a for a, _ in items], ours
        theirs = np.array(ours, dtype=NUMPY.get(base, base))
        return theirs, bytes(theirs) if theirs.dtype == np.uint8 else ours

    def plain(self, base: str) -> Any:
        if base == "string":
            return "".join(self.rng.choice(list("aß日 z"), int(self.rng.integers(0, 9))))
        if base == "bool":
            return bool(self.rng.integers(0, 2))
        if base.startswith("float"):
            return float(np.float32(self.rng.normal()))
        info = np.iinfo(NUMPY.get(base, base))
        most = 127 if base == "byte" else info.max  # rosbags takes a byte for signed
        return int(self.rng.integers(info.min, most, dtype=info.dtype))


@pytest.mark.parametrize("distro", DISTROS)
@pytest.mark.parametrize("name", TYPES)
def test_our_bytes_are_those_of_another_serialiser(name: str, distro: str) -> None:
    for seed in range(3):
        theirs, ours = Pair(distro, seed).message(name)
        expected = bytes(typestore(distro).serialize_cdr(theirs, name))
        written = ours.serialize(use_version_2=False)
        assert written[: len(expected)] == expected
        assert len(written) - len(expected) < 4  # Cyclone pads to four bytes
        read = type(ours).deserialize(expected)
        assert read.serialize(use_version_2=False) == written


def test_a_service_message_begins_with_the_client_and_the_call() -> None:
    kind = service_class("std_srvs/srv/Trigger_Response")
    written = kind(guid=0x0102030405060708, seq=9, success=True, message="ok").serialize(use_version_2=False)
    assert written[4:20] == (0x0102030405060708).to_bytes(8, "little") + (9).to_bytes(8, "little")
    assert kind.__idl_typename__ == "std_srvs.srv.dds_.Trigger_Response_"


@pytest.mark.parametrize(
    ("name", "digits"),
    [  # as `ros2 topic info --verbose` prints them on Jazzy
        ("sensor_msgs/msg/Image", "d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"),
        ("std_msgs/msg/String", "df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"),
    ],
)
def test_type_hashes_are_those_of_ros(name: str, digits: str) -> None:
    assert type_hash(name, "jazzy") == f"RIHS01_{digits}"
    assert type_hash(name, "humble") == ""


def test_an_image_takes_bytes_without_copying_them_one_by_one() -> None:
    data = np.arange(1080 * 1920 * 3, dtype=np.uint8).tobytes()
    image = message_class("sensor_msgs/msg/Image")(height=1080, width=1920, step=5760, encoding="rgb8", data=data)
    assert type(image).deserialize(image.serialize(use_version_2=False)).data == data


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="no field hight"):
        message_class("sensor_msgs/msg/Image")(hight=3)


def test_an_unknown_distribution_is_named_with_the_known_ones() -> None:
    with pytest.raises(BadInputError, match="indigo.*humble, jazzy, lyrical"):
        typestore("indigo")
