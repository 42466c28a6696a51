"""Seeds → things of pybullet_data that lie on the plant's table as they fell; whether the arm lifts them, by the truth.

Each is a shape that nobody of this project made. The planner is the truth: where the thing is, is given; what shape it
has and where to touch it, is measured.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.episodes import DRAW_STRIDE, DRAWS, REHEARSAL_BUDGET_S, run_task
from qwen2vl_robot.benchmarks.shares import is_false_success, wilson_interval
from qwen2vl_robot.benchmarks.truth_planner import pick_plan
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.fleet.jobs import Job, units_of_seeds
from qwen2vl_robot.messages import Instruction, Observation, OutcomeKind, Plan, StepRecord
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.reply import ask_text, format_reply, parse_reply
from qwen2vl_robot.plant.client import PlantTruth
from qwen2vl_robot.plant.heap import HeapProcess
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.validation.pool import RehearsalProcess

REPORTED = range(900, 1000)  # files that nothing was developed on
_SCENE = "scenes/tabletop.yaml"
_LABEL, _INSTRUCTION = "thing", "pick up the thing"
_LIFTED_M = 0.05
_LEAST_PX = 300


class BoxPlanner:
    """Answers with the true box of the thing, and nothing else."""

    def __init__(self, truth: PlantTruth) -> None:
        self._truth = truth

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Plan with the true box (see `ports.Planner`)."""
        seen = self._truth.boxes().get(_LABEL)
        if seen is None:
            return parse_reply(format_reply([], [{"do": "ask", "text": ask_text(_LABEL)}]))
        return pick_plan(_LABEL, seen.box)


class Things:
    """Single things, one an episode; served in a process.

    Args:
        camera: a model of sim/cameras.
        numbers: the files of random_urdfs to draw from.
    """

    def __init__(self, camera: str, numbers: range = REPORTED) -> None:
        self._camera, self._numbers = camera, numbers
        profile = load_robot(load_scene(_SCENE)[0].robot)
        self._surroundings, self._cell = Surroundings.of(profile), load_rules()
        self._rehearsal = RehearsalProcess(profile, budget_s=REHEARSAL_BUDGET_S)

    def close(self) -> None:
        """Stop the processes."""
        self._rehearsal.close()

    def run(self, seed: int) -> dict[str, Any]:
        """Run the episode of a seed."""
        self._rehearsal.start()
        number = int(np.random.default_rng([seed, 9]).integers(self._numbers.start, self._numbers.stop))
        for draw in range(DRAWS):
            drawn = seed + draw * DRAW_STRIDE
            with HeapProcess(str(resolve(_SCENE)), drawn, always=(), count=0, camera=self._camera) as plant:
                if plant.drop((number,)) == 1 and self._is_seen(plant.truth):
                    return {"seed": seed, "file": f"{number:03d}", **self._run_in(plant, seed)}
        raise RobotError(f"seed {seed}: in none of {DRAWS} falls did thing {number:03d} come to rest in view")

    @staticmethod
    def _is_seen(truth: PlantTruth) -> bool:
        boxes = truth.boxes()
        return _LABEL in boxes and boxes[_LABEL].visible_px >= _LEAST_PX

    def _run_in(self, plant: HeapProcess, seed: int) -> dict[str, Any]:
        ports = Ports(plant.link, plant.link, plant.link, BoxPlanner(plant.truth), self._rehearsal)
        controller = assemble(self._surroundings, ports, cell=self._cell, seed=seed)
        before = plant.truth.objects()[_LABEL]
        report = run_task(controller, _INSTRUCTION)
        after = plant.truth.objects()[_LABEL]
        raised_m = float(after.T_base_object[2, 3] - before.T_base_object[2, 3])
        return {
            "task": "single",
            "attempts": sum(step.outcome.kind is not OutcomeKind.REFUSED for step in report.steps),
            "outcome": report.outcome.kind.value,
            "success": raised_m > _LIFTED_M and after.speed_mps <= self._surroundings.rules.rest_speed_mps,
            "raised_mm": round(1000 * raised_m),
            "pressed_n": round(plant.true_press_n(), 1),
            "size_mm": [round(1000 * side) for side in before.body.shape.size_m],  # type: ignore[union-attr]
            "reasons": [str(cause) for cause in report.outcome.reasons],
            "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
        }


def things_job(camera: str, episodes: int, seed: int) -> Job:
    """The episodes of seeds seed, seed + 1, ... as units."""
    return Job(
        name="eval",
        factory=f"{__name__}:Things",
        args=(camera,),
        method="run",
        units=units_of_seeds(seed, episodes),
        about={"suite": "things", "camera": camera, "seed": seed},
        cores=2,
    )


def summarise_things(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the totals: shares with 95 % intervals (Wilson), of all, and of those that were tried."""
    tried = [r for r in results if r["attempts"]]
    lifted = sum(r["success"] for r in results)
    return {
        "episodes": len(results),
        "attempted": len(tried),
        "success_ratio": round(lifted / len(results), 4),
        "success_interval_95": wilson_interval(lifted, len(results)),
        "of_attempted_ratio": round(sum(r["success"] for r in tried) / len(tried), 4) if tried else None,
        "of_attempted_interval_95": wilson_interval(sum(r["success"] for r in tried), len(tried)) if tried else None,
        "pressed_n_most": max(r["pressed_n"] for r in results),
        "false_success": sum(is_false_success(r) for r in results),
        "outcomes": dict(Counter(r["outcome"] for r in results)),
    }
