"""What the arm in a frame says of one camera, with its numbers: that it passes, is refused, or that nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CameraVerdict(str, Enum):
    PASSES = "passes"
    REFUSES = "refuses"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CameraChecked:
    """One camera and what the arm says of it.

    Attributes:
        name: as the cell names it: its prefix, or "camera", "camera 2".
        text: the same in one line, for people.
        shown_px: pixels with depth where the arm should show.
        size_m: how far things at the work place are measured from where they are; None where that is not known.
        off_m: the same along x, y and z of the base frame.
        unsure_m: standard deviation of that in the direction that is known least.
        turn_rad: how far the camera is turned about the vertical.
    """

    name: str
    verdict: CameraVerdict
    text: str
    shown_px: int = 0
    size_m: float | None = None
    off_m: tuple[float, float, float] | None = None
    unsure_m: float | None = None
    turn_rad: float | None = None
