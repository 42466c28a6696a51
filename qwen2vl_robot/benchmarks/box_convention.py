"""A model and rendered scenes with known boxes → its box convention, and its boxes' error.

The box coordinate system depends on the model; a wrong guess would look like bad detection.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.geometry import intersection_over_union
from qwen2vl_robot.messages import Instruction, PlannerRequest
from qwen2vl_robot.planner.detections import raw_boxes
from qwen2vl_robot.planner.reply import RawReply
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX, sample_of_seed
from qwen2vl_robot.training.shards import SeenObject

MAX_COORDINATE = 9999  # during the calibration every convention is allowed
MIN_IOU = 0.5  # a convention with a smaller median does not fit
MIN_ANSWERED_RATIO = 0.5
_LEAST_FACTOR = 0.05
_FAR_FROM_ZERO = 100.0  # of 1000; a ratio of small numbers says little
_TIE = 0.02  # an overlap that is smaller by so little is as good
_SCENE = "scenes/tabletop.yaml"
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A rendered frame (h, w, 3) and its visible objects, boxes in 0..1000, the most visible object first."""

    seed: int
    rgb: npt.NDArray[np.uint8]
    seen: list[SeenObject]


@dataclass(frozen=True, slots=True)
class Answer:
    """The four numbers that a model wrote for an object, and the object's true box (0..1000)."""

    numbers: _Box
    true: _Box
    picture_px: tuple[int, int]
    model_px: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ConventionFit:
    """The measured fit of each box convention.

    Attributes:
        convention: the best convention, even if it does not fit well enough.
        factor: for pixels, how many of the model's are one of the picture that was sent, in x and y.
        iou: median overlap under each convention.
        error: median error of a box side under the best convention, of 1000.
        asked, answered: number of scenes, and of replies with a box.
    """

    convention: str
    iou: dict[str, float]
    error: float
    asked: int
    answered: int
    factor: tuple[float, float] = (1.0, 1.0)

    @property
    def fits(self) -> bool:
        return self.iou[self.convention] >= MIN_IOU and self.answered >= MIN_ANSWERED_RATIO * self.asked


def _scaled(numbers: _Box, size: tuple[float, float]) -> _Box:
    x0, y0, x1, y1 = numbers
    return (1000 * x0 / size[0], 1000 * y0 / size[1], 1000 * x1 / size[0], 1000 * y1 / size[1])


def _swapped(numbers: _Box) -> _Box:
    y0, x0, y1, x1 = numbers
    return (x0, y0, x1, y1)


# First those that reply.py can read. The others belong to other model families; naming them explains a misfit.
CONVENTIONS: dict[str, Callable[[Answer], _Box]] = {
    "thousandths": lambda a: a.numbers,
    "resized_pixels": lambda a: _scaled(a.numbers, a.model_px),
    "original_pixels": lambda a: _scaled(a.numbers, a.picture_px),
    "unit": lambda a: _scaled(a.numbers, (1.0, 1.0)),
    "thousandths_y_first": lambda a: _swapped(a.numbers),
}
SUPPORTED = ("thousandths", "resized_pixels")


def render_pictures(count: int, seed: int) -> Iterator[Picture]:
    """Render frames of the tabletop for seeds seed, seed + 1, ...; each shows at least two objects well."""
    ranges, catalogue = load_scene(_SCENE)
    with robot_on_table(load_robot(ranges.robot)) as world:
        while count:
            rgb, seen = sample_of_seed(world, ranges, catalogue, seed)
            clear = sorted((s for s in seen if s.visible_px >= MIN_VISIBLE_PX), key=lambda s: -s.visible_px)
            if len(clear) >= 2:
                yield Picture(seed, rgb, clear)
                count -= 1
            seed += 1


def ask(reply: Callable[[PlannerRequest, str], RawReply], pictures: Sequence[Picture]) -> list[Answer]:
    """Ask for the most visible object of each picture; leave out replies without a usable box."""
    answers = []
    for picture in pictures:
        target = picture.seen[0]
        try:
            request = PlannerRequest(picture.rgb, Instruction(f"pick up the {target.label}"))
            answer = reply(request, target.label)
        except PlannerError:
            continue
        numbers = first_box(answer.text)
        if numbers is not None:
            size_px = (picture.rgb.shape[1], picture.rgb.shape[0])
            answers.append(Answer(numbers, _as_floats(target.box), size_px, answer.image_size_px))
    return answers


def first_box(text: str) -> _Box | None:
    """Parse the first box of a reply, unconverted; None without a box of four finite numbers."""
    try:
        numbers = _as_floats(raw_boxes(text)[0])
    except (PlannerError, ValueError, IndexError, TypeError):
        return None
    return numbers if all(math.isfinite(v) for v in numbers) else None


def _as_floats(values: Sequence[float]) -> _Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return (x0, y0, x1, y1)


def calibrate(answers: Sequence[Answer], asked: int) -> ConventionFit:
    """Find the convention with the largest overlap between answers and true boxes.

    Raises:
        PlannerError: no reply had a box.
    """
    if not answers:
        raise PlannerError(f"none of {asked} replies had a box; the model does not answer in this contract's form")
    true = [a.true for a in answers]
    iou = {
        name: float(np.median(intersection_over_union([read(a) for a in answers], true)))
        for name, read in CONVENTIONS.items()
    }
    best = max(iou, key=lambda name: iou[name])
    read, factor = CONVENTIONS[best], (1.0, 1.0)
    if best not in SUPPORTED or iou[best] < MIN_IOU:
        found = _factor(answers)
        scaled = functools.partial(_unscaled, factor=found)
        overlap = float(np.median(intersection_over_union([scaled(a) for a in answers], true)))
        if all(_LEAST_FACTOR <= k <= 1.0 / _LEAST_FACTOR for k in found) and overlap > max(iou[best], MIN_IOU) - _TIE:
            best, read, factor, iou["resized_pixels"] = "resized_pixels", scaled, found, overlap
    sides = [abs(p - t) for a in answers for p, t in zip(read(a), a.true, strict=True)]
    rounded = {k: round(v, 3) for k, v in iou.items()}
    return ConventionFit(best, rounded, round(median(sides), 1), asked, len(answers), factor)


def _unscaled(answer: Answer, factor: tuple[float, float]) -> _Box:
    """The box of an answer in pixels of a picture that the server scaled."""
    return _scaled(answer.numbers, (factor[0] * answer.model_px[0], factor[1] * answer.model_px[1]))


def _factor(answers: Sequence[Answer]) -> tuple[float, float]:
    """How many of the model's pixels are one of the picture that was sent, in x and y: the medians over all sides."""

    def along(axis: int) -> float:
        pairs = [(a.numbers[side], a.true[side], a.model_px[axis]) for a in answers for side in (axis, axis + 2)]
        ratios = [1000.0 * number / (true * px) for number, true, px in pairs if true >= _FAR_FROM_ZERO]
        return round(median(ratios), 3) if ratios else 0.0

    return along(0), along(1)
