"""A model's untrusted answer → a typed, bounded Plan or one clear error; the training format.

A reply is compact JSON. Its boxes are in the model's own convention; `boxes.py` converts them to 0..1000 of the
original image. What models write around the JSON, `extraction.py` takes off.

    {"objects":[{"label":"red block","boxes":[[412,330,470,398]]},{"label":"blue bowl","boxes":[[530,411,702,566]]}],
     "actions":[{"do":"pick","object":0},{"do":"place","relation":"in","object":1}]}

Objects come before actions, each named right before its boxes, so that a model first looks and then decides. An absent
object has no boxes, and then only `ask` and `refuse` are left as actions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.config import Strict
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.languages import says
from qwen2vl_robot.messages import (
    Action,
    Direction,
    ObjectReference,
    Plan,
    PlannerRequest,
    Relation,
    Verb,
    Where,
)
from qwen2vl_robot.planner.boxes import read_box
from qwen2vl_robot.planner.contract import (
    MAX_ACTIONS,
    MAX_BOXES,
    MAX_OBJECTS,
    MAX_TEXT_CHARS,
    MAX_WAIT_S,
    BoxConvention,
    strip_control_tokens,
)
from qwen2vl_robot.planner.extraction import extract, refuse, unwrap
from qwen2vl_robot.reasons import PlannerReason

_NO_FORM = "the reply is neither the JSON of the schema nor Qwen's box markup"


@dataclass(frozen=True, slots=True)
class RawReply:
    """A model's answer before it is parsed.

    Attributes:
        image_size_px: (width, height) of the picture as the model saw it.
        decoded_tokens, forced_tokens, reused_tokens: chosen by the model, forced by the grammar, found in the cache.
        passes: forward passes of the model.
        seconds: time from the picture to the text.
        decode_s: the part of `seconds` after the first pass.
        prompt: what the model was asked (see `contract.prompt_text`).
    """

    text: str
    image_size_px: tuple[int, int]
    decoded_tokens: int = 0
    forced_tokens: int = 0
    reused_tokens: int = 0
    passes: int = 0
    seconds: float = 0.0
    decode_s: float = 0.0
    prompt: str = ""


class _Untrusted(Strict):
    """Base of a reply's parts; strict: a number in quotes or a boolean as an index is an error and is not converted."""

    model_config = ConfigDict(strict=True)


class ReplyWhere(_Untrusted):
    kind: Literal[
        "nearest",
        "farthest",
        "leftmost",
        "rightmost",
        "largest",
        "smallest",
        "all",
        "on",
        "in",
        "left_of",
        "right_of",
        "in_front_of",
        "behind",
        "next_to",
    ]
    reference: Annotated[str, Field(min_length=1, max_length=80)] | None = None


class ReplyObject(_Untrusted):
    label: Annotated[str, Field(min_length=1, max_length=80)]
    boxes: Annotated[list[Annotated[list[float | int], Field(min_length=4, max_length=4)]], Field(max_length=MAX_BOXES)]
    where: ReplyWhere | None = None


class ReplyAction(_Untrusted):
    do: Literal["pick", "place", "push", "home", "wait", "ask", "refuse"]
    object: Annotated[int, Field(ge=0, lt=MAX_OBJECTS)] | None = None
    relation: Literal["on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to"] | None = None
    direction: Literal["left", "right", "away", "closer"] | None = None
    seconds: Annotated[float | int, Field(gt=0, le=MAX_WAIT_S)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)] | None = None


class Reply(_Untrusted):
    """The reply schema, one for all backends; servers get `Reply.model_json_schema()`."""

    objects: Annotated[list[ReplyObject], Field(max_length=MAX_OBJECTS)]
    actions: Annotated[list[ReplyAction], Field(min_length=1, max_length=MAX_ACTIONS)]


_NEEDS: dict[str, tuple[str, ...]] = {
    "pick": ("object",),
    "place": ("object", "relation"),
    "push": ("object", "direction"),
    "home": (),
    "wait": ("seconds",),
    "ask": ("text",),
    "refuse": ("text",),
}


def plan_of(answer: RawReply, request: PlannerRequest, convention: BoxConvention) -> Plan:
    """Parse a model's untrusted answer to a request (see `parse_reply`)."""
    said = " ".join((request.instruction.text, *request.instruction.plainly))
    plan = parse_reply(answer.text, convention=convention, image_size_px=answer.image_size_px, said=said)
    return replace(plan, prompt=answer.prompt)


def parse_reply(
    reply: str,
    *,
    convention: BoxConvention = BoxConvention.THOUSANDTHS,
    image_size_px: tuple[int, int] = (1000, 1000),
    said: str | None = None,
) -> Plan:
    """Parse an untrusted reply into a Plan, or refuse it whole.

    Args:
        convention: units of the reply's boxes.
        image_size_px: (width, height) of the image that the boxes refer to, used by `RESIZED_PIXELS`.
        said: the instruction; a "where" without a reference ("all", a superlative) that it does not contain is dropped,
            so that several boxes become a question instead of several motions.

    Raises:
        PlannerError: the reply breaks the schema or a limit; one line says how.
    """
    found = extract(unwrap(reply))
    notes = list(found.notes)
    parsed = _parse_markup(found.text) if found.value is None else _parse_value(found.value)
    references = [_reference(o, convention, image_size_px, said, notes) for o in parsed.objects]
    actions = _one_by_one(tuple(_action(a, references) for a in parsed.actions))
    _check_sequence(actions)
    return Plan(actions=actions, reply=reply, objects=tuple(references), notes=tuple(dict.fromkeys(notes)))


def _parse_value(value: Any) -> Reply:
    if not isinstance(value, dict) or "actions" not in value:
        raise refuse("the reply names no actions", PlannerReason.NO_ACTIONS)
    try:
        return Reply.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = shown(".".join(str(p) for p in first["loc"]))
        is_box = "boxes" in first["loc"][:-1]
        raise refuse(
            f"the reply does not fit the schema at {where or 'its root'}: {first['msg']}",
            PlannerReason.BOX_FORM if is_box else PlannerReason.BAD_REPLY,
        ) from error


# No white space is matched more than once: a pattern that gives some back tries every length of it at every place.
_BOX = re.compile(
    r"(?:<\|box_start\|>)?\((\d{1,5}),\s{0,4}(\d{1,5})\),\s{0,4}\((\d{1,5}),\s{0,4}(\d{1,5})\)(?:<\|box_end\|>)?"
)
_POINTS = re.compile(r"<points?\b|\bclick\s*\(")
_VERBS = ("pick", "place", "push")
_WORDS = ("on", "in", "left_of", "right_of", "in_front_of", "behind", "next_to", "left", "right", "away", "closer")
_BETWEEN = " \n\t,;.0123456789-"  # separators, and the numbers of a list


def _parse_markup(text: str) -> Reply:
    """Parse Qwen's own grounding markup, one `verb [word] label box` after the other.

    The special tokens around label and box are optional, because some decoders drop them.
    """
    if _POINTS.search(text):
        raise refuse("the reply points; boxes and actions are needed", PlannerReason.POINTS)
    objects: list[dict[str, object]] = []
    actions: list[dict[str, object]] = []
    end = 0
    for match in _BOX.finditer(text):
        verb, word, label = _words_before(text[end : match.start()])
        end = match.end()
        entry: dict[str, object] = {"label": label, "boxes": [[int(number) for number in match.groups()]]}
        if entry not in objects:
            objects.append(entry)
        action: dict[str, object] = {"do": verb, "object": objects.index(entry)}
        if word:
            action["direction" if verb == "push" else "relation"] = word
        actions.append(action)
    if not actions or text[end:].strip(_BETWEEN):
        raise PlannerError(_NO_FORM)
    try:
        return Reply.model_validate({"objects": objects, "actions": actions})
    except ValidationError as error:
        raise PlannerError(f"the markup does not fit the schema: {error.errors()[0]['msg']}") from error


def _words_before(text: str) -> tuple[str, str | None, str]:
    """The verb, the relation or direction, and the label that stand before a box.

    Raises:
        PlannerError: something else does.
    """
    verb, *rest = text.lstrip(_BETWEEN).split(None, 1)[:2] or [""]
    words = rest[0].split(None, 1) if rest else []
    has_word = len(words) == 2 and words[0] in _WORDS
    label = (words[1] if has_word else "".join(rest)).strip()
    label = label.removeprefix("<|object_ref_start|>").removesuffix("<|object_ref_end|>").strip()
    if verb not in _VERBS or not label or any(c in "<>()\n" for c in label):
        raise PlannerError(_NO_FORM)
    return verb, words[0] if has_word else None, label


def _reference(
    entry: ReplyObject, convention: BoxConvention, image_size_px: tuple[int, int], said: str | None, notes: list[str]
) -> ObjectReference:
    label = strip_control_tokens(entry.label).strip()
    if not label or not label.isprintable():
        raise PlannerError("an object's label is empty or not printable")
    read = [read_box(raw, label, convention, image_size_px) for raw in entry.boxes]
    boxes = tuple(box for box, _ in read)
    notes += [note for _, more in read for note in more]
    where = Where(entry.where.kind, entry.where.reference) if entry.where else None
    if where is not None and said is not None and where.reference is None and not says(said, where.kind):
        where = None
    return ObjectReference(label=label, boxes=boxes, where=where)


def _action(entry: ReplyAction, references: list[ObjectReference]) -> Action:
    needed = _NEEDS[entry.do]
    for name in ("object", "relation", "direction", "seconds", "text"):
        is_given = getattr(entry, name) is not None
        if is_given != (name in needed):
            raise PlannerError(f"{entry.do} {'needs' if name in needed else 'takes no'} {name}")
    reference = None
    if entry.object is not None:
        if entry.object >= len(references):
            raise PlannerError(f"{entry.do} uses object {entry.object}, but the reply lists {len(references)} objects")
        reference = references[entry.object]
        if not reference.boxes:
            raise PlannerError(f"{entry.do} needs a box of {reference.label!r}; without one only ask or refuse is left")
    return Action(
        verb=Verb(entry.do),
        object=reference,
        relation=Relation(entry.relation) if entry.relation else None,
        direction=Direction(entry.direction) if entry.direction else None,
        seconds=float(entry.seconds) if entry.seconds is not None else None,
        text=strip_control_tokens(entry.text).strip() if entry.text else None,
    )


def _one_by_one(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Repeat an action on "all" for each box; a pick together with the place that follows it."""
    done: list[Action] = []
    rest = list(actions)
    while rest:
        action, following = rest.pop(0), rest[0] if rest else None
        if action.object is None or action.object.where != Where("all"):
            done.append(action)
            continue
        step = [action]
        if action.verb is Verb.PICK and following is not None and following.verb is Verb.PLACE:
            step.append(rest.pop(0))
        elif action.verb is not Verb.PUSH and len(action.object.boxes) > 1:
            raise PlannerError(f"{action.verb.value} takes one thing at a time, not all of {action.object.label!r}")
        for box in action.object.boxes:
            done += [replace(step[0], object=ObjectReference(action.object.label, (box,))), *step[1:]]
    if len(done) > MAX_ACTIONS:
        raise PlannerError(f"done one by one, the plan has {len(done)} actions, at most {MAX_ACTIONS} are allowed")
    return tuple(done)


def _check_sequence(actions: tuple[Action, ...]) -> None:
    """Refuse plans that make no sense: talk mixed with motion, a place with an empty hand, two picks in a row."""
    verbs = [a.verb for a in actions]
    talk = {Verb.ASK, Verb.REFUSE}
    if talk & set(verbs) and len(verbs) > 1:
        raise PlannerError("ask or refuse stands alone, without other actions")
    holding: bool | None = None  # at the start the hand may hold something from an earlier step
    for verb in verbs:
        if verb is Verb.PICK and holding:
            raise PlannerError("the plan picks while the hand is full")
        if verb is Verb.PLACE and holding is False:
            raise PlannerError("the plan places while the hand is empty")
        if verb in (Verb.PICK, Verb.PLACE):
            holding = verb is Verb.PICK


def ask_text(label: str) -> str:
    """Word the question about an object that is not there."""
    return f"I see no {label}."


def format_reply(
    objects: Sequence[
        tuple[str, list[tuple[int, int, int, int]]] | tuple[str, list[tuple[int, int, int, int]], Where | None]
    ],
    actions: list[dict[str, object]],
) -> str:
    """Format a reply in the exact compact form that models are trained on.

    >>> format_reply([("ball", [(1, 2, 3, 4)])], [{"do": "pick", "object": 0}])
    '{"objects":[{"label":"ball","boxes":[[1,2,3,4]]}],"actions":[{"do":"pick","object":0}]}'
    """
    listed = []
    for label, boxes, *more in objects:
        entry: dict[str, object] = {"label": label, "boxes": [list(b) for b in boxes]}
        if more and more[0] is not None:
            where = {"kind": more[0].kind, "reference": more[0].reference}
            entry["where"] = {name: value for name, value in where.items() if value is not None}
        listed.append(entry)
    return json.dumps({"objects": listed, "actions": actions}, separators=(",", ":"), ensure_ascii=False)
