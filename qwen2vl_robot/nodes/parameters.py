"""A ROS parameter file and a node's name → the values that apply to it, by the rules of rcl.

Names of nodes are whole: /left/qwen2vl_robot, or the same nested. `*` stands for one part of a name and `**` for any
number of them. What stands later in a file counts more.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from qwen2vl_robot.bounds import VALUE_CHARS, shown
from qwen2vl_robot.documents import read_yaml
from qwen2vl_robot.errors import BadInputError

_log = logging.getLogger(__name__)
_VALUES = "ros__parameters"


def read_parameters(path: Path, node: str, known: Collection[str]) -> dict[str, object]:
    """Read the parameters of one node from a file; nested ones are named with dots.

    What a section for nodes of any name (`/**`, `/left/*`) says about parameters that this node does not have is for
    other nodes: it is ignored with a warning, as rcl does. One that names this node, in whatever namespace, may hold no
    other parameters; the caller checks that.

    Args:
        node: the node's full name, such as /left/qwen2vl_robot.
        known: the node's parameters.

    Raises:
        BadInputError: not a parameter file.
    """
    data = read_yaml(path)
    if not isinstance(data, dict | NoneType):
        raise BadInputError(f"{shown(path)}: a mapping is needed, found {type(data).__name__}")
    values: dict[str, object] = {}
    for pattern, section in _sections(data or {}, "", path):
        if not _matches(pattern, node):
            continue
        for name, value in _flat(section, ""):
            if name in known or "*" not in pattern.rpartition("/")[2]:
                values[name] = value
            else:
                _log.warning("%s: %s", shown(path), _ignored(name, pattern, known))
    return values


def _sections(data: dict[Any, Any], above: str, path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Each node's name or pattern with its values, in the order of the file."""
    for key, section in data.items():
        name = f"{above}/{str(key).strip('/')}"
        values = section.get(_VALUES) if isinstance(section, dict) else None
        if isinstance(values, dict):
            yield name, values
        elif isinstance(section, dict) and section and _VALUES not in section:
            yield from _sections(section, name, path)
        else:  # not named: the file may be one of secrets
            raise BadInputError(f"{shown(path)}: each node's name needs {_VALUES}: followed by names and values")


def _flat(section: dict[Any, Any], above: str) -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _matches(pattern: str, node: str) -> bool:
    """Whether a name with wildcards means a node.

    >>> _matches("/**/qwen2vl_robot", "/left/qwen2vl_robot"), _matches("/qwen2vl_robot", "/left/qwen2vl_robot")
    (True, False)
    """
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    expression = "".join(parts.get(part, "/" + re.escape(part)) for part in pattern.strip("/").split("/"))
    return re.fullmatch(expression, node) is not None


def _ignored(name: str, pattern: str, known: Collection[str]) -> str:
    """Say that a parameter is not ours, without its value."""
    said = name if name.isidentifier() and len(name) <= VALUE_CHARS else "a parameter"
    close = difflib.get_close_matches(said, known, n=1)
    return f"{said} under {shown(pattern, VALUE_CHARS)} is ignored{f'; did you mean {close[0]}?' if close else ''}"
