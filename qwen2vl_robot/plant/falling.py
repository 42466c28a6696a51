"""Files of pybullet_data → things that fell onto the plant's table, as they came to rest; heap.py is its client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.bullet import TIME_STEP_S, Friction
from qwen2vl_robot.geometry import make_pose, rotation_from_quat
from qwen2vl_robot.meshes import Mesh, upright
from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.scenes import PlantObject

_SCALE = 0.015  # metres per unit of these files, by their URDFs
_MASS_KG, _FRICTION = 0.1, 0.8
_FALLS_M = 0.12  # from which height
_SPREAD_M = 0.06  # of where they fall, around the middle of the scene's area
_FALL_S, _LONGEST_S = 0.5, 6.0
_REST_MPS = 0.005
_SHADES = (60, 226)  # of each colour channel


class FallingThings(Plant):
    """Nothing stands on the table but what falls onto it."""

    def __init__(self, *args: Any) -> None:
        self._press_n = 0.0
        super().__init__(*args)
        self._falls = np.random.default_rng([args[1], 4])

    def drop(self, numbers: tuple[int, ...]) -> int:
        """Let things fall one after the other; returns how many lie still within the arm's workspace."""
        workspace = self._profile.workspace
        middle = (np.array(workspace.min_m) + np.array(workspace.max_m)) / 2
        for number in numbers:
            self._fall(number, middle[:2])
        end_s = self._world.time_s + _LONGEST_S
        while self._world.time_s < end_s:
            self._step(round(_FALL_S / TIME_STEP_S))
            if all(self._world.speed_mps(o.label) < _REST_MPS for o in self._scene.objects):
                break
        return sum(
            bool(
                (self._world.pose(o.label)[:3, 3] > np.array(workspace.min_m) - 0.05).all()
                and self._world.speed_mps(o.label) < _REST_MPS
            )
            for o in self._scene.objects
        )

    def true_press_n(self) -> float:
        """The largest force so far, N, with which the arm pressed on a thing before it closed its fingers."""
        return self._press_n

    def _drive(self) -> None:
        super()._drive()
        is_closing = self._fingers is not None or not self._grips
        for name, force_n in self._world.contacts.pressed() if self._motion is not None and not is_closing else ():
            if any(name == item.label for item in self._scene.objects):
                self._press_n = max(self._press_n, force_n)

    def _fall(self, number: int, middle_m: np.ndarray[Any, Any]) -> None:
        file, rng = f"random_urdfs/{number:03d}/{number:03d}.obj", self._falls
        mesh = Mesh(file, upright(file)[2] * _SCALE, is_in_parts=True)
        quat = rng.normal(size=4)
        turn = rotation_from_quat(quat / np.linalg.norm(quat))
        radius_m = float(np.linalg.norm(mesh.size_m)) / 2
        at_m = middle_m + rng.uniform(-_SPREAD_M, _SPREAD_M, 2)
        count = len(self._scene.objects)
        rgb = tuple(float(c) for c in rng.integers(*_SHADES, 3))
        pose = make_pose([*at_m, radius_m + _FALLS_M * (count > 0)], turn)
        label = "thing" if count == 0 else f"thing {count + 1}"
        item = PlantObject(label, "", "thing", mesh, pose, rgb, _MASS_KG, _FRICTION, 0.0, True)  # type: ignore[arg-type]
        friction = Friction(item.friction, item.rolling_friction)
        self._world.add_body(item.label, mesh, pose, mass_kg=item.mass_kg, friction=friction, rgb=item.rgb)
        self._scene = replace(self._scene, objects=(*self._scene.objects, item))
        self._step(round(_FALL_S / TIME_STEP_S))
