"""Seeds → episodes of a suite of tasks in the plant, scored by the plant's truth.

`tabletop` names its objects by colour and kind. `references` says "the leftmost block", or "the block" if there are
several, and then the robot should ask.

The controller sees what any robot would see; only the scoring below and the `truth` planner (truth_planner.py) read the
truth.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Literal

import numpy as np

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.episodes import (
    CAMERA,
    DRAW_STRIDE,
    DRAWS,
    REHEARSAL_BUDGET_S,
    Episode,
    SuiteSpec,
    asks_rightly,
    margin,
    ranked,
    run_task,
)
from qwen2vl_robot.benchmarks.shares import is_false_success, wilson_interval
from qwen2vl_robot.benchmarks.truth_planner import TruthPlanner
from qwen2vl_robot.config import ObjectSpec, load_robot, load_yaml
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.fleet.jobs import Job, Unit
from qwen2vl_robot.languages import ENGLISH, Language, fill, load_languages
from qwen2vl_robot.messages import Outcome, OutcomeKind, TaskReport
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.plant.client import FAULTS, FaultyProcess, PlantProcess, PlantTruth, TrueObject
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.ports import Planner
from qwen2vl_robot.process import peak_memory_mb
from qwen2vl_robot.relations import relation_holds
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.sides import Sides, sides_seen_from
from qwen2vl_robot.validation.pool import RehearsalProcess

_UNMOVED_M = 0.01


class Suite:
    """One suite: draws, runs and scores episodes.

    Args:
        planner: "checkpoint" for a model, "truth" for the plant's true boxes.
        model: model name for "checkpoint", see planner/sources.py.
        name: name of the suite's file in sim/tasks.
        held_out: whether to name held-out colour-kind pairs, too.
        faults: whether something goes wrong in the plant, one fault after the other.
        camera: a model of sim/cameras; a D435's if left out.
        scene: a file of sim/scenes, instead of the suite's own.

    Attributes:
        camera: the model of the plant's camera.
    """

    def __init__(
        self,
        planner: Literal["checkpoint", "truth"],
        model: str,
        *,
        name: str = "tabletop",
        held_out: bool = False,
        faults: bool = False,
        camera: str | None = None,
        scene: str | None = None,
    ) -> None:
        spec = load_yaml(resolve(f"tasks/{name}.yaml"), SuiteSpec)
        self._spec = spec if scene is None else spec.model_copy(update={"scene": scene})
        self._ranges, self._catalogue = load_scene(self._spec.scene)
        self.camera = camera or CAMERA
        self._english: Language = load_languages()[ENGLISH]
        self._cell = load_rules()
        self._profile = load_robot(self._ranges.robot)
        self._surroundings = Surroundings.of(self._profile)
        self._rules = self._surroundings.rules
        self._planner = PlannerProcess(model) if planner == "checkpoint" else None
        self._rehearsal = RehearsalProcess(self._profile, budget_s=REHEARSAL_BUDGET_S)
        self._held_out = held_out
        self._faults = FAULTS if faults else ()

    def start(self) -> None:
        """Load model and twin, so that the first episode is timed like the others."""
        if self._planner is not None:
            self._planner.start()
        self._rehearsal.start()

    def close(self) -> None:
        """Stop the processes."""
        if self._planner is not None:
            self._planner.close()
        self._rehearsal.close()

    def draw(self, index: int, seed: int) -> Episode:
        """Draw the episode of a seed."""
        rng = np.random.default_rng([seed, 7])
        task = self._spec.tasks[index % len(self._spec.tasks)]
        pairs = [
            (c, k)
            for c in self._catalogue.colours
            for k in self._catalogue.kinds
            if (f"{c} {k}" in self._catalogue.held_out) <= self._held_out
        ]
        target = self._pick(rng, [p for p in pairs if p[1] in task.target])
        reference = self._pick(rng, [p for p in pairs if p[1] in task.reference and p != target])
        # A distractor that shares the target's colour or kind.
        rivals = [p for p in pairs if p not in (target, reference) and (p[0] == target[0] or p[1] == target[1])]
        there = [reference, self._pick(rng, rivals)] + ([] if task.is_missing else [target])
        where = ""
        if task.is_bare:
            same = [p for p in pairs if p[1] == target[1] and p not in (target, reference)]
            others = [same[i] for i in rng.permutation(len(same))[: int(rng.integers(1, 3))]]
            there = [reference, target, *others]
            where = str(rng.choice(task.where)) if task.where else ""
        low, high = (5, 8) if (index // len(self._spec.tasks)) % 2 == 0 else (len(there), 4)
        templates = self._english.tasks[task.relation.value].seen
        template = str(templates[int(rng.integers(len(templates)))])
        labels = [target[1] if task.is_bare else " ".join(target), " ".join(reference)]
        names = (self._english.phrase(labels[0], extra=where), self._english.phrase(labels[1]))
        return Episode(
            seed=seed,
            task=task,
            instruction=fill(template, *names),
            target=labels[0],
            reference=labels[1],
            where=where,
            bearers=tuple(" ".join(p) for p in there if set(labels[0].split()) <= set(p)),
            always=tuple(ObjectSpec(colour=c, kind=k) for c, k in there),
            count=int(rng.integers(low, high + 1)),
        )

    @staticmethod
    def _pick(rng: np.random.Generator, pairs: list[tuple[str, str]]) -> tuple[str, str]:
        return pairs[int(rng.integers(len(pairs)))]

    def run(self, episode: Episode) -> dict[str, Any]:
        """Run one episode in a fresh plant and score it."""
        for draw in range(DRAWS):
            with self._plant(episode, draw) as plant:
                if self._is_fit(episode, plant.truth):
                    return self._run_in(episode, plant)
        raise RobotError(f"seed {episode.seed}: in none of {DRAWS} scenes are the named objects visible")

    def _plant(self, episode: Episode, draw: int) -> PlantProcess:
        seed = episode.seed + draw * DRAW_STRIDE
        path, fault = str(resolve(self._spec.scene)), self._fault(episode)
        if fault is not None:
            return FaultyProcess(fault, path, seed, always=episode.always, count=episode.count, camera=self.camera)
        return PlantProcess(path, seed, always=episode.always, count=episode.count, camera=self.camera)

    def _fault(self, episode: Episode) -> str | None:
        """The fault of an episode's plant: each task meets each fault in turn."""
        tasks = len(self._spec.tasks)
        return self._faults[(episode.seed + episode.seed // tasks) % len(self._faults)] if self._faults else None

    def _is_fit(self, episode: Episode, truth: PlantTruth) -> bool:
        """Check that the named objects are visible, a missing one is missing, and one target is clearly meant."""
        boxes, objects = truth.boxes(), truth.objects()
        bearers = {label for label in objects if set(episode.target.split()) <= set(label.split())}
        return (
            bearers == set(episode.bearers)
            and all(
                label in boxes and boxes[label].visible_px >= self._spec.min_visible_px
                for label in (*episode.bearers, episode.reference)
            )
            and (not episode.where or margin(episode, objects, self._sides(truth)) >= 1.0)
        )

    def _sides(self, truth: PlantTruth) -> Sides:
        """Which way left and behind truly are in the picture of the plan: by the camera's true pose, not the published.

        Raises:
            RobotError: the scene file's camera is turned too far.
        """
        sides = sides_seen_from(self._rules.seen_from, truth.T_base_camera())
        if sides is None:
            raise RobotError(f"{self._spec.scene}: nothing is left or right in its camera's picture")
        return sides

    def _run_in(self, episode: Episode, plant: PlantProcess) -> dict[str, Any]:
        planner: Planner = self._planner or TruthPlanner(episode, plant.truth)
        ports = Ports(plant.link, plant.link, plant.link, planner, self._rehearsal)
        controller = assemble(self._surroundings, ports, cell=self._cell, seed=episode.seed)
        before, sides = plant.truth.objects(), self._sides(plant.truth)
        report = run_task(controller, episode.instruction)
        is_success = self._is_success(episode, report.outcome, before, plant.truth.objects(), sides)
        is_right = None if self._planner is None else self._names_right(report, plant.truth, episode)
        return {
            "seed": episode.seed,
            "task": episode.task.name,
            "fault": self._fault(episode),
            "question_due": episode.task.is_question,
            "instruction": episode.instruction,
            "objects": len(before),
            "outcome": report.outcome.kind.value,
            "success": is_success,
            "first_plan_right": is_right,
            "reasons": list(report.outcome.reasons),
            "steps": [f"{s.action.describe()}: {s.outcome.kind.value}" for s in report.steps],
            "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
            "before_motion": {k: round(v, 3) for k, v in report.before_motion.items()},
            "peak_memory_mb": round(self._peak_memory_mb(plant)),
        }

    def _is_success(
        self,
        episode: Episode,
        outcome: Outcome,
        before: dict[str, TrueObject],
        after: dict[str, TrueObject],
        sides: Sides,
    ) -> bool:
        """Score by the truth: the relation holds and the target rests; or the robot asked rightly and nothing moved."""
        moved = {
            label
            for label, o in before.items()
            if np.linalg.norm(after[label].T_base_object[:3, 3] - o.T_base_object[:3, 3]) > _UNMOVED_M
        }
        if episode.task.is_question:
            return outcome.kind is OutcomeKind.ASKED and not moved and asks_rightly(episode, outcome)
        meant, *others = ranked(episode, before, sides)
        target, reference = after[meant], after[episode.reference]
        return (
            moved.isdisjoint(others)
            and target.speed_mps <= self._rules.rest_speed_mps
            and relation_holds(episode.task.relation, target.body, reference.body, self._rules, sides)
        )

    def _names_right(self, report: TaskReport, truth: PlantTruth, episode: Episode) -> bool | None:
        """Check that the first plan talks when it should and else names the right objects; None without a plan."""
        if not report.plans:
            return None
        labels = [a.object.label for a in report.plans[0].actions if a.object is not None]
        return labels == ([] if episode.task.is_missing else [episode.target, episode.reference])

    def _peak_memory_mb(self, plant: PlantProcess) -> float:
        """Sum the peak resident memory of all processes, an upper bound of their common peak."""
        workers = [*self._rehearsal.pids, plant.pid, self._planner.pid if self._planner else None]
        return sum(peak_memory_mb(pid) for pid in [os.getpid(), *workers] if pid is not None)


class Episodes:
    """A suite that is served in a process; model and twin are loaded before its first episode and stay."""

    def __init__(self, planner: Literal["checkpoint", "truth"], model: str, options: dict[str, Any]) -> None:
        self._suite = Suite(planner, model, **options)

    def run(self, index: int, seed: int) -> dict[str, Any]:
        """Run the episode of a seed, the `index`-th of its run."""
        self._suite.start()
        return self._suite.run(self._suite.draw(index, seed))

    def close(self) -> None:
        """Stop the suite's processes."""
        self._suite.close()


def suite_job(planner: str, model: str, options: dict[str, Any], episodes: int, seed: int) -> Job:
    """The episodes of seeds seed, seed + 1, ... as units; `options` are those of `Suite`."""
    return Job(
        name="eval",
        factory=f"{__name__}:Episodes",
        args=(planner, model, options),
        method="run",
        units=tuple(Unit(str(seed + index), (index, seed + index)) for index in range(episodes)),
        about={"planner": planner, "model": model if planner == "checkpoint" else None, "seed": seed, **options},
        cores=2,  # a twin for each of two motions, or one and the plant
    )


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the totals: shares with 95 % intervals (Wilson), false successes, medians of the stages."""
    successes = sum(r["success"] for r in results)
    stages = sorted({stage for r in results for stage in r["seconds"]})
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys(r["task"] for r in results):
        chosen = [r["success"] for r in results if r["task"] == name]
        tasks[name] = {"episodes": len(chosen), "successes": sum(chosen)}
    due = [r["success"] for r in results if r["question_due"]]
    return {
        "episodes": len(results),
        "questions_due": len(due),
        "asked_ratio": round(sum(due) / len(due), 4) if due else None,
        "asked_interval_95": wilson_interval(sum(due), len(due)) if due else None,
        "success_ratio": round(successes / len(results), 4),
        "success_interval_95": wilson_interval(successes, len(results)),
        "false_success": sum(is_false_success(r) for r in results),
        "not_verified": sum(r["outcome"] == OutcomeKind.NOT_VERIFIED.value for r in results),
        "outcomes": dict(Counter(r["outcome"] for r in results)),
        "tasks": tasks,
        "seconds_median": {
            stage: round(float(np.median([r["seconds"][stage] for r in results if stage in r["seconds"]])), 3)
            for stage in stages
        },
        "peak_memory_mb": max(r["peak_memory_mb"] for r in results),
    }
