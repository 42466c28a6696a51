"""The errors of each step: one root, one branch a step, numbers as attributes.

Breakage is an exception; a refusal is a value (`messages.Refusal`, `messages.Verdict`). Attributes have defaults so
that every error can cross a process boundary.
"""

from __future__ import annotations


class RobotError(Exception):
    """Root of every error that this package raises on purpose; its text is one clear line."""


class BadInputError(RobotError):
    """What a person or a file handed in cannot be used; the text says what is allowed."""


class ObservationError(RobotError):
    """No usable observation: stale, unsynchronised, wrong size, no depth."""


class PlannerError(RobotError):
    """The planner gave no usable plan: no reply, malformed reply, foreign checkpoint."""


class PerceptionError(RobotError):
    """A named object cannot be measured.

    Attributes:
        label: what the planner called the object.
        reason: a typed reason ("no_depth", "not_found", "label_mismatch", "ambiguous").
    """

    def __init__(self, message: str, *, label: str = "", reason: str = "not_found") -> None:
        super().__init__(message)
        self.label = label
        self.reason = reason


class MotionError(RobotError):
    """No motion can be made.

    Attributes:
        reason: a typed reason ("out_of_reach", "no_grasp", "no_path", "no_space", "unsupported").
    """

    def __init__(self, message: str, *, reason: str = "no_path") -> None:
        super().__init__(message)
        self.reason = reason


class WorkerError(RobotError):
    """A worker process crashed, was killed, hung past its budget or raised.

    Attributes:
        reason: "crashed", "timeout" or "raised".
    """

    def __init__(self, message: str, *, reason: str = "raised") -> None:
        super().__init__(message)
        self.reason = reason


class ExecutionError(RobotError):
    """The arm cannot be driven: link lost, command rejected."""
