"""Two result files are compared pair by pair, by exact tests; a danger needs no test."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qwen2vl_robot.benchmarks.comparing import (
    Compared,
    ResultFile,
    binomial_p,
    compare,
    differences,
    fisher_p,
    is_regression,
    load_result,
)
from qwen2vl_robot.benchmarks.pages import page_html, plot_svg
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.resources import data_root

RESULTS = data_root() / "docs" / "results"


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_scipys(heads: int, tails: int) -> None:
    expected = stats.binomtest(heads, heads + tails).pvalue if heads + tails else 1.0
    assert binomial_p(heads, heads + tails) == pytest.approx(expected)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_fishers_test_is_scipys(a: int, not_a: int, b: int, not_b: int) -> None:
    expected = stats.fisher_exact([[a, not_a], [b, not_b]]).pvalue
    assert fisher_p((a, a + not_a), (b, b + not_b)) == pytest.approx(expected, abs=1e-9)


def suite_of(successes: list[bool], *, first_seed: int = 0, outcome: str = "refused", **said: Any) -> ResultFile:
    """A result of whole tasks, in which what is no success ended as `outcome`."""
    rows = [
        {"seed": first_seed + i, "success": ok, "outcome": "achieved" if ok else outcome, "first_plan_right": None}
        for i, ok in enumerate(successes)
    ]
    data = {
        "command": "qwen2vl-robot eval",
        "machine": "m",
        "suite": "tabletop",
        "totals": {},
        "episodes": rows,
        **said,
    }
    return ResultFile("a file", "tabletop", data, tuple(rows))


def named(found: list[Compared], name: str) -> Compared:
    return next(c for c in found if c.name == name)


@pytest.mark.parametrize("name", [path.name for path in sorted(RESULTS.glob("*.json"))])
def test_a_file_is_as_good_as_itself(name: str) -> None:
    result = load_result(RESULTS / name)
    if result.kind in ("bench clip", "bench console", "bench images", "bench soak", "bench validation", "bench voice"):
        with pytest.raises(BadInputError, match="has nothing to compare"):
            compare(result, result)
        return
    found = compare(result, result)
    assert found and not is_regression(found)
    assert {c.verdict for c in found} == {"as before"}


def test_fifteen_lost_successes_of_fifty_are_a_regression_and_one_is_none() -> None:
    before = suite_of([True] * 50)
    assert is_regression(compare(before, suite_of([True] * 35 + [False] * 15)))
    assert not is_regression(compare(before, suite_of([True] * 49 + [False])))


def test_what_is_better_is_called_better() -> None:
    found = compare(suite_of([True] * 35 + [False] * 15), suite_of([True] * 50))
    assert named(found, "success").verdict == "better" and not is_regression(found)


def test_one_false_success_is_a_regression_whatever_chance_says() -> None:
    found = compare(suite_of([True] * 50), suite_of([True] * 49 + [False], outcome="achieved"))
    assert named(found, "false success").verdict == "worse" and is_regression(found)


def test_one_accepted_hazard_in_one_class_is_a_regression() -> None:
    before = load_result(RESULTS / "hazards.json")
    data = copy.deepcopy(before.data)
    data["totals"]["classes"]["thin_wall"]["hazardous_accepted"] = 1
    found = compare(before, ResultFile("after", before.kind, data, ()))
    assert named(found, "thin_wall: hazards accepted").verdict == "worse" and is_regression(found)


def test_seeds_in_common_are_paired_and_others_are_counted() -> None:
    before = suite_of([True] * 50)
    assert named(compare(before, suite_of([True] * 60)), "success").before == (50, 50)
    unlike = named(compare(before, suite_of([True] * 60, first_seed=1000)), "success")
    assert (unlike.test, unlike.before, unlike.after) == ("Fisher", (50, 50), (60, 60))


def test_pairs_tell_what_counts_cannot() -> None:
    """Seven of a hundred lost and none won: by counts that is chance, by pairs it is not."""
    lost = [i >= 10 for i in range(100)]
    before = suite_of([True] * 100)
    assert named(compare(before, suite_of(lost)), "success").p_value < 0.05
    assert fisher_p((97, 100), (90, 100)) > 0.05


def test_the_number_of_tests_is_allowed_for() -> None:
    found = compare(suite_of([True] * 50), suite_of([True] * 44 + [False] * 6))
    assert named(found, "success").p_value == pytest.approx(2 * binomial_p(0, 6))


def test_what_was_run_otherwise_is_said() -> None:
    before, after = suite_of([True], camera="ideal"), suite_of([True], camera="d435", is_complete=False)
    said = differences(before, after)
    assert any("camera: ideal → d435" in line for line in said) and any("did not end" in line for line in said)


def test_times_of_two_machines_are_not_compared() -> None:
    def timed(machine: str, seconds: float) -> ResultFile:
        result = suite_of([True] * 20, machine=machine)
        for row in result.rows:
            row["seconds"] = {"plan": seconds}
        return result

    slower = compare(timed("m", 1.0), timed("m", 2.0))
    assert named(slower, "seconds: plan").verdict == "worse" and not is_regression(slower)
    assert all(not c.is_time for c in compare(timed("m", 1.0), timed("n", 2.0)))


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "nothing", '{"command": 3, "totals": {}}', '{"command": "qwen2vl-robot eval", "totals": []}'],
)
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match="a.json"):
        load_result(file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("hazardous_accepted",), "many"),
        (("hazardous_accepted",), -1),
        (("hazardous",), 10**12),
        (("classes",), 7),
        (("hazardous_accepted",), None),
    ],
)
def test_a_result_that_was_meddled_with_is_refused_in_one_line(path: tuple[str, ...], value: object) -> None:
    before = load_result(RESULTS / "hazards.json")
    data = copy.deepcopy(before.data)
    data["totals"][path[0]] = value
    with pytest.raises(BadInputError, match="not as this version writes them"):
        compare(before, ResultFile("after", before.kind, data, ()))


def test_two_benchmarks_are_not_compared() -> None:
    with pytest.raises(BadInputError, match="is of"):
        compare(load_result(RESULTS / "hazards.json"), load_result(RESULTS / "judge.json"))


def test_a_page_shows_text_from_a_file_as_text() -> None:
    result = suite_of([True], planner="<script>alert(1)</script>")
    page = page_html([ResultFile("<b>.json", "<i>", result.data, result.rows)])
    assert "<script>" not in page and "&lt;script&gt;" in page and "<i>" not in page


def test_a_page_of_all_shipped_results_needs_no_other_file() -> None:
    page = page_html([load_result(path) for path in sorted(RESULTS.glob("*.json"))])
    assert "src=" not in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "0.94 (95 %: 0.8378 to 0.9794)" in page


def test_the_plot_has_a_row_for_each_share() -> None:
    before = load_result(RESULTS / "eval-truth.json")
    drawing = plot_svg(compare(before, before))
    assert drawing.count("as before") == 2 and "seconds" not in drawing


def test_the_command_ends_with_1_on_a_regression(tmp_path: Path) -> None:
    data = json.loads((RESULTS / "eval-truth.json").read_text(encoding="utf-8"))
    for row in data["episodes"][:20]:
        row["success"], row["outcome"] = False, "refused"
    after = tmp_path / "after.json"
    after.write_text(json.dumps(data), encoding="utf-8")
    command = [sys.executable, "-m", "qwen2vl_robot.cli", "results", "compare", str(RESULTS / "eval-truth.json")]
    done = subprocess.run([*command, str(after), "--json", "-"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and json.loads(done.stdout)["is_regression"] is True
    again = subprocess.run([*command, str(RESULTS / "eval-truth.json")], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "no regression" in again.stderr
