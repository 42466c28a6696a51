"""A person's yes or no → the gate: who must be asked, what exactly is approved, and how a task is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    Motion,
    Refusal,
    RobotState,
    Scene,
    Verdict,
    digest,
)
from qwen2vl_robot.ports import Clock


class _StateSource(Protocol):
    def state(self) -> RobotState: ...


class AskingGate(Gate):
    """A gate that waits for a person's approval of exactly one verdict.

    Underneath, the gate always wants a confirmation. With `Approval.AUTO` this class gives it itself, except for tasks
    that must be confirmed whatever the setting (`begin_task(must_ask=True)`, for what came by voice).

    Args:
        arm: measured again after the waiting, because the gate refuses a stale state.
        on_question: told of each verdict before it is admitted; the flag says whether a person is asked.
        look: takes a frame after the waiting, for a gate that compares frames.
        timeout_s: wall time that a person has to answer.
        limits: further arguments of `Gate`.
    """

    def __init__(
        self,
        clock: Clock,
        profile: RobotProfile,
        approval: Approval,
        *,
        arm: _StateSource,
        on_question: Callable[[Motion, Verdict, Scene, bool], None],
        look: Callable[[], CameraFrame],
        timeout_s: float = 60.0,
        **limits: Any,
    ) -> None:
        inner = Approval.NEVER if approval is Approval.NEVER else Approval.CONFIRM
        super().__init__(clock, profile, inner, max_verdict_age_s=30.0 + timeout_s, **limits)
        self._is_auto = approval is Approval.AUTO
        self._arm, self._look, self._on_question, self._timeout_s = arm, look, on_question, timeout_s
        self._answered = threading.Condition()
        self._awaited: str | None = None
        self._must_ask = False
        self._cancelled: str | None = None

    # --------------------------------------------------------------------------------------------- a task

    def begin_task(self, *, must_ask: bool) -> None:
        """Start with a clean slate: nothing cancelled, nothing confirmed."""
        self._cancelled, self._must_ask = None, must_ask

    def cancel(self, reason: str) -> None:
        """Give up the task at hand; unlike a stop, this ends with the task."""
        with self._answered:
            self._cancelled = reason
            self._answered.notify_all()

    def halted(self) -> str | None:
        """Why nothing may go on now, else None."""
        if super().is_stopped():
            return "stopped; release it with ~/reset"
        return self._cancelled

    def is_stopped(self) -> bool:
        """Whether the arm must halt: a latched stop, or a cancelled task."""
        return self.halted() is not None

    def is_latched(self) -> bool:
        """Whether a stop waits for its reset."""
        return super().is_stopped()

    def stop(self, reason: str) -> None:
        """Latch a stop (see `Gate`) and end the waiting."""
        super().stop(reason)
        with self._answered:
            self._awaited = None
            self._answered.notify_all()

    # ------------------------------------------------------------------------------------------- approval

    def awaited(self) -> str | None:
        """Digest of the verdict that a person is asked about now."""
        return self._awaited

    def approve(self, verdict_digest: str) -> tuple[bool, str]:
        """Take a person's answer; only the digest that is awaited counts."""
        given = verdict_digest.strip().lower()
        with self._answered:
            if super().is_stopped():
                return False, "stopped; an approval counts only after a reset"
            if self._awaited is None:
                return False, "nothing awaits an approval"
            if given != self._awaited:
                return False, f"another digest is awaited: {self._awaited}"
            self.confirm(given)
            self._awaited = None
            self._answered.notify_all()
            return True, "approved"

    def admit(
        self,
        motion: Motion,
        verdict: Verdict,
        scene: Scene,
        start: RobotState,
        live: RobotState,
        *,
        rehearsed_ns: int,
        **looks: Any,
    ) -> ApprovedMotion | Refusal:
        """Ask where asking is due, then let the gate decide (see `Gate.admit`, which `looks` is for)."""
        verdict_digest = digest(verdict)
        must_ask = self._must_ask or not self._is_auto or bool(looks.get("to_confirm"))
        self._on_question(motion, verdict, scene, must_ask)
        if must_ask:
            refusal = self._ask(verdict_digest)
            if refusal is not None:
                return refusal
            try:
                live = replace(self._arm.state(), held=live.held)
                looks |= {"fresh": self._look()} if "fresh" in looks else {}
            except ObservationError as error:
                return Refusal("stale_state", f"after the approval: {error}")
        elif self._cancelled is None:
            self.confirm(verdict_digest)
        if self._cancelled is not None:
            return Refusal("cancelled", self._cancelled)
        return super().admit(motion, verdict, scene, start, live, rehearsed_ns=rehearsed_ns, **looks)

    def _ask(self, verdict_digest: str) -> Refusal | None:
        end_s = time.monotonic() + self._timeout_s
        with self._answered:
            self._awaited = verdict_digest
            while self._awaited == verdict_digest:
                halted = self.halted()
                left_s = end_s - time.monotonic()
                if halted is not None or left_s <= 0.0:
                    self._awaited = None
                    told = halted or f"nobody approved {verdict_digest[:12]} within {self._timeout_s:g} s"
                    return Refusal("stopped" if halted else "not_confirmed", told)
                self._answered.wait(min(left_s, 0.2))
        halted = self.halted()
        return None if halted is None else Refusal("stopped", halted)
