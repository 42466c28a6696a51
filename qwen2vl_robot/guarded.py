"""The one segment of a motion that ends at the first contact: slow, straight down, and undone by going back up."""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.geometry import Array

SPEED_MPS = 0.008  # of the tool: an arm that takes 0.1 s to stop presses with 40 N at most on what does not give way


@dataclass(frozen=True, slots=True, eq=False)
class Guarded:
    """Which segment it is, and what it takes to feel a contact on it.

    Its way back up is a part of the motion too: `retreat.way_back` follows from the motion alone.

    Attributes:
        index: of the segment in `Motion.segments`, a joint segment.
        since_s: from when on fingers may be in room that no camera has seen; before it the segment shows what it takes
            to go down freely.
        height_m: (m,) of the tool at the segment's points, base frame.
    """

    index: int
    since_s: float
    height_m: Array
