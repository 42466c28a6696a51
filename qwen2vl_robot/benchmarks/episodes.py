"""A suite's file → what one episode asks for, which of several things it means, whether a question was right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from qwen2vl_robot.config import ObjectSpec, Strict
from qwen2vl_robot.messages import Outcome, Relation, shape_size_m
from qwen2vl_robot.plant.client import TrueObject
from qwen2vl_robot.reasons import PerceptionReason

_BACKWARDS = ("farthest", "leftmost", "largest")
_CLEAR_M, _CLEAR_SIDE_RATIO = 0.03, 1.1  # by how much the one that is meant must stand out


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


def asks_rightly(episode: Episode, outcome: Outcome) -> bool:
    """Whether a question is about the target: which of several it is, where there are several."""
    return not episode.task.is_bare or outcome.reason is PerceptionReason.AMBIGUOUS


def _measure(where: str, item: TrueObject) -> float:
    """What a superlative compares, as seen from the base: distance or place in metres, or the logarithm of a volume."""
    x, y = item.T_base_object[:2, 3]
    if where in ("largest", "smallest"):
        return float(np.log(shape_size_m(item.shape)).sum())
    return float(np.hypot(x, y)) if where in ("nearest", "farthest") else float(y)


def ranked(episode: Episode, objects: dict[str, TrueObject]) -> list[str]:
    """The bearers of the target's name, what is meant first."""
    sign = -1.0 if episode.where in _BACKWARDS else 1.0
    return sorted(episode.bearers, key=lambda label: sign * _measure(episode.where, objects[label]))


def margin(episode: Episode, objects: dict[str, TrueObject]) -> float:
    """How clearly the first stands out before the second; 1 is just clear."""
    first, second = (_measure(episode.where, objects[label]) for label in ranked(episode, objects)[:2])
    clear = 3 * np.log(_CLEAR_SIDE_RATIO) if episode.where in ("largest", "smallest") else _CLEAR_M
    return float(abs(first - second) / clear)
