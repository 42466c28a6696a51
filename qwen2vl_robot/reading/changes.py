"""Nodes of a clause → the same without what is taken back ("no, ...") or not meant ("not ...")."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qwen2vl_robot.reading.goal import Step, Thing
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.places import SIDE_OF, Node
from qwen2vl_robot.reading.tokens import Token


@dataclass(slots=True)
class Reading:
    """What was read of a sentence so far.

    Attributes:
        last_count: steps of the clause before.
        is_then: whether that clause ends in "then", or the next begins with it.
        is_rest: whether that clause says to rest.
    """

    steps: list[Step] = field(default_factory=list)
    exclusions: list[Thing] = field(default_factory=list)
    corrections: list[Thing] = field(default_factory=list)
    unread: list[Token] = field(default_factory=list)
    last_count: int = 0
    is_then: bool = False
    is_rest: bool = False

    @property
    def last_thing(self) -> Thing | None:
        """What "it" means: the thing of the last step, or what that was put beside when it has none."""
        return next((s.thing for s in reversed(self.steps) if s.thing is not None and not s.thing.is_it), None)


def refer(node: Node, last: Thing | None) -> Node:
    """Put the thing before in the place of a pronoun."""
    return node if last is None or node.thing is None or not node.thing.is_it else replace(node, thing=last)


def drop_topic(nodes: list[Node], verb_at: int) -> list[Node]:
    """ "the pink cup, pick it up": the pronoun is the thing that was named before the verb."""
    for at, node in enumerate(nodes):
        if node.kind == "and" or node.kind == "correct" or node.thing is None:
            if node.kind in ("and", "correct"):
                return nodes
            continue
        if node.thing.is_it or node.kind != "thing":
            return nodes
        behind = next((k for k in range(at + 1, len(nodes)) if nodes[k].thing is not None), None)
        is_topic = node.end <= verb_at
        links = nodes[at + 1 : behind]
        if behind is None or not is_topic or any(n.kind in ("and", "correct", "rather") for n in links):
            return nodes
        found = nodes[behind].thing
        if found is None or not found.is_it:
            return nodes
        return drop_topic(
            [*nodes[:at], *links, replace(nodes[behind], thing=node.thing), *nodes[behind + 1 :]], verb_at
        )
    return nodes


def name_colour(nodes: list[Node]) -> list[Node]:
    """ "the cup, the blue one": a colour behind a pause, with which the clause ends, is that of the thing before."""
    if len(nodes) < 2 or [node.kind for node in nodes[-2:]] != ["thing", "thing"] or nodes[-1].gap != PAUSE:
        return nodes
    before, later = nodes[-2].thing, nodes[-1].thing
    if before is None or later is None or before.is_it or before.colour or not before.noun:
        return nodes
    if not later.colour or later.noun or later.superlative or later.relation or later.quantity != before.quantity:
        return nodes
    return [*nodes[:-2], replace(nodes[-2], thing=replace(before, colour=later.colour), end=nodes[-1].end)]


def name_it(nodes: list[Node]) -> list[Node]:
    """ "put it, the pink cup, on the plate": the pronoun is the thing that is named right behind it."""
    for at, (node, follows) in enumerate(zip(nodes, nodes[1:], strict=False)):
        is_it = node.kind == "thing" and node.thing is not None and node.thing.is_it
        is_beside = follows.gap == PAUSE or node.end == follows.begin
        if is_it and follows.kind == "thing" and is_beside and follows.thing and not follows.thing.is_it:
            return [*nodes[:at], *nodes[at + 1 :]]
    return nodes


# ------------------------------------------------------------------------------------------- corrections


def correct(nodes: list[Node], reading: Reading) -> list[Node]:
    """ "the red block, no, the green one": the later takes the place of the one before."""
    result: list[Node] = []
    at = 0
    while at < len(nodes):
        node = nodes[at]
        if node.kind != "correct":
            result.append(node)
            at += 1
            continue
        at = _behind(nodes, at)
        follows = nodes[at] if at < len(nodes) else None
        to = None if follows is None else _corrected(result, follows)
        if follows is None or to is None:
            result.append(node)
            continue
        before = result[to]
        if before.thing is not None:
            reading.corrections.append(before.thing)
        result[to] = _replaced(before, follows)
        at += 1
    return result


def _behind(nodes: list[Node], at: int) -> int:
    """The node behind a run of "no", "sorry", "I mean"."""
    while at < len(nodes) and nodes[at].kind in ("correct", "small", "object", "to", "that"):
        at += 1
    return at


def _corrected(nodes: list[Node], follows: Node) -> int | None:
    """Which of the nodes a correction is about; None where it may be more than one, or none."""
    places = [k for k, n in enumerate(nodes) if n.kind in ("thing", "place", "way")]
    if not places:
        return None
    last = nodes[places[-1]]
    if follows.kind in ("way", "place") or last.kind == "way":
        return places[-1] if last.kind == follows.kind or _is_other_side(last, follows) else None
    if follows.kind != "thing" or follows.thing is None:
        return None
    if last.kind == "thing" or last.thing is None:
        return places[-1]
    things = [k for k in places if nodes[k].kind == "thing"]
    if not things:
        return places[-1]
    alike = [k for k in (places[-1], things[-1]) if _is_alike(nodes[k].thing, follows.thing)]
    return alike[0] if len(alike) == 1 else None


def _is_alike(before: Thing | None, later: Thing) -> bool:
    """Whether the later may stand for the one before: the same noun, or the same colour, or a colour for a colour."""
    if before is None or not later.noun:
        return before is not None and bool(before.colour)
    return before.noun == later.noun or (bool(later.colour) and before.colour == later.colour)


def _is_other_side(before: Node, later: Node) -> bool:
    """Whether one of them is a direction and the other beside a thing: "to the left, no, to the right of the bowl"."""
    sides = [SIDE_OF.get(node.way) if node.kind == "way" and node.way else node.relation for node in (before, later)]
    return {before.kind, later.kind} == {"way", "place"} and all(side in SIDE_OF.values() for side in sides)


def _replaced(before: Node, later: Node) -> Node:
    if later.kind == "way" and before.kind == "place":
        return replace(before, relation=SIDE_OF[later.way] if later.way else None, way=later.way, end=later.end)
    if before.thing is None or later.thing is None:
        return replace(later, begin=before.begin)
    thing = replace(later.thing, noun=later.thing.noun or before.thing.noun)
    base = before if later.kind == "thing" else later
    return replace(base, thing=thing, begin=before.begin, end=later.end)


def take_back(nodes: list[Node], reading: Reading) -> list[Node]:
    """ "pick up the red block, no, push the green one": a clause that begins so takes the place of the one before."""
    begin = _behind(nodes, 0)
    if not any(node.kind == "correct" for node in nodes[:begin]) or not reading.steps or not reading.last_count:
        return nodes
    taken = reading.steps[-reading.last_count :]
    del reading.steps[-reading.last_count :]
    reading.corrections += [step.thing for step in taken if step.thing is not None]
    noun = taken[-1].thing.noun if taken[-1].thing is not None else ""
    return [carry_noun(node, noun) for node in nodes[begin:]]


# -------------------------------------------------------------------------------------------- exclusions


def exclude(nodes: list[Node], verb_at: int, reading: Reading) -> list[Node]:
    """Take out what is named as not meant: "not the green one", "except the red one", "緑ではなく"."""
    nodes, noun = _contrast(nodes, reading)
    result: list[Node] = []
    at = 0
    while at < len(nodes):
        node, follows = nodes[at], nodes[at + 1] if at + 1 < len(nodes) else None
        begins = node.kind == "except" or (node.kind == "not" and _is_contrast(nodes, at, verb_at))
        if begins and follows and follows.thing:
            reading.exclusions.append(follows.thing)
            noun = noun or follows.thing.noun
            at += 2
            if at < len(nodes) and nodes[at].kind in ("except after", "rather", "but"):
                at += 1
        elif node.kind == "except after" and _has_verb_between(result, node, verb_at):
            result.append(replace(node, kind="not"))  # "取るべきではない"
            at += 1
        elif node.kind == "except after" and follows and follows.kind == "way" and _is_side(result):
            result[-1] = replace(_replaced(result[-1], follows), begin=result[-1].begin)  # "左じゃなくて右に"
            at += 2
        elif node.kind == "except after" and (named := _last_named(result)) is not None:
            thing = result[named].thing or Thing()
            del result[named:]
            reading.exclusions.append(thing)
            noun = noun or thing.noun
            at += 1
        else:
            result.append(carry_noun(node, noun))
            at += 1
    return result


def is_softener(node: Node, found: list[Node], verb_at: int) -> bool:
    """Whether "better" stands behind the verb: "instead of the orange can take rather the purple one"."""
    is_beside = node.kind in ("correct", "rather") and node.begin == verb_at + 1 and not node.gap
    return is_beside and any(other.kind == "except" for other in found[: found.index(node)])


def _is_side(nodes: list[Node]) -> bool:
    """Whether the last of the nodes says on which side, or which way."""
    last = nodes[-1] if nodes else None
    return last is not None and (last.kind == "way" or (last.kind == "place" and last.relation in SIDE_OF.values()))


def _has_verb_between(nodes: list[Node], node: Node, verb_at: int) -> bool:
    return bool(nodes) and nodes[-1].end <= verb_at < node.begin


def _contrast(nodes: list[Node], reading: Reading) -> tuple[list[Node], str]:
    """ "not the red block but the green one": what stands before "but" is not meant; with the noun of that."""
    for at in range(1, len(nodes) - 1):
        before, follows = nodes[at - 1], nodes[at + 1]
        first = next((k for k in range(at) if nodes[k].kind == "not"), None)
        is_pair = before.kind == follows.kind and before.kind in ("thing", "place") and before.thing is not None
        if nodes[at].kind in ("rather", "but") and is_pair and first is not None and before.thing is not None:
            reading.exclusions.append(before.thing)
            kept = [node for node in nodes[: at - 1] if node.kind != "not"]
            return [*kept, *nodes[at + 1 :]], before.thing.noun
    return nodes, ""


def _last_named(nodes: list[Node]) -> int | None:
    """Where the thing right before is, behind which nothing but a particle stands ("青いのじゃない")."""
    at = len(nodes) - 1
    while at >= 0 and nodes[at].kind in ("of", "object"):
        at -= 1
    return at if at >= 0 and nodes[at].thing is not None else None


def carry_noun(node: Node, noun: str) -> Node:
    """ "not the yellow cup but the white one": a thing without a noun is of the same kind."""
    thing = node.thing
    if node.kind != "thing" or thing is None or thing.noun or thing.is_it or not (thing.colour or thing.superlative):
        return node
    return replace(node, thing=replace(thing, noun=noun))


def _is_contrast(nodes: list[Node], at: int, verb_at: int) -> bool:
    """Whether "not" is about the thing behind it, not about the verb: it stands behind both verb and thing."""
    behind = nodes[at + 1 : at + 2]
    is_the_verbs = nodes[at].begin == verb_at + 1 and not nodes[at].gap  # "取るのはやめて、クマも"
    if not behind or behind[0].thing is None or is_the_verbs:
        return False
    has_thing = any(node.kind == "thing" and (node.thing is None or not node.thing.is_it) for node in nodes[:at])
    return 0 <= verb_at < nodes[at].begin and has_thing and (behind[0].kind == "thing" or _has_place(nodes[:at]))


def _has_place(nodes: list[Node]) -> bool:
    return any(node.kind == "place" for node in nodes)
