"""Segments of a view → measured bodies, each on the table or on another body.

A shape never contradicts its points: what none explains is the hull around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import PerceptionError
from qwen2vl_robot.geometry import Array, invert, transform
from qwen2vl_robot.messages import SceneObject, Shape, Sphere, shape_size_m
from qwen2vl_robot.perception.fitting import Fit, Fitter, explained_cost_m, fit_solid
from qwen2vl_robot.perception.joining import same_material
from qwen2vl_robot.perception.rays import MISS_M
from qwen2vl_robot.perception.segments import ABOVE_TABLE_M, Segment, make_segment
from qwen2vl_robot.perception.solids import Solid
from qwen2vl_robot.perception.view import LevelledView, Mask
from qwen2vl_robot.reasons import PerceptionReason
from qwen2vl_robot.relations import is_round

_HIDDEN_M = 0.08  # a segment that starts lower stands on the table, its foot hidden; a higher one keeps its own height
_SUPPORT_SLACK_M = 0.014
_GOOD_OVERLAP = 0.85
_OUTSIDE_M = 0.006  # a shape leaves no more than a few points further outside: noise and smoothing give 1 to 4 mm
_OUTSIDE_SIGMAS = 3.0  # where the camera's noise is more than that
_OUTSIDE_RATIO = 0.02
_WELL_RATIO = 0.5  # of a cost: pieces that cost less than half are things of their own
_MAX_MISSING_RATIO = 0.1  # of a body's pixels with depth, in it or beside it and without
_HOLE_M = 0.02  # between measured parts: a smaller hole hides nothing of 4 cm, the smallest thing on the table
_SLIVER_PX = 5  # colour and depth of an edge are up to two pixels apart on each side
_FRINGE_RATIO = 0.0065  # of the picture's width: stereo shadow leaves 4 px of 640 on each side without depth
_ON_SURFACE_M, _ON_SURFACE_RATIO = 0.015, 0.7  # a piece of a wall lies so close to the fitted one, which lacks it
_CONTENT_M = 0.010


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
        return explains(self.best, self.segment)

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
    return _joined(view, bodies, everything)


def _joined(view: LevelledView, bodies: list[Body], everything: Mask) -> list[Body]:
    """Join a hollow body with pieces of its own wall: a front rim hides what is behind it from one of two imagers."""
    for hollow in [b for b in bodies if b.best.solid.is_hollow]:
        pieces = [b for b in bodies if b is not hollow and _is_piece(view, b.segment, hollow)]
        if pieces:
            mask = np.logical_or.reduce([b.segment.mask for b in (hollow, *pieces)])
            segment = make_segment(view, mask)
            assert segment is not None  # it has more pixels than before
            rest = [b for b in bodies if b is not hollow and b not in pieces]
            whole = measure(view, segment, everything, [b.best.solid for b in rest])
            if whole.best.cost_m < max(hollow.best.cost_m, explained_cost_m(segment)):
                bodies = [*rest, whole]
    return bodies


def _is_piece(view: LevelledView, segment: Segment, hollow: Body) -> bool:
    """Check whether a segment has a hollow body's colour and lies on its surface."""
    if not bool(same_material(segment.rgb, hollow.segment.rgb)):
        return False
    own = segment.measured & np.isfinite(view.smooth_m)
    predicted_m = hollow.best.solid.depth_m(view.origin_m, view.rays[own].astype(np.float64))
    return bool((np.abs(predicted_m - view.smooth_m[own]) < _ON_SURFACE_M).mean() > _ON_SURFACE_RATIO)


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


def explains(fit: Fit, segment: Segment) -> bool:
    """Check whether a solid explains a segment: silhouette and depth agree, and no points stick out of it."""
    if fit.cost_m >= explained_cost_m(segment) or fit.overlap <= _GOOD_OVERLAP:
        return False
    return not _sticks_out(fit.solid, segment)


def _sticks_out(solid: Solid, segment: Segment) -> bool:
    """Check whether measured points lie outside of a solid, both as measured and smoothed.

    Noise puts points outside as measured, and smoothing does at the edge of a small thing; what is there does both.
    """
    limit_m = max(_OUTSIDE_M, _OUTSIDE_SIGMAS * segment.noise_m)
    shape, T = solid.message()
    shares = [(outside_of(shape, T, points) > limit_m).mean() for points in (segment.smooth_m, segment.points_m)]
    return bool(min(shares) > _OUTSIDE_RATIO)


def outside_of(shape: Shape, T_base_object: Array, p_base_m: Array) -> Array:
    """Compute how far points (n, 3) lie outside of an upright shape (n,), metres; 0 for those inside."""
    own, half = transform(invert(T_base_object), p_base_m), np.array(shape_size_m(shape)) / 2
    if isinstance(shape, Sphere):
        return np.asarray(np.maximum(np.linalg.norm(own, axis=1) - half[0], 0.0))
    flat = np.hypot(own[:, :1], own[:, 1:2]) - half[0] if is_round(shape) else np.abs(own[:, :2]) - half[:2]
    beyond = np.column_stack([flat, np.abs(own[:, 2]) - half[2]])
    distance_m: Array = np.linalg.norm(np.maximum(beyond, 0.0), axis=1)
    return distance_m


def hide_held(view: LevelledView, held: SceneObject, margin_m: float = 0.025) -> None:
    """Mark the pixels of the held object as the robot's own."""
    rows, cols = np.nonzero((view.height_m > 0.004) & ~view.is_robot)
    points = view.origin_m + view.smooth_m[rows, cols, None] * view.rays[rows, cols]
    own = transform(invert(held.T_base_object), points)
    inside = (np.abs(own) < np.array(shape_size_m(held.shape)) / 2 + margin_m).all(axis=1)
    view.is_robot[rows[inside], cols[inside]] = True


def check_whole(label: str, segment: Segment, view: LevelledView) -> None:
    """Check that no large area without depth is in or beside a segment: it may be the other half of the thing.

    The area counts whatever its colour: what it shows may reach anywhere. A fringe of a few pixels is ordinary. So is a
    hole between measured parts of the thing, as dark things have them, if it is too small to hide anything.

    Raises:
        PerceptionError: "no_depth".
    """
    fringe_px = max(1, round(_FRINGE_RATIO * view.intrinsics.width_px))
    hole_px = round(_HOLE_M * view.intrinsics.fx_px / float(np.nanmedian(view.smooth_m[segment.measured])))
    side_px = max(segment.x1 - segment.x0, segment.y1 - segment.y0)
    h, w = view.depth_m.shape
    x0, y0 = max(segment.x0 - side_px, 0), max(segment.y0 - side_px, 0)
    window = np.s_[y0 : min(segment.y1 + side_px, h), x0 : min(segment.x1 + side_px, w)]
    known = np.isfinite(view.depth_m[window])
    measured = segment.measured[window] & known
    raised = measured & (view.height_m[window] > ABOVE_TABLE_M)  # what lies beside it may have its colour, too
    inner, missing = _between(raised), ~known & ~view.is_robot[window]
    near = cv2.dilate(segment.mask[window].astype(np.uint8), _square(2 * (fringe_px + 2) + 1)) > 0
    beside, inside = _wide(missing & ~inner, 2 * fringe_px + 1, near), _wide(missing & inner, hole_px, near)
    missing_ratio = (beside + inside) / max(int(measured.sum()), 1)
    if missing_ratio > _MAX_MISSING_RATIO:
        raise PerceptionError(
            f"in or beside {label!r} an area of {missing_ratio:.0%} of its size has no depth, at most "
            f"{_MAX_MISSING_RATIO:.0%} may: a part of it may be there",
            label=label,
            reason=PerceptionReason.NO_DEPTH,
        )


def _between(measured: Mask) -> Mask:
    """Mark what lies between measured pixels, of which slivers do not count: edges leave them on the far side."""
    spots = np.argwhere(cv2.morphologyEx(measured.astype(np.uint8), cv2.MORPH_OPEN, _square(_SLIVER_PX)))
    inner = np.zeros(measured.shape, np.uint8)
    if len(spots):
        cv2.fillConvexPoly(inner, cv2.convexHull(spots[:, ::-1].astype(np.int32)), 1)
    return inner > 0


def _wide(missing: Mask, least_px: int, near: Mask) -> int:
    """Count the pixels of areas that are at least so wide and high somewhere and come near."""
    wide = cv2.morphologyEx(missing.astype(np.uint8), cv2.MORPH_OPEN, _square(least_px))
    _, labels = cv2.connectedComponents(wide, connectivity=4)
    touching = np.setdiff1d(np.unique(labels[near & (wide > 0)]), [0])
    return int(np.isin(labels, touching).sum())


def _square(side_px: int) -> npt.NDArray[np.uint8]:
    return np.ones((side_px, side_px), np.uint8)


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
    is_well_explained = body.is_explained and body.best.cost_m < _WELL_RATIO * explained_cost_m(body.segment)
    if not is_well_explained and (apart := _split_apart(view, body, everything, bodies)):
        return apart
    if body.is_explained and not is_hollow:
        return []
    parts = (_split_content if is_hollow else _split_by_height)(view, body)
    if parts is None:
        return []
    below = [b.best.solid for b in bodies]
    lower = measure(view, parts[0], everything, below)
    split = [lower, measure(view, parts[1], everything, [*below, lower.best.solid])]
    return split if max(b.best.cost_m for b in split) < max(body.best.cost_m, explained_cost_m(body.segment)) else []


def _split_apart(view: LevelledView, body: Body, everything: Mask, bodies: list[Body]) -> list[Body]:
    """Split a segment of pieces that lie apart in the picture, where solids explain them, and none the whole as well.

    Pieces on both sides of something nearer may be one thing that it hides in part. What is hidden counts as occupied.
    """
    count, labels = cv2.connectedComponents(body.segment.mask.astype(np.uint8), connectivity=8)
    if count < 3:  # the background and one piece, which is measured already
        return []
    pieces = [make_segment(view, labels == number) for number in range(1, count)]
    below = [b.best.solid for b in bodies]
    split = [measure(view, piece, everything, below) for piece in pieces if piece is not None]
    if len(split) < 2 or not all(piece.is_explained for piece in split):
        return []
    most_m = max(piece.best.cost_m for piece in split)
    return split if not body.is_explained or most_m < _WELL_RATIO * body.best.cost_m else []


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
