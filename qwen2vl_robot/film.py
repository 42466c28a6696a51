"""Pictures for people: a frame with its boxes and planned path, and the film of rehearsal beside execution."""

from __future__ import annotations

from qwen2vl_robot.geometry import Array, look_at
from qwen2vl_robot.messages import Intrinsics

# One view for twin and plant, so that the two halves of the film compare: from the front left, above the table.
FILM_HZ = 10.0
FILM_INTRINSICS = Intrinsics(320, 240, 290.0, 290.0, 159.5, 119.5)
T_BASE_FILM: Array = look_at([1.25, 0.75, 0.78], [0.42, 0.0, 0.16])
