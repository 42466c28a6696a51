"""The errors of each step: one root, one branch a step, a typed reason where there are several.

Breakage is an exception; a refusal is a value (`messages.Refusal`, `messages.Verdict`). Attributes have defaults so
that every error can cross a process boundary.
"""

from __future__ import annotations

from qwen2vl_robot.reasons import MotionReason, ObservationReason, PerceptionReason, PlannerReason, WorkerReason


class RobotError(Exception):
    """Root of every error that this package raises on purpose; its text is one clear line."""


class BadInputError(RobotError):
    """What a person or a file handed in cannot be used; the text says what is allowed."""


class ObservationError(RobotError):
    """No usable observation: stale, unsynchronised, wrong size, no depth."""

    def __init__(self, message: str, *, reason: ObservationReason = ObservationReason.BAD_FRAME) -> None:
        super().__init__(message)
        self.reason = reason


class PlannerError(RobotError):
    """The planner gave no usable plan: no reply, malformed reply, foreign checkpoint."""

    def __init__(self, message: str, *, reason: PlannerReason = PlannerReason.BAD_REPLY) -> None:
        super().__init__(message)
        self.reason = reason


class PerceptionError(RobotError):
    """A named object cannot be measured.

    Attributes:
        label: what the planner called the object.
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
    """A worker process crashed, was killed, hung past its budget or raised."""

    def __init__(self, message: str, *, reason: WorkerReason = WorkerReason.RAISED) -> None:
        super().__init__(message)
        self.reason = reason


class ExecutionError(RobotError):
    """The arm cannot be driven: link lost, command rejected."""
