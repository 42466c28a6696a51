"""What a sentence says (`reading.Goal`) and a plan → what contradicts, what is left out, and what nobody could read.

The reading and the planner share no code and no weights. A plan goes without asking only where both say the same; the
planner may fill in what the sentence leaves open (which box, a colour that was not said), and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from qwen2vl_robot.messages import Action, ObjectReference, Plan, Relation, Verb
from qwen2vl_robot.naming import covers, is_surely, may_be, names
from qwen2vl_robot.planner.phrasing import motions
from qwen2vl_robot.reading import ARRANGING, HANDLING, Deed, Goal, Place, Quantity, Step, Thing, read

_DEEDS = {
    Verb.PICK: Deed.PICK,
    Verb.PLACE: Deed.PLACE,
    Verb.PUSH: Deed.PUSH,
    Verb.HOME: Deed.HOME,
    Verb.WAIT: Deed.WAIT,
}
_ALONE = (Deed.PUSH, Deed.HOME, Deed.WAIT)  # that one of these is forbidden says nothing about the other deeds


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a plan stands to a sentence.

    Attributes:
        contradictions: sentences; with any of them the plan is refused.
        doubts: sentences; with any of them a person has to agree.
        left_out: what the sentence asks for beyond the plan, which is one of the doubts.
    """

    contradictions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    left_out: str = ""


def agree(
    goal: Goal,
    plan: Plan,
    *,
    todo: tuple[Step, ...] | None = None,
    held: str = "",
    known: Collection[str] = (),
) -> Agreement:
    """Hold a plan to a sentence that orders a motion.

    Args:
        todo: the motions of the sentence that are not done yet; all of them by default.
        held: what the gripper holds before the plan; a plan that only places, places that.
        known: words that nobody could read and that are left to the planner, instead of being asked about.

    >>> from qwen2vl_robot.reading import read
    >>> agree(read("pick up the red block"), Plan((Action(Verb.HOME),), "")).contradictions
    ('you said: pick up the red block; the plan is: go home',)
    """
    said, tasks = list(motions(goal) if todo is None else todo), _planned(plan, held)
    broken, in_doubt = _forbidden(goal, [task.step for task in tasks])
    if goal.question is not None and tasks:  # a question asks for no motion, whatever a model makes of it
        broken = (*broken, f"you said: {goal.describe()}; the plan is: {_describe([task.step for task in tasks])}")
    doubts = (*_unread(goal, known), *_conditions(goal), *_unsaid(said, held), *in_doubt)
    if not said or broken:
        return Agreement(broken, doubts)
    tasks, miscounted = _collapse(tasks, said, is_measured=plan.is_measured)
    planned = [task.step for task in tasks]
    doubts = (*doubts, *miscounted)
    fits = [_fits(a, b) and not _is_excluded(a, b, goal) for a, b in zip(said, planned, strict=False)]
    if all(fits) and len(said) == len(planned):
        return Agreement((), doubts)
    if all(fits) and len(planned) < len(said):
        return _without(said[len(planned) :], doubts)
    if all(fits):
        return Agreement((), (*doubts, f"nobody asked to {_describe(planned[len(said) :])}"))
    if len(planned) == 1 and planned[0].deed is Deed.PICK and _starts(said[0], planned[0]):
        return _without(said, doubts)
    return Agreement((f"you said: {goal.describe()}; the plan is: {_describe(planned) or 'nothing'}",), doubts)


def in_persons_words(plan: Plan, todo: Sequence[Step], held: str = "") -> Plan:
    """Call a plan's thing as the person did where the plan only leaves out its colour: "plate" for "the blue plate".

    The box stays the plan's; whether a blue plate stands in it is measured before anything moves.
    """
    tasks = _planned(plan, held)
    if plan.is_measured or [task.step.deed for task in tasks] != [said.deed for said in todo]:
        return plan
    called: dict[ObjectReference, str] = {}
    for said, task in zip(todo, tasks, strict=True):
        before, last = plan.actions[max(task.last - 1, 0)], plan.actions[task.last].object
        picked = before.object if before.verb is Verb.PICK else None
        pairs = ((said.thing, picked), (said.reference, last)) if said.deed is Deed.PLACE else ((said.thing, last),)
        for words, thing in pairs:
            if words is None or thing is None or not words.colour or not words.noun:
                continue
            if called.setdefault(thing, words.label) != words.label:
                return plan  # two things of the sentence are one of the plan's
    new = {
        thing: replace(thing, label=label)
        for thing, label in called.items()
        if len(thing.boxes) == 1 and thing.where is None and _named(thing.label) == replace(_named(label), colour="")
    }
    actions = tuple(replace(a, object=new.get(a.object, a.object)) if a.object else a for a in plan.actions)
    return replace(plan, actions=actions, objects=tuple(new.get(thing, thing) for thing in plan.objects))


def _without(rest: list[Step], doubts: tuple[str, ...]) -> Agreement:
    left_out = _describe(rest)
    return Agreement((), (*doubts, f"the plan leaves out: {left_out}"), left_out)


def _describe(steps: list[Step]) -> str:
    return " and then ".join(step.describe() for step in steps)


def still_to_do(todo: tuple[Step, ...], plan: Plan, achieved: int, *, held: str = "") -> tuple[Step, ...]:
    """What of the motions asked for is left once the first so many actions of a plan that fits them were achieved.

    >>> from qwen2vl_robot.reading import read
    >>> todo = tuple(motions(read("wait 2 seconds and then go home")))
    >>> plan = Plan((Action(Verb.WAIT, seconds=2.0), Action(Verb.HOME)), "")
    >>> [step.describe() for step in still_to_do(todo, plan, 1)]
    ['go home']
    """
    planned, _ = _collapse(_planned(plan, held), todo, is_measured=plan.is_measured)
    return todo[sum(task.last < achieved for task in planned[: len(todo)]) :]


def _unread(goal: Goal, known: Collection[str]) -> Iterator[str]:
    for word in goal.unread:
        if word not in known:
            yield f"I do not know {word!r}"


def _conditions(goal: Goal) -> Iterator[str]:
    for condition in goal.conditions:
        yield f"I cannot keep to {condition!r}"


def _unsaid(said: list[Step], held: str) -> Iterator[str]:
    """What is asked for without a thing: the planner would choose one."""
    for at, task in enumerate(said):
        if at == 0 and held and task.deed is Deed.PLACE and task.thing is not None and task.thing.is_it:
            continue  # what the gripper holds
        if task.place is not None and task.place.kind == "back":
            continue  # what was moved last
        if task.deed in HANDLING and (task.thing is None or task.thing.is_it):
            yield f"you did not say what to {task.deed.value}"


# ----------------------------------------------------------------------------------------- what is planned


@dataclass(frozen=True, slots=True)
class _Task:
    """A motion of a plan in the words in which sentences are read, and the index of its last action."""

    step: Step
    last: int


def _planned(plan: Plan, held: str) -> list[_Task]:
    """The motions of a plan; a place without a pick before it places what is held."""
    tasks: list[_Task] = []
    carried = _named(held) if held else None
    for index, action in enumerate(plan.actions):
        deed = _DEEDS.get(action.verb)
        if deed is None:
            continue
        thing = _thing(action)
        if deed is Deed.PLACE:
            if tasks and tasks[-1].step.deed is Deed.PICK:
                tasks.pop()
            place = Place(action.spot.text) if action.spot is not None and action.relation is None else None
            tasks.append(_Task(Step(Deed.PLACE, carried, action.relation, thing, place=place), index))
            carried = None
        else:
            tasks.append(_Task(Step(deed, thing, None, None, action.direction, action.seconds), index))
            carried = thing if deed is Deed.PICK else carried
    return tasks


def _thing(action: Action) -> Thing | None:
    """An action's object, in the words in which sentences are read."""
    if action.object is None:
        return None
    thing, where = _named(action.object.label), action.object.where
    if where is None:
        return thing
    if where.kind == Quantity.ALL.value:
        return replace(thing, quantity=Quantity.ALL)
    reference = None if where.reference is None else _named(where.reference)
    if where.kind in {relation.value for relation in Relation}:
        return replace(thing, relation=Relation(where.kind), reference=reference)
    kind, _, rank = where.kind.partition(" ")
    return replace(thing, superlative=kind, rank=int(rank) if rank else 0, reference=reference)


@functools.lru_cache(maxsize=1024)
def _named(label: str) -> Thing:
    """What a label names; where its words are not known, its last word is the noun."""
    goal = read(f"pick up the {label}")
    if goal.is_understood and len(goal.steps) == 1 and goal.steps[0].thing is not None:
        return goal.steps[0].thing
    *rest, noun = label.lower().split() or [""]
    return Thing(noun, " ".join(rest))


def _collapse(planned: list[_Task], said: Sequence[Step], *, is_measured: bool) -> tuple[list[_Task], tuple[str, ...]]:
    """Where more than one thing was said, the same step for one thing after the other is one step.

    So are, in a plan that is measured, the steps by which things are arranged, as far as each puts one of these things
    among them or at a spot; and such a plan handles as many as there are.

    Returns:
        The steps, and what to ask about: other numbers than were said.
    """
    kept: list[_Task] = []
    doubts: list[str] = []
    rest = list(planned)
    for asked in said:
        if not rest:
            break
        if asked.deed in ARRANGING and is_measured:
            count = next((k for k, task in enumerate(rest) if not _arranges(task.step, asked)), len(rest))
            kept += [_Task(asked, rest[count - 1].last)] if count else [rest[0]]
            del rest[: max(count, 1)]
            continue
        kept.append(rest.pop(0))
        first, thing = kept[-1].step, asked.thing
        if thing is None or thing.quantity not in (Quantity.ALL, Quantity.NUMBER):
            continue
        count = 1
        while rest and _is_like(rest[0].step, first, thing):
            kept[-1] = replace(rest.pop(0), step=first)
            count += 1
        if is_measured:
            continue
        handles_all = first.thing is not None and first.thing.quantity is Quantity.ALL
        if thing.quantity is Quantity.NUMBER and (handles_all or count != thing.count):
            doubts.append(f"you said {thing.describe()}; the plan handles {'all' if handles_all else count}")
        if thing.quantity is Quantity.ALL and not handles_all and count == 1:
            doubts.append(f"you said {thing.describe()}; the plan handles one")
    return [*kept, *rest], tuple(doubts)


def _is_like(step: Step, first: Step, asked: Thing) -> bool:
    """Whether a step does the same as the first one, to another of the things that were asked for.

    Where each goes has the same name; which one it is may differ ("each block on a plate").
    """
    return replace(step, thing=first.thing) == first and names(replace(asked, quantity=Quantity.ONE), step.thing)


def _arranges(step: Step, asked: Step) -> bool:
    """Whether a step puts one of the things that are to be arranged somewhere among them, or at a spot."""
    if asked.deed is Deed.CLEAR and asked.reference is None:  # whatever stands on it, or in it
        return step.deed is Deed.PLACE and step.place is not None
    each = [replace(t, quantity=Quantity.ONE) for t in (asked.thing, asked.reference) if t is not None]
    is_among = step.reference is None or any(names(thing, step.reference) for thing in each)
    return step.deed is Deed.PLACE and is_among and any(names(thing, step.thing) for thing in each)


def _forbidden(goal: Goal, planned: list[Step]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of a plan a negated half of the sentence forbids: "do not touch the red block, pick up a block".

    What is excluded ("all but the red one") binds a plan that names its thing less closely, and so may mean that one.

    Returns:
        What contradicts it, and what may: a thing that is named less closely than the forbidden one can be that one.
    """
    broken: list[str] = []
    doubts: list[str] = []
    for no in (step for step in goal.steps if step.is_negated):
        for mine in planned:
            sure, possible = _is_forbidden(no, mine)
            if sure and goal.is_understood:  # an unread word may be the thing that is forbidden
                broken.append(f"you said: {goal.describe()}; the plan is: {mine.describe()}")
            elif sure or possible:
                doubts.append(f"you also said: {no.describe()}")
    for thing in goal.exclusions:
        if any(may_be(thing, t) for mine in planned for t in (mine.thing, mine.reference) if t is not None):
            doubts.append(f"you said: not {thing.describe()}; the plan does not say which one it takes")
    return tuple(broken), tuple(dict.fromkeys(doubts))


def _is_forbidden(no: Step, mine: Step) -> tuple[bool, bool]:
    """Whether a negated step surely, or possibly, forbids a planned one."""
    # what may not be touched, moved or picked up may not be handled at all
    related = no.deed is mine.deed if no.deed in _ALONE else mine.deed in HANDLING
    if not related or (no.thing is not None and no.thing.quantity is Quantity.ANOTHER):
        return False, False
    if no.deed is Deed.PLACE and no.reference is not None:  # "but do not put it on the blue plate"
        if mine.deed is not Deed.PLACE:
            return False, False
        pairs = [(no.thing, mine.thing), (no.reference, mine.reference)]
        sure = no.relation is mine.relation and all(is_surely(a, b) for a, b in pairs)
        return sure, all(may_be(a, b) for a, b in pairs)
    touched = (mine.thing, mine.reference) if no.deed is Deed.OTHER else (mine.thing,)
    sure = no.deed is not Deed.PLACE and no.thing is not None and is_surely(no.thing, mine.thing)
    return sure, any(may_be(no.thing, thing) for thing in touched) or no.thing is None


# ------------------------------------------------------------------------------------------- do they agree


def _fits(said: Step, planned: Step) -> bool:
    return (
        said.deed is planned.deed
        and names(said.thing, planned.thing)
        and _places_alike(said, planned)
        and names(said.reference, planned.reference)
        and said.direction is planned.direction
        and (said.place is None) == (planned.place is None)
        and (said.seconds is None or planned.seconds is None or abs(said.seconds - planned.seconds) < 0.05)
    )


def _is_excluded(said: Step, planned: Step, goal: Goal) -> bool:
    """Whether a plan's thing is one that was named as not meant: "the block, but not the red one"."""
    pairs = [(said.thing, planned.thing), (said.reference, planned.reference)]
    plain = [thing for thing in goal.exclusions if thing.relation is None and not thing.superlative]
    return any(
        mine is not None and covers(thing, mine) and not (asked is not None and covers(thing, asked))
        for thing in plain
        for asked, mine in pairs
    )


def _places_alike(said: Step, planned: Step) -> bool:
    """Whether two relations are one; on and in a plate are, for Spanish has one word and a plate no inside."""
    if said.relation is planned.relation:
        return True
    is_flat = said.reference is not None and said.reference.noun == "plate"
    return is_flat and {said.relation, planned.relation} == {Relation.ON, Relation.IN}


def _starts(said: Step, planned: Step) -> bool:
    """Whether a pick is the first half of the place that was asked for."""
    return said.deed is Deed.PLACE and names(said.thing, planned.thing)
