"""A depth frame and a scene → boxes of space that no camera has seen; numpy only.

A camera has seen a cell if the cell lies in front of the surface in its pixel. Unseen space counts as occupied if it
is large enough to hide something. The fitted shapes, the arm itself, and room for the fingers around the targets are
exempt, and so is, above the height up to which things stand, what a person vouches for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert, read_only, transform
from qwen2vl_robot.messages import CameraFrame, Hull, Scene, SceneObject, shape_size_m

_NAME = "unseen space "
_CELL_M = 0.02
_HIGH_CELL_M = 0.04  # above the height up to which things stand
_SMALLEST_M = 0.04  # a space smaller than this each way hides nothing relevant
_BEHIND_M = 0.015  # a cell this close behind the surface touches it, and the surface was seen
_CLOSE_BEHIND_M = 0.006  # the same close around a target, where depth and calibration err by less
_BASE_M = 0.25  # space closer to the robot's axis does not matter
_FINGER_ROOM_M = 0.015  # added to the fingers' thickness
_NARROW_CELL_M, _NARROWEST_M = 0.01, 0.02  # the same close around a target, where fingers have to go

_Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of space without a look.

    Attributes:
        free_m: (k, 2, 3) lowest and highest corners of boxes of which a person vouches that nothing is ever there.
        arm: the arm where it is when the motion begins; nothing else can be there.
    """

    free_m: Array
    arm: tuple[SceneObject, ...]


def unseen_name(index: int) -> str:
    """Name a box of `Scene.unseen_m` as a body of a sweep."""
    return f"{_NAME}{index + 1}"


def unseen_index(name: str) -> int | None:
    """The index in `Scene.unseen_m` of a body of a sweep; None where it is something else."""
    return int(name.removeprefix(_NAME)) - 1 if name.startswith(_NAME) else None


def unseen_space(
    frame: CameraFrame,
    measured: Scene,
    scene: Scene,
    profile: RobotProfile,
    targets: tuple[str | None, ...],
    known: Known,
) -> Array:
    """Compute boxes (k, 2, 3), lowest and highest corners, base frame, of the workspace into which no camera looked.

    Args:
        frame: with the frames of further cameras.
        measured: the scene measured from this frame.
        scene: the predicted scene when the motion begins; the measured one for the first motion.
        targets: names of the bodies that the motion handles; the fingers may enter the space close around them.
    """
    rooms = _rooms(measured, scene, known, _finger_room_m(profile), targets)
    workspace, limit_m = profile.workspace, scene.table_height_m + profile.safety.things_below_m
    below = np.array([[*workspace.min_m[:2], scene.table_height_m], [*workspace.max_m[:2], limit_m]])
    above = np.array([[*workspace.min_m[:2], limit_m], workspace.max_m])
    low_m = _unseen_in(below, _CELL_M, frame, rooms, np.zeros((0, 2, 3)))
    high_m = _unseen_in(above, _HIGH_CELL_M, frame, rooms, known.free_m)
    return read_only(np.concatenate([low_m, high_m]))


def shadow_space(
    frame: CameraFrame,
    measured: Scene,
    scene: Scene,
    profile: RobotProfile,
    targets: tuple[str | None, ...],
    known: Known,
) -> Array:
    """Compute boxes (k, 2, 3) of the room close around the targets that `unseen_space` leaves out, and nobody has seen.

    It counts where a cube of 2 cm could be that no pixel shows, with all that is joined to it: a thing may taper.
    """
    near = [body for body in (*measured.bodies(), *scene.bodies()) if body.name in targets and body.name != scene.held]
    rooms = _rooms(measured, scene, known, _NARROW_CELL_M / 2, ())
    found = [np.zeros((0, 2, 3))]
    for body in near:
        half_m = np.abs(body.T_base_object[:3, :3]) @ (np.array(shape_size_m(body.shape)) / 2) + _finger_room_m(profile)
        low_m, high_m = body.T_base_object[:3, 3] - half_m, body.T_base_object[:3, 3] + half_m
        low_m[2] = max(low_m[2], scene.table_height_m)
        count = np.maximum(np.ceil((high_m - low_m) / _NARROW_CELL_M).astype(int), 0)
        middles_m = low_m + (np.indices(tuple(count)).reshape(3, -1).T + 0.5) * _NARROW_CELL_M
        is_hidden = _is_in(body, middles_m, _finger_room_m(profile))
        for other, room_m in rooms:
            is_hidden[is_hidden] = ~_is_in(other, middles_m[is_hidden], room_m)
        for corner in np.array(list(product((-0.4, 0.4), repeat=3))) * _NARROW_CELL_M:
            for seen in (frame, *frame.others):
                is_hidden[is_hidden] = ~_is_seen(seen, middles_m[is_hidden] + corner, _CLOSE_BEHIND_M)
        hidden = is_hidden.reshape(tuple(count))
        shadow = _joined_to(_large_enough(hidden, round(_NARROWEST_M / _NARROW_CELL_M)), hidden)
        found.append(_boxes(shadow, low_m, _NARROW_CELL_M))
    return read_only(np.concatenate(found))


def _finger_room_m(profile: RobotProfile) -> float:
    return profile.gripper.finger_thickness_m + _FINGER_ROOM_M


def _rooms(
    measured: Scene, scene: Scene, known: Known, target_room_m: float, targets: tuple[str | None, ...]
) -> list[tuple[SceneObject, float]]:
    """List what is known to fill space, each with the room around it that is not looked at."""
    bodies = [body for body in (*measured.bodies(), *scene.bodies()) if body.name != scene.held]
    rooms = [(body, target_room_m if body.name in targets else _CELL_M / 2) for body in bodies]
    return rooms + [(link, _HIGH_CELL_M / 2) for link in known.arm]


def _unseen_in(
    space_m: Array, cell_m: float, frame: CameraFrame, rooms: list[tuple[SceneObject, float]], free_m: Array
) -> Array:
    """Compute the unseen boxes (k, 2, 3) of a space (2, 3) in cells of one size."""
    count = np.ceil(np.maximum(space_m[1] - space_m[0], 0.0) / cell_m - 1e-6).astype(int)
    p_base_m = space_m[0] + (np.indices(tuple(count)).reshape(3, -1).T + 0.5) * cell_m
    is_hidden = np.hypot(p_base_m[:, 0], p_base_m[:, 1]) > _BASE_M
    for low_m, high_m in free_m:
        is_hidden &= ~((p_base_m - cell_m / 2 >= low_m - 1e-9) & (p_base_m + cell_m / 2 <= high_m + 1e-9)).all(axis=1)
    for seen in (frame, *frame.others):
        is_hidden[is_hidden] = ~_is_seen(seen, p_base_m[is_hidden])
    for body, room_m in rooms:
        is_hidden[is_hidden] = ~_is_in(body, p_base_m[is_hidden], room_m)
    hidden = _large_enough(is_hidden.reshape(tuple(count)), round(_SMALLEST_M / cell_m))
    return _boxes(hidden, space_m[0], cell_m)


def _joined_to(kept: _Cells, hidden: _Cells) -> _Cells:
    """Grow cells within hidden ones, by neighbours that share a side (a morphological reconstruction)."""
    grown = np.zeros_like(kept)
    while (kept != grown).any():
        grown, kept = kept, kept.copy()
        for axis in range(3):
            along, into = np.moveaxis(grown, axis, 0), np.moveaxis(kept, axis, 0)
            into[1:] |= along[:-1]
            into[:-1] |= along[1:]
        kept &= hidden
    return kept


def _is_seen(frame: CameraFrame, p_base_m: Array, behind_m: float = _BEHIND_M) -> _Cells:
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
        seen |= is_in & (frame.depth_m[row, column] >= z_m - behind_m)
    return seen


def _is_in(body: SceneObject, p_base_m: Array, room_m: float) -> _Cells:
    """Check whether points (k, 3) lie in the body's box, or in one of those that hold it, enlarged on all sides."""
    p_m = transform(invert(body.T_base_object), p_base_m)
    half_m = np.array(shape_size_m(body.shape)) / 2
    boxes_m = body.shape.boxes_m if isinstance(body.shape, Hull) else ()
    inside = np.zeros(len(p_m), dtype=bool)
    for low_m, high_m in boxes_m or ((-half_m, half_m),):
        inside |= ((p_m >= np.array(low_m) - room_m) & (p_m <= np.array(high_m) + room_m)).all(axis=1)
    return inside


def _large_enough(hidden: _Cells, n: int) -> _Cells:
    """Keep the cells that belong to a hidden cube of n cells each way (a morphological opening)."""
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


def _boxes(cells: _Cells, low_m: Array, cell_m: float) -> Array:
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
    return low_m + np.array(found, dtype=np.float64).reshape(-1, 2, 3) * cell_m
