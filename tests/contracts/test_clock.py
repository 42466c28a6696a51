"""What every `ports.Clock` promises; one more implementation is one more parameter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen2vl_robot.nodes.plant import PlantProcess
from qwen2vl_robot.ports import Clock


@pytest.fixture(scope="module", params=["plant, as fast as possible", "plant, real time"])
def clock(request: pytest.FixtureRequest) -> Iterator[Clock]:
    with PlantProcess("scenes/default.yaml", 1, count=2, realtime="real" in request.param) as plant:
        yield plant.link


def test_time_never_goes_back(clock: Clock) -> None:
    stamps = [clock.now_ns() for _ in range(20)]
    assert stamps == sorted(stamps)


def test_time_is_whole_nanoseconds(clock: Clock) -> None:
    assert isinstance(clock.now_ns(), int)


@pytest.mark.parametrize("seconds", [0.02, 0.2])
def test_sleep_lets_at_least_that_much_time_pass(clock: Clock, seconds: float) -> None:
    before_ns = clock.now_ns()
    clock.sleep(seconds)
    passed_s = (clock.now_ns() - before_ns) / 1e9
    one_step_s = 0.005
    assert seconds - one_step_s <= passed_s <= seconds + 1.0


def test_sleep_of_nothing_returns(clock: Clock) -> None:
    clock.sleep(0.0)
