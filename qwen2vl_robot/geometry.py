"""Poses, intrinsics and projection, with numpy only.

Poses are 4x4 homogeneous matrices named `T_ref_target`; points are `(n, 3)` in metres; quaternions are
`quat_xyzw`; camera frames are optical (x right, y down, z forward).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_UPRIGHT = np.eye(3)


def read_only(values: npt.ArrayLike, shape: tuple[int | None, ...] | None = None) -> Array:
    """Copy into a read-only float64 array and check its shape (None matches any length).

    Raises:
        ValueError: the shape differs.
    """
    array = np.array(values, dtype=np.float64)
    if shape is not None and (
        array.ndim != len(shape)
        or any(want is not None and want != got for want, got in zip(shape, array.shape, strict=True))
    ):
        raise ValueError(f"shape {array.shape} given, {shape} needed")
    array.setflags(write=False)
    return array


def make_pose(p_m: npt.ArrayLike, R: npt.ArrayLike | None = None) -> Array:
    """Build `T_ref_target` (4, 4) from a translation (3,) in metres and a rotation (3, 3)."""
    T = np.zeros((4, 4))
    T[:3, :3] = _UPRIGHT if R is None else R
    T[:3, 3] = p_m
    T[3, 3] = 1.0
    return T


def invert(T: Array) -> Array:
    """Invert a rigid pose.

    >>> bool(np.allclose(invert(make_pose([1, 2, 3])) @ make_pose([1, 2, 3]), np.eye(4)))
    True
    """
    R_inverse = T[:3, :3].T
    return make_pose(-R_inverse @ T[:3, 3], R_inverse)


def transform(T_ref_target: Array, p_target_m: Array) -> Array:
    """Express points (..., 3) of the target frame in the reference frame, metres."""
    moved: Array = p_target_m @ T_ref_target[:3, :3].T + T_ref_target[:3, 3]
    return moved


def rotation_z(angle_rad: float) -> Array:
    """Build the rotation matrix (3, 3) about z."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_from_rotvec(rotvec_rad: npt.ArrayLike) -> Array:
    """Convert a rotation vector (3,), radians, to a rotation matrix (3, 3) (Rodrigues' formula)."""
    v = np.asarray(rotvec_rad, dtype=np.float64)
    angle_rad = float(np.linalg.norm(v))
    if angle_rad < 1e-12:
        return np.eye(3)
    x, y, z = v / angle_rad
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    R: Array = np.eye(3) + np.sin(angle_rad) * K + (1.0 - np.cos(angle_rad)) * (K @ K)
    return R


def quat_from_rotation(R: npt.ArrayLike) -> Array:
    """Convert a rotation matrix (3, 3) to a unit quaternion `quat_xyzw` (4,) with w >= 0."""
    m = np.asarray(R, dtype=np.float64)
    if (m == _UPRIGHT).all():  # of most bodies, and of hundreds in unseen space
        return np.array([0.0, 0.0, 0.0, 1.0])
    # Bar-Itzhack's symmetric form: the eigenvector of the largest eigenvalue is the quaternion.
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0.0, 0.0, 0.0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0.0, 0.0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0.0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m.trace()],
        ]
    )
    quat: Array = np.linalg.eigh(k)[1][:, 3]
    return quat if quat[3] >= 0.0 else -quat


def rotation_from_quat(quat_xyzw: npt.ArrayLike) -> Array:
    """Convert a quaternion (4,), which is normalised first, to a rotation matrix (3, 3).

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    x, y, z, w = np.asarray(quat_xyzw, dtype=np.float64).tolist()  # plain numbers: this runs at every look at a body
    length = math.hypot(x, y, z, w)
    if not math.isfinite(length) or length < 1e-6:
        raise ValueError(f"quaternion {[x, y, z, w]} has no direction; give four finite numbers, not all zero")
    x, y, z, w = x / length, y / length, z / length, w / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def look_at(p_eye_m: npt.ArrayLike, p_target_m: npt.ArrayLike, roll_rad: float = 0.0) -> Array:
    """Build `T_ref_camera` (4, 4) of an optical frame at the eye that looks at the target, y down."""
    eye = np.asarray(p_eye_m, dtype=np.float64)
    z = np.asarray(p_target_m, dtype=np.float64) - eye
    z = z / np.linalg.norm(z)
    up = np.array([0.0, 0.0, 1.0]) if abs(z[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
    x = np.cross(z, up)
    x = x / np.linalg.norm(x)
    R = np.column_stack([x, np.cross(z, x), z])
    return make_pose(eye, R @ rotation_z(roll_rad))


def deproject(depth_m: npt.NDArray[np.float32], fx_px: float, fy_px: float, cx_px: float, cy_px: float) -> Array:
    """Compute points (h, w, 3) in the optical camera frame, metres; NaN where depth is missing."""
    h, w = depth_m.shape
    z = depth_m.astype(np.float64)
    x = (np.arange(w)[None, :] - cx_px) / fx_px * z
    y = (np.arange(h)[:, None] - cy_px) / fy_px * z
    return np.stack([x, y, z], axis=-1)


def project(p_camera_m: Array, fx_px: float, fy_px: float, cx_px: float, cy_px: float) -> Array:
    """Project points (..., 3) of the optical frame to pixels (..., 2), (u, v); NaN behind the camera."""
    z = np.where(p_camera_m[..., 2] > 1e-6, p_camera_m[..., 2], np.nan)
    pixels: Array = np.stack([p_camera_m[..., 0] / z * fx_px + cx_px, p_camera_m[..., 1] / z * fy_px + cy_px], axis=-1)
    return pixels


def shared_area(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Compute the common area of rectangles x0, y0, x1, y1 (..., 4), in their unit squared; 0 if only edges touch."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return np.asarray(np.maximum(sides, 0.0).prod(axis=-1))


def intersection_over_union(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Compute shared area over joint area of rectangles x0, y0, x1, y1 (..., 4); one with x1 < x0 or y1 < y0 is empty.

    >>> float(intersection_over_union([0, 0, 2, 1], [1, 0, 3, 1]))
    0.3333333333333333
    """
    both = shared_area(a, b)
    union = shared_area(a, a) + shared_area(b, b) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0.0)
