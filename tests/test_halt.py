"""A stop latches until a person resets it; a cancel ends the task that was accepted, and only that one."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.halt import Authority, Halt
from qwen2vl_robot.reasons import RefusalReason


def why(halt: Halt) -> RefusalReason | None:
    cause = halt.cause()
    return None if cause is None else RefusalReason(cause.reason)


def test_a_stop_latches_until_its_reset() -> None:
    halt = Halt()
    halt.stop("smoke")
    assert (why(halt), halt.stopped_by()) == (RefusalReason.STOPPED, "smoke")
    halt.reset()
    assert (why(halt), halt.stopped_by()) == (None, None)


def test_the_first_reason_of_a_stop_is_kept() -> None:
    halt = Halt()
    halt.stop("smoke")
    halt.stop("console closed")
    assert halt.stopped_by() == "smoke"


@pytest.mark.parametrize("by", [Authority.VOICE, Authority.PLANNER, Authority.SYSTEM])
def test_only_a_person_ends_a_stop(by: Authority) -> None:
    halt = Halt()
    halt.stop("smoke")
    with pytest.raises(PermissionError, match=by.value):
        halt.reset(by)
    assert why(halt) is RefusalReason.STOPPED


def test_a_cancel_between_acceptance_and_the_first_step_is_not_lost() -> None:
    halt = Halt()
    halt.begin_task()  # the instruction was accepted
    assert halt.cancel("changed my mind")
    with halt.task():  # the controller starts
        assert why(halt) is RefusalReason.CANCELLED
    assert why(halt) is None


def test_a_cancel_ends_its_task_and_not_the_next_one() -> None:
    halt = Halt()
    with halt.task():
        assert halt.cancel("cancelled")
    with halt.task():
        assert why(halt) is None


def test_a_cancel_without_a_task_changes_nothing() -> None:
    halt = Halt()
    assert not halt.cancel("too early")
    with halt.task():
        assert why(halt) is None


def test_a_new_task_does_not_release_a_stop() -> None:
    halt = Halt()
    halt.stop("smoke")
    with halt.task():
        assert why(halt) is RefusalReason.STOPPED


def test_a_reset_in_the_middle_of_a_task_cancels_it() -> None:
    halt = Halt()
    with halt.task():
        halt.stop("smoke")
        halt.reset()
        assert why(halt) is RefusalReason.CANCELLED
    assert why(halt) is None


def test_who_notes_the_count_sees_a_stop_that_came_and_went() -> None:
    halt = Halt()
    before = halt.stops
    halt.stop("smoke")
    halt.reset()
    assert halt.stops != before


@given(st.lists(st.sampled_from(["stop", "reset", "cancel", "begin", "end"]), max_size=30))
def test_nothing_but_a_reset_after_the_last_stop_lets_anything_go_on(calls: list[str]) -> None:
    halt = Halt()
    acts = {
        "stop": lambda: halt.stop("x"),
        "reset": halt.reset,
        "cancel": lambda: halt.cancel("y"),
        "begin": halt.begin_task,
        "end": halt.end_task,
    }
    for call in calls:
        acts[call]()
    is_stopped = "stop" in calls and "reset" not in calls[len(calls) - 1 - calls[::-1].index("stop") :]
    assert (why(halt) is RefusalReason.STOPPED) == is_stopped


def test_a_cancel_on_another_thread_is_never_lost() -> None:
    for _ in range(200):
        halt, seen = Halt(), []
        halt.begin_task()
        thread = threading.Thread(target=lambda halt=halt: halt.cancel("cancelled"))
        thread.start()
        with halt.task():
            thread.join()
            seen.append(why(halt))
        assert seen == [RefusalReason.CANCELLED]
