"""A picture, and the one before → its colour cast, how much of it is too dark or too bright, and how colour changed.

No colour in a cell is known beforehand. What is looked at is the most neutral surface of some size: a table, an arm, a
wall. With a wrong white balance no large surface is neutral any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

_LIT = (25, 245)  # levels between which a colour can be told
_SURFACE_RATIO = 0.03  # of the picture: a surface of some size
_BINS, _RANGE = 41, 1.025  # of the logarithm of red and of blue over green; a cell is 5 % wide
_LEAST_LIT = 0.1


@dataclass(frozen=True, slots=True)
class ColourSeen:
    """What a picture says of its colours.

    Attributes:
        cast: red and blue over green of the most neutral surface; None where no surface of some size is well exposed.
        clipped_ratio: pixels that are black or white in all channels.
        gain: (3,) of red, green and blue against the picture before; None without one.
    """

    cast: tuple[float, float] | None
    clipped_ratio: float
    gain: tuple[float, float, float] | None = None


def see_colour(rgb: Picture, before: Picture | None) -> ColourSeen:
    """Measure a picture (h, w, 3) and, if it has the same size, the one before."""
    stride = max(1, round(rgb.shape[1] / 160))
    few = rgb[::stride, ::stride].reshape(-1, 3)
    low, high = few.min(axis=1), few.max(axis=1)
    clipped = float(((high < _LIT[0]) | (low > 250)).mean())
    lit = few[(low >= _LIT[0]) & (high <= _LIT[1])].astype(np.float64)
    cast = _cast(lit, len(few)) if len(lit) >= _LEAST_LIT * len(few) else None
    if before is None or before.shape != rgb.shape:
        return ColourSeen(cast, clipped)
    was = before[::stride, ::stride].reshape(-1, 3)
    both = (low >= _LIT[0]) & (high <= _LIT[1]) & (was.min(axis=1) >= _LIT[0]) & (was.max(axis=1) <= _LIT[1])
    if both.mean() < _LEAST_LIT:
        return ColourSeen(cast, clipped)
    red, green, blue = np.median(few[both] / was[both].astype(np.float64), axis=0)  # what moves is less than half
    return ColourSeen(cast, clipped, (float(red), float(green), float(blue)))


def _cast(lit: npt.NDArray[np.float64], pixels: int) -> tuple[float, float] | None:
    """Find the most neutral colour that a surface of some size has: red over green, blue over green."""
    logs = np.log(lit[:, ::2] / lit[:, 1:2])
    counts, edges, _ = np.histogram2d(logs[:, 0], logs[:, 1], bins=_BINS, range=[[-_RANGE, _RANGE]] * 2)
    padded = np.pad(counts, 1)
    around = sum(padded[i : i + _BINS, j : j + _BINS] for i in range(3) for j in range(3))
    middles = (edges[1:] + edges[:-1]) / 2
    away = np.maximum(np.abs(middles[:, None]), np.abs(middles[None, :]))
    away = np.where((around >= _SURFACE_RATIO * pixels) & (counts > 0), away, np.inf)
    row, column = (int(i) for i in np.unravel_index(int(np.argmin(away)), away.shape))
    if not np.isfinite(away[row, column]):
        return None
    return float(np.exp(middles[row])), float(np.exp(middles[column]))
