"""The system's clock: who sets it is noticed, and who merely looks late is not taken for it."""

from __future__ import annotations

import time

import pytest

from qwen2vl_robot.graph.clock import SystemClock


class Set:
    """A system's clock that somebody sets."""

    def __init__(self) -> None:
        self.off_ns, self.late_s = 0, 0.0
        self.jumps: list[float] = []
        self.clock = SystemClock(self.jumps.append, self.read_ns)

    def read_ns(self) -> int:
        if self.late_s:
            time.sleep(self.late_s)
        return time.time_ns() + self.off_ns

    def look(self) -> None:
        """Look often: on a busy machine one look may take too long to tell anything."""
        for _ in range(100):
            self.clock.now_ns()


@pytest.mark.parametrize("step_s", [-3600.0, -0.5, 0.5, 3600.0])
def test_a_clock_that_is_set_is_noticed_once(step_s: float) -> None:
    system = Set()
    system.look()
    system.off_ns = round(step_s * 1e9)
    system.look()
    assert system.jumps == [pytest.approx(step_s, abs=0.05)]


def test_a_clock_that_a_time_server_slews_does_not_jump() -> None:
    system = Set()
    for _ in range(100):
        system.off_ns += 5_000_000
        system.clock.now_ns()
    assert not system.jumps


def test_a_process_that_gets_no_core_while_it_looks_sees_no_jump() -> None:
    system = Set()
    system.clock.now_ns()
    system.late_s = 0.2
    system.clock.now_ns()
    system.late_s = 0.0
    system.clock.now_ns()
    assert not system.jumps


def test_time_goes_on() -> None:
    clock = SystemClock(lambda seconds: None)
    before_ns = clock.now_ns()
    clock.sleep(0.01)
    assert clock.now_ns() - before_ns >= 10_000_000
