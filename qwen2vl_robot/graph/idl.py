"""ROS message definitions → the classes that Cyclone DDS writes, byte for byte as ROS 2 does, and their type hashes.

rosbags has the definitions of each ROS distribution; `definitions` has those that it lacks. rmw_cyclonedds matches
types by name alone, so a wrong layout would arrive as garbage without an error: tests/graph/test_idl.py compares the
bytes of every type with those of rosbags' own serialiser.
"""

# No `from __future__ import annotations`: Cyclone's classes evaluate their annotations as types.
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from cyclonedds.idl import IdlStruct, make_idl_struct
from cyclonedds.idl import types as idl
from cyclonedds.idl._machinery import BytesMachine  # fast for images; a list of numbers takes 0.4 s at 1080p
from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import BaseDesc, Basename, Fielddefs, FieldDesc, NameDesc
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.definitions import definitions

DISTROS = {"humble": Stores.ROS2_HUMBLE, "jazzy": Stores.ROS2_JAZZY, "lyrical": Stores.ROS2_LYRICAL}
DEFAULT_DISTRO = "jazzy"


@cache
def typestore(distro: str) -> Typestore:
    """Return the message definitions of one ROS distribution, with ours added.

    Raises:
        BadInputError: the distribution is not in `DISTROS`.
    """
    if distro not in DISTROS:
        raise BadInputError(f"ROS distribution {distro!r} is unknown; known: {', '.join(DISTROS)}")
    store = get_typestore(DISTROS[distro])
    missing = {name: text for name, text in definitions(distro).items() if name not in store.fielddefs}
    # ROS gives an empty message one byte, because C has no empty structs.
    store.register(
        {name: ([], _parse(text or "uint8 structure_needs_at_least_one_member")) for name, text in missing.items()}
    )
    return store


def _parse(text: str) -> Fielddefs:
    """Parse lines of "type name" into rosbags' field descriptions; its own parser takes seconds for these few."""
    return [(field, _describe(kind)) for kind, field in (line.split() for line in text.splitlines())]


def _describe(kind: str) -> FieldDesc:
    return (Nodetype.SEQUENCE, (_describe_one(kind[:-2]), 0)) if kind.endswith("[]") else _describe_one(kind)


def _describe_one(kind: str) -> BaseDesc | NameDesc:
    if "/" not in kind:
        return (Nodetype.BASE, (cast("Basename", kind), 0))
    package, *_, short = kind.split("/")
    return (Nodetype.NAME, kind if kind.count("/") == 2 else f"{package}/msg/{short}")


def type_hash(name: str, distro: str) -> str:
    """Return the RIHS01 hash by which ROS 2 compares definitions; "" for Humble, which has none."""
    return "" if distro == "humble" else str(typestore(distro).hash_rihs01(name))


# ------------------------------------------------------------------------------------------- the classes

Hint = object  # a field's type, as Cyclone reads it
Default = Callable[[], object]  # makes a field's default value

_PRIMITIVES: dict[str, Hint] = {
    **{name: getattr(idl, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    "float32": idl.float32,
    "float64": idl.float64,
    "bool": bool,
    "byte": idl.uint8,
    "char": idl.uint8,
    "octet": idl.uint8,
    "string": str,
}
_BYTES = ("uint8", "byte", "char", "octet")
_ZEROS = {"bool": False, "string": "", "float32": 0.0, "float64": 0.0}


if TYPE_CHECKING:

    class DdsMessage(IdlStruct):
        """Any message class: fields by keyword, the others at ROS's defaults (0, "", empty, nested defaults)."""

        _defaults: dict[str, Default]  # field → its default's maker

        def __init__(self, **values: object) -> None: ...

        def __getattr__(self, field: str) -> Any: ...

else:
    # No class in between: Cyclone would announce it as the base type of each message, and then no participant that
    # announces the plain types would match.
    DdsMessage = IdlStruct


def _init(message: DdsMessage, /, **values: object) -> None:
    unknown = values.keys() - message._defaults.keys()
    if unknown:
        raise TypeError(f"{type(message).__name__} has no field {', '.join(sorted(unknown))}")
    for name, default in message._defaults.items():
        setattr(message, name, values[name] if name in values else default())


def _repr(message: DdsMessage) -> str:
    return f"{type(message).__name__}({', '.join(f'{n}={getattr(message, n)!r}' for n in message._defaults)})"


@cache
def message_class(name: str, distro: str = DEFAULT_DISTRO) -> type[DdsMessage]:
    """Return the class of a ROS type: "sensor_msgs/msg/Image", "std_srvs/srv/Trigger_Request"."""
    return _make(name, typestore(distro).fielddefs[name][1], distro)


@cache
def service_class(name: str, distro: str = DEFAULT_DISTRO) -> type[DdsMessage]:
    """Return the class of a request or response on the wire: the client's id and the call's number come first."""
    head: Fielddefs = [("guid", (Nodetype.BASE, ("uint64", 0))), ("seq", (Nodetype.BASE, ("int64", 0)))]
    return _make(name, [*head, *typestore(distro).fielddefs[name][1]], distro)


def _make(name: str, fields: Fielddefs, distro: str) -> type[DdsMessage]:
    package, kind, short = name.split("/")
    read = {field: _field(description, distro) for field, description in fields}
    message_type = cast(
        "type[DdsMessage]",
        make_idl_struct(
            short,
            f"{package}.{kind}.dds_.{short}_",
            {field: hint for field, (hint, _) in read.items()},
            dataclassify=False,
        ),
    )
    methods: Any = message_type
    methods.__init__, methods.__repr__ = _init, _repr
    message_type._defaults = {field: default for field, (_, default) in read.items()}
    machinery: Any = message_type.__idl__  # Cyclone does not annotate it
    machinery.populate()
    for field, description in fields:
        if description[0] == Nodetype.SEQUENCE and description[1][0][1][0] in _BYTES:
            machinery.v1_machine.members_machines[field] = BytesMachine()  # type: ignore[no-untyped-call]
    return message_type


def _field(description: FieldDesc, distro: str) -> tuple[Hint, Default]:
    """Return a field's type for Cyclone and the maker of its default value."""
    if description[0] == Nodetype.BASE:
        zero = _ZEROS.get(description[1][0], 0)
        return _PRIMITIVES[description[1][0]], lambda: zero
    if description[0] == Nodetype.NAME:
        inner = message_class(description[1], distro)
        return inner, inner
    element, length = description[1]
    hint, default = _field(element, distro)
    are_bytes = element[0] == Nodetype.BASE and element[1][0] in _BYTES
    array, sequence = cast("Any", idl.array), cast("Any", idl.sequence)
    if description[0] == Nodetype.ARRAY:
        return array[hint, length], lambda: bytes(length) if are_bytes else [default() for _ in range(length)]
    return sequence[hint], bytes if are_bytes else list
