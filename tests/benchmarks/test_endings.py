"""The summary of judged endings counts what is called achieved against what is true."""

from __future__ import annotations

from typing import Any

from qwen2vl_robot.benchmarks.endings.suite import summarise_endings


def ending(kind: str, success: bool, outcome: str, scored: bool = True) -> dict[str, Any]:
    return {"kind": kind, "success": success, "outcome": outcome, "scored": scored}


def test_false_successes_and_true_ones_called_so_are_counted_apart() -> None:
    results = [
        ending("held", True, "achieved"),
        ending("held", True, "not_verified"),
        ending("dropped", False, "achieved"),
        ending("dropped", False, "wrong_effect"),
        ending("dropped", False, "achieved", scored=False),
    ]
    totals = summarise_endings(results)
    assert (totals["no_success"], totals["false_success"], totals["unscored"]) == (2, 1, 1)
    assert (totals["success"], totals["true_called_ratio"], totals["not_verified"]) == (2, 0.5, 1)
    assert totals["kinds"]["dropped"]["outcomes"] == {"achieved": 1, "wrong_effect": 1}


def test_a_run_without_one_sort_has_no_share_of_it() -> None:
    totals = summarise_endings([ending("dropped", False, "wrong_effect")])
    assert totals["true_called_ratio"] is None
    assert totals["true_called_interval_95"] is None
