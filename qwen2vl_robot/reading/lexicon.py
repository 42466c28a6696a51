"""A language's data → its forms and what they mean; words → tokens that carry those meanings.

A meaning is a tag: an English word of the catalogue ("red", "block", "leftmost"), a relation ("left_of"), or a key of
the file's section `reading` ("pick", "not", "filler"), where en.yaml explains them. Sentence templates are not read.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate

from qwen2vl_robot.languages import MADE, Language
from qwen2vl_robot.reading.goal import MEASURED_RANKS
from qwen2vl_robot.reading.letters import Word, plain_words
from qwen2vl_robot.reading.pieces import Forms, cut
from qwen2vl_robot.reading.stored import recall
from qwen2vl_robot.reading.tokens import Entry, Token, is_number, is_verb

_RUN = re.compile(r"(.)\1+")
_STROKES = str.maketrans("đĐ", "dD")
_LONGEST = 10  # words of a phrase
# Keys whose forms mean nothing by themselves.
_NO_FORMS = ("again", "undo", "joins", "stop word", "stop tail", "alarm", "robots")
_JOINED = " + "  # in the key of forms that are two tokens: "拿到" is a verb and "toward"
_Parts = tuple[tuple[frozenset[str], ...], frozenset[int]]  # of an Entry


class Lexicon:
    """The forms of one language.

    Args:
        is_bare: whether they are read as people type them who leave out all marks ("khoi do" for "khối đỏ").
    """

    def __init__(self, language: Language, *, is_bare: bool = False) -> None:
        self.grammar = language.reading
        self.kinds = {*language.kinds, "table"}
        self.colours, self.superlatives = set(language.colours), {*language.superlatives, *MEASURED_RANKS}
        self._is_bare, self._is_joined = is_bare, self.grammar.spacing != "words"
        self._letters = {ord(pair[0]): pair[1:] for pair in self.grammar.letters.split()}
        self.entries = recall(language, is_bare, lambda: self._spell_out(language))
        fillers = (f for f, entry in self.entries.items() if entry.tags[0] & {"filler", "talk"} and f.isalpha())
        self._stretched = {squeeze(form): self.entries[form] for form in fillers if len(form) > 1}
        self._glue = tuple(form[:-1] for form in self.grammar.forms("glue") if form.endswith("-"))  # the Arabic article
        self._joins = self.grammar.forms("joins")
        self._cutting = self._make_forms() if self.is_joined else None

    def _spell_out(self, language: Language) -> dict[str, Entry]:
        """Every form of everything."""
        self.entries = {}
        self._shared: dict[_Parts, Entry] = {}  # many forms mean the same, and fewer objects are sooner collected
        forms = list(dict.fromkeys(self._forms(language)))
        for form, tag in forms:
            self._add(form, tuple(frozenset({part}) for part in tag.split(_JOINED)))
        said, clitics = set(self.entries), self.grammar.endings.get("it", "").split()
        for form, tag in forms:
            for ending in self._endings(tag):
                is_plural = tag in self.kinds and tag in _first_tags(self.entries.get(form + ending))
                if is_plural or form + ending not in said:  # "vale" is a word of its own, not "va" with "le"
                    self._add(form + ending, (frozenset({tag, "many"} if tag in self.kinds else {tag}),))
            if is_verb(tag) and tag != "want" and " " not in form:
                pair = (frozenset({tag}), frozenset({"it"}))
                for ending in clitics:
                    self._add(form + ending, pair)
        for form, entry in list(self.entries.items()) if self._letters else ():
            self.entries.setdefault(self.fold(form), entry)
        return self.entries

    def _make_forms(self) -> Forms:
        bare = {form.strip("-") for form in self.entries}
        beginnings = set[str]()
        for form in bare:
            end = len(form)
            while end and form[:end] not in beginnings:  # whose own beginnings are all there, else
                beginnings.add(form[:end])
                end -= 1
        letters = frozenset(c for c in set[str]().union(*bare) if not c.isascii())
        nouns = frozenset(self.kinds | {"thing", "start"})
        return Forms(self.entries, frozenset(beginnings), self.grammar.spacing, nouns, letters)

    @property
    def is_joined(self) -> bool:
        """Whether words are cut out of longer runs of letters."""
        return self._is_joined

    def fold(self, text: str) -> str:
        """Write letters as this language's forms are written here: "grün" as "gruen"."""
        return text.translate(self._letters)

    def _endings(self, tag: str) -> list[str]:
        group = "colour" if tag in self.colours else "kind" if tag in self.kinds or tag == "thing" else ""
        group = "verb" if is_verb(tag) and tag != "want" else group
        return self.grammar.endings.get(group, "").split()

    def _forms(self, language: Language) -> Iterator[tuple[str, str]]:
        """(form, tag) of everything, each as often as it means something."""
        made = [f"{MADE}{tag}" for tag in self.grammar.words if is_verb(tag)]
        for tag in dict.fromkeys((*self.grammar.words, *made)):
            yield from ((form, tag) for form in self.grammar.forms(tag) if tag not in _NO_FORMS)
        known = self.kinds | self.colours | self.superlatives
        small = [form for tag in ("of", "the") for form in self.grammar.forms(tag)]
        every = tuple(f"{form} " for form in self.grammar.forms("all"))
        for form, tag in language.lexicon():
            if tag in known and not (tag in self.kinds and self.is_joined):
                yield next((form[len(word) :] for word in every if form.startswith(word)), form), tag
        for kind, nouns in language.kinds.items() if self.is_joined else ():
            for noun in nouns:
                bare = (noun.of or noun.the).replace("{c}", "").replace("{m}", "").replace("{f}", "").strip()
                if not any(bare.startswith(word) for word in small):
                    yield bare, kind
                yield from ((bare[len(w) - 1 :], kind) for w in small if w.endswith("-") and bare.startswith(w[:-1]))
        for word in (w[:-1] for w in small if w.endswith("-")):
            for form, tag in language.lexicon():
                if tag in known and form.startswith(word) and " " not in form:
                    yield form[len(word) :], tag

    def _add(self, form: str, tags: tuple[frozenset[str], ...]) -> None:
        words = plain_words(form.strip("-"))
        if self._is_joined:
            words = [self.fold(word) for word in words]
        if self._is_bare:
            words = [strip_marks(word) for word in words]
        key = ("" if self._is_joined else " ").join(words)
        if form[:1] == "-" or form[-1:] == "-":  # "-s" ends a word, "s-" begins one
            key = f"{'-' * form.startswith('-')}{key}{'-' * form.endswith('-')}"
        spaces = frozenset(accumulate(map(len, words[:-1]), initial=0)) if words else frozenset[int]()
        old = self.entries.get(key)
        if old is not None and len(old.tags) == len(tags) == 1:
            tags, spaces = (old.tags[0] | tags[0],), spaces | old.spaces
        if words and (old is None or len(tags) == 1):
            shared = self._shared.get((tags, spaces))
            if shared is None:
                shared = self._shared[tags, spaces] = Entry(tags, spaces)
            self.entries[key] = shared

    def tokens(self, words: list[Word]) -> list[Token]:
        """Find the forms; a word in which none is found is a token without tags."""
        found = self._find_phrases(words)
        if self._cutting is not None:
            found = cut(self._cutting, [replace(word, text=self.fold(word.text)) for word in words])
        named = self.kinds | {"thing"}
        tokens, gap, has_glue = list[Token](), 0, False
        for token in found:
            gap = max(gap, token.gap)
            if token.has("unread"):  # a word that only looks like others: "赤ちゃん" is not "red"
                token = replace(token, tags=frozenset())
            if not token.has("glue"):
                is_defined = token.tags & named and (has_glue or token.text.startswith(self._glue))
                tags = token.tags | {"defined"} if is_defined else token.tags
                is_same = gap == token.gap and tags is token.tags
                tokens.append(token if is_same else replace(token, gap=gap, tags=tags))
                gap = 0
            has_glue = token.has("glue")
        return tokens

    def _find_phrases(self, words: list[Word]) -> Iterator[Token]:
        exact = [word.text for word in words]
        folded = [self.fold(word.text) for word in words]
        at = 0
        while at < len(words):
            for count in range(min(_LONGEST, len(words) - at), 0, -1):
                entry = self.entries.get(" ".join(exact[at : at + count]))
                entry = entry or self.entries.get(" ".join(folded[at : at + count]))
                is_clitic = count > 1 and words[at].before == "-"  # "repousse-la plus loin" is not about "la plus loin"
                if entry is not None and not (is_clitic and entry.tags[0] & self.superlatives):
                    break
            else:
                count, entry = 1, self._compound(folded[at]) or self._unstretch(folded[at])
            yield from _as_tokens(words[at : at + count], entry)
            at += count

    def _unstretch(self, word: str) -> Entry | None:
        """ "pleeease"; but "queria" is no short "querría"."""
        short = squeeze(word)
        return self._stretched.get(short) if short != word else None

    def _compound(self, word: str) -> Entry | None:
        """A noun behind a word that may be joined to it: "Holzwürfel"."""
        for before in self._joins:
            rest = self.entries.get(word[len(self.fold(before)) :]) if word.startswith(self.fold(before)) else None
            if rest is not None and rest.tags[0] & self.kinds:
                return rest
        return None


def _first_tags(entry: Entry | None) -> frozenset[str]:
    return frozenset() if entry is None else entry.tags[0]


@functools.lru_cache(maxsize=8192)
def strip_marks(text: str) -> str:
    """Leave out what stands above or below letters, as people do who type in haste.

    >>> strip_marks("đặt khối đỏ")
    'dat khoi do'
    """
    letters = unicodedata.normalize("NFD", text.translate(_STROKES))
    return "".join(c for c in letters if unicodedata.category(c) != "Mn")


def squeeze(word: str) -> str:
    """ "pleeease" and "please" are both "please"; "soo" is "so"."""
    return _RUN.sub(r"\1", word)


def _as_tokens(words: list[Word], entry: Entry | None) -> Iterable[Token]:
    text, spelling = (
        " ".join(w.text for w in words),
        "".join(w.before + w.spelling for w in words)[len(words[0].before) :],
    )
    if entry is None:
        number = frozenset({"number"}) if is_number(text) else frozenset[str]()
        return [Token(text, spelling, number, words[0].gap, words[0].before)]
    first = Token(text, spelling, entry.tags[0], words[0].gap, words[0].before)
    return [first, *(Token(text, "", tags, before="") for tags in entry.tags[1:])]
