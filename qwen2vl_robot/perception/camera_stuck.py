"""Two frames with their arm states → whether the camera repeats one frame under new stamps.

No sensor gives the same bits twice. A simulated camera without noise does, as long as nothing moves: so equal bits say
something only after this camera has shown noise, or where an arm that showed has moved away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import invert, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception.surfaces import surfaces_of

_STILL_RAD, _STILL_M = 0.002, 0.001  # of joints and gripper between two frames; more counts as moved
_NOISY = 0.05  # of the pixels: an arm that settles by less than `_STILL_RAD` changes fewer, a sensor's noise nearly all
_MOVED_M, _THERE_M, _POINTS = 0.05, 0.02, 100  # of the arm's surface that showed, and are elsewhere


@dataclass
class Repeated:
    """What was seen of one camera so far.

    Attributes:
        before: the observation before.
        has_noise: whether depth, and colour, changed while nothing moved.
    """

    before: Observation | None = None
    has_noise: tuple[bool, bool] = (False, False)


def see_repeated(repeated: Repeated, observation: Observation, kinematics: Kinematics) -> bool | str:
    """Whether depth or colour is that of the frame before; a text where it cannot be told. Updates what was seen."""
    before, repeated.before = repeated.before, observation
    if before is None or before.frame.depth_m.shape != observation.frame.depth_m.shape:
        repeated.has_noise = (False, False)
        return "one frame does not tell whether the camera is stuck"
    if before.frame.stamp_ns == observation.frame.stamp_ns:
        return "two frames have one stamp, so whether the camera is stuck is not measured"
    changed = _changed(before, observation)
    equal = [share == 0.0 for share in changed]
    if _is_still(before, observation):
        depth, colour = (had or share > _NOISY for had, share in zip(repeated.has_noise, changed, strict=True))
        repeated.has_noise = (depth, colour)
    if not any(equal):
        return False
    if any(had and same for had, same in zip(repeated.has_noise, equal, strict=True)):
        return True
    if all(equal) and _has_left(before, observation, kinematics):
        return True
    return False if not all(equal) else "the frame is that before, and nothing that shows has moved"


def _changed(before: Observation, now: Observation) -> tuple[float, float]:
    """The shares of pixels with another depth, and with another colour."""
    was_m, is_m = before.frame.depth_m, now.frame.depth_m
    depth = (was_m != is_m) & ~(np.isnan(was_m) & np.isnan(is_m))
    return float(depth.mean()), float((before.frame.rgb != now.frame.rgb).any(axis=2).mean())


def _is_still(before: Observation, now: Observation) -> bool:
    turned_rad = float(np.max(np.abs(now.robot.q_rad - before.robot.q_rad), initial=0.0))
    return turned_rad < _STILL_RAD and abs(now.robot.gripper_width_m - before.robot.gripper_width_m) < _STILL_M


def _has_left(before: Observation, now: Observation, kinematics: Kinematics) -> bool:
    """Whether parts of the arm that showed in the frame before are elsewhere by now."""
    was, is_now = (surfaces_of(kinematics).at(kinematics, o.robot)[0] for o in (before, now))
    gone_m = was[np.linalg.norm(is_now - was, axis=1) > _MOVED_M]
    frame, k = before.frame, before.frame.intrinsics
    p_m = transform(invert(frame.T_base_camera), gone_m) if len(gone_m) else gone_m
    p_m = p_m[p_m[:, 2] > 0.1] if len(p_m) else p_m
    if not len(p_m):
        return False
    column = np.rint(p_m[:, 0] / p_m[:, 2] * k.fx_px + k.cx_px).astype(int)
    row = np.rint(p_m[:, 1] / p_m[:, 2] * k.fy_px + k.cy_px).astype(int)
    inside = (column >= 0) & (column < k.width_px) & (row >= 0) & (row < k.height_px)
    found_m = frame.depth_m[row[inside], column[inside]]
    return int((np.abs(found_m - p_m[inside, 2]) < _THERE_M).sum()) >= _POINTS
