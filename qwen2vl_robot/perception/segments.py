"""A levelled view → segments: connected pieces of one colour and surface above the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.perception.joining import DEPTH_STEP_M, join, same_material
from qwen2vl_robot.perception.view import STEEP_RATIO, Float32, LevelledView, Mask

Window = tuple[slice, slice]

ABOVE_TABLE_M = 0.006  # half of what a plate is high; at least
_RAISED_SIGMAS = 2.5  # of the smoothed height, where that is more: noise rises above the table, too
_BODY_SIGMAS = 5.0  # what has the table's colour and nowhere rises higher is noise
_MIN_AREA_M2 = 1.0e-4
_FLOOD_MIN_PX = 12
_CHROMA_STEP = 0.05
_BLUR_PX = 2
_BORDER_PX = 2
_GROW_PX = 10


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A piece of the image that belongs to one body.

    Attributes:
        mask: (h, w) its pixels, by depth and colour.
        measured: (h, w) those of them that have depth of their own; beside an edge colour may show it and depth what
            lies behind.
        x0, y0, x1, y1: its extent in pixels, x1 and y1 exclusive.
        rgb: (3,) median colour.
        noise_m: standard deviation of the smoothed depth.
        points_m: (n, 3) measured points, base frame, with the sensor's noise.
        smooth_m: (m, 3) points of the smoothed depth, base frame.
        low_m, high_m: 2nd and 98th percentile of the smoothed height.
    """

    mask: Mask
    measured: Mask
    x0: int
    y0: int
    x1: int
    y1: int
    rgb: Array
    noise_m: float
    points_m: Array
    smooth_m: Array
    low_m: float
    high_m: float

    @property
    def extent_px(self) -> Array:
        """Its extent (4,) as x0, y0, x1, y1."""
        return np.array([self.x0, self.y0, self.x1, self.y1], dtype=np.float64)


def find_segments(view: LevelledView) -> list[Segment]:
    """Find all segments above the table except the robot, the largest first."""
    raised = _raised(view)
    if not raised.any():
        return []
    window = _window(raised, _GROW_PX + 2)
    part, raised = _crop(view, window), raised[window]
    differs = ~_table_like(part.rgb, _table_colour(view))
    rim = _with_rim(part, raised, differs)
    labels, count = _flood(part, rim & np.isfinite(part.smooth_m))
    labels = join(part, _adopt(labels, rim), count)
    segments = []
    for label in range(1, int(labels.max(initial=0)) + 1):
        own = _without_strangers(part, _trim(labels == label, differs), raised)
        if not own.any() or _is_speck(part, own, differs, labels):
            continue
        mask = np.zeros(view.depth_m.shape, bool)
        mask[window] = own
        segment = make_segment(view, mask)
        if segment is not None:
            segments.append(segment)
    return sorted(segments, key=lambda s: -len(s.points_m))


def _crop(view: LevelledView, window: Window) -> LevelledView:
    """Cut out a part of the view; its intrinsics stay those of the whole image, so it cannot project."""
    return replace(
        view,
        rgb=view.rgb[window],
        depth_m=view.depth_m[window],
        smooth_m=view.smooth_m[window],
        rays=view.rays[window],
        height_m=view.height_m[window],
        is_robot=view.is_robot[window],
    )


def _window(mask: Mask, pad_px: int) -> Window:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(int(rows[0]) - pad_px, 0), int(rows[-1]) + 1 + pad_px),
        slice(max(int(cols[0]) - pad_px, 0), int(cols[-1]) + 1 + pad_px),
    )


def make_segment(view: LevelledView, mask: Mask) -> Segment | None:
    """Measure one mask; None when it is too small."""
    if np.count_nonzero(mask) < _FLOOD_MIN_PX:
        return None
    window = _window(mask, 0)
    part, inside = _crop(view, window), mask[window]
    own = inside & np.isfinite(part.smooth_m) & ~_behind(part.smooth_m, inside)
    points_m, smooth_m = part.points_m(own), part.points_m(own, smooth=True)
    if len(smooth_m) < _FLOOD_MIN_PX or len(points_m) < _FLOOD_MIN_PX:
        return None
    pitch_m = float(np.linalg.norm(np.median(smooth_m, axis=0) - view.origin_m)) / view.intrinsics.fx_px
    if np.count_nonzero(inside) * pitch_m**2 < _MIN_AREA_M2:
        return None
    (y0, y1), (x0, x1) = ((side.start, side.stop) for side in window)
    low_m, high_m = np.percentile(smooth_m[:, 2], [2.0, 98.0])
    measured = np.zeros_like(mask)
    measured[window] = own
    return Segment(
        mask=mask,
        measured=measured,
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        rgb=np.median(part.rgb[inside], axis=0).astype(np.float64),
        noise_m=float(np.nanmedian(part.noise_m[own])),
        points_m=points_m,
        smooth_m=smooth_m,
        low_m=float(low_m),
        high_m=float(high_m),
    )


def _behind(smooth_m: Float32, inside: Mask) -> Mask:
    """Mark pixels that lie behind an edge of what they are taken for: nearer pixels of it are too close by."""
    known_m = np.where(inside & np.isfinite(smooth_m), smooth_m, np.float32(100.0))
    nearest_m = cv2.erode(known_m, np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8))
    behind: Mask = known_m > nearest_m * np.float32(1.0 + _BORDER_PX * STEEP_RATIO)
    return behind


def _table_colour(view: LevelledView) -> Array:
    flat = np.abs(view.height_m[::4, ::4]) < 0.003
    pixels = view.rgb[::4, ::4][flat]
    return np.median(pixels, axis=0).astype(np.float64) if len(pixels) else np.array([128.0, 128.0, 128.0])


def _table_like(rgb: npt.NDArray[np.uint8], table_rgb: Array) -> Mask:
    """Mark pixels whose colour may be the table's in somewhat different light."""
    pixels = rgb.astype(np.float32)
    unit = (table_rgb / (np.linalg.norm(table_rgb) + 1e-6)).astype(np.float32)
    along = pixels @ unit
    off2 = np.einsum("ijk,ijk->ij", pixels, pixels) - along**2
    strength = np.float32(np.linalg.norm(table_rgb))
    like: Mask = (off2 < (0.12 * along) ** 2) & (along > 0.62 * strength) & (along < 1.5 * strength)
    return like


def _raised(view: LevelledView) -> Mask:
    """Mark what rises above the table within reach and is not the robot."""
    least_m = np.maximum(np.float32(ABOVE_TABLE_M), _RAISED_SIGMAS * _height_noise_m(view))
    raised: Mask = (view.height_m > least_m) & ~view.is_robot
    rows, cols = np.nonzero(raised)
    p = view.origin_m + view.smooth_m[rows, cols, None] * view.rays[rows, cols]
    raised[rows, cols] = ((p > view.region_m[0]) & (p < view.region_m[1])).all(axis=1)
    return raised


def _height_noise_m(view: LevelledView) -> Float32:
    return np.asarray(view.noise_m * np.abs(view.rays[..., 2]), dtype=np.float32)


def _is_speck(view: LevelledView, mask: Mask, differs: Mask, labels: npt.NDArray[np.int32]) -> bool:
    """Check whether a piece is no body: a sliver, or the table itself where its noise is high.

    A sliver is nowhere three pixels wide; or it is nowhere five pixels wide and lies along a piece of the same depth:
    colour and depth of an edge are that far apart.
    """
    if differs[mask].mean() < 0.5:
        above = (view.height_m > _BODY_SIGMAS * _height_noise_m(view))[mask]
        if int(above.sum()) < _FLOOD_MIN_PX:
            return True
    window = _window(mask, 2 * _BORDER_PX)
    own, depth_m = mask[window].astype(np.uint8), view.smooth_m[window]
    widths = [px for px in (3, 2 * _BORDER_PX + 1) if cv2.erode(own, np.ones((px, px), np.uint8)).any()]
    if len(widths) == 2:
        return False
    beside = (cv2.dilate(own, np.ones((5, 5), np.uint8)) > 0) & (labels[window] > 0) & ~mask[window]
    step_m = np.abs(depth_m[beside] - np.nanmedian(depth_m[mask[window]]))
    return not widths or bool((step_m < 2.0 * DEPTH_STEP_M).sum() > 0.3 * own.sum())


def _with_rim(view: LevelledView, raised: Mask, differs: Mask) -> Mask:
    """Add the lower rim around what is raised, and pixels without depth: only colour separates them from the table."""
    rim = ((view.height_m > -0.006) & (view.height_m <= 0.02)) | np.isnan(view.height_m)
    allowed = (raised | (rim & differs & ~view.is_robot)).astype(np.uint8)
    grown = raised.astype(np.uint8)
    for _ in range(_GROW_PX // 2):
        grown = np.minimum(cv2.dilate(grown, np.ones((3, 3), np.uint8), iterations=2), allowed)
    return np.asarray(grown > 0)


def _flood(view: LevelledView, foreground: Mask) -> tuple[npt.NDArray[np.int32], int]:
    """Label pixels that are connected by small steps of depth and chroma."""
    pixels = view.rgb.astype(np.float32)
    total = np.maximum(pixels.sum(axis=2), 60.0)
    brightness = pixels.max(axis=2) + 6.0
    features = np.dstack([pixels[..., 0] / total, pixels[..., 2] / total, np.nan_to_num(view.smooth_m, nan=-1.0)])
    features = np.ascontiguousarray(features, dtype=np.float32)
    blocked = np.ones((foreground.shape[0] + 2, foreground.shape[1] + 2), np.uint8)
    sharp = _jumps(brightness, 2.2)
    blocked[1:-1, 1:-1] = ~foreground | sharp | _blends(features[..., :2])
    labels = np.zeros(foreground.shape, np.int32)
    count = 0
    step = (_CHROMA_STEP, _CHROMA_STEP, DEPTH_STEP_M)
    rows, cols = np.nonzero(blocked[1:-1, 1:-1] == 0)
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        if blocked[row + 1, col + 1]:
            continue
        area, _, blocked, (x, y, w, h) = cv2.floodFill(
            features, blocked, (col, row), (0, 0, 0), step, step, 4 | (2 << 8) | cv2.FLOODFILL_MASK_ONLY
        )
        window = blocked[y + 1 : y + 1 + h, x + 1 : x + 1 + w]
        new = window == 2
        window[new] = 1
        if area >= _FLOOD_MIN_PX:
            count += 1
            labels[y : y + h, x : x + w][new] = count
    return labels, count


def _jumps(brightness: Float32, ratio: float) -> Mask:
    """Mark pixels beside a jump of brightness that is too large for shading within one face."""
    jump = np.zeros(brightness.shape, bool)
    for here, there, side in (
        (brightness[:, :-1], brightness[:, 1:], np.s_[:, :-1]),
        (brightness[:-1], brightness[1:], np.s_[:-1]),
    ):
        jump[side] |= np.maximum(here, there) > ratio * np.minimum(here, there)
    return jump


def _blends(chroma: Float32) -> Mask:
    """Mark pixels between two colours: lens and compression blur an edge into steps that are small one by one."""
    soft = cv2.blur(chroma, (3, 3))
    blends = np.zeros(chroma.shape[:2], bool)
    for axis in (0, 1):
        before, after = (np.roll(soft, shift, axis) for shift in (_BLUR_PX, -_BLUR_PX))
        blends |= np.abs(after - before).max(axis=2) > 2.0 * _CHROMA_STEP
    return blends


def _adopt(labels: npt.NDArray[np.int32], foreground: Mask) -> npt.NDArray[np.int32]:
    """Give each foreground pixel without a label the nearest label, if foreground connects it with one."""
    _, connected = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    missing = foreground & (labels == 0) & np.isin(connected, np.unique(connected[labels > 0]))
    if not missing.any():
        return labels
    _, index = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_index = np.zeros(int(index.max()) + 1, np.int32)
    known = labels > 0
    by_index[index[known]] = labels[known]
    labels[missing] = by_index[index[missing]]
    return labels


def _without_strangers(view: LevelledView, mask: Mask, raised: Mask) -> Mask:
    """Drop pixels that depth does not show to be raised and that have another colour: they belong to something else."""
    known = mask & raised
    rest = mask & ~raised
    if not rest.any() or not known.any():
        return known
    kept = known.copy()
    kept[rest] = same_material(view.rgb[rest].astype(np.float64), np.median(view.rgb[known], axis=0))
    return kept


def _trim(mask: Mask, differs: Mask) -> Mask:
    """Drop border pixels of the table's colour from a segment of another colour."""
    if differs[mask].mean() < 0.7:
        return mask
    core = cv2.erode(mask.astype(np.uint8), np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8)) > 0
    return mask & (differs | core)
