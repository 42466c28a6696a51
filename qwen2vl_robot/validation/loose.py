"""A sweep's clearances → the things that a run must let move; the rest stand fixed, which costs Bullet next to nothing.

What nothing reaches moves only if something that is reached is pushed against it. A bystander that is pushed by more
than `MOVED_M` is a violation, so only what stands so near to one has to give way. A fixed thing still collides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Motion, Scene, SceneObject, shape_size_m
from qwen2vl_robot.validation.findings import Swept
from qwen2vl_robot.validation.watching import MOVED_M

_ROOM_M = 0.02  # beyond what a run's errors bring nearer; also more than the motors' lag and a finger's way


def loose_bodies(
    swept: Swept, motion: Motion, scene: Scene, reach_m: Callable[[str, str | None], float]
) -> frozenset[str | None]:
    """Name the objects that arm, load, or a thing that they touch may move.

    Args:
        reach_m: how much nearer than in the sweep arm and load may come to a body, by its name and that of the load.
    """
    names = {body.name for body in scene.objects}
    if motion.effect.kind == "push":  # a pushed thing goes where the sweep did not look
        return frozenset(names)
    meant = (scene.held, motion.effect.name, motion.effect.reference)
    reached = {name for name in meant if name is not None and name in names}
    for near in swept.approaches:
        lowest_m = min(np.min(near.clearance_m), np.min(near.lowest_m(), initial=np.inf))
        if near.name in names and lowest_m <= reach_m(near.name, near.load) + _ROOM_M:
            reached.add(near.name)
    return frozenset(_with_neighbours(reached, scene))


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
