"""Segments of a view → measured bodies, each on the table or on another body."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from qwen2vl_robot.geometry import Array, invert, make_pose, rotation_z, transform
from qwen2vl_robot.messages import Box, SceneObject, Shape, shape_size_m
from qwen2vl_robot.perception.fitting import EXPLAINED_COST_M, Fit, Fitter, fit_solid
from qwen2vl_robot.perception.rays import MISS_M
from qwen2vl_robot.perception.segments import Segment, make_segment
from qwen2vl_robot.perception.solids import Solid
from qwen2vl_robot.perception.view import LevelledView, Mask

_HIDDEN_M = 0.08  # a segment that starts lower stands on the table, its foot hidden; a higher one keeps its own height
_SUPPORT_SLACK_M = 0.014
_GOOD_OVERLAP = 0.85
_GROWTH_M = 0.004
_CONTENT_M = 0.010
_LOOSE_GROWTH_M = 0.010


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A segment and the solids that may explain it, the best fit first."""

    segment: Segment
    fits: list[Fit]

    @property
    def best(self) -> Fit:
        return self.fits[0]

    @property
    def is_explained(self) -> bool:
        """Whether the best solid explains the picture well enough to be trusted."""
        return self.best.cost_m < EXPLAINED_COST_M and self.best.overlap > _GOOD_OVERLAP

    @property
    def volume_m3(self) -> float:
        return float(np.prod(shape_size_m(self.best.solid.message()[0])))


def measure_bodies(view: LevelledView, segments: list[Segment]) -> list[Body]:
    """Fit every segment, the lowest first, so that a support is measured before what stands on it."""
    everything = cover(view, segments)
    bodies: list[Body] = []
    for segment in sorted(segments, key=lambda s: (s.low_m, s.high_m)):
        body = measure(view, segment, everything, [b.best.solid for b in bodies])
        bodies += _split(view, body, everything, bodies) or [body]
    return bodies


def cover(view: LevelledView, segments: list[Segment]) -> Mask:
    """Mark the pixels (h, w) of the robot and of every segment."""
    everything = view.is_robot.copy()
    for segment in segments:
        everything |= segment.mask
    return everything


def measure(view: LevelledView, segment: Segment, everything: Mask, below: list[Solid]) -> Body:
    """Fit one segment; it stands on the table or on one of the solids in `below`."""
    fitter = Fitter(view, segment, everything & ~segment.mask)
    return Body(segment, fit_solid(fitter, bottom_of(segment, below)))


def bottom_of(segment: Segment, below: list[Solid]) -> float:
    """Find the height on which a segment stands: a body under its middle, else the table, else its own lowest point."""
    middle = np.median(segment.smooth_m, axis=0)
    tops = [s.support_m for s in below if s.covers(middle[:2])]
    tops = [t for t in tops if t <= segment.low_m + _SUPPORT_SLACK_M]
    if tops:
        return max(tops)
    return 0.0 if segment.low_m < _HIDDEN_M else segment.low_m


def scene_object(name: str, body: Body, fit: Fit | None = None) -> SceneObject:
    """Turn a body into a named object."""
    shape, T = (fit or body.best).solid.message()
    return SceneObject(name, shape, _frozen(T), rgb=_colour(body.segment))


def obstacle(name: str, body: Body) -> SceneObject:
    """Turn an unnamed body into an obstacle, slightly grown if it stands on the table.

    A body that no solid explains becomes a block around all its points.
    """
    if not body.is_explained:
        return SceneObject(name, *_block_around(body.segment), rgb=_colour(body.segment))
    solid = body.best.solid
    grown = solid if solid.bottom_m > 0.0 else solid.grown(_GROWTH_M)
    return SceneObject(name, *_posed(grown), rgb=_colour(body.segment))


def name_obstacles(bodies: list[Body]) -> tuple[SceneObject, ...]:
    """Name the obstacles "obstacle 1", "obstacle 2" ... by their distance from the base."""
    ordered = sorted(bodies, key=lambda b: math.hypot(b.best.solid.x_m, b.best.solid.y_m))
    return tuple(obstacle(f"obstacle {i}", body) for i, body in enumerate(ordered, start=1))


def hide_held(view: LevelledView, held: SceneObject, margin_m: float = 0.025) -> None:
    """Mark the pixels of the held object as the robot's own."""
    rows, cols = np.nonzero((view.height_m > 0.004) & ~view.is_robot)
    points = view.origin_m + view.smooth_m[rows, cols, None] * view.rays[rows, cols]
    own = transform(invert(held.T_base_object), points)
    inside = (np.abs(own) < np.array(shape_size_m(held.shape)) / 2 + margin_m).all(axis=1)
    view.is_robot[rows[inside], cols[inside]] = True


def is_empty_space(view: LevelledView, expected: SceneObject) -> bool:
    """Check whether the camera measures depth behind the place where an object should be."""
    half = np.array(shape_size_m(expected.shape)) / 2
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    spots = transform(expected.T_base_object, grid * half)
    pixels = np.round(view.project(spots)).astype(int)
    h, w = view.depth_m.shape
    seen = (pixels[:, 0] >= 0) & (pixels[:, 0] < w) & (pixels[:, 1] >= 0) & (pixels[:, 1] < h)
    if seen.sum() < 40:
        return False
    depth_m = (invert(view.T_base_camera) @ np.column_stack([spots, np.ones(len(spots))]).T)[2]
    measured_m = view.smooth_m[pixels[seen, 1], pixels[seen, 0]]
    with np.errstate(invalid="ignore"):
        return bool((measured_m > depth_m[seen] + 0.02).mean() > 0.8)


def _split(view: LevelledView, body: Body, everything: Mask, bodies: list[Body]) -> list[Body]:
    """Split a segment that is really two bodies of one colour; an empty list if it is not."""
    is_hollow = body.best.solid.is_hollow
    if body.is_explained and not is_hollow:
        return []
    parts = (_split_content if is_hollow else _split_by_height)(view, body)
    if parts is None:
        return []
    below = [b.best.solid for b in bodies]
    lower = measure(view, parts[0], everything, below)
    split = [lower, measure(view, parts[1], everything, [*below, lower.best.solid])]
    return split if max(b.best.cost_m for b in split) < max(body.best.cost_m, EXPLAINED_COST_M) else []


def _split_content(view: LevelledView, body: Body) -> tuple[Segment, Segment] | None:
    """Cut out what stands inside a container of its own colour: it is nearer than the floor and wall behind it."""
    s = body.segment
    window = np.s_[s.y0 : s.y1, s.x0 : s.x1]
    mask = s.mask[window] & np.isfinite(view.smooth_m[window])
    predicted_m = body.best.solid.depth_m(view.origin_m, view.rays[window][mask].astype(np.float64))
    nearer = np.zeros(mask.shape, np.uint8)
    nearer[mask] = view.smooth_m[window][mask] < np.where(predicted_m < MISS_M, predicted_m, 0.0) - _CONTENT_M
    inner = np.zeros_like(s.mask)
    inner[window] = cv2.morphologyEx(nearer, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    return _parts(view, s.mask & ~inner, inner)


def _split_by_height(view: LevelledView, body: Body) -> tuple[Segment, Segment] | None:
    """Cut a segment of one colour into a wide low face and what stands on it, if there is such a face."""
    segment = body.segment
    z = segment.smooth_m[:, 2]
    counts, edges = np.histogram(z, bins=np.arange(0.006, max(segment.high_m - 0.012, 0.008), 0.002))
    if not len(counts) or counts.max() < 0.12 * len(z):
        return None
    plateau_m = float(edges[int(np.argmax(counts))] + 0.001)
    with np.errstate(invalid="ignore"):
        upper = segment.mask & (view.height_m > plateau_m + 0.005)
    upper = cv2.morphologyEx(upper.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    return _parts(view, segment.mask & ~upper, upper)


def _parts(view: LevelledView, lower: Mask, upper: Mask) -> tuple[Segment, Segment] | None:
    first, second = make_segment(view, lower), make_segment(view, upper)
    return None if first is None or second is None else (first, second)


def _block_around(segment: Segment) -> tuple[Shape, Array]:
    (cx, cy), (sx, sy), angle_deg = cv2.minAreaRect((segment.smooth_m[:, :2] * 1000).astype(np.float32))
    height_m = max(float(segment.smooth_m[:, 2].max()), 0.0) + _LOOSE_GROWTH_M / 2
    size = (sx / 1000 + _LOOSE_GROWTH_M, sy / 1000 + _LOOSE_GROWTH_M, height_m)
    return Box(size), _frozen(make_pose([cx / 1000, cy / 1000, height_m / 2], rotation_z(float(np.deg2rad(angle_deg)))))


def _posed(solid: Solid) -> tuple[Shape, Array]:
    shape, T = solid.message()
    return shape, _frozen(T)


def _frozen(T: Array) -> Array:
    T.setflags(write=False)
    return T


def _colour(segment: Segment) -> tuple[float, float, float]:
    return (float(segment.rgb[0]), float(segment.rgb[1]), float(segment.rgb[2]))
