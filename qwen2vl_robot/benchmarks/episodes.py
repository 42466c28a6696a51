"""A suite's file → an episode, the object that it means, how it is run, and whether a question was right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import ObjectSpec, Strict
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.messages import Cause, Instruction, Outcome, OutcomeKind, Relation, TaskReport, shape_size_m
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.reasons import AbortReason, PerceptionReason
from qwen2vl_robot.sides import Sides, farness, leftness

CAMERA = "d435"  # errs as a real camera does
DRAWS = 20  # scenes to try until what is needed is visible
DRAW_STRIDE = 1_000_003  # keeps redrawn scenes away from other seeds
REHEARSAL_BUDGET_S = 30.0
_BACKWARDS = ("farthest", "leftmost", "largest")
_CLEAR_M, _CLEAR_SIDE_RATIO = 0.03, 1.1  # by how much the target must differ from the next candidate


class TaskSpec(Strict):
    """One kind of task of a suite.

    Attributes:
        is_missing: whether the target is absent.
        is_bare: whether the target is named by its kind alone, of which the scene has two or three.
        where: superlatives that may single out the target; if empty, the robot has to ask.
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
        """Whether the robot must ask a person."""
        return self.is_missing or (self.is_bare and not self.where)


class SuiteSpec(Strict):
    """A suite file in sim/tasks."""

    scene: str
    min_visible_px: Annotated[int, Field(ge=1)]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Episode:
    """The content of one seed's episode.

    Attributes:
        target, reference: labels in the instruction; the target of a missing task is not in `always`.
        where: the superlative in front of the target, or "".
        bearers: labels of the present objects that match the target's name.
        always: objects that the scene must contain, including a distractor.
        count: number of objects in the scene.
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


def run_task(controller: Controller, text: str) -> TaskReport:
    """Have an instruction carried out; what breaks is a task that was refused because something broke."""
    try:
        return controller.run(Instruction(text))
    except RobotError as error:
        broken = Cause(AbortReason.BROKEN, f"{type(error).__name__}: {error}")
        return TaskReport(Instruction(text), Outcome(OutcomeKind.REFUSED, (broken,)), (), (), {})


def asks_rightly(episode: Episode, outcome: Outcome) -> bool:
    """Check whether a question is about the target; among several candidates it must ask which one is meant."""
    return not episode.task.is_bare or outcome.reason is PerceptionReason.AMBIGUOUS


def _measure(where: str, item: TrueObject, sides: Sides) -> float:
    """Compute what a superlative compares: how far away or left something is, metres, or the log of a volume."""
    centre_m = item.T_base_object[:3, 3]
    if where in ("largest", "smallest"):
        return float(np.log(shape_size_m(item.shape)).sum())
    return farness(sides, centre_m) if where in ("nearest", "farthest") else leftness(sides, centre_m)


def ranked(episode: Episode, objects: dict[str, TrueObject], sides: Sides) -> list[str]:
    """Rank the objects that match the target's name, the meant one first."""
    sign = -1.0 if episode.where in _BACKWARDS else 1.0
    return sorted(episode.bearers, key=lambda label: sign * _measure(episode.where, objects[label], sides))


def margin(episode: Episode, objects: dict[str, TrueObject], sides: Sides) -> float:
    """Compute how clearly the first object stands out from the second; 1 is just clear."""
    best = ranked(episode, objects, sides)[:2]
    first, second = (_measure(episode.where, objects[label], sides) for label in best)
    clear = 3 * np.log(_CLEAR_SIDE_RATIO) if episode.where in ("largest", "smallest") else _CLEAR_M
    return float(abs(first - second) / clear)
