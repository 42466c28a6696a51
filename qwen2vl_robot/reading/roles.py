"""Words that are a verb, or count, beside some words only → what they are here: "clear", "line ... up", "places"."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.things import rank_of
from qwen2vl_robot.reading.tokens import Token

_OF_SWAPS = frozenset({"around", "places"})
_THINGS = frozenset({"the", "any", "thing", "it", "all", "own"})


def settle_roles(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Decide what such words are by what stands in the same part of the sentence."""
    settled: list[Token] = []
    tokens = _count_from(tokens)
    for at, token in enumerate(tokens):
        tags = token.tags
        if "clear" in tags and _is_quality(settled, tokens, at, lexicon):
            tags = frozenset()  # "the empty bowl"
        if "lining" in tags:  # "line the blocks up"
            tags = frozenset({"line up"}) if _behind(tokens, at, "up") else tags - {"lining"}
        if "leave" in tags and _behind(tokens, at, "swap"):
            tags = frozenset({"filler"})  # "let the ball and the block trade places"
        if tags & _OF_SWAPS:  # "switch the two around", "swap the places of the two blocks"
            is_swap = any(other.has("swap") for other in _part(tokens, at))
            tags = frozenset({"filler"}) if is_swap else tags - _OF_SWAPS
        if "away" in tags and _is_tidied(settled, tokens, at):
            tags = frozenset({"filler"})  # "put the blocks away in the bowl"
        if "back" in tags and token.verbs and any(t.has("place", "move") for t in _part(tokens, at)[:-1]):
            tags = frozenset({"back"})  # "đặt nó về chỗ cũ" and "về chỗ cũ"
        settled.append(token if tags is token.tags else replace(token, tags=tags))
    return settled


def _count_from(tokens: list[Token]) -> list[Token]:
    """ "count from the left and take the third block": from where it counts belongs to the ordinal behind it."""
    at = next((k for k, token in enumerate(tokens) if token.has("counting")), None)
    if at is None:
        return tokens
    rank = next((k for k in range(at + 1, len(tokens)) if rank_of(tokens[k])), None)
    moved = replace(tokens[at], tags=tokens[at].tags - {"counting"}, gap=0)
    if rank is None:
        return [*tokens[:at], moved, *tokens[at + 1 :]]
    return [*tokens[:at], *tokens[at + 1 : rank], moved, *tokens[rank:]]


def _part(tokens: list[Token], at: int) -> list[Token]:
    """The tokens around one, up to the pauses."""
    begin = next((k for k in range(at, 0, -1) if tokens[k].gap >= PAUSE), 0)
    return tokens[begin : _end(tokens, at)]


def _end(tokens: list[Token], at: int) -> int:
    """Where the next pause behind a token is."""
    return next((k for k in range(at + 1, len(tokens)) if tokens[k].gap >= PAUSE), len(tokens))


def _behind(tokens: list[Token], at: int, tag: str) -> bool:
    """Whether a token of a tag follows before any pause."""
    return any(token.has(tag) for token in tokens[at + 1 : _end(tokens, at)])


def _is_quality(settled: list[Token], tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether "clear" or "empty" says how a thing is: it stands inside a name, or right behind its noun."""
    if not settled or tokens[at].gap >= PAUSE:
        return False
    before = settled[-1]
    if lexicon.grammar.order == "after" or lexicon.grammar.verb == "last":
        return before.has("the", "any") and at + 1 < len(tokens) and tokens[at + 1].has(*lexicon.kinds)
    known = lexicon.kinds | lexicon.colours | _THINGS
    return not before.tags or not before.tags.isdisjoint(known) or before.has("be")


def _is_tidied(settled: list[Token], tokens: list[Token], at: int) -> bool:
    """Whether "away" goes with a verb of putting, and where to comes next."""
    follows = tokens[at + 1] if at + 1 < len(tokens) else None
    if follows is None or follows.gap or not follows.has("in", "on", "to"):
        return False
    verb = next((token for token in reversed(settled) if token.verbs), None)
    return verb is not None and any(tag.startswith(("place", "clear")) for tag in verb.verbs)
