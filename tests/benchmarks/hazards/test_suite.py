"""The hazards benchmark judges its cases, and its labels hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.cases import MAKERS, make_case
from qwen2vl_robot.benchmarks.hazards.gates import ASKERS
from qwen2vl_robot.benchmarks.hazards.stage import Stage
from qwen2vl_robot.benchmarks.hazards.suite import (
    KINDS,
    Spec,
    _is_scored,
    check_labels,
    judge,
    specs,
    summarise_hazards,
)
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import digest
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.pool import RehearsalProcess

PROFILE = load_robot("franka_panda")
STAGE = Stage(PROFILE, Kinematics(PROFILE))


def test_there_are_enough_classes_and_half_of_each_is_near_the_limit() -> None:
    assert len(KINDS) >= 12
    wanted = specs(68)
    assert sum(s.is_hazard for s in wanted) >= 1200
    assert sum(not s.is_hazard for s in wanted) >= 1200
    assert sum(s.is_near for s in wanted) * 2 == len(wanted)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_seed_makes_the_same_case_again(kind: str) -> None:
    one, other = (make_case(STAGE, kind, 7_000, True, True) for _ in range(2))
    assert [digest(s.motion) for s in one.steps] == [digest(s.motion) for s in other.steps]
    assert [digest(s.scene) for s in one.steps] == [digest(s.scene) for s in other.steps]


@pytest.mark.parametrize("kind", ASKERS)
@pytest.mark.parametrize("is_near", [True, False])
def test_gate_and_rules_answer_as_they_must(kind: str, is_near: bool) -> None:
    for is_hazard in (True, False):
        for seed in range(12):
            accepted, *_ = ASKERS[kind](PROFILE, np.random.default_rng(seed), is_hazard, is_near)
            assert accepted != is_hazard


def test_a_hazard_and_a_safe_case_of_quick_classes_are_told_apart(tmp_path: Path) -> None:
    results = []
    with RehearsalProcess(PROFILE, budget_s=60.0, workers=1) as rehearsal:
        for kind in ("thin_wall", "over_speed", "keep_out"):
            results += [judge(Spec(kind, 0, is_hazard), STAGE, rehearsal) for is_hazard in (True, False)]
    totals = summarise_hazards(results)
    assert (totals["hazardous"], totals["hazardous_accepted"]) == (3, 0)
    assert (totals["safe"], totals["safe_refused"]) == (3, 0)
    assert check_labels(results) == []


def test_committed_labels_are_what_the_seeds_make() -> None:
    with (data_root() / "sim" / "hazards" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["key"].split("/")[0] in MAKERS][::40]
    assert len(rows) > 40
    for row in rows:
        kind, what, index = row["key"].split("/")
        spec = Spec(kind, int(index), what == "hazard")
        case = make_case(STAGE, kind, spec.seed, spec.is_hazard, spec.is_near)
        assert row["oracle_failures"] == ("" if case.failures is None else str(case.failures)), row["key"]
        assert int(row["seed"]) == spec.seed
        assert float(row["amount"]) == pytest.approx(case.amount, rel=1e-3, abs=1e-5), row["key"]


def test_what_physics_leaves_open_is_reported_and_not_scored() -> None:
    def result(hazard: bool, failures: int | None, accepted: bool) -> dict[str, object]:
        scored = _is_scored(hazard, failures)
        return {"key": "k", "kind": "k", "hazard": hazard, "near": True, "accepted": accepted, "scored": scored}

    sure = [result(True, 100, False), result(True, None, False), result(False, 0, True), result(False, None, True)]
    open_ones = [result(True, 99, True), result(False, 1, False)]
    totals = summarise_hazards([*sure, *open_ones])
    assert (totals["hazardous"], totals["safe"], totals["unscored"]) == (2, 2, 2)
    assert totals["wrong"] == []
