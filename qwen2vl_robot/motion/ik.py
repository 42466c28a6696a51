"""A pose of the tool → joint positions that reach it, by damped least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pinocchio

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.reasons import MotionReason

POSITION_TOLERANCE_M = 5e-4
ROTATION_TOLERANCE_RAD = float(np.deg2rad(0.5))
_LIMIT_MARGIN_RAD = 0.03  # distance to the joint limits: a real arm overshoots a little
_AIM_M, _AIM_RAD = 1e-6, 1e-6  # iterate to this accuracy, accept the tolerances above
_ITERATIONS = 60
_DAMPING = 1e-4
_STEP_RAD = 0.4  # largest change of a joint in one iteration
_POSTURE_GAIN = 0.1  # pull towards the reference posture in the null space of the pose
_POSTURE_ITERATIONS = 15
_PATIENCE = 8  # give up an attempt that gains less than 10 % in this many iterations
_RANDOM_SEEDS = 6


def solve(
    kinematics: Kinematics,
    T_base_tool: Array,
    near: Sequence[Array],
    *,
    posture_rad: Array,
    random_seeds: int = _RANDOM_SEEDS,
) -> Array:
    """Find joints (n,) with the tool within 0.5 mm and 0.5 degrees of a pose, inside the limits.

    The same inputs give the same result: it starts from `near`, in that order, then from fixed random draws.

    Args:
        near: joints (n,) to start from; the first start that leads to a solution wins.
        posture_rad: joints (n,) to stay close to where the pose leaves freedom.
        random_seeds: number of fixed draws to start from if no start in `near` succeeds.

    Raises:
        MotionError: out of reach; the message has the error of the best attempt.
    """
    shape = (random_seeds, kinematics.dof)
    draws = np.random.default_rng(0).uniform(kinematics.lower_rad, kinematics.upper_rad, shape)
    best_m, best_rad = np.inf, np.inf
    for start in (*near, *draws):
        q_rad, miss_m, miss_rad = _descend(kinematics, T_base_tool, np.asarray(start), posture_rad)
        if miss_m <= POSITION_TOLERANCE_M and miss_rad <= ROTATION_TOLERANCE_RAD:
            return q_rad
        if miss_m < best_m:
            best_m, best_rad = miss_m, miss_rad
    x, y, z = T_base_tool[:3, 3]
    raise MotionError(
        f"the tool cannot reach ({x:.3f}, {y:.3f}, {z:.3f}) m, {float(np.hypot(x, y)):.3f} m from the base's axis: "
        f"the closest attempt missed by {best_m * 1000:.1f} mm and {np.rad2deg(best_rad):.1f} deg, "
        f"allowed {POSITION_TOLERANCE_M * 1000:.1f} mm and {np.rad2deg(ROTATION_TOLERANCE_RAD):.1f} deg",
        reason=MotionReason.OUT_OF_REACH,
    )


def _descend(
    kinematics: Kinematics, T_base_tool: Array, start: Array, posture_rad: Array
) -> tuple[Array, float, float]:
    """Iterate from one start; return the joints, their distance (m) and their angle (rad) to the pose."""
    lower, upper = kinematics.lower_rad + _LIMIT_MARGIN_RAD, kinematics.upper_rad - _LIMIT_MARGIN_RAD
    q = np.clip(start, lower, upper)
    identity = np.eye(kinematics.dof)
    mark = np.inf
    for iteration in range(_ITERATIONS):
        pose, J = kinematics.tool_pose_and_jacobian(q)
        error = _pose_error(T_base_tool, pose)
        miss_m, miss_rad = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
        if iteration >= _POSTURE_ITERATIONS and miss_m < _AIM_M and miss_rad < _AIM_RAD:
            break
        if iteration % _PATIENCE == 0 and iteration >= _POSTURE_ITERATIONS:
            if miss_m + miss_rad > 0.9 * mark:
                break
            mark = miss_m + miss_rad
        pull = _POSTURE_GAIN * (posture_rad - q) if iteration < _POSTURE_ITERATIONS else np.zeros(kinematics.dof)
        inverse = J.T @ np.linalg.inv(J @ J.T + _DAMPING * np.eye(6))
        dq = inverse @ error + (identity - inverse @ J) @ pull
        dq *= min(1.0, _STEP_RAD / max(float(np.abs(dq).max()), 1e-9))
        q = np.clip(q + dq, lower, upper)
    return q, miss_m, miss_rad


def _pose_error(T_base_goal: Array, T_base_tool: Array) -> Array:
    """Compute the twist (6,) from one pose to the other: metres and radians, base axes."""
    turn = pinocchio.log3(np.ascontiguousarray(T_base_goal[:3, :3] @ T_base_tool[:3, :3].T))
    return np.concatenate([T_base_goal[:3, 3] - T_base_tool[:3, 3], turn])
