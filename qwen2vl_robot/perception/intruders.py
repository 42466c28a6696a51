"""Frames of one standing camera while an arm moves → what came there since the motion was looked at.

A pixel counts that is nearer than what was there before, and shows neither the arm, nor its load, nor a thing where the
motion may move it. What was hidden behind the arm is learnt as it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import CameraFrame, Intrinsics, Observation, SceneObject
from qwen2vl_robot.perception.changes import inside_any
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import Float32, Mask, make_view, smoothed
from qwen2vl_robot.perception.way import Way

SMALLEST_M = 0.04  # across: the smallest thing that is found for certain
_WIDTH_PX = 320  # pictures are thinned to about this
_NOISE_M, _NOISE_PER_M = 0.014, 0.012  # a depth z changes by less than the sum of the first and z² times the second
_AREA_M2 = 0.35 * SMALLEST_M**2  # of what shows of a thing
_AHEAD_M2 = 2e-4  # of what of it is in the way
_DEEPEST_M = 0.15  # a thing is taken to be as deep as it is wide, up to this
_RAY_STEP_M = 0.02
_AROUND_PX = 6  # around the arm's pixels and its load's: frames and joint states are not stamped alike, edges fly
_FRONT_M = 0.03  # before its surface: calibration, and parts that its meshes lack
_NOWHERE_M = np.float32(50.0)
_HIGH_M, _BASE_M = 0.03, 0.25  # of what shows where nothing was known: higher than a table's error, away from the base
_MOST_PATCHES = 20
_SEEN_RATIO = 0.5  # of the pixels that had depth; with fewer the camera is blind
_SAME_M, _FASTEST_MPS = 0.03, 1.0  # a thing is the same one if it is no further from where it was
_LASTS_NS = 100_000_000  # what is seen for less may be noise
_SAME_VIEW_PX, _SAME_POSE_M = 1.0, 1e-3
_GONE_RATIO, _SHOWS_M = 0.3, 0.008


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Something that came.

    Attributes:
        p_base_m: (3,) its middle.
        size_m: its larger side in the picture.
        is_ahead: whether a part of it is where arm or load still come.
        since_ns: stamp of the first picture in which it was seen.
    """

    p_base_m: Array
    size_m: float
    is_ahead: bool
    since_ns: int


class Eye:
    """One camera during one motion.

    Args:
        observed: the look by which the motion is admitted, with the arm's state.

    Raises:
        ObservationError: the frame cannot be measured.
    """

    def __init__(self, observed: Observation, around: Surroundings) -> None:
        frame = thinned(observed.frame)
        self._view = view = make_view(replace(observed, frame=frame), around.kinematics, around.profile)
        self._T_published = frame.T_base_camera
        self._first_m = view.smooth_m
        self._known_m: Float32 = np.where(view.is_robot, np.float32(np.nan), view.smooth_m)
        self._before_m: Float32 = np.full_like(self._known_m, np.nan)
        self._patches: list[Patch] = []
        self._stamp_ns = frame.stamp_ns

    def has_moved(self, frame: CameraFrame) -> bool:
        """Whether a frame was taken from elsewhere than the first one: a camera at the wrist moves with the arm."""
        return not np.allclose(frame.T_base_camera, self._T_published, atol=_SAME_POSE_M)

    def look(
        self, frame: CameraFrame, arm_m: Array, way: Way, at_s: float, excused: Sequence[tuple[SceneObject, float]]
    ) -> list[Patch] | None:
        """Find what came, the largest first; None where the frame shows too little to tell.

        Args:
            arm_m: points (n, 3) on arm and load at the frame's moment, base frame, no more than 1 cm apart.
            at_s: that moment in the motion's own time.
            excused: bodies where they may show, each with room around it.
        """
        frame = thinned(frame)
        if not _same_view(frame.intrinsics, self._view.intrinsics) or frame.depth_m.shape != self._known_m.shape:
            return None
        valid = (frame.depth_m > 0) & np.isfinite(frame.depth_m)
        now_m = smoothed(np.where(valid, frame.depth_m, np.float32(np.nan)).astype(np.float32))
        known_m = self._known_m
        with np.errstate(invalid="ignore"):
            is_arm = now_m >= self._front_m(arm_m) - np.float32(_FRONT_M)
            step_m = known_m - now_m
            noise_m = np.float32(_NOISE_M) + np.float32(_NOISE_PER_M) * now_m**2
            came = (step_m > noise_m) & ~is_arm
        is_new = np.isnan(known_m) & np.isfinite(now_m) & ~is_arm
        there = np.isfinite(known_m) & ~is_arm
        if not np.isfinite(now_m[there]).mean() >= _SEEN_RATIO:
            return None
        patches = self._patches_of(now_m, came, is_new, way, at_s, excused)
        gap_s = (frame.stamp_ns - self._stamp_ns) / 1e9
        self._patches = [self._dated(patch, frame.stamp_ns, gap_s) for patch in patches]
        self._stamp_ns = frame.stamp_ns
        self._learn(np.where(is_arm, np.float32(np.nan), now_m), noise_m)
        return self._patches

    def lasting(self, stamp_ns: int) -> Patch | None:
        """What is in the way in the latest frame, and was seen long enough."""
        ahead = [p for p in self._patches if p.is_ahead and stamp_ns - p.since_ns >= _LASTS_NS]
        return max(ahead, key=lambda patch: patch.size_m, default=None)

    def has_left(self, body: SceneObject) -> bool:
        """Whether what showed of a body in the first frame shows no longer, by the latest frame."""
        rows, cols = np.nonzero(np.isfinite(self._first_m) & (self._view.height_m > _SHOWS_M) & ~self._view.is_robot)
        points_m = self._view.origin_m + self._first_m[rows, cols, None] * self._view.rays[rows, cols]
        shows = inside_any(points_m, (body,), _SHOWS_M)
        if not shows.any():
            return False
        was_m, is_m = self._first_m[rows, cols][shows], self._before_m[rows, cols][shows]
        with np.errstate(invalid="ignore"):
            gone = is_m - was_m > _NOISE_M + _NOISE_PER_M * was_m**2
        return float(gone.mean()) >= _GONE_RATIO

    def _front_m(self, arm_m: Array) -> Float32:
        """Compute how near the arm is in each pixel (h, w) and around it."""
        view, shape = self._view, self._known_m.shape
        depth_m = (arm_m - view.origin_m) @ view.T_base_camera[:3, 2]
        u, v = np.rint(np.clip(view.project(arm_m), -1e6, 1e6)).astype(np.int64).T
        inside = (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0]) & (depth_m > 0.05)
        front_m = np.full(shape, _NOWHERE_M)
        np.minimum.at(front_m.ravel(), v[inside] * shape[1] + u[inside], depth_m[inside].astype(np.float32))
        size = 2 * _AROUND_PX + 1
        return np.asarray(cv2.erode(front_m, np.ones((size, size), np.uint8)), dtype=np.float32)

    def _patches_of(
        self,
        now_m: Float32,
        came: Mask,
        is_new: Mask,
        way: Way,
        at_s: float,
        excused: Sequence[tuple[SceneObject, float]],
    ) -> list[Patch]:
        rows, cols = np.nonzero(came | is_new)
        points_m = self._view.origin_m + now_m[rows, cols, None] * self._view.rays[rows, cols]
        new = is_new[rows, cols]
        unlikely = (points_m[:, 2] < _HIGH_M) | (np.hypot(points_m[:, 0], points_m[:, 1]) < _BASE_M)
        counts = ~(new & unlikely)
        for body, room_m in excused:
            counts[counts] = ~inside_any(points_m[counts], (body,), room_m)
        mask = np.zeros(now_m.shape, np.uint8)
        mask[rows[counts], cols[counts]] = 1
        core = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
        largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:_MOST_PATCHES]
        found = [self._patch(labels == label, now_m, way, at_s) for label in largest if stats[label, 4] > 8]
        return [patch for patch in found if patch is not None]

    def _patch(self, shown: Mask, now_m: Float32, way: Way, at_s: float) -> Patch | None:
        rows, cols = np.nonzero(shown)
        depth_m = now_m[rows, cols]
        pitch_m = float(np.median(depth_m)) / self._view.intrinsics.fx_px
        if len(rows) * pitch_m**2 < _AREA_M2:
            return None
        size_m = float(max(np.ptp(rows), np.ptp(cols)) + 1) * pitch_m
        behind_m = np.arange(0.0, min(size_m, _DEEPEST_M) + 1e-6, _RAY_STEP_M)
        with np.errstate(invalid="ignore"):
            known_m = self._known_m[rows, cols, None]
            along_m = np.where(depth_m[:, None] + behind_m > known_m, np.nan, depth_m[:, None] + behind_m)
        points_m = self._view.origin_m + along_m[..., None] * self._view.rays[rows, cols][:, None]
        ahead = way.is_ahead(points_m, at_s).any(axis=1)
        is_ahead = float(ahead.sum()) * pitch_m**2 >= _AHEAD_M2
        return Patch(np.median(points_m[:, 0], axis=0), size_m, is_ahead, 0)

    def _dated(self, patch: Patch, stamp_ns: int, gap_s: float) -> Patch:
        """Note since when a patch is seen: it may have come from wherever another one was in the frame before."""
        since_ns = stamp_ns
        for before in self._patches:
            reach_m = _SAME_M + (patch.size_m + before.size_m) / 2 + _FASTEST_MPS * gap_s
            if np.linalg.norm(patch.p_base_m - before.p_base_m) <= reach_m:
                since_ns = min(since_ns, before.since_ns)
        return replace(patch, since_ns=since_ns)

    def _learn(self, now_m: Float32, noise_m: Float32) -> None:
        """Take what shows behind the arm, or behind what left, for known once two frames have shown it."""
        known_m, least_m = self._known_m, np.minimum(now_m, self._before_m)  # NaN where one of them shows nothing
        with np.errstate(invalid="ignore"):
            is_fresh = np.isfinite(least_m) & (np.isnan(known_m) | (least_m > known_m + noise_m))
        self._known_m = np.where(is_fresh, least_m, known_m)
        self._before_m = now_m


def thinned(frame: CameraFrame) -> CameraFrame:
    """Take every so many-th pixel, so that the picture is about 320 px wide; further cameras are left out."""
    k = frame.intrinsics
    every = max(1, round(k.width_px / _WIDTH_PX))
    depth_m = np.ascontiguousarray(frame.depth_m[::every, ::every])
    rows, columns = depth_m.shape
    small = Intrinsics(columns, rows, k.fx_px / every, k.fy_px / every, k.cx_px / every, k.cy_px / every)
    return replace(frame, rgb=frame.rgb[::every, ::every], depth_m=depth_m, intrinsics=small, others=(), clip=())


def _same_view(a: Intrinsics, b: Intrinsics) -> bool:
    pairs = ((a.fx_px, b.fx_px), (a.fy_px, b.fy_px), (a.cx_px, b.cx_px), (a.cy_px, b.cy_px))
    return all(abs(one - other) <= _SAME_VIEW_PX for one, other in pairs)
