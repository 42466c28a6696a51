"""Seed → an arm on its way, and something that comes into it, or not → is it stopped before it touches?

The label comes from pinocchio and coal: by when the visitor would meet the arm on its commanded way, or how far from
the whole way it stays. The plant's renderer says whether it is in view; whether it was hit is the plant's truth.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from qwen2vl_robot import executor
from qwen2vl_robot.benchmarks.hazards.stage import RejectedError, Stage, holding
from qwen2vl_robot.benchmarks.watched import STEP_S, Course, admitted
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import (
    Box,
    RobotState,
    Scene,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.visited import Visit, VisitedProcess
from qwen2vl_robot.reasons import AbortReason

_SCENE = "scenes/tabletop.yaml"
_SIZE_M, _SPEED_MPS = (0.04, 0.12), (0.08, 0.25)
_NEAR_SIZE_M, _NEAR_SPEED_MPS = (0.04, 0.05), (0.2, 0.25)  # of hazards near the limit
_FROM_M = 0.16  # so far from the whole way a visitor waits
_TRAVEL_M = (0.2, 0.45)  # of one until it meets the arm
_SAFE_M, _NEAR_SAFE_M = (0.3, 0.8), (0.2, 0.3)  # so far from the whole way a harmless one stays
_LOOKS_S = (0.5, 0.35, 0.2, 0.05)  # before it would meet the arm: it is in view
_SHOWN_RATIO = 0.6  # of the pixels of one side that nothing hides
_LOADS, _OTHERS = 0.3, 0.5  # of the safe cases that are not near: those with a load, and those without a visitor
_ATTEMPTS = 150
_local = threading.local()


def moved_while_moving(
    profile: RobotProfile, rng: np.random.Generator, is_hazard: bool, is_near: bool
) -> tuple[bool, float, str, str]:
    """Have something come into the arm's way; or move far from it, or hang on the arm, or nothing at all."""
    if not hasattr(_local, "around"):  # kinematics belong to one thread
        _local.around = Surroundings.of(profile)
    around: Surroundings = _local.around
    stage = Stage(profile, around.kinematics)
    while True:
        with VisitedProcess(_SCENE, int(rng.integers(1_000_000))) as plant:
            try:
                course = Course.draw(stage, plant.link.state(), rng)
                load, amount_m = None, 0.0
                if is_hazard:
                    amount_m = _invite_into(plant, course, rng, is_near)
                elif is_near or rng.random() < _OTHERS:
                    amount_m = _invite_aside(plant, course, rng, is_near)
                elif rng.random() < _LOADS / _OTHERS:
                    load = _load(plant, stage, rng)
            except RejectedError:
                continue
            report = _carry_out(plant, around, course, load)
            was_hit = plant.true_hit()
            break
    was_right = was_hit is False and report.reason is AbortReason.INTRUSION
    told = "; ".join(cause.text for cause in report.causes)
    accepted = not was_right if is_hazard else report.is_finished
    return accepted, amount_m, "m", f"hit; {told}" if was_hit else told


def _invite_into(plant: VisitedProcess, course: Course, rng: np.random.Generator, is_near: bool) -> float:
    """Invite what would meet the arm on its way, and is in view for half a second before; returns its size."""
    sizes_m, speeds_mps = (_NEAR_SIZE_M, _NEAR_SPEED_MPS) if is_near else (_SIZE_M, _SPEED_MPS)
    for _ in range(_ATTEMPTS):
        size_m, speed_mps = float(rng.uniform(*sizes_m)), float(rng.uniform(*speeds_mps))
        index = int(rng.integers(len(course.times_s) // 3, len(course.times_s)))
        meet_s, meet_m = course.times_s[index], course.oracle.places_m(index)
        to_m = meet_m[int(rng.integers(len(meet_m)))] + rng.uniform(-0.03, 0.03, 3)
        velocity_mps = speed_mps * _towards(rng)
        begins_s = float(meet_s - rng.uniform(*_TRAVEL_M) / speed_mps)
        from_m = to_m - velocity_mps * (meet_s - begins_s)
        if begins_s < 0.0 or min(from_m[2], to_m[2]) < size_m:
            continue
        visit = Visit((size_m, size_m, size_m), from_m, velocity_mps, begins_s)
        if course.clearance_m(visit, 0.0) < _FROM_M:
            continue
        poses = np.array([make_pose(visit.at_m(at_s)) for at_s in course.times_s])
        met = np.flatnonzero(course.oracle.to_moving_m(Box(visit.size_m), poses) <= 0.0)
        if not len(met) or course.times_s[met[0]] < begins_s + _LOOKS_S[0]:
            continue
        visit = replace(visit, ends_s=float(course.times_s[met[0]]) + 0.3)
        if _is_in_view(plant, course, visit, [int(met[0] - back_s / STEP_S) for back_s in _LOOKS_S]):
            return size_m
    raise RejectedError


def _invite_aside(plant: VisitedProcess, course: Course, rng: np.random.Generator, is_near: bool) -> float:
    """Invite what moves in view and stays away from the whole way; returns how far away."""
    low_m, high_m = _NEAR_SAFE_M if is_near else _SAFE_M
    end_s = float(course.times_s[-1])
    for _ in range(_ATTEMPTS):
        size_m, velocity_mps = float(rng.uniform(*_SIZE_M)), float(rng.uniform(*_SPEED_MPS)) * _towards(rng)
        begins_s = float(rng.uniform(0.0, end_s / 2))
        middle_m = rng.uniform([0.2, -0.6, 0.1], [0.9, 0.6, 0.5])
        from_m = middle_m - velocity_mps * (end_s - begins_s) / 2
        visit = Visit((size_m, size_m, size_m), from_m, velocity_mps, begins_s, end_s)
        if min(visit.at_m(0.0)[2], visit.at_m(end_s)[2]) < size_m:
            continue
        gap_m = min(course.clearance_m(visit, at_s) for at_s in np.linspace(begins_s, end_s, 7))
        if low_m <= gap_m <= high_m and _is_in_view(plant, course, visit, [len(course.times_s) * 3 // 4]):
            return gap_m
    raise RejectedError


def _towards(rng: np.random.Generator) -> Array:
    """Draw a direction (3,): from any side, more along the table than across."""
    way = np.array([*rng.normal(size=2), 0.5 * rng.normal()])
    direction: Array = way / np.linalg.norm(way)
    return direction


def _is_in_view(plant: VisitedProcess, course: Course, visit: Visit, indices: list[int]) -> bool:
    """Invite it and check that the camera sees most of it at all of these times, else send it away."""
    k, T_camera_base = plant.invite(visit), np.linalg.inv(plant.truth.T_base_camera())
    for index in indices:
        at_m = visit.at_m(course.times_s[index])
        depth_m = float((T_camera_base @ [*at_m, 1.0])[2])
        side_px = k.fx_px * visit.size_m[0] / max(depth_m, 0.1)
        if depth_m < 0.1 or plant.shown_px(course.q_rad[index], at_m) < _SHOWN_RATIO * side_px**2:
            plant.send_away()
            return False
    return True


def _load(plant: VisitedProcess, stage: Stage, rng: np.random.Generator) -> tuple[Scene, RobotState]:
    """Fix a load between the fingers."""
    size_m = (float(rng.uniform(0.03, 0.06)), float(rng.uniform(0.03, 0.06)), float(rng.uniform(0.04, 0.12)))
    scene, _ = holding(stage, plant.link.state().q_rad, Box(size_m), 0.1, 0.8)
    assert scene.T_tool_held is not None
    plant.carry(size_m, scene.T_tool_held)
    return scene, replace(plant.link.state(), held=scene.held)


def _carry_out(
    plant: VisitedProcess, around: Surroundings, course: Course, load: tuple[Scene, RobotState] | None
) -> executor.ExecutionReport:
    """Have the arm carry out the motion before a camera."""
    link = plant.link
    approved, step = admitted(link, around, course.segments, load)
    lookout = Lookout(link, around, step)
    return executor.run(approved, link, link, around.profile, Halt(), lookout=lookout)
