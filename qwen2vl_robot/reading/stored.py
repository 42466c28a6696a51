"""Forms of a language that were spelled out once → the user's cache, and back: reading them is ten times faster.

A file is named by the hash of all that its forms follow from, and begins with the hash of its content; one that is cut,
foreign or changed is spelled out anew. Without a place to write everything works as well, more slowly.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from qwen2vl_robot.bounds import CONFIG_BYTES, WORDS_BYTES
from qwen2vl_robot.documents import parse_json, read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.languages import Language
from qwen2vl_robot.reading.tokens import Entry
from qwen2vl_robot.resources import user_cache
from qwen2vl_robot.results import UnsavedError, write_bytes

_SOURCES = ("languages.py", "reading/letters.py", "reading/lexicon.py", "reading/stored.py", "reading/tokens.py")
_KEPT = 40  # files; the oldest go


def recall(language: Language, is_bare: bool, spell_out: Callable[[], dict[str, Entry]]) -> dict[str, Entry]:
    """The forms of a language, from the cache where they are there, else spelled out and put there."""
    said = hashlib.sha256(f"{_sources()}{is_bare}{language.model_dump_json()}".encode()).hexdigest()
    file = user_cache() / f"words-{said[:40]}.json"
    found = _read(file)
    if found is None:
        found = spell_out()
        _write(file, found)
    return found


@functools.lru_cache(maxsize=1)
def _sources() -> str:
    root = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"".join(read_file(root / name, CONFIG_BYTES) for name in _SOURCES)).hexdigest()


def _read(file: Path) -> dict[str, Entry] | None:
    try:
        head, _, body = read_file(file, WORDS_BYTES).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != head:
            return None
        content = parse_json(body.decode(), "words")
        entries = [Entry(tuple(map(frozenset, tags)), frozenset(spaces)) for tags, spaces in content["entries"]]
        return {form: entries[at] for at, forms in enumerate(content["forms"]) for form in forms}
    except (BadInputError, KeyError, TypeError, ValueError):
        return None


def _write(file: Path, found: dict[str, Entry]) -> None:
    """Keep the forms; where nothing can be written they are spelled out again."""
    order: dict[Entry, list[str]] = {}
    for form, entry in found.items():
        order.setdefault(entry, []).append(form)
    entries = [([sorted(tags) for tags in entry.tags], sorted(entry.spaces)) for entry in order]
    body = json.dumps({"entries": entries, "forms": list(order.values())}, ensure_ascii=False).encode()
    with contextlib.suppress(OSError, UnsavedError):
        write_bytes(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        for old in sorted(file.parent.glob("words-*.json"), key=lambda old: old.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
