"""An observation → everything in view, named by measured colour and shape, and how much of the table nobody sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import ImageBox, Intrinsics, Observation, Scene, SceneObject
from qwen2vl_robot.perception.bodies import Body, hide_held, measure_bodies
from qwen2vl_robot.perception.camera_check import work_area_m
from qwen2vl_robot.perception.fitting import Fit
from qwen2vl_robot.perception.grounding import held_object
from qwen2vl_robot.perception.labels import Words, contradiction, describe, is_clearly
from qwen2vl_robot.perception.posing import scene_object
from qwen2vl_robot.perception.segments import find_segments
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import LevelledView, Mask, make_view
from qwen2vl_robot.relations import outline_radius_m
from qwen2vl_robot.sides import Sides, sides_seen_from

_GRID_M = 0.01  # between the points of the table that are seen or not
_BELOW_M = 0.015  # depth that ends so far over the table does not show the table


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A thing in view.

    Attributes:
        label: colour and kind as measured ("red block").
        is_explained: whether a shape explains it well enough to be trusted.
        is_clear: whether it is, no other kind fits as well, and its colour has a name: of several that hold, the first.
        box: around it in the picture.
    """

    label: str
    is_explained: bool
    is_clear: bool
    object: SceneObject
    rgb: Array
    fits: list[Fit]
    box: ImageBox

    def may_be(self, label: str, words: Words) -> bool:
        """Whether nothing measured contradicts a label."""
        return contradiction(label, self.rgb, self.fits, words) is None

    def is_surely(self, label: str, words: Words) -> bool:
        """Whether a label is this thing's own, or a part of it, or fits as no other word does."""
        is_own = self.is_clear and set(label.split()) <= set(self.label.split())
        return is_own or (self.is_explained and is_clearly(label, self.rgb, self.fits, words))


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """What stands on the table.

    Attributes:
        items: from the left to the right of the picture.
        held: what the gripper holds, by what was measured when it was taken.
        hidden_ratio: share of the working area of the table that no camera shows and no measured thing covers.
        area_m: (2, 2) lowest and highest corner of that area.
    """

    items: tuple[Item, ...]
    held: SceneObject | None
    sides: Sides | None
    hidden_ratio: float
    area_m: Array


def take_stock(observation: Observation, surroundings: Surroundings, belief: Scene | None = None) -> Stock:
    """Measure everything in view, without any planner.

    Args:
        belief: the last scene; needed only while the gripper holds something.

    Raises:
        ObservationError: the frame cannot be used.
        PerceptionError: what the gripper holds was never measured.
    """
    view = make_view(observation, surroundings.kinematics, surroundings.profile)
    held = held_object(observation, surroundings.kinematics, belief)
    if held is not None:
        hide_held(view, held)
    bodies = sorted(measure_bodies(view, find_segments(view)), key=lambda body: (body.segment.x0, body.segment.y0))
    items = tuple(_item(body, surroundings.words, observation.frame.intrinsics) for body in bodies)
    corners_m = work_area_m(surroundings.profile)[:, :2]
    area_m: Array = np.array([corners_m.min(axis=0), corners_m.max(axis=0)])
    hidden_ratio = _hidden_ratio(view, [item.object for item in items], area_m)
    sides = sides_seen_from(surroundings.rules.seen_from, view.T_base_camera)
    return Stock(items, held, sides, hidden_ratio, area_m)


def clear_labels(observation: Observation, surroundings: Surroundings) -> tuple[str, ...]:
    """Name the things in view by colour and kind, where both are clear and no two things have the same name.

    A frame that cannot be measured shows nothing clearly.
    """
    try:
        view = make_view(observation, surroundings.kinematics, surroundings.profile)
        bodies = [body for body in measure_bodies(view, find_segments(view)) if body.is_explained]
    except (ObservationError, PerceptionError):
        return ()
    words = surroundings.words
    labels = [describe(body.segment.rgb, body.fits, words) for body in bodies]
    clear = [is_clearly(label, body.segment.rgb, body.fits, words) for label, body in zip(labels, bodies, strict=True)]
    return tuple(label for label, is_clear in zip(labels, clear, strict=True) if is_clear and labels.count(label) == 1)


def _item(body: Body, words: Words, k: Intrinsics) -> Item:
    label = describe(body.segment.rgb, body.fits, words)
    colour, kind = label.split()
    is_clear = body.is_explained and colour in words.colours and is_clearly(kind, body.segment.rgb, body.fits, words)
    u0, v0, u1, v1 = body.segment.extent_px
    box = ImageBox(1000 * u0 / k.width_px, 1000 * v0 / k.height_px, 1000 * u1 / k.width_px, 1000 * v1 / k.height_px)
    return Item(label, body.is_explained, is_clear, scene_object(label, body), body.segment.rgb, body.fits, box)


def _hidden_ratio(view: LevelledView, objects: list[SceneObject], area_m: Array) -> float:
    """Compute the share of the area's points that are out of the picture, without depth, or behind something."""
    (x0, y0), (x1, y1) = area_m
    grid = np.stack(np.meshgrid(np.arange(x0, x1, _GRID_M), np.arange(y0, y1, _GRID_M)), axis=-1).reshape(-1, 2)
    points_m = np.column_stack([grid, np.zeros(len(grid))])
    pixels = np.round(view.project(points_m)).astype(int)
    h, w = view.smooth_m.shape
    is_inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < w) & (pixels[:, 1] >= 0) & (pixels[:, 1] < h)
    u, v = np.clip(pixels[:, 0], 0, w - 1), np.clip(pixels[:, 1], 0, h - 1)
    with np.errstate(invalid="ignore"):
        is_seen = is_inside & (view.height_m[v, u] < _BELOW_M) & ~view.is_robot[v, u]
    for body in objects:  # what stands somewhere is seen, though it hides the table under it
        is_seen |= _covers(body, grid)
    return float(1.0 - is_seen.mean()) if len(grid) else 1.0


def _covers(body: SceneObject, p_base_m: Array) -> Mask:
    """Which points (n, 2) of the table lie within the outline's circle of a body."""
    off_m: Array = np.linalg.norm(p_base_m - body.T_base_object[:2, 3], axis=1)
    covered: Mask = off_m <= outline_radius_m(body.shape)
    return covered
