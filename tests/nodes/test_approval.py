"""Who must be asked, what is approved by a digest, and what an approval never does."""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.gate import Gate
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    Intrinsics,
    Motion,
    Refusal,
    RobotState,
    Verdict,
    digest,
    freeze,
)
from qwen2vl_robot.nodes.approval import AskingGate
from tests.cells import PROFILE, SCENE, accept, reach


class Hand:
    """Clock and arm at rest, and a gate with what it asked."""

    def __init__(self, approval: Approval, timeout_s: float = 5.0) -> None:
        self.asked: list[tuple[Verdict, bool]] = []
        self.gate = AskingGate(
            self, PROFILE, approval, arm=self, on_question=self.note, look=self.capture, timeout_s=timeout_s
        )
        self.motion: Motion = reach(self.state().q_rad, [0.1, 0, 0, 0, 0, 0, 0])
        self.verdict = accept(self.motion, self.state())

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def state(self) -> RobotState:
        n = len(PROFILE.joints)
        return RobotState(self.now_ns(), freeze(PROFILE.home_q_rad), freeze(np.zeros(n)), 0.08)

    def capture(self) -> CameraFrame:
        k = Intrinsics(64, 48, 60.0, 60.0, 32.0, 24.0)
        rgb, depth_m = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32)
        return CameraFrame(self.now_ns(), rgb, depth_m, k, np.eye(4))

    def note(self, motion: Motion, verdict: Verdict, scene: object, asks: bool) -> None:
        self.asked.append((verdict, asks))

    def admit(self, **more: Any) -> ApprovedMotion | Refusal:
        start = self.state()
        return self.gate.admit(
            self.motion, self.verdict, SCENE, start, start, rehearsed_ns=self.now_ns(), **self.looks(), **more
        )

    def looks(self) -> dict[str, CameraFrame]:
        """Frames, for a gate that compares them."""
        return {name: self.capture() for name in ("seen", "fresh") if name in inspect.signature(Gate.admit).parameters}

    def admit_while(self, act: object) -> ApprovedMotion | Refusal:
        """Admit on a thread, act as soon as a person is asked."""
        found: list[ApprovedMotion | Refusal] = []
        thread = threading.Thread(target=lambda: found.append(self.admit()))
        thread.start()
        while self.gate.awaited() is None and thread.is_alive():
            time.sleep(0.002)
        act()  # type: ignore[operator]
        thread.join(10)
        return found[0]


def reason(answer: ApprovedMotion | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.reason


def test_auto_asks_nobody() -> None:
    hand = Hand(Approval.AUTO)
    assert isinstance(hand.admit(), ApprovedMotion)
    assert [asks for _, asks in hand.asked] == [False]


def test_what_a_person_has_to_confirm_is_asked_about_even_with_auto() -> None:
    hand = Hand(Approval.AUTO, timeout_s=0.05)
    assert reason(hand.admit(to_confirm=("nobody asked for it",))) == "not_confirmed"


def test_never_lets_nothing_through() -> None:
    assert reason(Hand(Approval.NEVER, 0.1).admit()) in ("never", "not_confirmed")


def test_confirm_waits_for_exactly_this_digest() -> None:
    hand = Hand(Approval.CONFIRM)
    wanted = digest(hand.verdict)

    def answer() -> None:
        assert hand.gate.approve("0" * 64) == (False, f"another digest is awaited: {wanted}")
        assert hand.gate.approve(wanted.upper() + " ") == (True, "approved")

    assert isinstance(hand.admit_while(answer), ApprovedMotion)


def test_an_approval_counts_once() -> None:
    hand = Hand(Approval.CONFIRM, timeout_s=0.2)
    assert isinstance(hand.admit_while(lambda: hand.gate.approve(digest(hand.verdict))), ApprovedMotion)
    assert hand.gate.approve(digest(hand.verdict)) == (False, "nothing awaits an approval")
    assert reason(hand.admit()) == "not_confirmed"


def test_an_approval_in_advance_is_worth_nothing() -> None:
    hand = Hand(Approval.CONFIRM, timeout_s=0.1)
    assert not hand.gate.approve(digest(hand.verdict))[0]
    assert reason(hand.admit()) == "not_confirmed"


def test_nobody_answering_is_a_refusal() -> None:
    assert reason(Hand(Approval.CONFIRM, timeout_s=0.05).admit()) == "not_confirmed"


def test_a_task_that_came_by_voice_is_asked_about_even_with_auto() -> None:
    hand = Hand(Approval.AUTO, timeout_s=0.05)
    hand.gate.begin_task(must_ask=True)
    assert reason(hand.admit()) == "not_confirmed"
    assert [asks for _, asks in hand.asked] == [True]


def test_a_stop_ends_the_waiting_and_latches() -> None:
    hand = Hand(Approval.CONFIRM, timeout_s=30.0)
    began_s = time.monotonic()
    assert reason(hand.admit_while(lambda: hand.gate.stop("test"))) == "stopped"
    assert time.monotonic() - began_s < 5.0
    assert hand.gate.approve(digest(hand.verdict))[0] is False
    assert reason(hand.admit()) == "stopped"


def test_a_cancel_ends_the_task_and_not_the_next_one() -> None:
    hand = Hand(Approval.AUTO)
    hand.gate.cancel("cancelled")
    assert hand.gate.is_stopped()
    assert reason(hand.admit()) == "cancelled"
    hand.gate.begin_task(must_ask=False)
    assert not hand.gate.is_stopped()
    assert isinstance(hand.admit(), ApprovedMotion)


def test_a_new_task_does_not_release_a_stop() -> None:
    hand = Hand(Approval.AUTO)
    hand.gate.stop("test")
    hand.gate.begin_task(must_ask=False)
    assert reason(hand.admit()) == "stopped"
    hand.gate.reset()
    assert isinstance(hand.admit(), ApprovedMotion)


def test_what_was_approved_cannot_be_exchanged() -> None:
    hand = Hand(Approval.CONFIRM)
    approved = digest(hand.verdict)

    def answer() -> None:
        hand.motion = reach(hand.state().q_rad, [0.2, 0, 0, 0, 0, 0, 0])
        hand.gate.approve(approved)

    assert isinstance(hand.admit_while(answer), ApprovedMotion)  # the one that was shown
    hand.verdict = replace(hand.verdict)
    assert reason(hand.admit_while(lambda: hand.gate.approve(digest(hand.verdict)))) == "digest_mismatch"
