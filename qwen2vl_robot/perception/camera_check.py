"""A view and the arm's state → how far the camera is from where its calibration says, by the arm's own links.

Levelling on the table corrects tilt and height, so what is left of a wrong pose is a shift along the table and a turn
about the vertical. Those show on the arm: its links, placed by the joints, are fitted to the measured depth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, invert, make_pose, rotation_z, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Intrinsics, Observation
from qwen2vl_robot.perception.camera_doubt import (
    NOISE_M,
    covariance_of,
    how_sure,
    patch_noise_ratio,
    patches_of,
    pulls_of,
    slant_of,
)
from qwen2vl_robot.perception.camera_outline import fit_outline
from qwen2vl_robot.perception.camera_seen import ENOUGH_PX, REACH_M, REACH_RAD, UNSURE_M, CameraSeen
from qwen2vl_robot.perception.surfaces import surfaces_of
from qwen2vl_robot.perception.view import LevelledView, Mask, make_view

_WORK_X, _WORK_Y = (0.45, 0.8), 0.37  # of the workspace: for the Panda 0.38 to 0.68 m, and 0.26 m to both sides
_CELL_PX = 4
_BEHIND_M = 0.012  # of a nearer part of the arm: hidden
_FAR_BEHIND_M = 0.05  # of a nearer part in the next cell, which may be the same slanted surface
_FACING = 0.25  # cosine to the line of sight; flatter surfaces have poor depth
_MOST_POINTS, _SEARCH_POINTS = 2500, 400
_GATES_M = (0.06, 0.04, 0.03, 0.02, 0.015, 0.012, 0.012, 0.012)
_FITS_M, _FITS_DEPTH_M = 0.012, 0.024  # across the surface and along the ray
_GOOD, _LEAST, _SURELY = 0.9, 0.6, 0.95  # shares of points that fit: no need to search; fits nowhere; fits elsewhere
_CLEARLY, _ALIKE, _NEAR_M = 0.1, 0.03, 0.03
_LEAST_POINTS = 30
_PRIOR = np.diag([0.15**-2, 0.15**-2, 0.1**-2])  # a camera is rarely further off, m and rad: what does not show is 0
_SHIFT_STEP_M, _TURN_STEP_RAD = 0.06, np.deg2rad(4)
_CANDIDATES = 4
_CONTRADICTS = 25.0  # squared deviations, of three that are measured twice
_FAR_M = 0.06  # a point that is off by this much or more does not fit at all


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What takes the true arm to the measured one: a turn about the vertical and a shift along the table.

    Attributes:
        E: (4, 4) pose.
        turn_rad: its turn.
        share: of the points of the arm that should show, those that fit.
        covariance: (3, 3) of shift and turn about `pivot_m`.
    """

    E: Array
    turn_rad: float
    share: float
    pivot_m: Array
    covariance: Array


def _turned(turn_rad: float, pivot_m: Array, shift_m: Array) -> Array:
    R = rotation_z(turn_rad)
    return make_pose(pivot_m - R @ pivot_m + [shift_m[0], shift_m[1], 0.0], R)


def check_camera(observation: Observation, profile: RobotProfile, kinematics: Kinematics) -> CameraSeen:
    """Measure by how much the camera is off at the work place."""
    try:
        view = make_view(observation, kinematics, profile)
    except ObservationError as error:
        return CameraSeen(problem=str(error))
    points_m, normals = surfaces_of(kinematics).at(kinematics, observation.robot)
    shown_px = _visible(view, points_m, normals, np.eye(4))[1]
    is_shown = shown_px >= ENOUGH_PX
    noise_ratio = patch_noise_ratio(view)
    fit = _settle(view, points_m, normals, np.eye(4), noise_ratio)[0] if is_shown else None
    if fit is None or fit.share < _GOOD:
        fit, found_px = _search(view, points_m, normals, fit, noise_ratio)
        if not is_shown and (found_px < ENOUGH_PX or fit is None or fit.share < _SURELY):
            return CameraSeen(shown_px)
    if fit is None or fit.share < _LEAST:
        return CameraSeen(shown_px, size_m=np.inf)
    T_base_camera, area_m = observation.frame.T_base_camera, work_area_m(profile)
    seen = _seen(view, fit, T_base_camera, area_m, shown_px)
    if seen.is_checked:
        return seen
    closer = _seen(view, _with_outline(view, points_m, fit), T_base_camera, area_m, shown_px)
    return closer if closer.is_surely_off else seen  # the outline is not exact enough to confirm a camera


def _seen(view: LevelledView, fit: _Fit, T_base_camera: Array, area_m: Array, shown_px: int) -> CameraSeen:
    """Compute what a fit means at the work place, for a camera that was published at a pose."""
    T_true = invert(fit.E) @ view.T_base_camera
    moved_m = transform(T_base_camera @ invert(T_true), area_m) - area_m
    size_m = float(np.sqrt((moved_m**2).sum(axis=1).mean()))
    off_m = moved_m.mean(axis=0)
    variance, unsure_m, axes = how_sure(fit.covariance, area_m.mean(axis=0) - fit.pivot_m)
    known = axes[:, np.sqrt(variance) <= UNSURE_M]
    sure_off_m = np.array([*(known @ known.T @ off_m[:2]), off_m[2]])
    return CameraSeen(shown_px, off_m, size_m, sure_off_m, fit.turn_rad, unsure_m)


def work_area_m(profile: RobotProfile) -> Array:
    """Return points (5, 3) on the table: the corners and the middle of where things are usually handled."""
    x_m, y_m = profile.workspace.max_m[0], profile.workspace.max_m[1]
    corners = [(x * x_m, y * y_m, 0.0) for x in _WORK_X for y in (-_WORK_Y, _WORK_Y)]
    return np.array([*corners, np.mean(corners, axis=0)])


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """What of many points a camera could see: their indices (k,) and pixels (k, 2), and the pixels that they fill."""

    index: npt.NDArray[np.intp]
    pixels: npt.NDArray[np.int64]
    px: int


def front_of(T_base_camera: Array, k: Intrinsics, points_m: Array, normals: Array) -> Front:
    """Choose the points (n, 3) on surfaces that no nearer ones hide from a camera and that face it."""
    pixels, depth_m = _project(T_base_camera, k, points_m)
    inside = np.flatnonzero(_in_picture(k, pixels) & (depth_m > 0.1))
    columns, rows = k.width_px // _CELL_PX + 1, k.height_px // _CELL_PX + 1
    cell = (pixels[inside, 1] // _CELL_PX) * columns + pixels[inside, 0] // _CELL_PX
    front_m = np.full(columns * rows, np.inf)
    np.minimum.at(front_m, cell, depth_m[inside])
    around_m = cv2.erode(front_m.reshape(rows, columns), np.ones((3, 3))).ravel()  # near the camera points are sparse
    rays = points_m[inside] - T_base_camera[:3, 3]
    facing = -np.einsum("ij,ij->i", normals[inside], rays) / np.linalg.norm(rays, axis=1)
    is_front = (depth_m[inside] < front_m[cell] + _BEHIND_M) & (depth_m[inside] < around_m[cell] + _FAR_BEHIND_M)
    shown = inside[is_front & (facing > _FACING)]
    return Front(shown, pixels[shown], int(np.isfinite(front_m).sum()) * _CELL_PX**2)


def _visible(view: LevelledView, points_m: Array, normals: Array, E: Array) -> tuple[npt.NDArray[np.intp], int]:
    """Choose the points that the camera should see, and count the pixels with depth that they stand for."""
    front = front_of(view.T_base_camera, view.intrinsics, transform(E, points_m), normals @ E[:3, :3].T)
    known = view.is_known[front.pixels[:, 1], front.pixels[:, 0]]
    return front.index, int(front.px * (float(known.mean()) if len(known) else 0.0))


def _project(T_base_camera: Array, k: Intrinsics, points_m: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the pixels (n, 2) of points as whole numbers, and their optical depth (n,)."""
    p_m = (points_m - T_base_camera[:3, 3]) @ T_base_camera[:3, :3]
    scale = np.array([k.fx_px, k.fy_px]) / np.maximum(p_m[:, 2:], 1e-3)
    at_px = p_m[:, :2] * scale + [k.cx_px, k.cy_px]
    return np.rint(np.clip(at_px, -1e6, 1e6)).astype(np.int64), p_m[:, 2]


def _in_picture(k: Intrinsics, pixels: npt.NDArray[np.int64]) -> Mask:
    inside: Mask = np.all((pixels >= 0) & (pixels < np.array([k.width_px, k.height_px])), axis=1)
    return inside


def thin(points: npt.NDArray[Any], most: int = _MOST_POINTS) -> npt.NDArray[Any]:
    """Keep so many rows at most, evenly spread."""
    kept: npt.NDArray[Any] = points[np.linspace(0, len(points) - 1, min(len(points), most)).astype(int)]
    return kept


def _measure(view: LevelledView, moved_m: Array) -> tuple[Array, Array]:
    """Return for points (n, 3) what is measured where they show (n, 3), NaN where nothing is, and how much deeper."""
    pixels, depth_m = _project(view.T_base_camera, view.intrinsics, moved_m)
    inside = _in_picture(view.intrinsics, pixels) & (depth_m > 0.1)
    column, row = np.where(inside[:, None], pixels, 0).T
    found_m = np.where(inside, view.smooth_m[row, column], np.nan)
    return view.origin_m + found_m[:, None] * view.rays[row, column], found_m - depth_m


def _fit(view: LevelledView, points_m: Array, normals: Array, start: Array, noise_ratio: float) -> _Fit | None:
    """Fit shift and turn to depth (robust point-to-plane), from coarse to fine; None where next to nothing fits.

    Args:
        noise_ratio: of a patch of depth, see `patch_noise_ratio`.
    """
    points_m, normals = thin(points_m), thin(normals)
    E = start
    for gate_m in _GATES_M:
        moved_m, turned = transform(E, points_m), normals @ E[:3, :3].T
        pivot_m = moved_m.mean(axis=0)
        found_m, deeper_m = _measure(view, moved_m)
        away_m = np.einsum("ij,ij->i", turned, found_m - moved_m)
        used = (np.abs(deeper_m) < 2 * gate_m) & (np.abs(away_m) < gate_m)
        if used.sum() < _LEAST_POINTS:
            return None
        n, arm_m = turned[used], moved_m[used] - pivot_m
        J = pulls_of(n, arm_m)
        weight = (1.0 - (away_m[used] / gate_m) ** 2) ** 2
        pixels = _project(view.T_base_camera, view.intrinsics, moved_m[used])[0]
        doubt_m = noise_ratio * view.smooth_m[pixels[:, 1], pixels[:, 0]] ** 2 * slant_of(view, moved_m[used], n)
        variance_m2 = NOISE_M**2 + float(np.mean(doubt_m**2)) * used.sum() / patches_of(pixels)[1]
        prior = _PRIOR * variance_m2
        so_far = np.array([*(pivot_m - transform(invert(E), pivot_m))[:2], np.arctan2(E[1, 0], E[0, 0])])
        normal = (J * weight[:, None]).T @ J + prior
        step = np.linalg.solve(normal, (J * weight[:, None]).T @ away_m[used] - prior @ so_far)
        E = _turned(float(step[2]), pivot_m, step[:2]) @ E
    share = float(used.sum() / np.isfinite(deeper_m).sum())
    pulls, doubts = J * (weight * away_m[used])[:, None], J * (weight * doubt_m)[:, None]
    covariance = covariance_of(normal, pulls, doubts, pixels, prior * variance_m2)
    return _Fit(E, float(np.arctan2(E[1, 0], E[0, 0])), share, pivot_m, covariance)


def _search(
    view: LevelledView, points_m: Array, normals: Array, first: _Fit | None, noise_ratio: float
) -> tuple[_Fit | None, int]:
    """Fit from several starts, the best of a grid, and return the best fit with the pixels that it explains.

    Another place needs clearly more to fit than the one that was published, and no fewer pixels than are enough: a few
    links behind the edge of the picture fit anything.
    """
    fits: list[tuple[_Fit, int]] = []
    for start in _starts(view, points_m, normals):
        fit, shown_px = _settle(view, points_m, normals, start, noise_ratio)
        if fit is not None and shown_px >= ENOUGH_PX:
            fits.append((fit, shown_px))
    if first is not None:
        near = [(f, px) for f, px in fits if _moved_m(f) < _NEAR_M]
        here, here_px = max([(first, 0), *near], key=lambda f: f[0].share)
        if all(f.share < here.share + _CLEARLY for f, _ in fits):
            return here, here_px
    best = max((f.share for f, _ in fits), default=0.0)
    alike = [(f, px) for f, px in fits if f.share > best - _ALIKE]
    return min(alike, key=lambda f: _moved_m(f[0]), default=(None, 0))


def _with_outline(view: LevelledView, points_m: Array, fit: _Fit) -> _Fit:
    """Add what the arm's outline in colour says to a fit to depth, unless the two contradict each other."""
    seen = fit_outline(view, transform(fit.E, points_m), fit.pivot_m)
    if seen is None or seen.x @ np.linalg.solve(fit.covariance + seen.covariance, seen.x) > _CONTRADICTS:
        return fit
    information = np.linalg.inv(seen.covariance)
    covariance = np.linalg.inv(np.linalg.inv(fit.covariance) + information)
    x = covariance @ information @ seen.x
    E = _turned(float(x[2]), fit.pivot_m, x[:2]) @ fit.E
    return replace(fit, E=E, turn_rad=float(np.arctan2(E[1, 0], E[0, 0])), covariance=covariance)


def _moved_m(fit: _Fit) -> float:
    """Return how far a fit takes what shows of the arm."""
    return float(np.linalg.norm(transform(invert(fit.E), fit.pivot_m) - fit.pivot_m))


def _settle(
    view: LevelledView, points_m: Array, normals: Array, start: Array, noise_ratio: float
) -> tuple[_Fit | None, int]:
    """Fit what should show at a start, then what should show at that fit; also count the pixels of the latter."""
    fit, shown_px, E = None, 0, start
    for _ in range(2):
        shown, shown_px = _visible(view, points_m, normals, E)
        fit = _fit(view, points_m[shown], normals[shown], E, noise_ratio) if len(shown) else None
        if fit is None:
            break
        E = fit.E
    return fit, shown_px


def _starts(view: LevelledView, points_m: Array, normals: Array) -> list[Array]:
    """Turn the arm about the camera and shift it: the poses (4, 4) at which most of it is measured and least is not."""
    facing = np.einsum("ij,ij->i", normals, view.origin_m - points_m) > 0
    few_m = thin(points_m[facing], _SEARCH_POINTS)
    shifts = np.arange(-REACH_M, REACH_M + 1e-6, _SHIFT_STEP_M)
    grid = np.array([[x, y, 0.0] for x in shifts for y in shifts])
    starts: list[tuple[float, Array]] = []
    for turn in np.arange(-REACH_RAD, REACH_RAD + 1e-6, _TURN_STEP_RAD):
        turned = _turned(float(turn), view.origin_m, np.zeros(2))
        moved_m = transform(turned, few_m) + grid[:, None]
        deeper_m = _measure(view, moved_m.reshape(-1, 3))[1].reshape(len(grid), -1)
        is_there, is_missing = np.abs(deeper_m) < _FAR_M / 2, deeper_m > _FAR_M
        score = is_there.sum(axis=1) - 2.0 * is_missing.sum(axis=1)
        starts += [(float(score[i]), make_pose(grid[i]) @ turned) for i in np.argsort(-score)[:_CANDIDATES]]
    return [pose for _, pose in sorted(starts, key=lambda s: -s[0])[:_CANDIDATES]]
