"""Boxes that hold a thing, and a hand's sizes → where two fingers from above close on it, the best first.

All is looked up on grids of the boxes' heights, one for each bearing of the fingers. Between the fingers stands one
part of the thing, of nearly one width over the width of a finger; beside it is room for the fingers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array

_BEARINGS = 12  # over half a turn
_STEP_M = 0.004
LEAST_ROOM_M = 0.008  # on each side of what is pinched, whose sides are known to about 7 mm
_MOST_ROOM_M = 0.015
_SLOPE = 0.4  # of a side of a pinched part under a finger: from a steeper one the finger slides
_MOSTLY = 0.8  # of a side counts: the rest may be a corner that is gone
_NARROW_COST = 2.0  # metres off the middle that a metre less of room is worth: a finger too near meets the thing
_EVEN_RATIO = 0.6  # of the width of a finger; the least that a part has to fill
_APART_M = 0.016  # between pinches of one bearing that are both worth trying

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pinch:
    """One place to close on.

    Attributes:
        middle_m: x and y between the fingers, in the frame of the boxes.
        yaw_rad: bearing along which the fingers close, there.
        width_m: of what is between them.
        room_m: that each finger has towards it, and as much behind the finger.
        cost_m: how far off the thing's middle it is, how uneven, and how narrow the room.
    """

    middle_m: tuple[float, float]
    yaw_rad: float
    width_m: float
    room_m: float
    cost_m: float


def pinches(
    boxes_m: Array, side_m: float, thick_m: float, open_m: float, *, tips_m: float, least_m: float
) -> list[Pinch]:
    """List the pinches, the best first.

    Args:
        boxes_m: (k, 2, 3) lowest and highest corner each.
        side_m: half of a finger's width, across the bearing along which they close.
        thick_m: a finger's thickness, along that bearing.
        open_m: between the open fingers.
        tips_m: height of the fingertips.
        least_m: height that a part must reach to be held.
    """
    volumes = np.prod(boxes_m[:, 1] - boxes_m[:, 0], axis=1)
    centre = (boxes_m.mean(axis=1) * volumes[:, None]).sum(axis=0)[:2] / volumes.sum()
    found: list[Pinch] = []
    for yaw_rad in np.pi * np.arange(_BEARINGS) / _BEARINGS:
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        R = np.array([[c, s], [-s, c]])  # from the boxes' frame to (along, across)
        found += _of_bearing(boxes_m, R, float(yaw_rad), R @ centre, (side_m, thick_m, open_m), (tips_m, least_m))
    return sorted(found, key=lambda pinch: pinch.cost_m)


def _of_bearing(
    boxes_m: Array,
    R: Array,
    yaw_rad: float,
    centre: Array,
    sizes: tuple[float, float, float],
    levels_m: tuple[float, float],
) -> list[Pinch]:
    """The pinches of one bearing; `R` (2, 2) turns into it, `centre` (2,) is turned, the rest is as of `pinches`."""
    (side_m, thick_m, open_m), (tips_m, least_m) = sizes, levels_m
    reach_m = float(np.linalg.norm(np.abs(boxes_m[..., :2]).max(axis=(0, 1)))) + thick_m + _MOST_ROOM_M + _STEP_M
    line = np.arange(-reach_m, reach_m, _STEP_M)
    heights_m = _heights(boxes_m, R, line)
    blocked: Mask = np.asarray(heights_m > tips_m)
    held: Mask = np.asarray(heights_m > least_m)
    half = max(round(side_m / _STEP_M), 1)
    found: list[Pinch] = []
    for across in np.flatnonzero(held.any(axis=0)).tolist():
        rows = slice(across - half, across + half + 1)
        slab: Mask = np.asarray(blocked[:, rows].any(axis=1))
        for begin, end in _runs(slab):
            width_m = (end - begin) * _STEP_M
            room_m = min((_room(slab, begin, end) - thick_m) / 2, (open_m - width_m) / 2, _MOST_ROOM_M)
            if room_m < LEAST_ROOM_M or not held[begin:end, across].any():
                continue
            uneven_m = _unevenness(blocked[begin:end, rows])
            if uneven_m is None:
                continue
            along_m = float(line[begin] + line[end - 1]) / 2
            middle = R.T @ np.array([along_m, line[across]])
            off_m = float(np.hypot(along_m - centre[0], line[across] - centre[1]))
            at, cost_m = (float(middle[0]), float(middle[1])), off_m + uneven_m + _NARROW_COST * (_MOST_ROOM_M - room_m)
            found.append(Pinch(at, yaw_rad, width_m, room_m, cost_m))
    return _thinned(found)


def _heights(boxes_m: Array, R: Array, line: Array) -> Array:
    """Heights (n, n) of the boxes on a grid along and across a bearing; -inf beside them."""
    along, across = np.meshgrid(line, line, indexing="ij")
    x, y = R[0, 0] * along + R[1, 0] * across, R[0, 1] * along + R[1, 1] * across
    heights_m = np.full(x.shape, -np.inf)
    for low, high in boxes_m:
        inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
        heights_m[inside] = np.maximum(heights_m[inside], high[2])
    return heights_m


def _runs(marked: Mask) -> list[tuple[int, int]]:
    """First and last plus one of each run of marked cells."""
    edges = np.flatnonzero(np.diff(np.r_[False, marked, False].astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _room(slab: Mask, begin: int, end: int) -> float:
    """Metres free on the side of a run that has less."""
    before, after = np.flatnonzero(slab[:begin]), np.flatnonzero(slab[end:])
    left = begin - 1 - int(before[-1]) if len(before) else begin
    right = int(after[0]) if len(after) else len(slab) - end
    return min(left, right) * _STEP_M


def _unevenness(part: Mask) -> float | None:
    """How far the two sides of a part (n along, m across) lie askew, metres; None where it is too uneven to hold."""
    filled = part.any(axis=0)
    if filled.mean() < _EVEN_RATIO:
        return None
    near, far = part.argmax(axis=0)[filled], part[::-1].argmax(axis=0)[filled]  # how deep either side lies
    askew = float(max(np.quantile(near, _MOSTLY), np.quantile(far, _MOSTLY)))
    return None if askew > _SLOPE * int(filled.sum()) else askew * _STEP_M


def _thinned(found: list[Pinch]) -> list[Pinch]:
    """Leave out pinches close to a better one."""
    kept: list[Pinch] = []
    for pinch in sorted(found, key=lambda p: p.cost_m):
        if all(np.hypot(*np.subtract(pinch.middle_m, other.middle_m)) >= _APART_M for other in kept):
            kept.append(pinch)
    return kept
