"""sim/languages → how people of nine languages name things and ask for things, and in which language a sentence is."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from qwen2vl_robot.config import Phrasing, Strict, load_yaml
from qwen2vl_robot.resources import data_root

ENGLISH = "en"
_SLOT = re.compile(r"\{([a-z])\}")
_NAME = re.compile(r"\{[abn](?:\.of)?\}")
_STEM = re.compile(r"~(\w+)")
MADE = "made "  # begins the keys of participles: "made place" has "placed"


class Noun(Strict):
    """One way to name a kind of object.

    Attributes:
        the: the one object, as it stands where something is done to it; {m}, {f} ... take an adjective in that form.
        of: the same in the case that follows "left of"; `the` where the language has no other.
        all: every object of the kind.
    """

    the: str
    of: str | None = None
    all: str | None = None


Adjective = str | dict[str, str]  # one form, or form → word


class Reading(Strict):
    """What `reading` needs to read a language's sentences without their templates; en.yaml explains the words' keys.

    Attributes:
        order: whether "on" stands before or after the thing that it refers to.
        verb: whether a verb begins ("first") or ends ("last") what is said of it, or either.
        adjectives: whether a colour stands before its noun or may stand behind it.
        spacing: "words": spaces part words; in the others forms are cut out of runs of letters; "strict": a word has
            one stem, with "x-" before and "-x" behind it; "loose": it may have several; "none": spaces mean nothing.
        articles: whether a thing has an article, so that "red block on blue plate" is an order in haste.
        letters: a letter, and how it is written here: "üue".
        bare: what a word that is typed without its marks means, where it could be several: "cam=orange|pick" is a
            colour behind a noun and a verb elsewhere. Without it such words are not read.
        endings: of colours, kinds and verbs ("colour", "kind", "verb"); "it": pronouns that verbs take up.
        inflections: name → endings: "pos~er" in the words is "pos" with each ending of "er". "_" is no ending; "!é"
            makes a participle, which is a form of the key "made ..." ("made place").
        words: key → forms, parted by commas. "(could|can) you (please|)" is each choice of them.
    """

    order: Literal["before", "after"] = "before"
    verb: Literal["first", "last", "either"] = "first"
    adjectives: Literal["before", "after"] = "before"
    spacing: Literal["words", "strict", "loose", "none"] = "words"
    articles: bool = False
    letters: str = ""
    bare: str = ""
    endings: dict[str, str] = Field(default_factory=dict)
    inflections: dict[str, str] = Field(default_factory=dict)
    words: dict[str, str] = Field(default_factory=dict)

    def spell_out(self, written: str) -> list[str]:
        """Every form of what is written as the words are: parted by commas, with choices."""
        return [form for part in written.split(",") for form in self._spell_out(part)]

    def forms(self, key: str) -> list[str]:
        """Every form of a key, spelled out; those of "made place" are participles of "place", too."""
        plain = [form for written in self.words.get(key, "").split(",") for form in self._spell_out(written)]
        stems = self.words.get(key.removeprefix(MADE), "").split(",") if key.startswith(MADE) else []
        return plain + [form for written in stems for form in self._spell_out(written, mark="!")]

    def _spell_out(self, written: str, mark: str = "") -> Iterator[str]:
        """The forms that are written as one; with a mark only those whose ending begins with it."""
        if mark and _STEM.search(written) is None:
            return
        for form in map(tidy, _choose(written)):
            stem = _STEM.search(form)
            endings = self.inflections[stem[1]].split() if stem else ["_"]
            for ending in (e.removeprefix(mark) for e in endings if e.startswith("!") == bool(mark)):
                found = _STEM.sub(ending.replace("_", ""), form)
                if found:
                    yield found


@functools.lru_cache(maxsize=4096)
def _choose(written: str) -> tuple[str, ...]:
    """Each choice of "(could|can) you (please|)"; a choice may stand in another."""
    begin = written.find("(")
    if begin < 0:
        return (written,)
    depth, cuts = 0, [begin]
    for at in range(begin, len(written)):
        depth += (written[at] == "(") - (written[at] == ")")
        if depth == 0 or (depth == 1 and written[at] == "|"):
            cuts.append(at)
        if depth == 0:
            break
    choices = (written[first + 1 : last] for first, last in zip(cuts, cuts[1:], strict=False))
    rest = _choose(written[cuts[-1] + 1 :])  # once, not for each choice
    return tuple(f"{written[:begin]}{form}{end}" for choice in choices for form in _choose(choice) for end in rest)


class Answers(Strict):
    """How a language answers; {a} and {things} are things as they are said behind "I see"."""

    see: str = "I see {things}."
    nothing: str = "I see nothing there."
    yes: str = "Yes, I see {things}."
    count: str = "I see {n}: {things}."
    none: str = "I see 0."
    where: str = "I see {a}: {side}, x {x} m, y {y} m from my base."
    left: str = "left"
    right: str = "right"
    middle: str = "in the middle"
    near: str = "near"
    far: str = "far"
    hidden: str = "{percent} % of the table is hidden from me."
    unnamed: str = "There are {n} more that I cannot name by colour and shape."
    unsure: str = "I am not sure about {things}."
    unknown: str = "I cannot tell {a} by colour and shape."
    holds: str = "I hold {things}."
    empty: str = "I know of nothing in my gripper; its fingers are {width_mm} mm apart."
    idle: str = "You have not told me to do anything yet."
    said: str = 'You said: "{said}".'
    outcomes: dict[str, str] = Field(default_factory=dict)
    because: str = "The reason: {causes}"
    done: str = "Done: {deeds}."
    can: str = "I can pick up, put and push things, go home, wait, and answer questions about the table."
    example: str = "For example: {sentences}."
    never: str = "Here I never touch: {words}."
    comma: str = ", "


class Language(Strict):
    """A file of sim/languages; en.yaml explains its fields."""

    name: str
    joined: bool = False  # words stand without spaces between them, or with particles joined to them
    colours: dict[str, Adjective]
    superlatives: dict[str, Adjective]
    kinds: dict[str, tuple[Noun, ...]]
    one: Noun
    which: dict[str, str]
    tasks: dict[str, Phrasing]
    polite: tuple[str, ...] = ()  # what may stand around any of them
    ask: str
    lost: str
    which_one: str
    refuse: str
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    reading: Reading = Field(default_factory=Reading)
    questions: dict[str, str] = Field(
        default_factory=dict
    )  # key → forms as in `reading`; "^x" begins a part, "x$" ends
    answers: Answers = Field(default_factory=Answers)

    def noun(self, kind: str, way: int = 0) -> Noun:
        """The way to name a kind; any number picks one, and no kind is "the red one"."""
        ways = self.kinds[kind] if kind else (self.one,)
        return ways[way % len(ways)]

    def phrase(self, label: str, case: str = "the", *, extra: str = "", way: int = 0) -> str:
        """Name what a label ("red block", "block", "red") means.

        Args:
            case: "the", "of" or "all".
            extra: a superlative that stands where the colour would.
        """
        colour, kind = split_label(label, self)
        noun = self.noun(kind, way)
        pattern = {"the": noun.the, "of": noun.of or noun.the, "all": noun.all or noun.the}[case]
        adjective = self.superlatives[extra] if extra else self.colours[colour] if colour else ""
        return tidy(_SLOT.sub(lambda m: adjective if isinstance(adjective, str) else adjective[m[1]], pattern))

    def plain_form(self, noun: str) -> str:
        """A noun of the catalogue, or "thing", as the language says it."""
        forms = [form for form, english in self.lexicon() if english == noun]
        return (forms or self.reading.forms(noun) or [noun])[0]

    def lexicon(self) -> Iterator[tuple[str, str]]:
        """(word, English word) of everything that the file names: what a tokenizer and the rules must know."""
        small = {w for forms in self.words.values() for w in forms}
        for english, forms in self.words.items():
            yield from ((form, english) for form in forms)
        for table in (self.colours, self.superlatives):
            for english, adjective in table.items():
                forms = (adjective,) if isinstance(adjective, str) else tuple(adjective.values())
                yield from ((form, english) for form in forms)
        for kind, nouns in self.kinds.items():
            for noun in nouns:
                for pattern in (noun.of if noun.of and self.joined else noun.the, noun.all or ""):
                    bare = re.split(r"[\s']+", _SLOT.sub(" ", pattern))
                    name = " ".join(w for w in bare if w and w not in small)
                    if name:
                        yield name, kind


def split_label(label: str, language: Language) -> tuple[str, str]:
    """(colour, kind) of a label, either of them "" when it has none.

    Raises:
        KeyError: a word of the label is neither.
    """
    colour = kind = ""
    for word in label.split():
        if word in language.colours:
            colour = word
        elif word in language.kinds:
            kind = word
        else:
            raise KeyError(word)
    return colour, kind


def tidy(text: str) -> str:
    """Drop the space that an empty slot leaves behind."""
    return " ".join(text.split())


def fill(template: str, *names: str | tuple[str, str]) -> str:
    """Put names into a template's {a} and {b}, those with two cases ("the", "of") also into {a.of} and {b.of}.

    >>> fill("pon {a} a la izquierda {b.of}", "el bloque rojo", ("el plato", "del plato"))
    'pon el bloque rojo a la izquierda del plato'
    """
    for letter, name in zip("ab", names, strict=False):
        the, of = (name, name) if isinstance(name, str) else name
        template = template.replace(f"{{{letter}}}", the).replace(f"{{{letter}.of}}", of)
    return template


@functools.lru_cache(maxsize=1)
def load_languages() -> dict[str, Language]:
    """Every language by its code, English first.

    Raises:
        BadInputError: a file is wrong.
    """
    files = sorted((data_root() / "sim" / "languages").glob("*.yaml"), key=lambda f: (f.stem != ENGLISH, f.stem))
    return {file.stem: load_yaml(file, Language) for file in files}


def normalise(text: str) -> str:
    """Compose what can be composed (NFC), so that a letter is one letter however it was typed."""
    return unicodedata.normalize("NFC", text)


def detect_language(text: str) -> str:
    """The code of the language whose words cover most of a text; English where none does.

    >>> detect_language("把红色方块放在蓝色盘子上")
    'zh'
    """
    lower = normalise(text).lower()
    covered = {code: sum(len(m) for m in pattern.findall(lower)) for code, pattern in _patterns().items()}
    return max(covered, key=lambda code: covered[code])  # the first of equals, and English comes first


@functools.lru_cache(maxsize=32)
def _saying(english: str) -> re.Pattern[str]:
    """What finds the words for an English word in any language."""
    found = []
    for language in load_languages().values():
        forms = [re.escape(form.lower()) for form, means in language.lexicon() if means == english]
        found += forms if language.joined else [rf"\b{form}\b" for form in forms]
    return re.compile("|".join(found) or r"(?!)")


def says(text: str, english: str) -> bool:
    """Whether a text holds a word, in whatever language, that means the English one.

    >>> says("拿起最左边的方块", "leftmost"), says("pick up the block", "leftmost")
    (True, False)
    """
    return _saying(english).search(normalise(text).lower()) is not None


@functools.lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    """What finds the words of each language, the longest first."""
    found = {}
    for code, language in load_languages().items():
        words = {form.lower() for form, _ in language.lexicon()}
        if not language.joined:
            templates = [t for p in language.tasks.values() for t in (*p.seen, *p.held_out)]
            words |= {w.lower() for t in templates for w in re.findall(r"[^\W\d_]{2,}", _NAME.sub(" ", t))}
        joint = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
        found[code] = re.compile(joint if language.joined else rf"\b(?:{joint})\b")
    return found
