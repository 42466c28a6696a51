"""A plant with a table that is laid by hand: its process, what lies where, and how hard the arm pressed on it.

Only benchmarks and tests use it. The simulation itself is in faulty.py, so that no benchmark loads Bullet.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.plant.client import PlantProcess


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """A box on the table; with a mass of 0 nothing moves it."""

    label: str
    size_m: tuple[float, float, float]
    T_base_object: Array
    rgb: tuple[float, float, float]
    mass_kg: float = 0.1


class LaidProcess(PlantProcess):
    """The plant's process; arguments as of `PlantProcess`."""

    factory = "qwen2vl_robot.plant.faulty:LaidTable"

    def __enter__(self) -> LaidProcess:
        return self

    def lay(self, boxes: tuple[Laid, ...]) -> None:
        """Take everything from the table, lay these boxes, and let them come to rest."""
        self._wire.call("lay", boxes)

    def true_press_n(self, label: str) -> float:
        """The largest force so far, N, with which the arm pressed on a box."""
        return float(self._wire.call("true_press_n", label))
