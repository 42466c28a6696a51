"""A world and a camera pose → colours, depth and the true names of what is visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet.client import Client, pybullet
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Intrinsics

_NEAR_M, _FAR_M = 0.05, 5.0
_MOST_PX = 8192

Rendering = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.str_]]
Bodies = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Light:
    """Direction of the light (base frame) and its strength, ratios."""

    direction: tuple[float, float, float] = (0.3, 0.3, 1.0)
    ambient: float = 0.55
    diffuse: float = 0.45


def render(client: Client, k: Intrinsics, T_base_camera: Array, light: Light) -> Rendering:
    """Render a picture from an optical camera frame with Bullet's software renderer.

    Returns:
        rgb (h, w, 3) uint8; depth (h, w) float32 in metres, NaN in empty pixels; names (h, w) of the
        visible bodies ("" in empty pixels, "robot" for every link). The names are the plant's truth.

    Raises:
        ValueError: the size is impossible, or the pose is not finite.
    """
    rgb, buffer, ids = _shoot(client, k, T_base_camera, light)
    z = np.asarray(buffer, dtype=np.float64)
    depth_m = _FAR_M * _NEAR_M / (_FAR_M - (_FAR_M - _NEAR_M) * z)
    depth_m[ids < 0] = np.nan
    return rgb, depth_m.astype(np.float32), _names(client, ids)


def render_bodies(client: Client, k: Intrinsics, T_base_camera: Array, light: Light) -> Bodies:
    """Render a picture as `render` does, without depth.

    Returns:
        rgb (h, w, 3) uint8; Bullet's id of the visible body (h, w), -1 in empty pixels.
    """
    rgb, _, ids = _shoot(client, k, T_base_camera, light)
    return rgb, ids


def _shoot(
    client: Client, k: Intrinsics, T_base_camera: Array, light: Light
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Take a picture: rgb (h, w, 3), what Bullet has as depth (h, w), and ids of bodies (h, w).

    Raises:
        ValueError: see `render`.
    """
    if not (0 < k.width_px <= _MOST_PX and 0 < k.height_px <= _MOST_PX and np.isfinite(T_base_camera).all()):
        raise ValueError(f"an image of {k.width_px}x{k.height_px} px from a finite pose is needed")
    _, _, rgba, buffer, mask = pybullet.getCameraImage(
        k.width_px,
        k.height_px,
        _view_matrix(T_base_camera),
        _projection_matrix(k),
        lightDirection=list(light.direction),
        lightAmbientCoeff=light.ambient,
        lightDiffuseCoeff=light.diffuse,
        lightSpecularCoeff=0.05,
        shadow=0,
        renderer=pybullet.ER_TINY_RENDERER,
        physicsClientId=client.id,
    )
    shape = (k.height_px, k.width_px)
    rgb = np.asarray(rgba, dtype=np.uint8).reshape(*shape, 4)[:, :, :3].copy()
    return rgb, np.asarray(buffer).reshape(shape), np.asarray(mask).reshape(shape)


def _names(client: Client, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.str_]:
    """Look up the names (h, w) of body ids (h, w); unknown ids belong to the robot."""
    known = {body: name for name, body in client.bodies.items()} | {-1: ""}
    table = np.array([known.get(body, "robot") for body in range(-1, int(ids.max(initial=-1)) + 1)])
    names: npt.NDArray[np.str_] = table[np.maximum(ids, -1) + 1]
    return names


def _view_matrix(T_base_camera: Array) -> Sequence[float]:
    """Build the OpenGL view matrix (column-major) of an optical camera frame."""
    T_base_gl = T_base_camera @ np.diag([1.0, -1.0, -1.0, 1.0])
    view: list[float] = np.linalg.inv(T_base_gl).T.ravel().tolist()
    return view


def _projection_matrix(k: Intrinsics) -> Sequence[float]:
    """Build the OpenGL projection matrix (column-major) of pinhole intrinsics; pixel centres at whole numbers."""
    w, h = k.width_px, k.height_px
    matrix = np.zeros((4, 4))
    matrix[0, 0] = 2.0 * k.fx_px / w
    matrix[1, 1] = 2.0 * k.fy_px / h
    matrix[0, 2] = 1.0 - 2.0 * (k.cx_px + 0.5) / w
    matrix[1, 2] = 2.0 * (k.cy_px + 0.5) / h - 1.0
    matrix[2, 2] = -(_FAR_M + _NEAR_M) / (_FAR_M - _NEAR_M)
    matrix[2, 3] = -2.0 * _FAR_M * _NEAR_M / (_FAR_M - _NEAR_M)
    matrix[3, 2] = -1.0
    projection: list[float] = matrix.T.ravel().tolist()
    return projection
