"""A model's untrusted answer to "where is it?" → the boxes of each noun that was asked for; "not there" is a value.

Read are the lists and tags in which Qwen-VL models and their relatives answer (tests/planner/posted_replies.yaml has
them all). Nothing else of a reply counts: not its prose, and no action in it.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.languages import detect_language, fill, load_languages
from qwen2vl_robot.messages import ImageBox
from qwen2vl_robot.planner.boxes import read_box
from qwen2vl_robot.planner.contract import MAX_BOXES, MAX_OBJECTS, BoxConvention, strip_control_tokens
from qwen2vl_robot.planner.extraction import extract, refuse, unwrap
from qwen2vl_robot.reading import Thing, read
from qwen2vl_robot.reasons import PlannerReason

_LABELS = ("label", "object_name", "name", "object", "category", "ref", "color", "colour")
_BOX_KEYS = ("bbox_2d", "bbox", "box", "bounding_box", "Position", "position")
_Y_FIRST = "box_2d"  # the key of a family that writes y before x
_LISTS = ("objects", "detections", "results", "bounding_boxes", "items")
_CORNERS = (("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"))
_POINT_KEYS = ("point_2d", "point", "points", "coordinates")
_OTHER_SHAPES = ("bbox_3d", "quad_2d", "rbox_2d", "polygon", "quad")
_NOTHING = ("none", "no objects", "no object", "not there", "nothing")
_MOST_ENTRIES = MAX_OBJECTS * MAX_BOXES
ACTIONS_LEFT_OUT = "nobody asked for actions"
_NO_FORM = "the reply holds no boxes in a form that is read"


@dataclass(frozen=True, slots=True)
class Detections:
    """Where things are.

    Attributes:
        boxes: noun → its boxes in 0..1000 of the picture, none where it is not there; every noun that was asked for.
        notes: what was put right or left out.
    """

    boxes: Mapping[str, tuple[ImageBox, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing of a reply: its label, None without one, and what stands for its box, None for "not there"."""

    label: str | None
    raw: Any


def parse_detections(
    reply: str,
    nouns: Sequence[str],
    *,
    convention: BoxConvention = BoxConvention.THOUSANDTHS,
    image_size_px: tuple[int, int] = (1000, 1000),
) -> Detections:
    """Parse an untrusted reply about where some things are, or refuse it whole.

    Raises:
        PlannerError: no known form, boxes without one meaning, or labels that nobody asked for instead of those asked.

    >>> parse_detections('[{"bbox_2d": [1, 2, 30, 40], "label": "cup"}]', ("cup",)).boxes["cup"][0].x1
    30.0
    """
    text = unwrap(reply)
    notes: list[str] = []
    entries = list(itertools.islice(_entries_of(text, notes), _MOST_ENTRIES + 1))
    if len(entries) > _MOST_ENTRIES:
        raise refuse(f"the reply names more than {_MOST_ENTRIES} things")
    found: dict[str, list[ImageBox]] = {noun: [] for noun in nouns}
    strangers: list[str] = []
    for entry in entries:
        noun = _noun_of(entry.label, nouns)
        name = shown(entry.label if noun is None and entry.label else noun or "a thing", 40)
        if noun is None and entry.label is not None:
            strangers.append(name)
            continue
        if noun is None:
            raise refuse("a box has no name, and several things were asked for", PlannerReason.OTHER_LABEL)
        if entry.raw is None:
            continue
        box, said = read_box(entry.raw, name, convention, image_size_px)
        notes += said
        if box in found[noun]:
            notes.append(f"the same box of {name!r} came again")
            continue
        found[noun].append(box)
        if len(found[noun]) > MAX_BOXES:
            raise refuse(f"the reply has more than {MAX_BOXES} boxes of {name!r}")
    named = {_noun_of(entry.label, nouns) for entry in entries}
    if strangers and not named.issuperset(nouns):
        raise refuse(f"the reply names {strangers[0]!r}, which nobody asked for", PlannerReason.OTHER_LABEL)
    notes += [f"nobody asked for {name!r}" for name in strangers]
    return Detections({noun: tuple(boxes) for noun, boxes in found.items()}, tuple(dict.fromkeys(notes)))


def raw_boxes(reply: str) -> list[Any]:
    """What stands for the boxes of a reply, unconverted, to find out in which unit they are.

    Raises:
        PlannerError: no known form.
    """
    entries = itertools.islice(_entries_of(unwrap(reply), []), _MOST_ENTRIES)
    return [entry.raw for entry in entries if entry.raw is not None]


def _noun_of(label: str | None, nouns: Sequence[str]) -> str | None:
    """The noun that a label means; without a label the only one that was asked for."""
    if label is None:
        return nouns[0] if len(nouns) == 1 else None
    plain = label.strip().casefold()
    for noun in nouns:
        if plain == noun.casefold():
            return noun
    thing = _thing_of(label)
    return next((noun for noun in nouns if thing is not None and thing == _thing_of(noun)), None)


@functools.lru_cache(maxsize=512)
def _thing_of(label: str) -> Thing | None:
    """What a label in any language names, as sentences are read; None where a word of it is unknown."""
    bare = re.sub(r"^(?:the|an?)\s+", "", shown(label, 80), flags=re.IGNORECASE)
    language = load_languages()[detect_language(bare)]
    goal = read(fill(language.tasks["pick"].seen[0], (bare, bare)))
    if not goal.is_understood or len(goal.steps) != 1 or goal.exclusions or goal.conditions:
        return None
    return goal.steps[0].thing


# ------------------------------------------------------------------------------------------------ entries


def _entries_of(text: str, notes: list[str]) -> Iterator[_Entry]:
    if re.search(r"<points?\b|\bclick\s*\(", text) and _POINT.search(text.replace('"', "")):
        raise refuse("the reply points; a box is needed", PlannerReason.POINTS)
    if _MARKUP.search(text):
        yield from _of_markup(text)
        return
    if text.strip().strip(".").casefold() in _NOTHING:
        return
    found = extract(text)
    notes += found.notes
    if found.value is None:
        yield from _of_markup(text)
    else:
        yield from _of_value(found.value, notes)


def _of_value(value: Any, notes: list[str]) -> Iterator[_Entry]:
    if isinstance(value, dict):
        yield from _of_object(value, notes)
        return
    if not isinstance(value, list):
        raise refuse(_NO_FORM)
    if value and not any(isinstance(part, (dict, list)) for part in value):
        yield _Entry(None, value)
        return
    for part in value:
        if isinstance(part, dict):
            yield from _of_object(part, notes)
        else:
            yield _Entry(None, part)


def _of_object(entry: dict[str, Any], notes: list[str]) -> Iterator[_Entry]:
    """The things of one JSON object: one with its box, a list of them under a key, or nouns as keys."""
    if "actions" in entry:
        notes.append(ACTIONS_LEFT_OUT)
    for key in _LISTS:
        if isinstance(entry.get(key), list):
            yield from _of_value(entry[key], notes)
            return
    label = next((entry[key] for key in _LABELS if key in entry), None)
    if label is not None and not isinstance(label, str):
        raise refuse("a label is no text")
    if _Y_FIRST in entry:
        raise refuse(f"{_Y_FIRST!r} is the name of boxes with y first", PlannerReason.BOX_CORNERS)
    if any(key in entry for key in _POINT_KEYS):
        raise refuse("the reply points; a box is needed", PlannerReason.POINTS)
    if any(key in entry for key in _OTHER_SHAPES):
        raise refuse("the reply has shapes that are no upright boxes", PlannerReason.BOX_FORM)
    boxes = [entry[key] for key in _BOX_KEYS if key in entry]
    corners = next((keys for keys in _CORNERS if all(key in entry for key in keys)), None)
    if len(boxes) > 1:
        raise refuse("a thing has two boxes under two names", PlannerReason.BOX_FORM)
    if boxes:
        yield _Entry(label, boxes[0] or None)
    elif isinstance(entry.get("boxes"), list):
        yield from (_Entry(label, raw) for raw in entry["boxes"] or [None])
    elif corners is not None:
        yield _Entry(label, [entry[key] for key in corners])
    elif label is None and all(raw is None or isinstance(raw, list) for raw in entry.values()):
        yield from (_Entry(name, raw or None) for name, raw in entry.items())
    else:
        raise refuse(_NO_FORM)


# ------------------------------------------------------------------------------------------------- markup

_MARKUP = re.compile(r"<\|(?:object_ref|box|ref|det|extra)[a-z_]*\d?\|?|<(?:ref|box)>")
_BOX_TOKENS = re.compile(r"<\|box_(?:start|end)\|>|<\|/?det\|>|</?box>|<\|extra_[23]\|>")
_NAME = re.compile(
    r"(?:<\|object_ref_start\|>|<\|ref\|>|<ref>|<\|extra_0\|>)([^<>]{1,200})"
    r"(?:<\|object_ref_end\|>|<\|/ref\|>|</ref>|<\|extra_1\|>)"
)
_PAIR = re.compile(r"\((-?\d{1,5}), {0,4}(-?\d{1,5})\), {0,4}\((-?\d{1,5}), {0,4}(-?\d{1,5})\)")
_POINT = re.compile(r"\(-?\d{1,5}, {0,4}-?\d{1,5}\)|[xX]\d?\s?=\s?'?-?\d")
_SEPARATORS = " \t\r\n,;:.、，"


def _of_markup(text: str) -> Iterator[_Entry]:
    """Things in the tags of Qwen, Qwen-VL or DeepSeek, or with their tags lost: a name, then its boxes."""
    first, *named = _NAME.split(_BOX_TOKENS.sub(" ", text))
    count = 0
    for label, part in [(None, first), *zip(named[::2], named[1::2], strict=True)]:
        for name, raw in _boxes_in(part):
            given = name if label is None else label
            yield _Entry(None if given is None else strip_control_tokens(given).strip(), raw)
            count += 1
    if not count:
        raise refuse(_NO_FORM)


def _boxes_in(part: str) -> Iterator[tuple[str | None, Any]]:
    """The boxes of a piece of markup, each with the words before it; a box without words belongs to those before."""
    end, words = 0, None
    for match in _PAIR.finditer(part):
        words = part[end : match.start()].strip(_SEPARATORS) or words
        end = match.end()
        yield words, [int(number) for number in match.groups()]
    rest = part[end:]
    if _POINT.search(rest):
        raise refuse("the reply points; a box is needed", PlannerReason.POINTS)
    if end == 0 and "[" in rest:
        value = extract(rest).value
        is_many = isinstance(value, list) and all(isinstance(raw, list) for raw in value)
        yield from ((None, raw) for raw in (value if is_many else [value]) or [])
