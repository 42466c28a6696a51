"""Forms of a language that were spelled out once → the user's cache, and back: reading them is ten times faster.

A file is named by the hash of all that its forms follow from; see kept.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from qwen2vl_robot.bounds import WORDS_BYTES
from qwen2vl_robot.documents import parse_json
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kept import code_digest, keep, read_kept
from qwen2vl_robot.languages import Language
from qwen2vl_robot.reading.tokens import Entry
from qwen2vl_robot.resources import user_cache

_SOURCES = ("languages.py", "reading/letters.py", "reading/lexicon.py", "reading/stored.py", "reading/tokens.py")
_KEPT = 40  # files; the oldest go


def recall(language: Language, is_bare: bool, spell_out: Callable[[], dict[str, Entry]]) -> dict[str, Entry]:
    """The forms of a language, from the cache where they are there, else spelled out and put there."""
    said = hashlib.sha256(f"{code_digest(*_SOURCES)}{is_bare}{language.model_dump_json()}".encode()).hexdigest()
    file = user_cache() / f"words-{said[:40]}.json"
    found = _read(file)
    if found is None:
        found = spell_out()
        _write(file, found)
    return found


def _read(file: Path) -> dict[str, Entry] | None:
    body = read_kept(file, WORDS_BYTES)
    if body is None:
        return None
    try:
        content = parse_json(body.decode(), "words")
        entries = [Entry(tuple(map(frozenset, tags)), frozenset(spaces)) for tags, spaces in content["entries"]]
        return {form: entries[at] for at, forms in enumerate(content["forms"]) for form in forms}
    except (BadInputError, KeyError, TypeError, ValueError):
        return None


def _write(file: Path, found: dict[str, Entry]) -> None:
    order: dict[Entry, list[str]] = {}
    for form, entry in found.items():
        order.setdefault(entry, []).append(form)
    entries = [([sorted(tags) for tags in entry.tags], sorted(entry.spaces)) for entry in order]
    body = json.dumps({"entries": entries, "forms": list(order.values())}, ensure_ascii=False).encode()
    keep(file, body, _KEPT)
