"""Words of a text → the question that they ask, where they ask nothing but what the robot can answer.

The words of the question itself (`questions` of the language's file) are taken out; what is left is read as in an
order, and must name at most a thing and its place. A word that nobody reads, or a deed, makes it no such question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from qwen2vl_robot.languages import Language
from qwen2vl_robot.messages import Relation
from qwen2vl_robot.reading.changes import Reading
from qwen2vl_robot.reading.clauses import Clause
from qwen2vl_robot.reading.goal import Asks, Deed, Quantity, Question, Step, Thing, upon
from qwen2vl_robot.reading.letters import NO_GAP, PAUSE, Word
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.settling import settle_tags
from qwen2vl_robot.reading.steps import read_clause
from qwen2vl_robot.reading.tokens import Token

_BESIDE, _SEE = "beside", "see"  # what may stand beside a question; whole questions for everything in view
_WHOLE = {"ability": Asks.ABILITY, "done": Asks.DONE, "held": Asks.HELD, "why": Asks.WHY, _SEE: Asks.WHAT}
_ABOUT = {"count": Asks.COUNT, "where": Asks.WHERE, "whether": Asks.WHETHER, "what": Asks.WHAT}
_PAUSE = ","  # a pause among the words
_TABLE = Thing("table")
_PLACE = Token("", "", frozenset({"place"}))
_SMALL = frozenset(
    (
        *("filler", "be", "the", "of", "that", "thing", "it", "many", "all", "left", "right", "and"),
        *("case to", "case at", "to", "toward", "object"),
    )
)
_NO_ANSWER = frozenset(("not", "if", "if after", "except", "manner", "suppose", "did", "i", "rather", "neither"))


class QuestionForms:
    """The words of one language that make a question, and its lexicon for the rest."""

    def __init__(self, language: Language, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._is_joined = lexicon.grammar.spacing in ("loose", "none")
        self._known = _SMALL | lexicon.kinds | lexicon.colours | lexicon.superlatives | {r.value for r in Relation}
        self._patterns = {
            key: pattern
            for key, written in language.questions.items()
            if (pattern := self._pattern(language.reading.spell_out(written))) is not None
        }

    def read(self, words: list[Word]) -> Question | None:
        """Return the question that the words ask; None where they ask no such one, or say more."""
        for key, asks in _WHOLE.items():
            rest = self._without(key, words)
            if rest is not None and self._is_small(rest, is_open=asks is Asks.WHY):
                return Question(asks)
        empty = self._whether_empty(words)
        if empty is not None:
            return empty
        for key, asks in _ABOUT.items():
            rest = self._without(key, words)
            question = None if rest is None else self._about(asks, rest)
            if question is not None:
                return question
        return None

    def _whether_empty(self, words: list[Word]) -> Question | None:
        """ "Is the bowl empty?" asks what is in the bowl."""
        rest = None if self._without("whether", words) is None else self._without("empty", words)
        bare = None if rest is None else self._without("whether", rest)
        question = None if rest is None else self._about(Asks.WHETHER, rest if bare is None else bare)
        thing = None if question is None or question.reference is not None else question.thing
        if thing is None:
            return None
        return Question(Asks.WHAT, None, upon(thing.noun), thing)

    def _pattern(self, forms: list[str]) -> re.Pattern[str] | None:
        """What finds the longest of the forms, as whole words or as letters."""
        written = sorted({self._written(form) for form in forms if form}, key=len, reverse=True)
        return re.compile("|".join(written)) if written else None

    def _written(self, form: str) -> str:
        begins, ends = form.startswith("^"), form.endswith("$")
        core = re.escape(self._lexicon.fold(self._joint.join(form.strip("^$").casefold().split())))
        if self._is_joined:
            return ("(?:^|(?<=,))" if begins else "") + core + ("(?=,|$)" if ends else "")
        before = "(?:^|(?<=, ))" if begins else "(?<![^ ])"
        return before + core + ("(?= ,|$)" if ends else "(?![^ ])")

    @property
    def _joint(self) -> str:
        return "" if self._is_joined else " "

    def _without(self, key: str, words: list[Word]) -> list[Word] | None:
        """The words without those of a question, and without what may stand beside it; None where it is not asked."""
        pattern = self._patterns.get(key)
        text, owners = self._spell(words)
        found = None if pattern is None else pattern.search(text)
        if found is None:
            return None
        rest = _cut(words, owners, found.span())
        beside = self._patterns.get(_BESIDE)
        while beside is not None:
            text, owners = self._spell(rest)
            found = beside.search(text)
            if found is None:
                break
            rest = _cut(rest, owners, found.span())
        return rest

    def _spell(self, words: list[Word]) -> tuple[str, list[tuple[int, int] | None]]:
        """The folded words as one text, and for each letter its word and its place there."""
        text, owners = "", list[tuple[int, int] | None]()
        for number, word in enumerate(words):
            gap = (_PAUSE if word.gap >= PAUSE else "") if number else ""
            between = self._joint.join(("", gap, "")) if gap else self._joint if number else ""
            letters = [self._lexicon.fold(letter) for letter in word.text]  # one letter may be written as two
            text += between + "".join(letters)
            owners += [None] * len(between)
            owners += [(number, at) for at, letter in enumerate(letters) for _ in letter]
        return text, owners

    def _tokens(self, words: list[Word]) -> list[Token]:
        return settle_tags(self._lexicon.tokens(words), self._lexicon) if words else []

    def _is_small(self, words: list[Word], *, is_open: bool) -> bool:
        """Whether nothing of weight is left: small words, or, where it is open, words that are all read."""
        small = frozenset(("filler", "it", "the", "that", "be", "self", "talk", "urge", "thing"))
        tokens = self._tokens(words)
        return all(
            token.tags and (is_open or token.tags & small) and not (token.verbs and not is_open) for token in tokens
        )

    def _about(self, asks: Asks, words: list[Word]) -> Question | None:
        """Read what a question is about as an order would be: a thing, a place, or both."""
        tokens = [token for token in self._tokens(words) if token.tags != frozenset({"self"})]
        if any(token.tags & _NO_ANSWER or token.verbs or not token.tags & self._known for token in tokens):
            return None
        reading = Reading()
        is_last = self._lexicon.grammar.verb == "last"
        clause = (*tokens, _PLACE) if is_last else (_PLACE, *tokens)
        read_clause(Clause(clause, _PLACE), self._lexicon, reading)
        if reading.unread or reading.exclusions or reading.corrections or len(reading.steps) != 1:
            return None
        return _question(asks, reading.steps[0])


def _question(asks: Asks, step: Step) -> Question | None:
    """The question about a step's thing and place; None where it is about nothing that could be measured."""
    thing, relation, reference = step.thing, step.relation, step.reference
    is_place = step.deed is Deed.PLACE and step.place is None and step.direction is None
    if not is_place or any(t is not None and t.is_it for t in (thing, reference)):
        return None
    if reference == _TABLE:
        is_everything, relation, reference = thing is None, None, None
    else:
        is_everything = thing is None and reference is not None and asks in (Asks.WHAT, Asks.WHETHER)
    if thing == _TABLE:
        thing, is_everything = None, True
    if thing is not None and thing.relation is Relation.ON and thing.reference == _TABLE:
        thing = replace(thing, relation=None, reference=None)
    if thing is not None and asks is Asks.COUNT:
        thing = replace(thing, quantity=Quantity.ONE, count=1)  # "how many blocks" asks for no number of them
    if thing is None and not is_everything and asks is not Asks.COUNT:
        return None
    return None if thing is None and asks is Asks.WHERE else Question(asks, thing, relation, reference)


def _cut(words: list[Word], owners: list[tuple[int, int] | None], span: tuple[int, int]) -> list[Word]:
    """The words without the letters of a span of their text."""
    cut = {owner for owner in owners[slice(*span)] if owner is not None}
    return [piece for number, word in enumerate(words) for piece in _pieces(word, number, cut)]


def _pieces(word: Word, number: int, cut: set[tuple[int, int]]) -> Iterator[Word]:
    """What is left of a word, in one or more pieces."""
    begin = 0
    for at in range(len(word.text) + 1):
        if at == len(word.text) or (number, at) in cut:
            if at > begin:
                gap = word.gap if begin == 0 else NO_GAP
                yield replace(word, text=word.text[begin:at], pieces=word.pieces[begin:at], gap=gap)
            begin = at + 1
