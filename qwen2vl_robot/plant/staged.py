"""A plant whose endings are made by hand: its process, what is arranged in it, and what is then true.

Only benchmarks and tests use it. The simulation itself is in staging.py, so that no benchmark loads Bullet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import CameraFrame, RobotState, Shape
from qwen2vl_robot.plant.client import TrueBox, TrueObject
from qwen2vl_robot.process import Worker

_CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """A body beside those that the seed drew."""

    shape: Shape
    rgb: tuple[float, float, float]
    mass_kg: float
    friction: float


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """Where arm and bodies are put before physics goes on; a body that is not named stands where the seed put it.

    Attributes:
        poses: label → `T_base_object` (4, 4).
        speeds_mps: label → velocity (3,), given once everything else has come to rest.
        held: label of what the fingers close on, with its pose in the tool frame (4, 4).
        width_m: how far the fingers are open where they hold nothing.
    """

    q_rad: Array
    width_m: float
    poses: Mapping[str, Array] = field(default_factory=dict)
    speeds_mps: Mapping[str, Array] = field(default_factory=dict)
    held: str | None = None
    T_tool_held: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrueEnding:
    """What is true in the plant, as no camera and no encoder says it.

    Attributes:
        gripped: labels of the bodies that touch every finger.
    """

    bodies: dict[str, TrueObject]
    gripped: frozenset[str]
    q_rad: Array


class StagedPlant:
    """A staged plant in a process of its own; a context manager.

    Args:
        scene_path, seed, always, count, camera: as in `PlantProcess`.
    """

    def __init__(
        self, scene_path: str, seed: int, always: tuple[ObjectSpec, ...], count: int, *, camera: str | None = None
    ) -> None:
        self._worker = Worker("qwen2vl_robot.plant.staging:Staging", scene_path, seed, always, count, camera)
        self._worker.start()

    def __enter__(self) -> StagedPlant:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def add(self, label: str, extra: Extra) -> None:
        """Add a body; it is away until it is arranged."""
        self._call("add", label, extra)

    def copy(self, label: str, of: str) -> None:
        """Add a body that looks and weighs as another one; it is away until it is arranged."""
        self._call("copy", label, of)

    def arrange(self, arrangement: Arrangement) -> None:
        """Put everything where it belongs, and let it come to rest."""
        self._call("arrange", arrangement)

    def advance(self, seconds: float) -> None:
        """Let plant time pass."""
        self._call("advance", seconds)

    def capture(self) -> CameraFrame:
        """Take one noisy frame."""
        frame: CameraFrame = self._call("capture")
        return frame

    def state(self) -> RobotState:
        """Measure the arm."""
        state: RobotState = self._call("state")
        return state

    def boxes(self) -> dict[str, TrueBox]:
        """Map the label of each visible body to the box of its visible pixels."""
        boxes: dict[str, TrueBox] = self._call("true_boxes")
        return boxes

    def truth(self) -> TrueEnding:
        """Read what is true now."""
        ending: TrueEnding = self._call("true_ending")
        return ending

    def _call(self, method: str, *args: object) -> Any:
        return self._worker.call(method, *args, timeout_s=_CALL_TIMEOUT_S)
