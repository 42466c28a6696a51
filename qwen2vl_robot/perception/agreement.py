"""Frames of several cameras → whether they can have looked at one world.

A surface that one camera measures stops every other camera's view. Where another one looks through it, one of the two
is wrong about its place or about its depth; which one, nobody can say from this.
"""

from __future__ import annotations

import cv2
import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, invert, transform
from qwen2vl_robot.messages import CameraFrame
from qwen2vl_robot.reasons import ObservationReason

_STEP_PX = 4
_THROUGH_M = 0.03  # along the other camera's ray: more than noise of depth and a calibration within its limits
_RAISED_M = 0.02  # over the base plane: a shift of a camera shows on things, a tilt or a lift on the table
_MOST_RAISED, _MOST = 0.15, 0.05  # shares that may be looked through; edges of things are
_ENOUGH = 40  # points


def check_cameras(frame: CameraFrame) -> None:
    """Check that no two cameras contradict each other.

    Raises:
        ObservationError: two of them do, or a further one has a picture of another size than it says.
    """
    cameras = (frame, *frame.others)
    for number, camera in enumerate(cameras[1:], start=2):
        k = camera.intrinsics
        if camera.depth_m.shape != (k.height_px, k.width_px):
            raise ObservationError(
                f"depth {camera.depth_m.shape} of camera {number} must be {k.width_px}x{k.height_px} px"
            )
    for i, a in enumerate(cameras):
        for j, b in enumerate(cameras):
            share = 0.0 if i == j else looked_through(a, b)
            if share > 0.0:
                raise ObservationError(
                    f"cameras {min(i, j) + 1} and {max(i, j) + 1} contradict each other: one looks through {share:.0%} "
                    "of a surface that the other one sees; check both calibrations",
                    reason=ObservationReason.CAMERAS_DISAGREE,
                )


def looked_through(a: CameraFrame, b: CameraFrame) -> float:
    """The share of what camera a sees, and b could see, through which b looks; 0 where it is no more than edges."""
    is_known = np.isfinite(a.depth_m) & (a.depth_m > 0)
    points_m = a.points_base_m()[::_STEP_PX, ::_STEP_PX][is_known[::_STEP_PX, ::_STEP_PX]]
    p_m = transform(invert(b.T_base_camera), points_m)
    points_m, p_m = points_m[p_m[:, 2] > 0.05], p_m[p_m[:, 2] > 0.05]
    k = b.intrinsics
    columns, rows = (
        np.round(f * p_m[:, axis] / p_m[:, 2] + c).astype(int)
        for axis, f, c in ((0, k.fx_px, k.cx_px), (1, k.fy_px, k.cy_px))
    )
    is_in = (columns >= 0) & (columns < k.width_px) & (rows >= 0) & (rows < k.height_px)
    nearest_m = _nearest(b)[rows[is_in], columns[is_in]]
    known = np.isfinite(nearest_m)
    is_through = (nearest_m - p_m[is_in, 2] > _THROUGH_M)[known]
    is_raised = (points_m[is_in, 2] > _RAISED_M)[known]
    for chosen, most in ((is_raised, _MOST_RAISED), (~is_raised, _MOST)):
        share = float(is_through[chosen].mean()) if chosen.sum() >= _ENOUGH else 0.0
        if share > most:
            return share
    return 0.0


def _nearest(frame: CameraFrame) -> Array:
    """The nearest depth (h, w) within one pixel; NaN where none of them has any."""
    depth_m = np.where(np.isfinite(frame.depth_m) & (frame.depth_m > 0), frame.depth_m, np.float32(np.inf))
    nearest_m = np.asarray(cv2.erode(depth_m, np.ones((3, 3), np.uint8)), dtype=np.float64)
    return np.where(np.isfinite(nearest_m), nearest_m, np.nan)
