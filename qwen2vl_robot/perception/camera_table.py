"""Depth of the work space → the table's plane, and what it says of unit, tilt, height, focal length and noise.

The published pose says where the plane z = 0 must be seen. A wrong focal length turns the plane that is measured and
changes its distance at once, a turned camera only turns it: so the two can be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import CameraFrame

_STEP_PX = 4  # of a picture 640 px wide
_WORK_X, _WORK_Y = (0.3, 0.9), 0.55  # of the workspace: for the Panda 0.26 to 0.77 m, and 0.39 m to both sides
_LEAST_POINTS = 300  # in the work space; with fewer it is hardly in the picture
_LEAST_SHARE = 0.2  # of the measured points that lie on the plane
_TRIES, _FITTED = 60, 1500
_PLANE_M, _GATES_M, _NOISE_GATE_M = 0.010, (0.012, 0.008, 0.008), 0.04
_LEVEL = 0.8  # least cosine of a plane to the vertical; a wall is no table
_SCALE = (0.5, 2.0)  # measured over expected depth; beyond it is another unit, and no plane is looked for
_FOCAL_ANGLE_DEG, _FOCAL_OFF_M = 0.6, 0.006  # what another focal length may leave unexplained: a calibration's error


@dataclass(frozen=True, slots=True)
class TableSeen:
    """What depth in the work space says.

    Attributes:
        px: pixels of the work space that are in the picture.
        missing_ratio: of those without depth; None where it is hardly in the picture.
        hole_at: middle of the largest hole, 0..1000 of width and height, with its size in pixels.
        scale: measured over expected depth; None without depth.
        tilt_deg, offset_m: of the plane, in the published frame at the middle of the work space; None without a plane.
        focal_ratio: true over published focal length, where that explains the plane, else 1; None where it cannot be.
        noise_m: standard deviation around the plane, as of one metre away.
    """

    px: int
    missing_ratio: float | None = None
    hole_at: tuple[float, float, int] = (0.0, 0.0, 0)
    scale: float | None = None
    tilt_deg: float | None = None
    offset_m: float | None = None
    focal_ratio: float | None = None
    noise_m: float | None = None


def see_table(frame: CameraFrame, profile: RobotProfile) -> TableSeen:
    """Measure depth (h, w), NaN where missing, against the published pose and focal length."""
    k, T = frame.intrinsics, frame.T_base_camera
    step = max(1, round(_STEP_PX * k.width_px / 640))
    u = (np.arange(0, k.width_px, step) - k.cx_px) / k.fx_px
    v = (np.arange(0, k.height_px, step) - k.cy_px) / k.fy_px
    rays = np.stack(np.broadcast_arrays(u[None, :], v[:, None], np.ones((1, 1))), axis=-1)
    turned = rays @ T[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        expected_m = np.where(turned[..., 2] < -1e-3, -T[2, 3] / turned[..., 2], np.nan)
        at_m = T[:3, 3] + expected_m[..., None] * turned
        x_m, y_m = profile.workspace.max_m[:2]
        work = (at_m[..., 0] > _WORK_X[0] * x_m) & (at_m[..., 0] < _WORK_X[1] * x_m)
        work &= np.abs(at_m[..., 1]) < _WORK_Y * y_m
    px = int(work.sum()) * step**2
    if work.sum() < _LEAST_POINTS:
        return TableSeen(px)
    depth_m = frame.depth_m[::step, ::step]
    known = work & np.isfinite(depth_m)
    missing, hole = 1.0 - float(known.sum() / work.sum()), _largest_hole(work & ~known, step)
    if known.sum() < _LEAST_POINTS / 4:
        return TableSeen(px, missing, hole)
    scale = float(np.median(depth_m[known] / expected_m[known]))
    if not _SCALE[0] <= scale <= _SCALE[1]:
        return TableSeen(px, missing, hole, scale)
    plane = _fit((rays * depth_m[..., None])[known].astype(np.float64) @ T[:3, :3].T)
    if plane is None:
        return TableSeen(px, missing, hole, scale)
    normal, off_m, noise_m = plane
    reach_m = np.array([*(np.mean(at_m[work], axis=0)[:2] - T[:2, 3]), 0.0])
    offset_m = float(T[2, 3] + (off_m - normal @ reach_m) / normal[2])
    tilt_deg = float(np.rad2deg(np.arccos(np.clip(normal[2], -1.0, 1.0))))
    focal = _focal_ratio(T[:3, :3].T @ normal, T[2], off_m)
    noise_m /= max(float(np.median(depth_m[known])) ** 2, 1e-6)
    return TableSeen(px, missing, hole, scale, tilt_deg, offset_m, focal, noise_m)


def _largest_hole(missing: npt.NDArray[np.bool_], step: int) -> tuple[float, float, int]:
    """Return the middle, 0..1000 of width and height, and the pixels of the largest part without depth."""
    closed = cv2.morphologyEx(missing.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, _, stats, middles = cv2.connectedComponentsWithStats(closed)
    if count < 2:
        return 0.0, 0.0, 0
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    height, width = missing.shape
    x, y = middles[largest]
    return 1000.0 * float(x) / width, 1000.0 * float(y) / height, int(stats[largest, cv2.CC_STAT_AREA]) * step**2


def _fit(points_m: Array) -> tuple[Array, float, float] | None:
    """Fit the plane of most points (n, 3), from the camera: unit normal (3,), upwards, offset and residual.

    The draws are the same for every frame, so one frame always gives one answer.
    """
    points_m = points_m[np.linspace(0, len(points_m) - 1, min(len(points_m), _FITTED)).astype(int)]
    rng, best = np.random.default_rng(0), np.zeros(len(points_m), bool)
    for _ in range(_TRIES):
        a, b, c = points_m[rng.choice(len(points_m), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = float(np.linalg.norm(normal))
        if length < 1e-6 or abs(normal[2]) < _LEVEL * length:
            continue
        on = np.abs((points_m - a) @ (normal / length)) < _PLANE_M
        best = on if on.sum() > best.sum() else best
    if best.mean() < _LEAST_SHARE:
        return None
    for gate_m in _GATES_M:
        middle = points_m[best].mean(axis=0)
        normal = np.linalg.svd(points_m[best] - middle, full_matrices=False)[2][2]
        normal = normal if normal[2] > 0 else -normal
        best = np.abs((points_m - middle) @ normal) < gate_m
        if best.sum() < 3:
            return None
    away_m = (points_m - middle) @ normal
    noise_m = 1.4826 * float(np.median(np.abs(away_m[np.abs(away_m) < _NOISE_GATE_M])))
    return normal, float(middle @ normal), noise_m


def _focal_ratio(normal: Array, upright: Array, off_m: float) -> float | None:
    """True over published focal length, where it explains a plane's normal (3,), camera frame, and offset; else 1.

    Args:
        upright: (4,) the vertical in the camera's frame, and the camera's height.
    """
    slant, seen = float(np.hypot(*upright[:2])), float(np.hypot(*normal[:2]))
    if slant < 0.15 or seen < 0.05:
        return None  # seen from straight above a table looks the same with every focal length
    ratio = float(np.clip((abs(seen / normal[2])) / (slant / max(abs(upright[2]), 1e-6)), 0.1, 10.0))
    turned = np.array([ratio * upright[0], ratio * upright[1], upright[2]])
    length = float(np.linalg.norm(turned))
    angle_deg = float(np.rad2deg(np.arccos(np.clip(turned @ normal / length, -1.0, 1.0))))
    left_m, before_m = abs(upright[3] / length + off_m), abs(upright[3] + off_m)
    explains = angle_deg < _FOCAL_ANGLE_DEG and left_m < _FOCAL_OFF_M and left_m < before_m
    return ratio if explains else 1.0
