"""What a model missed, or saw too small → the same questions again through windows of the picture, and one merged plan.

A model sees a picture at the size that it was trained on. From 1.5 m away a block of 4 cm is ten pixels wide there; a
window of half the picture shows it twice as large. So a thing is called absent only when no window shows it either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.geometry import invert, project, shared_area, transform
from qwen2vl_robot.messages import CameraFrame, ImageBox, ObjectReference, Plan, PlannerRequest, Verb
from qwen2vl_robot.planner.contract import MAX_BOXES
from qwen2vl_robot.planner.detect import about
from qwen2vl_robot.planner.reply import format_reply

SMALL = 75.0  # thousandths of the picture's sides: a box with both sides smaller is looked at again
MISSED = 100.0  # likewise: what is larger and was called absent is absent; windows invent things, too
_SIDE = 0.6  # of a window, of the picture's sides: two of them overlap by a third
_MIN_SIDE = 0.4
_MARGIN = 0.06  # around what a window is for
_EDGE = 12.0  # thousandths of a window: a box that ends there may go on outside
_SAME_IOU = 0.3
_WORK_LOW_M, _WORK_HIGH_M = (0.25, -0.45, 0.0), (0.80, 0.45, 0.12)  # in the base frame
_NEAREST_M = 0.1
_INSIDE = 0.7  # share of a box that lies in another one of the same thing


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture: left, top, right, bottom as shares 0..1 of its width and height."""

    x0: float
    y0: float
    x1: float
    y1: float

    def cut(self, request: PlannerRequest) -> PlannerRequest:
        """The request with this part of its picture, as large as the picture."""
        height, width = request.rgb.shape[:2]
        rows = slice(round(self.y0 * height), round(self.y1 * height))
        columns = slice(round(self.x0 * width), round(self.x1 * width))
        part = Image.fromarray(np.ascontiguousarray(request.rgb[rows, columns]))
        return replace(request, rgb=np.asarray(part.resize((width, height), Image.Resampling.BICUBIC)))

    def outward(self, box: ImageBox) -> ImageBox:
        """A box 0..1000 of the window as one of the whole picture."""
        wide, high = self.x1 - self.x0, self.y1 - self.y0
        return ImageBox(
            1000 * self.x0 + wide * box.x0,
            1000 * self.y0 + high * box.y0,
            1000 * self.x0 + wide * box.x1,
            1000 * self.y0 + high * box.y1,
        )

    def cuts(self, box: ImageBox) -> bool:
        """Whether a box 0..1000 of the window ends at a side of it that lies inside the picture."""
        return (
            (box.x0 < _EDGE and self.x0 > 0.0)
            or (box.y0 < _EDGE and self.y0 > 0.0)
            or (box.x1 > 1000 - _EDGE and self.x1 < 1.0)
            or (box.y1 > 1000 - _EDGE and self.y1 < 1.0)
        )


def plan_looking_again(
    request: PlannerRequest,
    work_place: ImageBox | None,
    plan_one: Callable[[PlannerRequest], Plan],
    go_on: Callable[[PlannerRequest, tuple[ObjectReference, ...]], Plan],
) -> Plan:
    """Plan, and look through windows for what the plan misses or has seen too small.

    Args:
        work_place: where in the picture the robot works, if that is known.
        plan_one: asks the model about a picture.
        go_on: has the model finish a reply whose objects are given.

    Raises:
        PlannerError: the reply about the whole picture cannot be used.
    """
    plan = plan_one(request)
    doubtful = [
        thing for thing in plan.objects if not thing.boxes or any(_largest_side(box) < SMALL for box in thing.boxes)
    ]
    if not doubtful:
        return plan
    found = _find(request, {thing.label: windows_for(thing.boxes, work_place) for thing in doubtful}, plan_one)
    things = tuple(_seen_again(thing, found.get(thing.label, [])) for thing in plan.objects)
    if things == plan.objects:
        return plan
    is_missing = any(not thing.boxes for thing in things)
    note = f"looked again through windows for {', '.join(thing.label for thing in doubtful)}"
    if not is_missing and _only_asks(plan):
        again = go_on(request, things)
        return replace(again, notes=(*again.notes, note))
    return replace(_with_boxes(plan, things), notes=(*plan.notes, note))


def windows_for(seen: Sequence[ImageBox], work_place: ImageBox | None) -> tuple[Window, ...]:
    """Choose windows for a thing: one around where it was seen, else around the work place, else four for everything.

    >>> len(windows_for((), None)), len(windows_for((ImageBox(400, 400, 500, 500),), None))
    (4, 1)
    """
    boxes = seen or (() if work_place is None else (work_place,))
    around = _around(boxes) if boxes else None
    if around is not None:
        return (around,)
    starts = (0.0, 1.0 - _SIDE)
    return tuple(Window(x, y, x + _SIDE, y + _SIDE) for y, x in itertools.product(starts, starts))


def _around(boxes: Sequence[ImageBox]) -> Window | None:
    """The window of the picture's own shape that holds boxes; None where it would be nearly the whole picture."""
    x0, y0 = (min(v) / 1000 - _MARGIN for v in zip(*((b.x0, b.y0) for b in boxes), strict=True))
    x1, y1 = (max(v) / 1000 + _MARGIN for v in zip(*((b.x1, b.y1) for b in boxes), strict=True))
    side = max(x1 - x0, y1 - y0, _MIN_SIDE)
    if side > _SIDE + 0.15:
        return None
    left = min(max(0.0, (x0 + x1 - side) / 2), 1.0 - side)
    top = min(max(0.0, (y0 + y1 - side) / 2), 1.0 - side)
    return Window(left, top, left + side, top + side)


def work_place(frame: CameraFrame) -> ImageBox | None:
    """Where a camera sees the part of the table that an arm works on; None where a part of it is behind the camera."""
    corners = np.array(list(itertools.product(*zip(_WORK_LOW_M, _WORK_HIGH_M, strict=True))))
    p_m = transform(invert(frame.T_base_camera), corners)
    if (p_m[:, 2] < _NEAREST_M).any():
        return None
    k, (height, width) = frame.intrinsics, frame.rgb.shape[:2]
    u, v = 1000 * np.clip(project(p_m, k.fx_px, k.fy_px, k.cx_px, k.cy_px) / [width, height], 0.0, 1.0).T
    if np.ptp(u) < 1.0 or np.ptp(v) < 1.0:
        return None  # beside the picture
    return ImageBox(float(u.min()), float(v.min()), float(u.max()), float(v.max()))


def _find(
    request: PlannerRequest, windows_of: dict[str, tuple[Window, ...]], plan_one: Callable[[PlannerRequest], Plan]
) -> dict[str, list[ImageBox]]:
    """Where windows show things, by label, in the whole picture; a box that is cut off counts where none is whole.

    Each window is cut once and asked about one thing after the other, so that the model encodes it once.
    """
    whole: dict[str, list[ImageBox]] = {label: [] for label in windows_of}
    cut: dict[str, list[ImageBox]] = {label: [] for label in windows_of}
    for window in dict.fromkeys(itertools.chain.from_iterable(windows_of.values())):
        part = window.cut(request)
        for label in (label for label, windows in windows_of.items() if window in windows):
            try:
                plan = plan_one(about(part, label))
            except (BadInputError, PlannerError):  # a label that no sentence can hold; a reply that says nothing
                continue  # what this window shows is not known then; the others decide
            for box in (box for found in plan.objects if found.label == label for box in found.boxes):
                (cut if window.cuts(box) else whole)[label].append(window.outward(box))
    return {label: _distinct([*whole[label], *cut[label]]) for label in windows_of}


def _seen_again(thing: ObjectReference, found: Sequence[ImageBox]) -> ObjectReference:
    """A thing with the boxes that windows show; it is as it was where they show none that can be believed."""
    boxes = tuple(box for box in found if thing.boxes or _largest_side(box) < MISSED)[:MAX_BOXES]
    return replace(thing, boxes=boxes) if boxes else thing


def _distinct(boxes: Sequence[ImageBox]) -> list[ImageBox]:
    """Boxes without those that are another one again, the first of them each."""
    kept: list[ImageBox] = []
    for box in boxes:
        if all(box.iou(other) < _SAME_IOU and _overlap(box, other) < _INSIDE for other in kept):
            kept.append(box)
    return kept


def _overlap(box: ImageBox, other: ImageBox) -> float:
    """The share of the smaller box that lies in the other one."""
    corners = [(b.x0, b.y0, b.x1, b.y1) for b in (box, other)]
    return float(shared_area(*corners)) / min((b.x1 - b.x0) * (b.y1 - b.y0) for b in (box, other))


def _largest_side(box: ImageBox) -> float:
    return max(box.x1 - box.x0, box.y1 - box.y0)


def _only_asks(plan: Plan) -> bool:
    return [action.verb for action in plan.actions] == [Verb.ASK]


def _with_boxes(plan: Plan, things: tuple[ObjectReference, ...]) -> Plan:
    """The plan with other boxes of its things."""
    now = dict(zip(plan.objects, things, strict=True))
    actions = tuple(
        action if action.object is None else replace(action, object=now.get(action.object, action.object))
        for action in plan.actions
    )
    return replace(plan, actions=actions, objects=things)


def format_objects(things: Sequence[ObjectReference]) -> str:
    """Format the first half of a reply, up to its actions: what it lists.

    >>> format_objects([ObjectReference("ball", (ImageBox(1, 2, 3, 4),))])
    '{"objects":[{"label":"ball","boxes":[[1,2,3,4]]}],'
    """
    listed = [
        (
            thing.label,
            [(round(b.x0), round(b.y0), round(b.x1), round(b.y1)) for b in thing.boxes],
            thing.where,
        )
        for thing in things
    ]
    return format_reply(listed, []).removesuffix('"actions":[]}')
