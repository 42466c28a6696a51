"""The clip benchmark asks the same question with and without the clip, and scores both."""

from __future__ import annotations

import pytest

from qwen2vl_robot.benchmarks.clips import run_clip_bench, summarise_clips
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.process import SHIPPED_MODEL


def test_both_ways_are_scored_and_the_clip_is_really_shown() -> None:
    results = list(run_clip_bench(SHIPPED_MODEL, 3, 22000000))
    totals = summarise_clips(results)
    assert totals["questions"] == 3
    assert totals["still"]["iou_50"]["ratio"] > 0
    assert min(totals[name]["seconds_median"] for name in ("still", "clip")) > 0
    assert [r["still"]["iou"] for r in results] != [r["clip"]["iou"] for r in results]


def test_a_server_is_not_asked_in_both_ways() -> None:
    with pytest.raises(BadInputError, match="only a local model"):
        next(run_clip_bench("http://127.0.0.1:1/v1#m", 1, 0))
