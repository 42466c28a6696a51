"""Tokens of a clause → its nodes: things, places, directions, and the small words that change what they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.goal import Quantity, Thing
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.tokens import Token

_RELATIONS = {r.value: r for r in Relation}
_WAYS = {d.value: d for d in Direction}
_LONG, _NEAR = 16, 5  # tokens of one thing, and how far ahead it is looked, so that no text takes long
_SIDES = {"left": "leftmost", "right": "rightmost"}
_NUMBERS = {str(n) for n in range(1, 21)}
_QUANTITY = ("number", "all", "another", *_NUMBERS)
_UNITS = {"second": 1.0, "minute": 60.0}
# What a node may be, besides "thing", "place", "relation", "way" and "seconds": the tag of its token.
_SMALL = ("not", "except", "except after", "rather", "correct", "that", "of", "to", "object", "and", "start", "self")


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a clause.

    Attributes:
        kind: "thing", "place" (relation and thing), "relation" (without a thing), "way", "seconds", "other" or a tag.
        begin, end: its tokens.
        is_to: whether a place is where something goes (True) or where it is (False); None where the words leave it open.
        is_which: whether a place says which thing is meant ("that is on the plate").
        is_bare: a colour without a noun, which may be that of the next thing.
        gap: what stands before it, see letters.Word.
    """

    kind: str
    begin: int
    end: int
    thing: Thing | None = None
    relation: Relation | None = None
    way: Direction | None = None
    seconds: float | None = None
    is_to: bool | None = None
    is_which: bool = False
    is_bare: bool = False
    gap: int = 0


def find_nodes(tokens: list[Token], lexicon: Lexicon) -> list[Node]:
    """Read a clause from left to right, then join relations with the things that they refer to."""
    nodes: list[Node] = []
    at = 0
    while at < len(tokens):
        node = _node_at(tokens, at, nodes, lexicon)
        if node is not None:
            nodes.append(replace(node, gap=tokens[at].gap))
        at = node.end if node is not None else at + 1
    nodes = _join_before(nodes) if lexicon.grammar.order == "before" else _join_after(nodes)
    return _share_noun(_count(nodes) if lexicon.grammar.order == "after" else nodes)


def _node_at(tokens: list[Token], at: int, nodes: list[Node], lexicon: Lexicon) -> Node | None:
    token = tokens[at]
    if token.verbs or token.has("filler", "be") and not token.has("the", "it", *_RELATIONS):
        return None
    seconds = _seconds_at(tokens, at)
    if seconds is not None:
        return seconds
    if _is_relative(tokens, at, nodes):
        return Node("that", at, at + 1)
    relation = next((_RELATIONS[tag] for tag in sorted(token.tags) if tag in _RELATIONS), None)
    is_behind = lexicon.grammar.order == "after" and _owner(nodes) is not None
    thing = None if relation is not None and is_behind else read_thing(tokens, at, lexicon)
    if thing is not None:
        return thing
    if token.has("not") and lexicon.grammar.order == "after" and not is_behind:
        return Node("not", at, at + 1)
    way = next((_WAYS[tag] for tag in sorted(token.tags) if tag in _WAYS), None)
    is_to = True if token.has("case to") else False if token.has("case at") else None
    if token.has("toward"):
        return Node("toward", at, at + 1, relation=relation)
    if relation is not None:
        return Node("relation", at, at + 1, relation=relation, way=way, is_to=is_to)
    if way is not None:
        return Node("way", at, at + 1, way=way)
    if token.has("correct") and token.has("not") and _stands_alone(tokens, at):
        return Node("correct", at, at + 1)
    small = next((tag for tag in _SMALL if tag in token.tags), None)
    return Node(small or ("other" if token.tags & {*_QUANTITY, *_UNITS} else "small"), at, at + 1)


def _owner(nodes: list[Node]) -> Node | None:
    """The thing that a relation behind it would refer to."""
    owner = next((node for node in reversed(nodes) if node.kind != "of"), None)
    return owner if owner and owner.kind == "thing" else None


def _stands_alone(tokens: list[Token], at: int) -> bool:
    """Whether a word has a pause on both sides, as the "no" of "no, the green one"."""
    return tokens[at].gap >= PAUSE and (at + 1 == len(tokens) or tokens[at + 1].gap >= PAUSE)


def _seconds_at(tokens: list[Token], at: int) -> Node | None:
    """A number and a unit of time; "a second" is one."""
    end = at + 1
    while end < min(len(tokens), at + _NEAR) and tokens[end].has("filler"):
        end += 1
    unit = next((_UNITS[t] for t in sorted(tokens[end].tags) if t in _UNITS), None) if end < len(tokens) else None
    count = 1 if tokens[at].has("the") and not tokens[at].has("it") else _number(tokens[at])
    return None if unit is None or count is None else Node("seconds", at, end + 1, seconds=count * unit)


def _number(token: Token) -> float | None:
    if token.has("number"):
        return min(float(token.text), 1e6)
    return next((float(tag) for tag in token.tags if tag in _NUMBERS), None)


def _is_relative(tokens: list[Token], at: int, nodes: list[Node]) -> bool:
    """Whether "that" or an article goes on about the thing before it ("the block that is on", "der Block, der auf")."""
    if not tokens[at].has("that") or not nodes or nodes[-1].kind not in ("thing", "place"):
        return False
    return at + 1 < len(tokens) and tokens[at + 1].has("be", "self", "filler", "i", *_RELATIONS)


# ------------------------------------------------------------------------------------------------ things


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

    @property
    def is_full(self) -> bool:
        return bool(self.noun) or self.is_generic or self.is_it

    @property
    def is_begun(self) -> bool:
        return bool(self.colour or self.superlative or self.quantity or self.has_article)

    def finish(self) -> Thing:
        quantity = self.quantity or (Quantity.ALL if self.is_many and not self.superlative else Quantity.ONE)
        return Thing(self.noun, self.colour, self.superlative, quantity, self.count, is_it=self.is_it)


def read_thing(tokens: list[Token], at: int, lexicon: Lexicon) -> Node | None:
    """The thing that begins at a token: article, quantity, superlative, colour and noun as the language orders them."""
    draft, end, here = _Draft(), at, at
    while here < min(len(tokens), at + _LONG):
        token = tokens[here]
        if token.verbs or (here > at and token.gap >= PAUSE and draft.is_full) or not _take(draft, tokens, here, lexicon):
            if not _may_skip(draft, tokens, here, lexicon):
                break
        else:
            end = here + 1
        here += 1
    is_article_only = draft.has_article and not (draft.is_full or draft.colour or draft.superlative or draft.quantity)
    if is_article_only:
        draft.is_it = any(token.has("it") for token in tokens[at:end])
    if end == at or (is_article_only and not draft.is_it):
        return None
    if draft.quantity is Quantity.NUMBER and draft.finish() == Thing(quantity=draft.quantity, count=draft.count):
        if end < len(tokens) and not tokens[end].tags:
            return None  # "5 cm"
    is_bare = not draft.is_full and bool(draft.colour) and not draft.quantity
    return Node("thing", at, end, thing=draft.finish(), is_to=draft.is_to, is_bare=is_bare)


def _take(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    """Take a token into a thing; False when it belongs to none, or to the next."""
    token = tokens[at]
    noun = next((tag for tag in sorted(token.tags) if tag in lexicon.kinds), "")
    colour = next((tag for tag in sorted(token.tags) if tag in lexicon.colours), "")
    superlative = next((tag for tag in sorted(token.tags) if tag in lexicon.superlatives), "")
    if token.has(*_QUANTITY) and not _is_generic_here(tokens, at, lexicon, draft):
        return _take_quantity(draft, tokens, at, lexicon)
    if noun or token.has("thing"):
        if draft.is_full:
            return False
        draft.noun, draft.is_generic, draft.is_many = noun, not noun, token.has("many")
    elif colour:
        if draft.colour or (draft.is_full and lexicon.grammar.adjectives == "before"):
            return False
        draft.colour = colour
    elif superlative:
        if draft.superlative:
            return False
        draft.superlative = superlative
    elif token.has("the"):
        is_linked = at > 0 and tokens[at - 1].has("of")  # "the largest of the blocks"
        if draft.is_full or ((draft.colour or draft.superlative) and not is_linked):
            return False
        draft.has_article = True
        draft.is_to = True if token.has("case to") else False if token.has("case at") else draft.is_to
    elif token.has("it") and not draft.is_full and not draft.is_begun:
        draft.is_it = True
    elif token.has(*_SIDES) and _may_be_side(token, lexicon) and not draft.is_full and not draft.superlative and _goes_on(tokens, at + 1, lexicon):
        draft.superlative = _SIDES["left" if token.has("left") else "right"]
    else:
        return False
    return True


def _may_be_side(token: Token, lexicon: Lexicon) -> bool:
    """Whether "left" may stand for "leftmost" here; where it stands before its thing it may be "left of"."""
    return lexicon.grammar.order == "after" or not token.has("left_of", "right_of")


def _take_quantity(draft: _Draft, tokens: list[Token], at: int, lexicon: Lexicon) -> bool:
    token, number = tokens[at], _number(tokens[at])
    if draft.quantity or (draft.is_full and lexicon.grammar.order == "before" and not token.has("all")):
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
    is_link = token.has("of") and bool(draft.quantity or draft.superlative or draft.colour)
    is_other = not token.tags or token.tags <= {"filler", "be"}
    return (is_link or is_other) and _goes_on(tokens, at + 1, lexicon, is_link=True)


def _goes_on(tokens: list[Token], at: int, lexicon: Lexicon, *, is_link: bool = False) -> bool:
    """Whether a noun or what stands before one comes next, perhaps behind "of" or words that are not read."""
    end = min(len(tokens), at + _NEAR)
    while at < end and (tokens[at].has("of") or not tokens[at].tags) and not tokens[at].verbs:
        at += 1
    wanted = lexicon.kinds | lexicon.colours | lexicon.superlatives | {"thing"} | ({"the"} if is_link else set())
    return at < len(tokens) and not tokens[at].tags.isdisjoint(wanted)


# ------------------------------------------------------------------------------------------------ places


def _join_before(nodes: list[Node]) -> list[Node]:
    """Relation and the thing behind it → a place; a relation alone that is also a direction → that."""
    joined: list[Node] = []
    at = 0
    while at < len(nodes):
        node, behind = nodes[at], at + 1
        while behind < len(nodes) and nodes[behind].kind in ("of", "to"):
            behind += 1
        follows = nodes[behind] if behind < len(nodes) else None
        if node.kind in ("relation", "to") and follows is not None and follows.kind == "thing":
            is_which = bool(joined) and joined[-1].kind == "that"
            is_to = node.is_to if node.is_to is not None else follows.is_to
            place = replace(follows, kind="place", relation=node.relation, is_which=is_which, is_to=is_to)
            joined.append(replace(place, begin=node.begin))
            at = behind + 1
        elif node.kind == "of" and joined and joined[-1].kind == "thing" and follows and follows.kind == "thing":
            joined.append(replace(follows, kind="place", relation=Relation.ON, is_to=False))  # "el bloque del plato"
            at = behind + 1
        else:
            joined.append(replace(node, kind="way") if node.kind == "relation" and node.way else node)
            at += 1
    return joined


def _join_after(nodes: list[Node]) -> list[Node]:
    """Thing and the relation behind it → a place; a place before "which" and a thing → that thing's."""
    joined: list[Node] = []
    for node in nodes:
        before, owner = joined[-1] if joined else None, _owner(joined)
        if node.kind == "relation" and owner:
            del joined[joined.index(owner) :]
            joined.append(replace(owner, kind="place", relation=node.relation, way=node.way, end=node.end))
        elif node.kind == "to" and before and before.kind == "thing":
            joined[-1] = replace(before, kind="place", end=node.end)
        elif node.kind == "thing" and _is_told(joined):
            place = next(n for n in reversed(joined) if n.kind == "place")
            del joined[joined.index(place) :]
            thing = node.thing and replace(node.thing, relation=place.relation, reference=place.thing)
            joined.append(replace(node, thing=thing, begin=place.begin))
        else:
            joined.append(node)
    return [replace(n, kind="way") if n.kind == "relation" and n.way else n for n in _join_toward(joined)]


def _is_told(joined: list[Node]) -> bool:
    """Whether the nodes end in a place that says which thing comes: "皿の上の", "盘子左边的", "접시 위에 있는", "접시 위"."""
    marks: list[str] = []
    for node in reversed(joined):
        if node.kind not in ("of", "that", "to"):
            return node.kind == "place" and node.relation is not None and bool({"of", "that"} & set(marks))
        marks.append(node.kind)
    return False


def _join_toward(nodes: list[Node]) -> list[Node]:
    """ "toward" and a thing behind it ("放到盘子") → a place, whose relation its verb knows unless the words say it."""
    joined: list[Node] = []
    for node in nodes:
        if joined and joined[-1].kind == "toward" and node.kind == "thing":
            joined[-1] = replace(node, kind="place", relation=joined[-1].relation, begin=joined[-1].begin)
        elif joined and joined[-1].kind == "toward" and node.kind == "place":
            joined[-1] = node
        else:
            joined.append(node)
    return joined


def _count(nodes: list[Node]) -> list[Node]:
    """ "ブロックを2つ": how many stands behind the thing that is counted."""
    counted: list[Node] = []
    for node in nodes:
        is_count = node.kind == "thing" and node.thing == Thing(quantity=node.thing.quantity, count=node.thing.count)
        owners = [k for k, n in enumerate(counted[-2:], len(counted[-2:]) and len(counted) - len(counted[-2:])) if n.thing]
        owner = counted[owners[-1]] if owners and is_count and counted[-1].kind in ("thing", "object") else None
        if owner and owner.thing and node.thing and node.thing.quantity is not Quantity.ONE and owner.kind == "thing":
            thing = replace(owner.thing, quantity=node.thing.quantity, count=node.thing.count)
            counted[owners[-1]] = replace(owner, thing=thing)
        else:
            counted.append(node)
    return counted


def _share_noun(nodes: list[Node]) -> list[Node]:
    """ "the red and the blue block": a bare colour takes the noun of the thing that is added to it."""
    shared = list(nodes)
    for at in range(len(shared) - 3, -1, -1):
        first, link, second = shared[at], shared[at + 1], shared[at + 2]
        kinds = (first.kind in ("thing", "place"), link.kind == "and", second.kind == "thing")
        if all(kinds) and first.is_bare and first.thing and second.thing and second.thing.noun:
            shared[at] = replace(first, thing=replace(first.thing, noun=second.thing.noun), is_bare=False)
    return shared
