"""A text → whether it begins with a stop word of any language: fast enough to ask it first."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from qwen2vl_robot.languages import Language, load_languages
from qwen2vl_robot.reading.letters import LINE, plain_words, split_words

_HEAD = 60  # characters in which a stop word and what may stand around it find room
_RUN = re.compile("[\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # letters among which words end without a space
_LEADING = re.compile(r"\A[\W_]{1,4000}")  # spaces and marks, behind which nothing hides
_LONG = re.compile(r"(.)\1{2,}")
_ROOMS = {  # key of the data → where its forms may stand: "please stop", "robot, stop", "no! stop!"
    "stop": "stop",
    "stop word": "stop",
    "stop tail": "behind",
    "filler": "before",
    "self": "before",
    "correct": "denial",
    "enough": "enough",
    "alarm": "before",
}


@dataclass(frozen=True, slots=True)
class StopWords:
    """Forms without spaces: those that stop, and those that may stand before and behind them.

    Attributes:
        before, behind: where a stop word is still one; `denials` ("no") stand before it with a pause.
        enough: "that's enough", which stops where nothing or a stop word follows.
        longest: letters of the longest form.
    """

    stops: frozenset[str]
    before: frozenset[str]
    denials: frozenset[str]
    enough: frozenset[str]
    behind: frozenset[str]
    longest: int

    def appear(self, text: str) -> bool:
        """Whether a stop word stands anywhere in the head of a text, whatever it means there."""
        letters, gaps = _split(_LEADING.sub("", text, count=1))
        starts = (at for at in range(len(letters)) if at == 0 or _is_whole(letters, gaps, at))
        return any(self._ends(letters, gaps, at, self.stops) for at in starts)

    def begin(self, text: str) -> bool:
        """Whether a text begins with a stop word that ends there: at a pause, a line break, or the text's end."""
        text = _LEADING.sub("", text, count=1)
        letters, gaps = _split(text)
        length = len(letters)
        at, is_enough = self._skip(letters, gaps)
        if is_enough and at is not None and at == length:
            return len(text) <= _HEAD
        waiting = set[int]() if at is None else self._ends(letters, gaps, at, self.stops)
        seen = set[int]()
        while waiting - seen:
            at = (waiting - seen).pop()
            if gaps.get(at, 0) >= LINE:
                return True
            seen.add(at)
            waiting |= self._ends(letters, gaps, at, self.behind)
        return False

    def _skip(self, letters: str, gaps: dict[int, int]) -> tuple[int | None, bool]:
        """Where the first stop word begins, behind nothing but small words, and whether one of them was "enough"."""
        at: int | None = 0
        is_enough = was_denied = False
        while at is not None and at < len(letters) and self._match(letters, gaps, at, self.stops) is None:
            enough = self._match(letters, gaps, at, self.enough)
            denied = self._match(letters, gaps, at, self.denials)
            # A denial right before a stop word may belong to it ("no pares"); said twice, it does not ("no no stop").
            is_again = denied is not None and (
                was_denied or self._match(letters, gaps, denied, self.denials) is not None
            )
            is_denial = denied is not None and (is_again or gaps.get(denied, 0) >= LINE)
            is_enough, was_denied = is_enough or enough is not None, is_again
            at = enough if enough is not None else denied if is_denial else self._match(letters, gaps, at, self.before)
        return at, is_enough

    def _ends(self, letters: str, gaps: dict[int, int], at: int, forms: frozenset[str]) -> set[int]:
        """Where the forms that begin at a letter end."""
        ends = range(at + 1, min(len(letters), at + self.longest) + 1)
        return {end for end in ends if letters[at:end] in forms and _is_whole(letters, gaps, end)}

    def _match(self, letters: str, gaps: dict[int, int], at: int, forms: frozenset[str]) -> int | None:
        """Where the longest form that begins at a letter ends."""
        return max(self._ends(letters, gaps, at, forms), default=None)


def _split(text: str) -> tuple[str, dict[int, int]]:
    """The letters of a text's head, and the gap before each word, and before its end, by where it begins."""
    words = split_words(text[:_HEAD])
    gaps: dict[int, int] = {}
    length = 0
    for word in words:
        gaps[length] = word.gap
        length += len(_shorten(word.text))
    gaps[length] = LINE if len(text) <= _HEAD else 0
    return "".join(_shorten(word.text) for word in words), gaps


def _is_whole(letters: str, gaps: dict[int, int], end: int) -> bool:
    """Whether a form may end at a letter; between letters with spaces it ends a word."""
    return end in gaps or _RUN.match(letters[end - 1]) is not None


def gather(languages: Mapping[str, Language]) -> StopWords:
    """The forms of every language; a phrase stands here without its spaces."""
    found: dict[str, set[str]] = {room: set() for room in _ROOMS.values()}
    for language in languages.values():
        letters = {ord(pair[0]): pair[1:] for pair in language.reading.letters.split()}
        for key, room in _ROOMS.items():
            for form in language.reading.forms(key):
                whole = "".join(map(_letters, form.strip(" -").split()))
                found[room] |= {whole, whole.translate(letters)} - {""}
    stops, behind = frozenset(found["stop"]), frozenset(found["stop"] | found["behind"])
    before, denials = frozenset(found["before"]) - stops, frozenset(found["denial"])
    enough = frozenset(found["enough"]) - stops
    longest = max(map(len, stops | behind | before | denials | enough))
    return StopWords(stops, before, denials, enough, behind, longest)


@functools.cache
def _letters(word: str) -> str:
    """A word of the data as a person's word is read; the forms are many, their words few."""
    return "".join(plain_words(word))


def _shorten(text: str) -> str:
    """ "stooop" is "stop"."""
    return _LONG.sub(r"\1", text)


@functools.lru_cache(maxsize=1)
def load_stop_words() -> StopWords:
    """The stop words of every language of sim/languages."""
    return gather(load_languages())


def stop_word(text: str) -> bool:
    """Whether a text asks to stop at once, in any of the languages.

    >>> stop_word("STOP, the other one"), stop_word("halt den Ball"), stop_word("don't stop")
    (True, False, False)
    """
    return load_stop_words().begin(text)


def mentions_stop(text: str) -> bool:
    """Whether a stop word stands in a text, in any of the languages; reading it says whether it asks to stop.

    >>> mentions_stop("would you please stop"), mentions_stop("don't stop"), mentions_stop("pick up the red block")
    (True, True, False)
    """
    return load_stop_words().appear(text)
