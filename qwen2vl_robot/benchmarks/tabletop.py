"""Seeds → episodes of the tabletop suite in the plant, scored by the plant's truth.

The controller sees what any robot would; only the scoring below, and the `truth` planner (which takes the model out of
the chain, to measure perception and motion alone), read what is true.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import ObjectSpec, RelationRules, Strict, load_robot, load_yaml
from qwen2vl_robot.controller import Controller, Parts
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.languages import ENGLISH, Language, fill, load_languages
from qwen2vl_robot.messages import (
    Instruction,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Relation,
    StepRecord,
    TaskReport,
)
from qwen2vl_robot.nodes.plant import PlantProcess, PlantTruth, TrueObject
from qwen2vl_robot.perception.labels import load_words
from qwen2vl_robot.planner.contract import ask_text, format_reply, parse_reply
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.ports import Planner
from qwen2vl_robot.process import peak_memory_mb
from qwen2vl_robot.relations import relation_holds
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.scenes import load_scene
from qwen2vl_robot.validation.pool import RehearsalProcess

REHEARSAL_BUDGET_S = 30.0
_UNMOVED_M = 0.01
_DRAWS = 20  # scenes tried until the named objects can be seen
_DRAW_STRIDE = 1_000_003  # far from every other seed in use


class TaskSpec(Strict):
    """One kind of task of the suite."""

    name: str
    relation: Relation
    target: tuple[str, ...]
    reference: tuple[str, ...]
    is_missing: bool = False


class SuiteSpec(Strict):
    """sim/tasks/tabletop.yaml."""

    scene: str
    min_visible_px: Annotated[int, Field(ge=1)]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Episode:
    """What one seed asks for.

    Attributes:
        target, reference: labels; the target of a missing task is not among `always`.
        always: objects that the scene must hold, a distractor among them.
    """

    seed: int
    task: TaskSpec
    instruction: str
    target: str
    reference: str
    always: tuple[ObjectSpec, ...]
    count: int


class Suite:
    """The tabletop suite: draws episodes, runs them, scores them."""

    def __init__(self, planner: Literal["checkpoint", "truth"], model: str, *, held_out: bool = False) -> None:
        self._spec = load_yaml(resolve("tasks/tabletop.yaml"), SuiteSpec)
        self._ranges, self._catalogue = load_scene(self._spec.scene)
        self._english: Language = load_languages()[ENGLISH]
        self._rules = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
        self._words, self._cell = load_words(), load_rules()
        self._profile = load_robot(self._ranges.robot)
        self._planner = PlannerProcess(model) if planner == "checkpoint" else None
        self._rehearsal = RehearsalProcess(self._profile, budget_s=REHEARSAL_BUDGET_S)
        self._held_out = held_out

    def start(self) -> None:
        """Load model and twin, so that the first episode is timed like the others."""
        if self._planner is not None:
            self._planner.start()
        self._rehearsal.start()

    def close(self) -> None:
        """End the processes."""
        if self._planner is not None:
            self._planner.close()
        self._rehearsal.close()

    def draw(self, index: int, seed: int) -> Episode:
        """Draw what the episode of this seed asks for."""
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
        low, high = (5, 8) if (index // len(self._spec.tasks)) % 2 == 0 else (len(there), 4)
        templates = self._english.tasks[task.relation.value].seen
        template = str(templates[int(rng.integers(len(templates)))])
        labels = [f"{c} {k}" for c, k in (target, reference)]
        return Episode(
            seed=seed,
            task=task,
            instruction=fill(template, *(self._english.phrase(label) for label in labels)),
            target=labels[0],
            reference=labels[1],
            always=tuple(ObjectSpec(colour=c, kind=k) for c, k in there),
            count=int(rng.integers(low, high + 1)),
        )

    @staticmethod
    def _pick(rng: np.random.Generator, pairs: list[tuple[str, str]]) -> tuple[str, str]:
        return pairs[int(rng.integers(len(pairs)))]

    def run(self, episode: Episode) -> dict[str, Any]:
        """Run one episode in a fresh plant and score it."""
        for draw in range(_DRAWS):
            with self._plant(episode, draw) as plant:
                if self._is_fit(episode, plant.truth):
                    return self._run_in(episode, plant)
        raise RobotError(f"seed {episode.seed}: {_DRAWS} scenes, in none can the named objects be seen")

    def _plant(self, episode: Episode, draw: int) -> PlantProcess:
        seed = episode.seed + draw * _DRAW_STRIDE
        return PlantProcess(str(resolve(self._spec.scene)), seed, always=episode.always, count=episode.count)

    def _is_fit(self, episode: Episode, truth: PlantTruth) -> bool:
        """The named objects are there and can be seen, and what must be missing is missing."""
        boxes = truth.boxes()
        needed = [episode.reference] if episode.task.is_missing else [episode.target, episode.reference]
        is_there = episode.target in truth.objects()
        return is_there != episode.task.is_missing and all(
            label in boxes and boxes[label].visible_px >= self._spec.min_visible_px for label in needed
        )

    def _run_in(self, episode: Episode, plant: PlantProcess) -> dict[str, Any]:
        planner: Planner = self._planner or TruthPlanner(episode, plant.truth)
        parts = Parts(
            camera=plant.link,
            arm=plant.link,
            clock=plant.link,
            planner=planner,
            rehearsal=self._rehearsal,
            gate=Gate(plant.link, self._profile, zones=self._cell.zones),
            profile=self._profile,
            rules=self._rules,
            words=self._words,
            cell=self._cell,
        )
        before = plant.truth.objects()
        try:
            report = Controller(parts, seed=episode.seed).run(Instruction(episode.instruction))
        except RobotError as error:
            outcome = Outcome(OutcomeKind.REFUSED, (f"{type(error).__name__}: {error}",))
            report = TaskReport(Instruction(episode.instruction), outcome, (), (), {})
        is_success = self._is_success(episode, report.outcome, before, plant.truth.objects())
        is_right = None if self._planner is None else self._names_right(report, plant.truth, episode)
        return {
            "seed": episode.seed,
            "task": episode.task.name,
            "instruction": episode.instruction,
            "objects": len(before),
            "outcome": report.outcome.kind.value,
            "success": is_success,
            "first_plan_right": is_right,
            "reasons": list(report.outcome.reasons),
            "steps": [f"{s.action.describe()}: {s.outcome.kind.value}" for s in report.steps],
            "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
            "peak_memory_mb": round(self._peak_memory_mb(plant)),
        }

    def _is_success(
        self, episode: Episode, outcome: Outcome, before: dict[str, TrueObject], after: dict[str, TrueObject]
    ) -> bool:
        """By the plant's truth: the relation holds and the object rests; or asked and nothing moved."""
        if episode.task.is_missing:
            moved = [
                label
                for label, o in before.items()
                if np.linalg.norm(after[label].T_base_object[:3, 3] - o.T_base_object[:3, 3]) > _UNMOVED_M
            ]
            return outcome.kind is OutcomeKind.ASKED and not moved
        target, reference = after[episode.target], after[episode.reference]
        return target.speed_mps <= self._rules.rest_speed_mps and relation_holds(
            episode.task.relation, target.body, reference.body, self._rules
        )

    def _names_right(self, report: TaskReport, truth: PlantTruth, episode: Episode) -> bool | None:
        """Whether the first plan talks when it should and otherwise names the right objects; None without a plan."""
        if not report.plans:
            return None
        labels = [a.object.label for a in report.plans[0].actions if a.object is not None]
        return labels == ([] if episode.task.is_missing else [episode.target, episode.reference])

    def _peak_memory_mb(self, plant: PlantProcess) -> float:
        """Sum of each process's highest resident memory so far: an upper bound of what all took at once."""
        workers = [*self._rehearsal.pids, plant.pid, self._planner.pid if self._planner else None]
        return sum(peak_memory_mb(pid) for pid in [os.getpid(), *workers] if pid is not None)


class TruthPlanner:
    """Answers an episode's instruction with the plant's own boxes."""

    def __init__(self, episode: Episode, truth: PlantTruth) -> None:
        self._episode = episode
        self._truth = truth

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Give the true boxes (see `ports.Planner`)."""
        boxes = self._truth.boxes()
        labels = [self._episode.target, self._episode.reference]
        missing = [label for label in labels if label not in boxes]
        if missing:
            return parse_reply(format_reply([], [{"do": "ask", "text": ask_text(missing[0])}]))
        objects = []
        for label in labels:
            b = boxes[label].box
            objects.append((label, [(int(b.x0), int(b.y0), int(b.x1 + 0.999), int(b.y1 + 0.999))]))
        place: dict[str, object] = {"do": "place", "object": 1, "relation": self._episode.task.relation.value}
        return parse_reply(format_reply(objects, [{"do": "pick", "object": 0}, place]))


def run_suite(suite: Suite, episodes: int, seed: int) -> Iterator[dict[str, Any]]:
    """Run episodes of seeds seed, seed + 1, ... one after the other."""
    suite.start()
    for index in range(episodes):
        yield suite.run(suite.draw(index, seed + index))


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The totals: shares with 95 % intervals (Wilson), false successes, medians of the stages."""
    successes = sum(r["success"] for r in results)
    stages = sorted({stage for r in results for stage in r["seconds"]})
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys(r["task"] for r in results):
        chosen = [r["success"] for r in results if r["task"] == name]
        tasks[name] = {"episodes": len(chosen), "successes": sum(chosen)}
    return {
        "episodes": len(results),
        "success_ratio": round(successes / len(results), 4),
        "success_interval_95": wilson_interval(successes, len(results)),
        "false_success": sum(_is_false_success(r) for r in results),
        "outcomes": dict(Counter(r["outcome"] for r in results)),
        "tasks": tasks,
        "seconds_median": {
            stage: round(float(np.median([r["seconds"][stage] for r in results if stage in r["seconds"]])), 3)
            for stage in stages
        },
        "peak_memory_mb": max(r["peak_memory_mb"] for r in results),
    }


def _is_false_success(result: dict[str, Any]) -> bool:
    return result["outcome"] == OutcomeKind.ACHIEVED.value and not result["success"]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval).

    >>> wilson_interval(50, 50)
    (0.9287, 1.0)
    """
    z = 1.959964
    p, n = successes / trials, trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return (round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4))
