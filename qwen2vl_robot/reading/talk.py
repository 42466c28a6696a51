"""Tokens of a text → the same without small talk ("Nice day today."), beside an order."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.reading.letters import END, PAUSE
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


def drop_talk(tokens: list[Token], lexicon: Lexicon) -> tuple[list[Token], list[Token]]:
    """Part the tokens from the small talk among them, both in order.

    A part between pauses is small talk when it names nothing to handle and nothing to do, and stands before or
    behind the order. Words of unknown meaning are part of it only in a sentence of its own that comes first, or
    beside a word of small talk; anywhere else they stay unread.
    """
    parts = _parts(tokens)
    ordered = [k for k, part in enumerate(parts) if _is_weighty(part, lexicon)]
    if not any(token.verbs or token.has("start") for k in ordered for token in parts[k]):
        return [_without_talk(token) for token in tokens], []
    dropped = {k for k in range(len(parts)) if k not in ordered and _is_talk(parts, k, ordered)}
    kept = [token for k, part in enumerate(parts) if k not in dropped for token in part]
    talk = [token for k in sorted(dropped) for token in parts[k]]
    if kept and kept[0].gap < END and 0 in dropped:
        kept[0] = replace(kept[0], gap=END)
    return [_without_talk(token) for token in kept], talk


def _parts(tokens: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = []
    for token in tokens:
        if not parts or token.gap >= PAUSE:
            parts.append([])
        parts[-1].append(token)
    return parts


def _is_weighty(part: list[Token], lexicon: Lexicon) -> bool:
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives | _WEIGHTY
    known = known if any(token.has(*TALK) for token in part) else known | _USUAL
    return any(token.verbs or (not token.has(*TALK) and token.tags & known) for token in part)


def _is_talk(parts: list[list[Token]], at: int, ordered: list[int]) -> bool:
    part, follows = parts[at], parts[at + 1] if at + 1 < len(parts) else []
    is_first, is_last = at < ordered[0], at > ordered[-1]
    is_sentence = part[0].gap >= END and (not follows or follows[0].gap >= END)
    if any(token.has(*TALK) for token in part):
        is_told = any(token.has("did") for token in part) and bool(follows) and follows[0].has("self")
        return not is_told and (is_first or is_last or all(token.tags for token in part))
    return is_first and is_sentence and any(not token.tags for token in part)


def _without_talk(token: Token) -> Token:
    """A word of small talk inside an order ("the nice block") is not read."""
    return replace(token, tags=token.tags - TALK) if token.has(*TALK) else token
