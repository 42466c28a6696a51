"""The errors of each step: one root, one class per step, a typed reason where a step has several.

Breakage is an exception; a refusal is a value (`messages.Refusal`, `messages.Verdict`). All attributes have defaults,
so that every error can be pickled and cross a process boundary.
"""

from __future__ import annotations

from qwen2vl_robot.reasons import MotionReason, ObservationReason, PerceptionReason, PlannerReason, WorkerReason


class RobotError(Exception):
    """Base of every error that this package raises on purpose; its text is one clear line."""


class BadInputError(RobotError):
    """Input of a person or a file cannot be used; the text says what is allowed."""


class ObservationError(RobotError):
    """There is no usable observation: stale, unsynchronised, wrong size, no depth, or halted while waiting."""

    def __init__(self, message: str, *, reason: ObservationReason = ObservationReason.BAD_FRAME) -> None:
        super().__init__(message)
        self.reason = reason


class PlannerError(RobotError):
    """The planner gave no usable plan: no reply, a malformed reply, an unsuitable checkpoint."""

    def __init__(self, message: str, *, reason: PlannerReason = PlannerReason.BAD_REPLY) -> None:
        super().__init__(message)
        self.reason = reason


class PerceptionError(RobotError):
    """A named object cannot be measured.

    Attributes:
        label: the planner's label of the object.
    """

    def __init__(self, message: str, *, label: str = "", reason: PerceptionReason = PerceptionReason.NOT_FOUND) -> None:
        super().__init__(message)
        self.label = label
        self.reason = reason


class MotionError(RobotError):
    """No motion can be made."""

    def __init__(self, message: str, *, reason: MotionReason = MotionReason.NO_PATH) -> None:
        super().__init__(message)
        self.reason = reason


class WorkerError(RobotError):
    """A worker process crashed, took longer than its time limit, or raised."""

    def __init__(self, message: str, *, reason: WorkerReason = WorkerReason.RAISED) -> None:
        super().__init__(message)
        self.reason = reason


class ExecutionError(RobotError):
    """The arm cannot be driven: link lost, command rejected."""
