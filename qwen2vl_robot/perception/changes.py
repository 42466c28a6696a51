"""Two views of one standing camera, and the bodies that were to move → what else changed, and what is hidden now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from qwen2vl_robot.geometry import Array, invert, transform
from qwen2vl_robot.messages import SceneObject, shape_size_m
from qwen2vl_robot.perception.view import Float32, LevelledView, Mask, deviation_of

_CHANGE_M = 0.008  # of smoothed depth, less than a plate is high; at least
_CHANGE_SIGMAS = 5.0  # of the difference of two views, where that is more; at 4 a still scene changed in 8 of 252 pairs
_SAMPLE_PX = 4
_WIDTH_M = 0.007  # narrower changes are edges: of a pixel or two, and of fits that are some millimetres off
_AREA_M2 = 1.5e-4  # smaller ones are noise; a thing of 4 cm that moves by 1 cm changes 2 to 4 cm²
_ROOM_M = 0.015  # around the fitted shape of a body that was to move: fits are good to some millimetres
_OWN_M = 0.008  # around a body's shape for the pixels that show it


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A patch of the picture whose depth changed though nothing that was to move explains it.

    Attributes:
        is_gone: something was nearer there before; otherwise something is nearer now.
        p_base_m: (3,) its middle: of what was there before, or of what is there now.
        area_m2: its size across the line of sight.
    """

    is_gone: bool
    p_base_m: Array
    area_m2: float


def unexplained(
    before: LevelledView, after: LevelledView, left: Sequence[SceneObject] = (), arrived: Sequence[SceneObject] = ()
) -> list[Change]:
    """Find what changed where the arm can come, the largest first, apart from the arm.

    Args:
        left: bodies, where they were, that were to move from there.
        arrived: bodies, where they are now, that were to come there.
    """
    was_m, is_m = before.smooth_m, after.smooth_m
    with np.errstate(invalid="ignore"):
        step_m = is_m - was_m
        changed = (np.abs(step_m) > _least_m(before, after)) & ~before.is_robot & ~after.is_robot
    rows, cols = np.nonzero(changed)
    old_m = before.origin_m + was_m[rows, cols, None] * before.rays[rows, cols]
    new_m = after.origin_m + is_m[rows, cols, None] * after.rays[rows, cols]
    excused = inside_any(old_m, left, _ROOM_M) | inside_any(new_m, arrived, _ROOM_M)
    is_gone = step_m[rows, cols] > 0.0
    shown_m = np.where(is_gone[:, None], old_m, new_m)
    counts = ~excused & ((shown_m > after.region_m[0]) & (shown_m < after.region_m[1])).all(axis=1)
    found = []
    for gone in (True, False):
        chosen = counts & (is_gone == gone)
        found += _patches(after, rows[chosen], cols[chosen], shown_m[chosen], is_gone=gone)
    return sorted(found, key=lambda change: -change.area_m2)


def _least_m(before: LevelledView, after: LevelledView) -> Float32:
    """The least step (h, w) of depth that is a change and no noise; of what is nearer in one view its noise counts.

    The noise of a step is what most pixels show: most of a picture stands still, and errors that last cancel out. Where
    most of it moved, the bound of noise keeps that from passing for noise.
    """
    square_m2 = np.fmin(before.smooth_m, after.smooth_m) ** 2
    part = np.s_[::_SAMPLE_PX, ::_SAMPLE_PX]
    noise_ratio = deviation_of((after.smooth_m[part] - before.smooth_m[part]) / square_m2[part])
    return np.maximum(np.float32(_CHANGE_M), np.float32(_CHANGE_SIGMAS * noise_ratio) * square_m2)


def inside_any(points_m: Array, bodies: Sequence[SceneObject], room_m: float) -> Mask:
    """Mark the points (n, 3) in the box of some body, enlarged on all sides."""
    inside = np.zeros(len(points_m), bool)
    for body in bodies:
        own = np.abs(transform(invert(body.T_base_object), points_m))
        inside |= (own < np.array(shape_size_m(body.shape)) / 2 + room_m).all(axis=1)
    return inside


def _patches(view: LevelledView, rows: Array, cols: Array, points_m: Array, *, is_gone: bool) -> list[Change]:
    """Join pixels to patches and drop what is narrow or small."""
    if not len(rows):
        return []
    mask = np.zeros(view.depth_m.shape, np.uint8)
    mask[rows, cols] = 1
    pitch_m = float(np.median(np.linalg.norm(points_m - view.origin_m, axis=1))) / view.intrinsics.fx_px
    width_px = max(3, round(_WIDTH_M / pitch_m))
    core = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((width_px, width_px), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
    at = labels[rows, cols]
    found = []
    for label in range(1, len(stats)):
        area_m2 = float(stats[label, cv2.CC_STAT_AREA]) * pitch_m**2
        if area_m2 > _AREA_M2:
            found.append(Change(is_gone, np.median(points_m[at == label], axis=0), area_m2))
    return found


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of the pixels that showed a body.

    Attributes:
        shown_px: how many pixels showed it before.
        same_ratio: share of them that shows the same now.
        hidden_ratio: share of them that something nearer covers now, or that have no depth.
    """

    shown_px: int
    same_ratio: float
    hidden_ratio: float


def trace(before: LevelledView, after: LevelledView, body: SceneObject) -> Trace:
    """Compare the pixels that showed a body before with what they show now."""
    rows, cols = np.nonzero((before.height_m > 0.004) & ~before.is_robot)
    points_m = before.origin_m + before.smooth_m[rows, cols, None] * before.rays[rows, cols]
    shows = inside_any(points_m, (body,), _OWN_M)
    rows, cols = rows[shows], cols[shows]
    if not len(rows):
        return Trace(0, 0.0, 1.0)
    was_m, is_m = before.smooth_m[rows, cols], after.smooth_m[rows, cols]
    with np.errstate(invalid="ignore"):
        same = np.abs(is_m - was_m) <= _least_m(before, after)[rows, cols]
        hidden = ~same & ~(is_m > was_m)
    hidden |= after.is_robot[rows, cols] & ~same
    return Trace(len(rows), float(same.mean()), float(hidden.mean()))
