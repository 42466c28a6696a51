"""Points of a thing that no solid explains → upright boxes that hold it and reach down to its support.

A camera sees the upper side of a thing. What is under it counts as the thing's own: nothing may go there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array, rotation_z

MOST_BOXES = 16  # of a compound in Bullet, which silently drops the rest
_CELL_M = 0.004
_TURNS = 6  # over a quarter turn
_TOLERANCE_M = 0.007  # of the heights within a box
_SPARSE_RATIO = 0.3  # of what a cell usually has: with fewer points it is the blur of an edge
_LEVEL_M = 0.004
_SMALL_CELLS = 6

Mask = npt.NDArray[np.bool_]
Rectangle = tuple[int, int, int, int]  # first row, first column, rows, columns


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Boxes of a turned frame.

    Attributes:
        R: (3, 3) rotation of that frame about the base frame's z.
        boxes_m: (k, 2, 3) lowest and highest corner each, in that frame.
    """

    R: Array
    boxes_m: Array


def columns(points_m: Array, smooth_m: Array, bottom_m: float) -> Columns:
    """Compute boxes around points, base frame: measured ones (n, 3), which say where, and smoothed ones, how high.

    Of several turns the one that takes the fewest boxes is taken.
    """
    tried = []
    for turn in range(_TURNS):
        R = rotation_z(np.pi / 2 * turn / _TURNS)
        low, heights = _grid(points_m @ R, smooth_m @ R)
        tried.append((_cover(heights), low, heights, R))
    found, low, heights, R = min(tried, key=lambda t: (len(t[0]), _waste(t[0], t[2])))
    boxes = [_box(low, rectangle, _top(heights, rectangle), bottom_m) for rectangle in _merged(found, heights)]
    return Columns(R, np.array(boxes))


def _box(low: Array, rectangle: Rectangle, top_m: float, bottom_m: float) -> Array:
    row, column, rows, width = rectangle
    near, far = low + np.array([row, column]) * _CELL_M, low + np.array([row + rows, column + width]) * _CELL_M
    return np.array([[*near, bottom_m], [*far, max(top_m, bottom_m + _CELL_M)]])


def _grid(points_m: Array, smooth_m: Array) -> tuple[Array, Array]:
    """Corner (2,) and heights of cells of a grid; -inf where nothing is."""
    low = points_m[:, :2].min(axis=0)
    shape = np.floor(np.ptp(points_m[:, :2], axis=0) / _CELL_M).astype(int) + 1

    def cells(p: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        at = np.clip(np.floor((p[:, :2] - low) / _CELL_M).astype(int), 0, shape - 1)
        return at[:, 0], at[:, 1]

    counts = np.zeros(shape)
    np.add.at(counts, cells(points_m), 1.0)
    heights: Array = np.full(shape, -np.inf)
    np.maximum.at(heights, cells(smooth_m), smooth_m[:, 2])
    there = counts >= max(_SPARSE_RATIO * float(np.median(counts[counts > 0])), 1.0)
    beside = cv2.dilate(np.where(there, heights, -10.0), np.ones((5, 5), np.uint8))
    there |= (counts > 0) & (heights > beside + _TOLERANCE_M)  # what rises over all that is beside it is no blur
    closed = cv2.morphologyEx(np.pad(there, 2).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    there = closed[2:-2, 2:-2] > 0
    near = cv2.dilate(np.where(np.isfinite(heights), heights, -10.0), np.ones((3, 3), np.uint8))
    heights = np.where(np.isfinite(heights), heights, np.where(near > -10.0, near, -np.inf))
    heights[~there] = -np.inf
    return low, heights


def _cover(heights: Array) -> list[Rectangle]:
    """Cover cells with rectangles of nearly one height each, the largest first, and slivers by one for each piece."""
    left, found = np.isfinite(heights), list[Rectangle]()
    while left.any():
        best, area = (0, 0, 0, 0), 0
        for level_m in _levels(heights[left]):
            rectangle = _largest(left & (np.abs(heights - level_m) <= _TOLERANCE_M))
            if rectangle[2] * rectangle[3] > area:
                best, area = rectangle, rectangle[2] * rectangle[3]
        if area < _SMALL_CELLS:
            break
        found.append(best)
        left[_cells(best)] = False
    count, _, stats, _ = cv2.connectedComponentsWithStats(left.astype(np.uint8), connectivity=4)
    return found + [(y, x, rows, width) for x, y, width, rows, _ in stats[1:count].tolist()]


def _merged(found: list[Rectangle], heights: Array) -> list[Rectangle]:
    """Join the rectangles that waste the least room, until there are few enough; slivers join first."""
    found = list(found)
    while len(found) > MOST_BOXES:
        volumes = [_volume(rectangle, heights) for rectangle in found]
        pairs = [(a, b) for a in range(len(found)) for b in range(a)]
        costs = [_volume(_around(found[a], found[b]), heights) - volumes[a] - volumes[b] for a, b in pairs]
        a, b = pairs[int(np.argmin(costs))]
        joined = _around(found[a], found[b])
        found = [r for k, r in enumerate(found) if k not in (a, b)] + [joined]
    return found


def _around(a: Rectangle, b: Rectangle) -> Rectangle:
    row, column = min(a[0], b[0]), min(a[1], b[1])
    return row, column, max(a[0] + a[2], b[0] + b[2]) - row, max(a[1] + a[3], b[1] + b[3]) - column


def _volume(rectangle: Rectangle, heights: Array) -> float:
    return rectangle[2] * rectangle[3] * _top(heights, rectangle)


def _waste(found: list[Rectangle], heights: Array) -> float:
    return sum(_volume(rectangle, heights) for rectangle in found)


def _cells(rectangle: Rectangle) -> tuple[slice, slice]:
    row, column, rows, width = rectangle
    return slice(row, row + rows), slice(column, column + width)


def _top(heights: Array, rectangle: Rectangle) -> float:
    return float(heights[_cells(rectangle)].max())


def _levels(heights_m: Array) -> list[float]:
    """The two most frequent heights."""
    rounded, counts = np.unique(np.round(heights_m / _LEVEL_M), return_counts=True)
    return [float(level) * _LEVEL_M for level in rounded[np.argsort(-counts)][:2]]


def _largest(mask: Mask) -> Rectangle:
    """Find the largest rectangle of marked cells."""
    best, area = (0, 0, 0, 0), 0
    above = np.zeros(mask.shape[1], int)
    for row in range(mask.shape[0]):
        above = np.where(mask[row], above + 1, 0)
        stack: list[tuple[int, int]] = []  # first column, height
        for column, high in enumerate([*above.tolist(), 0]):
            begin = column
            while stack and stack[-1][1] > high:
                begin, tall = stack.pop()
                if tall * (column - begin) > area:
                    area, best = tall * (column - begin), (row - tall + 1, begin, tall, column - begin)
            if high and (not stack or stack[-1][1] < high):
                stack.append((begin, high))
    return best
