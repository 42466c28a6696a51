"""A view and a state of the arm → how much of the arm should show in it, and how far off the arm is that does.

Joint states may echo commands; depth cannot. The links' hulls at the reported joints are laid over the measured depth,
and the shift that fits them best says how far the arm is from where it claims to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array, make_pose, read_only
from qwen2vl_robot.kinematics import Kinematics, hull_planes
from qwen2vl_robot.messages import Box, RobotState, SceneObject
from qwen2vl_robot.perception.view import LevelledView, Mask

ENOUGH_PX = 2000  # of moving links; fewer say little about where the arm is
REACH_M = 0.06  # the largest shift that is searched for; an arm that fits nowhere within is further off
_STEP_PX = 4
_FIT_RAYS = 1500
_GATES_M = (0.06, 0.06, 0.04, 0.03, 0.03)  # residuals that take part, per round: a shift is found from coarse to fine
_LEAST_SHARE = 0.5  # of the pixels where the arm should show that have to fit
_OTHERWISE_M = 0.03  # pixels whose depth two states predict alike do not tell them apart
_SHOWN = 0.06  # a direction counts where the faces' normals point along it this much, as the mean of squared cosines


@dataclass(frozen=True, slots=True)
class LinksSeen:
    """What depth says about the arm.

    Attributes:
        expected_px: pixels with depth where moving links should show.
        off_m: how far the arm is from there, REACH_M where it is further off; None where too few pixels should show.
    """

    expected_px: int
    off_m: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Hull:
    """Faces of a link in the base frame: normals (f, 3), offsets (f,), and vertices (m, 3)."""

    moves: bool
    normals: Array
    offsets_m: Array
    vertices_m: Array


def link_boxes(state: RobotState, kinematics: Kinematics) -> tuple[SceneObject, ...]:
    """The arm at a state, each link as the box around its hull."""
    poses = kinematics.link_poses(state.q_rad, state.gripper_width_m)
    boxes = []
    for link, hull_m in kinematics.link_hulls.items():
        low_m, high_m = hull_m.min(axis=0), hull_m.max(axis=0)
        x, y, z = (float(v) for v in high_m - low_m)
        T_base_box = poses[link] @ make_pose((low_m + high_m) / 2)
        boxes.append(SceneObject(link, Box((x, y, z)), read_only(T_base_box)))
    return tuple(boxes)


def see_links(
    view: LevelledView, state: RobotState, kinematics: Kinematics, unlike: RobotState | None = None
) -> LinksSeen:
    """Measure how far the moving links are from where a state says that they are.

    Args:
        unlike: only pixels count where this state predicts something else.
    """
    rays, depth_m = _thinned(view)
    hulls = _hulls(kinematics, state)
    predicted_m = _moving_depth(view, rays, hulls)
    chosen = np.isfinite(predicted_m) & np.isfinite(depth_m)
    if unlike is not None:
        other_m = _moving_depth(view, rays, _hulls(kinematics, unlike))
        chosen[chosen] = ~(np.abs(other_m[chosen] - predicted_m[chosen]) < _OTHERWISE_M)
    expected_px = int(chosen.sum()) * _STEP_PX**2
    if expected_px < ENOUGH_PX:
        return LinksSeen(expected_px, None)
    index = np.flatnonzero(chosen)
    index = index[np.linspace(0, len(index) - 1, min(len(index), _FIT_RAYS)).astype(int)]
    moving = [hull for hull in hulls if hull.moves]
    return LinksSeen(expected_px, _off_m(view, rays[index], depth_m[index], moving))


def _thinned(view: LevelledView) -> tuple[Array, Array]:
    """Some rays (k, 3) of the whole picture, and their depth (k,)."""
    rays, depth_m = view.rays[::_STEP_PX, ::_STEP_PX], view.depth_m[::_STEP_PX, ::_STEP_PX]
    return rays.reshape(-1, 3).astype(np.float64), depth_m.ravel().astype(np.float64)


def _hulls(kinematics: Kinematics, state: RobotState) -> list[_Hull]:
    hulls = []
    for link, T in kinematics.link_poses(state.q_rad, state.gripper_width_m).items():
        vertices_m = kinematics.link_hulls.get(link)
        if vertices_m is None or not len(vertices_m):
            continue
        own, offsets_m = hull_planes(vertices_m)
        normals = own @ T[:3, :3].T
        moves = link in kinematics.moving_links
        hulls.append(_Hull(moves, normals, offsets_m + normals @ T[:3, 3], vertices_m @ T[:3, :3].T + T[:3, 3]))
    return hulls


def _moving_depth(view: LevelledView, rays: Array, hulls: list[_Hull]) -> Array:
    """Compute the depth (k,) at which each ray meets a moving link, inf where it meets none or a fixed one before."""
    moving_m, _ = _cast(view, rays, [hull for hull in hulls if hull.moves], np.zeros(3))
    fixed_m, _ = _cast(view, rays, [hull for hull in hulls if not hull.moves], np.zeros(3))
    return np.where(moving_m < fixed_m, moving_m, np.inf)


def _off_m(view: LevelledView, rays: Array, depth_m: Array, hulls: list[_Hull]) -> float:
    """Find the shift (3,) of the hulls that explains the measured depth of these pixels best; returns its length."""
    points_m = view.origin_m + depth_m[:, None] * rays
    shift_m = np.zeros(3)
    for gate_m in _GATES_M:
        predicted_m, normals = _cast(view, rays, hulls, shift_m)
        hit = np.isfinite(predicted_m)
        surface_m = view.origin_m + np.where(hit, predicted_m, 0.0)[:, None] * rays
        residual_m = np.einsum("ij,ij->i", normals, points_m - surface_m)
        fits = hit & (np.abs(depth_m - predicted_m) < gate_m)
        if fits.mean() < _LEAST_SHARE:
            return REACH_M
        shift_m = shift_m + _shift(normals[fits], residual_m[fits])
        if np.linalg.norm(shift_m) > REACH_M:
            return REACH_M
    return float(np.linalg.norm(shift_m))


def _shift(normals: Array, residual_m: Array) -> Array:
    """Solve for the shift (3,) along the directions that the faces show; a cylinder says nothing about its own axis."""
    shown, axes = np.linalg.eigh(normals.T @ normals / len(normals))
    pull_m = axes.T @ (normals.T @ residual_m) / len(normals)
    shift: Array = axes @ np.where(shown > _SHOWN, pull_m / np.maximum(shown, _SHOWN), 0.0)
    return shift


def _cast(view: LevelledView, rays: Array, hulls: list[_Hull], shift_m: Array) -> tuple[Array, Array]:
    """Compute the depth (k,) at which each ray first meets a hull, inf where none, and the normal (k, 3) there."""
    nearest_m, normals = np.full(len(rays), np.inf), np.zeros((len(rays), 3))
    for hull in hulls:
        index = np.flatnonzero(_may_meet(view, rays, hull, shift_m))
        if not len(index):
            continue
        enter_m, face = _enter(view.origin_m - shift_m, rays[index], hull)
        nearer = enter_m < nearest_m[index]
        nearest_m[index[nearer]] = enter_m[nearer]
        normals[index[nearer]] = hull.normals[face[nearer]]
    return nearest_m, normals


def _may_meet(view: LevelledView, rays: Array, hull: _Hull, shift_m: Array) -> Mask:
    """Mark rays inside the cone around the ball around a hull."""
    centre_m = hull.vertices_m.mean(axis=0)
    radius_m = float(np.linalg.norm(hull.vertices_m - centre_m, axis=1).max())
    arm_m = centre_m + shift_m - view.origin_m
    along = rays @ arm_m
    off2 = float(arm_m @ arm_m) - along**2 / np.einsum("ij,ij->i", rays, rays)
    near: Mask = (along > 0.0) & (off2 < radius_m**2)
    return near


def _enter(origin_m: Array, rays: Array, hull: _Hull) -> tuple[Array, npt.NDArray[np.intp]]:
    """Compute where rays (k, 3) enter a hull, inf for a miss, and through which face."""
    steep = rays @ hull.normals.T
    room_m = hull.offsets_m - hull.normals @ origin_m
    with np.errstate(divide="ignore", invalid="ignore"):
        t = room_m / steep
    enter = np.where(steep < -1e-9, t, -np.inf)
    leave = np.where(steep > 1e-9, t, np.inf).min(axis=1)
    face = enter.argmax(axis=1)
    first = enter[np.arange(len(rays)), face]
    beside = ((np.abs(steep) <= 1e-9) & (room_m < 0.0)).any(axis=1)
    return np.where((first < leave) & (first > 0.0) & ~beside, first, np.inf), face
