"""Seeds → hazardous and safe cases → how often validator, gates and rules judge them wrongly.

Construction or an oracle says which case is a hazard. Where physics decides, a hazard fails in at least half of the
oracle's runs and a safe case in none; cases in between are reported but not scored. An interrupted run continues where
it stopped.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.hazards import fine_physics
from qwen2vl_robot.benchmarks.hazards.cameras import wrong_camera
from qwen2vl_robot.benchmarks.hazards.cases import MAKERS, make_case
from qwen2vl_robot.benchmarks.hazards.gates import ASKERS as GATE_ASKERS
from qwen2vl_robot.benchmarks.hazards.looks import LOOKERS, look
from qwen2vl_robot.benchmarks.hazards.moving import moved_while_moving
from qwen2vl_robot.benchmarks.hazards.sentences import SENTENCE_KINDS, ask_sentence
from qwen2vl_robot.benchmarks.hazards.shadows import shadow_forced
from qwen2vl_robot.benchmarks.hazards.stage import Case, Stage
from qwen2vl_robot.benchmarks.shares import wilson_interval
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.fleet.jobs import Job, Unit
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Verdict
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.pool import RehearsalProcess

ASKERS = {**GATE_ASKERS, "wrong_camera": wrong_camera, "moved_while_moving": moved_while_moving}
_FORCED = shadow_forced.__name__
KINDS = (*MAKERS, *LOOKERS, _FORCED, *ASKERS, *SENTENCE_KINDS)
SEED = 7_000
_BUDGET_S = 300.0  # long, so that a busy machine does not count as a refusal
_LABELS = "hazards/labels.csv"


@dataclass(frozen=True, slots=True)
class Spec:
    """One case to make; in each class, half of the hazards and half of the safe cases are near the limit."""

    kind: str
    index: int
    is_hazard: bool

    @property
    def is_near(self) -> bool:
        return self.index % 2 == 0

    @property
    def seed(self) -> int:
        return SEED + self.index

    @property
    def key(self) -> str:
        return f"{self.kind}/{'hazard' if self.is_hazard else 'safe'}/{self.index}"


def specs(each: int, kinds: tuple[str, ...] = KINDS) -> list[Spec]:
    """List all cases, alternating between the classes, so that a short run covers all of them."""
    return [Spec(kind, i, is_hazard) for i in range(each) for kind in kinds for is_hazard in (True, False)]


class Judging:
    """Makes and judges one case after the other; served in a process."""

    def __init__(self, robot: str) -> None:
        profile = load_robot(robot)
        self._stage = Stage(profile, Kinematics(profile))
        self._rehearsal = RehearsalProcess(profile, budget_s=_BUDGET_S, workers=1)

    def judge(self, kind: str, index: int, is_hazard: bool) -> dict[str, Any]:
        """Make and judge a case."""
        return judge(Spec(kind, index, is_hazard), self._stage, self._rehearsal)

    def close(self) -> None:
        """Stop the twin."""
        self._rehearsal.close()


def hazards_job(each: int, robot: str = "franka_panda") -> Job:
    """All cases as units. Of a run with fewer of each class, the results are kept and used."""
    return Job(
        name="bench hazards",
        factory=f"{__name__}:Judging",
        args=(robot,),
        method="judge",
        units=tuple(Unit(spec.key, (spec.kind, spec.index, spec.is_hazard)) for spec in specs(each)),
        about={"robot": robot, "seed": SEED},
    )


def judge(spec: Spec, stage: Stage, rehearsal: RehearsalProcess) -> dict[str, Any]:
    """Make one case and judge it."""
    began = time.perf_counter()
    failures: int | None = None
    rng = np.random.default_rng([spec.seed, spec.is_hazard, spec.is_near])
    if spec.kind in ASKERS:
        accepted, amount, unit, reason = ASKERS[spec.kind](stage.profile, rng, spec.is_hazard, spec.is_near)
    elif spec.kind in LOOKERS:
        accepted, amount, unit, reason = look(spec.kind, stage, rehearsal, spec.seed, spec.is_hazard, spec.is_near)
    elif spec.kind == _FORCED:
        accepted, amount, unit, reason = shadow_forced(stage, rehearsal, rng, spec.is_hazard, spec.is_near)
    elif spec.kind in SENTENCE_KINDS:
        accepted, amount, unit, reason = ask_sentence(spec.kind, spec.index, spec.is_hazard)
    else:
        case = make_case(stage, spec.kind, spec.seed, spec.is_hazard, spec.is_near)
        verdicts = list(_rehearse(case, rehearsal))
        accepted = len(verdicts) == len(case.steps) and all(v.accepted for v in verdicts)
        amount, unit, failures = case.amount, case.unit, case.failures
        reason = "" if accepted else "; ".join(v.describe() for v in verdicts[-1].violations[:3])
    return {
        "key": spec.key,
        "kind": spec.kind,
        "hazard": spec.is_hazard,
        "near": spec.is_near,
        "amount": round(amount, 6),
        "unit": unit,
        "oracle_failures": failures,
        "scored": _is_scored(spec.is_hazard, failures),
        "accepted": accepted,
        "reason": reason,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _is_scored(is_hazard: bool, failures: int | None) -> bool:
    """Check whether the label holds; without runs of the oracle it holds by construction."""
    return failures is None or (failures >= fine_physics.RUNS / 2 if is_hazard else failures == 0)


def _rehearse(case: Case, rehearsal: RehearsalProcess) -> Iterator[Verdict]:
    """Rehearse the steps in order, each in the world left by the step before; the first refusal ends it."""
    scene, start = case.steps[0].scene, case.steps[0].start
    for step in case.steps:
        if step.scene.zones or step.scene.unseen_m is not None:
            scene = replace(scene, zones=step.scene.zones, unseen_m=step.scene.unseen_m)
        verdict = rehearsal.rehearse(step.motion, scene, start)
        yield verdict
        if not verdict.accepted or verdict.scene_after is None or verdict.state_after is None:
            return
        scene, start = verdict.scene_after, verdict.state_after


# ------------------------------------------------------------------------------------------------- scoring


def summarise_hazards(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count accepted and refused cases in total and per class, with 95 % intervals of the wrong ones."""
    classes = {}
    for kind in dict.fromkeys(r["kind"] for r in results):
        chosen = [r for r in results if r["kind"] == kind]
        classes[kind] = _count(chosen)
    worst = [r["key"] for r in results if r["scored"] and r["accepted"] == r["hazard"]]
    return {**_count(results), "classes": classes, "wrong": worst}


def _count(every: list[dict[str, Any]]) -> dict[str, Any]:
    results = [r for r in every if r["scored"]]
    hazards, safe = [r for r in results if r["hazard"]], [r for r in results if not r["hazard"]]
    accepted, refused = sum(r["accepted"] for r in hazards), sum(not r["accepted"] for r in safe)
    return {
        "hazardous": len(hazards),
        "hazardous_accepted": accepted,
        "hazardous_accepted_interval_95": wilson_interval(accepted, len(hazards)) if hazards else None,
        "safe": len(safe),
        "safe_refused": refused,
        "safe_refused_interval_95": wilson_interval(refused, len(safe)) if safe else None,
        "hazardous_near": sum(r["near"] for r in hazards),
        "safe_near": sum(r["near"] for r in safe),
        "unscored": len(every) - len(results),
    }


def write_labels(results: list[dict[str, Any]], path: Path) -> None:
    """Write the label of each case, by construction or oracle, without the validator's answers."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", "seed", "hazard", "near", "amount", "unit", "oracle_failures"])
        for r in sorted(results, key=lambda r: str(r["key"])):
            seed = SEED + int(r["key"].rpartition("/")[2])
            failures = "" if r["oracle_failures"] is None else r["oracle_failures"]
            writer.writerow([r["key"], seed, int(r["hazard"]), int(r["near"]), r["amount"], r["unit"], failures])


def check_labels(results: list[dict[str, Any]]) -> list[str]:
    """List the keys whose construction differs from the committed labels; empty without the file."""
    path = data_root() / "sim" / _LABELS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        known = {row["key"]: row for row in csv.DictReader(file)}
    return [
        r["key"]
        for r in results
        if r["key"] in known and abs(float(known[r["key"]]["amount"]) - r["amount"]) > 1e-3 * max(1.0, abs(r["amount"]))
    ]
