"""A plant onto whose table things fall: its process, and what falls.

Only benchmarks and tests use it. The simulation itself is in falling.py, so that no benchmark loads Bullet.
"""

from __future__ import annotations

from qwen2vl_robot.plant.client import PlantProcess


class HeapProcess(PlantProcess):
    """The plant's process; arguments as of `PlantProcess`."""

    factory = "qwen2vl_robot.plant.falling:FallingThings"

    def __enter__(self) -> HeapProcess:
        return self

    def drop(self, numbers: tuple[int, ...]) -> int:
        """Let things of pybullet_data fall onto the table one after the other; returns how many came to rest on it.

        Args:
            numbers: of their files, 0 to 999; the first one is called "thing", the others "thing 2", "thing 3" ...
        """
        return int(self._wire.call("drop", numbers))

    def true_press_n(self) -> float:
        """The largest force so far, N, with which the arm pressed on a thing before it closed its fingers."""
        return float(self._wire.call("true_press_n"))
