"""Seed → motions through space that a camera may have seen or not, labelled by where a thing could be.

The camera's depth is cast as rays on the table; no renderer takes part.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.benchmarks.hazards.stage import Case, CaseStep, RejectedError, Stage, draw_clearance_m
from qwen2vl_robot.geometry import Array, invert, look_at, make_pose, transform
from qwen2vl_robot.messages import CameraFrame, Intrinsics, Scene, SceneObject, Sphere, freeze
from qwen2vl_robot.perception.links import link_boxes
from qwen2vl_robot.validation.unseen import Known, unseen_space

_BALL_M = 0.05
_CELL_M = 0.04  # up to so much around what is left out of the declared box counts as left out, too
_CAMERA = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)


def unseen_above(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the hand cross high up, where a ball may be fixed that no pixel shows, or beside there.

    A person vouches for the room above the table, without a column in which the ball may be.
    """
    way = stage.crossing(rng, 0.44, 0.6)
    oracle = stage.oracle(way)
    on_path_m = oracle.tool_m[int(rng.integers(len(oracle.tool_m) // 4, 3 * len(oracle.tool_m) // 4))]
    aside_m = (
        rng.uniform(-0.03, 0.03, 3) if is_hazard else np.array([rng.uniform(0.1, 0.4), *rng.uniform(-0.1, 0.1, 2)])
    )
    ball_m = on_path_m + aside_m
    half_m = rng.uniform(0.03, 0.05, 2)
    low_m, high_m = (np.array([*(ball_m[:2] + side * half_m), z]) for side, z in ((-1.0, 0.1), (1.0, 1.1)))
    if is_hazard:
        measured_m = oracle.clearance_m(SceneObject("ball", Sphere(_BALL_M), freeze(make_pose(ball_m))))
        wanted = measured_m < 0.0 and (not is_near or measured_m > -0.012)
    else:
        measured_m = oracle.to_box_m(low_m, high_m) - _CELL_M
        wanted = measured_m > draw_clearance_m(rng, is_hazard, is_near) and (not is_near or measured_m < 0.04)
    camera = _view(rng)
    if not wanted or high_m[0] > stage.profile.workspace.max_m[0] or _shows(camera, ball_m):
        raise RejectedError
    start = stage.state(way.q_rad[0])
    known = Known(_around(low_m, high_m, stage), link_boxes(start, stage.kinematics))
    empty = Scene((), ())
    unseen_m = unseen_space(camera, empty, empty, stage.profile, (), known)
    return Case((CaseStep(stage.motion(way), Scene((), (), unseen_m=unseen_m), start),), measured_m, "m")


def _view(rng: np.random.Generator) -> CameraFrame:
    """Depth of an empty table from a drawn place."""
    turn, up = np.radians(rng.uniform(-65.0, 65.0)), np.radians(rng.uniform(32.0, 75.0))
    towards = np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
    aim = np.array([0.52, 0.0, 0.02])
    T = look_at(tuple(aim + rng.uniform(0.78, 0.95) * towards), tuple(aim))
    k = _CAMERA
    v, u = np.mgrid[0 : k.height_px, 0 : k.width_px]
    down = np.stack([(u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px, np.ones(u.shape)], axis=-1) @ T[2, :3]
    depth_m = np.where(down < 0, -T[2, 3] / np.where(down < 0, down, -1.0), np.nan).astype(np.float32)
    return CameraFrame(0, np.zeros((*u.shape, 3), dtype=np.uint8), depth_m, k, freeze(T))


def _shows(camera: CameraFrame, ball_m: Array) -> bool:
    """Check whether a pixel could show the ball; nothing stands before it."""
    k, p_m = camera.intrinsics, transform(invert(camera.T_base_camera), ball_m[None])[0]
    if p_m[2] < _BALL_M:
        return False
    reach_px = _BALL_M / 2 * k.fx_px / (p_m[2] - _BALL_M / 2)
    u, v = k.fx_px * p_m[0] / p_m[2] + k.cx_px, k.fy_px * p_m[1] / p_m[2] + k.cy_px
    return bool(-reach_px <= u <= k.width_px + reach_px and -reach_px <= v <= k.height_px + reach_px)


def _around(low_m: Array, high_m: Array, stage: Stage) -> Array:
    """Boxes (4, 2, 3) of the workspace around an upright column."""
    (x0, y0, _), (x1, y1, z1) = (
        np.array(corner) for corner in (stage.profile.workspace.min_m, stage.profile.workspace.max_m)
    )
    x0, y0, z0, x1, y1, z1 = x0 - 1.0, y0 - 1.0, 0.1, x1 + 1.0, y1 + 1.0, z1 + 1.0
    return np.array(
        [
            [[x0, y0, z0], [low_m[0], y1, z1]],
            [[high_m[0], y0, z0], [x1, y1, z1]],
            [[x0, y0, z0], [x1, low_m[1], z1]],
            [[x0, high_m[1], z0], [x1, y1, z1]],
        ]
    )
