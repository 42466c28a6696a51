"""A text → its words in one spelling: no case, width, look-alikes, marks, punctuation or emoji."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from qwen2vl_robot.bounds import INSTRUCTION_CHARS

MAX_CHARS = INSTRUCTION_CHARS  # of a text that is read; messages.Instruction refuses a longer one
NO_GAP, LINE, PAUSE, END, COLON = range(5)  # what stands before a word: nothing, a line break, a comma, a full stop ...

# A letter of another alphabet, and the Latin one that it looks like.
_PAIRS = (
    "АA ВB ЕE КK МM НH ОO РP СC ТT УY ХX ЅS ІI ЈJ ԚQ ԜW ҮY аa еe оo рp сc уy хx ѕs іi јj ԁd ԛq ԝw һh ӏl ѵv үy "
    "ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX αa οo ιi νv ρp τt υu ϲc ϳj κk χx ωw "
    "ɑa ɡg ıi ɩi ʀr ɴn ʟl օo սu հh ցg ոn ӧö"
)
_ALIKE = {pair[0]: pair[1] for pair in _PAIRS.split()}
_UNSEEN = "ـ\u115f\u1160\u3164"  # the Arabic tatweel and fillers of Korean letters
_APOSTROPHES = "'’‘ʼ`´＇ʹ′"
_JOINTS = "-‐‑‒–_・·/"  # what they join are words of their own
_LINES = "\n\r\u2028\u2029"
_ENDS = "!?;。！？؟؛…｡"
_COLONS = ":："  # what stands before one may say who says what follows
_PAUSES = {"line": LINE, "pause": PAUSE, "comma": PAUSE, "end": END, "point": END, "colon": COLON}


@dataclass(frozen=True, slots=True)
class Word:
    """Letters of one script, or one number.

    Attributes:
        text: folded.
        pieces: the person's spelling of each letter of `text`, so that a part of a word can be given back.
        gap: what stands before it: NO_GAP, LINE, PAUSE, END or COLON.
        before: what parts it from the word before: a space, an apostrophe or a hyphen, or nothing.
    """

    text: str
    pieces: tuple[str, ...]
    gap: int
    before: str = " "

    @property
    def spelling(self) -> str:
        return "".join(self.pieces)


def plain_words(form: str) -> list[str]:
    """The words of a form; one with nothing but letters needs no splitting, which saves most of the time."""
    if form.replace(" ", "").isalpha() and (form.isascii() or unicodedata.is_normalized("NFKC", form)):
        return form.casefold().split()
    return [word.text for word in split_words(form)]


def split_words(text: str) -> list[Word]:
    """Split into words, each with the pause before it.

    >>> [word.text for word in split_words("ＧＲＡＢ the knіfe, 2.5 s!")]
    ['grab', 'the', 'knife', '2.5', 's']
    """
    words: list[Word] = []
    letters: list[tuple[str, str]] = []
    gap, script, before = END, "", ""
    clusters = [
        (*pair, _script(pair[0][0]))
        for pair in _clusters(unicodedata.normalize("NFC", text[: 4 * MAX_CHARS])[:MAX_CHARS])
    ]
    for at, (folded, spelling, found) in enumerate(clusters):
        is_decimal = found in ("comma", "point") and script == "number" and _kind_at(clusters, at + 1) == "number"
        kind = "number" if is_decimal else found
        if letters and kind != script:
            words.append(_word(letters, gap, before))
            letters, gap, before = [], NO_GAP, ""
        script = kind
        if kind in _PAUSES:
            gap = max(gap, _PAUSES[kind])
        elif kind:
            letters.append(("." if is_decimal else folded, spelling))
        else:
            before += spelling
    return [*words, _word(letters, gap, before)] if letters else words


def _kind_at(clusters: list[tuple[str, str, str]], at: int) -> str:
    return clusters[at][2] if at < len(clusters) else ""


def _word(letters: list[tuple[str, str]], gap: int, before: str) -> Word:
    """Join letters, each in its common form; look-alikes become Latin where the word is Latin or all look-alikes."""
    chars = [(c, spelling if k == 0 else "") for folded, spelling in letters for k, c in enumerate(folded)]
    joined = "".join(c for c, _ in chars)
    if not joined.isascii() and (any(c.isascii() for c in joined) or all(c in _ALIKE for c in joined)):
        chars = [(_ALIKE.get(c, c), spelling) for c, spelling in chars]
    lower = [(f, spelling if k == 0 else "") for c, spelling in chars for k, f in enumerate(_casefold(c))]
    return Word(
        "".join(c for c, _ in lower),
        tuple(s for _, s in lower),
        gap,
        before if before in _APOSTROPHES + _JOINTS and not gap else " ",
    )


def _clusters(text: str) -> Iterator[tuple[str, str]]:
    """(folded, spelling) of each letter with the marks that belong to it; what nobody sees is left out."""
    waiting = ""
    for char in text:
        if _is_unseen(char):
            continue
        if waiting and char not in "ﾞﾟ":
            yield _widen(waiting), waiting
            waiting = ""
        waiting += char
    if waiting:
        yield _widen(waiting), waiting


@functools.lru_cache(maxsize=8192)
def _is_unseen(char: str) -> bool:
    """Format characters, and marks that no letter could take up."""
    return unicodedata.category(char) in ("Cf", "Mn", "Me") or char in _UNSEEN


@functools.lru_cache(maxsize=8192)
def _widen(cluster: str) -> str:
    """The usual width, and the usual digits."""
    usual = (c for c in unicodedata.normalize("NFKC", cluster) if not _is_unseen(c))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in usual) or " "


@functools.lru_cache(maxsize=8192)
def _casefold(char: str) -> str:
    return "".join(c for c in char.casefold() if not _is_unseen(c)) or char


@functools.lru_cache(maxsize=8192)
def _script(char: str) -> str:
    """What may stand in one word: an alphabet or "number"; or a kind of pause; "" parts words without a pause."""
    if char in _APOSTROPHES or char in _JOINTS:
        return ""
    for kind, members in (("line", _LINES), ("comma", ",٫"), ("point", "."), ("end", _ENDS), ("colon", _COLONS)):
        if char in members:
            return kind
    category = unicodedata.category(char)
    if category[0] == "P":
        return "pause"
    if category == "Nd":
        return "number"
    return _alphabet(ord(char)) if category[0] in "LMN" else ""


def _alphabet(code: int) -> str:
    if 0x600 <= code <= 0x6FF or 0x750 <= code <= 0x77F:
        return "arabic"
    if 0xAC00 <= code <= 0xD7AF or 0x1100 <= code <= 0x11FF or 0x3130 <= code <= 0x318F:
        return "hangul"
    if 0x3005 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF:
        return "joined"
    return "letters"
