"""Names of topics, services and actions, remapping and `--ros-args`, by the rules of ROS 2."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwen2vl_robot.errors import BadInputError

_NAME = re.compile(r"^(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")


def resolve_name(name: str, node: str, namespace: str = "/", remap: Mapping[str, str] | None = None) -> str:
    """Resolve a name as ROS 2 does: `~/` and the namespace give the absolute name, then the first fitting rule applies.

    Args:
        remap: "from" → "to".

    Raises:
        BadInputError: ROS 2 does not allow the name.

    >>> resolve_name("~/plan", "qwen2vl_robot", "/left")
    '/left/qwen2vl_robot/plan'
    >>> resolve_name("image", "n", "/", {"image": "/camera/color/image_raw"})
    '/camera/color/image_raw'
    """
    base = "/" + namespace.strip("/")
    full = _expand(name, node, base)
    for left, right in (remap or {}).items():
        if _expand(left, node, base) == full:
            full = _expand(right, node, base)
            break
    return full


def _expand(name: str, node: str, base: str) -> str:
    if not _NAME.match(name):
        raise BadInputError(f"{name!r} is no ROS name; allowed: letters, digits, _ and /, no part starts with a digit")
    if name.startswith("/"):
        return name
    prefix = "" if base == "/" else base
    return f"{prefix}/{node}/{name[2:]}" if name.startswith("~/") else f"{prefix}/{name}"


_SCHEME = re.compile(r"^(rostopic|rosservice)://")
_FOR_NODE = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*):(?!=)(?!//)(.*)$", re.DOTALL)


def for_node(rules: list[str], *nodes: str) -> list[str]:
    """Keep the rules of remapping, or of parameters, that apply to nodes: those without a node's name, and their own.

    >>> for_node(["image:=a", "plant:image:=b", "left:image:=c"], "left")
    ['image:=a', 'image:=c']
    """
    parts = [(rule, _FOR_NODE.match(rule)) for rule in rules]
    return [rule if own is None else own[2] for rule, own in parts if own is None or own[1] in nodes]


def parse_remaps(rules: list[str], node: str, namespace: str) -> tuple[dict[str, str], str, str]:
    """Parse "[node:]from:=to" rules; `__node` (or `__name`) and `__ns` set the node's name and namespace.

    Returns:
        (from → to, node name, namespace).

    Raises:
        BadInputError: a rule has another form.
    """
    mapping: dict[str, str] = {}
    for rule in for_node(rules, node):
        left, separator, right = _SCHEME.sub("", rule).partition(":=")
        if not separator or not (left == "__ns" or all(_NAME.match(name) for name in (left, right))):
            raise BadInputError(f"--remap {rule}: the form is from:=to or node:from:=to, all ROS names")
        mapping.setdefault("__node" if left == "__name" else left, right)  # the first rule that fits counts
    return mapping, mapping.pop("__node", node), mapping.pop("__ns", namespace)


_ROS_VALUES = {
    **dict.fromkeys(("-r", "--remap"), "-r"),
    **dict.fromkeys(("-p", "--param"), "-p"),
    **dict.fromkeys(("-e", "--enclave"), "--enclave"),
    **{name: name for name in ("--params-file", "--log-level", "--log-config-file", "--log-file-name")},
}
_ROS_FLAGS = re.compile(r"^--(enable|disable)-(rosout|stdout|external-lib)-logs$")


def split_ros_arguments(arguments: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a command line into what stands outside of `--ros-args ... --`, and the pairs of option and value inside.

    Short names of options become those of `_ROS_VALUES`; a flag's value is "".

    Raises:
        BadInputError: ROS 2 does not know an argument, or its value is missing.

    >>> split_ros_arguments(["run", "--ros-args", "-e", "/arm", "--", "--graph", "dds"])
    (['run', '--graph', 'dds'], [('--enclave', '/arm')])
    """
    own: list[str] = []
    ros: list[tuple[str, str]] = []
    is_ros, rest = False, iter(arguments)
    for argument in rest:
        if argument == "--ros-args":
            is_ros = True
        elif argument == "--" and is_ros:
            is_ros = False
        elif not is_ros:
            own.append(argument)
        elif _ROS_FLAGS.match(argument):
            ros.append((argument, ""))
        elif (value := next(rest, None) if argument in _ROS_VALUES else None) is None:
            raise BadInputError(f"--ros-args: {argument} is unknown or has no value; known: {', '.join(_ROS_VALUES)}")
        else:
            ros.append((_ROS_VALUES[argument], value))
    return own, ros
