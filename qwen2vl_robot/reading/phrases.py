"""Tokens of a clause → its nodes: things, places, directions, and the small words between."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.arranging import MARKS
from qwen2vl_robot.reading.goal import Quantity, Thing
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.places import Node, join_nodes, owner_of
from qwen2vl_robot.reading.things import NEAR, QUANTITIES, number_of, read_thing
from qwen2vl_robot.reading.tokens import Token

_RELATIONS = {r.value: r for r in Relation}
_WAYS = {d.value: d for d in Direction}
_UNITS = {"second": 1.0, "minute": 60.0}
_LENGTHS_M = {"millimetre": 0.001, "centimetre": 0.01, "metre": 1.0, "inch": 0.0254}
# What a node may be, besides "thing", "place", "relation", "way" and "seconds": the tag of its token.
_SMALL = (
    "not",
    "except",
    "except after",
    "rather",
    "but",
    "correct",
    "that",
    "of",
    "to",
    "from",
    "object",
    "and",
    "then",
    "start",
    "self",
)


def find_nodes(tokens: list[Token], lexicon: Lexicon) -> list[Node]:
    """Read a clause from left to right, then join relations with the things that they refer to."""
    nodes: list[Node] = []
    at = 0
    while at < len(tokens):
        node = _node_at(tokens, at, nodes, lexicon)
        if node is not None:
            nodes.append(replace(node, gap=tokens[at].gap) if tokens[at].gap else node)
        at = node.end if node is not None else at + 1
    return join_nodes(nodes, is_behind=lexicon.grammar.order == "after")


def _node_at(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> Node | None:
    token = tokens[at]
    if token.verbs:
        return Node("verb", at, at + 1)
    if token.has("filler") and token.has("correct") and _hesitates(tokens, at, nodes, lexicon):
        return Node("correct", at, at + 1)
    if token.has("be") and _is_told_behind(tokens, at, nodes, lexicon):
        return Node("that", at, at + 1)  # "cái cốc nằm ngoài cùng bên trái"
    if token.has("filler", "be") and not token.has("the", "it", "object", *_RELATIONS):
        return None
    if token.has("then") and at > 0 and tokens[at - 1].has("the"):
        return Node("other", at, at + 1)  # "the first block"
    if token.has("correct") and token.has("not", "except", "another") and _stands_alone(tokens, at):
        return Node("correct", at, at + 1)
    told = _seconds_at(tokens, at, lexicon) or _length_at(tokens, at) or _mark_at(tokens, at)
    if told is not None:
        return told
    if _is_relative(tokens, at, nodes, lexicon):
        return Node("that", at, at + 1)
    way = next((_WAYS[tag] for tag in sorted(token.tags) if tag in _WAYS), None)
    is_quality = not token.tags.isdisjoint(lexicon.superlatives)
    if way is not None and is_quality and nodes and nodes[-1].kind in ("thing", "place", "that"):
        return Node("way", at, at + 1, way=way, is_either=True)  # "la taza más lejos"
    relation = next((_RELATIONS[tag] for tag in sorted(token.tags) if tag in _RELATIONS), None)
    is_behind = lexicon.grammar.order == "after" and owner_of(nodes) is not None
    found = None if relation is not None and is_behind else read_thing(_until(tokens, at, nodes, lexicon), at, lexicon)
    if found is not None and _is_everything(tokens, at, found.end, lexicon):
        return Node("thing", at, at + 1, thing=Thing(quantity=Quantity.ALL))
    if found is not None:
        return Node(
            "thing",
            at,
            found.end,
            thing=found.thing,
            is_to=found.is_to,
            is_bare=found.is_bare,
            is_count=found.is_count,
            is_near=found.is_near,
        )
    if token.has("not") and lexicon.grammar.order == "after" and not is_behind:
        return Node("not", at, at + 1)
    is_to = True if token.has("case to") else False if token.has("case at") else None
    is_last = at + 1 == len(tokens) or tokens[at + 1].gap >= PAUSE
    if token.has("filler") and token.has(*_RELATIONS) and is_last and lexicon.grammar.order == "before":
        return None  # "heb die Dose auf, die rote"
    if token.has("so"):
        return Node("so", at, at + 1)
    if token.has("toward"):
        return Node("toward", at, at + 1, relation=relation, is_to=is_to)
    if relation is not None:
        is_either = token.has("on") and token.has("in")
        is_from = token.has("from")
        return Node("relation", at, at + 1, None, relation, way, is_to=is_to, is_either=is_either, is_from=is_from)
    if way is not None:
        return Node("way", at, at + 1, way=way, is_either=is_quality)
    small = next((tag for tag in _SMALL if tag in token.tags), None)
    return Node(small or ("other" if token.tags & {*QUANTITIES, *_UNITS} else "small"), at, at + 1, is_to=is_to)


def _is_everything(tokens: list[Token], at: int, end: int, lexicon: Lexicon) -> bool:
    """Whether "all" before a noun that says where to means everything: "全部ボウルに片付けて"."""
    if lexicon.grammar.order != "after" or not tokens[at].has("everything") or end >= len(tokens):
        return False
    is_noun = end == at + 2 and not tokens[at + 1].tags.isdisjoint(lexicon.kinds)
    is_aimed = tokens[end].has("to", "on", "in") or tokens[at + 1].has("to")
    return is_noun and is_aimed and not any(token.has("object") for token in tokens)


def _hesitates(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> bool:
    """Whether "uh" takes back the thing before it: pauses stand around it, and another thing follows."""
    is_behind = bool(nodes) and nodes[-1].kind in ("thing", "place", "verb", "object") and tokens[at].gap >= PAUSE
    follows = next(
        (t for t in tokens[at + 1 : at + NEAR] if not t.has("the", "filler", "correct") or t.has(*_RELATIONS)), None
    )
    known = lexicon.kinds | lexicon.colours | lexicon.superlatives
    return is_behind and follows is not None and not follows.tags.isdisjoint(known)


def _is_told_behind(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> bool:
    """Whether "is" stands between a thing and what is said of it, in a language that needs no "which"."""
    is_behind = bool(nodes) and nodes[-1].kind in ("thing", "place") and nodes[-1].end == at
    is_told = at + 1 < len(tokens) and not tokens[at + 1].tags.isdisjoint(lexicon.superlatives)
    return is_behind and is_told


def _until(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> list[Token]:
    """The tokens up to which a thing may go: "ブロックを全部" says how many of what was named before."""
    is_behind = lexicon.grammar.order == "after" and len(nodes) > 1 and nodes[-1].kind == "object"
    is_count = is_behind and nodes[-2].kind == "thing" and tokens[at].has(*QUANTITIES)
    return tokens[: at + 1] if is_count and not (at + 1 < len(tokens) and tokens[at + 1].has("of")) else tokens


def _stands_alone(tokens: list[Token], at: int) -> bool:
    """Whether a word has a pause on both sides, as the "no" of "no, the green one", perhaps behind "oh"."""
    follows = tokens[at + 1] if at + 1 < len(tokens) else None
    while at > 0 and tokens[at].gap < PAUSE and tokens[at - 1].has("filler", "correct"):
        at -= 1
    return tokens[at].gap >= PAUSE and (follows is None or follows.gap >= PAUSE or follows.has("correct"))


def _seconds_at(tokens: list[Token], at: int, lexicon: Lexicon) -> Node | None:
    """A number and a unit of time; "a second" is one, and so is "دقيقة واحدة"."""
    lone = next((_UNITS[t] for t in sorted(tokens[at].tags) if t in _UNITS), None)
    if lone is not None and not lexicon.grammar.articles and lexicon.grammar.order == "before":
        is_one = at + 1 < len(tokens) and tokens[at + 1].has("1", "thing")
        return Node("seconds", at, at + 1 + is_one, seconds=lone)
    end = at + 1
    while end < min(len(tokens), at + NEAR) and tokens[end].has("filler"):
        end += 1
    unit = next((_UNITS[t] for t in sorted(tokens[end].tags) if t in _UNITS), None) if end < len(tokens) else None
    count = 1 if tokens[at].has("the") and not tokens[at].has("it") else number_of(tokens[at])
    return None if unit is None or count is None else Node("seconds", at, end + 1, seconds=count * unit)


def _length_at(tokens: list[Token], at: int) -> Node | None:
    """A number and a unit of length."""
    tags = sorted(tokens[at + 1].tags) if at + 1 < len(tokens) else []
    unit = next((_LENGTHS_M[tag] for tag in tags if tag in _LENGTHS_M), None)
    count = number_of(tokens[at])
    return None if unit is None or count is None else Node("length", at, at + 2, metres=count * unit)


def _mark_at(tokens: list[Token], at: int) -> Node | None:
    """What says how things are arranged, or a place without a thing; "back" alone is a direction, too."""
    token = tokens[at]
    mark = next((tag for tag in sorted(token.tags) if tag in MARKS), None)
    return None if mark is None or not token.tags.isdisjoint(_WAYS) else Node(mark, at, at + 1)


def _is_relative(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> bool:
    """Whether "that" or an article goes on about the thing before it ("the block that is on", "der Block, der auf")."""
    before = nodes[-2] if len(nodes) > 1 and nodes[-1].kind == "verb" else nodes[-1] if nodes else None
    if not tokens[at].has("that") or before is None or before.kind not in ("thing", "place"):
        return False
    if before is not nodes[-1] and tokens[at].gap < PAUSE:
        return False
    follows = at + 1 < len(tokens) and tokens[at + 1].has("be", "self", "filler", "i", *_RELATIONS)
    return follows or _is_predicate(tokens, at + 1, lexicon)


def _is_predicate(tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Whether a colour or superlative comes, and then "is": "die am nächsten ist", "die rot ist"."""
    end = min(len(tokens), at + NEAR)
    qualities = lexicon.colours | lexicon.superlatives
    told = next((k for k in range(at, end) if not tokens[k].has("the", "filler", "to")), end)
    if told >= end or tokens[told].tags.isdisjoint(qualities) or not tokens[told].tags.isdisjoint(lexicon.kinds):
        return False
    behind = next((k for k in range(told + 1, end) if tokens[k].tags.isdisjoint({"filler", "away", *qualities})), end)
    return behind < len(tokens) and tokens[behind].has("be")
