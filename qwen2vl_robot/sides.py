"""A camera's pose → which way left and behind are on the table, and how far left or far away something is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from qwen2vl_robot.geometry import Array, invert, read_only, transform

# A camera that looks closer than 15 degrees to straight down sees nothing "farther away": behind is up in its picture.
_STEEP_RATIO = float(np.sin(np.deg2rad(15.0)))
_FLAT_RATIO = 0.5  # share of the picture's sideways axis that must lie along the table
_CROSS_RATIO = float(
    np.cos(np.deg2rad(70.0))
)  # left and behind are 70 degrees apart at least: sectors of 35 do not overlap


class SeenFrom(str, Enum):
    """Whose left and right count: those of the picture that the plan is made from, or the robot's own."""

    PICTURE = "picture"
    ROBOT = "robot"


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Which way left and behind are, decided once for a plan.

    Attributes:
        left_xy, behind_xy: unit vectors along the table, base frame.
        T_base_camera: (4, 4) of the picture whose sides these are; None for the robot's own.
    """

    left_xy: tuple[float, float]
    behind_xy: tuple[float, float]
    T_base_camera: Array | None = None


ROBOT_SIDES = Sides(left_xy=(0.0, 1.0), behind_xy=(1.0, 0.0))


def sides_seen_from(seen_from: SeenFrom, T_base_camera: Array) -> Sides | None:
    """Return the robot's own sides or those in a camera's picture; None where the picture has none."""
    return ROBOT_SIDES if seen_from is SeenFrom.ROBOT else sides_in_picture(T_base_camera)


def sides_in_picture(T_base_camera: Array) -> Sides | None:
    """Compute the sides in the picture of a camera over the table.

    Left is against the picture's columns. Behind is away from the camera, or up in the picture of one that looks down.

    Returns:
        None for a picture that is turned so far that its left is not across the line of sight, and for a pose that is
        not finite: nothing is left of anything in it.

    >>> from qwen2vl_robot.geometry import look_at
    >>> opposite = sides_in_picture(look_at([1.4, 0.0, 0.6], [0.5, 0.0, 0.0]))  # faces the robot
    >>> np.round(opposite.left_xy, 3).tolist(), np.round(opposite.behind_xy, 3).tolist()
    ([-0.0, -1.0], [-1.0, 0.0])
    """
    across, down, ahead = (T_base_camera[:2, k] for k in range(3))
    away = ahead if np.linalg.norm(ahead) > _STEEP_RATIO else -down
    width, depth = float(np.linalg.norm(across)), float(np.linalg.norm(away))
    if not (width >= _FLAT_RATIO and depth > 0.0 and abs(across @ away) <= _CROSS_RATIO * width * depth):  # NaN too
        return None
    left, behind = -across / width, away / depth
    return Sides((float(left[0]), float(left[1])), (float(behind[0]), float(behind[1])), read_only(T_base_camera))


def leftness(sides: Sides, p_base_m: Array) -> float:
    """Compute how far to the left a visible point (3,) is: metres, in a picture those at one metre of depth."""
    if sides.T_base_camera is None:
        return float(p_base_m[:2] @ sides.left_xy)
    x, _, z = transform(invert(sides.T_base_camera), p_base_m)
    return float(-x / z)


def farness(sides: Sides, p_base_m: Array) -> float:
    """Compute how far away a point (3,) is, metres: from the robot's base, or along the picture's line of sight."""
    if sides.T_base_camera is None:
        return float(np.hypot(*p_base_m[:2]))
    return float(p_base_m[:2] @ sides.behind_xy)
