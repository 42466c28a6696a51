"""A clause → the one verb that is meant, of those that its words could be, or that they leave out."""

from __future__ import annotations

from qwen2vl_robot.messages import Direction, Relation
from qwen2vl_robot.reading.arranging import is_many
from qwen2vl_robot.reading.clauses import Clause
from qwen2vl_robot.reading.goal import PARTS, Deed
from qwen2vl_robot.reading.letters import PAUSE
from qwen2vl_robot.reading.lexicon import Lexicon
from qwen2vl_robot.reading.places import Node

# Verb tag → (deed, relation where its words name none, direction).
MEANING: dict[str, tuple[Deed, Relation | None, Direction | None]] = {
    "pick": (Deed.PICK, None, None),
    "place": (Deed.PLACE, None, None),
    "place on": (Deed.PLACE, Relation.ON, None),
    "place in": (Deed.PLACE, Relation.IN, None),
    "move": (Deed.PLACE, None, None),
    "stack": (Deed.PLACE, Relation.ON, None),
    "line up": (Deed.PLACE, None, None),
    "clear": (Deed.CLEAR, None, None),
    "leave": (Deed.PLACE, None, None),
    "push": (Deed.PUSH, None, None),
    "push left": (Deed.PUSH, None, Direction.LEFT),
    "push right": (Deed.PUSH, None, Direction.RIGHT),
    "push away": (Deed.PUSH, None, Direction.AWAY),
    "push closer": (Deed.PUSH, None, Direction.CLOSER),
    "home": (Deed.HOME, None, None),
    "go": (Deed.HOME, None, None),
    "wait": (Deed.WAIT, None, None),
    "stop": (Deed.STOP, None, None),
}
_SPOTS = frozenset({"middle", "between", *PARTS})
_CATCHING = ("bowl", "cup", "plate")  # what something is tossed into, or onto
_PREFERRED = (
    *("stop", "sort", "swap", "line up", "stack", "clear", "pick", "place in", "place on", "place"),
    *("push", "move", "home", "wait", "leave", "go"),
)


def verb_of(clause: Clause, nodes: list[Node], lexicon: Lexicon) -> str:
    """The one verb that is meant; "" without one. A word for "home" alone is one too."""
    has_start = any(node.kind == "start" for node in nodes)
    if clause.verb is None:
        if _is_put(clause, nodes, lexicon):
            return "place"
        if any(token.has("due", "urge") for token in clause.tokens) and _is_put_somewhere(["want"], nodes):
            return "move"
        return "home" if has_start and not any(node.kind in ("thing", "place") for node in nodes) else ""
    tags = clause.verb.verbs
    if _is_put_somewhere(tags, nodes):
        return "move"
    if "gather" in tags:
        return "place" if _is_gathered(nodes) else "pick"
    if "go" in tags and not has_start and _goes_there(clause, nodes):
        return "place"
    if "want" in tags:
        said = clause.tokens[: clause.tokens.index(clause.verb)]
        is_told = lexicon.grammar.order == "before" and any(t.has("be") and not t.has("filler") for t in said)
        return "" if is_told and "pick" in tags else _wished_tag(tags, nodes)  # "the ball is where I want it"
    if "other throw" in tags and clause.verb.has("toss") and _is_tossed_in(nodes, lexicon):
        return "place"
    if "stop" in tags and len(tags) > 1 and any(node.kind == "thing" for node in nodes):
        tags = [tag for tag in tags if tag != "stop"]
    if has_start and set(tags) & {"go", "move", "place", "home", "push"}:
        return "home"
    if set(tags) & {"push closer", "place", "move"} and _is_taken_out(nodes):
        return "pick"  # "pull the cup out of the bowl"
    if {"push closer", "move"} <= set(tags):  # "皿の脇に寄せて" and "こっちに寄せて"
        is_beside = any(n.kind == "place" and n.relation and not n.is_which for n in nodes)
        return "move" if is_beside and any(n.kind == "thing" for n in nodes) else "push closer"
    if {"pick", "move"} <= set(tags):  # "trae la taza a la izquierda del plato"
        return "move" if any(_is_aside(node) or node.way is Direction.CLOSER for node in nodes) else "pick"
    if "place" in tags and set(tags) & {"home", "go"}:  # "park the duck beside the bowl" and "park"
        return "place" if any(node.kind == "thing" for node in nodes) else "home" if "home" in tags else "go"
    if "leave" in tags and not any(node.kind in {"place", "way", *_SPOTS} for node in nodes):
        return "leave"
    return next((tag for tag in _PREFERRED if tag in tags), tags[0])


def _is_put_somewhere(tags: list[str], nodes: list[Node]) -> bool:
    """Whether a thing is to go a distance ("push it 5 cm to the left"; a push goes as far as it goes), or to a place
    that no thing marks ("I want it in the middle of the table"), or is taken to a thing ("take it to the plate")."""
    kinds = {node.kind for node in nodes}
    if "thing" not in kinds:
        return False
    if {"length", "way"} <= kinds and set(tags) & {"push", "move", "want"}:
        return True
    if kinds & _SPOTS and not kinds & {"place", "relation"} and set(tags) & {"push", "move", "want"}:
        return True
    first = next(node for node in nodes if node.kind == "thing")
    to = [n for n in nodes if n.kind == "place" and n.is_to and not n.is_from and not n.is_which and n.relation is None]
    many = sum(node.kind == "thing" for node in nodes)
    carries = all(node.thing is not None and node.thing.noun in (*_CATCHING, "table") for node in to)
    return "pick" in tags and len(to) in {1, many} and to[0].begin >= first.end and carries


def _is_gathered(nodes: list[Node]) -> bool:
    """ "gather the blocks on the plate" moves several there; "gather the block on the plate" takes that one."""
    things = [node for node in nodes if node.kind == "thing"]
    return is_many(things) and any(n.kind == "place" and not n.is_which and not n.is_from for n in nodes)


def _goes_there(clause: Clause, nodes: list[Node]) -> bool:
    """ "the blocks go in the bowl": things before the verb, and where they go behind it."""
    at = clause.tokens.index(clause.verb) if clause.verb is not None else -1
    if any(not token.tags for token in clause.tokens[: max(at, 0)]):
        return False  # "la balle devait aller dans le bol"
    things = [node for node in nodes if node.kind == "thing" and node.thing is not None and not node.thing.is_it]
    places = [node for node in nodes if node.kind == "place"]
    is_aimed = len(places) == 1 and places[0].relation is not None and not places[0].is_which
    return bool(things) and all(n.end <= at for n in things) and is_aimed and places[0].begin > at


def _is_taken_out(nodes: list[Node]) -> bool:
    """Whether nothing is said but a thing and what it is taken out of."""
    told = [node for node in nodes if node.kind in ("thing", "place", "way", "start")]
    places = [node for node in told if node.kind == "place"]
    is_out = len(places) == 1 and places[0].is_from and places[0].relation is Relation.IN
    return is_out and len(told) == 2 and any(node.kind == "thing" for node in told)


def _is_tossed_in(nodes: list[Node], lexicon: Lexicon) -> bool:
    """ "chuck the ball in the bowl" says in haste that it goes there; whatever else is thrown is thrown."""
    kinds = [node.kind for node in nodes if node.kind in ("thing", "place", "way", "start", "relation", "other")]
    place = next((node for node in nodes if node.kind == "place"), None)
    if place is None or place.thing is None or sorted(kinds) != ["place", "thing"]:
        return False
    is_aimed = place.relation in (Relation.IN, Relation.ON) or (place.relation is None and place.is_to is True)
    is_aimed = is_aimed or (lexicon.grammar.order == "after" and place.relation is None and place.is_to is None)
    return is_aimed and not place.is_which and not place.is_from and place.thing.noun in _CATCHING


def _wished_tag(tags: list[str], nodes: list[Node]) -> str:
    """What a wish for a state asks for: "I want the block on the plate" to put it, "I want the block" to pick it."""
    has_thing = any(node.kind == "thing" for node in nodes)
    if any(node.kind == "start" for node in nodes):
        return "" if has_thing else "home"
    places = [node for node in nodes if node.kind == "place" and not node.is_from]
    if has_thing and any(not n.is_which and (n.relation or n.is_to is not False) for n in places):
        return "place"
    return "pick" if "pick" in tags and has_thing and not places and not any(n.kind == "way" for n in nodes) else ""


def _is_aside(node: Node) -> bool:
    """Whether a place is where a thing that is brought goes: beside another, or where the words say so."""
    is_to = node.is_to or (node.is_to is None and node.relation not in (Relation.ON, Relation.IN))
    return node.kind == "place" and not node.is_which and is_to


def _is_put(clause: Clause, nodes: list[Node], lexicon: Lexicon) -> bool:
    """ "red block on blue plate": without a verb, a thing and where it goes are an order.

    "the red block on the plate" may only name a thing: where a language has articles, none may stand before it,
    unless the words say that it goes somewhere ("onto the plate", "should be beside the plate").
    """
    told = [node for node in nodes if node.kind in ("thing", "place", "way", "and", "not", "correct")]
    thing = next((node for node in told if node.kind == "thing"), None)
    place = next((node for node in told if node.kind == "place"), None)
    if thing is None or place is None or len(told) != 2 or place.is_which:
        return False
    is_urged = clause.is_part or any(token.has("due", "urge") for token in clause.tokens)
    is_urged = is_urged or (
        clause.tokens[place.begin].gap == PAUSE and place.begin >= thing.end
    )  # "the ball, in a bowl"
    if lexicon.grammar.order == "after":
        first, last = nodes.index(thing), nodes.index(place)
        between = [n.kind for n in nodes[first + 1 : last]]
        behind = [n for n in nodes[last + 1 :] if n.kind not in ("then", "small")]
        ends = [n.kind for n in behind]
        is_aimed = bool(place.is_to) or any(n.is_to for n in behind) or (is_urged and place.relation is not None)
        is_shown = between == ["object"] and ends == ["to"] * (place.relation is not None)
        return between in ([], ["object"]) and ends in ([], ["to"]) and (is_aimed or is_shown)
    is_aimed = place.is_to is True or (place.relation is not None and is_urged)
    is_short = lexicon.grammar.articles and not clause.tokens[thing.begin].has("the")
    is_short = is_short and thing is told[0] and place.relation is not None
    return bool(thing.thing and (thing.thing.noun or is_aimed)) and (is_short or is_aimed)
