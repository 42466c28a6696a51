"""The benchmark plans each frame with both decoders and reports the comparison."""

from __future__ import annotations

import pytest

from qwen2vl_robot.benchmarks.planner import run_planner_bench, summarise_planner
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.process import SHIPPED_MODEL


def test_both_ways_answer_the_same_and_are_timed() -> None:
    results = list(run_planner_bench(SHIPPED_MODEL, 2, 9000))
    totals = summarise_planner(results)
    assert totals["same_replies"] == totals["frames"] == 2
    assert 0 < totals["plan_s_median"] < totals["generate_s_median"]
    assert totals["forced_tokens"] > totals["decoded_tokens"] > 0
    assert 100 < totals["peak_memory_mb"] < 1200


def test_a_server_has_nothing_to_compare_with() -> None:
    with pytest.raises(BadInputError, match="only a local model"):
        next(run_planner_bench("http://127.0.0.1:1/v1#m", 1, 0))
