"""Seeds → unseen pictures and instructions → how often the planner finds and asks rightly.

Families: new scenes with pairs and phrasings of the training; held-out colour-kind pairs; held-out phrasings; absent
objects; plans after failed attempts; references that geometry resolves ("the leftmost block"); ambiguous references,
for which the planner has to ask; more colours, kinds, views and arms; tables 1.2 to 1.6 m away; and 12 to 16 things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.shares import share
from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import Catalogue, SceneRanges, load_robot
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import ImageBox, Instruction, Plan, PlannerRequest, Verb
from qwen2vl_robot.planner.contract import PlannerMode
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.training.dataset import sample_of_seed
from qwen2vl_robot.training.questions import Mix, Question, QuestionMaker
from qwen2vl_robot.training.shards import SeenObject

FAMILIES = (
    "seen",
    "held_out_pairs",
    "held_out_phrasings",
    "absent",
    "replan",
    "where",
    "ambiguous",
    "wide",
    "far",
    "crowded",
)
_SCENE, _WIDE_SCENE, _FAR_SCENE = "scenes/tabletop.yaml", "scenes/training_wide.yaml", "scenes/training_far.yaml"
_FAR_M, _CROWD = (1.2, 1.6), (12, 16)
_TASKS = ("pick", "on", "in", "left_of", "right_of")
_ATTEMPTS = 60


def run_grounding(
    model: str | ModelSettings,
    pictures: int,
    seed: int,
    modes: Sequence[PlannerMode | None] = (None,),
    families: Sequence[str] = FAMILIES,
) -> Iterator[dict[str, Any]]:
    """Ask one question about each of `pictures` scenes for each family, for seeds seed, seed + 1, ...

    Args:
        modes: each question is asked in each of these; None is that of the model's settings.
    """
    ranges, catalogue = load_scene(_SCENE)
    scenes = _scenes()
    makers = _makers(catalogue.held_out)
    shown = {ranges.robot, *(arm for family in families if family in scenes for arm in _arms(scenes[family][0]))}
    with ExitStack() as stack, PlannerProcess(model) as planner:
        worlds = {arm: stack.enter_context(robot_on_table(load_robot(arm))) for arm in shown}
        for index in range(pictures):
            for family in families:
                rng = np.random.default_rng([seed + index, FAMILIES.index(family)])
                is_held_out = family == "held_out_pairs"
                drawn, among = scenes.get(family, (ranges, catalogue))
                arms = _arms(drawn)
                drawn = drawn.model_copy(update={"robot": arms[index % len(arms)]})
                world = worlds[drawn.robot]
                rgb, seen = sample_of_seed(world, drawn, among, seed + index, with_held_out=is_held_out)
                question = _question(makers[family], seen, rng, family, catalogue.held_out)
                if question is None:
                    continue
                for mode in modes:
                    scored = score(planner, rgb, question, mode=mode)
                    yield {"family": family, "seed": seed + index, "mode": mode and mode.value, **scored}


def _scenes() -> dict[str, tuple[SceneRanges, Catalogue]]:
    """The scenes of the families that have their own."""
    far, catalogue = load_scene(_FAR_SCENE)
    away = far.camera.model_copy(update={"distance_m": _FAR_M})
    return {
        "wide": load_scene(_WIDE_SCENE),
        "far": (far.model_copy(update={"camera": away}), catalogue),
        "crowded": (far.model_copy(update={"count": _CROWD}), catalogue),
    }


def _arms(ranges: SceneRanges) -> tuple[str, ...]:
    return (ranges.robot, *ranges.other_robots)


def _makers(held_out: tuple[str, ...]) -> dict[str, QuestionMaker]:
    languages = load_languages()
    usual = QuestionMaker(languages, held_out, references=("label",))
    makers = dict.fromkeys(FAMILIES, usual)
    makers["held_out_phrasings"] = QuestionMaker(languages, held_out, held_out_phrasings=True, references=("label",))
    makers["replan"] = QuestionMaker(languages, held_out, Mix(failed_ratio=1.0), references=("label",))
    makers["where"] = QuestionMaker(languages, held_out, references=("superlative", "relation", "all"))
    makers["ambiguous"] = QuestionMaker(languages, held_out, references=("ambiguous",))
    return makers


def _question(
    maker: QuestionMaker, seen: list[SeenObject], rng: np.random.Generator, family: str, held_out: tuple[str, ...]
) -> Question | None:
    """Draw a pick or a place for the family; None when the picture does not allow one."""
    for _ in range(_ATTEMPTS):
        question = maker.draw(seen, rng, absent=family == "absent", task=str(rng.choice(_TASKS)))
        if question is None:
            return None
        labels = {seen[i].label for which in question.objects for i in which}
        is_fit = {
            "held_out_pairs": bool(labels & set(held_out)),
            "where": '"where"' in question.reply,
            "ambiguous": any(len(which) > 1 for which in question.objects),
        }
        if is_fit.get(family, True):
            return question
    return None


def score(
    planner: PlannerProcess,
    rgb: Any,
    question: Question,
    clip: tuple[Any, ...] = (),
    *,
    mode: PlannerMode | None = None,
) -> dict[str, Any]:
    """Compare the planner's answer with the right one; a `clip` is shown even to a checkpoint trained without clips."""
    right = parse_reply(question.reply)
    instruction, *failures = question.instruction.split("\n")
    request = PlannerRequest(rgb, Instruction(instruction), tuple(failures), clip=clip)
    try:
        answer = planner.plan_picture(request, shows_all=bool(clip), mode=mode)
    except PlannerError:
        answer = Plan(actions=(), reply="")
    is_asked = asks(answer)
    if right.actions[0].verb is Verb.ASK:
        return {"verbs_right": is_asked, "asked": is_asked}
    wanted = [box for a in right.actions if a.object is not None for box in a.object.boxes]
    boxes = [box for a in answer.actions if a.object is not None for box in a.object.boxes]
    pairs = list(zip(boxes, wanted, strict=True)) if len(boxes) == len(wanted) else []
    ious = [b.iou(w) for b, w in pairs] or [0.0] * len(wanted)
    inside = [_is_centre_inside(b, w) for b, w in pairs] or [False] * len(wanted)
    return {
        "verbs_right": outline(answer) == outline(right),
        "asked": is_asked,
        "iou": [round(i, 3) for i in ious],
        "centre_inside": inside,
    }


def asks(plan: Plan) -> bool:
    """Check whether a person will be asked: by the plan, or because several boxes match and no word decides."""
    return [a.verb for a in plan.actions] == [Verb.ASK] or any(
        a.object is not None and len(a.object.boxes) > 1 and a.object.where is None for a in plan.actions
    )


def outline(plan: Plan) -> list[tuple[object, ...]]:
    """Strip labels and boxes from a plan, which leaves its verbs, their arguments and the `where` of each object."""
    return [(a.verb, a.relation, a.direction, a.seconds, a.object and a.object.where) for a in plan.actions]


def _is_centre_inside(box: ImageBox, true: ImageBox) -> bool:
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return true.x0 <= x <= true.x1 and true.y0 <= y <= true.y1


def summarise_grounding(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute per family shares with 95 % intervals, over questions (verbs, asked) and objects (boxes)."""
    totals: dict[str, Any] = {}
    for family in FAMILIES:
        chosen = [r for r in results if r["family"] == family]
        ious = [i for r in chosen for i in r.get("iou", [])]
        inside = [c for r in chosen for c in r.get("centre_inside", [])]
        entry: dict[str, Any] = {"questions": len(chosen)}
        if chosen:
            entry["verbs_right"] = share([r["verbs_right"] for r in chosen])
            entry["asked"] = share([r["asked"] for r in chosen])
        if ious:
            entry["objects"] = len(ious)
            entry["mean_iou"] = round(float(np.mean(ious)), 3)
            entry["iou_50"] = share([i >= 0.5 for i in ious])
            entry["centre_inside"] = share(inside)
        totals[family] = entry
    return totals
