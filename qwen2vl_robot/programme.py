"""A sentence about several things, or about a place that no thing marks → a plan made from what is measured.

A model says where one thing is; which of six blocks are left to move, or in which order they make a tower, follows from
the measured scene. So no model is asked: what is in view is measured and named, and the deeds follow from it, each with
the box of its own thing. Where a word has no measurable meaning ("duck") the planner is asked as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwen2vl_robot.choosing import OpenError
from qwen2vl_robot.deeds import Measured, NotMeasuredError, PlannedDeed
from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.messages import Action, Cause, ObjectReference, Observation, Outcome, OutcomeKind, Plan, Scene, Verb
from qwen2vl_robot.order import Order
from qwen2vl_robot.perception import Stock, Surroundings, take_stock
from qwen2vl_robot.reading import ARRANGING, HANDLING, MANY, MEASURED_RANKS, PARTS, Deed, Goal, Quantity, Step, Thing
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.spots import Moved

MAX_DEEDS = 6  # of one plan: it is rehearsed as a whole before its first motion; what is left is planned afterwards


@dataclass(frozen=True, slots=True)
class Programme:
    """Deeds that follow from what is measured.

    Attributes:
        plan: of at most `MAX_DEEDS` deeds.
        is_whole: whether they are all.
    """

    plan: Plan
    is_whole: bool


def plan_measured(
    order: Order, observation: Observation, around: Surroundings, belief: Scene | None, moved: Sequence[Moved]
) -> Programme | Outcome | None:
    """Plan what is left of an order from what is measured, where it is of that kind (see `programme`).

    Args:
        belief: the last scene; needed only while the gripper holds something.
    """
    if not is_measured(order.todo):
        return None
    try:
        stock = take_stock(observation, around, belief)
    except (ObservationError, PerceptionError):
        return None  # the planner's plan meets the same, and says so
    return programme(order.goal, order.todo, stock, around, moved)


def is_measured(steps: Sequence[Step]) -> bool:
    """Whether steps are of the kind that follows from a measured scene, and not from a model's boxes."""
    return any(_needs_stock(step, lambda _: True) for step in steps)


def _needs_stock(step: Step, fits_several: Callable[[Thing], bool]) -> bool:
    """Whether a step needs what is measured: where "a block" can only be one, the planner finds it as ever."""
    if step.deed in ARRANGING or step.place is not None:
        return True
    if step.deed not in HANDLING or step.thing is None:
        return False
    things = [thing for thing in (step.thing, step.reference) if thing is not None]
    if any(thing.superlative in MEASURED_RANKS or thing.rank or _is_other(thing) or thing.is_by for thing in things):
        return True
    is_any = any(thing.is_any and fits_several(thing) for thing in things)
    if step.deed is Deed.PICK:
        return is_any
    is_there = step.deed is Deed.PUSH or step.relation is not None
    return is_there and (is_any or any(thing.quantity in MANY for thing in things))


def _is_other(thing: Thing) -> bool:
    return thing.quantity is Quantity.ANOTHER


def programme(
    goal: Goal, steps: Sequence[Step], stock: Stock, around: Surroundings, moved: Sequence[Moved]
) -> Programme | Outcome | None:
    """Make a plan for steps from what is measured.

    Args:
        steps: what of the goal is still to do.
        moved: what was moved before, the oldest first.

    Returns:
        The plan; an outcome where something is open or nothing is left to do; None where a word has no measurable
        meaning, or a step is none of these.
    """
    view = Measured(goal, stock, around, tuple(moved))
    things = [thing for step in steps for thing in (step.thing, step.reference) if thing is not None]
    things += [thing for step in steps if step.place is not None for thing in step.place.things]
    if not all(view.can_tell(thing) for thing in things):
        return None
    if not any(_needs_stock(step, view.fits_several) for step in steps):
        return None
    try:
        deeds = [deed for step in steps for deed in view.deeds(step)]
    except OpenError as question:
        return Outcome(OutcomeKind.ASKED, (Cause(TaskReason.ASKED, str(question)),))
    except NotMeasuredError:
        return None
    if not deeds:
        text = f"{goal.describe()}: that is so already; nothing moves"
        return Outcome(OutcomeKind.ACHIEVED, (Cause(TaskReason.ALREADY, text),))
    if len(deeds) > MAX_DEEDS and not all(_is_goal(step) for step in steps):
        text = (
            f"Those are {len(deeds)} deeds, and by looking I could not tell which are done. Name at most {MAX_DEEDS}."
        )
        return Outcome(OutcomeKind.ASKED, (Cause(TaskReason.ASKED, text),))
    return Programme(_plan(deeds[:MAX_DEEDS], stock), len(deeds) <= MAX_DEEDS)


def _is_goal(step: Step) -> bool:
    """Whether a scene shows how much of a step is done: "in the bowl" does, "10 cm to the left" would be done again."""
    is_by = step.place is not None and step.place.kind not in ("middle", "between", "there", *PARTS)
    return step.deed not in (Deed.PUSH, Deed.SWAP) and not is_by


def _plan(deeds: Sequence[PlannedDeed], stock: Stock) -> Plan:
    named = {id(deed.moved): deed.named for deed in deeds}
    named |= {id(deed.reference): deed.reference_named for deed in deeds if deed.reference_named is not None}
    others = {id(item): ObjectReference(item.label, ()) for item in stock.items}
    seen = {id(item): replace((others | named)[id(item)], boxes=(item.box,)) for item in stock.items}
    actions: list[Action] = []
    for deed in deeds:
        if deed.moved is None:
            where = None if deed.reference is None else seen[id(deed.reference)]
            actions.append(Action(Verb.PLACE, where, deed.relation, spot=deed.spot))
            continue
        thing = seen[id(deed.moved)]
        if deed.direction is not None:
            actions.append(Action(Verb.PUSH, thing, direction=deed.direction))
            continue
        if deed.is_held:
            actions.append(Action(Verb.PICK, thing))
            continue
        where = None if deed.reference is None else seen[id(deed.reference)]
        actions += [Action(Verb.PICK, thing), Action(Verb.PLACE, where, deed.relation, spot=deed.spot)]
    return Plan(tuple(actions), "", tuple(seen.values()), is_measured=True)
