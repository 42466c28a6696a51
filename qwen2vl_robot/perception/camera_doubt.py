"""Points of a view to which something was fitted → how sure that fit is: depth errs alike in near pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.perception.view import MOST_NOISE_RATIO, LevelledView, deviation_of, table_ratio

NOISE_M = 0.0015  # of one point's depth after smoothing, with what meshes and levelling leave
_UNLIKE = 4.0  # times the variance that patches show: measured with cameras that err as a D435 does
_PATCH_PX = 48  # as far as a stereo camera's errors are alike


def pulls_of(normals: Array, arm_m: Array) -> Array:
    """Compute by how much points (n, 3) leave their surfaces, per shift along x and y and turn about the vertical."""
    return np.column_stack([normals[:, 0], normals[:, 1], normals[:, 1] * arm_m[:, 0] - normals[:, 0] * arm_m[:, 1]])


def patch_noise_ratio(view: LevelledView) -> float:
    """Estimate the deviation of the mean depth of a patch, over its square, 1/m, by the patches of the table."""
    rows, columns = (size // _PATCH_PX for size in view.height_m.shape)
    part = np.s_[: rows * _PATCH_PX, : columns * _PATCH_PX]
    ratio = table_ratio(view.height_m[part], view.rays[part], view.smooth_m[part])
    patches = ratio.reshape(rows, _PATCH_PX, columns, _PATCH_PX).swapaxes(1, 2).reshape(rows * columns, -1)
    mostly = np.isfinite(patches).mean(axis=1) > 0.5
    return deviation_of(np.nanmean(patches[mostly], axis=1)) if mostly.any() else MOST_NOISE_RATIO


def slant_of(view: LevelledView, points_m: Array, normals: Array) -> Array:
    """By how much points (n, 3) on a surface are off along its normals (n, 3), for one metre along the ray."""
    rays = (points_m - view.origin_m) / ((points_m - view.origin_m) @ view.T_base_camera[:3, 2])[:, None]
    slant: Array = np.abs(np.einsum("ij,ij->i", rays, normals))
    return slant


def patches_of(pixels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], int]:
    """Number the patches of pixels (n, 2), and count them."""
    which = np.unique(pixels // _PATCH_PX, axis=0, return_inverse=True)[1].ravel()
    return which, int(which.max()) + 1


def covariance_of(normal: Array, pulls: Array, doubts: Array, pixels: npt.NDArray[np.int64], prior: Array) -> Array:
    """Compute the covariance (3, 3) of a fit in patches of the picture, because depth errs alike in near pixels.

    A patch counts as one measurement. What its points pull (n, 3) shows how they scatter (White's estimator with
    clusters); few patches may agree by chance, so what the noise of the table's depth would pull (n, 3) is added, what
    meshes and levelling leave, and what the prior leaves open.
    """
    which, count = patches_of(pixels)
    sums, noises = np.zeros((count, 3)), np.zeros((count, 3))
    np.add.at(sums, which, pulls)
    np.add.at(noises, which, doubts)
    inverse = np.linalg.pinv(normal)
    spread = _UNLIKE * sums.T @ sums * (count / max(count - 3, 0.1)) + noises.T @ noises + prior
    covariance: Array = inverse @ spread @ inverse + inverse * NOISE_M**2
    return covariance


def how_sure(covariance: Array, arm_m: Array) -> tuple[Array, float, Array]:
    """Return the variances (2,) of where a fit puts a point, the largest deviation, and their axes (2, 2).

    Args:
        covariance: (3, 3) of shift and turn.
        arm_m: (3,) from where the turn is about to the point.
    """
    J = np.array([[1.0, 0.0, -arm_m[1]], [0.0, 1.0, arm_m[0]]])
    variance, axes = np.linalg.eigh(J @ covariance @ J.T)
    variance = np.maximum(variance, 0.0)
    return variance, float(np.sqrt(variance[-1])), axes
