"""A guarded motion → its way back: the guarded segment backwards, from where a contact was felt to its beginning.

The arm has just come that way, and the twin has seen every joint of it. A motion that keeps the limits of speed,
acceleration and jerk keeps them backwards too; the begin is slower.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.errors import ExecutionError
from qwen2vl_robot.geometry import read_only
from qwen2vl_robot.messages import JointSegment, Motion

_STEP_S = 0.01
_RAMP_S = 0.4  # from rest to the pace at which the arm came


def guarded_segment(motion: Motion) -> JointSegment | None:
    """Return the segment that ends at the first contact, None where the motion has none.

    Raises:
        ExecutionError: what the motion says is guarded is no joint segment.
    """
    guarded = motion.guarded
    if guarded is None:
        return None
    segment = motion.segments[guarded.index] if 0 <= guarded.index < len(motion.segments) else None
    if not isinstance(segment, JointSegment):
        raise ExecutionError(f"segment {guarded.index}, which is to be guarded, is no joint segment")
    return segment


def way_back(motion: Motion, from_s: float) -> JointSegment:
    """Return the way back up, its times from 0 on, at rest at both ends.

    Args:
        from_s: where it begins: the motion's own time at which the arm came by there.

    Raises:
        ExecutionError: the motion is not guarded, or not at that time.
    """
    segment = guarded_segment(motion)
    if segment is None:
        raise ExecutionError("the motion has no way back; it is not guarded")
    if not segment.start_s <= from_s <= segment.end_s:
        raise ExecutionError(
            f"no way back from {from_s:.2f} s; guarded is {segment.start_s:.2f} to {segment.end_s:.2f} s"
        )
    left_s = from_s - segment.start_s
    count = max(2, int(np.ceil((left_s + _RAMP_S / 2) / _STEP_S)))
    time_s = _STEP_S * np.arange(count + 1)
    ramped_s = np.where(time_s < _RAMP_S, time_s**2 / (2 * _RAMP_S), time_s - _RAMP_S / 2)
    then_s = from_s - np.minimum(ramped_s, left_s)
    q_rad = np.stack([np.interp(then_s, segment.time_s, joint) for joint in segment.q_rad.T], axis=1)
    return JointSegment(read_only(time_s), read_only(q_rad))
