"""What a sentence says (`reading.Goal`) and a plan → what contradicts, what is left out, and what nobody could read.

The reading and the planner share no code and no weights. A plan goes without asking only where both say the same; the
planner may fill in what the sentence leaves open (which box, a colour that was not said), and nothing else.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from qwen2vl_robot.messages import Action, Cause, Instruction, Outcome, OutcomeKind, Plan, Relation, Verb
from qwen2vl_robot.planner.phrasing import off_table, plainest
from qwen2vl_robot.reading import Deed, Goal, Mood, Quantity, Step, Thing, read
from qwen2vl_robot.reasons import TaskReason

_log = logging.getLogger(__name__)
_DEEDS = {
    Verb.PICK: Deed.PICK,
    Verb.PLACE: Deed.PLACE,
    Verb.PUSH: Deed.PUSH,
    Verb.HOME: Deed.HOME,
    Verb.WAIT: Deed.WAIT,
}


_EXAMPLES = 'I understand: "pick up the red block", "put the red block on the blue plate".'


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a plan stands to a sentence.

    Attributes:
        contradictions: sentences; with any of them the plan is refused.
        doubts: sentences; with any of them a person has to agree.
    """

    contradictions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def agree(goal: Goal, plan: Plan, *, trusts_unread: bool = False) -> Agreement:
    """Hold a plan to a sentence that orders a motion.

    Args:
        trusts_unread: whether words that nobody could read are left to the planner, instead of being asked about.

    >>> from qwen2vl_robot.reading import read
    >>> agree(read("pick up the red block"), Plan((Action(Verb.HOME),), "")).contradictions
    ('you said: pick up the red block; the plan is: go home',)
    """
    said, planned = _said(goal), _collapse(_planned(plan), goal)
    doubts = (*(() if trusts_unread else _unread(goal)), *_conditions(goal), *_unsaid(said))
    if not said:
        return Agreement((), doubts)
    fits = [_fits(a, b) and not _is_excluded(a, b, goal) for a, b in zip(said, planned, strict=False)]
    if all(fits) and len(said) == len(planned):
        return Agreement((), doubts)
    if all(fits) and len(planned) < len(said):
        left_out = " and then ".join(task.describe() for task in said[len(planned) :])
        return Agreement((), (*doubts, f"the plan leaves out: {left_out}"))
    if all(fits):
        extra = " and then ".join(task.describe() for task in planned[len(said) :])
        return Agreement((), (*doubts, f"nobody asked to {extra}"))
    if len(planned) == 1 and planned[0].deed is Deed.PICK and _starts(said[0], planned[0]):
        left_out = " and then ".join(task.describe() for task in said)
        return Agreement((), (*doubts, f"the plan leaves out: {left_out}"))
    mine = " and then ".join(task.describe() for task in planned) or "nothing"
    return Agreement((f"you said: {goal.describe()}; the plan is: {mine}",), doubts)


def understand(instruction: Instruction, *, trusts_unread: bool = False) -> Instruction | Outcome:
    """Read a sentence without any model: the same with its plainest words, or how it ends without a plan.

    Args:
        trusts_unread: whether a sentence of which nothing was read goes to the planner as it is.
    """
    goal = read(instruction.text)
    _log.info("read: %s", goal.describe() or "nothing")
    if trusts_unread and not goal.steps:
        return instruction
    return answer_without_motion(goal) or replace(instruction, plainly=plainest(goal))


def answer_without_motion(goal: Goal) -> Outcome | None:
    """The outcome of a sentence that orders nothing the robot does; None for one that orders something.

    >>> from qwen2vl_robot.reading import read
    >>> answer_without_motion(read("do not pick up the red block")).causes[0].text
    'You said: do not pick up the red block. Nothing moves.'
    """
    said = goal.describe()
    if goal.mood is not Mood.ORDER:
        return _refuse(TaskReason.NO_ORDER, f"I read a {goal.mood.value}, not an order. Nothing moves.")
    if goal.is_contradictory:
        return _refuse(TaskReason.CONTRADICTION, f"You said: {said}. That contradicts itself. Nothing moves.")
    if any(step.deed is Deed.STOP and not step.is_negated for step in goal.steps):
        return _refuse(TaskReason.NO_ORDER, f"You said: {said}. Nothing moves.")
    wanted = [step for step in goal.steps if not step.is_negated]
    if goal.steps and not wanted:
        return _refuse(TaskReason.NEGATED, f"You said: {said}. Nothing moves.")
    unknown = [step.word for step in wanted if step.deed is Deed.OTHER]
    if unknown or not wanted:
        words = ", ".join(repr(word) for word in (*unknown, *goal.unread))
        text = f"I did not understand {words or 'that'}. {_EXAMPLES}"
        return Outcome(OutcomeKind.ASKED, (Cause(TaskReason.NOT_UNDERSTOOD, text),))
    return None


def _refuse(reason: TaskReason, text: str) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, (Cause(reason, text),))


def _unread(goal: Goal) -> Iterator[str]:
    for word in goal.unread:
        yield f"I do not know {word!r}"


def _conditions(goal: Goal) -> Iterator[str]:
    for condition in goal.conditions:
        yield f"I cannot keep to {condition!r}"


def _unsaid(said: list[Step]) -> Iterator[str]:
    """What is asked for without a thing: the planner would choose one."""
    for task in said:
        if task.deed in (Deed.PICK, Deed.PLACE, Deed.PUSH) and (task.thing is None or task.thing.is_it):
            yield f"you did not say what to {task.deed.value}"


# ------------------------------------------------------------------------------------------- what was said


def _said(goal: Goal) -> list[Step]:
    """The motions of a goal; a pick that only serves the place after it is part of the place, as in a plan."""
    tasks: list[Step] = []
    for step in goal.steps:
        if step.is_negated or step.deed in (Deed.STOP, Deed.OTHER):
            continue
        thing, reference = (None if thing is None else off_table(thing) for thing in (step.thing, step.reference))
        task = Step(step.deed, thing, step.relation, reference, step.direction, step.seconds)
        last = tasks[-1] if tasks else None
        if task.deed is Deed.PLACE and last is not None and last.deed is Deed.PICK and _is_it(task.thing, last.thing):
            tasks[-1] = Step(Deed.PLACE, last.thing, task.relation, task.reference, task.direction)
        else:
            tasks.append(task)
    return tasks


def _is_it(thing: Thing | None, before: Thing | None) -> bool:
    """Whether a thing is the one named just before: "it", nothing at all, or the same words again."""
    return thing is None or thing.is_it or thing == before


# ----------------------------------------------------------------------------------------- what is planned


def _planned(plan: Plan) -> list[Step]:
    """The motions of a plan in the same form."""
    tasks: list[Step] = []
    for action in plan.actions:
        deed = _DEEDS.get(action.verb)
        if deed is None:
            continue
        thing = _thing(action)
        last = tasks[-1] if tasks else None
        if deed is Deed.PLACE:
            held = tasks.pop().thing if last is not None and last.deed is Deed.PICK else None
            tasks.append(Step(Deed.PLACE, held, action.relation, thing))
        else:
            tasks.append(Step(deed, thing, None, None, action.direction, action.seconds))
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
    if where.kind in {relation.value for relation in Relation}:
        reference = None if where.reference is None else _named(where.reference)
        return replace(thing, relation=Relation(where.kind), reference=reference)
    return replace(thing, superlative=where.kind)


@functools.lru_cache(maxsize=1024)
def _named(label: str) -> Thing:
    """What a label names; where its words are not known, its last word is the noun."""
    goal = read(f"pick up the {label}")
    if goal.is_understood and len(goal.steps) == 1 and goal.steps[0].thing is not None:
        return goal.steps[0].thing
    *rest, noun = label.lower().split() or [""]
    return Thing(noun, " ".join(rest))


def _collapse(tasks: list[Step], goal: Goal) -> list[Step]:
    """Where "all" was said, the same task for one thing after the other is one task."""
    if not any(s.thing is not None and s.thing.quantity is not Quantity.ONE for s in goal.steps):
        return tasks
    kept: list[Step] = []
    for task in tasks:
        if not kept or task != kept[-1]:
            kept.append(task)
    return kept


# ------------------------------------------------------------------------------------------- do they agree


def _fits(said: Step, planned: Step) -> bool:
    return (
        said.deed is planned.deed
        and _names(said.thing, planned.thing)
        and _places_alike(said, planned)
        and _names(said.reference, planned.reference)
        and said.direction is planned.direction
        and (said.seconds is None or planned.seconds is None or abs(said.seconds - planned.seconds) < 0.05)
    )


def _is_excluded(said: Step, planned: Step, goal: Goal) -> bool:
    """Whether a plan's thing is one that was named as not meant: "the block, but not the red one"."""
    pairs = [(said.thing, planned.thing), (said.reference, planned.reference)]
    plain = [thing for thing in goal.exclusions if thing.relation is None and not thing.superlative]
    return any(
        mine is not None and _covers(thing, mine) and not (asked is not None and _covers(thing, asked))
        for thing in plain
        for asked, mine in pairs
    )


def _covers(words: Thing, thing: Thing) -> bool:
    """Whether the words fit a thing; those without noun and colour fit none."""
    return bool(words.label) and words.noun in ("", thing.noun) and words.colour in ("", thing.colour)


def _places_alike(said: Step, planned: Step) -> bool:
    """Whether two relations are one; on and in a plate are, for Spanish has one word and a plate no inside."""
    if said.relation is planned.relation:
        return True
    is_flat = said.reference is not None and said.reference.noun == "plate"
    return is_flat and {said.relation, planned.relation} == {Relation.ON, Relation.IN}


def _starts(said: Step, planned: Step) -> bool:
    """Whether a pick is the first half of the place that was asked for."""
    return said.deed is Deed.PLACE and _names(said.thing, planned.thing)


def _names(said: Thing | None, planned: Thing | None) -> bool:
    """Whether a plan's thing is the one that was said, or fills in what the sentence leaves open."""
    if said is None or planned is None or said.is_it:
        return True
    return (
        said.noun in ("", planned.noun)
        and said.colour in ("", planned.colour)
        and said.superlative == planned.superlative
        and (said.relation is None or said.relation is planned.relation)
        and (planned.quantity is not Quantity.ALL or said.quantity is not Quantity.ONE)
    )
