"""Seeds → tasks about several things in the plant, and whether they hold afterwards, by the plant's truth.

What holds is computed here from true poses and sizes alone, without the robot's own relations. Nobody plans: such a
sentence must follow from what the robot measures, and a planner that is asked refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.episodes import DRAW_STRIDE, REHEARSAL_BUDGET_S, run_task
from qwen2vl_robot.benchmarks.shares import is_false_success, share, wilson_interval
from qwen2vl_robot.config import ObjectSpec, load_robot
from qwen2vl_robot.errors import BadInputError, PlannerError, RobotError
from qwen2vl_robot.fleet.jobs import Job, units_of_seeds
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Instruction, Observation, OutcomeKind, Plan, StepRecord, shape_size_m
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess, TrueObject
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.reasons import PlannerReason
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import load_rules
from qwen2vl_robot.validation.pool import RehearsalProcess

_SCENE = "scenes/tabletop.yaml"
_DRAWS = 60  # everything has to be visible and to have room
_LEAST_PX = 300
_NEAR_M, _STRAIGHT_M, _RISE_M = 0.03, 0.02, 0.01  # how far off a place, off a line, and off a top
_BESIDE_M = 0.025  # between two things on a plate
_STILL_M = 0.02  # what was not to be moved
_COLOURS = ("red", "yellow", "green", "blue", "purple", "orange", "cyan")

Things = Mapping[str, TrueObject]
Holds = Callable[[Things, Things], bool]  # the things before and after → whether the task was done


@dataclass(frozen=True, slots=True)
class _Task:
    """What is there, what is said, one sentence after the other, and what must hold then."""

    kind: str
    labels: tuple[str, ...]
    sentences: tuple[str, ...]
    holds: Holds
    moved: tuple[str, ...]  # whatever else moves was not to move
    fits: Callable[[Things], bool] = lambda things: True  # whether it can be done with things of these sizes


class Long:
    """Tasks about several things, one an episode; served in a process.

    Args:
        camera: a model of sim/cameras.
    """

    def __init__(self, camera: str) -> None:
        self._camera = camera
        profile = load_robot(load_scene(_SCENE)[0].robot)
        self._surroundings, self._cell = Surroundings.of(profile), load_rules()
        self._rehearsal = RehearsalProcess(profile, budget_s=REHEARSAL_BUDGET_S)

    def close(self) -> None:
        """Stop the processes."""
        self._rehearsal.close()

    def run(self, seed: int) -> dict[str, Any]:
        """Run the episode of a seed; the kinds of tasks come in turn."""
        self._rehearsal.start()
        task = _TASKS[seed % len(_TASKS)](np.random.default_rng([seed, 91]))
        with self._plant(task, seed) as plant:
            return {"seed": seed, "task": task.kind, **self._run_in(plant, task, seed)}

    def _plant(self, task: _Task, seed: int) -> PlantProcess:
        """A scene in which everything is visible.

        Raises:
            RobotError: none was drawn.
        """
        always = tuple(ObjectSpec(colour=label.split()[0], kind=label.split()[1]) for label in task.labels)
        for draw in range(_DRAWS):
            drawn = seed + draw * DRAW_STRIDE
            try:
                plant = PlantProcess(str(resolve(_SCENE)), drawn, always=always, count=len(always), camera=self._camera)
            except BadInputError:  # no room for all of them
                continue
            boxes, objects = plant.truth.boxes(), plant.truth.objects()
            if task.fits(objects) and all(name in boxes and boxes[name].visible_px >= _LEAST_PX for name in objects):
                return plant
            plant.close()
        raise RobotError(f"seed {seed}: in none of {_DRAWS} scenes is everything visible")

    def _run_in(self, plant: PlantProcess, task: _Task, seed: int) -> dict[str, Any]:
        ports = Ports(plant.link, plant.link, plant.link, _Nobody(), self._rehearsal)
        controller = assemble(self._surroundings, ports, cell=self._cell, seed=seed)
        before = plant.truth.objects()
        reports = []
        for sentence in task.sentences:
            reports.append(run_task(controller, sentence))
            if reports[-1].outcome.kind is not OutcomeKind.ACHIEVED:
                break
        after, last = plant.truth.objects(), reports[-1]
        steps = [step for report in reports for step in report.steps]
        still = all(_distance_m(_xyz(before[k]), _xyz(after[k])) <= _STILL_M for k in before if k not in task.moved)
        return {
            "said": list(task.sentences),
            "things": len(before),
            "steps": len(steps),
            "steps_achieved": sum(step.outcome.kind is OutcomeKind.ACHIEVED for step in steps),
            "outcome": last.outcome.kind.value,
            "success": bool(len(reports) == len(task.sentences) and still and task.holds(before, after)),
            "reasons": [str(cause) for cause in last.outcome.reasons],
            "seconds": round(sum(report.seconds["total"] for report in reports), 1),
        }


class _Nobody:
    """A planner that must not be needed."""

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        raise PlannerError("nobody plans here", reason=PlannerReason.NO_REPLY)


def long_job(camera: str, episodes: int, seed: int) -> Job:
    """The episodes of seeds seed, seed + 1, ... as units."""
    return Job(
        name="eval",
        factory=f"{__name__}:Long",
        args=(camera,),
        method="run",
        units=units_of_seeds(seed, episodes),
        about={"suite": "long", "camera": camera, "seed": seed},
        cores=2,
    )


def summarise_long(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the totals: shares with 95 % intervals (Wilson), of tasks and of steps that were tried."""
    done = sum(r["success"] for r in results)
    steps, achieved = sum(r["steps"] for r in results), sum(r["steps_achieved"] for r in results)
    kinds = sorted({r["task"] for r in results})
    return {
        "episodes": len(results),
        "success_ratio": round(done / len(results), 4),
        "success_interval_95": wilson_interval(done, len(results)),
        "steps": steps,
        "step_ratio": round(achieved / steps, 4) if steps else None,
        "step_interval_95": wilson_interval(achieved, steps) if steps else None,
        "false_success": sum(is_false_success(r) for r in results),
        "outcomes": dict(Counter(r["outcome"] for r in results)),
        "tasks": {kind: share([r["success"] for r in results if r["task"] == kind]) for kind in kinds},
        "seconds_median": float(np.median([r["seconds"] for r in results])),
    }


# ------------------------------------------------------------------------------------------------ the tasks


def _colours(rng: np.random.Generator, count: int) -> list[str]:
    return [str(colour) for colour in rng.permutation(_COLOURS)[:count]]


def _row(rng: np.random.Generator) -> _Task:
    labels = tuple(f"{colour} block" for colour in _colours(rng, int(rng.integers(3, 5))))

    def holds(_: Things, after: Things) -> bool:
        points = np.array([_xyz(after[label])[:2] for label in labels])
        middle = points.mean(axis=0)
        along = np.linalg.svd(points - middle)[2][0]
        off_m = np.abs((points - middle) @ np.array([-along[1], along[0]]))
        return bool(off_m.max() <= _STRAIGHT_M)

    says = ("line up the blocks", "put all the blocks in a row", "please arrange the blocks in a row")
    return _Task("row", (*labels, f"{_colours(rng, 1)[0]} bowl"), (str(rng.choice(says)),), holds, labels)


def _stack(rng: np.random.Generator) -> _Task:
    labels = tuple(f"{colour} block" for colour in _colours(rng, int(rng.integers(2, 4))))

    def holds(_: Things, after: Things) -> bool:
        tower = sorted((after[label] for label in labels), key=lambda thing: _xyz(thing)[2])
        return all(_is_on(above, below) for below, above in zip(tower, tower[1:], strict=False))

    says = ("stack the blocks", "build a tower out of the blocks", "put the blocks on top of each other")
    return _Task("stack", (*labels, f"{_colours(rng, 1)[0]} bowl"), (str(rng.choice(says)),), holds, labels)


def _swap(rng: np.random.Generator) -> _Task:
    first, second, other = _colours(rng, 3)
    a, b = f"{first} block", f"{second} {rng.choice(['block', 'cylinder'])}"

    def holds(before: Things, after: Things) -> bool:
        pairs = ((after[a], before[b]), (after[b], before[a]))
        return all(_distance_m(_xyz(now)[:2], _xyz(was)[:2]) <= _NEAR_M for now, was in pairs)

    return _Task("swap", (a, b, f"{other} bowl"), (f"swap the {a} and the {b}",), holds, (a, b))


def _each(rng: np.random.Generator) -> _Task:
    colours = _colours(rng, 4)
    things, plates = tuple(f"{c} block" for c in colours[:2]), tuple(f"{c} plate" for c in colours[2:])

    def holds(_: Things, after: Things) -> bool:
        below = [[plate for plate in plates if _is_on(after[thing], after[plate])] for thing in things]
        return all(len(found) == 1 for found in below) and below[0] != below[1]

    return _Task("each", (*things, *plates), ("put each block on a plate",), holds, things)


def _sort(rng: np.random.Generator) -> _Task:
    first, second, other = _colours(rng, 3)
    things, plates = (f"{first} block", f"{second} block"), (f"{first} plate", f"{second} plate")

    def holds(_: Things, after: Things) -> bool:
        return all(_is_on(after[thing], after[plate]) for thing, plate in zip(things, plates, strict=True))

    labels = (*things, *plates, f"{other} ball")
    return _Task("sort", labels, ("sort the blocks onto the plates by colour",), holds, things)


def _all_but(rng: np.random.Generator) -> _Task:
    first, second, third, other = _colours(rng, 4)
    things, plate = (f"{first} block", f"{second} block"), f"{other} plate"

    def holds(_: Things, after: Things) -> bool:
        return all(_is_on(after[thing], after[plate]) for thing in things)

    def fits(now: Things) -> bool:
        """Whether two blocks have room side by side on the plate, with the fingers beside them."""
        across_m = sum(float(np.hypot(*shape_size_m(now[thing].shape)[:2])) for thing in things)
        return across_m + _BESIDE_M <= shape_size_m(now[plate].shape)[0]

    said = f"put all the blocks but the {third} one on the plate"
    return _Task("all but", (*things, f"{third} block", plate), (said,), holds, things, fits)


def _back(rng: np.random.Generator) -> _Task:
    first, second = _colours(rng, 2)
    label, side = f"{first} block", str(rng.choice(["left", "right"]))

    def holds(before: Things, after: Things) -> bool:
        return _distance_m(_xyz(before[label])[:2], _xyz(after[label])[:2]) <= _NEAR_M

    says = (f"move the {label} 10 cm to the {side}", "put it back where it was")
    return _Task("back", (label, f"{second} cylinder"), says, holds, (label,), _roomy(label, 0.10))


def _by(rng: np.random.Generator) -> _Task:
    first, second = _colours(rng, 2)
    label, distance_m = f"{first} block", 0.01 * float(rng.integers(8, 14))
    side = str(rng.choice(["left", "right"]))

    def holds(before: Things, after: Things) -> bool:
        return abs(_distance_m(_xyz(before[label])[:2], _xyz(after[label])[:2]) - distance_m) <= _NEAR_M / 2

    said = f"move the {label} {100 * distance_m:.0f} cm to the {side}"
    return _Task("by", (label, f"{second} cylinder"), (said,), holds, (label,), _roomy(label, distance_m))


def _roomy(label: str, distance_m: float) -> Callable[[Things], bool]:
    """Whether all around a thing, so far away, the table is free and within reach."""

    def fits(now: Things) -> bool:
        (x, y), others = _xyz(now[label])[:2], [_xyz(now[k])[:2] for k in now if k != label]
        is_inside = 0.40 + distance_m <= x + 0.10 and x <= 0.60 and abs(y) + distance_m <= 0.25
        return is_inside and all(_distance_m(np.array([x, y]), at) >= distance_m + 0.10 for at in others)

    return fits


_TASKS: tuple[Callable[[np.random.Generator], _Task], ...] = (_row, _stack, _swap, _each, _sort, _all_but, _back, _by)


def _xyz(thing: TrueObject) -> Array:
    return np.asarray(thing.T_base_object[:3, 3], dtype=float)


def _distance_m(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b))


def _is_on(above: TrueObject, below: TrueObject) -> bool:
    """Whether a thing stands on another one: its middle over it, its bottom on its top."""
    heights_m = [shape_size_m(thing.shape)[2] / 2 for thing in (above, below)]
    rise_m = (_xyz(above)[2] - heights_m[0]) - (_xyz(below)[2] + heights_m[1])
    half_m = min(shape_size_m(below.shape)[:2]) / 2
    return abs(rise_m) <= _RISE_M and _distance_m(_xyz(above)[:2], _xyz(below)[:2]) <= half_m
