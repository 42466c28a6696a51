"""Edges of depth and of colour → how far depth lies beside its colour, and how depth ends beside things.

An edge of depth is where something nearer hides what is behind it; the nearer side is exact even where the further one
has a gap. Lengths in pixels are those of a picture 640 px wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]
_Index = npt.NDArray[np.intp]

WIDTH_PX = 640  # of the picture whose pixels all lengths are in
ENOUGH_EDGES = 400  # pixels on depth edges; with fewer the shift was wrong by up to 3 px, with more by 1 px
CLEAR_PEAK = 0.03  # by so much more colour edges lie at the best shift than at any other that is 3 px away
_REACH_PX = 10  # the largest shift that is looked for
_GAP_PX = 24  # the widest gap over which an edge is looked for
_STEP_M = 0.012  # of depth from one side of an edge to the other; several deviations of a D435's noise
_COLOUR_STEP = 24  # levels of 255; a clearer edge of colour counts no more
_EVERY = 2  # rows, and columns, in which edges are looked for
_MOST = 500  # pixels of each direction that are looked at
_FEW = 15
_FLYING_RATIO = 0.012  # of depth, on both sides of a pixel: more than any surface that a camera still measures


@dataclass(frozen=True, slots=True)
class EdgesSeen:
    """What the edges of a frame say.

    Attributes:
        count: pixels on edges of depth.
        shift_px: (2,) how far depth lies to the right of and below its colour; None where that cannot be told.
        peak: how clearly that shift stands out, see CLEAR_PEAK.
        gap_px: mean width without depth beside an edge; None with too few edges.
        flying_ratio: pixels between two surfaces, for each pixel on an edge; None with too few edges.
    """

    count: int
    shift_px: tuple[float, float] | None = None
    peak: float = 0.0
    gap_px: float | None = None
    flying_ratio: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Edges across the rows of a picture: the boundary is between column and column + 1, the nearer side as said.

    Attributes:
        gap_px: pixels without depth between the two sides.
        flying: how many pixels lie between two surfaces.
    """

    row: _Index
    column: _Index
    is_nearer_left: npt.NDArray[np.bool_]
    gap_px: _Index
    flying: int


def see_edges(rgb: Picture, depth_m: Depth) -> EdgesSeen:
    """Compare edges of depth (h, w), NaN where missing, with edges of colour (h, w, 3)."""
    stride = max(1, round(rgb.shape[1] / WIDTH_PX))
    rgb, depth_m = np.ascontiguousarray(rgb[::stride, ::stride]), np.ascontiguousarray(depth_m[::stride, ::stride])
    scale = rgb.shape[1] / WIDTH_PX
    reach, gap = max(4, round(_REACH_PX * scale)), max(4, round(_GAP_PX * scale))
    across, down = _edges(depth_m, gap), _edges(np.ascontiguousarray(depth_m.T), gap)
    count = len(across.row) + len(down.row)
    if count <= ENOUGH_EDGES * scale:
        return EdgesSeen(count)
    gaps_px = np.concatenate([across.gap_px, down.gap_px]) / scale
    seen = EdgesSeen(count, None, 0.0, float(gaps_px.mean()), (across.flying + down.flying) / count)
    scores, counts = [], []
    for edges, axis in ((across, 1), (down, 0)):
        clear = np.pad(_colour_edges(rgb, axis), reach)
        for side in (edges.is_nearer_left, ~edges.is_nearer_left):
            row, column = (edges.row[side], edges.column[side]) if axis else (edges.column[side], edges.row[side])
            scores.append(_score(clear, row, column, reach))
            counts.append(len(row))
    return _with_shift(seen, np.array(scores), np.array(counts, float) / scale, scale)


def _edges(depth_m: Depth, most_gap: int) -> _Edges:
    """Find edges across rows: two measured pixels with nothing measured between them, one much nearer."""
    rows = depth_m[::_EVERY]
    height, width = rows.shape
    known, at = np.isfinite(rows), np.arange(width)
    here = np.minimum.accumulate(np.where(known, at, width)[:, ::-1], axis=1)[:, ::-1]
    after = np.concatenate([here[:, 1:], np.full((height, 1), width)], axis=1)  # the next measured column
    row, left = np.nonzero(known & (after - at <= most_gap + 1) & (after < width))
    right = after[row, left]
    left_m, right_m = rows[row, left], rows[row, right]
    step_m = right_m - left_m
    steep = np.abs(step_m) > _FLYING_RATIO * np.minimum(left_m, right_m)
    # One measured pixel after the other: steep on both sides the same way is between two surfaces.
    joined = (row[1:] == row[:-1]) & (right[:-1] == left[1:]) & (right[1:] - left[:-1] <= 6)
    flying = int((joined & steep[1:] & steep[:-1] & (np.sign(step_m[1:]) == np.sign(step_m[:-1]))).sum())
    is_edge = np.abs(step_m) > _STEP_M
    row, left, right, step_m = row[is_edge], left[is_edge], right[is_edge], step_m[is_edge]
    return _Edges(_EVERY * row, np.where(step_m > 0, left, right - 1), step_m > 0, right - left - 1, flying)


def _colour_edges(rgb: Picture, axis: int) -> Picture:
    """Say how clearly colour changes from each pixel to the next along an axis (h, w), 255 from _COLOUR_STEP on."""
    after, before = (rgb[:, 1:], rgb[:, :-1]) if axis else (rgb[1:], rgb[:-1])
    steps = cv2.absdiff(after, before)
    largest = np.maximum(np.maximum(steps[..., 0], steps[..., 1]), steps[..., 2])
    clear = np.zeros(rgb.shape[:2], np.uint8)
    clear[: largest.shape[0], : largest.shape[1]] = cv2.convertScaleAbs(largest, alpha=255.0 / _COLOUR_STEP)
    return clear


def _score(clear: Picture, row: _Index, column: _Index, reach: int) -> npt.NDArray[np.float64]:
    """Compute how much of the depth edges lies on colour edges at each shift (2 reach + 1, 2 reach + 1), 0 to 1."""
    side = 2 * reach + 1
    if not len(row):
        return np.zeros((side, side))
    chosen = np.linspace(0, len(row) - 1, min(len(row), _MOST)).astype(int)
    width, off = clear.shape[1], np.arange(side)
    first = row[chosen] * width + column[chosen]
    shifts = (off[:, None] * width + off).ravel()
    found = clear.ravel()[first[:, None] + shifts]
    return np.asarray(found.mean(axis=0).reshape(side, side) / 255.0)


def _with_shift(
    seen: EdgesSeen, scores: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], scale: float
) -> EdgesSeen:
    """Add the shift at which the four directions of edges agree; opposite ones weigh the same, so width cancels out."""
    weights = np.where(counts >= _FEW, np.minimum(counts, 200.0), 0.0)
    weights = np.repeat([min(weights[:2]), min(weights[2:])], 2)
    if not weights.min() > 0.0:
        return seen  # seen along one axis only, or on one side of things only
    total = np.tensordot(weights / weights.sum(), scores, axes=1).astype(np.float32)
    total = cv2.blur(total, (3, 3), borderType=cv2.BORDER_REPLICATE).astype(np.float32)
    reach = total.shape[0] // 2
    off = np.arange(-reach, reach + 1)
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(total)), total.shape))
    is_far = np.maximum(np.abs(off[:, None] - off[row]), np.abs(off - off[column])) > 2
    peak = float(total[row, column] - total[is_far].max())
    if peak < CLEAR_PEAK or max(abs(off[row]), abs(off[column])) == reach:
        return EdgesSeen(seen.count, None, peak, seen.gap_px, seen.flying_ratio)
    near = np.s_[row - 1 : row + 2], np.s_[column - 1 : column + 2]
    weight = np.maximum(total[near] - (np.median(total) + total[row, column]) / 2, 0.0)
    x, y = ((weight.sum(axis=a) * off[n]).sum() / weight.sum() for a, n in ((0, near[1]), (1, near[0])))
    return EdgesSeen(seen.count, (-float(x) / scale, -float(y) / scale), peak, seen.gap_px, seen.flying_ratio)
