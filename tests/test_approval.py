"""Who must be asked, what is approved by a digest, and what an approval never does."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.approval import AskingApprover, Unattended
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Approval, ApprovalMode, Refusal, Rehearsed, RobotState, digest, freeze
from tests.cells import PROFILE, look, reach, rehearsed

NOW_NS = 50_000_000_000
REST = RobotState(NOW_NS, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)
STEP = rehearsed(reach(REST.q_rad, [0.1, 0, 0, 0, 0, 0, 0]), REST, NOW_NS)


class Hand:
    """An approver with what it asked."""

    def __init__(self, mode: ApprovalMode, timeout_s: float = 5.0) -> None:
        self.asked: list[tuple[Rehearsed, bool, tuple[str, ...]]] = []
        self.halt = Halt()
        self.approver = AskingApprover(
            self.halt, mode, on_question=lambda *asked: self.asked.append(asked), timeout_s=timeout_s
        )

    def approve(self, *doubts: str, step: Rehearsed = STEP) -> Approval | Refusal:
        return self.approver.approve(step, doubts)

    def approve_while(self, act: object, step: Rehearsed = STEP) -> Approval | Refusal:
        """Ask on a thread, act as soon as a person is asked."""
        found: list[Approval | Refusal] = []
        thread = threading.Thread(target=lambda: found.append(self.approve(step=step)))
        thread.start()
        while self.approver.awaited() is None and thread.is_alive():
            time.sleep(0.002)
        act()  # type: ignore[operator]
        thread.join(10)
        return found[0]


def reason(answer: Approval | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.reason.value


def test_auto_asks_nobody() -> None:
    hand = Hand(ApprovalMode.AUTO)
    assert isinstance(hand.approve(), Approval)
    assert [asks for _, asks, _ in hand.asked] == [False]


def test_what_a_person_has_to_confirm_is_asked_about_even_with_auto() -> None:
    hand = Hand(ApprovalMode.AUTO, timeout_s=0.05)
    assert reason(hand.approve("the instruction does not ask to push")) == "not_confirmed"
    assert [asks for _, asks, _ in hand.asked] == [True]


def test_where_nobody_can_be_asked_a_doubt_is_a_refusal_that_names_it() -> None:
    answer = Unattended(Halt()).approve(STEP, ("the instruction does not ask to push",))
    assert isinstance(answer, Refusal)
    assert reason(answer) == "not_confirmed"
    assert "push" in answer.text


def test_never_lets_nothing_through_and_asks_nobody() -> None:
    hand = Hand(ApprovalMode.NEVER)
    began_s = time.monotonic()
    assert reason(hand.approve()) == "never"
    assert time.monotonic() - began_s < 5.0
    assert hand.asked == []


def test_confirm_waits_for_exactly_this_digest() -> None:
    hand = Hand(ApprovalMode.CONFIRM)
    wanted = digest(STEP.verdict)

    def answer() -> None:
        assert hand.approver.answer("0" * 64) == (False, f"another digest is awaited: {wanted}")
        assert hand.approver.answer(wanted.upper() + " ") == (True, "approved")

    given = hand.approve_while(answer)
    assert isinstance(given, Approval)
    assert given.verdict_digest == wanted


def test_an_answer_counts_once() -> None:
    hand = Hand(ApprovalMode.CONFIRM, timeout_s=0.2)
    assert isinstance(hand.approve_while(lambda: hand.approver.answer(digest(STEP.verdict))), Approval)
    assert hand.approver.answer(digest(STEP.verdict)) == (False, "nothing awaits an approval")
    assert reason(hand.approve()) == "not_confirmed"


def test_two_approvals_of_one_verdict_have_different_tokens() -> None:
    hand = Hand(ApprovalMode.AUTO)
    first, second = hand.approve(), hand.approve()
    assert isinstance(first, Approval)
    assert isinstance(second, Approval)
    assert first.token != second.token


def test_an_approval_in_advance_is_worth_nothing() -> None:
    hand = Hand(ApprovalMode.CONFIRM, timeout_s=0.1)
    assert not hand.approver.answer(digest(STEP.verdict))[0]
    assert reason(hand.approve()) == "not_confirmed"


def test_nobody_answering_is_a_refusal() -> None:
    assert reason(Hand(ApprovalMode.CONFIRM, timeout_s=0.05).approve()) == "not_confirmed"


def test_a_question_that_cannot_be_shown_awaits_nothing() -> None:
    def fail(step: Rehearsed, asks: bool, doubts: tuple[str, ...]) -> None:
        raise RuntimeError("the writer is gone")

    approver = AskingApprover(Halt(), ApprovalMode.CONFIRM, on_question=fail)
    with pytest.raises(RuntimeError):
        approver.approve(STEP, ())
    assert approver.awaited() is None
    assert approver.answer(digest(STEP.verdict)) == (False, "nothing awaits an approval")


def test_a_stop_ends_the_waiting_and_latches() -> None:
    hand = Hand(ApprovalMode.CONFIRM, timeout_s=30.0)
    began_s = time.monotonic()
    assert reason(hand.approve_while(lambda: hand.halt.stop("test"))) == "stopped"
    assert time.monotonic() - began_s < 5.0
    assert hand.approver.answer(digest(STEP.verdict))[0] is False
    assert reason(hand.approve()) == "stopped"


def test_a_cancel_ends_the_waiting() -> None:
    hand = Hand(ApprovalMode.CONFIRM, timeout_s=30.0)
    with hand.halt.task():
        assert reason(hand.approve_while(lambda: hand.halt.cancel("changed my mind"))) == "cancelled"


@pytest.mark.parametrize("mode", [ApprovalMode.AUTO, ApprovalMode.CONFIRM])
def test_what_was_approved_cannot_be_exchanged(mode: ApprovalMode) -> None:
    hand, gate = Hand(mode), Gate(PROFILE, ())
    given = hand.approve_while(lambda: hand.approver.answer(digest(STEP.verdict)))
    assert isinstance(given, Approval)
    other = rehearsed(reach(REST.q_rad, [0.2, 0, 0, 0, 0, 0, 0]), REST, NOW_NS)
    answer = gate.admit(other, REST, look(NOW_NS), given, hand.halt, NOW_NS)
    assert isinstance(answer, Refusal)
    assert answer.reason == "not_confirmed"
    answer = gate.admit(replace(other, verdict=STEP.verdict), REST, look(NOW_NS), given, hand.halt, NOW_NS)
    assert isinstance(answer, Refusal)
    assert answer.reason == "digest_mismatch"


def test_a_no_ends_the_task_with_its_reason_and_no_later_yes_counts() -> None:
    hand, answers = Hand(ApprovalMode.CONFIRM), []
    hand.halt.begin_task()

    def refuse() -> None:
        awaited = digest(STEP.verdict)
        answers.append(hand.approver.reject(awaited, "the cup is full"))
        answers.append(hand.approver.answer(awaited))

    refusal = hand.approve_while(refuse)
    assert reason(refusal) == "cancelled"
    assert "the cup is full" in str(refusal)
    assert [counts for counts, _ in answers] == [True, False]


def test_a_no_lets_nothing_go_even_where_no_task_could_be_cancelled() -> None:
    hand = Hand(ApprovalMode.CONFIRM, timeout_s=0.3)
    assert reason(hand.approve_while(lambda: hand.approver.reject(digest(STEP.verdict), "no"))) == "not_confirmed"


def test_a_no_to_another_step_leaves_the_awaited_one_to_its_yes() -> None:
    hand = Hand(ApprovalMode.CONFIRM)

    def act() -> None:
        assert not hand.approver.reject("ab" * 32, "no")[0]
        assert hand.approver.answer(digest(STEP.verdict))[0]

    assert isinstance(hand.approve_while(act), Approval)


def test_a_no_to_nothing_and_under_a_stop_does_not_count() -> None:
    hand = Hand(ApprovalMode.CONFIRM)
    assert hand.approver.reject("ab" * 32, "no") == (False, "nothing awaits an approval")
    hand.halt.stop("a hand")
    assert not hand.approver.reject("ab" * 32, "no")[0]
