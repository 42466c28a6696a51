"""Labelled pieces of a view → the same, with those of one thing joined: its faces, and its parts beside an occluder."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.perception.view import Float32, LevelledView, Mask

DEPTH_STEP_M = 0.012  # from one pixel to the next; a side wall seen from 75 deg above gives 5 mm
_PATCH_PX = 80


def same_material(a_rgb: Array, b_rgb: Array) -> npt.NDArray[np.bool_]:
    """Check whether colours (..., 3) can be one material under different shading.

    Shading scales a colour. So the darker one must lie near the line through black and the brighter one, and must not
    be darker than shading explains.
    """
    a, b = np.asarray(a_rgb, dtype=np.float64), np.asarray(b_rgb, dtype=np.float64)
    la, lb = np.linalg.norm(a, axis=-1) + 1e-6, np.linalg.norm(b, axis=-1) + 1e-6
    cosine = np.clip((a * b).sum(axis=-1) / (la * lb), -1.0, 1.0)
    weak, strong = np.minimum(la, lb), np.maximum(la, lb)
    off_line = weak * np.sqrt(1.0 - cosine**2)
    is_dark = strong < 90.0
    near: npt.NDArray[np.bool_] = (off_line < 4.0 + 0.10 * weak) & ((strong < 2.7 * weak) | is_dark)
    return near


def largest_piece(mask: Mask) -> Mask:
    """Keep the largest connected piece of a mask (h, w); nothing of an empty one."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if len(stats) < 2:
        return mask
    largest: Mask = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return largest


def join(view: LevelledView, labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Join pieces of one material that touch in space: faces of one block, halves left and right of an occluder."""
    if count < 2:
        return labels
    colour, weight = np.zeros((count + 1, 3)), np.bincount(labels.ravel(), minlength=count + 1).astype(float)
    flat = labels.ravel()
    for channel in range(3):
        colour[:, channel] = np.bincount(flat, view.rgb[..., channel].ravel(), count + 1) / np.maximum(weight, 1)
    parent = list(range(count + 1))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    joined = set[int]()
    for a, b in _touching_pairs(view, labels, count) + _split_pairs(view, labels, count):
        patches = {label for label in (a, b) if weight[label] < _PATCH_PX}
        if joined.isdisjoint(patches) and bool(same_material(colour[a], colour[b])):
            parent[root(max(a, b))] = root(min(a, b))
            joined |= patches  # a patch of mixed colour does not join the things on its two sides
    roots = np.array([root(i) for i in range(count + 1)])
    _, dense = np.unique(roots, return_inverse=True)
    return dense.astype(np.int32)[labels]


def _touching_pairs(view: LevelledView, labels: npt.NDArray[np.int32], count: int) -> list[tuple[int, int]]:
    """Find pairs of labels that meet in the image at the same depth along a good part of their border, longest first.

    Of a small patch depth says little: it lies at an edge, between two surfaces.
    """
    depth_m, sizes = _nearest_known(view.smooth_m), np.bincount(labels.ravel(), minlength=count + 1)
    near = np.zeros((count + 1) ** 2)
    far = np.zeros((count + 1) ** 2)
    for dy, dx in ((0, 1), (1, 0), (0, 2), (2, 0)):
        a, b = labels[: labels.shape[0] - dy, : labels.shape[1] - dx], labels[dy:, dx:]
        rows, cols = np.nonzero((a != b) & (a > 0) & (b > 0))
        i, j = a[rows, cols], b[rows, cols]
        step_m = np.abs(depth_m[rows, cols] - depth_m[rows + dy, cols + dx])
        key = np.minimum(i, j) * (count + 1) + np.maximum(i, j)
        near += np.bincount(key[step_m < DEPTH_STEP_M], minlength=len(near))
        far += np.bincount(key[step_m >= DEPTH_STEP_M], minlength=len(far))
    key = np.arange((count + 1) ** 2)
    smaller = np.minimum(sizes[key // (count + 1)], sizes[key % (count + 1)])
    pairs = np.flatnonzero((near >= 4) & (near > 0.3 * far) | (near + far >= 4) & (smaller < _PATCH_PX))
    pairs = pairs[np.argsort(-(near + far)[pairs], kind="stable")]
    return [(int(p // (count + 1)), int(p % (count + 1))) for p in pairs]


def _nearest_known(depth_m: Float32) -> Float32:
    """Give each pixel without depth that of the nearest pixel with depth."""
    missing = np.isnan(depth_m)
    if not missing.any() or missing.all():
        return depth_m
    _, index = cv2.distanceTransformWithLabels(missing.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    by_index = np.zeros(int(index.max()) + 1, np.float32)
    by_index[index[~missing]] = depth_m[~missing]
    return np.asarray(by_index[index])


def _split_pairs(view: LevelledView, labels: npt.NDArray[np.int32], count: int) -> list[tuple[int, int]]:
    """Find pairs of labels that a nearer body may separate: close in space, with the line between them hidden."""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    big = [i for i in range(1, count + 1) if sizes[i] >= 60]
    spots: dict[int, tuple[Array, npt.NDArray[np.int64]]] = {}
    for i in big:
        rows, cols = np.nonzero(labels == i)
        keep = slice(None, None, max(1, len(rows) // 150))
        rows, cols = rows[keep], cols[keep]
        points = view.origin_m + view.smooth_m[rows, cols, None] * view.rays[rows, cols]
        fine = np.isfinite(points[:, 2])
        spots[i] = (points[fine], np.column_stack([rows, cols])[fine])
    pairs = []
    for n, a in enumerate(big):
        for b in big[n + 1 :]:
            if _is_split(view, labels, a, b, spots[a], spots[b]):
                pairs.append((a, b))
    return pairs


def _is_split(
    view: LevelledView,
    labels: npt.NDArray[np.int32],
    a: int,
    b: int,
    spots_a: tuple[Array, npt.NDArray[np.int64]],
    spots_b: tuple[Array, npt.NDArray[np.int64]],
) -> bool:
    pa, pb = spots_a[0], spots_b[0]
    if not len(pa) or not len(pb) or np.linalg.norm(np.median(pa, axis=0) - np.median(pb, axis=0)) > 0.17:
        return False
    if min(pa[:, 2].max(), pb[:, 2].max()) < 0.5 * max(pa[:, 2].max(), pb[:, 2].max()):
        return False
    gaps = np.linalg.norm(pa[:, None, :] - pb[None, :, :], axis=2)
    i, j = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
    if gaps[i, j] > 0.07:
        return False
    line = np.linspace(spots_a[1][i], spots_b[1][j], 24).round().astype(int)
    depth = np.linspace(view.smooth_m[tuple(spots_a[1][i])], view.smooth_m[tuple(spots_b[1][j])], 24)
    between = labels[line[:, 0], line[:, 1]]
    inner = (between != a) & (between != b)
    hidden = view.smooth_m[line[:, 0], line[:, 1]] < depth - 0.008
    return bool(inner.any() and hidden[inner].mean() > 0.8)
