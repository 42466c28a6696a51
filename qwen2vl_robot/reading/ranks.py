"""A word that may be an ordinal, and its neighbours → whether it is one: "the second block", not "wait a second"."""

from __future__ import annotations

from qwen2vl_robot.reading.goal import LAST
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.things import NEAR, number_of
from qwen2vl_robot.reading.tokens import Token


def settle_rank(tokens: list[Token], at: int, lexicon: Lexicon) -> frozenset[str]:
    """ "the second block", "wait a second" and "second, take it": an ordinal stands right before a thing."""
    tags, before = tokens[at].tags, tokens[at - 1] if at else None
    if "nth" in tags:  # "3番目"
        return frozenset({"filler"}) if before is not None and number_of(before) else tags - {"nth"}
    number = number_of(tokens[at])
    if number in range(1, LAST) and at + 1 < len(tokens) and tokens[at + 1].has("nth"):
        return frozenset({f"rank {number:.0f}"})
    ranks = frozenset(tag for tag in tags if tag.startswith("rank "))
    if not ranks or ranks == tags:
        return tags
    follows = tokens[at + 1] if at + 1 < len(tokens) else None
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives | {"thing"}
    is_before = follows is not None and not follows.gap and not follows.tags.isdisjoint(known)
    is_time = before is not None and bool(number_of(before)) and not before.has("the", "any")
    has_article = before is not None and before.has("the")
    if any(token.has("from left", "from right") for token in tokens[max(0, at - NEAR) : at + NEAR]):
        return ranks
    if is_before and not is_time and (has_article or not tags & {"then"}):
        return ranks
    return tags - ranks
