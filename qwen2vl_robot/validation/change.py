"""Two frames of one or several cameras → whether the scene changed between them; numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.messages import CameraFrame

_DEPTH_M = 0.02  # the least; a thing of 3 cm is more, wherever it stands
_DEPTH_SIGMAS = 4.0  # of the difference of two frames, where that is more: it grows with z²
_MOST_DEPTH_RATIO = 0.027  # 1/m: four deviations over z² where each frame has 0.15 px of noise in a D435's disparity
_SAMPLE_PX = 4
_EDGE_PX = 2  # so far from a depth edge a pixel may show either side: real pixels fly that far
_COLOUR = 60  # of 255, in any channel
_MOST_GAIN = 1.3  # brightness and white balance drift less between two frames
_LIT = (20, 235)  # levels from which a gain can be told
_BLOCK_PX = 6  # about a centimetre at the table
_CHANGED_SHARE = 0.5  # of a block's pixels
_SEEN_SHARE = 0.5  # share of the pixels that must have depth in both frames
_MOST_BLOCKS = 1  # one block may change at an edge while the arm settles


def difference(before: CameraFrame, after: CameraFrame, region_m: npt.NDArray[np.float64]) -> str | None:
    """Describe what changed; None when no camera sees a change larger than about a centimetre.

    Args:
        region_m: (2, 3) lowest and highest corner of what counts, base frame; what is in neither frame in there, as a
            floor far behind, may change.
    """
    if len(before.others) != len(after.others):
        return f"{1 + len(after.others)} cameras answered, {1 + len(before.others)} before"
    pairs = zip((before, *before.others), (after, *after.others), strict=True)
    changes = (_difference(one, other, region_m) for one, other in pairs)
    return next((change for change in changes if change is not None), None)


def _difference(before: CameraFrame, after: CameraFrame, region_m: npt.NDArray[np.float64]) -> str | None:
    if before.intrinsics != after.intrinsics or before.rgb.shape != after.rgb.shape:
        return "the camera has changed"
    if before.depth_m.shape != after.depth_m.shape or before.depth_m.shape != before.rgb.shape[:2]:
        return "the sizes of the frames differ"
    if not np.allclose(before.T_base_camera, after.T_base_camera, atol=1e-6):
        return "the camera's pose has changed"
    both = np.isfinite(before.depth_m) & np.isfinite(after.depth_m)
    if both.mean() < _SEEN_SHARE:
        return f"only {both.mean():.0%} of the pixels have depth in both frames"
    expected = np.minimum(before.rgb * _gain(before.rgb, after.rgb), np.float32(255.0))
    gap = np.abs(expected - after.rgb).max(axis=2)
    counts = _is_in(before, region_m) | _is_in(after, region_m)
    blocks = _blocks((_moved(before.depth_m, after.depth_m) | (gap > _COLOUR)) & counts)
    count = int(blocks.sum())
    if count <= _MOST_BLOCKS:
        return None
    row, column = np.argwhere(blocks).mean(axis=0)
    x, y = 1000 * (column + 0.5) / blocks.shape[1], 1000 * (row + 0.5) / blocks.shape[0]
    return f"something moved near ({x:.0f}, {y:.0f}) of 1000, {count} patches of {_BLOCK_PX} x {_BLOCK_PX} pixels"


def _is_in(frame: CameraFrame, region_m: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mark the pixels that show something in a region, and those without depth, which may."""
    points_m = frame.points_base_m()
    with np.errstate(invalid="ignore"):
        outside: npt.NDArray[np.bool_] = ((points_m < region_m[0]) | (points_m > region_m[1])).any(axis=-1)
    return ~outside


def _moved(was_m: npt.NDArray[np.float32], is_m: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mark pixels whose depth is nowhere near them in the other frame: beside an edge they show either side."""
    with np.errstate(invalid="ignore"):
        square_m2 = np.fmin(was_m, is_m) ** 2
        most_m = np.maximum(np.float32(_DEPTH_M), np.float32(_noise_bound(was_m, is_m)) * square_m2)
        return _is_new(was_m, is_m, most_m) | _is_new(is_m, was_m, most_m)


def _noise_bound(was_m: npt.NDArray[np.float32], is_m: npt.NDArray[np.float32]) -> float:
    """The most by which noise changes depth, over z², 1/m, as most pixels show it: most of a scene stands still."""
    part = np.s_[::_SAMPLE_PX, ::_SAMPLE_PX]
    ratio = np.abs(is_m[part] - was_m[part]) / np.fmin(was_m[part], is_m[part]) ** 2
    known = ratio[np.isfinite(ratio)]
    noise_ratio = 1.4826 * float(np.median(known)) if len(known) else 0.0
    return min(_DEPTH_SIGMAS * noise_ratio, _MOST_DEPTH_RATIO)


def _is_new(
    old_m: npt.NDArray[np.float32], new_m: npt.NDArray[np.float32], most_m: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Mark new depths outside the range of the old ones around them."""
    low_m, high_m = old_m.copy(), old_m.copy()
    for axis in (0, 1):
        low_m, high_m = _spread(low_m, np.fmin, axis), _spread(high_m, np.fmax, axis)
    outside: npt.NDArray[np.bool_] = (new_m < low_m - most_m) | (new_m > high_m + most_m)
    return outside & np.isfinite(old_m)


def _spread(depth_m: npt.NDArray[np.float32], extreme: np.ufunc, axis: int) -> npt.NDArray[np.float32]:
    """Take the extreme of each pixel and its neighbours along an axis."""
    size, spread = depth_m.shape[axis], depth_m.copy()
    for off in range(1, _EDGE_PX + 1):
        here, there = [slice(None)] * 2, [slice(None)] * 2
        here[axis], there[axis] = slice(0, size - off), slice(off, size)
        for one, other in ((tuple(here), tuple(there)), (tuple(there), tuple(here))):
            spread[one] = extreme(spread[one], depth_m[other])
    return spread


def _gain(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Fit the gain (3,) of each channel between two pictures; what moved covers less than half of them."""
    one, other = before[::4, ::4].reshape(-1, 3), after[::4, ::4].reshape(-1, 3)
    lit = (np.minimum(one, other) > _LIT[0]) & (np.maximum(one, other) < _LIT[1])
    gains = [float(np.median(other[m, c] / one[m, c])) if m.any() else 1.0 for c, m in enumerate(lit.T)]
    return np.clip(gains, 1.0 / _MOST_GAIN, _MOST_GAIN).astype(np.float32)


def _blocks(changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark the blocks of the picture that changed."""
    rows, columns = (size // _BLOCK_PX for size in changed.shape)
    cut = changed[: rows * _BLOCK_PX, : columns * _BLOCK_PX].reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    share: npt.NDArray[np.bool_] = cut.mean(axis=(1, 3)) > _CHANGED_SHARE
    return share
