"""Depth of one camera → depth as another camera sees it: nothing is invented, and what is nearest hides the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Intrinsics

_MOST_PX = 12  # that one measurement covers along a side; more than a near thing seen by a camera twice as fine
_LEAST_M = 0.01  # what is nearer to the camera's centre is inside of it


def register_depth(
    depth_m: npt.NDArray[np.float32], of: Intrinsics, to: Intrinsics, T_to_of: Array
) -> npt.NDArray[np.float32]:
    """Compute depth (h, w) along the axis of the camera `to` from that of the camera `of`.

    Each measurement covers those pixels whose centres lie in its square, at least the nearest one, so that no far thing
    shows through a near one where `to` is finer. A pixel without a measurement is NaN.

    Args:
        depth_m: (h, w) metres along the axis of `of`, NaN where missing.
        T_to_of: pose (4, 4) of the camera `of` in the frame of `to`.
    """
    rows, columns = np.nonzero(np.isfinite(depth_m))
    z_m = depth_m[rows, columns]
    T = T_to_of.astype(np.float32)  # a ten thousandth of a pixel, in half the time
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    corners, depths_m = [], []
    for across, down in ((0.0, 0.0), (-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
        x_m = (columns + across - of.cx_px) / of.fx_px * z_m
        y_m = (rows + down - of.cy_px) / of.fy_px * z_m
        p_m = T[:3, :3] @ np.stack([x_m, y_m, z_m]) + T[:3, 3:]
        depths_m.append(p_m[2])
        with np.errstate(divide="ignore", invalid="ignore"):
            corners.append((p_m[0] / p_m[2] * to.fx_px + to.cx_px, p_m[1] / p_m[2] * to.fy_px + to.cy_px))
    is_before = np.min(depths_m, axis=0) > _LEAST_M
    u, v = (np.array([corner[i] for corner in corners])[:, is_before] for i in (0, 1))
    first_u, count_u = _covered(u, to.width_px)
    first_v, count_v = _covered(v, to.height_px)
    seen_m = depths_m[0][is_before]
    nearest_m = np.full(to.height_px * to.width_px, np.inf, dtype=np.float32)
    for j in range(int(count_v.max(initial=0))):
        for i in range(int(count_u.max(initial=0))):
            chosen = np.flatnonzero((i < count_u) & (j < count_v))
            at = (first_v[chosen] + j) * to.width_px + first_u[chosen] + i
            np.minimum.at(nearest_m, at, seen_m[chosen])
    nearest_m[np.isinf(nearest_m)] = np.nan
    return nearest_m.reshape(to.height_px, to.width_px).astype(np.float32)


def _covered(places_px: Array, side_px: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first pixel (n,) along one axis that squares cover, and how many within the picture; 0 outside of it.

    Args:
        places_px: (5, n) the centre and the four corners of each.
    """
    centre = np.clip(np.rint(places_px[0]), -1.0, side_px)
    low, high = np.ceil(places_px[1:].min(axis=0)), np.ceil(places_px[1:].max(axis=0)) - 1.0
    low = np.clip(np.minimum(low, centre), centre - _MOST_PX // 2, centre)
    high = np.clip(np.maximum(high, centre), centre, centre + _MOST_PX // 2)
    first, last = np.maximum(low, 0.0), np.minimum(high, side_px - 1.0)
    return first.astype(np.int64), np.maximum(last - first + 1.0, 0.0).astype(np.int64)
