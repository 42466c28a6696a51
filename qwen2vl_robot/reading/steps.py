"""A clause's verb and nodes → its steps, and the tokens that no step could use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.arranging import MARKS, arrange
from qwen2vl_robot.reading.changes import (
    Reading,
    carry_noun,
    correct,
    drop_topic,
    exclude,
    is_softener,
    name_colour,
    name_it,
    refer,
    take_back,
)
from qwen2vl_robot.reading.clauses import Clause
from qwen2vl_robot.reading.goal import HANDLING, HOLLOW, Deed, Quantity, Step, Thing, upon
from qwen2vl_robot.reading.letters import MAX_CHARS
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.phrases import find_nodes
from qwen2vl_robot.reading.places import Node
from qwen2vl_robot.reading.tokens import OTHER
from qwen2vl_robot.reading.verbs import MEANING, verb_of

_STACKED = ("block", "brick", "plate", "bowl", "cup", "cylinder")  # what may stand on one of its own kind
_USED = frozenset({"thing", "place", "way", "seconds"})
_STRAY = frozenset({"relation", "other", "except"}) | MARKS  # what must not be dropped in silence where no step uses it
_SMALL = frozenset({"the", "it", "of", "filler", "be", "that", "case to", "case at"})  # of no weight when left over
_FAR = {Direction.AWAY: "farthest", Direction.CLOSER: "nearest"}
_SIDES = {Direction.LEFT: "leftmost", Direction.RIGHT: "rightmost"}


def read_clause(clause: Clause, lexicon: Lexicon, reading: Reading, *, has_mark: bool = False) -> None:
    """Add a clause's steps to what was read.

    Args:
        has_mark: whether the text has a question mark, behind which no order is understood that no verb says.
    """
    tokens = list(clause.tokens)
    reading.unread += [token for token in tokens if not token.tags]
    last, excluded = reading.last_thing, len(reading.exclusions)
    nodes, is_negated = _settle(find_nodes(tokens, lexicon), clause, lexicon, reading)
    unused = [n for n in nodes if n.kind in _STRAY and not tokens[n.begin].has("filler")]
    if any(n.kind == "place" for n in nodes):
        unused = [n for n in unused if n.kind != "back"]  # "put it back on the plate"
    unused += [n for n in nodes if n.kind == "correct" and (reading.steps or n.begin > _first(nodes))]
    tag = "" if has_mark and clause.verb is None else verb_of(clause, nodes, lexicon)
    if tag in ("home", "go"):  # "in die Grundstellung": an article and a relation belong to the home position
        unused = [n for n in unused if n.kind != "relation"]
        nodes = [n for n in nodes if n.thing is None or not n.thing.is_it]
    nodes = [refer(node, last) for node in nodes]
    if tag == "wait" and _is_rest(clause, nodes, reading):
        tag = ""
    if tag in ("home", "go") and reading.is_rest and nodes:
        reading.steps.pop()  # "have a rest: go home" waits nowhere
    reading.is_rest = tag == "wait" and not is_negated and _is_resting(clause, nodes)
    if tag in ("home", "go", "wait", "stop"):
        steps, left = _standing(tag, nodes)
    elif tag and (arranged := arrange(tag, nodes, tokens)) is not None:
        steps, used = arranged
        left = [node for node in nodes if node not in used and node.kind in _USED]
        unused = [node for node in unused if node not in used]
    elif tag:
        steps, left = _handling(tag, nodes, _verb_at(clause), last, lexicon)
    else:
        is_open = clause.verb is not None or clause.is_part
        steps, left = [], [node for node in nodes if node.kind in _USED] if is_open else []
    if (
        is_negated and not (steps and tag != "wait") and tag in ("", "wait", "go")
    ):  # "hands off the block", "the block stays where it is"
        named = [n.thing for n in nodes if n.kind in ("thing", "place") and n.thing is not None]
        steps, left = [Step(Deed.OTHER, thing, word="touch") for thing in named] or steps, [] if named else left
    if tag == "leave" and all(s.relation is None and s.direction is None for s in steps):
        steps, is_negated = [Step(Deed.OTHER, s.thing, word="touch") for s in steps], True
    is_only = len(reading.exclusions) > excluded and not any(token.has("all", "another") for token in tokens)
    if is_only and steps and all(s.thing is None and s.deed in HANDLING for s in steps):
        steps, is_negated = [replace(s, thing=reading.exclusions[-1]) for s in steps], True  # "instead of taking it"
    for step in steps:
        if is_negated or not reading.steps or not _is_again(step, reading.steps[-1]):
            reading.steps.append(replace(step, is_negated=is_negated))
    reading.last_count, reading.is_then = len(steps), bool(tokens) and tokens[-1].has("then")
    spans = (k for node in (*unused, *left) for k in range(node.begin, node.end))
    reading.unread += [tokens[k] for k in spans if not tokens[k].tags <= _SMALL]


def _is_again(step: Step, before: Step) -> bool:
    """Whether a step says again what was just said: "the ball should go in the bowl, so put it there"."""
    if step.deed is Deed.PUSH and step.direction is None:  # "bring it closer by pushing it"
        return before.deed is Deed.PUSH and replace(before, direction=None) == step
    is_open = step.deed is Deed.PLACE and step.relation is None and step.direction is None
    return is_open and replace(before, relation=None, reference=None) == step


def _is_rest(clause: Clause, nodes: list[Node], reading: Reading) -> bool:
    """Whether "rest" only says what the robot goes home for."""
    is_home = bool(reading.steps) and reading.steps[-1].deed is Deed.HOME and not reading.steps[-1].is_negated
    return is_home and _is_resting(clause, nodes)


def _is_resting(clause: Clause, nodes: list[Node]) -> bool:
    """Whether a clause says to rest, and not for how long."""
    is_rest = clause.verb is not None and clause.verb.has("rest")
    return is_rest and not any(node.kind == "seconds" for node in nodes)


def _settle(found: list[Node], clause: Clause, lexicon: Lexicon, reading: Reading) -> tuple[list[Node], bool]:
    """Apply what takes back, excludes or refers to what was said before: the nodes that remain, and a "not"."""
    verb_at, last = _verb_at(clause), reading.last_thing
    nodes = [node for node in found if node.kind != "verb" and not is_softener(node, found, verb_at)]
    is_then = reading.is_then or any(token.has("then") for token in clause.tokens[:2])
    was_negated = bool(reading.steps) and reading.steps[-1].is_negated and not is_then
    nodes = correct(take_back(nodes, reading), reading)
    nodes = exclude(nodes, verb_at, reading)
    nodes = name_colour(nodes)
    nodes = drop_topic(nodes if last is not None else name_it(nodes), verb_at)
    is_negated = clause.is_negated or any(node.kind == "not" for node in nodes)
    if was_negated and last is not None and not is_negated:
        nodes = [carry_noun(node, last.noun) for node in nodes]
    return nodes, is_negated


def _first(nodes: list[Node]) -> int:
    """Where the first thing, place or direction begins."""
    return next((node.begin for node in nodes if node.kind in _USED), MAX_CHARS)


def _verb_at(clause: Clause) -> int:
    return clause.tokens.index(clause.verb) if clause.verb is not None else -1


# ------------------------------------------------------------------------------------------------- steps


def _standing(tag: str, nodes: list[Node]) -> tuple[list[Step], list[Node]]:
    """Steps that move no thing: home, wait, stop."""
    deed = MEANING[tag][0]
    if tag == "go" and not any(node.kind == "start" for node in nodes):
        return [], [node for node in nodes if node.kind in _USED]
    seconds = next((node.seconds for node in nodes if node.kind == "seconds"), None)
    left = [n for n in nodes if n.kind in ("thing", "place", "way") and not (n.thing and n.thing.is_it)]
    if deed is Deed.WAIT:
        return [Step(deed, seconds=seconds)], left + [node for node in nodes if node.kind == "start"]
    if deed is Deed.STOP:
        thing = next((node.thing for node in left if node.kind == "thing"), None)
        return [Step(deed, thing)], [node for node in left if node.kind != "thing"]
    return [Step(deed)], [node for node in left if node.kind != "way"]


@dataclass(slots=True)
class _Group:
    """Things with where they go: "A and B on C"."""

    things: list[Node] = field(default_factory=list)
    places: list[Node] = field(default_factory=list)
    ways: list[Node] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)


def _handling(
    tag: str, nodes: list[Node], verb_at: int, last: Thing | None, lexicon: Lexicon
) -> tuple[list[Step], list[Node]]:
    """Steps that do something to things."""
    steps: list[Step] = []
    stray = [] if tag.startswith(OTHER) else _unlinked(nodes, verb_at)
    left = [node for node in nodes if node.kind == "seconds"] + stray
    for group in _groups([node for node in nodes if node not in stray], lexicon):
        before = steps[-1].thing if steps else last
        order = [refer(node, before) for node in group.order]
        things = [node for node in order if node.kind == "thing"]
        made, unused = _group_steps(tag, replace(group, things=things, order=order), before)
        steps += made
        left += unused
    return steps, left


def _unlinked(nodes: list[Node], verb_at: int) -> list[Node]:
    """Things that stand behind another without a link or a pause: what they are to it was not read."""
    told = [k for k, node in enumerate(nodes) if node.kind in ("thing", "place", "and", "then", "way")]
    stray: list[Node] = []
    has_thing = False
    kinds = [nodes[at].kind for at in told]
    for place, (before, at) in enumerate(zip(told, told[1:], strict=False), 1):
        has_thing = has_thing or nodes[before].kind == "thing"
        is_across = nodes[before].end <= verb_at < nodes[at].begin
        if is_across and nodes[before].kind == nodes[at].kind == "thing":
            stray.append(nodes[before])  # "the red block, push the green one"
        is_beside = nodes[before].kind in ("thing", "place") and not is_across
        is_listed = next((kind for kind in kinds[place:] if kind != "thing"), "") == "and"  # "A B and C"
        if has_thing and is_beside and nodes[at].kind == "thing" and not nodes[at].gap and not is_listed:
            stray.append(nodes[at])
    return stray


def _groups(nodes: list[Node], lexicon: Lexicon) -> list[_Group]:
    """Part the nodes where a thing comes behind a thing that has its place ("A on B and C on D")."""
    groups = [_Group()]
    for at, node in enumerate(nodes):
        if node.kind not in ("thing", "place", "way"):
            continue
        group = groups[-1]
        has_goal = any(place.is_to is not False for place in group.places) or node.kind != "place"
        is_whole = bool(group.things and ((group.places and has_goal) or group.ways))
        is_next = node.kind == "thing" or lexicon.grammar.order == "after"
        follows_and = at > 0 and nodes[at - 1].kind in ("and", "then")
        if (
            is_whole
            and is_next
            and (lexicon.grammar.order == "after" or follows_and or group.order[-1].kind != "thing")
        ):
            group = _Group()
            groups.append(group)
        {"thing": group.things, "place": group.places, "way": group.ways}[node.kind].append(node)
        group.order.append(node)
    return groups


def _group_steps(tag: str, group: _Group, last: Thing | None) -> tuple[list[Step], list[Node]]:
    deed, usual, way = MEANING.get(tag, (Deed.OTHER, None, None))
    goal = None if way is not None else _destination(deed, group)
    if tag == "move" and goal is not None and goal.relation is None and not group.things and last is None:
        goal = None  # "拿到红球": to where, or what, was not read
    is_pushed_there = deed is Deed.PUSH and goal is not None and goal.relation is not None and not goal.way
    if goal is not None and (deed is Deed.PICK or (is_pushed_there and group.things)):
        deed = Deed.PLACE  # whatever moves a thing to a place puts it there
    vague = [p for p in group.places if p is not goal and p.relation is None and _is_vague(p, group)]
    things, reference = _attach(replace(group, order=[node for node in group.order if node not in vague]), goal)
    if deed is Deed.OTHER and not things:
        vague = []
        things = [node.thing for node in group.places if node.thing is not None]  # "赤いブロックに触る"
    topic = next((p for p in group.places if p.thing is not None and p.way is not None and way in (None, p.way)), None)
    is_pushed = deed is Deed.PUSH or (tag == "move" and last is None)
    if is_pushed and not things and topic is not None and topic.thing is not None:
        deed, things, reference, way = (
            Deed.PUSH,
            [topic.thing],
            None,
            topic.way,
        )  # "블록 왼쪽으로 밀어": the thing has no particle
    elif not things:
        vague = [p for p in group.places if p is not goal]
    ways = [n.way for n in group.ways if n.way is not None]
    if deed is Deed.PLACE and tag == "move" and goal is None and ways:
        deed = Deed.PUSH
    if deed is Deed.PICK:
        return _picks(tuple(things) or (last,), group.ways, vague)
    if tag == "push closer" and len(ways) == 1 and ways[0] in _SIDES:
        way = ways[0]  # "pull it to the right"
    relation = None if reference is None or goal is None else _relation(goal, usual, reference)
    if reference is not None and len(things) == 1:
        reference = _shared_noun(things[0], relation, reference)
    direction = way or next((w for w in ways if deed is not Deed.PLACE or w in _SIDES), None)
    word = tag.removeprefix(OTHER) if deed is Deed.OTHER else ""
    steps = [Step(deed, thing, relation, reference, direction, word=word) for thing in tuple(things) or (last,)]
    return steps, [*vague, *(node for node in group.ways if node.way is not direction)]


def _is_vague(place: Node, group: _Group) -> bool:
    """Whether what a place is to the thing was not read: "closest to it", or where nothing is named beside it."""
    things = [node.thing for node in group.things if node.thing is not None]
    is_apart = any(thing.superlative in _FAR.values() for thing in things)
    return place.is_to is not False or not things or is_apart


def _relation(goal: Node, usual: Relation | None, reference: Thing) -> Relation:
    """Where a place is: as its words say, or its verb ("insert"), or as its noun lets it be."""
    said = None if goal.is_either and usual is not None else goal.relation
    return said or usual or upon(reference.noun)


def _shared_noun(thing: Thing, relation: Relation | None, reference: Thing) -> Thing:
    """ "the white block on the black one": a thing that only its colour names is of the kind of the one that is put."""
    is_elided = bool(reference.colour) and not (reference.noun or reference.superlative or reference.relation)
    carriers = {Relation.ON: _STACKED, Relation.IN: HOLLOW}.get(relation, (thing.noun,)) if relation else ()
    is_alike = thing.noun in carriers and reference.colour != thing.colour
    return replace(reference, noun=thing.noun) if is_elided and is_alike else reference


def _picks(things: tuple[Thing | None, ...], ways: list[Node], vague: list[Node]) -> tuple[list[Step], list[Node]]:
    """ "the block on the left" is the leftmost one; any other direction is left over."""
    side = _SIDES.get(ways[0].way) if ways and ways[0].way else None
    side = side or (_FAR.get(ways[0].way) if ways and ways[0].way and ways[0].is_either else None)
    if side and len(things) == 1 and things[0] is not None and not things[0].superlative:
        return [Step(Deed.PICK, replace(things[0], superlative=side))], [*vague, *ways[1:]]
    return [Step(Deed.PICK, thing) for thing in things], [*vague, *ways]


def _destination(deed: Deed, group: _Group) -> Node | None:
    """The place to which something goes; the others say which thing is meant."""
    places = [p for p in group.places if not p.is_which and not p.is_from]
    places = [p for p in places if p.relation is not None or (p.is_to is not False and deed is Deed.PLACE)]
    directed = [p for p in places if p.is_to]
    if directed:
        return directed[0]
    if deed in (Deed.PICK, Deed.OTHER) or (deed is Deed.PUSH and group.ways) or not places:
        return None
    if len(places) > 1 and group.things:
        open_places = [p for p in places if p.is_to is None]
        if len(open_places) < len(places) and open_places:
            return open_places[0]
        thing = group.things[-1].thing
        is_told = thing is not None and (
            thing.is_it or thing.quantity is Quantity.ALL or bool(thing.noun and thing.colour)
        )
        behind = group.order.index(places[0]) > group.order.index(group.things[-1])
        return places[0] if is_told or not behind else places[1]
    return places[0]


def _attach(group: _Group, goal: Node | None) -> tuple[list[Thing], Thing | None]:
    """The things and the goal's thing, each with the places behind it that say which one is meant."""
    owners: list[tuple[Node | None, list[Node]]] = [(None, [])]
    for node in group.order:
        if node.kind == "thing" or node is goal:
            owners.append((node, []))
        elif node.kind == "place":
            owners[-1][1].append(node)
    if owners[0][1] and group.things:  # "from the plate take the block"
        first = next(places for node, places in owners if node is group.things[0])
        first[:0] = owners[0][1]
    told = [(node, _nest(node.thing, places)) for node, places in owners if node is not None and node.thing is not None]
    return [thing for node, thing in told if node is not goal], next((t for node, t in told if node is goal), None)


def _nest(thing: Thing, places: list[Node]) -> Thing:
    """A thing that is at the first place, whose own thing is at the second, and so on."""
    if not places or thing.relation is not None or places[0].thing is None:
        return thing
    relation = places[0].relation or upon(places[0].thing.noun)
    return replace(thing, relation=relation, reference=_nest(places[0].thing, places[1:]))
