"""What pydantic says against data from outside → one line: the field, what is allowed, and of a value a short piece.

The data may be a file of secrets that was named by mistake, so values of fields that are none of ours are not quoted.
"""

from __future__ import annotations

import difflib
from typing import get_args

from pydantic import BaseModel, ValidationError

from qwen2vl_robot.bounds import SHOWN_CHARS, VALUE_CHARS, shown

_PARTS = 8  # of a field's place; no file of ours is deeper
_ALLOWED_CHARS = 3 * SHOWN_CHARS  # of what is allowed: a text of ours that may hold numbers of the file


def complaint(error: ValidationError, data: object, model: type[BaseModel]) -> str:
    """The first error, a misspelt key before all others: that the right one is missing only follows from it."""
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    if first["type"] == "extra_forbidden":
        is_ours = isinstance(data, dict) and not model.model_fields.keys().isdisjoint(data)
        said = _unknown_field(first["loc"], _allowed_fields(model, first["loc"]), is_ours=is_ours)
    else:
        said = f"{_where(first['loc'])}{_quoted(first['input'])}: {shown(first['msg'], _ALLOWED_CHARS)}"
    more = error.error_count() - 1
    return f"{said} (and {more} more)" if more else said


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(shown(part, VALUE_CHARS) for part in location[:_PARTS]) or "file"


def _quoted(value: object) -> str:
    """What an error shows of a wrong value: nothing where it is a whole part of the file."""
    return "" if isinstance(value, (dict, list, tuple, BaseModel)) else f" = {shown(repr(value), VALUE_CHARS)}"


def _unknown_field(location: tuple[int | str, ...], known: list[str], *, is_ours: bool) -> str:
    """Name a field that is not known, without its value; nor its name where the file has no field of ours."""
    name, allowed = str(location[-1]), f"allowed here: {', '.join(known)}"
    close = difflib.get_close_matches(name, known, n=1) if name.isidentifier() and len(name) <= VALUE_CHARS else []
    if not close and not (is_ours and name.isidentifier()):
        return f"a field is not known; {allowed}"
    meant = "".join(f"did you mean {field}? " for field in close)
    return f"{_where(location)}: Extra inputs are not permitted; {meant}{allowed}"


def _allowed_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the model at the parent of `location` (the root's if it cannot be found)."""
    current: type[BaseModel] = model
    for part in location[:-1]:
        field = current.model_fields.get(str(part))
        current = (_inner_model(field.annotation) if field else None) or current
    return sorted(current.model_fields)


def _inner_model(annotation: object) -> type[BaseModel] | None:
    """Return the model inside an annotation such as a tuple, a dict or an optional, else None."""
    parts = get_args(annotation)
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in parts if (inner := _inner_model(part))), None)
