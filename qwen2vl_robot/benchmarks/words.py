"""Seeds → sentences of many kinds in nine languages about first frames → whether a motion would go that was not meant.

Each sentence passes reading, the planner and the rules, as in the controller; nothing moves, and nothing is measured
from depth. The sentences of sim/tasks/words were written by hand, with what they mean.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import RootModel

from qwen2vl_robot.benchmarks.episodes import DRAW_STRIDE, DRAWS
from qwen2vl_robot.benchmarks.meanings import does_the_same, parse_meaning
from qwen2vl_robot.benchmarks.shares import judged_by, share, wilson_interval
from qwen2vl_robot.config import load_yaml
from qwen2vl_robot.errors import BadInputError, PlannerError, RobotError
from qwen2vl_robot.languages import Language, load_languages
from qwen2vl_robot.messages import Instruction, Outcome, OutcomeKind, Plan, PlannerRequest
from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reading import read
from qwen2vl_robot.reasons import TaskReason
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import RuleBook, load_rules

KINDS = (
    *("plain", "polite", "negated", "no_order", "exclusion"),
    *("two_steps", "unknown_word", "stop_word", "forbidden"),
)
_SCENE = "scenes/default.yaml"
_PICKED, _MIN_VISIBLE_PX = ("block", "cylinder", "ball"), 300
Plans = Callable[[PlannerRequest], Plan]


class SentenceFile(RootModel[dict[str, list[tuple[str] | tuple[str, str]]]]):
    """sim/tasks/words/LANGUAGE.yaml: kind → sentences, each with its meaning or, where nothing may move, alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A first picture, and the labels of what is clearly visible in it."""

    seed: int
    rgb: npt.NDArray[np.uint8]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One sentence about a frame; `meant` is None where no motion may go."""

    language: str
    kind: str
    text: str
    meant: Plan | None


def load_sentences() -> dict[str, dict[str, list[tuple[str] | tuple[str, str]]]]:
    """Load language → kind → sentences.

    Raises:
        BadInputError: a file is missing or wrong.
    """
    return {code: load_yaml(resolve(f"tasks/words/{code}.yaml"), SentenceFile).root for code in load_languages()}


def run_words(model: str | None, cases: int, seed: int) -> Iterator[dict[str, Any]]:
    """Judge cases one after the other: every kind in every language about one frame, then about the next.

    Args:
        model: see planner/sources.py; the shipped one if None.

    Raises:
        RobotError: no scene shows enough things.
    """
    rules, done = load_rules(), 0
    with PlannerProcess(model or SHIPPED_MODEL) as planner:
        planner.start()
        for index in range(cases):  # a frame has many cases, so these are more than enough
            frame = first_frame(seed + index)
            for case in cases_of(frame, index):
                if done == cases:
                    return
                yield {"seed": frame.seed, **judge(case, frame, planner.plan_picture, rules)}
                done += 1


def first_frame(seed: int) -> Frame:
    """What the camera of the default scene shows before anything has moved, with at least three things in clear view.

    Raises:
        RobotError: no scene of this seed shows enough.
    """
    for draw in range(DRAWS):
        try:
            frame = _look(seed, seed + draw * DRAW_STRIDE)
        except BadInputError:  # the seed's things found no room on the table
            continue
        if sum(_is_picked(label) for label in frame.labels) >= 2 and any(map(_is_plate, frame.labels)):
            return frame
    raise RobotError(f"seed {seed}: in none of {DRAWS} scenes are two things and a plate visible")


def _look(seed: int, drawn: int) -> Frame:
    with PlantProcess(str(resolve(_SCENE)), drawn, camera="ideal") as plant:  # sentences are looked at, not depth
        boxes = plant.truth.boxes()
        visible = (label for label, box in boxes.items() if box.visible_px >= _MIN_VISIBLE_PX)
        return Frame(seed, plant.link.capture().rgb, tuple(sorted(visible)))


def cases_of(frame: Frame, index: int) -> Iterator[Case]:
    """A sentence of every kind in every language; the `index` of the frame turns through those of a kind."""
    for at, (code, kinds) in enumerate(load_sentences().items()):
        for kind in KINDS:
            said, *meant = kinds[kind][(index + at) % len(kinds[kind])]
            names = _draw_names(frame, np.random.default_rng([frame.seed, at, KINDS.index(kind)]), "".join(meant))
            plan = parse_meaning(meant[0].format(**names)) if meant else None
            yield Case(code, kind, say(said, names, load_languages()[code]), plan)


def say(said: str, names: dict[str, str], speech: Language) -> str:
    """Put the things' names into a sentence's {a}, {b} and {c}, and in their other case into {a.of} ...

    >>> say("put {a} left of {b.of}", {"a": "red block", "b": "blue plate"}, load_languages()["en"])
    'put the red block left of the blue plate'
    """
    for letter, label in names.items():
        said = said.replace(f"{{{letter}}}", speech.phrase(label)).replace(
            f"{{{letter}.of}}", speech.phrase(label, "of")
        )
    return said


def _draw_names(frame: Frame, rng: np.random.Generator, meant: str) -> dict[str, str]:
    """Labels of a (to pick), b (a plate where something is put on it) and c (another one to pick)."""
    picked = [str(label) for label in rng.permutation([label for label in frame.labels if _is_picked(label)])]
    others = [label for label in frame.labels if label not in picked[:2]]
    plates = [label for label in others if _is_plate(label)]
    b = str(rng.choice(plates if not meant or " on " in meant else others))
    return {"a": picked[0], "b": b, "c": picked[1]}


def _is_picked(label: str) -> bool:
    return label.split()[-1] in _PICKED


def _is_plate(label: str) -> bool:
    return label.split()[-1] == "plate"


# ------------------------------------------------------------------------------------------------ judging


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a sentence ended ("reading", "planner", "rules", or "motion" when it would go), with a question or not."""

    where: str
    reasons: tuple[str, ...] = ()
    is_question: bool = False
    plan: Plan | None = None


def judge(case: Case, frame: Frame, plans: Plans, rules: RuleBook) -> dict[str, Any]:
    """Pass a sentence through reading, planner and rules, and compare what would go with what is meant.

    The fault is the planner's where the plan that is meant would have gone; else reading or rules stand in its way.
    """
    began = time.perf_counter()
    ending = follow(Instruction(case.text), frame, plans, rules)
    seconds = time.perf_counter() - began
    goes, meant = ending.where == "motion", case.meant
    would_go = meant is not None and follow(Instruction(case.text), frame, lambda _: meant, rules).where == "motion"
    is_same = ending.plan is not None and meant is not None and does_the_same(ending.plan, meant)
    is_right = is_same if goes else meant is None
    return {
        "language": case.language,
        "kind": case.kind,
        "instruction": case.text,
        "meant": _describe(meant),
        "read": read(case.text).describe(),
        "plan": _describe(ending.plan),
        "ended": ending.where,
        "question": ending.is_question,
        "reasons": list(ending.reasons),
        "right": is_right,
        "wrong_motion": goes and not is_same,
        "fault": "" if is_right else "planner" if would_go else "reading",
        "seconds": round(seconds, 4),
    }


def follow(instruction: Instruction, frame: Frame, plans: Plans, rules: RuleBook) -> Ending:
    """Do what the controller does with a sentence up to the rules."""
    asked = rules.understand(instruction)
    if isinstance(asked, Outcome):
        return Ending("reading", tuple(map(str, asked.reasons)), asked.kind is OutcomeKind.ASKED)
    try:
        plan = plans(PlannerRequest(frame.rgb, asked.instruction))
    except PlannerError as error:
        return Ending("planner", (str(error),))
    answer = rules.answer(asked, plan)
    if answer is not None:
        where = "rules" if answer.reason is TaskReason.FORBIDDEN else "planner"
        return Ending(where, tuple(map(str, answer.reasons)), answer.kind is OutcomeKind.ASKED, plan)
    ruling = rules.judge(asked, plan)
    refused = (*ruling.forbidden, *ruling.contradictions)
    if refused or ruling.to_confirm:
        return Ending("rules", refused or ruling.to_confirm, not refused, plan)
    return Ending("motion", plan=plan)


def _describe(plan: Plan | None) -> str:
    return "" if plan is None else ", ".join(action.describe() for action in plan.actions)


# ------------------------------------------------------------------------------------------------- totals


def summarise_words(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count wrong motions, and compute the share of plain sentences that do not go, with 95 % intervals (Wilson)."""
    wrong, plain = sum(r["wrong_motion"] for r in results), [r for r in results if r["kind"] == "plain"]
    needless = sum(r["ended"] != "motion" for r in plain)
    return {
        "cases": len(results),
        "wrong_motion": wrong,
        "wrong_motion_interval_95": wilson_interval(wrong, len(results)),
        "needless_questions": round(needless / len(plain), 4) if plain else None,
        "needless_questions_interval_95": wilson_interval(needless, len(plain)) if plain else None,
        "kinds": _by(results, "kind"),
        "languages": _by(results, "language"),
        "seconds_median": round(median(r["seconds"] for r in results), 3),
        "seconds_max": round(max(r["seconds"] for r in results), 3),
    }


def _by(results: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """The same for each kind or language, with where the sentences ended."""
    return {
        name: {
            **counted,
            "wrong_motion_share": share([r["wrong_motion"] for r in chosen]),
            "questions": share([r["question"] for r in chosen]),
            "faults": dict(Counter(r["fault"] for r in chosen if r["fault"])),
        }
        for name, chosen, counted in judged_by(results, what)
    }
