"""Seeds → endings in the plant, measured and judged as the controller does → how often the judge is wrong.

The plant's truth says what is a success. An ending that is not what its maker meant (a block that fell out of the
fingers while it was arranged) is counted and not scored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.belief import Belief
from qwen2vl_robot.benchmarks.endings.makers import FAILURES, SUCCESSES, Maker
from qwen2vl_robot.benchmarks.endings.promises import Ending
from qwen2vl_robot.benchmarks.endings.table import Table, draw_table
from qwen2vl_robot.benchmarks.shares import share, wilson_interval
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.fleet.jobs import Job, units_of_seeds
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.judge import LOOK_GAP_S, judge
from qwen2vl_robot.messages import Effect, Observation, Outcome, OutcomeKind
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.plant.staged import StagedPlant, TrueEnding
from qwen2vl_robot.relations import relation_holds

ROBOT = "franka_panda"
_UNMOVED_M = 0.01  # as in the scoring of whole tasks
_AT_END_RAD = 0.02
_LIFTED_M = 0.03
_TOPPLED_RAD = 0.26  # as in the twin
_FLOOR_M = -0.5  # what is lower is no part of the scene


class Judging:
    """Makes and judges the endings of one seed after the other; it runs in a process of its own."""

    def __init__(self, camera: str | None) -> None:
        self._surroundings, self._camera = Surroundings.of(load_robot(ROBOT)), camera

    def judge(self, seed: int) -> dict[str, Any]:
        """Judge one ending of each kind on the table of a seed; none where its target is not seen."""
        return {"seed": seed, "endings": self._table(seed)}

    def _table(self, seed: int) -> list[dict[str, Any]]:
        drawn = draw_table(seed, self._surroundings, self._camera)
        if drawn is None:
            return []
        plant, table = drawn
        with plant:
            makers = [(m, True) for m in SUCCESSES] + [(m, False) for m in FAILURES]
            return [r for m, is_success in makers if (r := self._judge(m, is_success, table, seed)) is not None]

    def _judge(self, maker: Maker, is_success: bool, table: Table, seed: int) -> dict[str, Any] | None:
        table.rng = np.random.default_rng([seed, *maker.__name__.encode()])
        try:
            ending = maker(table)
        except (ObservationError, PerceptionError):
            return None  # the scene before the motion could not be measured: no motion would have been made
        if ending is None:
            return None
        outcome, truth = self._look(ending, table)
        is_true = is_truly(ending, truth, self._surroundings)
        return {
            "kind": maker.__name__,
            "seed": seed,
            "success": is_success,
            "scored": is_true == is_success,
            "outcome": outcome.kind.value,
            "why": outcome.reasons[0] if outcome.reasons else "",
        }

    def _look(self, ending: Ending, table: Table) -> tuple[Outcome, TrueEnding]:
        looks = look_at(ending, table.plant)
        belief = Belief()
        belief.expect(ending.step)
        measured, _ = belief.measure(ending.step, looks[-1], self._surroundings)
        return judge(ending.step, looks, measured, self._surroundings), table.plant.truth()


def look_at(ending: Ending, plant: StagedPlant) -> tuple[Observation, Observation]:
    """Arrange an ending and look at it twice, as the controller does."""
    plant.arrange(ending.arrangement)
    first = _look(ending, plant)
    plant.advance(LOOK_GAP_S)
    return first, _look(ending, plant)


def _look(ending: Ending, plant: StagedPlant) -> Observation:
    state = plant.state()
    return Observation(plant.capture(), state if ending.reports is None else replace(state, q_rad=ending.reports))


def is_truly(ending: Ending, truth: TrueEnding, surroundings: Surroundings) -> bool:
    """Whether the effect is there in the plant, the arm is where the motion ends, and nothing else has moved."""
    step = ending.step
    effect, end = step.motion.effect, step.verdict.state_after
    if end is None or float(np.abs(truth.q_rad - end.q_rad).max()) > _AT_END_RAD:
        return False
    before = ending.before.truth
    for label, body in before.bodies.items():
        if label != effect.name and _moved_m(body, truth.bodies[label]) > _UNMOVED_M:
            return False
    if effect.name is None:
        return True
    was, now = before.bodies[effect.name], truth.bodies[effect.name]
    if effect.kind == "hold":
        return effect.name in truth.gripped and bool(now.T_base_object[2, 3] > was.T_base_object[2, 3] + _LIFTED_M)
    return effect.name not in truth.gripped and _is_there(effect, now, truth, surroundings)


def _is_there(effect: Effect, now: TrueObject, truth: TrueEnding, surroundings: Surroundings) -> bool:
    rules = surroundings.rules
    off_m = float(np.linalg.norm(now.T_base_object[:3, 3] - np.asarray(effect.T_base_object)[:3, 3]))
    if off_m > effect.tolerance_m or now.speed_mps > rules.rest_speed_mps or _tilt_rad(now) > _TOPPLED_RAD:
        return False
    if effect.relation is None or effect.reference is None:
        return True
    return relation_holds(effect.relation, now.body, truth.bodies[effect.reference].body, rules, None)


def _tilt_rad(body: TrueObject) -> float:
    up: Array = body.T_base_object[:3, 2]
    return 0.0 if "ball" in body.label else float(np.arccos(np.clip(abs(up[2]), 0.0, 1.0)))


def _moved_m(was: TrueObject, now: TrueObject) -> float:
    if was.T_base_object[2, 3] < _FLOOR_M and now.T_base_object[2, 3] < _FLOOR_M:
        return 0.0
    return float(np.linalg.norm(now.T_base_object[:3, 3] - was.T_base_object[:3, 3]))


def endings_job(tables: int, seed: int, camera: str | None) -> Job:
    """The tables of seeds seed, seed + 1, ... as units.

    Args:
        camera: a model of sim/cameras; None for the scene's own.
    """
    return Job(
        name="bench judge",
        factory=f"{__name__}:Judging",
        args=(camera,),
        method="judge",
        units=units_of_seeds(seed, tables),
        about={"camera": camera, "seed": seed},
    )


def summarise_endings(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute false successes and true successes called so, with 95 % intervals (Wilson), and each kind's counts."""
    scored = [r for r in results if r["scored"]]
    failures = [r for r in scored if not r["success"]]
    called = [_is_called(r) for r in scored if r["success"]]
    false = sum(_is_called(r) for r in failures)
    kinds = {}
    for name in sorted({r["kind"] for r in results}):
        chosen = [r for r in scored if r["kind"] == name]
        outcomes = Counter(r["outcome"] for r in chosen)
        is_success = any(r["success"] for r in results if r["kind"] == name)
        kinds[name] = {"success": is_success, "endings": len(chosen), "outcomes": dict(outcomes)}
    return {
        "no_success": len(failures),
        "false_success": false,
        "false_success_interval_95": wilson_interval(false, len(failures)) if failures else None,
        "success": len(called),
        "true_called_ratio": share(called)["ratio"] if called else None,
        "true_called_interval_95": share(called)["interval_95"] if called else None,
        "not_verified": sum(r["outcome"] == "not_verified" for r in scored),
        "unscored": len(results) - len(scored),
        "kinds": kinds,
    }


def _is_called(result: dict[str, Any]) -> bool:
    return bool(result["outcome"] == OutcomeKind.ACHIEVED.value)
