"""Views of a board on the flange → the poses of camera and board that put its corners where they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import Array, invert, make_pose, rotation_from_rotvec, transform
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.nodes.calibration_board import SeenBoard

_ROUNDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A board that was found, and the pose (4, 4) of the flange or of the board's place in the base frame."""

    name: str
    T_base_carrier: Array
    board: SeenBoard


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Poses (4, 4) of the camera, and of the board on the flange; what they leave of each view, pixels."""

    T_base_camera: Array
    T_flange_board: Array
    scale: float
    errors_px: Array


def refine(views: Sequence[View], k: Intrinsics, start: Fit, *, scales: bool = False) -> Fit:
    """Minimise the distance in pixels between where corners are seen and where they should be (Gauss-Newton)."""
    X, Y, scale = start.T_base_camera, start.T_flange_board, 1.0
    for _ in range(_ROUNDS):
        errors, jacobians = zip(*(_error(view, k, X, Y, scale) for view in views), strict=True)
        J, error = np.vstack(jacobians), np.concatenate(errors)
        step = _solve(J.T @ J, J.T @ error, 13 if scales else 12)
        X, Y, scale = X @ _exp(step[:6]), Y @ _exp(step[6:12]), scale * (1.0 + float(np.clip(step[12], -0.5, 0.5)))
    return Fit(X, Y, scale, error)


def refine_without_each(views: Sequence[View], k: Intrinsics, fit: Fit) -> list[Fit]:
    """Leave out one view after the other: one step from the fit of them all is enough, as they agree."""
    parts = [_error(view, k, fit.T_base_camera, fit.T_flange_board, 1.0) for view in views]
    fits = []
    for index in range(len(views)):
        errors, jacobians = zip(*(parts[:index] + parts[index + 1 :]), strict=True)
        J, error = np.vstack(jacobians), np.concatenate(errors)
        step = _solve(J.T @ J, J.T @ error, 12)
        T_base_camera, T_flange_board = fit.T_base_camera @ _exp(step[:6]), fit.T_flange_board @ _exp(step[6:12])
        fits.append(Fit(T_base_camera, T_flange_board, 1.0, error + J @ step))
    return fits


def _error(view: View, k: Intrinsics, X: Array, Y: Array, scale: float) -> tuple[Array, Array]:
    """Compute by how much a view's corners miss where they are seen (2 n,), and the derivative (2 n, 13)."""
    points_m = scale * view.board.points_m
    T_camera_board = invert(X) @ view.T_base_carrier @ Y
    missed = project(T_camera_board, points_m, k)[0] - view.board.pixels
    return missed.ravel(), jacobian(T_camera_board, points_m, k)


def _solve(normal: Array, pull: Array, count: int) -> Array:
    """Solve for a step (13,) in the first unknowns only."""
    step = np.zeros(13)
    step[:count] = np.linalg.lstsq(normal[:count, :count], -pull[:count], rcond=None)[0]
    return step


def jacobian(T_camera_board: Array, points_m: Array, k: Intrinsics) -> Array:
    """Differentiate the pixels (2 n,) of a board's corners by right steps of camera and board, and by its scale."""
    p = transform(T_camera_board, points_m)
    R = T_camera_board[:3, :3]
    z = np.maximum(p[:, 2], 1e-3)
    by_p = np.zeros((len(p), 2, 3))
    by_p[:, 0, 0], by_p[:, 1, 1] = k.fx_px / z, k.fy_px / z
    by_p[:, 0, 2], by_p[:, 1, 2] = -k.fx_px * p[:, 0] / z**2, -k.fy_px * p[:, 1] / z**2
    eye = np.broadcast_to(np.eye(3), (len(p), 3, 3))
    of_camera = np.concatenate([-eye, cross(p)], axis=2)
    of_board = R @ np.concatenate([eye, -cross(points_m)], axis=2)
    of_scale = (points_m @ R.T)[:, :, None]
    jacobian: Array = by_p @ np.concatenate([of_camera, of_board, of_scale], axis=2)
    return jacobian.reshape(-1, 13)


def cross(points: Array) -> Array:
    """Build the matrices (n, 3, 3) that take the cross product with points (n, 3)."""
    x, y, z = points.T
    o = np.zeros_like(x)
    return np.stack([np.stack([o, -z, y], -1), np.stack([z, o, -x], -1), np.stack([-y, x, o], -1)], axis=1)


def _exp(step: Array) -> Array:
    """Build a small pose (4, 4) from a shift and a rotation vector (6,)."""
    return make_pose(step[:3], rotation_from_rotvec(step[3:]))


def project(T_camera_board: Array, points_m: Array, k: Intrinsics) -> tuple[Array, Array]:
    """Project corners (n, 3) to pixels (n, 2); also return their depth (n,), metres."""
    p = transform(T_camera_board, points_m)
    z = np.maximum(p[:, 2], 1e-3)
    return p[:, :2] / z[:, None] * [k.fx_px, k.fy_px] + [k.cx_px, k.cy_px], p[:, 2]


def rms(errors_px: Array) -> float:
    """Root mean square of distances whose two components are mixed in one array."""
    return float(np.sqrt(2.0 * np.mean(np.square(errors_px))))
