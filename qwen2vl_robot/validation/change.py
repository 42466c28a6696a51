"""Two frames of one or several cameras → whether the scene changed between them; numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.messages import CameraFrame

_DEPTH_M = 0.02  # seven standard deviations of the difference of two pixels with 2 mm noise
_COLOUR = 60  # of 255, in any channel
_BLOCK_PX = 6  # about a centimetre at the table
_CHANGED_SHARE = 0.5  # of a block's pixels
_SEEN_SHARE = 0.5  # share of the pixels that must have depth in both frames
_MOST_BLOCKS = 1  # one block may change at an edge while the arm settles


def difference(before: CameraFrame, after: CameraFrame) -> str | None:
    """Describe what changed; None when no camera sees a change larger than about a centimetre."""
    if len(before.others) != len(after.others):
        return f"{1 + len(after.others)} cameras answered, {1 + len(before.others)} before"
    pairs = zip((before, *before.others), (after, *after.others), strict=True)
    changes = (_difference(one, other) for one, other in pairs)
    return next((change for change in changes if change is not None), None)


def _difference(before: CameraFrame, after: CameraFrame) -> str | None:
    if before.intrinsics != after.intrinsics or before.rgb.shape != after.rgb.shape:
        return "the camera has changed"
    if before.depth_m.shape != after.depth_m.shape or before.depth_m.shape != before.rgb.shape[:2]:
        return "the sizes of the frames differ"
    if not np.allclose(before.T_base_camera, after.T_base_camera, atol=1e-6):
        return "the camera's pose has changed"
    both = np.isfinite(before.depth_m) & np.isfinite(after.depth_m)
    if both.mean() < _SEEN_SHARE:
        return f"only {both.mean():.0%} of the pixels have depth in both frames"
    gap_m = np.abs(np.where(both, before.depth_m, 0.0) - np.where(both, after.depth_m, 0.0))
    gap = np.abs(before.rgb.astype(np.int16) - after.rgb.astype(np.int16)).max(axis=2)
    blocks = _blocks((gap_m > _DEPTH_M) | (gap > _COLOUR))
    count = int(blocks.sum())
    if count <= _MOST_BLOCKS:
        return None
    row, column = np.argwhere(blocks).mean(axis=0)
    x, y = 1000 * (column + 0.5) / blocks.shape[1], 1000 * (row + 0.5) / blocks.shape[0]
    return f"something moved near ({x:.0f}, {y:.0f}) of 1000, {count} patches of {_BLOCK_PX} x {_BLOCK_PX} pixels"


def _blocks(changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark the blocks of the picture that changed."""
    rows, columns = (size // _BLOCK_PX for size in changed.shape)
    cut = changed[: rows * _BLOCK_PX, : columns * _BLOCK_PX].reshape(rows, _BLOCK_PX, columns, _BLOCK_PX)
    share: npt.NDArray[np.bool_] = cut.mean(axis=(1, 3)) > _CHANGED_SHARE
    return share
