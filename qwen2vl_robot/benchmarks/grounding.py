"""Seeds → pictures and instructions that no training saw → how often the planner names, finds and misses rightly.

Four families: pairs and phrasings of the training (new scenes), colour-kind pairs that training never saw, phrasings
that it never saw, and objects that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.tabletop import wilson_interval
from qwen2vl_robot.config import Phrasings, load_robot, load_yaml
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import ImageBox, Plan, Verb
from qwen2vl_robot.planner.contract import parse_reply
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.scenes import load_scene
from qwen2vl_robot.training.dataset import SeenObject, sample_of_seed
from qwen2vl_robot.training.questions import Question, QuestionMaker
from qwen2vl_robot.world import BulletWorld

FAMILIES = ("seen", "held_out_pairs", "held_out_phrasings", "absent")
_SCENE = "scenes/tabletop.yaml"


def run_grounding(model: str, pictures: int, seed: int) -> Iterator[dict[str, Any]]:
    """Ask one question about each of `pictures` scenes for each family; seeds seed, seed + 1, ..."""
    ranges, catalogue = load_scene(_SCENE)
    phrasings = load_yaml(resolve("tasks/phrasings.yaml"), Phrasings)
    usual = QuestionMaker(phrasings, catalogue)
    unheard = QuestionMaker(phrasings, catalogue, held_out_phrasings=True)
    with BulletWorld() as world, PlannerProcess(model) as planner:
        world.add_table()
        world.add_robot(load_robot(ranges.robot))
        for index in range(pictures):
            for family in FAMILIES:
                rng = np.random.default_rng([seed + index, FAMILIES.index(family)])
                is_held_out = family == "held_out_pairs"
                rgb, seen = sample_of_seed(world, ranges, catalogue, seed + index, with_held_out=is_held_out)
                maker = unheard if family == "held_out_phrasings" else usual
                question = _question(maker, seen, rng, family, catalogue.held_out)
                if question is not None:
                    yield {"family": family, "seed": seed + index, **_score(planner, rgb, seen, question)}


def _question(
    maker: QuestionMaker, seen: list[SeenObject], rng: np.random.Generator, family: str, held_out: tuple[str, ...]
) -> Question | None:
    """A pick or a place for the family; None when the picture cannot serve it."""
    for _ in range(40):
        task = str(rng.choice(["pick", "on", "in", "left_of", "right_of"]))
        question = maker.draw(seen, rng, absent=family == "absent", task=task)
        if question is None:
            return None
        labels = {seen[i].label for i in question.objects if i is not None}
        if family != "held_out_pairs" or labels & set(held_out):
            return question
    return None


def _score(planner: PlannerProcess, rgb: Any, seen: list[SeenObject], question: Question) -> dict[str, Any]:
    """Compare the planner's answer with the right one."""
    right = parse_reply(question.reply)
    try:
        answer = planner.plan_picture(rgb, question.instruction)
    except PlannerError:
        answer = Plan(actions=(), reply="")
    verbs = [a.verb for a in answer.actions]
    is_asked = verbs == [Verb.ASK]
    if right.actions[0].verb is Verb.ASK:
        return {"verbs_right": is_asked, "asked": is_asked}
    boxes = [a.object.boxes[0] for a in answer.actions if a.object is not None]
    # The objects of the right answer, in the order of its actions.
    wanted = [seen[i].box for i in question.objects if i is not None]
    same = verbs == [a.verb for a in right.actions] and [a.relation for a in answer.actions] == [
        a.relation for a in right.actions
    ]
    pairs = list(zip(boxes, wanted, strict=True)) if len(boxes) == len(wanted) else []
    ious = [_iou(b, w) for b, w in pairs] or [0.0] * len(wanted)
    inside = [_is_centre_inside(b, w) for b, w in pairs] or [False] * len(wanted)
    return {"verbs_right": same, "asked": is_asked, "iou": [round(i, 3) for i in ious], "centre_inside": inside}


def _iou(box: ImageBox, true: tuple[int, int, int, int]) -> float:
    x = min(box.x1, true[2]) - max(box.x0, true[0])
    y = min(box.y1, true[3]) - max(box.y0, true[1])
    inter = max(0.0, x) * max(0.0, y)
    union = (box.x1 - box.x0) * (box.y1 - box.y0) + (true[2] - true[0]) * (true[3] - true[1]) - inter
    return inter / union


def _is_centre_inside(box: ImageBox, true: tuple[int, int, int, int]) -> bool:
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]


def summarise_grounding(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Per family: shares with 95 % intervals over questions (verbs, asked) and objects (boxes)."""
    totals: dict[str, Any] = {}
    for family in FAMILIES:
        chosen = [r for r in results if r["family"] == family]
        ious = [i for r in chosen for i in r.get("iou", [])]
        inside = [c for r in chosen for c in r.get("centre_inside", [])]
        entry: dict[str, Any] = {"questions": len(chosen)}
        if chosen:
            entry["verbs_right"] = _share([r["verbs_right"] for r in chosen])
            entry["asked"] = _share([r["asked"] for r in chosen])
        if ious:
            entry["objects"] = len(ious)
            entry["mean_iou"] = round(float(np.mean(ious)), 3)
            entry["iou_50"] = _share([i >= 0.5 for i in ious])
            entry["centre_inside"] = _share(inside)
        totals[family] = entry
    return totals


def _share(values: list[bool]) -> dict[str, Any]:
    return {"ratio": round(sum(values) / len(values), 4), "interval_95": wilson_interval(sum(values), len(values))}
