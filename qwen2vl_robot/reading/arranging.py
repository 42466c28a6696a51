"""A clause's nodes → steps about several things, or about a place that no thing marks: sort, swap, "10 cm"."""

from __future__ import annotations

from dataclasses import replace

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.goal import HOLLOW, MANY, PARTS, Deed, Place, Quantity, Step, Thing, upon
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.places import Node
from qwen2vl_robot.reading.tokens import Token

MARKS = frozenset(  # kinds of nodes
    {
        "row",
        "tower",
        "back",
        "there",
        "middle",
        "between",
        "apart",
        "pile",
        *PARTS,
        "length",
        "by colour",
        "by kind",
        "with",
    }
)
_DEEDS = {"sort": Deed.SORT, "swap": Deed.SWAP, "line up": Deed.LINE_UP, "stack": Deed.STACK}
_PUTS = ("place", "place on", "place in", "move")


def arrange(tag: str, nodes: list[Node], tokens: list[Token]) -> tuple[list[Step], list[Node]] | None:
    """The steps of a clause that arranges, and the nodes that they use; None for any other clause.

    Args:
        tag: its verb.
    """
    is_bare = not any(node.kind in ("place", "relation") for node in nodes)
    if tag == "clear":
        return _clear(nodes)
    if tag == "pick" and _is_taken_off(nodes):
        return _clear(nodes)
    if tag in ("sort", "swap") or (tag in _DEEDS and is_bare):
        is_row = tag == "sort" and any(node.kind == "row" for node in nodes)  # "arrange the blocks in a row"
        return _arranged(Deed.LINE_UP if is_row else _DEEDS[tag], nodes)
    marks = {node.kind: node for node in nodes if node.kind in MARKS}
    things = [node for node in nodes if node.kind == "thing" and node.thing is not None]
    if "apart" in marks and is_bare and tag in (*_PUTS, "pick", "push"):
        return [Step(Deed.CLEAR, node.thing) for node in things], [*things, marks["apart"]]
    if tag not in _PUTS:
        return None
    if "row" in marks or "tower" in marks:
        mark = marks.get("row") or marks["tower"]
        return _many(Deed.LINE_UP if mark.kind == "row" else Deed.STACK, [*things, mark])
    if tag == "place on" and is_bare and is_many(things):
        return _many(Deed.STACK, things)
    between = _between(nodes)
    if between is not None:
        moved = [node for node in things if node not in between[1]]
        return [Step(Deed.PLACE, node.thing, place=between[0]) for node in moved], [*moved, *between[1]]
    place = _place(tag, nodes, marks, tokens) if is_bare else None
    if place is not None and place[0].kind == "back" and not things:
        return [Step(Deed.PLACE, Thing(is_it=True), place=place[0])], place[1]  # "元の場所に戻して"
    if place is None or not things:
        return None
    steps = [Step(Deed.PLACE, node.thing, place=place[0]) for node in things]
    return steps, [*things, *place[1]]


def leave_out(tokens: list[Token], nouns: set[str]) -> list[Token]:
    """ "all the blocks but the blue one": behind all of something, without a pause, "but" leaves something out."""
    left = list(tokens)
    for at in range(2, len(tokens) - 1):
        token, before = tokens[at], tokens[at - 1]
        is_all = before.has("many") or any(t.has("all") for t in tokens[max(0, at - 5) : at - 1])
        is_behind_all = is_all and not before.tags.isdisjoint(nouns)
        if token.has("but") and token.gap < PAUSE and is_behind_all and tokens[at + 1].has("the"):
            left[at] = replace(token, tags=frozenset({"except"}))
    return left


def _arranged(deed: Deed, nodes: list[Node]) -> tuple[list[Step], list[Node]]:
    things = [node for node in nodes if node.kind == "thing" and node.thing is not None]
    if deed in (Deed.STACK, Deed.LINE_UP):
        marks = [node for node in nodes if node.kind in ("row", "tower")]
        return _many(deed, [*things, *marks])
    if deed is Deed.SWAP:
        places = [node for node in nodes if node.kind == "place" and node.thing is not None and node.relation is None]
        both = sorted([*things, *places], key=lambda node: node.begin)[:2]
        with_ = [node for node in nodes if node.kind == "with"]
        told = [node.thing for node in both]
        step = Step(Deed.SWAP, told[0] if told else None, reference=told[1] if len(told) > 1 else None)
        return [step], [*both, *with_]
    mark = next((node for node in nodes if node.kind in ("by colour", "by kind")), None)
    into = next((node for node in nodes if node.kind == "place" and node.thing is not None), None)
    word = "" if mark is None else mark.kind.removeprefix("by ")
    thing = _all(things[0].thing) if things and things[0].thing else None
    reference = None if into is None or into.thing is None else _all(into.thing)
    relation = None if into is None else into.relation or Relation.IN
    used = [node for node in (*things[:1], mark, into) if node is not None]
    return [Step(Deed.SORT, thing, relation, reference, word=word or "colour")], used


def _many(deed: Deed, nodes: list[Node]) -> tuple[list[Step], list[Node]]:
    """ "stack the blocks" is about all of them; "stack the red block and the blue block" puts one on the other."""
    things = [node.thing for node in nodes if node.kind == "thing" and node.thing is not None]
    if deed is Deed.STACK and len(things) > 1:
        pairs = zip(things, things[1:], strict=False)
        return [Step(Deed.PLACE, above, Relation.ON, below) for below, above in pairs], nodes
    if deed is Deed.LINE_UP and len(things) == 2 and not any(thing.quantity in MANY for thing in things):
        return [Step(Deed.PLACE, things[0], Relation.NEXT_TO, things[1])], nodes
    if deed is Deed.LINE_UP and len(things) > 1:
        return [], []  # things of several kinds in a row: not yet
    return [Step(deed, _all(things[0]) if things else None)], nodes


def _clear(nodes: list[Node]) -> tuple[list[Step], list[Node]]:
    """ "clear the plate", "clear the blocks off the plate", "clear the table into the bowl", "unstack the blocks"."""
    things = [node for node in nodes if node.kind == "thing" and node.thing is not None]
    piles = [node for node in nodes if node.kind == "pile"]
    if piles and not things:
        return [Step(Deed.CLEAR, Thing(quantity=Quantity.ALL))], piles
    places = [node for node in nodes if node.kind == "place" and node.thing is not None and not node.is_which]
    where = [node for node in places if node.is_from or (node.thing is not None and node.thing.noun == "table")]
    into = [node for node in places if node not in where]
    what = next((node.thing for node in things if node.thing is not None), None)
    if len(into) == 1 and len(things) == 1 and what is not None:
        step = Step(Deed.PLACE, _content(what), into[0].relation or Relation.IN, into[0].thing)
        return [step], [*things, *where, *into]
    if len(where) == 1 and not into and where[0].thing is not None:
        taken = what if what is not None and what.label else None
        return [Step(Deed.CLEAR, where[0].thing, reference=taken)], [*things[:1], *where]
    return [Step(Deed.CLEAR, node.thing) for node in things] or [Step(Deed.CLEAR)], things


def _is_taken_off(nodes: list[Node]) -> bool:
    """ "get everything off the plate": several things and where from, and nothing else."""
    told = [node for node in nodes if node.kind in ("thing", "place", "way", "relation")]
    places = [node for node in told if node.kind == "place" and node.is_from and not node.is_which]
    things = [node.thing for node in told if node.kind == "thing" and node.thing is not None]
    return len(told) == 2 and len(places) == 1 and len(things) == 1 and things[0].quantity is Quantity.ALL


def _content(thing: Thing) -> Thing:
    """What is cleared away: a thing, or what is on the table, on a plate or in a bowl."""
    if thing.noun == "table":
        return Thing(quantity=Quantity.ALL)
    if thing.noun in (*HOLLOW, "plate"):
        return Thing(quantity=Quantity.ALL, relation=upon(thing.noun), reference=thing)
    return thing


def _all(thing: Thing) -> Thing:
    """What is arranged is all of it, unless a number is said."""
    return thing if thing.quantity in MANY or thing.colour or thing.is_it else replace(thing, quantity=Quantity.ALL)


def is_many(things: list[Node]) -> bool:
    told = [node.thing for node in things if node.thing is not None]
    return len(told) > 1 or any(thing.quantity in MANY for thing in told)


def _place(tag: str, nodes: list[Node], marks: dict[str, Node], tokens: list[Token]) -> tuple[Place, list[Node]] | None:
    """The place that the words say without a thing, and its nodes."""
    ways = [node for node in nodes if node.kind == "way"]
    if "there" in marks:
        return Place("there"), [marks["there"]]
    if "back" in marks:
        return Place("back"), [marks["back"], *(way for way in ways if tokens[way.begin].has("back"))]
    if tag == "place" and len(ways) == 1 and tokens[ways[0].begin].has("back") and ways[0].way is Direction.AWAY:
        return Place("back"), ways
    part = next((name for name in PARTS if name in marks), None)
    if part is not None:
        return Place(part), [marks[part]]
    if "between" in marks and tokens[marks["between"].begin].has("middle"):
        return Place("middle"), [marks["between"]]
    if "middle" in marks:
        return Place("middle"), [marks["middle"]]
    if "length" in marks and len(ways) == 1 and ways[0].way is not None:
        return Place("by", ways[0].way, marks["length"].metres or 0.0), [marks["length"], ways[0]]
    return None


def _between(nodes: list[Node]) -> tuple[Place, list[Node]] | None:
    """ "between the plate and the bowl": two things right behind the word, or right before it."""
    mark = next((at for at, node in enumerate(nodes) if node.kind == "between"), None)
    if mark is None:
        return None
    for near, is_behind in ((nodes[mark + 1 :], True), (nodes[:mark], False)):
        told = [node for node in near if node.kind not in ("of", "to", "toward", "small", "object")]
        told = told[:3] if is_behind else told[-3:]
        if len(told) == 3 and told[1].kind == "and" and all(_is_named(told[k]) for k in (0, 2)):
            pair = tuple(node.thing for node in (told[0], told[2]) if node.thing is not None)
            return Place("between", things=pair), [nodes[mark], told[0], told[2]]
    return None


def _is_named(node: Node) -> bool:
    is_plain = node.kind == "thing" or (node.kind == "place" and node.relation is None)
    return is_plain and node.thing is not None and not node.thing.is_it
