"""A sentence as it was read, and where a model sees its nouns → a plan; the model says nothing else.

For models that ground well and plan badly. What is done with which thing comes from the reading; a sentence that leaves
something open, or that was not read whole, becomes a question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Instruction, Plan, PlannerRequest, Where
from qwen2vl_robot.naming import may_be
from qwen2vl_robot.planner.answers import speak_like
from qwen2vl_robot.planner.contract import BoxConvention
from qwen2vl_robot.planner.detections import ACTIONS_LEFT_OUT, Detections, parse_detections
from qwen2vl_robot.planner.phrasing import motions
from qwen2vl_robot.planner.reply import RawReply, ask_text, parse_reply
from qwen2vl_robot.reading import HANDLING, Deed, Goal, Mood, Quantity, Step, Thing, read
from qwen2vl_robot.reasons import PlannerReason


@dataclass(frozen=True, slots=True)
class Found:
    """What a model answered, and what it means."""

    detections: Detections
    reply: str
    prompt: str = ""


Find = Callable[[PlannerRequest, tuple[str, ...]], Found]


class _OpenError(PlannerError):
    """The sentence leaves something open; the text is the question."""


def get_ready() -> None:
    """Load the words of all languages now, so that the first plan does not wait for them."""
    read("go home")


def plan_by_detection(request: PlannerRequest, find: Find) -> Plan:
    """Plan what the sentence says, with the boxes that a model finds for its nouns.

    Args:
        find: asks the model for the boxes of some nouns in the request's picture.

    Raises:
        PlannerError: the model's reply cannot be used, or the plan breaks a limit.
    """
    try:
        steps = _steps(request.instruction)
        nouns = tuple(dict.fromkeys(noun for step in steps for noun in _nouns(step)))
        found = find(request, nouns) if nouns else Found(Detections({}), "")
        draft = _draft(steps, found.detections, nouns)
    except _OpenError as error:
        return speak_like(_ask(str(error)), request.instruction)
    plan = parse_reply(json.dumps(draft))
    if found.reply:
        notes = tuple(dict.fromkeys((*found.detections.notes, *plan.notes)))
        plan = replace(plan, reply=found.reply, notes=notes, prompt=found.prompt)
    return speak_like(plan, request.instruction)


def found_in(answer: RawReply, nouns: Sequence[str], convention: BoxConvention) -> Found:
    """Parse a model's answer to where some nouns are.

    Raises:
        PlannerError: it cannot be used.
    """
    parsed = parse_detections(answer.text, nouns, convention=convention, image_size_px=answer.image_size_px)
    return Found(parsed, answer.text, answer.prompt)


def find_each(
    request: PlannerRequest,
    nouns: Sequence[str],
    convention: BoxConvention,
    reply: Callable[[PlannerRequest], RawReply],
) -> Found:
    """Ask a model that knows plans alone for a plan about each noun, and take its boxes.

    Raises:
        PlannerError: one of its answers cannot be used.
    """
    boxes, notes, replies, prompts = {}, [], [], []
    for noun in nouns:
        found = found_in(reply(about(request, noun)), (noun,), convention)
        boxes[noun] = found.detections.boxes[noun]
        notes += [note for note in found.detections.notes if note != ACTIONS_LEFT_OUT]
        replies.append(found.reply)
        prompts.append(found.prompt)
    return Found(Detections(boxes, tuple(notes)), "\n".join(replies), "\n".join(prompts))


def about(request: PlannerRequest, noun: str) -> PlannerRequest:
    """The request that asks a model which knows plans alone where a noun is in the same picture."""
    words = f"pick up the {noun}"
    return replace(request, instruction=Instruction(words, plainly=(words,)), failures=(), others=(), clip=())


def _ask(question: str) -> Plan:
    return parse_reply(json.dumps({"objects": [], "actions": [{"do": "ask", "text": question}]}))


# ----------------------------------------------------------------------------------------------- the sentence


def _steps(instruction: Instruction) -> list[Step]:
    """The motions that are still to do.

    Raises:
        _OpenError: a word was not read, or it asks for nothing that the robot does.
        PlannerError: a part is done, and what is left was not put into words.
    """
    if instruction.is_begun and not instruction.plainly:
        raise PlannerError("what is left to do was not put into words", reason=PlannerReason.BAD_REQUEST)
    goals = [read(text) for text in (instruction.plainly if instruction.is_begun else (instruction.text,))]
    for goal in goals:
        _check(goal)
    return [step for goal in goals for step in motions(goal)]


def _check(goal: Goal) -> None:
    if goal.unread:
        raise _OpenError(f"I do not know {goal.unread[0]}.")
    if goal.mood is not Mood.ORDER or goal.is_contradictory or not motions(goal):
        raise _OpenError("What should I do?")
    named = [thing for step in motions(goal) for thing in (step.thing, step.reference) if thing is not None]
    is_told = not any(may_be(thing, other) for thing in named for other in goal.exclusions)
    if not is_told or goal.conditions:
        raise _OpenError("Which one do you mean?")


def _nouns(step: Step) -> Iterator[str]:
    """The labels of everything that a step names, itself and what it stands by."""
    for thing in (step.thing, step.reference):
        while thing is not None and not thing.is_it:
            if thing.label:
                yield thing.label
            thing = thing.reference


# --------------------------------------------------------------------------------------------------- the plan


def _draft(steps: Sequence[Step], detections: Detections, nouns: Sequence[str]) -> dict[str, Any]:
    """The reply that a model would write for these steps, in 0..1000 of the picture.

    Raises:
        _OpenError: something is not there, or the steps leave something open.
    """
    missing = next((noun for noun in nouns if not detections.boxes[noun]), None)
    objects: list[dict[str, Any]] = []
    if missing is None:
        actions = [action for step in steps for action in _actions(step, detections, objects)]
        for noun in nouns:  # also what only a `where` refers to
            _listed({"label": noun, "boxes": _boxes(noun, detections)}, objects, only_if_new=True)
        return {"objects": objects, "actions": actions}
    raise _OpenError(ask_text(missing))


def _actions(step: Step, detections: Detections, objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if step.deed is Deed.HOME:
        yield {"do": "home"}
    elif step.deed is Deed.WAIT:
        if step.seconds is None:
            raise _OpenError("For how many seconds?")
        yield {"do": "wait", "seconds": step.seconds}
    elif step.deed in HANDLING:
        yield from _handling(step, detections, objects)
    else:
        raise _OpenError("What should I do?")


def _handling(step: Step, detections: Detections, objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    thing = step.thing
    is_held = step.deed is Deed.PLACE and thing is not None and thing.is_it
    if thing is None or (thing.is_it and not is_held) or not (thing.label or is_held):
        raise _OpenError(f"What should I {step.deed.value}?")
    if step.deed is Deed.PUSH:
        if step.direction is None:
            raise _OpenError("In which direction?")
        for index in _each(thing, detections, objects):
            yield {"do": "push", "object": index, "direction": step.direction.value}
        return
    if step.deed is Deed.PICK:
        yield from ({"do": "pick", "object": index} for index in _each(thing, detections, objects))
        return
    if step.relation is None or step.reference is None or not step.reference.label:
        raise _OpenError("Where should I put it?")
    (on,) = _each(replace(step.reference, quantity=Quantity.ONE), detections, objects)
    place = {"do": "place", "object": on, "relation": step.relation.value}
    if is_held:
        yield place
        return
    for index in _each(thing, detections, objects):
        yield {"do": "pick", "object": index}
        yield place


def _each(thing: Thing, detections: Detections, objects: list[dict[str, Any]]) -> list[int]:
    """The indices of the objects that a thing stands for: one, or one for each of a number.

    Raises:
        _OpenError: another number is there than was said, or nobody can know which one is meant.
    """
    boxes = _boxes(thing.label, detections)
    if thing.quantity is Quantity.ANOTHER:
        raise _OpenError(f"Which {thing.label} do you mean?")
    if thing.quantity is Quantity.NUMBER and thing.count != len(boxes):
        raise _OpenError(f"I see {len(boxes)} of {thing.label}, not {thing.count}.")
    if thing.quantity is Quantity.NUMBER:
        return [_listed({"label": thing.label, "boxes": [box]}, objects) for box in boxes]
    where = _where(thing)
    entry: dict[str, Any] = {"label": thing.label, "boxes": boxes}
    if where is not None:
        entry["where"] = {k: v for k, v in (("kind", where.kind), ("reference", where.reference)) if v is not None}
    return [_listed(entry, objects)]


def _where(thing: Thing) -> Where | None:
    if thing.rank or thing.is_by:
        raise _OpenError(f"I cannot tell which one {thing.describe()} is.")
    if thing.quantity is Quantity.ALL:
        return Where(Quantity.ALL.value)
    if thing.relation is not None:
        if thing.reference is None or not thing.reference.label or thing.superlative:
            raise _OpenError(f"Which {thing.label} do you mean?")
        return Where(thing.relation.value, thing.reference.label)
    return Where(thing.superlative) if thing.superlative else None


def _boxes(noun: str, detections: Detections) -> list[list[float]]:
    return [[box.x0, box.y0, box.x1, box.y1] for box in detections.boxes[noun]]


def _listed(entry: dict[str, Any], objects: list[dict[str, Any]], *, only_if_new: bool = False) -> int:
    """The index of an entry among the objects, where it is put if it is not there."""
    if only_if_new and any(other["label"] == entry["label"] for other in objects):
        return -1
    if entry not in objects:
        objects.append(entry)
    return objects.index(entry)
