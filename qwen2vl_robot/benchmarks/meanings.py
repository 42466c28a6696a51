"""What a sentence means, in a line written by hand → a plan, and whether another plan does the same."""

from __future__ import annotations

from collections.abc import Iterator

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Action, Direction, ImageBox, ObjectReference, Plan, Relation, Verb

_BOX = ImageBox(100.0, 100.0, 200.0, 200.0)  # of things in plans that nobody shows to a camera


def parse_meaning(line: str) -> Plan:
    """Read "pick LABEL", "place RELATION LABEL", "push DIRECTION LABEL", "home", parted by commas, as a plan.

    >>> [action.describe() for action in parse_meaning("pick red block, place left_of blue plate").actions]
    ['pick red block', 'place left_of blue plate']

    Raises:
        BadInputError: a part is none of these.
    """
    return Plan(tuple(_action(part.strip()) for part in line.split(",")), "")


def _action(part: str) -> Action:
    word, _, rest = part.partition(" ")
    how, _, label = rest.partition(" ")
    try:
        verb = Verb(word)
        if verb is Verb.HOME and not rest:
            return Action(verb)
        if verb is Verb.PICK and rest:
            return Action(verb, _thing(rest))
        if verb is Verb.PLACE and label:
            return Action(verb, _thing(label), relation=Relation(how))
        if verb is Verb.PUSH and label:
            return Action(verb, _thing(label), direction=Direction(how))
    except ValueError as error:
        raise BadInputError(f"{part!r}: {error}") from error
    raise BadInputError(f"{part!r}: pick LABEL, place RELATION LABEL, push DIRECTION LABEL or home is needed")


def _thing(label: str) -> ObjectReference:
    return ObjectReference(label.strip(), (_BOX,))


def does_the_same(plan: Plan, meant: Plan) -> bool:
    """Whether a plan does what is meant, with things of the same label; on and in a plate are one."""
    return list(_outline(plan)) == list(_outline(meant))


def _outline(plan: Plan) -> Iterator[tuple[object, ...]]:
    for action in plan.actions:
        label = "" if action.object is None else action.object.label
        relation = action.relation
        if relation is Relation.IN and label.endswith("plate"):
            relation = Relation.ON
        yield action.verb, label, relation, action.direction
