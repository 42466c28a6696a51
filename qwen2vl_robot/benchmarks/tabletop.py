"""Seeds → episodes of a suite of tasks in the plant, scored by the plant's truth.

`tabletop` names its objects by colour and kind; `references` says "the leftmost block", or "the block" where there are
several, which is to be asked about.

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
    Where,
    shape_size_m,
)
from qwen2vl_robot.nodes.plant import PlantProcess, PlantTruth, TrueObject
from qwen2vl_robot.perception.labels import load_words
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.planner.reply import ask_text, format_reply, parse_reply
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
    """One kind of task of a suite.

    Attributes:
        is_missing: the target is not there.
        is_bare: the target is named by its kind alone, of which there are two or three.
        where: superlatives, one of which says which of them is meant; with none the robot has to ask.
    """

    name: str
    relation: Relation
    target: tuple[str, ...]
    reference: tuple[str, ...]
    is_missing: bool = False
    is_bare: bool = False
    where: tuple[Literal["nearest", "farthest", "leftmost", "rightmost", "largest", "smallest"], ...] = ()

    @property
    def is_question(self) -> bool:
        """Whether a person must be asked."""
        return self.is_missing or (self.is_bare and not self.where)


class SuiteSpec(Strict):
    """A file of sim/tasks with a suite's tasks."""

    scene: str
    min_visible_px: Annotated[int, Field(ge=1)]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Episode:
    """What one seed asks for.

    Attributes:
        target, reference: labels as spoken; the target of a missing task is not among `always`.
        where: the superlative that says which target is meant, or "".
        bearers: labels of what is there and bears the target's name.
        always: objects that the scene must hold, a distractor among them.
    """

    seed: int
    task: TaskSpec
    instruction: str
    target: str
    reference: str
    where: str
    bearers: tuple[str, ...]
    always: tuple[ObjectSpec, ...]
    count: int


class Suite:
    """One suite: draws episodes, runs them, scores them.

    Args:
        name: of its file in sim/tasks.
    """

    def __init__(
        self,
        planner: Literal["checkpoint", "truth"],
        model: str,
        *,
        name: str = "tabletop",
        held_out: bool = False,
    ) -> None:
        self._spec = load_yaml(resolve(f"tasks/{name}.yaml"), SuiteSpec)
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
        for draw in range(_DRAWS):
            with self._plant(episode, draw) as plant:
                if self._is_fit(episode, plant.truth):
                    return self._run_in(episode, plant)
        raise RobotError(f"seed {episode.seed}: {_DRAWS} scenes, in none can the named objects be seen")

    def _plant(self, episode: Episode, draw: int) -> PlantProcess:
        seed = episode.seed + draw * _DRAW_STRIDE
        return PlantProcess(str(resolve(self._spec.scene)), seed, always=episode.always, count=episode.count)

    def _is_fit(self, episode: Episode, truth: PlantTruth) -> bool:
        """The named objects are there and can be seen, what must be missing is missing, and one is clearly meant."""
        boxes, objects = truth.boxes(), truth.objects()
        bearers = {label for label in objects if set(episode.target.split()) <= set(label.split())}
        return (
            bearers == set(episode.bearers)
            and all(
                label in boxes and boxes[label].visible_px >= self._spec.min_visible_px
                for label in (*episode.bearers, episode.reference)
            )
            and (not episode.where or _margin(episode, objects) >= 1.0)
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
            "question_due": episode.task.is_question,
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
        """By the plant's truth: the relation holds and what was meant rests; or asked, when due, and nothing moved."""
        moved = {
            label
            for label, o in before.items()
            if np.linalg.norm(after[label].T_base_object[:3, 3] - o.T_base_object[:3, 3]) > _UNMOVED_M
        }
        if episode.task.is_question:
            return outcome.kind is OutcomeKind.ASKED and not moved and _asks_rightly(episode, outcome)
        meant, *others = _ranked(episode, before)
        target, reference = after[meant], after[episode.reference]
        return (
            moved.isdisjoint(others)
            and target.speed_mps <= self._rules.rest_speed_mps
            and relation_holds(episode.task.relation, target.body, reference.body, self._rules)
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


def _asks_rightly(episode: Episode, outcome: Outcome) -> bool:
    """Whether a question is about the target: which of several it is, where there are several."""
    return not episode.task.is_bare or outcome.reason_type == "ambiguous"


_BACKWARDS = ("farthest", "leftmost", "largest")
_CLEAR_M, _CLEAR_SIDE_RATIO = 0.03, 1.1  # by how much the one that is meant must stand out


def _measure(where: str, item: TrueObject) -> float:
    """What a superlative compares, as seen from the base: distance or place in metres, or the logarithm of a volume."""
    x, y = item.T_base_object[:2, 3]
    if where in ("largest", "smallest"):
        return float(np.log(shape_size_m(item.shape)).sum())
    return float(np.hypot(x, y)) if where in ("nearest", "farthest") else float(y)


def _ranked(episode: Episode, objects: dict[str, TrueObject]) -> list[str]:
    """The bearers of the target's name, what is meant first."""
    sign = -1.0 if episode.where in _BACKWARDS else 1.0
    return sorted(episode.bearers, key=lambda label: sign * _measure(episode.where, objects[label]))


def _margin(episode: Episode, objects: dict[str, TrueObject]) -> float:
    """How clearly the first stands out before the second; 1 is just clear."""
    first, second = (_measure(episode.where, objects[label]) for label in _ranked(episode, objects)[:2])
    clear = 3 * np.log(_CLEAR_SIDE_RATIO) if episode.where in ("largest", "smallest") else _CLEAR_M
    return float(abs(first - second) / clear)


class TruthPlanner:
    """Answers an episode's instruction with the plant's own boxes."""

    def __init__(self, episode: Episode, truth: PlantTruth) -> None:
        self._episode = episode
        self._truth = truth

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Give the true boxes (see `ports.Planner`)."""
        boxes, episode = self._truth.boxes(), self._episode
        objects: list[tuple[str, list[tuple[int, int, int, int]], Where | None]] = []
        for label, bearers, where in (
            (episode.target, episode.bearers, Where(episode.where) if episode.where else None),
            (episode.reference, (episode.reference,), None),
        ):
            seen = [boxes[name].box for name in bearers if name in boxes]
            if not seen:
                return parse_reply(format_reply([], [{"do": "ask", "text": ask_text(label)}]))
            objects.append((label, [(int(b.x0), int(b.y0), int(b.x1 + 0.999), int(b.y1 + 0.999)) for b in seen], where))
        place: dict[str, object] = {"do": "place", "object": 1, "relation": episode.task.relation.value}
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
    due = [r["success"] for r in results if r["question_due"]]
    return {
        "episodes": len(results),
        "questions_due": len(due),
        "asked_ratio": round(sum(due) / len(due), 4) if due else None,
        "asked_interval_95": wilson_interval(sum(due), len(due)) if due else None,
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
