"""Files and texts from outside → plain data, within `bounds`: whole regular files, YAML and JSON.

Errors say where something is wrong and never quote what the text holds: a path may be that of somebody's secrets.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from qwen2vl_robot.bounds import NUMBER_CHARS, YAML_BYTES, YAML_DEPTH, YAML_NODES, shown
from qwen2vl_robot.errors import BadInputError


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that none can have, because it is too long, is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a regular file, as `exists`."""
    return exists(path) and path.is_file()


def read_file(path: Path, most_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
        BadInputError: missing, unreadable, larger than allowed, or a pipe, device or folder.
    """
    try:
        # Not blocking: opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadInputError(f"{shown(path)}: not a file")
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise BadInputError(f"{shown(path)}: {getattr(error, 'strerror', None) or 'no such file'}") from error
    if len(data) > most_bytes:
        raise BadInputError(f"{shown(path)}: more than {most_bytes} bytes")
    return data


def read_text(path: Path, most_bytes: int) -> str:
    """Read a whole regular file as UTF-8.

    Raises:
        BadInputError: as `read_file`, or not UTF-8.
    """
    try:
        return read_file(path, most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{shown(path)}: not text in UTF-8 (byte {error.start})") from error


# -------------------------------------------------------------------------------------------------- YAML

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe, and ten times as fast where libyaml was compiled in
_OF_NUMBERS = "0123456789_:.beE+-"
_OF_HEXADECIMALS = "0123456789_abcdefABCDEFxX+-"


class _BeyondError(Exception):
    """A text holds more than is read; the message quotes nothing of it."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file with one document.

    Raises:
        BadInputError: as `read_text`, or not YAML within the bounds.
    """
    return parse_yaml(read_text(path, YAML_BYTES), str(path))


def parse_yaml(text: str, origin: str) -> Any:
    """Parse one YAML document; `origin` names it in errors.

    Raises:
        BadInputError: not YAML; or its nodes, depth or numbers are beyond the bounds.
    """
    try:
        _measure(text)
        return yaml.load(text, _LOADER)
    except _BeyondError as error:
        raise BadInputError(f"{shown(origin)}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise BadInputError(f"{shown(origin)}: not YAML{where}") from error
    # What yaml cannot make of a tag, a date or a number ends in any of these, and their texts quote the value.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        raise BadInputError(f"{shown(origin)}: not YAML; one of its values cannot be read") from error


def _measure(text: str) -> None:
    """Walk through the events of a text, before anything is built from them.

    An alias counts as everything that its anchor stands for: who walks through the loaded data meets all of that.

    Raises:
        _BeyondError: it holds more than is read.
        yaml.YAMLError: it is not YAML.
    """
    if text.startswith("%") or "\n%" in text or "\r%" in text:  # libyaml compares each directive with all before it
        raise _BeyondError("a line begins with %; directives of YAML are not read")
    nodes = documents = 0
    held: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, _LOADER):
        documents += isinstance(event, yaml.DocumentStartEvent)
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in opened):
                raise _BeyondError("an alias stands inside of what it stands for")
            nodes += held.get(event.anchor, 1)  # one that nothing stands for is yaml's to refuse
        elif isinstance(event, yaml.CollectionStartEvent):
            nodes += 1
            opened.append((event.anchor, nodes - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            held[anchor] = nodes - before
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            held[event.anchor] = 1
            if not event.implicit[1]:  # in quotes and without a tag it stays text
                _check_number(event.value)
        if nodes > YAML_NODES or len(opened) > YAML_DEPTH or documents > 1:
            raise _BeyondError(f"allowed: one document, {YAML_NODES} values, aliases counted, {YAML_DEPTH} levels deep")


def _check_number(text: str) -> None:
    """Raises _BeyondError: a number so long that making it takes its time."""
    letters = _OF_HEXADECIMALS if "x" in text[:3].lower() else _OF_NUMBERS
    if len(text) > NUMBER_CHARS and not text.strip(letters):
        raise _BeyondError(f"a number has {len(text)} characters; allowed are {NUMBER_CHARS}")


# -------------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, most_bytes: int) -> Any:
    """Read a JSON file.

    Raises:
        BadInputError: as `read_file`, or not JSON within the bounds.
    """
    return parse_json(read_file(path, most_bytes), shown(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse JSON; `what` begins each error.

    Raises:
        BadInputError: not JSON, too deep, a number too long, NaN, or a key twice: readers would disagree about it.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=_number(int),
            parse_float=_number(float),
            parse_constant=_no_constant,
        )
        _check_depth(data)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{what} is not JSON (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise BadInputError(f"{what} is nested too deeply") from error
    except _BeyondError as error:
        raise BadInputError(f"{what}: {error}") from error
    except ValueError as error:  # bytes that are not text
        raise BadInputError(f"{what} is not JSON") from error
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BeyondError("a key appears twice")
    return found


def _number(make: Callable[[str], Any]) -> Callable[[str], Any]:
    def made(text: str) -> Any:
        _check_number(text)
        return make(text)

    return made


def _no_constant(name: str) -> NoReturn:
    raise _BeyondError(f"{name} is not a number here")


def _check_depth(data: Any) -> None:
    """Raises _BeyondError: more levels than are read."""
    level = [data]
    for _ in range(YAML_DEPTH + 1):
        parts = [part for part in level if isinstance(part, (dict, list))]
        level = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return
    raise _BeyondError(f"nested too deeply; {YAML_DEPTH} levels are read")
