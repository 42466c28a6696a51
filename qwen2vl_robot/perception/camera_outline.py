"""A view and the arm's surface → shift and turn of the arm's outline in colour, where a stereo camera is exact.

Depth of a stereo camera errs alike over tens of pixels, so a base that is nearly round does not tell by its depth how
the camera is turned about it. The outline in colour has no such error: it is measured to a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array, make_pose, rotation_z, transform
from qwen2vl_robot.perception.camera_doubt import patches_of
from qwen2vl_robot.perception.view import LevelledView, Mask

_WIDTH_PX = 640  # of the picture whose pixels all lengths are in
_CLOSE_PX = 7  # points on the surface are up to so far apart in the picture
_BORDER_PX = 6
_AROUND_PX = 12
_OWN_PX = 2.0  # from a pixel of the rim to the point that it is taken for
_BESIDE_PX = 40.0  # beyond the picture's border, what may come into it
_EVERY = 2  # pixels of the rim that are used
_REACH_PX = (10.0, 6.0, 4.0, 3.0)  # from the rim to its edge in colour, from the first step to the last
_SAMPLE_PX = 0.5
_EDGE_LEVELS = 2.5  # of 255 for each pixel: less is no edge
_OUTERMOST = 0.4  # of the clearest edge; the outermost of those is the arm's
_NOISE_PX = 0.7  # of a patch of the rim: it is made of points, and light and meshes are not exact
_HEIGHT_M, _OFFSET_PX, _CENTRE_PX = 0.003, 1.0, 0.5  # deviations of what is fitted beside, see `fit_outline`
_LEAST_PX = 40  # of the rim that have an edge, and
_LEAST_SHARE = 0.7  # of them that have it close by after the fit: others mean that something else shows there


@dataclass(frozen=True, slots=True, eq=False)
class OutlineFit:
    """How the arm lies in colour, beside where it was put.

    Attributes:
        x: (3,) shift along x and y of the base frame, m, and turn about the vertical through the pivot, rad.
        covariance: (3, 3) of them.
    """

    x: Array
    covariance: Array


def fit_outline(view: LevelledView, points_m: Array, pivot_m: Array) -> OutlineFit | None:
    """Fit the rim of the arm's points (n, 3) to edges of colour; None where too little of it has one.

    Beside shift and turn are fitted: the table's height, by how much the rim lies outside of its edge all around, and
    by how much the picture lies beside its calibration (2).
    """
    scale = view.intrinsics.width_px / _WIDTH_PX
    x, share = np.zeros(7), 0.0
    points_m = points_m[_is_near(view, points_m, _BESIDE_PX * scale)]
    prior = np.diag([0.0, 0.0, 0.0, *(_NOISE_PX / np.array([_HEIGHT_M, _OFFSET_PX, _CENTRE_PX, _CENTRE_PX])) ** 2])
    fit = None
    for reach_px in _REACH_PX:
        rim = _rim(view, transform(_pose(x, pivot_m), points_m), scale)
        if rim is None:
            return None
        at_m, pixels, outwards = rim
        edge_px = _edges(view.rgb, pixels, outwards, _REACH_PX[0] * scale) / scale - x[4] - outwards @ x[5:]
        clear = np.isfinite(edge_px)
        used = clear & (np.abs(edge_px) < reach_px)
        if used.sum() < _LEAST_PX:
            return None
        pulls = _pulls(view, at_m[used], outwards[used], np.array([pivot_m[0] + x[0], pivot_m[1] + x[1], 0.0])) / scale
        J = np.column_stack([pulls, np.ones(len(pulls)), outwards[used]])
        weight = ((1.0 - (edge_px[used] / reach_px) ** 2) ** 2)[:, None]
        normal = (J * weight).T @ J + prior
        step = np.linalg.solve(normal, (J * weight).T @ edge_px[used] - prior @ x)
        x = x + step
        left_px = (edge_px[used] - J @ step)[:, None]
        which, count = patches_of(pixels[used].astype(np.int64))
        sums, noises = np.zeros((count, 7)), np.zeros((count, 7))
        np.add.at(sums, which, J * weight * left_px)
        np.add.at(noises, which, J * weight * _NOISE_PX)
        inverse = np.linalg.inv(normal)
        spread = sums.T @ sums * count / max(count - 3, 0.5) + noises.T @ noises + prior * _NOISE_PX**2
        fit = OutlineFit(x[:3].copy(), (inverse @ spread @ inverse)[:3, :3])
        share = used.sum() / clear.sum()
    return fit if share >= _LEAST_SHARE else None


def _is_near(view: LevelledView, points_m: Array, beside_px: float) -> Mask:
    at_px, k = view.project(points_m), view.intrinsics
    is_before = (points_m - view.origin_m) @ view.T_base_camera[:3, 2] > 0.1
    size_px = np.array([k.width_px, k.height_px])
    near: Mask = is_before & ((at_px > -beside_px) & (at_px < size_px + beside_px)).all(axis=1)
    return near


def _pose(x: Array, pivot_m: Array) -> Array:
    R = rotation_z(float(x[2]))
    return make_pose(pivot_m - R @ pivot_m + [x[0], x[1], x[3]], R)


def _rim(view: LevelledView, points_m: Array, scale: float) -> tuple[Array, Array, Array] | None:
    """Find points (k, 3) on the rim of what shows of the arm, their pixels (k, 2) and unit normals outwards (k, 2)."""
    h, w = view.depth_m.shape
    at_px = view.project(points_m)
    inside = (at_px > 0.5).all(axis=1) & (at_px < np.array([w, h]) - 1.5).all(axis=1)
    points_m, at_px = points_m[inside], at_px[inside]
    if len(points_m) < _LEAST_PX:
        return None
    low = np.maximum(np.floor(at_px.min(axis=0)).astype(np.int64) - _AROUND_PX, 0)  # nothing else is looked at
    high = np.minimum(np.ceil(at_px.max(axis=0)).astype(np.int64) + _AROUND_PX, [w - 1, h - 1])
    pixels = np.rint(at_px).astype(np.int64) - low
    shape = (int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1)
    mask, owner = np.zeros(shape, np.uint8), np.full(shape, -1, np.int64)
    mask[pixels[:, 1], pixels[:, 0]] = 1
    owner[pixels[:, 1], pixels[:, 0]] = np.arange(len(pixels))
    off_px, nearest = cv2.distanceTransformWithLabels(1 - mask, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    owners = np.full(int(nearest.max()) + 1, -1, np.int64)
    owners[nearest[mask > 0]] = owner[mask > 0]
    side = round(_CLOSE_PX * scale) | 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    around = cv2.copyMakeBorder(mask, side, side, side, side, cv2.BORDER_REPLICATE)
    mask = np.ascontiguousarray(cv2.morphologyEx(around, cv2.MORPH_CLOSE, element)[side:-side, side:-side])
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.5 * scale, borderType=cv2.BORDER_REPLICATE)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = np.vstack([c[:, 0] for c in contours])[::_EVERY]
    edge = round(_BORDER_PX * scale)
    rim = rim[(rim + low > edge).all(axis=1) & (rim + low < np.array([w, h]) - 1 - edge).all(axis=1)]
    rim = rim[off_px[rim[:, 1], rim[:, 0]] <= _OWN_PX * scale]  # the rest is what closing added between points
    if len(rim) < _LEAST_PX:
        return None
    found = owners[nearest[rim[:, 1], rim[:, 0]]]
    slope = np.stack([cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)], axis=-1)[
        rim[:, 1], rim[:, 0]
    ]
    outwards = -slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    return points_m[found], (rim + low).astype(np.float64), outwards.astype(np.float64)


def _edges(rgb: npt.NDArray[np.uint8], pixels: Array, outwards: Array, reach_px: float) -> Array:
    """Find how far outwards (n,) of pixels the outermost clear edge of colour lies; NaN where none is within reach."""
    steps = np.arange(-reach_px - 1.0, reach_px + 1.0 + 1e-6, _SAMPLE_PX)
    maps = (pixels[:, None] + steps[:, None] * outwards[:, None]).astype(np.float32)
    lines = cv2.remap(rgb, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lines = cv2.GaussianBlur(lines, (3, 1), 0.8).astype(np.float32)
    wide = round(1.0 / _SAMPLE_PX)
    slope = np.abs(lines[:, 2 * wide :] - lines[:, : -2 * wide]).max(axis=2) / 2.0
    steps = steps[wide : wide + slope.shape[1]]
    slope[:, np.abs(steps) > reach_px] = 0.0
    peak = slope[:, 1:-1] >= np.maximum(slope[:, :-2], slope[:, 2:])
    peak &= slope[:, 1:-1] > np.maximum(_EDGE_LEVELS, _OUTERMOST * slope.max(axis=1, keepdims=True))
    inner = peak.shape[1] - peak[:, ::-1].argmax(axis=1)  # the outermost: the arm has edges of its own
    rows = np.arange(len(inner))
    a, b, c = slope[rows, inner - 1], slope[rows, inner], slope[rows, inner + 1]
    bend = a - 2 * b + c
    shift = np.where(np.abs(bend) > 1e-6, np.clip(0.5 * (a - c) / np.where(bend == 0, 1, bend), -1, 1), 0.0)
    return np.where(peak.any(axis=1), steps[inner] + shift * _SAMPLE_PX, np.nan)


def _pulls(view: LevelledView, points_m: Array, outwards: Array, pivot_m: Array) -> Array:
    """Compute by how many pixels outwards (n, 4) points go: for a metre along x and y, a radian, and a metre up."""
    k, R = view.intrinsics, view.T_base_camera[:3, :3]
    p = (points_m - view.origin_m) @ R
    arm = points_m - pivot_m
    moves = np.zeros((4, len(points_m), 3))
    moves[0, :, 0] = moves[1, :, 1] = moves[3, :, 2] = 1.0
    moves[2, :, 0], moves[2, :, 1] = -arm[:, 1], arm[:, 0]
    pulls = []
    for move in moves:
        d = move @ R
        u = k.fx_px * (d[:, 0] / p[:, 2] - p[:, 0] * d[:, 2] / p[:, 2] ** 2)
        v = k.fy_px * (d[:, 1] / p[:, 2] - p[:, 1] * d[:, 2] / p[:, 2] ** 2)
        pulls.append(outwards[:, 0] * u + outwards[:, 1] * v)
    return np.column_stack(pulls)
