"""A frame, and the one before → what is wrong with the camera itself, each cause with its number.

Every measure has two limits. Up to `usual` lie all frames of right cameras that were measured: the three models of
sim/cameras and real frames (docs/cameras.md). Beyond `limit` nothing is moved by the camera; in between it may be why
something else was refused, and is then named first. What cannot be measured in a frame has no value and is not fine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Observation
from qwen2vl_robot.perception.camera_colour import ColourSeen, see_colour
from qwen2vl_robot.perception.camera_edges import ENOUGH_EDGES, EdgesSeen, see_edges
from qwen2vl_robot.perception.camera_stuck import Repeated, see_repeated
from qwen2vl_robot.perception.camera_table import TableSeen, see_table
from qwen2vl_robot.reasons import ObservationReason

_NEVER = math.inf  # it explains refusals, and refuses nothing itself
_SAME_LIGHT_NS = 10_000_000_000  # the frame before is compared in colour no longer than this


@dataclass(frozen=True, slots=True)
class Measure:
    """One property of a camera in one frame.

    Attributes:
        reason: what is wrong with the camera beyond the limits.
        name: with its unit, as in a cause's numbers.
        value: None where it cannot be measured in this frame.
        usual, limit: see above.
        text: what was measured, or why it could not be.
    """

    reason: ObservationReason
    name: str
    value: float | None
    usual: float
    limit: float
    text: str

    @property
    def is_ill(self) -> bool:
        """Whether nothing may be moved by such a camera."""
        return self.value is not None and not self.value <= self.limit

    @property
    def is_unusual(self) -> bool:
        """Whether no right camera was like this."""
        return self.value is not None and not self.value <= self.usual

    @property
    def numbers(self) -> tuple[tuple[str, float], ...]:
        """The value and the limit that it is beyond, for a cause."""
        if self.value is None:
            return ()
        return (self.name, self.value), ("limit" if self.is_ill else "usual", self.limit if self.is_ill else self.usual)


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """What one frame says of the camera: its measures, root causes first, so that the first ill one is the cause."""

    measures: tuple[Measure, ...]

    @property
    def ill(self) -> Measure | None:
        """The cause why nothing may be moved by this camera."""
        return next((m for m in self.measures if m.is_ill), None)

    @property
    def unusual(self) -> tuple[Measure, ...]:
        """What no right camera was like, the furthest beyond what is usual first."""
        found = [m for m in self.measures if m.value is not None and m.is_unusual]
        return tuple(sorted(found, key=lambda m: -(m.value or 0.0) / m.usual if m.usual else -math.inf))

    @property
    def unmeasured(self) -> tuple[Measure, ...]:
        """What this frame does not tell."""
        return tuple(m for m in self.measures if m.value is None)

    def describe(self) -> str:
        """Say it in one line, for people."""
        if self.ill is not None:
            return f"camera: {self.ill.text}"
        parts = [m.text for m in self.unusual] + [m.text for m in self.unmeasured]
        return f"camera: {'; '.join(parts)}" if parts else "camera healthy"


def measure_health(
    observation: Observation, profile: RobotProfile, kinematics: Kinematics, repeated: Repeated
) -> CameraHealth:
    """Measure the camera of a frame whose depth has no other size than its colour.

    Args:
        repeated: what was seen before; it is updated.
    """
    frame, k = observation.frame, observation.frame.intrinsics
    sizes = {frame.rgb.shape[1::-1], frame.depth_m.shape[::-1], (k.width_px, k.height_px)}
    if len(sizes) > 1:
        found = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        text = f"colour, depth and camera_info differ in size: {found} px; use depth registered to the image"
        return CameraHealth((Measure(ObservationReason.CAMERA_INFO, "sizes", float(len(sizes)), 1.0, 1.0, text),))
    table = see_table(frame, profile)
    before = repeated.before
    is_recent = before is not None and 0 < frame.stamp_ns - before.frame.stamp_ns < _SAME_LIGHT_NS
    colour = see_colour(frame.rgb, before.frame.rgb if is_recent and before is not None else None)
    edges = see_edges(frame.rgb, frame.depth_m)
    return CameraHealth(
        (
            *_about_depth(table),
            *_about_pose(table),
            _about_repeats(see_repeated(repeated, observation, kinematics)),
            *_about_edges(edges),
            *_about_colour(colour),
        )
    )


def _about_depth(table: TableSeen) -> tuple[Measure, ...]:
    scale, missing = table.scale, table.missing_ratio
    if missing is None:
        text = f"the work space shows in {table.px} px only, so depth is not measured"
        blind = Measure(ObservationReason.CAMERA_BLIND, "missing_ratio", None, 0.25, 0.5, text)
    else:
        x, y, px = table.hole_at
        text = f"{missing:.0%} of the work space has no depth, most of it near ({x:.0f}, {y:.0f}) of 1000, {px} px"
        blind = Measure(ObservationReason.CAMERA_BLIND, "missing_ratio", missing, 0.25, 0.5, text)
    if scale is None:
        text = "the unit of depth is not measured"
        return blind, Measure(ObservationReason.CAMERA_UNITS, "scale_ratio", None, 3.0, 5.0, text)
    text = f"depth is {scale:.4g} times what the table's place says{_unit_of(scale)}"
    off = max(scale, 1.0 / max(scale, 1e-9))  # a hand close before the camera makes it 2 to 4
    return Measure(ObservationReason.CAMERA_UNITS, "scale_ratio", off, 3.0, 5.0, text), blind


def _unit_of(scale: float) -> str:
    """Say which mistake of a driver a scale looks like.

    >>> _unit_of(998.0), _unit_of(0.00101), _unit_of(1.2)
    (': millimetres in a float image', ': metres in an image of millimetres', '')
    """
    if 700.0 < scale < 1400.0:
        return ": millimetres in a float image"
    return ": metres in an image of millimetres" if 0.0007 < scale < 0.0014 else ""


def _about_pose(table: TableSeen) -> tuple[Measure, ...]:
    focal, tilted = ObservationReason.CAMERA_INFO, ObservationReason.CAMERA_TILTED
    if table.tilt_deg is None or table.offset_m is None:
        text = "no plane of a table is measured, so neither tilt nor focal length is"
        return Measure(focal, "focal_ratio", None, 0.02, 0.05, text), Measure(tilted, "tilt_deg", None, 0.7, 2.0, text)
    ratio = table.focal_ratio
    if ratio is None:
        lens = Measure(focal, "focal_ratio", None, 0.02, 0.05, "from above a table does not tell the focal length")
    else:
        text = f"the table fits a focal length of {ratio:.2f} times what camera_info says: another camera's?"
        lens = Measure(focal, "focal_ratio", max(ratio, 1.0 / ratio) - 1.0, 0.02, 0.05, text)
    seen = f"the table lies {1000 * table.offset_m:+.0f} mm high and {table.tilt_deg:.1f} deg tilted"
    text = lens.text if lens.is_unusual else f"{seen} in the calibrated frame: calibrate the camera"
    cause = focal if lens.is_unusual else tilted  # one cause for what one wrong number explains
    noise_mm = 1000 * (table.noise_m or 0.0)
    return (
        Measure(
            ObservationReason.CAMERA_NOISY,
            "noise_m",
            table.noise_m,
            0.010,
            0.015,
            f"depth of the table scatters by {noise_mm:.1f} mm, as of 1 m away",
        ),
        lens,
        Measure(cause, "tilt_deg", table.tilt_deg, 0.7, 2.0, text),
        Measure(cause, "offset_m", abs(table.offset_m), 0.010, 0.020, text),
    )


def _about_repeats(answer: str | bool) -> Measure:
    name, reason = "repeats", ObservationReason.CAMERA_STUCK
    if isinstance(answer, str):
        return Measure(reason, name, None, 0.0, 0.0, answer)
    text = "the camera repeats one frame, though it is stamped anew" if answer else "each frame is new"
    return Measure(reason, name, float(answer), 0.0, 0.0, text)


def _about_edges(edges: EdgesSeen) -> tuple[Measure, ...]:
    beside, noisy, blind = (
        ObservationReason.CAMERA_MISREGISTERED,
        ObservationReason.CAMERA_NOISY,
        ObservationReason.CAMERA_BLIND,
    )
    if edges.gap_px is None or edges.flying_ratio is None:
        text = f"{edges.count} px on edges of depth, {ENOUGH_EDGES} tell how depth lies to its colour"
        return (Measure(beside, "shift_px", None, 1.5, 4.0, text),)
    if edges.shift_px is None:
        text = f"edges of depth and colour do not say how depth lies to its colour (peak {edges.peak:.2f})"
        shift = Measure(beside, "shift_px", None, 1.5, 4.0, text)
    else:
        x_px, y_px = edges.shift_px
        text = f"depth lies {math.hypot(x_px, y_px):.1f} px beside its colour ({x_px:+.1f} right, {y_px:+.1f} down)"
        shift = Measure(beside, "shift_px", math.hypot(x_px, y_px), 1.5, 4.0, text)
    gap = f"beside edges {edges.gap_px:.1f} px have no depth"
    flying = f"{edges.flying_ratio:.0%} as many pixels float between two surfaces as lie on edges"
    return (
        shift,
        Measure(blind, "edge_gap_px", edges.gap_px, 10.0, _NEVER, gap),
        Measure(noisy, "flying_ratio", edges.flying_ratio, 0.28, _NEVER, flying),
    )


def _about_colour(colour: ColourSeen) -> tuple[Measure, ...]:
    reason, found = ObservationReason.CAMERA_COLOURS, []
    text = f"{colour.clipped_ratio:.0%} of the picture is black or white"
    found.append(Measure(reason, "clipped_ratio", colour.clipped_ratio, 0.5, 0.9, text))
    if colour.cast is None:
        found.append(Measure(reason, "cast_ratio", None, 1.2, 1.35, "no large surface shows the white balance"))
    else:
        red, blue = colour.cast
        off = max(red, blue, 1.0 / red, 1.0 / blue)
        text = (
            f"nothing large is neutral: at best red is {red:.2f} and blue {blue:.2f} times green; check white balance"
        )
        found.append(Measure(reason, "cast_ratio", off, 1.2, 1.35, text))
    if colour.gain is not None:
        off = max(max(g, 1.0 / max(g, 1e-3)) for g in colour.gain)
        red, green, blue = colour.gain
        text = (
            f"since the frame before red, green, blue changed to {red:.2f}, {green:.2f}, {blue:.2f} of what they were"
        )
        found.append(Measure(reason, "gain_ratio", off, 1.15, _NEVER, text))
    return tuple(found)
