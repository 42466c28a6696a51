"""tf messages → the pose of one frame in another at a given time, on both transports.

Stricter than tf2: a frame that two publishers put in two places has no pose, a transform from the future is left out,
and one that comes after a clock was set back counts.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qwen2vl_robot.bounds import NAME_CHARS, TRANSFORMS, shown
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import pose_from_transform, stamp_to_ns
from qwen2vl_robot.graph.interface import Message
from qwen2vl_robot.reasons import ObservationReason

_KEPT = 500  # poses of one moving frame: ten seconds at 50 Hz
_MAX_DEPTH = 100
_AHEAD_NS = 1_000_000_000  # some publishers date transforms ahead, by the second of their tolerance
_SAME_M, _SAME_RAD = 0.001, 0.002  # two publications of one fixed pose differ by less
_LEAP_M, _LEAP_MPS = 0.05, 5.0  # no frame of an arm goes so far so fast
_LOOKED_AT = 20  # poses before the wanted one that must not leap
_TWO = "does another robot publish it too? Remap /tf and /tf_static for each robot"


def listen(graph: interface.Graph) -> Frames:
    """Make the buffer of a node's /tf and /tf_static."""
    frames = Frames(graph.now_ns)
    graph.subscribe(interface.ANY_TF, partial(frames.add, is_static=False))
    graph.subscribe(interface.TF_STATIC, partial(frames.add, is_static=True))
    return frames


class Frames:
    """A buffer of transforms; moving frames are interpolated, never extrapolated.

    Args:
        now_ns: returns the time of the transforms.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._may_change: set[str] = set()  # fixed frames whose pose is from before a jump of the clock
        self._contested: dict[str, str] = {}
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
                    self._fix(child, parent, pose)
                else:
                    self._append(child, parent, pose, stamp_to_ns(item.header.stamp))

    def forget(self) -> None:
        """Forget where moving frames were, and let fixed ones be fixed anew: the clock jumped."""
        with self._lock:
            self._moving.clear()
            self._contested.clear()
            self._may_change = set(self._static)

    def _fix(self, child: str, parent: str, pose: Array) -> None:
        """Take a fixed pose; a second, different one leaves the frame without any."""
        self._problems.pop(child, None)
        if child in self._static and child not in self._may_change:
            off = _difference(self._static[child], (parent, pose))
            if off is not None:
                self._contested[child] = f"tf: {shown(child)} is fixed in two places, {off}; {_TWO}"
                self._problems[child] = self._contested[child]
            return
        self._may_change.discard(child)
        self._static[child] = (parent, pose)

    def _append(self, child: str, parent: str, pose: Array, stamp_ns: int) -> None:
        ahead_ns = stamp_ns - self._now_ns()
        if ahead_ns > _AHEAD_NS:  # it would hide all that come after it
            ahead = f"is stamped {ahead_ns / 1e9:.3f} s in the future; check the clocks"
            self._problems[child] = f"tf: {shown(child)} {ahead}"
            return
        self._problems.pop(child, None)
        if self._moving.get(child, ("",))[0] != parent:
            self._moving[child] = (parent, deque(maxlen=_KEPT))
        history = self._moving[child][1]
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
            if current in self._contested:
                raise ObservationError(self._contested[current], reason=ObservationReason.NO_TRANSFORM)
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
        raise ObservationError(_off(stamps, stamp_ns, frame), reason=ObservationReason.NO_TRANSFORM)
    after = bisect_left(stamps, stamp_ns)
    _check_leaps(list(history)[max(0, after - _LOOKED_AT) : after + 1], frame)
    if stamps[after] == stamp_ns:
        return history[after][1]
    (s0, a), (s1, b) = history[after - 1], history[after]
    share = (stamp_ns - s0) / (s1 - s0)
    return _between(a, b, share)


def _off(stamps: list[int], stamp_ns: int, frame: str) -> str:
    """Say how far a time lies outside the transforms of a frame."""
    if stamp_ns > stamps[-1]:
        late_s = (stamp_ns - stamps[-1]) / 1e9
        return f"tf: the last transform of {shown(frame)} came {late_s:.3f} s before that time; is it still published?"
    return f"tf: the first transform of {shown(frame)} came {(stamps[0] - stamp_ns) / 1e9:.3f} s after that time"


def _check_leaps(poses: list[tuple[int, Array]], frame: str) -> None:
    """Check that a moving frame moves as things do.

    Raises:
        ObservationError: it leaps to and fro, as if it were two.
    """
    for (s0, a), (s1, b) in zip(poses, poses[1:], strict=False):
        way_m, seconds = float(np.linalg.norm(b[:3, 3] - a[:3, 3])), (s1 - s0) / 1e9
        if way_m > max(_LEAP_M, _LEAP_MPS * seconds):
            text = f"tf: {shown(frame)} leaps by {way_m:.3f} m in {seconds:.3f} s; {_TWO}"
            raise ObservationError(text, reason=ObservationReason.NO_TRANSFORM)


def _difference(one: tuple[str, Array], other: tuple[str, Array]) -> str | None:
    """Say how two fixed poses differ, None where they are one."""
    if one[0] != other[0]:
        return f"in {shown(one[0])} and in {shown(other[0])}"
    T = invert(one[1]) @ other[1]
    off_m = float(np.linalg.norm(T[:3, 3]))
    turned_rad = float(np.arccos(np.clip((np.trace(T[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
    same = off_m <= _SAME_M and turned_rad <= _SAME_RAD
    return None if same else f"{off_m * 1000:.1f} mm and {np.degrees(turned_rad):.2f} degrees apart"


def _between(a: Array, b: Array, share: float) -> Array:
    """Interpolate between two poses; the mean of the rotation matrices is projected back to a rotation."""
    mean = (1.0 - share) * a + share * b
    u, _, vt = np.linalg.svd(mean[:3, :3])
    mean[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return mean
