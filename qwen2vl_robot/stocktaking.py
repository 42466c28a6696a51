"""What a question names, and everything in view → which things are meant, how sure that is, and where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.messages import Relation, SceneObject, shape_size_m
from qwen2vl_robot.perception import Stock, Surroundings, Words
from qwen2vl_robot.perception.stock import Item
from qwen2vl_robot.reading import Quantity, Question, Thing
from qwen2vl_robot.relations import free_gap_m, relation_holds
from qwen2vl_robot.sides import Sides, farness, leftness

_BESIDE = (Relation.LEFT_OF, Relation.RIGHT_OF, Relation.IN_FRONT_OF, Relation.BEHIND)
_UPON = (Relation.ON, Relation.IN)
_BY_SIDE = ("nearest", "farthest", "leftmost", "rightmost", "middlemost")
_MIDDLE_RATIO = 1 / 3  # of the table's working area to both sides of its middle


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """The things that a question means.

    Attributes:
        sure: colour and shape say that, and nothing else.
        maybe: nothing measured contradicts it, but something else fits as well, or no shape explains the thing.
        missing: what was named and is not there: the thing, or what it should be beside or in.
        unknown: what no colour and shape could tell ("duck").
    """

    sure: tuple[Item, ...] = ()
    maybe: tuple[Item, ...] = ()
    missing: Thing | None = None
    unknown: Thing | None = None


def match(question: Question, stock: Stock, around: Surroundings) -> Matched:
    """Find what a question means among everything in view."""
    thing = question.thing or Thing()
    for named in (thing, thing.reference, question.reference):
        if named is not None and not is_measurable(named, around.words):
            return Matched(unknown=named)
    sure, maybe = _named(thing, stock, around.words)
    places = ((thing.relation, thing.reference), (question.relation, question.reference))
    for relation, reference in places:
        if relation is None or reference is None:
            continue
        others, unsure = _named(reference, stock, around.words)
        if not others:
            return Matched(maybe=unsure, missing=reference)
        sure, maybe = (
            tuple(i for i in items if _holds_any(relation, i, others, stock, around)) for items in (sure, maybe)
        )
    if thing.is_by and thing.superlative and thing.reference is not None:
        return _by_distance(thing, thing.reference, (sure, maybe), stock, around.words)
    if thing.superlative and (thing.rank or thing.quantity is Quantity.NUMBER):
        sure = _ranked(thing, sure, stock)
    elif thing.superlative == "middlemost" and stock.sides is not None and len(sure) % 2:
        sure = (sorted(sure, key=lambda item: _rank("leftmost", item, stock.sides))[len(sure) // 2],)
    elif thing.superlative and len(sure) > 1 and (stock.sides is not None or thing.superlative not in _BY_SIDE):
        sure = (min(sure, key=lambda item: _rank(thing.superlative, item, stock.sides)),)
    return Matched(sure, maybe, None if sure or maybe else thing)


def _by_distance(
    thing: Thing, reference: Thing, found: tuple[tuple[Item, ...], tuple[Item, ...]], stock: Stock, words: Words
) -> Matched:
    """ "the block nearest to the bowl": its middle counts; where there may be several bowls nobody knows from which."""
    from_, unsure = _named(reference, stock, words)
    sure, maybe = (tuple(item for item in items if item not in from_) for items in found)
    if not from_:
        return Matched(maybe=unsure, missing=reference)
    if len(from_) > 1 or unsure:
        return Matched(maybe=sure)
    sign, at = (-1.0 if thing.superlative == "farthest" else 1.0), from_[0].object.T_base_object[:2, 3]
    ordered = sorted(sure, key=lambda item: sign * float(np.linalg.norm(item.object.T_base_object[:2, 3] - at)))
    return Matched(_counted(thing, ordered), maybe, None if sure or maybe else thing)


def _ranked(thing: Thing, sure: tuple[Item, ...], stock: Stock) -> tuple[Item, ...]:
    """ "the second leftmost block", "the two leftmost blocks"; none where nothing says which they are."""
    if thing.superlative == "middlemost" or (stock.sides is None and thing.superlative in _BY_SIDE):
        return ()
    ordered = sorted(sure, key=lambda item: _rank(thing.superlative, item, stock.sides))
    return _counted(thing, ordered)


def _counted(thing: Thing, ordered: list[Item]) -> tuple[Item, ...]:
    """The one of a rank, else as many as are said."""
    return tuple(ordered[thing.rank - 1 : thing.rank]) if thing.rank else tuple(ordered[: thing.count])


def is_measurable(thing: Thing, words: Words) -> bool:
    """Whether colour and shape alone can tell a thing."""
    return (not thing.noun or thing.noun in words.nouns) and (not thing.colour or thing.colour in words.colours)


def place_of(item: Item, stock: Stock, around: Surroundings) -> tuple[Relation, Item] | None:
    """What a thing stands on or in, else what clearly named thing is nearest beside it; None where neither is."""
    others = [other for other in stock.items if other is not item and other.is_clear]
    for relation in _UPON:
        for other in others:
            if relation_holds(relation, item.object, other.object, around.rules, stock.sides):
                return relation, other
    for other in sorted(others, key=lambda other: free_gap_m(item.object, other.object)):
        for relation in _BESIDE:
            if relation_holds(relation, item.object, other.object, around.rules, stock.sides):
                return relation, other
    return None


def parts_of_table(body: SceneObject, stock: Stock) -> Iterator[str]:
    """In which parts of the table's working area a thing stands: "left" or "right", "near" or "far", else "middle"."""
    if stock.sides is None:
        return
    off_m = body.T_base_object[:2, 3] - stock.area_m.mean(axis=0)
    half_m = np.abs(stock.area_m[1] - stock.area_m[0]) / 2
    found = False
    for along, names in ((stock.sides.left_xy, ("left", "right")), (stock.sides.behind_xy, ("far", "near"))):
        share = float(off_m @ along) / float(half_m @ np.abs(along))
        if abs(share) > _MIDDLE_RATIO:
            found = True
            yield names[share < 0]
    if not found:
        yield "middle"


def _named(thing: Thing, stock: Stock, words: Words) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The things that surely have the label, and those that may."""
    label = thing.label
    if not label:
        return tuple(i for i in stock.items if i.is_clear), tuple(i for i in stock.items if not i.is_clear)
    sure = tuple(item for item in stock.items if item.is_surely(label, words))
    maybe = tuple(item for item in stock.items if item not in sure and item.may_be(label, words))
    return sure, tuple(item for item in maybe if not item.is_clear or _fits_several(item, label))


def _fits_several(item: Item, label: str) -> bool:
    """Whether a clear thing was named by another word than the label's, which may mean the same ("can")."""
    return not set(re.findall(r"\w+", label)) & set(item.label.split())


def _holds_any(relation: Relation, item: Item, others: tuple[Item, ...], stock: Stock, around: Surroundings) -> bool:
    return any(
        other is not item and relation_holds(relation, item.object, other.object, around.rules, stock.sides)
        for other in others
    )


def _rank(superlative: str, item: Item, sides: Sides | None) -> float:
    """Compute a number that is smallest for the thing that a superlative means."""
    body, brightness = item.object, float(np.sum(item.rgb))
    by_itself = {"tallest": -body.top_m, "lowest": body.top_m, "lightest": -brightness, "darkest": brightness}
    if superlative in by_itself:
        return by_itself[superlative]
    volume_m3 = float(np.prod(shape_size_m(body.shape)))
    if superlative in ("largest", "smallest") or sides is None:
        return -volume_m3 if superlative == "largest" else volume_m3
    centre_m = body.T_base_object[:3, 3]
    away, left = farness(sides, centre_m), leftness(sides, centre_m)
    return {"nearest": away, "farthest": -away, "leftmost": -left, "rightmost": left}[superlative]
