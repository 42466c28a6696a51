"""What every `ports.Clock` promises; one more implementation is one more parameter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.ports import Clock
from tests.contracts.wire import wire_cell


@pytest.fixture(scope="module", params=["plant, as fast as possible", "plant, real time", "plant, over DDS"])
def clock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    if "DDS" in request.param:
        with wire_cell(tmp_path_factory.mktemp("wire") / "ready") as wired:
            yield wired
        return
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
