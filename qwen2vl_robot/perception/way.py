"""A motion and what it carries → when arm and load leave each place for good: what of their way is still to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array, invert, transform
from qwen2vl_robot.kinematics import Kinematics, hull_planes
from qwen2vl_robot.messages import GripperSegment, JointSegment, Motion, Rehearsed, shape_size_m
from qwen2vl_robot.perception.view import Mask

ROOM_M = 0.1  # around arm and load: at 0.25 m/s a thing needs 0.4 s for it
_CELL_M = 0.02
_GROWN_CELLS = 6  # the room, and one cell because points are put into cells
_STEP_M = 0.04  # no point of the arm goes further between two of its places
_LATE_S = 0.3  # an arm follows its commands by so much later at most


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What the fingers carry, and from when to when in the motion's own time.

    Attributes:
        size_m: of the cuboid around it, whose pose in the tool frame is `T_tool_load` (4, 4).
    """

    name: str
    size_m: Array
    T_tool_load: Array
    from_s: float
    until_s: float

    def is_carried(self, at_s: float) -> bool:
        return self.from_s <= at_s <= self.until_s


def load_of(step: Rehearsed, kinematics: Kinematics) -> Load | None:
    """What a rehearsed motion carries: what is held when it begins, or what its fingers close on."""
    motion, scene, effect = step.motion, step.scene, step.motion.effect
    grips = [s for s in motion.segments if isinstance(s, GripperSegment)]
    if scene.held is not None and scene.T_tool_held is not None:
        until_s = grips[0].end_s if grips and effect.kind == "release" else np.inf
        size_m = np.array(shape_size_m(scene.find(scene.held).shape))
        return Load(scene.held, size_m, scene.T_tool_held, -np.inf, until_s)
    if effect.kind != "hold" or effect.name is None or not grips:
        return None
    target, close = scene.find(effect.name), grips[-1]
    times_s, joints = _joints(motion, step.start.q_rad)
    at = joints[int(np.searchsorted(times_s, close.start_s, side="right")) - 1]
    T_tool_load = invert(kinematics.tool_pose(at, close.meets_m)) @ target.T_base_object
    return Load(target.name, np.array(shape_size_m(target.shape)), T_tool_load, close.start_s, np.inf)


def box_points(size_m: Array, step_m: float = _CELL_M) -> Array:
    """Return points (n, 3) all over a centred box, its corners among them."""
    axes = [np.linspace(-side / 2, side / 2, int(np.ceil(side / step_m)) + 1) for side in size_m]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def link_points(kinematics: Kinematics) -> dict[str, Array]:
    """Return points (n, 3) all over the hull of each moving link, link frame."""
    found = {}
    for link, hull_m in kinematics.link_hulls.items():
        if link not in kinematics.moving_links or not len(hull_m):
            continue
        low_m, high_m = hull_m.min(axis=0), hull_m.max(axis=0)
        points_m = box_points(high_m - low_m) + (low_m + high_m) / 2
        normals, offsets_m = hull_planes(hull_m)
        inside = (points_m @ normals.T <= offsets_m + 1e-6).all(axis=1)
        found[link] = np.vstack([points_m[inside], hull_m])
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """Cells of space, and when arm and load leave each of them for good.

    Attributes:
        low_m: (3,) lowest corner, base frame.
        last_s: (x, y, z) in the motion's own time, with room around arm and load; -inf where they never are.
    """

    low_m: Array
    last_s: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls,
        motion: Motion,
        q_rad: Array,
        width_m: float,
        kinematics: Kinematics,
        parts: dict[str, Array],
        load: Load | None,
    ) -> Way:
        """Sweep a motion.

        Args:
            q_rad, width_m: joints (n,) and opening when it begins.
            parts: `link_points` of the arm.
        """
        times_s, joints = _places(motion, q_rad)
        swept = []
        for at_s, q in zip(times_s, joints, strict=True):
            poses = kinematics.link_poses(q, width_m)
            points = [transform(poses[link], points_m) for link, points_m in parts.items()]
            if load is not None and load.is_carried(at_s):
                T_base_load = poses[kinematics.profile.tool_link] @ load.T_tool_load
                points.append(transform(T_base_load, box_points(load.size_m)))
            swept.append(np.vstack(points).astype(np.float32))
        room_m = (_GROWN_CELLS + 1) * _CELL_M
        low_m = np.min([points_m.min(axis=0) for points_m in swept], axis=0) - room_m
        high_m = np.max([points_m.max(axis=0) for points_m in swept], axis=0) + room_m
        last_s = np.full(tuple(np.ceil((high_m - low_m) / _CELL_M).astype(int)), -np.inf, np.float32)
        for at_s, points_m in zip(times_s, swept, strict=True):  # later times come later
            last_s[tuple(((points_m - low_m) / _CELL_M).astype(int).T)] = at_s
        return cls(low_m, _grown(last_s))

    def is_ahead(self, points_m: Array, at_s: float) -> Mask:
        """Mark the points (..., 3), base frame, where arm or load still come, or are, at a time of the motion."""
        with np.errstate(invalid="ignore"):
            cells = np.floor((points_m - self.low_m) / _CELL_M)
            inside = np.asarray(((cells >= 0) & (cells < self.last_s.shape)).all(axis=-1))
        x, y, z = np.moveaxis(np.where(inside[..., None], cells, 0).astype(np.intp), -1, 0)
        ahead: Mask = inside & (self.last_s[x, y, z] >= at_s - _LATE_S)
        return ahead


def _joints(motion: Motion, q_rad: Array) -> tuple[Array, Array]:
    """Return times (k,) and joints (k, n) of a motion, where it begins first."""
    pieces = [s for s in motion.segments if isinstance(s, JointSegment)]
    times_s = np.concatenate([[0.0], *(s.time_s for s in pieces)])
    return times_s, np.concatenate([np.asarray(q_rad)[None], *(s.q_rad for s in pieces)])


def _places(motion: Motion, q_rad: Array) -> tuple[Array, Array]:
    """Thin a motion to places so close to each other that nothing fits between; each with its latest time."""
    times_s, joints = _joints(motion, q_rad)
    turned_rad = np.abs(np.diff(joints, axis=0)).sum(axis=1)  # no point is further than a metre from a joint's axis
    which = np.floor(np.concatenate([[0.0], np.cumsum(turned_rad)]) / _STEP_M).astype(int)
    latest = np.flatnonzero(np.append(which[1:] != which[:-1], True))
    until_s = np.append(times_s[latest[:-1] + 1], max(motion.duration_s, times_s[-1]))  # it stays until it goes on
    return until_s, joints[latest]


def _grown(last_s: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grow what is swept by a ball of `_GROWN_CELLS` cells, as octahedra and cubes in turn."""
    for round_ in range(_GROWN_CELLS):
        axes_at_once = round_ % 2 == 1
        grown = last_s.copy()
        for axis in range(3):
            source = grown.copy() if axes_at_once else last_s
            ahead, behind = (tuple(_cut(axis, side)) for side in (1, -1))
            np.maximum(grown[ahead], source[behind], out=grown[ahead])
            np.maximum(grown[behind], source[ahead], out=grown[behind])
        last_s = grown
    return last_s


def _cut(axis: int, side: int) -> list[slice]:
    return [slice(None) if a != axis else (slice(1, None) if side > 0 else slice(None, -1)) for a in range(3)]
