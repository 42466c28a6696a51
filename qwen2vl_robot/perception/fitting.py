"""A segment and the height it stands on → the solids that fit its silhouette and depth best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.perception.joining import largest_piece, same_material
from qwen2vl_robot.perception.segments import Segment
from qwen2vl_robot.perception.solids import (
    FOOT_RATIO,
    BowlSolid,
    BoxSolid,
    CylinderSolid,
    Solid,
    SphereSolid,
    TraySolid,
)
from qwen2vl_robot.perception.view import LevelledView

Bytes = npt.NDArray[np.uint8]

_FLAT_M = 0.004  # over the table: what shows less is the table
_THINNEST_M = 0.006  # smallest size of a solid to start a search from
_FACE_M, _FACE_PX = 0.004, 30  # what lies this near to the top is the upper face, if it is so many points
_PAD_PX = 24
_RAYS = 240
_EDGE_PX = 2
_CLIP_M = 0.015
_SILHOUETTE_WEIGHT_M = 0.060  # 1 % of missed silhouette weighs as much as 0.6 mm of mean depth error
_HOLLOW_DEPTH_M = 0.010
_SHIFT = 4
EXPLAINED_COST_M = 0.0065  # the right solid costs 2 to 5 mm, a wrong one 4 to 14 mm more
_QUIET_M = 0.001  # of smoothed depth's noise; the ideal camera has 0.5 mm: beyond it the right solid costs more, too
_MEAN_OF_SIGMA = 0.8  # the mean of what is normally distributed, without sign, over its deviation
_BORDER_PX = 0.5
_FAR_PX = 2000.0  # far enough from every picture, and not beyond what OpenCV can draw
_HIDING = 200
_HIDING_SLACK_M = 0.0025
_TURNS = 4
_ROUGH_MARGIN_M, _FINE_MARGIN_M = 0.012, 0.004


@dataclass(frozen=True, slots=True)
class Fit:
    """A solid and how well it explains a segment.

    Attributes:
        cost_m: combined error of silhouette and depth; 2 to 5 mm for the right solid.
        overlap: intersection over union of the silhouettes, without pixels where another body hides the segment.
        depth_error_m: mean clipped depth error; the sensor's noise alone gives 1.6 mm.
    """

    solid: Solid
    cost_m: float
    overlap: float
    depth_error_m: float


class Fitter:
    """Scores solids against one segment of one view."""

    def __init__(self, view: LevelledView, segment: Segment, others: npt.NDArray[np.bool_]) -> None:
        """Prepare one segment; `others` marks (h, w) pixels of anything else above the table that may hide it."""
        h, w = view.depth_m.shape
        self.view, self.segment = view, segment
        self.x0, self.y0 = max(segment.x0 - _PAD_PX, 0), max(segment.y0 - _PAD_PX, 0)
        self.x1, self.y1 = min(segment.x1 + _PAD_PX, w), min(segment.y1 + _PAD_PX, h)
        window = np.s_[self.y0 : self.y1, self.x0 : self.x1]
        mine, smooth_m, rays = segment.mask[window], view.smooth_m[window], view.rays[window]
        hiding = others[window] & ~mine & np.isfinite(smooth_m)
        self.hiding_m = np.where(hiding, smooth_m, np.float32(np.inf))  # depth of what may hide this segment
        self.is_mine = mine
        is_flat = np.isfinite(view.depth_m[window]) & (view.height_m[window] < _FLAT_M)
        may_be_mine = ~is_flat & same_material(view.rgb[window].astype(np.float64), segment.rgb)
        self._corner_px = np.array([self.x0, self.y0], np.float64)
        self._is_free = ~(mine | others[window] | may_be_mine)  # table or nothing: a solid must not cover it
        self._canvas: Bytes = np.zeros(mine.shape, np.uint8)
        self._mine_count = int(np.count_nonzero(mine))
        chosen = _sample(_core(segment.measured[window] & np.isfinite(view.depth_m[window])), _RAYS)
        self.rays, self.measured_m = rays.reshape(-1, 3)[chosen].astype(np.float64), _at(view.depth_m[window], chosen)
        self._hiding_spots = _sample(hiding, _HIDING)
        self._hiding_weight = int(np.count_nonzero(hiding)) / max(len(self._hiding_spots), 1)
        self._hiding_rays = rays.reshape(-1, 3)[self._hiding_spots].astype(np.float64)
        self._hiding_m = _at(smooth_m, self._hiding_spots)

    def score(self, solid: Solid) -> Fit:
        """Score one solid against the segment."""
        if not solid.is_sound:
            return Fit(solid, 1.0, 0.0, _CLIP_M)
        overlap = self._overlap(solid)
        error_m = self.errors_m(solid)
        depth_error_m = float(np.minimum(np.abs(error_m), _CLIP_M).mean()) if len(error_m) else _CLIP_M
        return Fit(solid, (1.0 - overlap) * _SILHOUETTE_WEIGHT_M + depth_error_m, overlap, depth_error_m)

    def errors_m(self, solid: Solid) -> Array:
        """Compute measured minus predicted optical depth (n,) for a sample of the segment's pixels."""
        return self.measured_m - solid.depth_m(self.view.origin_m, self.rays)

    def refine(self, fit: Fit, *, free: Iterable[str] | None = None, rounds: int = 3) -> Fit:
        """Search around a fit with shrinking steps along the free parameters (by default all)."""
        steps = fit.solid.steps
        varied = tuple(steps if free is None else free)
        best = fit
        for scale in (1.0, 0.4, 0.16)[:rounds]:
            for _ in range(4):
                before = best.cost_m
                for parameter in varied:
                    best = self._line(best, parameter, steps[parameter] * scale)
                if before - best.cost_m < 2e-5:
                    break
        return best

    def _line(self, best: Fit, parameter: str, step: float) -> Fit:
        for sign in (1.0, -1.0):
            moved = False
            for _ in range(3):
                trial = self.score(best.solid.moved(parameter, sign * step))
                if trial.cost_m >= best.cost_m - 1e-7:
                    break
                best, moved = trial, True
            if moved:
                break
        return best

    def _overlap(self, solid: Solid) -> float:
        pixels = self.view.project(solid.outline_m(self.view.origin_m)) - self._corner_px
        # fillConvexPoly also fills pixels that the border only touches: shrink the outline by half a pixel.
        arm = pixels - pixels.sum(axis=0) / len(pixels)
        pixels -= _BORDER_PX * arm / (np.hypot(arm[:, :1], arm[:, 1:]) + 1e-9)
        pixels = np.minimum(np.maximum(pixels, -_FAR_PX), _FAR_PX)
        hull = cv2.convexHull(np.rint(pixels * (1 << _SHIFT)).astype(np.int32))
        self._canvas[:] = 0
        cv2.fillConvexPoly(self._canvas, hull, 1, lineType=cv2.LINE_8, shift=_SHIFT)
        drawn = self._canvas.view(bool)
        both = int(np.count_nonzero(drawn & self.is_mine))
        wrong = int(np.count_nonzero(drawn & self._is_free)) + self._uncovered(solid, drawn)
        return both / max(self._mine_count + wrong, 1)

    def _uncovered(self, solid: Solid, drawn: npt.NDArray[np.bool_]) -> float:
        """Estimate how many visible pixels of other bodies the solid would wrongly hide."""
        covered = drawn.ravel()[self._hiding_spots]
        if not covered.any():
            return 0.0
        predicted_m = solid.depth_m(self.view.origin_m, self._hiding_rays[covered])
        return float(np.count_nonzero(predicted_m < self._hiding_m[covered] - _HIDING_SLACK_M)) * self._hiding_weight


def explained_cost_m(segment: Segment) -> float:
    """The largest cost of a solid that explains a segment; noise that is correlated shifts all of a small thing."""
    return EXPLAINED_COST_M + _MEAN_OF_SIGMA * max(segment.noise_m - _QUIET_M, 0.0)


def fit_solid(fitter: Fitter, bottom_m: float) -> list[Fit]:
    """Fit every kind of solid that may match a segment and stands at `bottom_m`; the best first."""
    segment = fitter.segment
    points = segment.smooth_m
    top_m = _top(segment)
    height_m = max(top_m - bottom_m, _THINNEST_M)
    floor_xy, count = _footprint(fitter, bottom_m, top_m)
    starts = _start_prisms(floor_xy, count, bottom_m, height_m)
    if np.isfinite(fitter.hiding_m).any():
        # The footprint counts what is hidden as covered, so it is too large; the upper face is seen or too small.
        face = points[np.abs(points[:, 2] - top_m) < _FACE_M]
        shown = face if len(face) >= _FACE_PX else points
        starts += _start_prisms(shown[:, :2], 0, bottom_m, height_m)
        starts += _start_turned(shown[:, :2], bottom_m, height_m)
    starts.append(_start_sphere(segment.points_m, bottom_m, height_m))
    hollow = _start_hollow(points, bottom_m, top_m)
    starts += hollow
    fits = sorted((fitter.score(s) for s in starts), key=lambda f: f.cost_m)
    fits = _refine_near(fitter, fits, _ROUGH_MARGIN_M, rounds=1)
    fits = _refine_near(fitter, fits, _FINE_MARGIN_M, rounds=3)
    return fits if fits[0].cost_m < explained_cost_m(segment) else _refine_near(fitter, fits, np.inf, rounds=3)


def _refine_near(fitter: Fitter, fits: list[Fit], margin_m: float, rounds: int) -> list[Fit]:
    """Refine the best fit and those that might still beat it; the best first."""
    best = fitter.refine(fits[0], rounds=rounds)
    rest = [fitter.refine(f, rounds=rounds) if f.cost_m < best.cost_m + margin_m else f for f in fits[1:]]
    return sorted([best, *rest], key=lambda f: f.cost_m)


def _core(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Leave out a mask's border, where colour and depth may lie beside each other, unless little else is there."""
    core = cv2.erode(mask.astype(np.uint8), np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8), borderValue=0) > 0
    return core if np.count_nonzero(core) > 0.4 * np.count_nonzero(mask) else mask


def _sample(mask: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.intp]:
    """Choose flat indices of at most `count` pixels, spread evenly over a mask."""
    chosen = np.flatnonzero(mask)
    return np.asarray(chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), count)).astype(int)])


def _at(image: npt.NDArray[np.float32], spots: npt.NDArray[np.intp]) -> Array:
    return image.ravel()[spots].astype(np.float64)


def _top(segment: Segment) -> float:
    """Estimate the height of the upper face: the mean of the points close to the highest smoothed ones."""
    z = segment.smooth_m[:, 2]
    high = float(np.percentile(z, 97.0))
    near = segment.points_m[np.abs(segment.points_m[:, 2] - high) < 0.004, 2]
    return float(np.mean(near)) if len(near) > 20 else high


def _footprint(fitter: Fitter, bottom_m: float, top_m: float) -> tuple[Array, int]:
    """Estimate the footprint of an upright prism: points (n, 2) in the base frame and its area in mm^2.

    A grid point belongs to it if the segment covers both its top and its bottom in the image, where a hidden end
    counts as covered. Without such points, return all points and area 0.
    """
    xy = fitter.segment.smooth_m[:, :2]
    low, high = xy.min(axis=0) - 0.01, xy.max(axis=0) + 0.01
    step = max(0.0015, float((high - low).max()) / 80)
    gx, gy = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step), indexing="ij")
    spots = np.column_stack([gx.ravel(), gy.ravel()])
    (upper, hidden_up), (lower, hidden_low) = (
        _look_up(fitter, np.column_stack([spots, np.full(len(spots), z)])) for z in (top_m, bottom_m)
    )
    inside = (upper | hidden_up) & (lower | hidden_low) & (upper | lower)
    footprint = spots[largest_piece(inside.reshape(gx.shape)).ravel()]
    if not len(footprint):
        return xy, 0
    return footprint, round(len(footprint) * step * step * 1e6)


def _look_up(fitter: Fitter, p_base_m: Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Check which points (n, 3) the segment covers in the image, and which a nearer body or the image border hides."""
    pixels = np.round(fitter.view.project(p_base_m)).astype(int)
    x, y = pixels[:, 0] - fitter.x0, pixels[:, 1] - fitter.y0
    h, w = fitter.is_mine.shape
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    mine = np.zeros(len(pixels), bool)
    mine[inside] = fitter.is_mine[y[inside], x[inside]]
    image_h, image_w = fitter.view.depth_m.shape
    hidden = (pixels[:, 0] < 0) | (pixels[:, 0] >= image_w) | (pixels[:, 1] < 0) | (pixels[:, 1] >= image_h)
    depth_m = (p_base_m[inside] - fitter.view.origin_m) @ fitter.view.T_base_camera[:3, 2]
    hidden[inside] = fitter.hiding_m[y[inside], x[inside]] < depth_m - _HIDING_SLACK_M
    return mine, hidden


def _start_prisms(xy_m: Array, area_mm2: int, bottom_m: float, height_m: float) -> list[Solid]:
    (cx, cy), (sx, sy), angle_deg = cv2.minAreaRect((xy_m * 1000).astype(np.float32))
    middle = xy_m.mean(axis=0)
    area_m2 = area_mm2 * 1e-6 if area_mm2 else (sx * sy) * 1e-6
    diameter_m = float(2 * np.sqrt(area_m2 / np.pi))
    sides_m = (max(sx / 1000, _THINNEST_M), max(sy / 1000, _THINNEST_M))
    return [
        BoxSolid(bottom_m, cx / 1000, cy / 1000, float(np.deg2rad(angle_deg)), *sides_m, height_m),
        CylinderSolid(bottom_m, float(middle[0]), float(middle[1]), max(diameter_m, _THINNEST_M), height_m),
    ]


def _start_turned(xy_m: Array, bottom_m: float, height_m: float) -> list[Solid]:
    """Start square boxes at several turns: of a face whose corners are hidden, the smallest rectangle lies askew."""
    (cx, cy), (sx, sy), _ = cv2.minAreaRect((xy_m * 1000).astype(np.float32))
    side_m = max(min(sx, sy) / 1000, _THINNEST_M)
    turns_rad = np.arange(_TURNS) * (np.pi / 2 / _TURNS)
    return [BoxSolid(bottom_m, cx / 1000, cy / 1000, float(a), side_m, side_m, height_m) for a in turns_rad]


def _start_sphere(points_m: Array, bottom_m: float, height_m: float) -> Solid:
    """Fit a sphere by least squares of |p - c|^2 = r^2; the known bottom (c_z = bottom + r) makes it linear."""
    p = points_m - [0.0, 0.0, bottom_m]
    # x^2 + y^2 + z^2 = 2 cx x + 2 cy y + 2 r z - (cx^2 + cy^2)
    design, squares = np.column_stack([2 * p, np.ones(len(p))]), (p**2).sum(axis=1)
    chosen = np.ones(len(p), bool)
    for _ in range(3):  # a few pixels of the background at the rim would pull the sphere away
        x, y, r, _rest = np.linalg.lstsq(design[chosen], squares[chosen], rcond=None)[0]
        off_m = np.abs(np.linalg.norm(p - [x, y, r], axis=1) - r)
        chosen = off_m <= max(2.5 * float(np.median(off_m)), 0.003)
    diameter_m = float(np.clip(2 * r, 0.6 * height_m, 1.4 * height_m))
    return SphereSolid(bottom_m, float(x), float(y), diameter_m)


def _start_hollow(points_m: Array, bottom_m: float, top_m: float) -> list[Solid]:
    """Propose a bowl and a tray if the middle lies well below the rim, else nothing."""
    height_m = top_m - bottom_m
    rim = points_m[points_m[:, 2] > top_m - 0.25 * height_m]
    if height_m < 0.02 or len(rim) < 30:
        return []
    (cx, cy), (sx, sy), angle_deg = cv2.minAreaRect((rim[:, :2] * 1000).astype(np.float32))
    centre, size = np.array([cx, cy]) / 1000, np.array([sx, sy]) / 1000
    if min(size) < 0.03 or min(size) < 0.5 * max(size):
        return []
    offset = np.hypot(*(points_m[:, :2] - centre).T)
    inside = points_m[offset < 0.36 * float(size.mean()), 2]
    if len(inside) < 20 or np.median(inside) > top_m - max(_HOLLOW_DEPTH_M, 0.25 * height_m):
        return []
    if (inside < top_m - _HOLLOW_DEPTH_M).mean() < 0.6:
        return []
    x, y = float(centre[0]), float(centre[1])
    return [
        BowlSolid(bottom_m, x, y, float(size.mean()), height_m, FOOT_RATIO),
        TraySolid(bottom_m, x, y, float(np.deg2rad(angle_deg)), float(size[0]), float(size[1]), height_m),
    ]
