"""The words of sim/languages/en.yaml → the sentences that the recognisers of speech listen for, as a network of words.

Reading understands many more forms than anybody says aloud. Each one more is one more that another can be taken for,
so only the usual forms are here: en.yaml names them first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from qwen2vl_robot.languages import ENGLISH, Language, load_languages
from qwen2vl_robot.reading import stop_word

_FORMS = 40  # of a key that are looked at, and
_USUAL = 6  # of these, at most, that are listened for
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_RELATIONS = ("on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to")
# A sentence that ends with one of these goes on, or was cut off.
_OPEN_ENDS = frozenset(
    {*("the", "a", "an", "and", "or", "then", "of", "to", "at", "by"), *("on", "onto", "into", "in", "behind", "is")}
)
_DENIALS = frozenset({"not", "don't", "never", "didn't", "can't", "won't"})
_HOLLOW = ("bowl", "cup", "plate")
_INFLECTED = ("ing", "es", "s", "ed")
STOPS = ("stop", "halt", "freeze", "stop it", "stop now", "stop moving", "stop the robot", "stop stop stop")
_BEFORE_STOP = ("please", "robot", "hey", "no no")

Part: TypeAlias = "str | Row | Choice"


@dataclass(frozen=True, slots=True)
class Row:
    """Parts that follow one another."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several parts; `is_optional`: or none."""

    parts: tuple[Part, ...]
    is_optional: bool = False


def _row(*parts: Part) -> Row:
    return Row(parts)


def _any(parts: Iterable[Part]) -> Choice:
    return Choice(tuple(parts))


def _maybe(*parts: Part) -> Choice:
    return Choice(parts, is_optional=True)


@dataclass(slots=True)
class Network:
    """Words on the edges between numbered places; a place is final where a sentence may end.

    Attributes:
        edges: place → pairs of a word ("" for none) and the place behind it. Place 0 is the beginning.
    """

    edges: list[list[tuple[str, int]]] = field(default_factory=lambda: [[]])
    end: int = 0

    def begin(self) -> frozenset[int]:
        """Return the places at the beginning."""
        return self._spread({0})

    def follow(self, places: frozenset[int], word: str) -> frozenset[int]:
        """Return where a word leads; empty where no sentence has it there."""
        return self._spread({to for place in places for said, to in self.edges[place] if said == word})

    def words(self, places: frozenset[int]) -> set[str]:
        """Return the words that may follow."""
        return {said for place in places for said, _ in self.edges[place] if said}

    def is_final(self, places: frozenset[int]) -> bool:
        """Return whether a sentence may end here."""
        return self.end in places

    def _spread(self, places: set[int]) -> frozenset[int]:
        waiting = list(places)
        while waiting:
            for said, to in self.edges[waiting.pop()]:
                if not said and to not in places:
                    places.add(to)
                    waiting.append(to)
        return frozenset(places)

    def _place(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def add(self, part: Part, start: int) -> int:
        """Add a part behind a place; return the place behind it."""
        if isinstance(part, Row):
            return functools.reduce(lambda at, inner: self.add(inner, at), part.parts, start)
        if isinstance(part, Choice):
            end = self._place()
            for inner in part.parts:
                self.edges[self.add(inner, start)].append(("", end))
            if part.is_optional:
                self.edges[start].append(("", end))
            return end
        for word in part.split():
            at = self._place()
            self.edges[start].append((word, at))
            start = at
        return start


def make_network(part: Part) -> Network:
    """Make the network of what is listened for."""
    network = Network()
    network.end = network.add(part, 0)
    return network


def to_jsgf(part: Part, is_known: Callable[[str], bool]) -> str:
    """Write a part as JSGF, without the words that `is_known` denies; "" where nothing is left of it."""
    if isinstance(part, str):
        return part if all(is_known(word) for word in part.split()) else ""
    inner = [to_jsgf(each, is_known) for each in part.parts]
    if isinstance(part, Row):
        return " ".join(inner) if all(inner) else ""
    left = " | ".join(each for each in inner if each)
    return (f"[{left}]" if part.is_optional else f"({left})") if left else ""


@functools.lru_cache(maxsize=1)
def sentence() -> Part:
    """Everything that is listened for, as one part."""
    en = load_languages()[ENGLISH]
    return _any([_orders(en), _questions(en), stop()])


def stop() -> Part:
    """What stops the arm."""
    return _row(_maybe(*_BEFORE_STOP), _any(STOPS), _maybe("please"))


def _usual(en: Language, *keys: str, longest: int = 4, most: int = _USUAL) -> list[str]:
    """The usual forms of keys: the first ones that are no inflection of one before, and no longer than some words."""
    found: list[str] = []
    for key in keys:
        forms = [key, *en.reading.forms(key)] if key in {*en.kinds, *en.superlatives} else en.reading.forms(key)
        plain = [form.strip() for form in forms[:_FORMS] if "~" not in form and form.strip().isascii()]
        kept = [
            form
            for form in dict.fromkeys(plain)
            if 0 < len(form.split()) <= longest and not any(_is_of(form, base) for base in plain)
        ]
        found += kept[:most]
    return list(dict.fromkeys(found))


def _is_of(form: str, base: str) -> bool:
    first, _, rest = form.partition(" ")
    stem, _, base_rest = base.partition(" ")
    return rest == base_rest and first in {
        f"{s}{e}" for s in (stem, stem.rstrip("e"), stem + stem[-1:]) for e in _INFLECTED
    }


def _thing(en: Language, kinds: Iterable[str] | None = None) -> tuple[Part, Part]:
    """A thing, of some kinds or of any, and such a thing that may stand somewhere."""
    nouns = [_usual(en, kind, longest=1, most=3) for kind in (en.kinds if kinds is None else kinds)]
    one, many = _any(n for group in nouns for n in group), _any(f"{n}s" for group in nouns for n in group[:2])
    described = (_maybe(*_usual(en, *en.superlatives, longest=1, most=3)), _maybe(*en.colours))
    plain = _any(
        [_row("the", *described, one), _row("a", *described[1:], one), _row("the", _any(en.colours), "one"),
         _row("all the", *described[1:], many)]
    )  # fmt: skip
    where = _where(en, [key for key in _RELATIONS if key != "in"])
    return plain, _row(plain, _maybe(_row(_maybe("that is"), where, plain)))


def _somewhere(en: Language) -> Part:
    """A place at a thing; "in" only where something has an inside."""
    hollow = _thing(en, [kind for kind in en.kinds if kind in _HOLLOW])[0]
    beside = [key for key in _RELATIONS if key != "in"]
    return _any([_row(_where(en, beside), _thing(en)[0]), _row(_where(en, ["in"]), hollow)])


def _where(en: Language, relations: Iterable[str] = _RELATIONS) -> Part:
    return _any(_usual(en, *relations, longest=4, most=4))


def _orders(en: Language) -> Part:
    thing, placed = _thing(en)
    # "it" needs something said before; alone, it would fit to any mumbling.
    deed, then = _deed(en, thing, placed), _deed(en, "it", "it")
    asked = _maybe("please", "can you", "could you", "would you", "can you please", "could you please")
    wish = _row(_any(["i want", "i would like", "i need"]), placed, _maybe(_somewhere(en)))
    told = _row(thing, _any(["goes", "belongs"]), _somewhere(en))
    wait = _row("wait for", _any(_NUMBERS), _any(["second", "seconds"]))
    denied = _row(_any(["do not", "don't", "never"]), deed)
    both = _row("and", _maybe("then"), _any([then, deed]))
    ordered = _row(asked, deed, _maybe(both), _maybe("please", "for me", "now"))
    return _any([ordered, denied, wait, _row(wish, _maybe("please")), told])


def _deed(en: Language, thing: Part, placed: Part) -> Part:
    """Pick, place, push or go home; `placed` is a thing that may stand somewhere."""
    pick = _any(
        [
            _row(_any(_usual(en, "pick", longest=2, most=24)), placed),
            _row(_any(["pick", "lift"]), thing, "up"),
        ]
    )
    puts, pushes = (
        _usual(en, *keys, longest=1, most=8) for keys in (("place", "place on", "move"), ("push", "push closer"))
    )
    place = _row(_any(puts), placed, _maybe("down"), _somewhere(en))
    push = _row(_any(pushes), thing, _any(_usual(en, "left", "right", "away", "closer", longest=3, most=2)))
    starts = _any(["start", "start position", "home position"])
    goes = _row(_any(_usual(en, "go", longest=2, most=8)), "to the", starts)
    return _any([pick, place, push, *_usual(en, "home", longest=3, most=8), goes])


def _questions(en: Language) -> Part:
    thing, _ = _thing(en)
    where = _where(en)
    nouns = _any(f"{n}s" for kind in en.kinds for n in _usual(en, kind, longest=1, most=2))
    table = _any(["there", "on the table"])
    return _any(
        [
            _row("where is", thing),
            _row("is", thing, where, _any([thing, "the table"])),
            _row("what is", where, _any([thing, "the table"])),
            _row("how many", _maybe(*en.colours), nouns, "are", table),
            _any(["what do you see", "what are you holding", "what did you do", "what can you do"]),
        ]
    )


def is_cut_off(text: str) -> bool:
    """Whether a text ends where no sentence does.

    >>> is_cut_off("Take the green ball and..."), is_cut_off("Take the green ball.")
    (True, False)
    """
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    return not words or words[-1] in _OPEN_ENDS


def ends_in_stop(text: str) -> bool:
    """Whether the end of what was said asks to stop, whatever was said before; "don't stop" does not.

    >>> ends_in_stop("so on and so forth, stop!"), ends_in_stop("please don't stop"), ends_in_stop("the bus stop there")
    (True, False, False)
    """
    words = "".join(c if c.isalpha() or c == "'" else " " for c in text.lower()).split()
    if _DENIALS & set(words):
        return False
    return any(stop_word(" ".join(words[at:])) for at in range(len(words)))
