"""A sweep's clearances → the things that a trial must let move; the rest stand fixed, which costs Bullet little.

What nothing reaches moves only if something that is reached is pushed against it. A bystander that is pushed by more
than `MOVED_M` is a violation, so only what stands so near to one has to give way. A fixed thing still collides. That
the scene stands at all, the nominal run shows, in which everything is loose.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import GripperSegment, Motion, Scene, SceneObject, shape_size_m
from qwen2vl_robot.validation.findings import Approach, Swept
from qwen2vl_robot.validation.trials import Draw
from qwen2vl_robot.validation.watching import MOVED_M

_ROOM_M = 0.02  # beyond what a trial's errors bring nearer; more than the motors' lag
_SAME_S = 1e-6
_Grip = tuple[tuple[float, float], tuple[float, float]]


def loose_bodies(
    swept: Swept, motion: Motion, grips: tuple[GripperSegment, ...], drawn: Draw, width_m: float
) -> frozenset[str | None]:
    """Name the objects that arm, load, or a thing that they touch may move in a trial.

    Args:
        grips: movements of the gripper, at the times of the sweep, which looks before and after them only.
        width_m: of the gripper at the beginning.
    """
    scene = drawn.scene
    names = {body.name for body in scene.objects}
    ways = _fingers_ways(grips, width_m)
    is_looked_at = all(any(_at(near, grip).any() for near in swept.approaches) for grip in ways)
    if motion.effect.kind == "push" or not is_looked_at:
        return frozenset(names)  # a pushed thing goes where the sweep did not look
    meant = (scene.held, motion.effect.name, motion.effect.reference)
    reached = {name for name in meant if name is not None and name in names}
    for near in swept.approaches:
        fingers_m = np.max(
            [np.max(_at(near, grip) * [way_m for _, way_m in grip], axis=1) for grip in ways] or [0.0], axis=0
        )
        free_m = min(np.min(near.clearance_m - fingers_m), np.min(near.lowest_m(), initial=np.inf)) - _ROOM_M
        if near.name in names and free_m <= drawn.reach_m(near.name, near.load):
            reached.add(near.name)
    return frozenset(_with_neighbours(reached, scene))


def _fingers_ways(grips: tuple[GripperSegment, ...], width_m: float) -> list[_Grip]:
    """List for each grip its begin and its end, each with how much farther out than then a finger is during it."""
    ways: list[_Grip] = []
    for grip in grips:
        opens_m = (grip.width_m - width_m) / 2
        ways.append(((grip.start_s, max(opens_m, 0.0)), (grip.end_s, max(-opens_m, 0.0))))
        width_m = grip.width_m
    return ways


def _at(near: Approach, grip: _Grip) -> npt.NDArray[np.bool_]:
    """Mark the samples (k, 2) that lie at a grip's begin and at its end."""
    edges_s = np.array([at_s for at_s, _ in grip])
    return np.asarray(np.abs(near.time_s[:, None] - edges_s) < _SAME_S)


def _with_neighbours(reached: set[str], scene: Scene) -> set[str]:
    """Add what stands on, under or within `MOVED_M` beside any of them, and so on."""
    boxes_m = {body.name: _outline_m(body) for body in scene.objects}
    found, waiting = set(reached), list(reached)
    while waiting:
        low_m, high_m = boxes_m[waiting.pop()]
        for name, (other_low_m, other_high_m) in boxes_m.items():
            gap_m = np.max(np.maximum(other_low_m - high_m, low_m - other_high_m))
            if name not in found and gap_m <= MOVED_M:
                found.add(name)
                waiting.append(name)
    return found


def _outline_m(body: SceneObject) -> tuple[Array, Array]:
    """Return the corners (2,) of a rectangle along x and y that holds the body seen from above."""
    half_m = (np.abs(body.T_base_object[:3, :3]) @ shape_size_m(body.shape))[:2] / 2
    return body.T_base_object[:2, 3] - half_m, body.T_base_object[:2, 3] + half_m
