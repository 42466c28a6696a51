"""Seeds → one request in nine languages per picture → how often the plan equals English's.

Only the words differ: the picture, the task and the objects are the same. Half of the requests use phrasings of the
training, half held-out ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.grounding import outline
from qwen2vl_robot.benchmarks.shares import share
from qwen2vl_robot.bullet import robot_on_table
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.errors import BadInputError, PlannerError
from qwen2vl_robot.languages import ENGLISH, Language, fill, load_languages
from qwen2vl_robot.messages import Instruction, Plan, PlannerRequest
from qwen2vl_robot.planner.process import PlannerProcess
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.training.dataset import MIN_VISIBLE_PX, sample_of_seed
from qwen2vl_robot.training.shards import SeenObject

_SCENE = "scenes/tabletop.yaml"
_ABSENT_RATIO = 0.2
_MIN_IOU = 0.5


def chosen_languages(code: str) -> list[str]:
    """List the codes that `--language` selects, without English, the reference.

    Raises:
        BadInputError: the language is unknown.
    """
    known = [c for c in load_languages() if c != ENGLISH]
    if code != "all" and code not in known:
        raise BadInputError(f"--language {code}: unknown; choose all, {', '.join(known)}")
    return known if code == "all" else [code]


def run_languages(model: str, code: str, frames: int, seed: int) -> Iterator[dict[str, Any]]:
    """Plan each frame in English and in each language, for seeds seed, seed + 1, ..."""
    codes, languages = chosen_languages(code), load_languages()
    ranges, catalogue = load_scene(_SCENE)
    with robot_on_table(load_robot(ranges.robot)) as world, PlannerProcess(model) as planner:
        for index in range(frames):
            rng = np.random.default_rng([seed + index, 3])
            rgb, seen = sample_of_seed(world, ranges, catalogue, seed + index)
            task, labels = _request(languages[ENGLISH], seen, rng)
            is_heard = index % 2 == 0
            english = _plan(planner, rgb, _say(languages[ENGLISH], task, labels, index, is_heard))
            for one in codes:
                text = _say(languages[one], task, labels, index, is_heard)
                plan = _plan(planner, rgb, text)
                yield {
                    "language": one,
                    "seed": seed + index,
                    "phrasing": "seen" if is_heard else "held_out",
                    "instruction": text,
                    "same": is_same(english, plan),
                    "identical": english is not None and plan is not None and english.reply == plan.reply,
                }


def _request(english: Language, seen: list[SeenObject], rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a task with the labels of its objects, one of which is sometimes absent."""
    tasks = [t for t in english.tasks if t not in ("home", "wait", "refuse")]
    visible = [s.label for s in seen if s.visible_px >= MIN_VISIBLE_PX]
    absent = [f"{c} {k}" for c in english.colours for k in english.kinds]
    absent = [label for label in absent if label not in {s.label for s in seen}]
    labels = [str(label) for label in rng.permutation(visible)[:2]]
    if not labels or rng.uniform() < _ABSENT_RATIO:
        labels = [str(rng.choice(absent)), *labels[1:]]
    task = str(rng.choice(tasks)) if len(labels) > 1 else "pick"
    return task, labels


def _say(speech: Language, task: str, labels: list[str], index: int, is_heard: bool) -> str:
    phrasing = speech.tasks[task]
    templates = phrasing.seen if is_heard or not phrasing.held_out else phrasing.held_out
    names = [(speech.phrase(label), speech.phrase(label, "of")) for label in labels]
    return fill(templates[index // 2 % len(templates)], *names)


def _plan(planner: PlannerProcess, rgb: Any, text: str) -> Plan | None:
    try:
        return planner.plan_picture(PlannerRequest(rgb, Instruction(text)))
    except PlannerError:
        return None


def is_same(a: Plan | None, b: Plan | None) -> bool:
    """Check whether two plans do the same with the same objects, or ask the same."""
    if a is None or b is None or outline(a) != outline(b):
        return False
    if a.actions[0].text is not None:  # compare the raw replies, which are English in every language
        return parse_reply(a.reply).actions == parse_reply(b.reply).actions
    objects = [(x.object, y.object) for x, y in zip(a.actions, b.actions, strict=True)]
    return all(
        x == y
        or (
            x is not None
            and y is not None
            and x.label == y.label
            and len(x.boxes) == len(y.boxes)
            and all(p.iou(q) >= _MIN_IOU for p, q in zip(x.boxes, y.boxes, strict=True))
        )
        for x, y in objects
    )


def summarise_languages(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute per language the share of plans that equal English's, in total and by phrasing, with 95 % intervals."""
    totals: dict[str, Any] = {}
    for code in dict.fromkeys(r["language"] for r in results):
        chosen = [r for r in results if r["language"] == code]
        totals[code] = {"frames": len(chosen), "same": share([r["same"] for r in chosen])}
        totals[code]["identical"] = share([r["identical"] for r in chosen])
        for phrasing in ("seen", "held_out"):
            same = [r["same"] for r in chosen if r["phrasing"] == phrasing]
            if same:
                totals[code][f"same_{phrasing}"] = share(same)
    return totals
