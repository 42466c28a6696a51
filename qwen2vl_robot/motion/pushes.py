"""A measured object and a direction → where closed fingers start to push, where it ends up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, make_pose, read_only
from qwen2vl_robot.messages import Scene, SceneObject
from qwen2vl_robot.motion.grasps import PALM_CLEARANCE_M, TIP_CLEARANCE_M, Hand, by_turn, downward
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.relations import free_gap_m, reach_m

PUSH_STANDOFF_M = 0.02  # free distance before the fingers touch
_LENGTHS_M = (0.09, 0.06)  # the shorter one if something stands in the way
_GAP_M = 0.008  # to bodies beside and at the end of the path
_TIPS_M = 0.012  # height of the fingertips above the support: low, so that nothing topples
_UNDER_M = 0.005  # a body no higher than this above the target's bottom is under it, not in its way


def push_starts(target: SceneObject, along: Array, hand: Hand, friction: float, current_yaw_rad: float) -> list[Array]:
    """Compute tool poses `T_base_tool` (4, 4) behind an object to push along (2,), the fingers' broad side first.

    Raises:
        MotionError: the object would topple, because the fingers cannot push it low enough.
    """
    bearing, quarter = float(np.arctan2(along[1], along[0])), np.pi / 2
    height_m = _tool_height_m(target, along, hand, friction)
    poses: list[Array] = []
    for turn, thick_m in ((quarter, hand.side_m), (0.0, hand.outer_m)):
        behind_m = reach_m(target, -along) + thick_m + PUSH_STANDOFF_M
        start = np.array([*(target.T_base_object[:2, 3] - along * behind_m), height_m])
        for yaw in by_turn([bearing + turn, bearing + turn + np.pi], current_yaw_rad):
            poses.append(downward(start, yaw, hand.closing_axis))
    return poses


def pushed(target: SceneObject, along: Array, scene: Scene) -> SceneObject:
    """Move the target to where the longest free push along (2,) leaves it.

    Raises:
        MotionError: another body stands in the way of even the shortest push.
    """
    others = [b for b in scene.bodies() if b is not target and b.top_m > target.bottom_m + _UNDER_M]
    for length_m in _LENGTHS_M:
        offset = np.array([*(length_m * along), 0.0])
        blockers = [b.name for b in others if _swept_gap_m(target, offset, b) < _GAP_M]
        if not blockers:
            return _shifted(target, offset)
    raise MotionError(
        f"{blockers[0]} is in the way of {target.name}, which needs {length_m * 1000:.0f} mm and "
        f"{_GAP_M * 1000:.0f} mm beside and behind",
        reason=MotionReason.NO_SPACE,
    )


def _tool_height_m(target: SceneObject, along: Array, hand: Hand, friction: float) -> float:
    """Compute the tool's height for a low push with the palm above the object's top."""
    height_m = target.top_m - target.bottom_m
    tips_m = max(min(_TIPS_M, height_m / 3), TIP_CLEARANCE_M)
    palm_free_m = height_m + PALM_CLEARANCE_M - hand.palm_m - hand.pad_depth_m
    # Pushed higher than half its depth divided by the friction, it tips over its far edge instead of sliding.
    topples_m = (reach_m(target, along) + reach_m(target, -along)) / 2 / friction
    if max(tips_m, palm_free_m) > min(topples_m, height_m - TIP_CLEARANCE_M):
        raise MotionError(
            f"{target.name} would topple: the fingers would push it {palm_free_m * 1000:.0f} mm above its foot, "
            f"at most {topples_m * 1000:.0f} mm is safe",
            reason=MotionReason.UNSUPPORTED,
        )
    return target.bottom_m + max(tips_m, palm_free_m) + hand.pad_depth_m


def _swept_gap_m(target: SceneObject, offset_m: Array, body: SceneObject) -> float:
    """Compute the smallest free gap to a body at four points of the path."""
    return min(free_gap_m(_shifted(target, offset_m * share), body) for share in (0.25, 0.5, 0.75, 1.0))


def _shifted(target: SceneObject, offset_m: Array) -> SceneObject:
    return replace(target, T_base_object=read_only(make_pose(offset_m) @ target.T_base_object))
