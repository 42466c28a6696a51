"""A rehearsed step → a yes to exactly its verdict, or why there is none: implementations of `ports.Approver`."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from qwen2vl_robot.bounds import REASON_CHARS, shown
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Approval, ApprovalMode, Refusal, Rehearsed, digest
from qwen2vl_robot.reasons import RefusalReason

STRICTNESS = (ApprovalMode.AUTO, ApprovalMode.CONFIRM, ApprovalMode.NEVER)
_POLL_S = 0.05  # a halt ends the waiting for a person after at most this long


class Unattended:
    """Approves by itself what needs no person, and refuses the rest: nobody is there to ask."""

    def __init__(self, halt: Halt) -> None:
        self._halt = halt

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        """Say yes, unless a person would have to (see `ports.Approver`)."""
        verdict_digest, stops = digest(rehearsed.verdict), self._halt.stops
        if doubts:
            return _nobody(verdict_digest, doubts)
        return Approval(verdict_digest, secrets.token_hex(16), stops)


_STEPS = {
    "hold": "pick up the {}",
    "release": "put the {} down",
    "push": "push the {}",
    "show": "show the arm to the camera",
}


class PromptingApprover:
    """Asks a person at a prompt about every step; whoever answers no, or nothing, keeps the step back.

    Args:
        ask: shows a question and waits for yes or no.
    """

    def __init__(self, halt: Halt, ask: Callable[[str], bool]) -> None:
        self._halt, self._ask = halt, ask

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        """Say yes where the person does (see `ports.Approver`)."""
        verdict_digest, stops = digest(rehearsed.verdict), self._halt.stops
        effect = rehearsed.motion.effect
        step = _STEPS.get(effect.kind, "move the arm").format(effect.name)
        seconds = rehearsed.motion.duration_s
        doubt = "".join(f"{text[:1].upper()}{text[1:]}. " for text in doubts)
        if self._ask(f"{doubt}I would {step}, in {seconds:.1f} s. Do it?"):
            return Approval(verdict_digest, secrets.token_hex(16), stops)
        return _nobody(verdict_digest, doubts)


class AskingApprover:
    """Asks a person where one is due: always, or in mode `auto` only about what the person's own words do not cover.

    Args:
        on_question: called with each step before it may go, whether a person is asked, and the doubts about it.
        timeout_s: wall time that a person has to answer.
    """

    def __init__(
        self,
        halt: Halt,
        mode: ApprovalMode,
        *,
        on_question: Callable[[Rehearsed, bool, tuple[str, ...]], None],
        timeout_s: float = 60.0,
    ) -> None:
        self._halt, self._mode = halt, mode
        self._on_question, self._timeout_s = on_question, timeout_s
        self._changed = threading.Condition()
        self._awaited: str | None = None
        self._is_answered = False
        self._demanded = ApprovalMode.AUTO

    def demand(self, mode: ApprovalMode | None) -> None:
        """Ask from now on at least as this mode does, whatever the approver's own is; None: as its own alone."""
        self._demanded = mode or ApprovalMode.AUTO

    def awaited(self) -> str | None:
        """Digest of the verdict that a person is asked about now."""
        return None if self._halt.cause() is not None else self._awaited

    def answer(self, verdict_digest: str) -> tuple[bool, str]:
        """Take a person's yes; only the digest that is awaited counts. Returns whether it counts, and why (not)."""
        with self._changed:
            if (lack := self._lack(verdict_digest)) is not None:
                return False, lack
            self._awaited, self._is_answered = None, True
            self._changed.notify_all()
            return True, "approved"

    def reject(self, verdict_digest: str, reason: str) -> tuple[bool, str]:
        """Take a person's no to the digest that is awaited; it ends the task, and no later yes to that step counts.

        Returns whether it counts, and why (not).
        """
        with self._changed:
            if (lack := self._lack(verdict_digest)) is not None:
                return False, lack
            self._awaited = None
            self._halt.cancel(f"rejected by a person: {shown(reason, REASON_CHARS)}")
            self._changed.notify_all()
            return True, f"rejected: {shown(reason, REASON_CHARS)}"

    def _lack(self, verdict_digest: str) -> str | None:
        """Why an answer to this digest does not count now, None where it does."""
        if self._halt.stopped_by() is not None:
            return "stopped; an approval counts only after a reset"
        if self.awaited() is None:
            return "nothing awaits an approval"
        is_awaited = verdict_digest.strip().lower() == self._awaited
        return None if is_awaited else f"another digest is awaited: {self._awaited}"

    def approve(self, rehearsed: Rehearsed, doubts: tuple[str, ...]) -> Approval | Refusal:
        """Ask where asking is due, and wait for the answer (see `ports.Approver`)."""
        mode = max(self._mode, self._demanded, key=STRICTNESS.index)
        if mode is ApprovalMode.NEVER:
            return Refusal(RefusalReason.NEVER, "approval is set to never; no motion goes")
        verdict_digest, stops = digest(rehearsed.verdict), self._halt.stops
        asks = mode is ApprovalMode.CONFIRM or bool(doubts)
        if asks:
            self._await(verdict_digest)  # before anybody hears of the question, so that no quick answer is lost
        try:
            self._on_question(rehearsed, asks, doubts)
            refusal = self._wait(verdict_digest, doubts) if asks else None
        finally:
            self._await(None)  # also where the question could not be shown: nothing waits for its answer
        return refusal or Approval(verdict_digest, secrets.token_hex(16), stops)

    def _await(self, verdict_digest: str | None) -> None:
        with self._changed:
            self._awaited, self._is_answered = verdict_digest, False

    def _wait(self, verdict_digest: str, doubts: tuple[str, ...]) -> Refusal | None:
        end_s = time.monotonic() + self._timeout_s
        with self._changed:
            while not self._is_answered:
                halted, left_s = self._halt.cause(), end_s - time.monotonic()
                if halted is not None or left_s <= 0.0:
                    self._awaited = None
                    if halted is not None:
                        return Refusal(halted.reason, halted.text)
                    return _nobody(verdict_digest, doubts, self._timeout_s)
                self._changed.wait(min(left_s, _POLL_S))
        return None


def _nobody(verdict_digest: str, doubts: tuple[str, ...], timeout_s: float | None = None) -> Refusal:
    within = "" if timeout_s is None else f" within {timeout_s:g} s"
    why = "; ".join(doubts)
    numbers = () if timeout_s is None else (("allowed_s", timeout_s),)
    asked = f"this needs a person's yes: {why}; nobody gave it" if why else "nobody confirmed"
    text = f"{asked}{within} (verdict {verdict_digest[:12]})"
    return Refusal(RefusalReason.NOT_CONFIRMED, text, numbers)
