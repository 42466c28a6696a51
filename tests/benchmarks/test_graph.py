"""The benchmarks on the graph run, and a stop is answered even during a rehearsal."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from qwen2vl_robot.benchmarks.images import run_images
from qwen2vl_robot.benchmarks.joint_states import run_joint_states
from qwen2vl_robot.benchmarks.soak import growth_mb, run_soak
from qwen2vl_robot.benchmarks.stop import run_stop
from qwen2vl_robot.errors import BadInputError

# Loose bounds, because a busy machine is slower; `bench` measures the figures themselves.
_BUSY_MS = 500.0


@pytest.fixture(autouse=True)
def own_domain() -> Iterator[None]:
    before = os.environ.get("ROS_DOMAIN_ID")
    yield
    os.environ.pop("ROS_DOMAIN_ID", None)
    if before is not None:
        os.environ["ROS_DOMAIN_ID"] = before


def test_images_arrive_and_cost_us_little() -> None:
    answer = run_images(seconds=1.0, hz=10.0)
    assert set(answer["totals"]) == {"received_ratio", "median_ms", "own_core_ratio"}
    assert answer["totals"]["received_ratio"] > 0.5
    assert answer["totals"]["own_core_ratio"] < 0.1


def test_only_the_newest_joint_states_are_converted() -> None:
    answer = run_joint_states(3.0)
    assert answer["every_hz"] > 100.0
    assert answer["hz"] > 100.0
    assert answer["core_ratio"] / answer["hz"] < answer["every_core_ratio"] / answer["every_hz"]


def test_a_stop_becomes_a_halt_while_a_rehearsal_runs() -> None:
    totals = run_stop(30, "rehearse")["totals"]
    assert totals["lost"] == 0
    assert totals["max_ms"] < _BUSY_MS


def test_an_unknown_load_is_refused() -> None:
    with pytest.raises(BadInputError, match="idle, plan, rehearse"):
        run_stop(1, "dancing")


def test_a_soak_without_time_after_the_first_minute_is_refused() -> None:
    with pytest.raises(BadInputError, match="above 60"):
        run_soak(60.0, "dds", print)


def test_growth_is_told_from_many_sizes_so_that_one_gulp_is_none() -> None:
    sizes = [10.0, 10.5, 30.0, 10.5, 11.0, 10.0, 11.0, -5.0, 11.0, 11.0]
    assert growth_mb([{"plant": size} for size in sizes]) == {"plant": 0.5}
    assert growth_mb([{"plant": float(size)} for size in range(12)])["plant"] == 9.0
    assert growth_mb([]) == {}
