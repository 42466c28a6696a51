"""Names of topics, services and nodes → absolute ones, by ROS 2's rules of namespaces and remapping."""

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


def parse_remaps(rules: list[str], node: str, namespace: str) -> tuple[dict[str, str], str, str]:
    """Parse "from:=to" rules; `__node` and `__ns` set the node's name and namespace.

    Returns:
        (from → to, node name, namespace).

    Raises:
        BadInputError: a rule has another form.
    """
    pairs = [rule.split(":=") for rule in rules]
    for rule, pair in zip(rules, pairs, strict=True):
        if len(pair) != 2 or not (pair[0] == "__ns" or all(_NAME.match(name) for name in pair)):
            raise BadInputError(f"--remap {rule}: the form is from:=to, both ROS names")
    mapping = {pair[0]: pair[1] for pair in pairs}
    return mapping, mapping.pop("__node", node), mapping.pop("__ns", namespace)
