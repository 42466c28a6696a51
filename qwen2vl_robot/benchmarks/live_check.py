"""Default scenes with a camera that is off → what `calibrate --live` says of it, by the whole chain with a yes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.approval import PromptingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array, make_pose, read_only
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import ApprovedMotion, CameraFrame
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.checking import CHECK
from qwen2vl_robot.planner.scripted import ScriptedPlanner
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.validation.pool import RehearsalProcess

_SCENE, _ROBOT = "scenes/default.yaml", "franka_panda"
_OFF_MM = (0, 5, 15, 30)
_BUDGET_S = 120.0


class Moved:
    """A plant's camera and arm; the camera's published pose is its true one, moved by `off` (4, 4).

    Attributes:
        motions: how many the arm was given.
    """

    def __init__(self, plant: PlantProcess, off: Array) -> None:
        self._link: PlantLink = plant.link
        self._pose = read_only(off @ plant.truth.T_base_camera())
        self.motions = 0

    def capture(self) -> CameraFrame:
        return replace(self._link.capture(), T_base_camera=self._pose)

    def newest(self, since_ns: int) -> CameraFrame | None:
        frame = self._link.newest(since_ns)
        return None if frame is None else replace(frame, T_base_camera=self._pose)

    def execute(self, approved: ApprovedMotion) -> None:
        self.motions += 1
        self._link.execute(approved)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def run_live_checks(scenes: int, seed: int, camera: str) -> Iterator[dict[str, Any]]:
    """Check the camera of each scene at each size of error, along a direction of the table that the seed draws.

    Args:
        camera: a model of sim/cameras.
    """
    profile = load_robot(_ROBOT)
    around = Surroundings.of(profile)
    with RehearsalProcess(profile, budget_s=_BUDGET_S, workers=1) as rehearsal:
        rehearsal.start()
        for number in range(seed, seed + scenes):
            for off_mm in _OFF_MM:
                bearing_rad = np.random.default_rng([number, off_mm]).uniform(0.0, 2 * np.pi)
                off_m = off_mm / 1000 * np.array([np.cos(bearing_rad), np.sin(bearing_rad), 0.0])
                with PlantProcess(_SCENE, number, camera=camera) as plant:
                    cell = Moved(plant, make_pose(off_m))
                    yield {"seed": number, "off_mm": off_mm, **_check(cell, around, rehearsal, off_m)}


def _check(cell: Any, around: Surroundings, rehearsal: RehearsalProcess, off_m: Array) -> dict[str, Any]:
    halt, began_s = Halt(), time.perf_counter()
    guard = CameraGuard(around, is_required=True)
    ports = Ports(cell, cell, cell, ScriptedPlanner(), rehearsal, PromptingApprover(halt, lambda _: True), guard=guard)
    report = assemble(around, ports, halt=halt).run(CHECK)
    camera = report.cameras[0] if report.cameras else None
    error_m = None if camera is None or camera.off_m is None else float(np.linalg.norm(camera.off_m - off_m))
    return {
        "verdict": "none" if camera is None else camera.verdict.value,
        "outcome": report.outcome.kind.value,
        "text": "; ".join(report.outcome.reasons) or (camera.text if camera is not None else ""),
        "motions": cell.motions,
        "shown_px": None if camera is None else camera.shown_px,
        "size_m": None if camera is None or camera.size_m is None else round(camera.size_m, 5),
        "error_m": None if error_m is None else round(error_m, 5),
        "unsure_m": None if camera is None or camera.unsure_m is None else round(camera.unsure_m, 5),
        "seconds": round(time.perf_counter() - began_s, 1),
    }


def summarise_live_checks(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count verdicts for each size of error, with how far the measured displacement is from the true one."""
    sizes = {}
    for off_mm in _OFF_MM:
        rows = [r for r in results if r["off_mm"] == off_mm]
        errors_m = [r["error_m"] for r in rows if r["error_m"] is not None]
        sizes[f"{off_mm} mm"] = {
            "checks": len(rows),
            **{v: Counter(r["verdict"] for r in rows)[v] for v in ("passes", "refuses", "unknown", "none")},
            "moved": sum(r["motions"] > 0 for r in rows),
            "error_m_median": float(np.median(errors_m)) if errors_m else None,
            "error_m_max": max(errors_m, default=None),
        }
    wrong = [r for r in results if r["verdict"] == ("passes" if r["off_mm"] >= 15 else "refuses")]
    return {"checks": len(results), "wrong": len(wrong), **sizes}
