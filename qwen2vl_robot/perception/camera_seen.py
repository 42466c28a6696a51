"""What the arm says about a camera: how far off it is, how sure that is, and the line that people read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.geometry import Array

ENOUGH_PX = 2000  # of the arm, with depth; fewer say little about where the camera is
LIMIT_M = 0.0105  # refused from here; right calibrations are below 0.006, and 0.015 is a danger
UNSURE_M = 0.007  # standard deviation at the work place above which a direction was not measured
REACH_M, REACH_RAD = 0.24, np.deg2rad(24)  # the largest shift and turn that are searched for
_SURELY_OFF = 6.0  # standard deviations beyond the limit


@dataclass(frozen=True, slots=True, eq=False)
class CameraSeen:
    """What the arm says about the camera.

    Attributes:
        shown_px: pixels with depth where the arm should show.
        off_m: (3,) by how much things at the work place are measured away from where they are, base frame; None where
            too little of the arm shows, or it fits nowhere.
        size_m: root mean square of that over the work area; inf where the arm fits nowhere; None where unchecked.
        sure_off_m: (3,) the part of `off_m` along directions that are known well; None without `off_m`.
        turn_rad: of the camera about the vertical.
        unsure_m: standard deviation at the work place in the direction that is known least.
        problem: why the frame could not be measured at all.
    """

    shown_px: int = 0
    off_m: Array | None = None
    size_m: float | None = None
    sure_off_m: Array | None = None
    turn_rad: float = 0.0
    unsure_m: float = np.inf
    problem: str = ""

    @property
    def is_off(self) -> bool:
        """Whether the camera is surely not where its calibration says."""
        if self.size_m is None or not self.size_m > LIMIT_M:
            return False
        return self.sure_off_m is None or self.is_known or float(np.linalg.norm(self.sure_off_m)) > LIMIT_M

    @property
    def is_known(self) -> bool:
        """Whether the displacement is known in every direction, as well as it needs to be."""
        return self.unsure_m <= UNSURE_M or self.is_surely_off

    @property
    def is_surely_off(self) -> bool:
        """Whether the camera is off by so much that no doubt about the direction matters."""
        return self.size_m is not None and self.size_m > LIMIT_M + _SURELY_OFF * self.unsure_m

    @property
    def is_checked(self) -> bool:
        """Whether the arm shows enough to tell."""
        return self.is_off or (self.size_m is not None and self.unsure_m <= UNSURE_M)

    @property
    def numbers(self) -> tuple[tuple[str, float], ...]:
        """The displacement, by its axes in the base frame."""
        off_m = self.off_m if self.is_known else self.sure_off_m
        return () if off_m is None else (("x_m", float(off_m[0])), ("y_m", float(off_m[1])))

    def describe(self) -> str:
        """Say it in one line, for people."""
        if self.problem:
            return f"camera unchecked: {self.problem}"
        if self.is_off and self.off_m is None:
            reach = f"{REACH_M * 1000:.0f} mm and {np.rad2deg(REACH_RAD):.0f} deg"
            return f"the arm is not where it should show, nor within {reach}: calibrate the camera, or clear its view"
        if self.size_m is None or self.off_m is None:
            return f"camera unchecked: the arm shows in {self.shown_px} px, {ENOUGH_PX} are needed"
        if self.is_off and self.sure_off_m is not None and not self.is_known:
            size_mm = 1000 * np.linalg.norm(self.sure_off_m)
            return (
                f"the camera is off by {size_mm:.0f} mm at the work place, or more: {_along(self.sure_off_m)} (base "
                "frame); what shows of the arm leaves one direction open; calibrate the camera"
            )
        along = _along(self.off_m)
        if self.is_off:
            turned = f"{np.rad2deg(self.turn_rad):+.1f} deg about the vertical"
            size = "" if not np.isfinite(self.size_m) else f"by {self.size_m * 1000:.0f} mm "
            return f"the camera is off {size}at the work place: {along} (base frame), {turned}; calibrate the camera"
        if not self.is_checked:
            return "camera unchecked: what shows of the arm leaves one direction open"
        return f"camera checked: off by {self.size_m * 1000:.0f} mm at the work place"


def _along(off_m: Array) -> str:
    return ", ".join(f"{1000 * v:+.0f} mm along {axis}" for v, axis in zip(off_m, "xyz", strict=True))
