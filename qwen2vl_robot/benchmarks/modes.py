"""A model and scenes with known boxes → how often it is right when it plans, and when it only says where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen2vl_robot.benchmarks.grounding import run_grounding
from qwen2vl_robot.planner.contract import PlannerMode
from qwen2vl_robot.planner.sources import ModelSettings

FAMILIES = (
    "seen",
    "where",
    "absent",
)  # of the questions: a named thing, one that geometry finds, one that is not there
_MIN_IOU = 0.5
_CLEARLY_BETTER = 0.05  # of the questions; less is chance


def compare_modes(model: str | ModelSettings, pictures: int, seed: int) -> dict[PlannerMode, list[bool]]:
    """Ask the same questions about the same pictures in both modes; for each question whether the answer was right."""
    right: dict[PlannerMode, list[bool]] = {mode: [] for mode in PlannerMode}
    for result in run_grounding(model, pictures, seed, tuple(PlannerMode), FAMILIES):
        right[PlannerMode(result["mode"])].append(is_right(result))
    return right


def is_right(result: Mapping[str, Any]) -> bool:
    """Whether an answer had the right actions and a box on each thing."""
    return bool(result["verbs_right"]) and all(iou >= _MIN_IOU for iou in result.get("iou", []))


def recommend(right: Mapping[PlannerMode, Sequence[bool]]) -> PlannerMode:
    """The mode to use: planning, unless asking for boxes alone was clearly better.

    >>> recommend({PlannerMode.PLAN: [True, False], PlannerMode.DETECT: [True, True]}).value
    'detect'
    """
    plan, detect = (sum(right[mode]) / max(len(right[mode]), 1) for mode in (PlannerMode.PLAN, PlannerMode.DETECT))
    return PlannerMode.DETECT if detect > plan + _CLEARLY_BETTER else PlannerMode.PLAN
