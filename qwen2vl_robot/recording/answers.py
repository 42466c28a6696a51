"""A tape → the ports of a controller that is replayed: they answer as it was recorded, and no arm is behind them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from qwen2vl_robot.halt import Authority, Halt
from qwen2vl_robot.messages import Approval, ApprovedMotion, CameraFrame, Cause, Refusal, Rehearsed, RobotState
from qwen2vl_robot.recording.form import ApprovalForm, CauseForm, StateForm
from qwen2vl_robot.recording.tape import BadTapeError, Tape

_LONG_S = 0.4  # the executor lets the clock leap further only where as much wall time passed


class TapeCamera:
    """A `ports.Camera` that saw what is on the tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.frames: list[CameraFrame] = []

    def capture(self) -> CameraFrame:
        """The recorded frame (see `ports.Camera`)."""
        frame = self._tape.frame("camera.capture")
        if frame is None:
            raise BadTapeError("a recorded frame is empty")
        return frame

    def newest(self, since_ns: int) -> CameraFrame | None:
        """The recorded frame, or that there was none (see `ports.Camera`)."""
        frame = self._tape.frame("camera.newest")
        if frame is not None:
            self.frames.append(frame)
        return frame


class TapeArm:
    """A `ports.Arm` that only says what an arm said; nothing moves."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def state(self) -> RobotState:
        """The recorded state (see `ports.Arm`)."""
        return self._tape.parse(self._tape.answer("arm.state"), StateForm).message()

    def execute(self, approved: ApprovedMotion) -> None:
        """Move nothing (see `ports.Arm`)."""
        self._tape.answer("arm.execute")

    def is_moving(self) -> bool:
        """Whether it was moving (see `ports.Arm`)."""
        return bool(self._tape.answer("arm.is_moving"))

    def has_gripped(self) -> bool:
        """Whether it had gripped (see `ports.Arm`)."""
        return bool(self._tape.answer("arm.has_gripped"))

    def go_on(self) -> int:
        """The recorded time (see `ports.Arm`)."""
        return self._tape.whole("arm.go_on")

    def retreat(self, from_s: float) -> int:
        """The recorded time (see `ports.Arm`)."""
        return self._tape.whole("arm.retreat")

    def stop(self) -> None:
        """Nothing moves (see `ports.Arm`)."""
        self._tape.answer("arm.stop")


class TapeClock:
    """A `ports.Clock` that shows the recorded times."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._last_ns: int | None = None

    def now_ns(self) -> int:
        """The recorded time; a leap that the executor would not believe takes as long as it did (see `ports.Clock`)."""
        now_ns = self._tape.whole("clock.now_ns")
        leap_s = 0.0 if self._last_ns is None else (now_ns - self._last_ns) / 1e9
        self._last_ns = now_ns
        if _LONG_S < leap_s < 2.0:
            time.sleep(leap_s)
        return now_ns

    def sleep(self, seconds: float) -> None:
        """Take no time (see `ports.Clock`)."""


class TapeApprover:
    """A `ports.Approver` that gives what was given: to another verdict than the recorded one it gives nothing."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        """The recorded answer (see `ports.Approver`); an approval names its verdict, and the gate compares."""
        answer = self._tape.answer("approver.approve")
        if isinstance(answer, dict) and answer.get("is") == "Approval":
            return self._tape.parse(answer, ApprovalForm).message()
        refusal = self._tape.parse(answer, CauseForm).message()
        if not isinstance(refusal, Refusal):
            raise BadTapeError("a recorded answer of the approver is neither an approval nor a refusal")
        return refusal


class TapeHalt(Halt):
    """A halt that says what it said at each poll; what the flow itself stops is on the tape, too."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape
        self._causes = self._counts = self._count = 0
        self._cause: Cause | None = None

    def cause(self) -> Cause | None:
        self._causes += 1
        has_changed, answer = self._tape.halted("halt.cause", self._causes)
        if has_changed:
            self._cause = None if answer is None else self._tape.parse(answer, CauseForm).message()
        return self._cause

    @property
    def stops(self) -> int:
        self._counts += 1
        has_changed, answer = self._tape.halted("halt.stops", self._counts)
        self._count = answer if has_changed and isinstance(answer, int) else self._count
        return self._count

    def stop(self, why: str) -> None:
        """Nothing: its effect is on the tape."""

    def reset(self, by: Authority = Authority.PERSON) -> None:
        """Nothing: its effect is on the tape."""

    @contextmanager
    def task(self) -> Iterator[None]:
        yield
