"""tf messages → the pose of one frame in another at a given time, for the transport without tf2."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import Any

import numpy as np

from qwen2vl_robot.bounds import NAME_CHARS, TRANSFORMS, shown
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.graph.conversions import pose_from_transform, stamp_to_ns
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.reasons import ObservationReason

_KEPT = 500  # poses of one moving frame: ten seconds at 50 Hz
_MAX_DEPTH = 100


class Frames:
    """A buffer of transforms; moving frames are interpolated, never extrapolated."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._static: dict[str, tuple[str, Array]] = {}
        self._moving: dict[str, tuple[str, deque[tuple[int, Array]]]] = {}
        self._problems: dict[str, str] = {}

    def add(self, message: Message, *, is_static: bool) -> None:
        """Add the transforms of one tf2_msgs/msg/TFMessage; an unusable one is left out and reported."""
        for item in message.transforms[:TRANSFORMS]:
            child, parent = item.child_frame_id.lstrip("/"), item.header.frame_id.lstrip("/")
            if not self._has_room(child, parent):
                continue
            try:
                pose = pose_from_transform(item.transform)
            except ObservationError as error:
                self._problems[child] = f"tf {shown(parent)} to {shown(child)}: {error}"
                continue
            self._problems.pop(child, None)
            with self._lock:
                if is_static:
                    self._static[child] = (parent, pose)
                    continue
                if self._moving.get(child, ("",))[0] != parent:
                    self._moving[child] = (parent, deque(maxlen=_KEPT))
                history = self._moving[child][1]
                stamp_ns = stamp_to_ns(item.header.stamp)
                if not history or stamp_ns > history[-1][0]:
                    history.append((stamp_ns, pose))

    def _has_room(self, child: str, parent: str) -> bool:
        """Whether a frame is known or may become so: whoever makes up names shall not fill the memory."""
        if max(len(child), len(parent)) > NAME_CHARS:
            return False
        known: tuple[dict[str, Any], ...] = (self._static, self._moving, self._problems)
        return any(child in names for names in known) or max(map(len, known)) < TRANSFORMS

    def lookup(self, target: str, source: str, stamp_ns: int) -> Array:
        """Look up `T_target_source` (4, 4) at a time.

        Raises:
            ObservationError: a frame is unknown, the frames are not connected or form a cycle, or the time lies
                outside the received transforms.
        """
        with self._lock:
            up_target, up_source = (self._chain(f.lstrip("/"), stamp_ns) for f in (target, source))
        roots = [frame for frame in up_target if frame in up_source]
        if not roots:
            known = shown(", ".join(sorted({*self._static, *self._moving})[:12])) or "none"
            raise ObservationError(
                f"tf: no path from {shown(source)} to {shown(target)}; frames with a parent: {known}",
                reason=ObservationReason.NO_TRANSFORM,
            )
        T_root_target, T_root_source = up_target[roots[0]], up_source[roots[0]]
        pose: Array = invert(T_root_target) @ T_root_source
        return pose

    def problems(self) -> tuple[str, ...]:
        """List the unusable transforms, the latest of each child frame."""
        return tuple(self._problems.values())

    def _chain(self, frame: str, stamp_ns: int) -> dict[str, Array]:
        """Map each ancestor of a frame to `T_ancestor_frame`, the frame itself first."""
        poses = {frame: np.eye(4)}
        current = frame
        for _ in range(_MAX_DEPTH):
            if current in self._static:
                parent, pose = self._static[current]
            elif current in self._moving:
                parent, history = self._moving[current]
                pose = _at(history, stamp_ns, current)
            else:
                return poses
            if parent in poses:
                raise ObservationError(
                    f"tf: the frames form a cycle at {parent}", reason=ObservationReason.NO_TRANSFORM
                )
            poses[parent] = pose @ poses[current]
            current = parent
        raise ObservationError(
            f"tf: more than {_MAX_DEPTH} frames above {frame}", reason=ObservationReason.NO_TRANSFORM
        )


def _at(history: deque[tuple[int, Array]], stamp_ns: int, frame: str) -> Array:
    stamps = [s for s, _ in history]
    if not stamps[0] <= stamp_ns <= stamps[-1]:
        off_s = (stamp_ns - (stamps[-1] if stamp_ns > stamps[-1] else stamps[0])) / 1e9
        raise ObservationError(
            f"tf: no transform of {frame} at the requested time; it is {off_s:+.3f} s off the received ones",
            reason=ObservationReason.NO_TRANSFORM,
        )
    after = bisect_left(stamps, stamp_ns)
    if stamps[after] == stamp_ns:
        return history[after][1]
    (s0, a), (s1, b) = history[after - 1], history[after]
    share = (stamp_ns - s0) / (s1 - s0)
    return _between(a, b, share)


def _between(a: Array, b: Array, share: float) -> Array:
    """Interpolate between two poses; the mean of the rotation matrices is projected back to a rotation."""
    mean = (1.0 - share) * a + share * b
    u, _, vt = np.linalg.svd(mean[:3, :3])
    mean[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return mean
