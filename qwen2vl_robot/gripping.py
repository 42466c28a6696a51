"""Measured widths of the fingers → whether they did what a motion expects of them, and whether they stay so.

No motion goes on after a command to its gripper by the clock: the controller's result must be there, the fingers must
be measured at rest, and their width must be one that was rehearsed. Then the arm moves with fingers that are as wide as
the twin had them.
"""

from __future__ import annotations

from collections import deque

from qwen2vl_robot.messages import Cause, GripperSegment, Motion, RobotState
from qwen2vl_robot.reasons import AbortReason

GO_AHEAD_S = 0.25  # before a command's planned end it may be found done, so that the arm loses no time
LATE_S = 6.0  # after it nobody waits: a whole opening of the hand at an eighth of its speed has ended by then
_REST_NS, _REST_M = 200_000_000, 0.0005  # at rest: so little over so long, which is 2.5 mm/s
_WIDER_M = 0.010  # than where the fingers should meet something: its size and place are measured, and it may lie askew
_NARROWER_M = 0.004  # than commanded
_BEGUN_RATIO = 0.3  # of the way that it should close: fingers that have not left their place have met nothing
_SLACK_M = 0.010  # by which fingers that hold nothing may give while nobody moves them
_SLACK_RATIO = 0.5  # of what they hold: it turns between them, and what is lost lets them close on nothing


class Gripping:
    """The commands to the gripper of one motion, in their order."""

    def __init__(self, motion: Motion) -> None:
        self._grips = [s for s in motion.segments if isinstance(s, GripperSegment)]
        self._widths: deque[tuple[int, float]] = deque()  # stamps and widths of the last `_REST_NS`, and one before
        self._held_m: float | None = None  # while nobody moves the fingers
        self._is_holding = False
        self._from_m: float | None = None  # where they were as the command was given

    @property
    def next(self) -> GripperSegment | None:
        """Return the first command that was not found done."""
        return self._grips[0] if self._grips else None

    def measure(self, state: RobotState) -> None:
        """Take a measured width."""
        if self._widths and state.stamp_ns <= self._widths[-1][0]:
            return
        self._widths.append((state.stamp_ns, state.gripper_width_m))
        while len(self._widths) > 1 and self._widths[1][0] <= state.stamp_ns - _REST_NS:
            self._widths.popleft()

    def lacks(self, has_result: bool) -> Cause | None:
        """Say what the next command lacks to be done, None when it lacks nothing.

        Args:
            has_result: whether its controller gave a result.
        """
        grip, (stamp_ns, width_m) = self._grips[0], self._widths[-1]
        mm = f"at {width_m * 1000:.0f} mm"
        numbers: tuple[tuple[str, float], ...] = (("width_m", width_m),)
        if not has_result:
            return Cause(AbortReason.GRIPPER_LATE, f"the gripper gave no result; its fingers are {mm}", numbers)
        moved_m = max(abs(w - width_m) for _, w in self._widths)
        if moved_m > _REST_M or stamp_ns - self._widths[0][0] < _REST_NS:
            return Cause(AbortReason.GRIPPER_LATE, f"the fingers have not come to rest; they are {mm}", numbers)
        expected_m, from_m = max(grip.width_m, grip.meets_m), width_m if self._from_m is None else self._from_m
        low_m, high_m = grip.width_m - _NARROWER_M, expected_m + _WIDER_M
        if from_m > expected_m + _NARROWER_M:
            high_m = min(high_m, from_m - _BEGUN_RATIO * (from_m - expected_m))
        if low_m <= width_m <= high_m:
            return None
        allowed = f"allowed {max(low_m, 0.0) * 1000:.0f} to {high_m * 1000:.0f} mm"
        numbers = (*numbers, ("least_m", low_m), ("most_m", high_m))
        return Cause(AbortReason.GRIP_OFF, f"the fingers came to rest {mm}; {allowed}", numbers)

    def done(self) -> None:
        """Note that the next command is done: from now on the fingers stay where they are."""
        grip = self._grips.pop(0)
        self._is_holding = grip.meets_m > grip.width_m
        self._held_m, self._from_m = self._widths[-1][1], None

    def slip(self, since_s: float) -> Cause | None:
        """Say how the fingers moved though nobody moves them; what they held is lost, or they never held it.

        Args:
            since_s: the motion's own time at the latest measured width.
        """
        width_m = self._widths[-1][1]
        if self._grips and since_s >= self._grips[0].start_s:
            self._from_m = width_m if self._from_m is None else self._from_m
            return None
        if self._held_m is None:
            self._held_m = width_m
        moved_m = abs(width_m - self._held_m)
        allowed_m = _SLACK_RATIO * self._held_m
        if not self._is_holding:
            allowed_m = min(allowed_m, _SLACK_M)
        if moved_m <= allowed_m:
            return None
        allowed = f"allowed {allowed_m * 1000:.0f} mm"
        text = f"the fingers moved by {moved_m * 1000:.0f} mm without a command; {allowed}"
        return Cause(AbortReason.GRIP_LOST, text, (("moved_m", moved_m), ("allowed_m", allowed_m)))
