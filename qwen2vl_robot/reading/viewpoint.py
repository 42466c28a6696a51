"""A text → whose left and right it means: "towards you" and "to your left" are said from the robot's own place."""

from __future__ import annotations

import functools
import re

from qwen2vl_robot.languages import Language, load_languages
from qwen2vl_robot.reading.letters import split_words
from qwen2vl_robot.sides import SeenFrom


def whose_sides(text: str, default: SeenFrom) -> SeenFrom:
    """Return the robot's sides where a text speaks from its place, in any language; else the default.

    >>> whose_sides("pull the red block towards you", SeenFrom.PICTURE).value
    'robot'
    >>> whose_sides("push the red block closer", SeenFrom.PICTURE).value
    'picture'
    """
    row = " ".join(word.text for word in split_words(text))
    return SeenFrom.ROBOT if any(pattern.search(row) for pattern in _patterns()) else default


@functools.lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(_pattern(language) for language in load_languages().values())


def _pattern(language: Language) -> re.Pattern[str]:
    """A language's forms from the robot's place, from word to word; where words are joined, also within one."""
    reading = language.reading
    letters = {ord(pair[0]): pair[1:] for pair in reading.letters.split()}
    forms = [split_words(form) for form in reading.words["robots"].split(",")]
    spelled = {" ?".join(re.escape(word.text) for word in form) for form in forms}
    spelled |= {form.translate(letters) for form in spelled}
    before = "" if reading.spacing == "none" else r"(?<!\S)"
    behind = r"(?!\S)" if reading.spacing in ("words", "strict") else ""
    return re.compile(f"{before}(?:{'|'.join(sorted(spelled))}){behind}")
