"""A sentence → what it orders and what of that is still to do, or how it ends without any motion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen2vl_robot.agreement import still_to_do
from qwen2vl_robot.languages import detect_language
from qwen2vl_robot.messages import Cause, Instruction, InstructionSource, Outcome, OutcomeKind, Plan, Relation, Verb
from qwen2vl_robot.planner.phrasing import examples, motions, plainest
from qwen2vl_robot.reading import Deed, Goal, Mood, Quantity, Step, read
from qwen2vl_robot.reasons import TaskReason

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asked for, as it was read.

    Attributes:
        instruction: for the planner: the person's words, and the plainest ones for what is still to do.
        goal: the whole sentence.
        todo: its motions that are not done yet; none where nothing was read and the planner is trusted.
    """

    instruction: Instruction
    goal: Goal
    todo: tuple[Step, ...]

    def after(self, plan: Plan, achieved: int, *, held: str = "") -> Order:
        """What is left once the first so many actions of a plan were achieved.

        Args:
            held: what the gripper held before the plan.
        """
        todo = still_to_do(self.todo, plan, achieved, held=held)
        if todo == self.todo:
            return self
        return replace(
            self,
            instruction=replace(self.instruction, plainly=plainest(todo, self.goal), is_begun=True),
            todo=todo,
        )


def understand(instruction: Instruction, *, trusts_unread: bool = False) -> Order | Outcome:
    """Read a sentence without any model: what it orders, or how it ends without a plan; a check is no sentence.

    Args:
        trusts_unread: whether a sentence of which nothing was read goes to the planner as it is.
    """
    if instruction.source is InstructionSource.CHECK:
        return Order(instruction, Goal(), ())
    order = read_order(instruction)
    _log.info("read: %s", order.goal.describe() or "nothing")
    if trusts_unread and not order.goal.steps:
        return order
    return answer_without_motion(order.goal) or order


def read_order(instruction: Instruction) -> Order:
    """Read a sentence, whatever it says.

    >>> read_order(Instruction("wait 2 seconds, then go home")).instruction.plainly
    ('wait for 2 seconds', 'go home')
    """
    goal = read(instruction.text)
    todo = tuple(motions(goal))
    return Order(replace(instruction, plainly=plainest(todo, goal)), goal, todo)


def answer_without_motion(goal: Goal) -> Outcome | None:
    """The outcome of a sentence that orders nothing the robot does; None for one that orders something.

    >>> answer_without_motion(read("do not pick up the red block")).causes[0].text
    'You said: do not pick up the red block. Nothing moves.'
    """
    said = goal.describe()
    if goal.mood is not Mood.ORDER:
        return _refuse(TaskReason.NO_ORDER, f"I read a {goal.mood.value}, not an order. Nothing moves.")
    if goal.is_contradictory:
        return _refuse(TaskReason.CONTRADICTION, f"You said: {said}. That contradicts itself. Nothing moves.")
    if any(_is_impossible(step) for step in goal.steps):
        return _refuse(TaskReason.IMPOSSIBLE, f"You said: {said}. Nothing stays on a ball. Nothing moves.")
    if any(step.deed is Deed.STOP and not step.is_negated for step in goal.steps):
        return _refuse(TaskReason.NO_ORDER, f"You said: {said}. Nothing moves.")
    wanted = [step for step in goal.steps if not step.is_negated]
    if goal.steps and not wanted:
        return _refuse(TaskReason.NEGATED, f"You said: {said}. Nothing moves.")
    unknown = [step.word for step in wanted if step.deed is Deed.OTHER]
    if unknown or not wanted:
        return Outcome(OutcomeKind.ASKED, (_not_done(unknown, goal.unread),))
    if _fills_two_hands(motions(goal)):
        return _refuse(TaskReason.ONE_GRIPPER, f"You said: {said}. I hold one thing at a time. Nothing moves.")
    return None


def _is_impossible(step: Step) -> bool:
    """Whether a thing is to lie on a ball, or in one."""
    is_upon = step.relation in (Relation.ON, Relation.IN) and step.deed is Deed.PLACE and not step.is_negated
    return is_upon and step.reference is not None and step.reference.noun == "ball"


def doubts_about(source: InstructionSource) -> tuple[str, ...]:
    """Why a person has to agree to whatever comes from there."""
    if source is InstructionSource.CHECK:
        return ("the camera may be wrong until it is checked: look whether the arm's way is free",)
    if source is InstructionSource.AGENT:
        return ("the instruction came from an agent, which may repeat what it read anywhere",)
    return ("the instruction came by voice, which may be anybody's",) if source is InstructionSource.VOICE else ()


def answer_of(plan: Plan, order: Order) -> Outcome | None:
    """What a plan that only asks or refuses says; None for one that moves something.

    What a planner made of words that nobody knows says nothing: then the words are named.
    """
    first = plan.actions[0] if plan.actions else None
    if first is None or first.verb not in (Verb.ASK, Verb.REFUSE):
        return None
    if order.goal.unread:
        return Outcome(OutcomeKind.ASKED, (not_understood(order.goal.unread),))
    asks = first.verb is Verb.ASK
    cause = Cause(TaskReason.ASKED if asks else TaskReason.DECLINED, first.text or first.verb.value)
    return Outcome(OutcomeKind.ASKED if asks else OutcomeKind.REFUSED, (cause,))


def with_examples(answer: Outcome, labels: Sequence[str], text: str) -> Outcome:
    """Add two sentences that would work to an answer, in the language of a text.

    Args:
        labels: of the things in view.
    """
    first = answer.causes[0]
    told = replace(first, text=f"{first.text} {examples(labels, detect_language(text))}")
    return replace(answer, causes=(told, *answer.causes[1:]))


def not_understood(words: tuple[str, ...]) -> Cause:
    """The answer to words that mean nothing here."""
    named = ", ".join(repr(word) for word in dict.fromkeys(words))
    return Cause(TaskReason.NOT_UNDERSTOOD, f"I did not understand {named or 'that'}.")


def _not_done(deeds: Sequence[str], unread: tuple[str, ...]) -> Cause:
    """The answer to deeds that the robot does not do: which, what it does instead, and the words that nobody knows.

    >>> _not_done(["throw"], ()).text
    "I do not 'throw': I pick up, put and push things."
    """
    rest = not_understood(unread)
    if not deeds:
        return rest
    named = ", ".join(repr(word) for word in dict.fromkeys(deeds))
    text = f"I do not {named}: I pick up, put and push things."
    return replace(rest, text=f"{text} {rest.text}" if unread else text)


def _fills_two_hands(said: list[Step]) -> bool:
    """Whether something is to be picked up while the gripper holds another thing.

    >>> _fills_two_hands(motions(read("pick up the red block and pick up the green ball")))
    True
    >>> _fills_two_hands(motions(read("pick up the red block and put it on the plate")))
    False
    """
    is_full = False
    for step in said:
        if step.deed is Deed.PICK:
            thing = step.thing
            is_many = thing is not None and (
                thing.quantity is Quantity.ALL or (thing.quantity is Quantity.NUMBER and thing.count > 1)
            )
            if is_full or is_many:
                return True
            is_full = True
        elif step.deed is Deed.PLACE and is_full:  # a place of what was picked is one step with its pick
            return True
    return False


def _refuse(reason: TaskReason, text: str) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, (Cause(reason, text),))
