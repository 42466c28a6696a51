"""A depth frame and a scene → boxes of space that the camera has not seen; numpy only.

The camera has seen a cell if the cell lies in front of the surface in its pixel. Unseen space counts as occupied if it
is large enough to hide something. The fitted shapes, and room for the fingers around the targets, are exempt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert, read_only, transform
from qwen2vl_robot.messages import CameraFrame, Scene, SceneObject, shape_size_m

_CELL_M = 0.02
_BEHIND_M = 0.015  # a cell this close behind the surface touches it, and the surface was seen
_BASE_M = 0.25  # space closer to the robot's axis does not matter
_SMALLEST_CELLS = 2  # a space smaller than this many cells each way cannot hide anything relevant
_FINGER_ROOM_M = 0.015  # added to the fingers' thickness

_Cells = npt.NDArray[np.bool_]


def unseen_space(
    frame: CameraFrame, measured: Scene, scene: Scene, profile: RobotProfile, targets: tuple[str | None, ...]
) -> Array:
    """Compute boxes (k, 2, 3), lowest and highest corners, base frame, into which the frame has no view.

    Args:
        measured: the scene measured from this frame.
        scene: the predicted scene when the motion begins; the measured one for the first motion.
        targets: names of the bodies that the motion handles; the fingers may enter the space close around them.
    """
    low, count = _grid(scene, profile)
    if count[2] == 0:
        return read_only(np.zeros((0, 2, 3)))
    index = np.indices(tuple(count)).reshape(3, -1).T
    p_base_m = low + (index + 0.5) * _CELL_M
    is_hidden = ~_is_seen(frame, p_base_m) & (np.hypot(p_base_m[:, 0], p_base_m[:, 1]) > _BASE_M)
    room_m = profile.gripper.finger_thickness_m + _FINGER_ROOM_M
    for body in (*measured.bodies(), *scene.bodies()):
        if is_hidden.any() and body.name != scene.held:
            is_hidden &= ~_is_in(body, p_base_m, room_m if body.name in targets else _CELL_M / 2)
    return read_only(_boxes(_large_enough(is_hidden.reshape(tuple(count))), low))


def _grid(scene: Scene, profile: RobotProfile) -> tuple[Array, npt.NDArray[np.int_]]:
    """Compute the lowest corner (3,) and the cell counts (3,) of a grid over the workspace, up to the set height."""
    low = np.array([*profile.workspace.min_m[:2], scene.table_height_m])
    high = np.array([*profile.workspace.max_m[:2], scene.table_height_m + profile.safety.unseen_below_m])
    return low, np.round((high - low) / _CELL_M).astype(int)


def _is_seen(frame: CameraFrame, p_base_m: Array) -> _Cells:
    """Check whether the pixel of each point (k, 3) shows a surface behind the point, or close to it."""
    k = frame.intrinsics
    p_m = transform(invert(frame.T_base_camera), p_base_m)
    z_m = np.where(p_m[:, 2] > 1e-3, p_m[:, 2], np.nan)
    u, v = k.fx_px * p_m[:, 0] / z_m + k.cx_px, k.fy_px * p_m[:, 1] / z_m + k.cy_px
    is_in = (u >= 0) & (u <= k.width_px - 1) & (v >= 0) & (v <= k.height_px - 1)
    seen = np.zeros(len(p_m), dtype=bool)
    for du, dv in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)):  # a hole in the depth is not a wall
        column = np.clip(np.round(np.where(is_in, u, 0)) + du, 0, k.width_px - 1).astype(int)
        row = np.clip(np.round(np.where(is_in, v, 0)) + dv, 0, k.height_px - 1).astype(int)
        seen |= is_in & (frame.depth_m[row, column] >= z_m - _BEHIND_M)
    return seen


def _is_in(body: SceneObject, p_base_m: Array, room_m: float) -> _Cells:
    """Check whether points (k, 3) lie in the body's box, enlarged on all sides."""
    p_m = np.abs(transform(invert(body.T_base_object), p_base_m))
    inside: _Cells = np.all(p_m <= np.array(shape_size_m(body.shape)) / 2 + room_m, axis=1)
    return inside


def _large_enough(hidden: _Cells) -> _Cells:
    """Keep the cells that belong to a hidden cube of the smallest size (a morphological opening)."""
    n = _SMALLEST_CELLS
    if min(hidden.shape) < n:
        return hidden
    shape = tuple(size - n + 1 for size in hidden.shape)
    offsets = [(x, y, z) for x in range(n) for y in range(n) for z in range(n)]
    cubes = np.ones(shape, dtype=bool)
    for x, y, z in offsets:
        cubes &= hidden[x : x + shape[0], y : y + shape[1], z : z + shape[2]]
    kept = np.zeros_like(hidden)
    for x, y, z in offsets:
        kept[x : x + shape[0], y : y + shape[1], z : z + shape[2]] |= cubes
    return kept


def _boxes(cells: _Cells, low: Array) -> Array:
    """Cover the cells exactly with boxes (k, 2, 3): along x, then y, then z as far as each one goes."""
    left = cells.copy()
    found = []
    for x, y, z in np.argwhere(cells).tolist():
        if not left[x, y, z]:
            continue
        end = [x + 1, y + 1, z + 1]
        while end[0] < left.shape[0] and left[end[0], y, z]:
            end[0] += 1
        while end[1] < left.shape[1] and left[x : end[0], end[1], z].all():
            end[1] += 1
        while end[2] < left.shape[2] and left[x : end[0], y : end[1], end[2]].all():
            end[2] += 1
        left[x : end[0], y : end[1], z : end[2]] = False
        found.append([[x, y, z], end])
    return low + np.array(found, dtype=np.float64).reshape(-1, 2, 3) * _CELL_M
