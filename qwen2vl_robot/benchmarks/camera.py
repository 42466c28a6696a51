"""Seeds → default scenes with right calibrations → how often the arm wrongly contradicts the camera, and its error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.shares import wilson_interval
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception.camera_check import check_camera, work_area_m
from qwen2vl_robot.plant.client import PlantProcess

_SCENE, _ROBOT = "scenes/tabletop.yaml", "franka_panda"


def run_camera_checks(scenes: int, seed: int, camera: str) -> Iterator[dict[str, Any]]:
    """Check the camera in each scene, whose calibration has the plant's usual error.

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
        }


def summarise_camera_checks(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count false alarms and unchecked cameras, with the error where checked."""
    checked = [r for r in results if r["is_checked"]]
    alarms, errors_m = sum(r["is_off"] for r in results), [r["error_m"] for r in checked if r["error_m"] is not None]
    return {
        "scenes": len(results),
        "false_alarms": alarms,
        "false_alarms_interval_95": wilson_interval(alarms, len(results)),
        "unchecked": len(results) - len(checked),
        "error_m_median": float(np.median(errors_m)) if errors_m else None,
        "error_m_max": max(errors_m, default=None),
        "seconds_median": float(np.median([r["seconds"] for r in results])),
        "seconds_max": max(r["seconds"] for r in results),
    }
