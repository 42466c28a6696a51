"""Nodes in a row → joined ones: a relation and its thing → a place; a thing and its "which" → it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.goal import Quantity, Thing
from qwen2vl_robot.reading.things import NEAR

_FAR = {
    **{Direction.AWAY: "farthest", Direction.CLOSER: "nearest"},
    **{Direction.LEFT: "leftmost", Direction.RIGHT: "rightmost"},
}
_FROM = ("to", "from", "of")
SIDE_OF = {Direction.LEFT: Relation.LEFT_OF, Direction.RIGHT: Relation.RIGHT_OF}
_FLAT = ("plate", "table")  # what is "en el plato" is on it


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a clause.

    Attributes:
        kind: "thing", "place" (relation and thing), "relation" (without a thing), "way", "seconds", "other" or a tag.
        begin, end: its tokens.
        metres: of a length.
        is_to: whether a place is where something goes (True) or where it is (False); None where the words do not say.
        is_from: whether a place is where something is taken away ("out of the bowl").
        is_which: whether a place says which thing is meant ("that is on the plate").
        is_bare: a colour without a noun, which may be that of the next thing.
        is_count: it says how many, and nothing else.
        is_near: its last word is "nearest" or "farthest", so that what stands behind may say from what.
        is_either: its words say both "on" and "in" (Spanish "en"), or both a superlative and a direction ("más lejos").
        gap: what stands before it, see letters.Word.
    """

    kind: str
    begin: int
    end: int
    thing: Thing | None = None
    relation: Relation | None = None
    way: Direction | None = None
    seconds: float | None = None
    metres: float | None = None
    is_to: bool | None = None
    is_which: bool = False
    is_from: bool = False
    is_bare: bool = False
    is_count: bool = False
    is_either: bool = False
    is_near: bool = False
    gap: int = 0


def join_nodes(nodes: list[Node], *, is_behind: bool) -> list[Node]:
    """Join what belongs together.

    Args:
        is_behind: whether a relation stands behind the thing that it refers to ("皿の上").
    """
    nodes = _tell_which(_aim(nodes), is_before=is_behind)
    return _share_noun(_count(_join_after(nodes)) if is_behind else _join_before(nodes))


def _aim(nodes: list[Node]) -> list[Node]:
    """ "so that it is on the plate": what comes next is where it goes."""
    aimed: list[Node] = []
    for node in nodes:
        if aimed and aimed[-1].kind == "so" and node.kind in ("relation", "to", "thing"):
            aimed[-1] = replace(node, is_to=True)
        else:
            aimed.append(node)
    return [replace(node, kind="other") if node.kind == "so" else node for node in aimed]


def owner_of(nodes: list[Node]) -> Node | None:
    """The thing that a relation behind it would refer to."""
    owner = next((node for node in reversed(nodes) if node.kind != "of"), None)
    return owner if owner and owner.kind == "thing" else None


def _tell_which(nodes: list[Node], *, is_before: bool) -> list[Node]:
    """ "the cup that is nearest", "everything that is red": what is said of a thing is part of it."""
    told: list[Node] = []
    for node in nodes:
        at = len(told) - (3 if len(told) > 2 and told[-2].kind == "verb" else 2)  # "das Ding nehmen, das rot ist"
        is_told = len(told) > 1 and told[-1].kind == "that" and told[at].kind in ("thing", "place")
        before = told[at] if is_told else None
        first = None if before is None else _quality(before)
        if first is not None and is_before and node.kind == "thing" and node.thing and _may_take(node.thing, first):
            told[at:] = [replace(node, thing=_join(node.thing, first), begin=told[at].begin)]  # "제일 멀리 있는 물건"
            continue
        more = _quality(node)
        if before is None or more is None or before.thing is None or not _may_take(before.thing, more):
            told.append(node)
            continue
        verbs = told[at + 1 : -1]
        end = before.end if verbs else node.end
        joined = replace(before, thing=_join(before.thing, more), is_bare=False, end=end)
        told[at:] = [replace(joined, is_near=(node.is_near or node.kind == "way") and not verbs), *verbs]
    return told


def _quality(node: Node) -> Thing | None:
    """The colour or superlative that a node says and nothing else."""
    if node.kind == "way" and node.is_either and node.way is not None:
        return Thing(superlative=_FAR[node.way])
    thing = node.thing
    is_bare = node.kind == "thing" and thing is not None and not thing.noun and not thing.is_it
    return thing if is_bare and thing is not None and (thing.colour or thing.superlative) else None


def _join(thing: Thing, more: Thing) -> Thing:
    return replace(thing, colour=more.colour or thing.colour, superlative=more.superlative or thing.superlative)


def _may_take(thing: Thing, more: Thing) -> bool:
    return not (thing.colour and more.colour) and not (thing.superlative and more.superlative)


# ------------------------------------------------------------------------------------------------ places


def _join_before(nodes: list[Node]) -> list[Node]:
    """Relation and the thing behind it → a place; a relation alone that is also a direction → that."""
    joined: list[Node] = []
    at = 0
    while at < len(nodes):
        node, behind = nodes[at], at + 1
        while behind < min(len(nodes), at + NEAR) and nodes[behind].kind in ("of", "to"):
            behind += 1
        follows = nodes[behind] if behind < len(nodes) else None
        named = node if node.kind == "thing" else follows if node.kind in _FROM else None
        if named is not None and _is_by(joined, node, named):
            owner = joined.pop()
            thing = owner.thing and replace(owner.thing, reference=named.thing)
            joined.append(replace(owner, thing=thing, end=named.end, is_near=False))
            at = at + 1 if named is node else behind + 1
        elif node.kind in ("relation", "to", "from") and follows is not None and follows.kind == "thing":
            is_which = bool(joined) and joined[-1].kind == "that"
            is_to = node.is_to if node.is_to is not None else node.kind == "to" or follows.is_to
            relation = _settle(node, follows.thing)
            place = replace(follows, kind="place", relation=relation, is_which=is_which, is_to=is_to)
            joined.append(replace(place, begin=node.begin, is_either=node.is_either, is_from=node.is_from))
            at = behind + 1
        elif node.kind == "of" and joined and joined[-1].way in SIDE_OF and follows and follows.kind == "thing":
            side = joined.pop()  # "to the right side of the bowl"
            relation = SIDE_OF[side.way] if side.way else None
            joined.append(replace(follows, kind="place", relation=relation, begin=side.begin))
            at = behind + 1
        elif node.kind == "of" and _has_source(joined, node) and follows and follows.kind == "thing":
            joined.append(replace(follows, kind="place", is_to=False))  # "el bloque del plato"
            at = behind + 1
        else:
            joined.append(_alone(node, follows))
            at += 1
    return joined


def _is_by(joined: list[Node], to: Node, named: Node) -> bool:
    """Whether "to" and a thing right behind "nearest" say from what it is measured: "the block nearest to the bowl"."""
    owner = joined[-1] if joined else None
    is_beside = owner is not None and owner.is_near and owner.end == to.begin and not to.gap
    is_free = is_beside and owner is not None and owner.thing is not None and owner.thing.reference is None
    return is_free and named.kind == "thing" and named.thing is not None and not named.thing.is_it


def _settle(node: Node, thing: Thing | None) -> Relation | None:
    """A preposition that covers "on" and "in" means the one that its noun lets it mean."""
    if not node.is_either:
        return node.relation
    return Relation.ON if thing is not None and thing.noun in _FLAT else Relation.IN


def _has_source(joined: list[Node], of: Node) -> bool:
    """Whether "of" may say from where the thing before it is taken, and is no part of "nearest to"."""
    thing = joined[-1].thing if joined and joined[-1].kind == "thing" else None
    return thing is not None and (thing.superlative not in ("nearest", "farthest") or joined[-1].end != of.begin)


def _alone(node: Node, follows: Node | None) -> Node:
    """What a relation or "to" is without a thing: a direction, or a word that was not read ("to me")."""
    if node.kind == "relation" and node.way:
        return replace(node, kind="way")
    return replace(node, kind="other") if node.kind == "to" and (follows is None or follows.kind == "and") else node


def _join_after(nodes: list[Node]) -> list[Node]:
    """Thing and the relation behind it → a place; a place before "which" and a thing → that thing's."""
    joined: list[Node] = []
    for node in nodes:
        before, owner = joined[-1] if joined else None, owner_of(joined)
        if node.kind == "relation" and owner:
            del joined[joined.index(owner) :]
            place = replace(owner, kind="place", relation=_settle(node, owner.thing), way=node.way, end=node.end)
            joined.append(replace(place, is_either=node.is_either))
        elif node.kind == "to" and before and before.kind == "thing":
            joined[-1] = replace(before, kind="place", end=node.end, is_to=node.is_to)
        elif node.kind == "thing" and _is_told(joined):
            place = next(n for n in reversed(joined) if n.kind == "place")
            del joined[joined.index(place) :]
            thing = node.thing and replace(node.thing, relation=place.relation, reference=place.thing)
            joined.append(replace(node, thing=thing, begin=place.begin))
        else:
            joined.append(node)
    return [replace(n, kind="way") if n.kind == "relation" and n.way else n for n in _join_toward(joined)]


def _is_told(joined: list[Node]) -> bool:
    """Whether the nodes end in a place that says which thing comes: "皿の上の", "盘子左边的", "접시 위에 있는"."""
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
            toward = joined[-1]
            joined[-1] = replace(node, kind="place", relation=toward.relation, begin=toward.begin, is_to=toward.is_to)
        elif joined and joined[-1].kind == "toward" and node.kind == "place":
            joined[-1] = replace(node, is_to=joined[-1].is_to)
        else:
            joined.append(node)
    return joined


def _count(nodes: list[Node]) -> list[Node]:
    """ "ブロックを2つ": how many stands behind the thing that is counted."""
    counted: list[Node] = []
    for node in nodes:
        owner = next((k for k in (len(counted) - 1, len(counted) - 2) if k >= 0 and counted[k].kind == "thing"), None)
        is_behind = bool(counted) and counted[-1].kind in ("thing", "object", "of")
        if owner is not None and is_behind and node.thing and node.is_count:
            counted[owner] = replace(counted[owner], thing=_counted(counted[owner].thing or Thing(), node.thing))
        else:
            counted.append(node)
    return counted


def _counted(thing: Thing, count: Thing) -> Thing:
    return replace(thing, quantity=count.quantity, count=count.count)


def _is_of_its_kind(first: Node, second: Node) -> bool:
    """Whether the second of two things, a colour alone, is of the kind of the first: "el bloque rojo y el azul"."""
    if first.kind != "thing" or second.kind != "thing" or not first.thing or not second.thing:
        return False
    is_colour = bool(second.thing.colour) and not second.thing.noun and second.thing.quantity is Quantity.ONE
    return is_colour and bool(first.thing.noun and first.thing.colour) and first.thing.colour != second.thing.colour


def _share_noun(nodes: list[Node]) -> list[Node]:
    """ "the red and the blue block": a bare colour takes the noun of the thing that is added to it."""
    shared = list(nodes)
    for at in range(len(shared) - 3, -1, -1):
        first, link, second = shared[at], shared[at + 1], shared[at + 2]
        if link.kind == "and" and _is_of_its_kind(first, second) and first.thing and second.thing:
            shared[at + 2] = replace(second, thing=replace(second.thing, noun=first.thing.noun), is_bare=False)
            continue
        kinds = (first.kind in ("thing", "place"), link.kind == "and", second.kind == "thing")
        if not all(kinds) or not first.thing or not second.thing or not second.thing.noun:
            continue
        is_one = second.thing.quantity is Quantity.ONE and not second.thing.is_any
        is_both = is_one and first.thing.count == 2 and bool(first.thing.colour) and not first.thing.noun
        if first.is_bare or is_both:  # "both the red and the blue block" are one of each
            one = replace(first.thing, noun=second.thing.noun, quantity=Quantity.ONE, count=1)
            shared[at] = replace(first, thing=one, is_bare=False)
    return shared
