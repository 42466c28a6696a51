"""Two JSON documents → where they differ, one line a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qwen2vl_robot.bounds import shown

_MOST = 6  # places of one decision; the first ones say what the others follow from


def compare(recorded: Sequence[dict[str, Any]], replayed: Sequence[dict[str, Any]]) -> list[str]:
    """Every difference between what was decided and what is decided now, in the order of the decisions."""
    lines: list[str] = []
    for index in range(max(len(recorded), len(replayed))):
        was = recorded[index] if index < len(recorded) else None
        now = replayed[index] if index < len(replayed) else None
        if was is None or now is None:
            which, there = ("replayed only", now) if was is None else ("recorded only", was)
            lines.append(f"decision {index + 1}: {which}: {_name(there)}")
        elif was.get("call") != now.get("call"):
            lines.append(f"decision {index + 1}: {_name(was)} was recorded, {_name(now)} came")
            return lines  # from here on nothing belongs together
        else:
            found = list(_differences(was, now, ""))
            lines += [f"decision {index + 1}, {_name(was)}: {line}" for line in found[:_MOST]]
            if len(found) > _MOST:
                lines.append(f"decision {index + 1}, {_name(was)}: {len(found) - _MOST} more")
    return lines


def _name(document: dict[str, Any] | None) -> str:
    return shown((document or {}).get("call"), 40)


def _differences(was: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            if place or key != "n":  # numbers of calls shift with what was asked in between
                yield from _differences(was.get(key), now.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif was != now or isinstance(was, bool) != isinstance(now, bool):
        yield f"{place}: {_said(was)} was recorded, {_said(now)} came{_off(was, now)}"


def _said(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, list | dict) else shown(repr(value), 80)


def _off(was: Any, now: Any) -> str:
    numbers = (int, float)
    if (
        isinstance(was, numbers)
        and isinstance(now, numbers)
        and not isinstance(was, bool)
        and not isinstance(now, bool)
    ):
        return f" (off by {abs(now - was):.3g})"
    return ""
