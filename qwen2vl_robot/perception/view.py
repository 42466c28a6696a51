"""An RGB-D frame → a levelled view: points in the base frame, the robot's own pixels marked."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_rotvec, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import CameraFrame, Intrinsics, Observation
from qwen2vl_robot.perception.agreement import check_cameras

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ROBOT_MARGIN_M = 0.025  # calibration error plus parts outside the collision hulls
MAX_OFFSET_M, MAX_TILT_DEG = 0.02, 2.0  # more than this is a wrong calibration, not a small error
_MIN_TABLE_RATIO = 0.02
_LEVEL_STEP_PX = 4
STEEP_RATIO = 0.01  # of depth per pixel on both sides: nothing solid is seen as steeply; a wall seen from above: 0.6 %
_FLYING_PX = 2  # so far from an edge depth lies between two surfaces
_FILL_RATIO = 0.01  # of depth: a hole between surfaces further apart than this is not filled
_AROUND_M = 0.3  # around the tool's workspace: no link reaches as far beyond it, nor what it carries
_NEAR_TABLE_M = 0.02  # depth of the table, and nothing else, says how noisy depth is
MOST_NOISE_RATIO = 0.008  # 1/m; the noisiest of four real frames shows 0.0077: an uneven table is no noise
_GATES_M = (0.025, 0.012, 0.007, 0.005, 0.005)
_DIRECTIONS = 48


@dataclass(frozen=True, slots=True, eq=False)
class LevelledView:
    """A levelled RGB-D frame.

    Attributes:
        rgb: (h, w, 3) uint8.
        is_known: (h, w) where the camera gave depth, even if between two surfaces.
        depth_m: (h, w) as measured, NaN where missing or between two surfaces.
        smooth_m: (h, w) depth with small holes filled and a median filter; NaN far from any measurement.
        rays: (h, w, 3) base-frame direction of each pixel's ray, one metre of optical depth long.
        height_m: (h, w) smoothed height over the table.
        is_robot: (h, w) the robot's own pixels.
        intrinsics, T_base_camera: of the camera; the pose is levelled.
        noise_ratio: standard deviation of smoothed depth over its square, 1/m, as the table shows it.
        region_m: (2, 3) lowest and highest corner of where the arm and its load may come; elsewhere is background.
        tilt_deg, offset_m: tilt and height of the table in the published frame, which levelling removed.
    """

    rgb: npt.NDArray[np.uint8]
    is_known: Mask
    depth_m: Float32
    smooth_m: Float32
    rays: Float32
    height_m: Float32
    is_robot: Mask
    intrinsics: Intrinsics
    T_base_camera: Array
    noise_ratio: float
    region_m: Array
    tilt_deg: float
    offset_m: float

    @property
    def noise_m(self) -> Float32:
        """The standard deviation of smoothed depth (h, w); triangulation is the noisier the further away."""
        return (np.float32(self.noise_ratio) * self.smooth_m**2).astype(np.float32)

    @property
    def origin_m(self) -> Array:
        """The camera's centre in the base frame (3,)."""
        return self.T_base_camera[:3, 3]

    def points_m(self, mask: Mask, *, smooth: bool = False) -> Array:
        """Compute the points (n, 3), base frame, of the masked pixels that have depth."""
        depth_m = (self.smooth_m if smooth else self.depth_m)[mask]
        known = np.isfinite(depth_m)
        return self.origin_m + depth_m[known, None].astype(np.float64) * self.rays[mask][known]

    def project(self, p_base_m: Array) -> Array:
        """Project points (n, 3), base frame, to pixels (n, 2) as (u, v)."""
        k = self.intrinsics
        p = (p_base_m - self.origin_m) @ self.T_base_camera[:3, :3]
        scale = np.array([k.fx_px, k.fy_px]) / np.maximum(p[:, 2:], 1e-3)
        pixels: Array = p[:, :2] * scale + [k.cx_px, k.cy_px]
        return pixels


def make_view(observation: Observation, kinematics: Kinematics, profile: RobotProfile) -> LevelledView:
    """Level the frame on the table and mark the robot's pixels.

    Raises:
        ObservationError: sizes that do not match, no depth, too little table, a table too far from z = 0, or cameras
            that contradict each other.
    """
    frame, k = observation.frame, observation.frame.intrinsics
    if frame.rgb.shape != (k.height_px, k.width_px, 3) or frame.depth_m.shape != (k.height_px, k.width_px):
        raise ObservationError(
            f"rgb {frame.rgb.shape} and depth {frame.depth_m.shape} must be {k.width_px}x{k.height_px} px"
        )
    check_cameras(frame)
    depth_m = np.where((frame.depth_m > 0) & np.isfinite(frame.depth_m), frame.depth_m, np.nan).astype(np.float32)
    if not np.isfinite(depth_m).any():
        raise ObservationError("the frame has no depth at all; check the depth camera")
    is_known = np.isfinite(depth_m)
    depth_m[_flying(depth_m)] = np.nan
    smooth_m = smoothed(depth_m)
    T_base_camera, tilt_deg, offset_m = _level(frame, depth_m)
    rays = _rays(k, T_base_camera[:3, :3])
    height_m = (smooth_m * rays[..., 2] + np.float32(T_base_camera[2, 3])).astype(np.float32)
    view = LevelledView(
        rgb=frame.rgb,
        is_known=is_known,
        depth_m=depth_m,
        smooth_m=smooth_m,
        rays=rays,
        height_m=height_m,
        is_robot=np.zeros(depth_m.shape, bool),
        intrinsics=k,
        T_base_camera=T_base_camera,
        noise_ratio=_noise_ratio(height_m, rays, smooth_m),
        region_m=region_of(profile),
        tilt_deg=tilt_deg,
        offset_m=offset_m,
    )
    view.is_robot[:] = _robot_pixels(view, observation, kinematics)
    return view


def region_of(profile: RobotProfile) -> Array:
    """Return the lowest and highest corner (2, 3), base frame, of where the arm and its load may come."""
    region_m: Array = np.array([profile.workspace.min_m, profile.workspace.max_m]) + np.array(
        [[-_AROUND_M], [_AROUND_M]]
    )
    return region_m


def _flying(depth_m: Float32) -> Mask:
    """Mark pixels between two surfaces: depth rises or falls on both sides more steeply than along a surface."""
    known = np.isfinite(depth_m)
    reach = np.ones((4 * _FLYING_PX + 1,) * 2, np.uint8)  # over the gap beside an edge, to what lies behind
    behind_m = cv2.dilate(np.where(known, depth_m, np.float32(0)), reach)
    filled_m = np.where(known, depth_m, behind_m).astype(np.float32)
    flying = np.zeros(depth_m.shape, bool)
    for axis in (0, 1):
        for off in range(1, _FLYING_PX + 1):
            before, here, after = (np.roll(filled_m, shift, axis) for shift in (off, 0, -off))
            least_m = np.float32(off * STEEP_RATIO) * here
            one_m, other_m = here - before, after - here
            is_between = (np.minimum(one_m, other_m) > least_m) | (np.maximum(one_m, other_m) < -least_m)
            inner = np.ones(depth_m.shape[axis], bool)
            inner[:off] = inner[-off:] = False  # np.roll joins the picture's opposite sides
            flying |= is_between & (inner[:, None] if axis == 0 else inner[None])
    return flying & known


def _noise_ratio(height_m: Float32, rays: Float32, smooth_m: Float32) -> float:
    """Estimate the deviation of smoothed depth over its square from the table's points.

    It is bounded, so that what covers half of a table does not pass for its noise: beyond, noise counts as things.
    """
    part = np.s_[::_LEVEL_STEP_PX, ::_LEVEL_STEP_PX]
    return deviation_of(table_ratio(height_m[part], rays[part], smooth_m[part]))


def table_ratio(height_m: Float32, rays: Float32, smooth_m: Float32) -> Float32:
    """By how much depth (h, w) of the table is off, over its square, 1/m; NaN where no table shows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        off_m = height_m / rays[..., 2]
        return np.where(np.abs(off_m) < _NEAR_TABLE_M, off_m / smooth_m**2, np.float32(np.nan)).astype(np.float32)


def deviation_of(ratio: Float32) -> float:
    """Estimate the standard deviation of noise (n,), metres over metres squared, by its median; NaN is left out."""
    known = np.abs(ratio[np.isfinite(ratio)])
    return min(1.4826 * float(np.median(known)), MOST_NOISE_RATIO) if len(known) else 0.0


def smoothed(depth_m: Float32) -> Float32:
    """Fill small holes within one surface from their neighbours, then apply a 5x5 median filter."""
    known = np.isfinite(depth_m)
    filled = np.where(known, depth_m, np.float32(0))
    weight = cv2.blur(known.astype(np.float32), (3, 3))
    mean = cv2.blur(filled, (3, 3)) / np.maximum(weight, 1e-6)
    window = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(filled, window) - cv2.erode(np.where(known, depth_m, np.float32(100.0)), window)
    usable = known | ((weight > 0.2) & (spread < _FILL_RATIO * mean))
    filled = np.where(known, filled, np.where(usable, mean, np.float32(100.0))).astype(np.float32)
    smooth_m = cv2.medianBlur(filled, 5)
    return np.where(usable & (smooth_m < 50.0), smooth_m, np.float32(np.nan))


def _rays(k: Intrinsics, R_base_camera: Array, step_px: int = 1) -> Float32:
    u = (np.arange(0, k.width_px, step_px, dtype=np.float32) - np.float32(k.cx_px)) / np.float32(k.fx_px)
    v = (np.arange(0, k.height_px, step_px, dtype=np.float32) - np.float32(k.cy_px)) / np.float32(k.fy_px)
    R = R_base_camera.astype(np.float32)
    rays: Float32 = u[None, :, None] * R[:, 0] + v[:, None, None] * R[:, 1] + R[:, 2]
    return rays


def _level(frame: CameraFrame, depth_m: Float32) -> tuple[Array, float, float]:
    """Turn and lift the published camera pose until the table lies in z = 0; also return tilt (degrees), offset (m).

    The error of the published orientation is a rotation about the camera's centre, so the correction is one, too.
    """
    step = _LEVEL_STEP_PX if min(depth_m.shape) >= 240 else 2
    rays = _rays(frame.intrinsics, frame.T_base_camera[:3, :3], step)
    points = depth_m[::step, ::step, None] * rays
    arm_m = points[np.isfinite(points[..., 2])].astype(np.float64)  # from the camera's centre
    needed = _MIN_TABLE_RATIO * points.shape[0] * points.shape[1]
    plane, residual_m = _fit_table(arm_m, float(frame.T_base_camera[2, 3]))
    count = int((np.abs(residual_m) < _GATES_M[-1]).sum())
    if count < needed:
        raise ObservationError(f"{count} of {arm_m.shape[0]} depth points lie on the table, {needed:.0f} are needed")
    tilt = rotation_from_rotvec(_tilt_to_level(plane))
    tilt_deg = float(np.rad2deg(np.arctan(np.hypot(plane[0], plane[1]))))
    offset_m = float(plane @ [*(np.array([0.45, 0.0]) - frame.T_base_camera[:2, 3]), 1.0]) + frame.T_base_camera[2, 3]
    if abs(offset_m) > MAX_OFFSET_M or tilt_deg > MAX_TILT_DEG:
        raise ObservationError(
            f"the table lies {offset_m * 1000:.0f} mm high and {tilt_deg:.1f} deg tilted in the calibrated frame, "
            f"at most {MAX_OFFSET_M * 1000:.0f} mm and {MAX_TILT_DEG:.0f} deg are allowed; calibrate the camera"
        )
    R = tilt @ frame.T_base_camera[:3, :3]
    depth_below_m = plane[2] / np.sqrt(1.0 + plane[0] ** 2 + plane[1] ** 2)
    return make_pose([*frame.T_base_camera[:2, 3], -depth_below_m], R), tilt_deg, float(offset_m)


def _fit_table(arm_m: Array, camera_height_m: float) -> tuple[Array, Array]:
    """Fit a plane z = a x + b y + c robustly to camera-centred points near the table; also return all residuals."""
    plane = np.array([0.0, 0.0, -camera_height_m])
    residual_m = arm_m[:, 2] - plane[2]
    near = np.abs(residual_m) < 0.05
    if near.sum() >= 20:
        counts, edges = np.histogram(residual_m[near], bins=50, range=(-0.05, 0.05))
        smooth = np.convolve(counts, [1, 1, 1], mode="same")
        plane[2] += float(edges[int(np.argmax(smooth))] + 0.001)
    design = np.column_stack([arm_m[:, :2], np.ones(len(arm_m))])
    for gate_m in _GATES_M:
        residual_m = arm_m[:, 2] - design @ plane
        chosen = np.abs(residual_m) < gate_m
        if chosen.sum() < 20:
            break
        plane = np.linalg.lstsq(design[chosen], arm_m[chosen, 2], rcond=None)[0]
    return plane, arm_m[:, 2] - design @ plane


def _tilt_to_level(plane: Array) -> Array:
    """Compute the rotation vector (3,) that turns the plane's normal upright."""
    normal = np.array([-plane[0], -plane[1], 1.0])
    normal /= np.linalg.norm(normal)
    axis = np.cross(normal, [0.0, 0.0, 1.0])
    sine = float(np.linalg.norm(axis))
    return axis * (np.arcsin(min(sine, 1.0)) / sine if sine > 1e-12 else 0.0)


def _robot_pixels(view: LevelledView, observation: Observation, kinematics: Kinematics) -> Mask:
    """Mark pixels whose point lies within about ROBOT_MARGIN_M of a link's hull."""
    rows, cols = np.nonzero(view.height_m[::2, ::2] > 0.004)
    points = view.origin_m + view.smooth_m[::2, ::2][rows, cols, None] * view.rays[::2, ::2][rows, cols]
    state = observation.robot
    is_robot = np.zeros(len(points), bool)
    for link, T_base_link in kinematics.link_poses(state.q_rad, state.gripper_width_m).items():
        hull_m = kinematics.link_hulls.get(link)
        if hull_m is not None and len(hull_m):
            is_robot |= _inside(points, transform(T_base_link, hull_m), ROBOT_MARGIN_M)
    half = np.zeros(view.height_m[::2, ::2].shape, np.uint8)
    half[rows, cols] = is_robot
    height, width = view.depth_m.shape
    grown = cv2.dilate(half, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(grown, (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _fibonacci(count: int) -> Array:
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    return np.column_stack([r * np.cos(angle), r * np.sin(angle), z])


_NORMALS = np.vstack([np.eye(3), -np.eye(3), _fibonacci(_DIRECTIONS)])


def _inside(points_m: Array, hull_m: Array, margin_m: float) -> Mask:
    """Check whether points (n, 3) lie in the polytope around the hull's vertices, grown by the margin."""
    reach_m = (hull_m @ _NORMALS.T).max(axis=0) + margin_m
    inside: Mask = ((points_m <= reach_m[:3]) & (-points_m <= reach_m[3:6])).all(axis=1)
    chosen = np.flatnonzero(inside)
    inside[chosen] = (points_m[chosen] @ _NORMALS[6:].T <= reach_m[6:]).all(axis=1)
    return inside
