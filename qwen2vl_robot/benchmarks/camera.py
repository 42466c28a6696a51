"""Seeds → default scenes → how often the arm contradicts a right camera, its error, and which wrong ones it refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.shares import wilson_interval
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array, make_pose, rotation_z, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception.camera_check import check_camera, work_area_m
from qwen2vl_robot.perception.camera_seen import ENOUGH_PX
from qwen2vl_robot.plant.client import PlantProcess

_SCENE, _ROBOT = "scenes/tabletop.yaml", "franka_panda"
_SIDEWAYS_M, _TURNED_DEG = (0.03, 0.05, 0.1), (5.0, 12.0)  # wrong cameras: off in any direction, turned about the base


def run_camera_checks(scenes: int, seed: int, camera: str) -> Iterator[dict[str, Any]]:
    """Check the camera in each scene, whose calibration has the plant's usual error, and with errors added to it.

    Args:
        camera: a model of sim/cameras.
    """
    profile = load_robot(_ROBOT)
    kinematics, area_m = Kinematics(profile), work_area_m(profile)
    for number in range(seed, seed + scenes):
        with PlantProcess(_SCENE, number, camera=camera) as plant:
            observation = Observation(plant.link.capture(), plant.link.state())
            T_true = plant.truth.T_base_camera()
        began_s = time.perf_counter()
        seen = check_camera(observation, profile, kinematics)
        seconds = time.perf_counter() - began_s
        off_m = transform(observation.frame.T_base_camera @ np.linalg.inv(T_true), area_m) - area_m
        frame = observation.frame
        refused = {
            name: check_camera(
                replace(observation, frame=replace(frame, T_base_camera=off @ frame.T_base_camera)), profile, kinematics
            ).is_off
            for name, off in _wrong(number)
        }
        error_m = None if seen.off_m is None else float(np.linalg.norm(seen.off_m - off_m.mean(axis=0)))
        yield {
            "seed": number,
            "shown_px": seen.shown_px,
            "is_checked": seen.is_checked,
            "is_off": seen.is_off,
            "true_m": round(float(np.sqrt((off_m**2).sum(axis=1).mean())), 5),
            "size_m": None if seen.size_m is None or not np.isfinite(seen.size_m) else round(seen.size_m, 5),
            "error_m": None if error_m is None else round(error_m, 5),
            "seconds": round(seconds, 3),
            "refused": refused,
        }


def _wrong(seed: int) -> Iterator[tuple[str, Array]]:
    """Name poses (4, 4), base frame, by which a published camera is off."""
    rng = np.random.default_rng(seed)
    for size_m in _SIDEWAYS_M:
        angle = rng.uniform(0.0, 2 * np.pi)
        yield f"{1000 * size_m:.0f} mm", make_pose(size_m * np.array([np.cos(angle), np.sin(angle), 0.0]))
    for degrees in _TURNED_DEG:
        turn_rad = np.deg2rad(degrees) * rng.choice([-1.0, 1.0])
        yield f"{degrees:.0f} deg about the base", make_pose(np.zeros(3), rotation_z(float(turn_rad)))


def summarise_camera_checks(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count false alarms and unchecked cameras, with the error where checked."""
    checked = [r for r in results if r["is_checked"]]
    alarms, errors_m = sum(r["is_off"] for r in results), [r["error_m"] for r in checked if r["error_m"] is not None]
    shown = [r for r in results if r["shown_px"] >= ENOUGH_PX]
    return {
        "scenes": len(results),
        "scenes_with_the_arm": len(shown),
        "wrong_refused": {name: sum(r["refused"][name] for r in shown) for name in results[0]["refused"]},
        "false_alarms": alarms,
        "false_alarms_interval_95": wilson_interval(alarms, len(results)),
        "unchecked": len(results) - len(checked),
        "error_m_median": float(np.median(errors_m)) if errors_m else None,
        "error_m_max": max(errors_m, default=None),
        "seconds_median": float(np.median([r["seconds"] for r in results])),
        "seconds_max": max(r["seconds"] for r in results),
    }
