"""Tokens of a text → the same without what only accompanies an order: small talk, reasons, names for the listener."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qwen2vl_robot.reading.letters import COLON, END, PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.things import QUANTITIES
from qwen2vl_robot.reading.tokens import Token

TALK = frozenset({"talk", "enough"})
# With any of these a part says something about an order; the second ones may stand beside a word of small talk.
_WEIGHTY = frozenset(
    (
        *("not", "except", "except after", "rather", "if", "if after", "suppose", "start", "neither", "nor"),
        *("left", "right", "away", "closer", "and"),
    )
)
_USUAL = frozenset(("thing", "ask", "did", "i", "manner", "second", "minute", *QUANTITIES))
# What a reason may not hold: it could be more than a reason.
_TURNS = frozenset(
    ("if", "if after", "except", "except after", "rather", "but", "correct", "suppose", "ask", "then", "manner", "and")
)
_NAME = 3  # words of a name that nobody knows: "my old friend"


def drop_talk(tokens: list[Token], lexicon: Lexicon) -> tuple[list[Token], list[Token]]:
    """Part the tokens from the small talk among them, both in order.

    A part between pauses is small talk when it names nothing to handle and nothing to do, and stands before or
    behind the order. Words of unknown meaning are part of it only in a sentence of its own that comes first, or
    beside a word of small talk; anywhere else they stay unread. A reason for an order is no part of it either.
    """
    parts = _parts(_settle_names(tokens, lexicon))
    ordered = [k for k, part in enumerate(parts) if _is_weighty(part, lexicon)]
    reasons = {k for k in ordered if _is_reason(parts, k, lexicon)}
    ordered = [k for k in ordered if k not in reasons]
    if not any(token.verbs or token.has("start") for k in ordered for token in parts[k]):
        return [_without_talk(token) for part in parts for token in part], []
    dropped = reasons | {k for k in range(len(parts)) if k not in ordered and _is_talk(parts, k, ordered)}
    kept = [token for k, part in enumerate(parts) if k not in dropped for token in part]
    talk = [token for k in sorted(dropped) for token in parts[k]]
    if kept and kept[0].gap < END and 0 in dropped:
        kept[0] = replace(kept[0], gap=END)
    return [_without_talk(token) for token in kept], talk


def _parts(tokens: list[Token]) -> list[list[Token]]:
    """What stands between pauses, or between a reason and what follows from it ("so", "because")."""
    parts: list[list[Token]] = []
    for token in tokens:
        is_reason = bool(parts) and parts[-1][-1].has("because after")
        if not parts or token.gap >= PAUSE or token.has("because", "hence") or is_reason:
            parts.append([])
        parts[-1].append(token)
    return parts


def _is_weighty(part: list[Token], lexicon: Lexicon) -> bool:
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives | _WEIGHTY | {"because", "because after"}
    known = known if any(token.has(*TALK) for token in part) else known | _USUAL
    return any(token.verbs or (not token.has(*TALK) and token.tags & known) for token in part)


def _is_reason(parts: list[list[Token]], at: int, lexicon: Lexicon) -> bool:
    """Whether a part only says why: "because my hands are full", "the table is a mess, so ...".

    It holds no deed and nothing that could restrict one. A thing that it names must not be what "it" means.
    """
    part, follows = parts[at], parts[at + 1] if at + 1 < len(parts) else []
    is_said = part[0].has("because") or part[-1].has("because after")
    is_before = at == 0 and bool(follows) and follows[0].has("hence") and not any(t.has("not", "i") for t in part)
    if not (is_said or is_before) or any(token.verbs or token.tags & _TURNS for token in part):
        return False
    named = lexicon.kinds | {"thing"}
    others = [token for k, other in enumerate(parts) if k != at for token in other]
    is_told = any(t.tags & lexicon.kinds for t in others) and not any(t.has("it") for t in others)
    return not any(t.tags & named for t in part) or (is_said and is_told)


def _is_talk(parts: list[list[Token]], at: int, ordered: list[int]) -> bool:
    part, follows = parts[at], parts[at + 1] if at + 1 < len(parts) else []
    is_first, is_last = at < ordered[0], at > ordered[-1]
    is_announced = bool(follows) and follows[0].gap == COLON  # "The sign reads: ..."
    is_sentence = part[0].gap >= END and (not follows or follows[0].gap == END)
    if any(token.has(*TALK) for token in part):
        is_told = any(token.has("did") for token in part) and bool(follows) and follows[0].has("self")
        is_known = all(token.tags for token in part)
        return not is_told and (is_known or ((is_first or is_last) and not is_announced))
    return is_first and is_sentence and any(not token.tags for token in part)


def _without_talk(token: Token) -> Token:
    """A word of small talk inside an order ("the nice block") is not read."""
    return replace(token, tags=token.tags - TALK) if token.has(*TALK) else token


# ------------------------------------------------------------------------------------------------- names


def _settle_names(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Make small words of what calls the listener ("darling", "my friend"); where it may be a thing, it is unread."""
    settled = list[Token]()
    parts = list(_spans(tokens))
    for begin, end in parts:
        part = tokens[begin:end]
        is_edge = begin == 0 or end == len(tokens)
        if _calls(part, is_edge=is_edge):
            settled += [t if t.tags - {"name", "call"} else replace(t, tags=frozenset({"filler"})) for t in part]
            continue
        for at, token in enumerate(part):
            if not token.has("name", "call"):
                settled.append(token)
                continue
            is_alone = token.has("name") and _is_called(part, at, lexicon)
            rest = token.tags - {"name", "call"}
            settled.append(replace(token, tags=frozenset({"filler"}) if is_alone else rest))
    return settled


def _spans(tokens: list[Token]) -> Iterator[tuple[int, int]]:
    starts = [k for k, token in enumerate(tokens) if k == 0 or token.gap >= PAUSE]
    yield from zip(starts, [*starts[1:], len(tokens)], strict=False)


def _calls(part: list[Token], *, is_edge: bool) -> bool:
    """Whether a part does nothing but call the listener: by a known name, or by any name behind "my" or "hey"."""
    small = {"filler", "name", "call", "self", "own"}
    if any(token.tags and token.tags.isdisjoint(small) for token in part) or any(token.verbs for token in part):
        return False
    unknown = sum(not token.tags for token in part)
    if not unknown:
        return any(token.has("name", "call") for token in part)
    return is_edge and unknown <= _NAME and (part[0].has("own", "call") or part[-1].has("call"))


def _is_called(part: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether a name stands where no thing can: at the edge of an order, and behind no article or preposition."""
    begin, end = at, at + 1
    while begin > 0 and part[begin - 1].has("own", "name"):
        begin -= 1
    while end < len(part) and part[end].has("name"):
        end += 1
    if end == len(part) and begin > 0:
        before = part[begin - 1]
        ends = lexicon.kinds | {"it", "closer", "away", "left", "right", "start", "second", "minute"}
        ends |= lexicon.colours | lexicon.superlatives if lexicon.grammar.adjectives == "after" else set()
        return bool(before.tags & (ends | {"filler", "object"})) and not before.has("the", "own", "of")
    follows = part[end] if end < len(part) else None
    is_free = follows is not None and (bool(follows.verbs) or follows.has("filler"))
    return is_free and all(token.has("filler", "own", "name") and not token.verbs for token in part[:at])
