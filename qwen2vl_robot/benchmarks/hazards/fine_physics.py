"""A grip, an edge, a push, a fall → how many of 200 worlds fail, by equations of motion at 0.5 ms.

A second opinion on the twin's results from Bullet. It shares no code, engine or time step with the twin, only the
uncertainties in the robot file and the definition of harm.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.config import RobotProfile, Uncertainty
from qwen2vl_robot.geometry import Array

RUNS = 200
STEP_S = 0.0005
_G_MPS2 = 9.81
_SLIPPED_M = 0.015  # the definition of harm, see decisions 011 and 014
_MOVED_M = 0.01
_TILTED_RAD = 0.26
_TABLE_FRICTION = 0.8
_ROCKING_S = 1.0


def slips(profile: RobotProfile, rng: np.random.Generator, mass_kg: float, friction: float, a_mps2: Array) -> int:
    """Count the worlds in which a load slips between two pads that accelerate by (k, 3) m/s^2, `STEP_S` apart.

    The upright pads press along y; in the plane between them Coulomb friction holds the load or drags it.
    """
    u = profile.safety.uncertainty
    heavier, rougher = rng.uniform(-1.0, 1.0, (2, RUNS))
    grip_n = 2.0 * friction * (1.0 + rougher * u.friction_ratio) * profile.gripper.force_n
    grip_mps2 = grip_n / (mass_kg * (1.0 + heavier * u.mass_ratio))
    needed_mps2 = (a_mps2 + np.array([0.0, 0.0, _G_MPS2]))[:, [0, 2]]
    v_mps, slip_m = np.zeros((RUNS, 2)), np.zeros((RUNS, 2))
    for pull_mps2 in needed_mps2:
        v_mps -= pull_mps2 * STEP_S
        speed_mps = np.linalg.norm(v_mps, axis=1)
        left = np.maximum(1.0 - grip_mps2 * STEP_S / np.maximum(speed_mps, 1e-12), 0.0)
        v_mps *= left[:, None]
        slip_m += v_mps * STEP_S
    return int((np.linalg.norm(slip_m, axis=1) > _SLIPPED_M).sum())


def tips(profile: RobotProfile, rng: np.random.Generator, beyond_m: float, side_m: float, seconds: float) -> int:
    """Count the worlds in which a cube tips over an edge, released with its centre of mass `beyond_m` beyond it."""
    u = profile.safety.uncertainty
    off_m = _shifts_m(u, rng)[:, 0] + rng.normal(0.0, u.position_m, RUNS) + rng.normal(0.0, u.position_m, RUNS)
    lever_m = beyond_m + off_m + rng.uniform(-u.size_m, u.size_m, RUNS) / 2
    inertia_m2 = side_m**2 / 6 + lever_m**2 + side_m**2 / 4  # about the edge, per kilogram
    angle_rad, w_radps = np.zeros(RUNS), np.zeros(RUNS)
    for _ in range(round(seconds / STEP_S)):
        torque = _G_MPS2 * (lever_m * np.cos(angle_rad) + side_m / 2 * np.sin(angle_rad))
        w_radps = np.where((angle_rad <= 0.0) & (torque < 0.0), 0.0, w_radps + torque / inertia_m2 * STEP_S)
        angle_rad = np.clip(angle_rad + w_radps * STEP_S, 0.0, np.pi / 2)
    return int((angle_rad > _TILTED_RAD).sum())


def topples(profile: RobotProfile, rng: np.random.Generator, fall_m: float, size_m: tuple[float, float]) -> int:
    """Count the worlds in which an upright block topples after a fall: it lands on one edge and rocks (Housner 1963).

    Args:
        size_m: width and height of the block.
    """
    u = profile.safety.uncertainty
    width_m, height_m = np.array(size_m)[:, None] + rng.uniform(-u.size_m, u.size_m, (2, RUNS))
    half_m, edge_rad = np.hypot(width_m, height_m) / 2, np.arctan2(width_m, height_m)
    angle_rad = np.minimum(np.abs(rng.normal(0.0, u.yaw_rad, RUNS)), edge_rad / 2)
    fall_mps = np.sqrt(2.0 * _G_MPS2 * np.maximum(fall_m + rng.uniform(-u.size_m, u.size_m, RUNS) / 2, 0.0))
    # Both landings keep the momentum about the edge that lands: I = 4/3 m r^2 there.
    w_radps = -0.75 * fall_mps * np.sin(edge_rad - angle_rad) / half_m
    kept_ratio = 1.0 - 1.5 * np.sin(edge_rad) ** 2
    has_toppled = np.zeros(RUNS, dtype=bool)
    for _ in range(round(_ROCKING_S / STEP_S)):
        w_radps = w_radps - 0.75 * _G_MPS2 / half_m * np.sin(edge_rad - angle_rad) * STEP_S
        angle_rad = angle_rad + w_radps * STEP_S
        lands = angle_rad < 0.0
        angle_rad, w_radps = np.abs(angle_rad), np.where(lands, -kept_ratio * w_radps, w_radps)
        has_toppled |= angle_rad > edge_rad
        angle_rad = np.minimum(angle_rad, edge_rad + 0.1)
    return int(has_toppled.sum())


def is_shoved(
    profile: RobotProfile,
    rng: np.random.Generator,
    gap_m: Array,
    size_m: tuple[float, float],
    push_height_m: float,
    friction: float,
) -> int:
    """Count the worlds in which an approaching block moves its neighbour too far, or tilts it.

    Args:
        gap_m: (k,) from the block to the neighbour's first place, `STEP_S` apart; negative when they would overlap.
        size_m: width (along the push) and height of the neighbour.
        push_height_m: height at which the block touches the neighbour.
    """
    u = profile.safety.uncertainty
    width_m, height_m = size_m
    off_m = _shifts_m(u, rng)[:, 1] + rng.normal(0.0, u.position_m, RUNS)
    off_m += rng.uniform(-u.size_m, u.size_m, (2, RUNS)).sum(axis=0) / 2
    rough = friction * (1.0 + rng.uniform(-1.0, 1.0, RUNS) * u.friction_ratio) * _TABLE_FRICTION
    moved_m, v_mps = np.zeros(RUNS), np.zeros(RUNS)
    way_m = -gap_m[:, None] + off_m  # position of the block's face from the neighbour's first place
    for before_m, face_m in zip(way_m[:-1], way_m[1:], strict=True):
        v_mps = np.maximum(v_mps - rough * _G_MPS2 * STEP_S, 0.0)
        free_m = moved_m + v_mps * STEP_S
        is_pushed = face_m > free_m
        v_mps = np.where(is_pushed, (face_m - before_m) / STEP_S, v_mps)
        moved_m = np.where(is_pushed, face_m, free_m)
    tilt_rad = np.where(rough * push_height_m > width_m / 2, moved_m / push_height_m, 0.0)  # tips before it slides
    centre_m = np.where(tilt_rad > 0.0, tilt_rad * np.hypot(width_m, height_m) / 2, moved_m)
    return int(((centre_m > _MOVED_M) | (tilt_rad > _TILTED_RAD)).sum())


def _shifts_m(u: Uncertainty, rng: np.random.Generator) -> Array:
    """Draw shifts (200, 2) of everything by an error of the camera's pose: its place, and its turn over a distance."""
    place, turn, lever = (_directions(rng) for _ in range(3))
    turned_m = np.cross(turn * np.deg2rad(u.extrinsics_deg), lever * u.camera_distance_m)
    shifts: Array = (place * u.extrinsics_m + turned_m)[:, :2]
    return shifts


def _directions(rng: np.random.Generator) -> Array:
    v = rng.normal(size=(RUNS, 3))
    unit: Array = v / np.linalg.norm(v, axis=1, keepdims=True)
    return unit
