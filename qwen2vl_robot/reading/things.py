"""Tokens → the thing that begins at one: article, quantity, superlative, colour and noun."""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.reading.goal import LAST, Quantity, Thing
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.tokens import Token

_LONG, NEAR = 16, 5  # tokens of one thing, and how far ahead it is looked, so that no text takes long
_SIDES = {"left": "leftmost", "right": "rightmost"}
_NUMBERS = {str(n) for n in (*range(1, 21), 25, 30, 40, 45, 50, 60, 90)}
_RANK = "rank "  # begins the tags of ordinals: "rank 2" is "second"
# With an ordinal: "the second block from the left", "the last block on the right".
_FROM = {"from left": "leftmost", "from right": "rightmost"}
_COUNTED = {**_FROM, "side left": "leftmost", "side right": "rightmost"}
_OPPOSITE = {"leftmost": "rightmost", "rightmost": "leftmost"}
QUANTITIES = ("number", "all", "another", *_NUMBERS)


@dataclass(frozen=True, slots=True)
class FoundThing:
    """A thing, and what its words say beside: see `phrases.Node`.

    Attributes:
        end: the token behind it.
    """

    thing: Thing
    end: int
    is_to: bool | None
    is_bare: bool
    is_count: bool
    is_near: bool


def number_of(token: Token) -> float | None:
    """The number that a token says, in digits or in words."""
    if token.has("number"):
        return min(float(token.text), 1e6)
    return next((float(tag) for tag in token.tags if tag in _NUMBERS), None)


@dataclass(slots=True)
class _Draft:
    noun: str = ""
    colour: str = ""
    superlative: str = ""
    quantity: Quantity | None = None
    count: int = 1
    is_generic: bool = False
    is_it: bool = False
    is_many: bool = False
    has_article: bool = False
    is_to: bool | None = None
    is_any: bool = False
    is_each: bool = False
    rank: int = 0
    is_from: bool = False

    @property
    def is_full(self) -> bool:
        return bool(self.noun) or self.is_generic or self.is_it

    @property
    def is_begun(self) -> bool:
        return bool(self.colour or self.superlative or self.quantity or self.has_article or self.rank)

    def finish(self) -> Thing:
        quantity = self.quantity or (Quantity.ALL if self.is_many and not self.superlative else Quantity.ONE)
        is_any = self.is_any and quantity is Quantity.ONE and not self.superlative
        superlative = self.superlative
        if self.rank == LAST and self.is_from:  # the last from the left is the rightmost
            superlative = _OPPOSITE[superlative]
        kind = (self.noun, self.colour, superlative, quantity, self.count)
        rank = 0 if superlative and self.rank in (1, LAST) else self.rank
        return Thing(*kind, is_it=self.is_it, is_any=is_any and not rank, is_each=self.is_each, rank=rank)


def read_thing(tokens: list[Token], at: int, lexicon: Lexicon) -> FoundThing | None:
    """The thing that begins at a token: article, quantity, superlative, colour and noun as the language orders them."""
    draft, end, here = _Draft(), at, at
    while here < min(len(tokens), at + _LONG):
        token = tokens[here]
        if (
            token.verbs
            or (here > at and token.gap >= PAUSE and draft.is_full)
            or not _take(draft, tokens, here, lexicon)
        ):
            if not _may_skip(draft, tokens, here, lexicon):
                break
        else:
            end = here + 1
            draft.is_any, draft.is_each = draft.is_any or token.has("any"), draft.is_each or token.has("each")
        here += 1
    is_article_only = draft.has_article and not (
        draft.is_full or draft.colour or draft.superlative or draft.quantity or draft.rank
    )
    if is_article_only:
        is_last = end == len(tokens) or bool(tokens[end].tags)  # an article before an unread word is no pronoun
        draft.is_it = is_last and any(token.has("it") for token in tokens[at:end])
    if end == at or (is_article_only and not draft.is_it):
        return None
    is_count = bool(draft.quantity) and not (draft.is_full or draft.colour or draft.superlative)
    if is_count and draft.quantity is Quantity.NUMBER and end < len(tokens) and not tokens[end].tags:
        return None  # "5 cm"
    is_bare = not draft.is_full and bool(draft.colour) and not draft.quantity
    is_near = tokens[end - 1].has("nearest", "farthest")
    return FoundThing(draft.finish(), end, draft.is_to, is_bare, is_count, is_near)


def _take(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Take a token into a thing; False when it belongs to none, or to the next."""
    token = tokens[at]
    if rank_of(token) or token.has(*_FROM) or (token.has(*_COUNTED) and _is_ranked(draft, tokens, at)):
        return _take_rank(draft, tokens, at, lexicon)
    noun = next((tag for tag in sorted(token.tags) if tag in lexicon.kinds), "")
    colour = next((tag for tag in sorted(token.tags) if tag in lexicon.colours), "")
    superlative = next((tag for tag in sorted(token.tags) if tag in lexicon.superlatives), "")
    if token.has(*QUANTITIES) and not _is_generic_here(tokens, at, lexicon, draft):
        return _take_quantity(draft, tokens, at, lexicon)
    is_article = token.has("the") and token.has("thing", "it") and _goes_on(tokens, at + 1, lexicon)  # "那个红色的"
    if (noun or token.has("thing")) and not is_article:
        if draft.is_full:
            return False
        draft.noun, draft.is_generic, draft.is_many = noun, not noun, token.has("many")
    elif colour:
        if draft.colour or (draft.is_full and lexicon.grammar.adjectives == "before"):
            return False
        draft.colour = colour
    elif superlative:
        if draft.superlative or (
            (draft.is_full or draft.colour) and token.has("away", "closer")
        ):  # "más lejos" is a direction as well
            return False
        draft.superlative = superlative
    elif token.has("the"):
        is_linked = at > 0 and tokens[at - 1].has("of")  # "the largest of the blocks"
        is_linked = is_linked or (
            lexicon.grammar.order == "after" and _goes_on(tokens, at + 1, lexicon)
        )  # "最大的那个球"
        if token.has("that") and draft.is_begun and at + 1 < len(tokens) and tokens[at + 1].has("be"):
            return False  # "everything that is red"
        if draft.is_full or ((draft.colour or draft.superlative or draft.has_article) and not is_linked):
            return False
        draft.has_article = True
        draft.is_to = True if token.has("case to") else False if token.has("case at") else draft.is_to
    elif token.has("it") and not draft.is_full and not draft.is_begun:
        draft.is_it = True
    elif (
        token.has(*_SIDES)
        and _may_be_side(token, lexicon)
        and not draft.is_full
        and not draft.superlative
        and _goes_on(tokens, at + 1, lexicon)
    ):
        draft.superlative = _SIDES["left" if token.has("left") else "right"]
    else:
        return False
    return True


def rank_of(token: Token) -> int:
    """Which of a row an ordinal says; 0 for any other word."""
    if token.has("rank last"):
        return LAST
    return next((int(tag.removeprefix(_RANK)) for tag in sorted(token.tags) if tag.startswith(_RANK)), 0)


def _take_rank(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Take an ordinal, or from where it counts; that says nothing without an ordinal beside it."""
    rank, counted = rank_of(tokens[at]), next((_COUNTED[tag] for tag in _COUNTED if tokens[at].has(tag)), "")
    if draft.is_it or (rank and draft.rank) or (counted and draft.superlative):
        return False
    if counted and not _is_ranked(draft, tokens, at):
        return False
    draft.rank, draft.superlative = rank or draft.rank, counted or draft.superlative
    draft.is_from = draft.is_from or tokens[at].has(*_FROM)
    return True


def _is_ranked(draft: _Draft, tokens: list[Token], at: int) -> bool:
    return bool(draft.rank) or any(map(rank_of, tokens[at : at + NEAR]))


def _may_be_side(token: Token, lexicon: Lexicon) -> bool:
    """Whether "left" may stand for "leftmost" here; where it stands before its thing it may be "left of"."""
    return lexicon.grammar.order == "after" or not token.has("left_of", "right_of")


def _take_quantity(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Take how many there are; one quantity a thing."""
    token, number = tokens[at], number_of(tokens[at])
    if draft.quantity in (Quantity.ALL, Quantity.NUMBER) and token.has("all"):
        return True  # "hết mọi thứ" says it twice, "공 두 개 다" all of the two
    is_behind = token.has("all") or (token.has("another", "1") and lexicon.grammar.adjectives != "before")
    if draft.quantity or (draft.is_full and lexicon.grammar.order == "before" and not is_behind):
        return False
    if token.has("all"):
        draft.quantity = Quantity.ALL
    elif token.has("another"):
        draft.quantity = Quantity.ANOTHER
    elif number is not None and number == int(number) > 0:
        draft.quantity, draft.count = Quantity.ONE if number == 1 else Quantity.NUMBER, int(number)
    else:
        return False
    return True


def _is_generic_here(tokens: list[Token], at: int, lexicon: Lexicon, draft: _Draft) -> bool:
    """Whether "one" is the thing itself ("the red one") and not how many there are ("one block")."""
    is_link = at + 1 < len(tokens) and tokens[at + 1].has("of")  # "one of the red blocks"
    return tokens[at].has("thing") and (draft.is_begun or not _goes_on(tokens, at + 1, lexicon, is_link=is_link))


def _may_skip(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether a thing goes on behind a word that is none of it: an unread one, "of", a filler."""
    token = tokens[at]
    if draft.is_full or not draft.is_begun or token.verbs:
        return False
    is_link = token.has("of") and bool(draft.quantity or draft.superlative or draft.colour or draft.rank)
    is_other = not token.tags or token.tags <= {"filler", "be"}
    return (is_link or is_other) and _goes_on(tokens, at + 1, lexicon, is_link=True)


def _goes_on(tokens: list[Token], at: int, lexicon: Lexicon, *, is_link: bool = False) -> bool:
    """Whether a noun or what stands before one comes next, perhaps behind "of" or words that are not read."""
    end = min(len(tokens), at + NEAR)
    while at < end and (tokens[at].has("of") or not tokens[at].tags) and not tokens[at].verbs:
        at += 1
    wanted = lexicon.kinds | lexicon.colours | lexicon.superlatives | {"thing"} | ({"the"} if is_link else set())
    return at < len(tokens) and (rank_of(tokens[at]) > 0 or not tokens[at].tags.isdisjoint(wanted))
