"""Runs of joined letters (Arabic, Chinese ...) → tokens, by the cut that leaves the fewest unread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qwen2vl_robot.reading.letters import NO_GAP, PAUSE, Word
from qwen2vl_robot.reading.tokens import PLAIN, PREFIX, SUFFIX, Entry, Token, is_number

_UNKNOWN, _NOUN = "unknown", "noun"  # what stands before a letter, beside the places of a form
_PLACES = frozenset({"on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to", "all", "that"})
_PARTICLES = frozenset({"object", "to", "of", "and", "case at"})
_UNREAD_COST = 1000  # of a letter, against 1 of a piece
_Step = tuple[int, int, str, str]  # cost so far, where its last piece begins, that piece's form, the state before it


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms that a run is cut into.

    Attributes:
        beginnings: of every form: no longer part of a run is tried than one of these.
        spacing: "strict": a word has one stem; "loose": it may have several; "none": spaces mean nothing.
        nouns: tags that a following unknown letter makes unknown too, because both are one word.
        letters: what stands in the forms; a word without any of them is no run.
    """

    entries: Mapping[str, Entry]
    beginnings: frozenset[str]
    spacing: str
    nouns: frozenset[str]
    letters: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Run:
    text: str
    pieces: tuple[str, ...]
    starts: frozenset[int]  # letters before which a space stands
    gap: int


def cut(forms: Forms, words: list[Word]) -> Iterator[Token]:
    """Find the forms in words; what is cut is what is written without a pause."""
    waiting: list[Word] = []
    for word in words:
        if waiting and word.gap >= PAUSE:
            yield from _cut_run(forms, _join(waiting))
            waiting = []
        if forms.letters.isdisjoint(word.text):
            if waiting:
                yield from _cut_run(forms, _join(waiting))
                waiting = []
            entry = forms.entries.get(word.text)  # "ok"
            tags = entry.tags[0] if entry else frozenset({"number"} if is_number(word.text) else ())
            yield Token(word.text, word.spelling, tags, word.gap)
        else:
            waiting.append(word)
    if waiting:
        yield from _cut_run(forms, _join(waiting))


def _join(words: list[Word]) -> _Run:
    starts, length = set[int](), 0
    for word in words:
        starts.add(length)
        length += len(word.text)
    text, pieces = "".join(w.text for w in words), tuple(p for w in words for p in w.pieces)
    return _Run(text, pieces, frozenset(starts), words[0].gap)


def _cut_run(forms: Forms, run: _Run) -> Iterator[Token]:
    """The cheapest way through a run, each state at each letter keeping its cheapest past."""
    best: list[dict[str, _Step]] = [{} for _ in range(len(run.text) + 1)]
    best[0][SUFFIX if not run.starts else PLAIN] = (0, 0, "", "")
    for at in range(len(run.text)):
        for state, (cost, *_) in sorted(best[at].items()):
            for form, place in _forms_at(forms, run, at, state):
                is_noun = place == PLAIN and not forms.nouns.isdisjoint(forms.entries[form].tags[0])
                new = (cost + 1, at, form, state)
                _keep(best[at + len(form.strip("-"))], _NOUN if is_noun else place, new)
            _keep(best[at + 1], _UNKNOWN, (cost + _UNREAD_COST + (state != _UNKNOWN), at, "", state))
    yield from _tokens(forms, run, _walk_back(best))


def _keep(states: dict[str, _Step], place: str, step: _Step) -> None:
    if place not in states or step[0] < states[place][0]:
        states[place] = step


def _walk_back(best: list[dict[str, _Step]]) -> list[tuple[int, int, str]]:
    """(begin, end, form) of each piece, in order."""
    end = len(best) - 1
    state = min((s for s in best[end] if s != PREFIX), key=lambda s: best[end][s][0], default=_UNKNOWN)
    cut_at: list[tuple[int, int, str]] = []
    while end > 0:
        _, begin, form, before = best[end][state]
        cut_at.append((begin, end, form))
        end, state = begin, before
    return cut_at[::-1]


def _forms_at(forms: Forms, run: _Run, at: int, state: str) -> Iterator[tuple[str, str]]:
    """(form, place) of what may begin at a letter, after a piece of that place."""
    is_start = forms.spacing == "none" or at in run.starts
    if state == PREFIX and at in run.starts:
        return
    for end in range(at + 1, len(run.text) + 1):
        part = run.text[at:end]
        if part not in forms.beginnings:
            return
        may_end = end == len(run.text) or end in run.starts
        if part in forms.entries and (is_start or state == PREFIX or _may_join(forms, part, state)):
            inner = {k - at for k in run.starts if at < k < end} if forms.spacing != "none" else set[int]()
            if inner <= forms.entries[part].spaces:
                yield part, PLAIN
        if f"-{part}" in forms.entries and at not in run.starts and state in (PLAIN, _NOUN, SUFFIX):
            yield f"-{part}", SUFFIX
        if f"{part}-" in forms.entries and not may_end and (is_start or state == PREFIX):
            yield f"{part}-", PREFIX


def _may_join(forms: Forms, form: str, state: str) -> bool:
    """Whether a form may follow without a space: behind a noun only what goes with one ("접시위에", not "공주")."""
    if forms.spacing != "loose" or state == _UNKNOWN:
        return False
    return state != _NOUN or len(form) > 1 or not _PLACES.isdisjoint(forms.entries[form].tags[0])


def _tokens(forms: Forms, run: _Run, pieces: list[tuple[int, int, str]]) -> Iterator[Token]:
    """Tokens of the pieces, unknown letters joined to one word."""
    unread = _unread_letters(forms, run, pieces)
    at = 0
    gap = run.gap
    for begin, end, form in pieces:
        if begin < at:
            continue
        if begin in unread:
            end = begin
            while end in unread and (end == begin or forms.spacing == "none" or end not in run.starts):
                end += 1
            yield Token(run.text[begin:end], _spell(run, begin, end), frozenset(), gap, _before(run, begin))
        else:
            first, *more = forms.entries[form].tags
            yield Token(run.text[begin:end], _spell(run, begin, end), first, gap, _before(run, begin))
            yield from (Token(run.text[begin:end], "", tags, before="") for tags in more)
        at, gap = end, NO_GAP


def _before(run: _Run, begin: int) -> str:
    return " " if begin in run.starts else ""


def _spell(run: _Run, begin: int, end: int) -> str:
    """What the person wrote, with the spaces in it."""
    return "".join(" " * (k > begin and k in run.starts) + run.pieces[k] for k in range(begin, end))


def _unread_letters(forms: Forms, run: _Run, pieces: list[tuple[int, int, str]]) -> set[int]:
    """The letters of no form, and those of forms that are only a part of an unknown word."""
    unread = {k for begin, end, form in pieces if not form for k in range(begin, end)}
    if forms.spacing != "none":
        bounds = [*sorted(run.starts), len(run.text)]
        words = [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        return {k for word in words if unread & set(word) for k in word}
    ordered = [*pieces, *reversed(pieces)]
    for begin, end, form in ordered:
        if form and begin not in unread and _is_part(forms, run, unread, (begin, end, form)):
            unread |= set(range(begin, end))
    return unread


def _is_part(forms: Forms, run: _Run, unread: set[int], piece: tuple[int, int, str]) -> bool:
    """Whether a piece goes on in unknown letters: a noun in Chinese characters, any in kana."""
    begin, end, form = piece
    before, after = run.text[begin - 1 : begin], run.text[end : end + 1]
    if end - begin == 1 and _is_hiragana(form) and _PARTICLES.isdisjoint(forms.entries[form].tags[0]):
        is_behind, is_before = begin - 1 in unread and _is_hiragana(before), end in unread and _is_hiragana(after)
        return is_behind or is_before
    if begin - 1 in unread and _is_katakana(before) and _is_katakana(run.text[begin]):
        return True
    if end not in unread:
        return False
    is_noun = any(tags & forms.nouns for tags in forms.entries[form].tags)
    return (_is_katakana(after) and _is_katakana(run.text[end - 1])) or (is_noun and not _is_hiragana(after))


def _is_katakana(char: str) -> bool:
    return "\u30a0" <= char <= "\u30ff"


def _is_hiragana(char: str) -> bool:
    return "\u3040" <= char <= "\u309f"
