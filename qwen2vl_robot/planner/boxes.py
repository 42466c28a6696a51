"""Four untrusted numbers of a model → one box in 0..1000 of the picture, or a typed refusal.

A number that is not as the contract wants it is put right only where it has one meaning, and a note says so. What
could mean two things (corners or width and height, x or y first, pixels or thousandths) is refused: a wrong box is a
wrong thing to grip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import ImageBox
from qwen2vl_robot.planner.contract import BoxConvention
from qwen2vl_robot.planner.extraction import refuse
from qwen2vl_robot.reasons import PlannerReason

MIN_BOX_SIDE = 1.0  # of 1000; a thinner box is too small to measure
MAX_OVERHANG = 100.0  # of 1000, out of the picture; models that write pixels are not told its size, and drift
MIN_INSIDE_RATIO = 0.5  # of a box that reaches out; the rest would be a guess
_ROUNDING = 1e-6
_FAR = 10.0  # sides of the picture; what is farther out is no coordinate in any unit
_Numbers = tuple[float, float, float, float]


def read_box(
    raw: object, label: str, convention: BoxConvention, image_size_px: tuple[int, int]
) -> tuple[ImageBox, tuple[str, ...]]:
    """Convert a model's box, left, top, right, bottom in its own unit.

    Args:
        image_size_px: (width, height) of the picture as the model saw it.

    Returns:
        The box, and a note for each thing that was put right.

    Raises:
        PlannerError: not four numbers, or numbers without one meaning; the reason says which.
    """
    numbers = _four(raw, label)
    by_pixels = convention is BoxConvention.RESIZED_PIXELS
    sides = tuple(map(float, image_size_px)) if by_pixels else (1000.0, 1000.0)
    if min(numbers) >= 0.0 and max(numbers) <= 1.0 and any(v % 1.0 for v in numbers):
        raise _refused(label, numbers, "these are shares of one, not the model's unit", PlannerReason.BOX_UNITS)
    if max(map(abs, numbers)) > _FAR * max(sides):
        raise _refused(label, numbers, "every number must lie in the picture", PlannerReason.BOX_OUTSIDE)
    numbers, turned = _in_order(numbers, label, sides)
    box, clipped = _inside(numbers, label, convention, image_size_px)
    if box[2] - box[0] < MIN_BOX_SIDE or box[3] - box[1] < MIN_BOX_SIDE:
        raise _refused(label, numbers, "x0 < x1 and y0 < y1 are needed", PlannerReason.BOX_FORM)
    return ImageBox(*box), (*turned, *clipped)


def write_box(
    box: tuple[int, int, int, int], convention: BoxConvention, image_size_px: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Write a box of 0..1000 in a model's own unit, as `read_box` reads it.

    >>> write_box((0, 250, 500, 1000), BoxConvention.RESIZED_PIXELS, (644, 476))
    (0, 119, 322, 476)
    """
    if convention is BoxConvention.THOUSANDTHS:
        return box
    width, height = image_size_px
    x0, y0, x1, y1 = (round(v * side / 1000) for v, side in zip(box, (width, height, width, height), strict=True))
    return x0, y0, x1, y1


def _four(raw: object, label: str) -> _Numbers:
    if not isinstance(raw, (list, tuple)):
        raise refuse(f"the box of {label!r} is not a list of four numbers", PlannerReason.BOX_FORM)
    is_flat = all(type(v) in (int, float) for v in raw)
    if is_flat and len(raw) == 2:
        raise refuse(f"{label!r} has a point where a box is needed", PlannerReason.POINTS)
    if not is_flat or len(raw) != 4:
        what = f"{len(raw)} numbers" if is_flat else "more than plain numbers"
        raise refuse(f"the box of {label!r} has {what}; four are needed", PlannerReason.BOX_FORM)
    try:
        x0, y0, x1, y1 = (float(v) for v in raw)
    except OverflowError as error:
        raise refuse(f"a number of the box of {label!r} is too large", PlannerReason.BOX_OUTSIDE) from error
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise refuse(f"a number of the box of {label!r} is no number", PlannerReason.BOX_FORM)
    return x0, y0, x1, y1


def _in_order(numbers: _Numbers, label: str, sides: Sequence[float]) -> tuple[_Numbers, tuple[str, ...]]:
    """Put the upper left corner first.

    That is done only where the numbers can be nothing but the two corners: neither corner, width and height, nor both x
    before both y.
    """
    a, b, c, d = numbers
    if a <= c and b <= d:
        return numbers, ()
    is_size = a + c <= sides[0] and b + d <= sides[1]
    is_by_axis = a < b and c < d
    if c < a and d < b and not is_size and not is_by_axis:
        return (c, d, a, b), (f"the corners of {label!r} stood in the other order",)
    raise _refused(label, numbers, "x0 < x1 and y0 < y1 are needed", PlannerReason.BOX_CORNERS)


def _inside(
    numbers: _Numbers, label: str, convention: BoxConvention, image_size_px: tuple[int, int]
) -> tuple[_Numbers, tuple[str, ...]]:
    """Convert to 0..1000 and cut off what reaches a little out of the picture."""
    width, height = image_size_px
    by_pixels = convention is BoxConvention.RESIZED_PIXELS
    sides = (width, height, width, height) if by_pixels else (1000, 1000, 1000, 1000)
    x0, y0, x1, y1 = (v * 1000.0 / side for v, side in zip(numbers, sides, strict=True))
    overhang = max(-x0, -y0, x1 - 1000.0, y1 - 1000.0)
    if overhang <= _ROUNDING:
        return (x0, y0, x1, y1), ()
    a, b, c, d = numbers
    if not by_pixels and min(a, b) >= 0 and c <= width and d <= height:
        raise _refused(label, numbers, "these look like pixels, not 0..1000", PlannerReason.BOX_UNITS)
    if by_pixels and overhang > MAX_OVERHANG and min(a, b) >= 0:
        if b <= d <= width and a <= c <= height:
            raise _refused(label, numbers, "these fit the picture with y first only", PlannerReason.BOX_CORNERS)
        if max(c, d) <= 1000:
            raise _refused(label, numbers, "these look like 0..1000, not pixels", PlannerReason.BOX_UNITS)
    cut = (max(x0, 0.0), max(y0, 0.0), min(x1, 1000.0), min(y1, 1000.0))
    inside = max(cut[2] - cut[0], 0.0) * max(cut[3] - cut[1], 0.0)
    area = (x1 - x0) * (y1 - y0)
    if overhang > MAX_OVERHANG or inside < MIN_INSIDE_RATIO * area:
        raise _refused(
            label, numbers, f"it reaches {overhang / 10:.0f} % out of the picture", PlannerReason.BOX_OUTSIDE
        )
    return cut, (f"the box of {label!r} reaches out of the picture by {overhang / 10:.1f} %; it was cut off",)


def _refused(label: str, numbers: _Numbers, why: str, reason: PlannerReason) -> PlannerError:
    written = ", ".join(f"{v:g}" for v in numbers)
    return refuse(f"the box of {label!r} is [{written}]; {why}", reason)
