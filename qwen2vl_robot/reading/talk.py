"""Tokens of a text → the same without small talk ("Nice day today."), beside an order."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.reading.letters import END, PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.things import QUANTITIES
from qwen2vl_robot.reading.tokens import Token

TALK = frozenset({"talk", "enough"})
_WEIGHTY = frozenset(  # with any of these a part says something about the order
    (
        *(
            "not",
            "except",
            "except after",
            "rather",
            "if",
            "if after",
            "manner",
            "suppose",
            "ask",
            "did",
            "start",
            "and",
        ),
        *("left", "right", "away", "closer", "second", "minute", "thing", "neither", "nor", "did", *QUANTITIES),
    )
)


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
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives
    is_idle = any(token.has(*TALK) for token in part)
    return any(
        token.verbs or (not token.has(*TALK) and token.tags & (known | _WEIGHTY)) or (not is_idle and token.has("i"))
        for token in part
    )


def _is_talk(parts: list[list[Token]], at: int, ordered: list[int]) -> bool:
    is_first, is_last = at < ordered[0], at > ordered[-1]
    if any(token.has(*TALK) for token in parts[at]):
        return is_first or is_last or all(token.tags for token in parts[at])
    ends = at + 1 == len(parts) or parts[at + 1][0].gap >= END
    is_sentence = parts[at][0].gap >= END and ends
    return is_first and is_sentence and any(not token.tags for token in parts[at])


def _without_talk(token: Token) -> Token:
    """A word of small talk inside an order ("the nice block") is not read."""
    return replace(token, tags=token.tags - TALK) if token.has(*TALK) else token
