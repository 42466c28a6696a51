"""A plant into which something comes while the arm moves: its process, the visit, and whether the arm hit it.

Only benchmarks and tests use it. The simulation itself is in faulty.py, so that no benchmark loads Bullet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Intrinsics
from qwen2vl_robot.plant.client import PlantProcess


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """A box that waits somewhere and then glides along a line.

    Attributes:
        size_m: its sides.
        p_from_m: (3,) where its middle waits, base frame.
        velocity_mps: (3,) from `begins_s` of the motion on, until `ends_s`.
    """

    size_m: tuple[float, float, float]
    p_from_m: Array
    velocity_mps: Array
    begins_s: float
    ends_s: float = np.inf
    rgb: tuple[float, float, float] = (200.0, 120.0, 90.0)

    def at_m(self, since_s: float) -> Array:
        """Where its middle is (3,) at a time of the motion."""
        p_m: Array = self.p_from_m + self.velocity_mps * max(0.0, min(since_s, self.ends_s) - self.begins_s)
        return p_m


class VisitedProcess(PlantProcess):
    """The plant's process; arguments as of `PlantProcess`."""

    factory = "qwen2vl_robot.plant.faulty:Visited"

    def __enter__(self) -> VisitedProcess:
        return self

    def invite(self, visit: Visit) -> Intrinsics:
        """Put a visitor where it waits; returns the camera's for the pictures that are taken while the arm moves."""
        k: Intrinsics = self._wire.call("invite", visit)
        return k

    def send_away(self) -> None:
        """Take the visitor away."""
        self._wire.call("send_away")

    def carry(self, size_m: tuple[float, float, float], T_tool_carried: Array) -> None:
        """Fix a thing to the tool."""
        self._wire.call("carry", size_m, T_tool_carried)

    def shown_px(self, q_rad: Array, p_m: Array) -> int:
        """Count the pixels that would show the visitor at a point, the arm at these joints."""
        return int(self._wire.call("shown_px", q_rad, p_m))

    def true_hit(self) -> bool:
        """Whether the arm touched the visitor while it moved."""
        return bool(self._wire.call("true_hit"))
