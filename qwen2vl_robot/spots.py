"""A place on the table that is no thing, as a frozen message: where a measured programme puts something down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on the table itself; beside a relation, the place that is tried first.

    Attributes:
        xy_m: base frame.
        radius_m: how far from it what is put there may stand.
        text: how it is said: "back where it was", "10 cm to the left".
    """

    xy_m: tuple[float, float]
    radius_m: float
    text: str


@dataclass(frozen=True, slots=True)
class Moved:
    """That a thing was moved on the table, from where to where, base frame; None where it is in the gripper since."""

    from_xy_m: tuple[float, float]
    to_xy_m: tuple[float, float] | None
