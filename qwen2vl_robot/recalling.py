"""A sentence that means what came before it ("again", "undo that", "put it in the bowl") → the sentence that it means.

What is recalled is read, planned, rehearsed and admitted like any other sentence; nothing is repeated unseen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from qwen2vl_robot.answering import Past
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Cause, Instruction, InstructionSource, Outcome, OutcomeKind
from qwen2vl_robot.reading import HANDLING, PARTS, Deed, Goal, Mood, Quantity, Step, Thing, read
from qwen2vl_robot.reading.letters import plain_words, split_words
from qwen2vl_robot.reasons import TaskReason

_BACK = "put it back where it was"


def recall(instruction: Instruction, past: Past | None, held: str) -> Instruction | Outcome:
    """Put what a sentence means of the task before it into words; any other sentence stays as it is.

    Args:
        past: the task before this one; None where there was none.
        held: what the gripper holds, "" for nothing.

    Returns:
        The instruction, or a question where nothing is there to be meant.

    >>> recall(Instruction("do that again"), Past("push the red block to the left"), "").text
    'push the red block to the left'
    """
    if instruction.source is InstructionSource.CHECK:
        return instruction
    if _says("again", instruction.text):
        if past is None:
            return _ask("You have told me nothing before that I could do again.")
        return replace(instruction, text=past.said)
    if _says("undo", instruction.text):
        moved = () if past is None else past.moved
        if not moved:
            return _ask("The last task moved nothing that I could put back.")
        if len(moved) > 1:
            return _ask(f"The last task moved {len(moved)} things. Which one should go back?")
        return replace(instruction, text=_BACK)
    has_moved = past is not None and bool(past.moved)
    if not held and not has_moved:
        return instruction
    goal = read(instruction.text)
    if held and (mine := _of_held(goal)) is not None:
        return replace(instruction, text=mine.describe())
    if past is None or not has_moved:
        return instruction
    before = read(past.said)
    if any(_is_there(step) for step in goal.steps):
        return _to_the_same_place(instruction, goal, before)
    last = _last_thing(before)
    if last is None or not _means_it(goal, held):
        return instruction
    steps = tuple(replace(s, thing=last if _is_it(s.thing) else s.thing) for s in goal.steps)
    return replace(instruction, text=replace(goal, steps=steps).describe())


def _of_held(goal: Goal) -> Goal | None:
    """ "Put that one in the bowl", while something is held, is about that; None for any other sentence."""
    if not goal.steps or goal.steps[0].deed is not Deed.PLACE or goal.steps[0].thing != Thing():
        return None
    is_plain = goal.is_understood and not goal.exclusions and not goal.conditions and len(goal.steps) == 1
    it = replace(goal.steps[0], thing=Thing(is_it=True))
    return replace(goal, steps=(it,)) if is_plain and not it.is_negated else None


def _is_there(step: Step) -> bool:
    return step.place is not None and step.place.kind == "there"


def _to_the_same_place(instruction: Instruction, goal: Goal, before: Goal) -> Instruction | Outcome:
    """ "put the other one there too": where the last thing was put, in this sentence or in the one before."""
    steps: list[Step] = []
    where = _last_place(before.steps)
    for step in goal.steps:
        if not _is_there(step):
            where = _last_place((step,)) or where
            steps.append(step)
        elif where is None:
            return _ask("Where should I put it?")
        else:
            steps.append(replace(step, relation=where.relation, reference=where.reference, place=where.place))
    if not goal.is_understood or goal.exclusions or goal.conditions:
        return instruction  # which is asked about as it was said
    return replace(instruction, text=replace(goal, steps=tuple(steps)).describe())


def _last_place(steps: Sequence[Step]) -> Step | None:
    """The last step that puts something beside or into a thing that its words still name, or in a part of the table."""
    step = next((step for step in reversed(steps) if step.deed is Deed.PLACE and not step.is_negated), None)
    if step is None or step.goes_nowhere or (step.place is not None and step.place.kind not in ("middle", *PARTS)):
        return None
    is_told = step.reference is not None and step.reference.quantity is Quantity.ONE and not step.reference.is_it
    return step if step.place is not None or is_told else None


def _ask(text: str) -> Outcome:
    return Outcome(OutcomeKind.ASKED, (Cause(TaskReason.ASKED, text),))


def _says(key: str, text: str) -> bool:
    """Whether a whole text is one of a key's forms, in any language, whatever its marks and capitals."""
    return "".join(word.text for word in split_words(text)) in _forms(key)


@functools.lru_cache(maxsize=4)
def _forms(key: str) -> frozenset[str]:
    forms = (form for language in load_languages().values() for form in language.reading.forms(key))
    return frozenset("".join(plain_words(form)) for form in forms)


def _last_thing(goal: Goal) -> Thing | None:
    """What a sentence did something to last, where colour and noun still name it wherever it stands now."""
    thing = next((step.thing for step in reversed(goal.steps) if step.thing is not None), None)
    if thing is None or not (thing.colour and thing.noun) or thing.quantity is not Quantity.ONE:
        return None
    return None if thing.superlative or thing.rank or thing.is_any else replace(thing, relation=None, reference=None)


def _means_it(goal: Goal, held: str) -> bool:
    """Whether an order is about "it" alone, which nothing before it in the sentence names."""
    wanted = [step for step in goal.steps if step.deed in HANDLING]
    if goal.mood is not Mood.ORDER or not goal.is_understood or goal.exclusions or goal.conditions or not wanted:
        return False
    if any(step.is_negated for step in goal.steps) or not _is_it(wanted[0].thing):
        return False
    is_back = wanted[0].place is not None and wanted[0].place.kind == "back"
    return not is_back and not (held and wanted[0].deed is Deed.PLACE)


def _is_it(thing: Thing | None) -> bool:
    """ "it" and "that one"."""
    return thing is not None and (thing.is_it or thing == Thing())
