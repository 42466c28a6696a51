"""What people say about small scenes, in nine languages → whether what would be done is what was meant; nothing moves.

Each sentence passes reading, the programme of what is measured, and the rules, as in the controller. Where that asks
a planner, the sentence's own nouns are pointed at by what was measured: a model that sees as well as the depth does.
Of motion only the grasps take part, and the twin does not: a wrong motion here is one that they could still refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import RootModel

from qwen2vl_robot.answering import Past
from qwen2vl_robot.benchmarks.phrase_meanings import is_meant
from qwen2vl_robot.benchmarks.shares import judged_by, share, wilson_interval
from qwen2vl_robot.benchmarks.tables import ROBOT, Effects, Table, UnclearError, lay
from qwen2vl_robot.config import load_robot, load_yaml
from qwen2vl_robot.errors import MotionError, PlannerError
from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.messages import Instruction, Outcome, OutcomeKind, Plan, PlannerRequest
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.detect import Found, plan_by_detection
from qwen2vl_robot.planner.detections import Detections
from qwen2vl_robot.programme import Programme, programme
from qwen2vl_robot.recalling import recall
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.rules import RuleBook, load_rules

_SETS = {"first": "phrases", "second": "phrases_second"}
_NOTHING, _ANSWER, _REFUSE, _MAYBE = "nothing", "answer", "refuse ", "maybe "
_PICTURE = np.zeros((48, 64, 3), np.uint8)  # nobody looks at it


class PhraseFile(RootModel[dict[str, list[tuple[str, str | list[str], str]]]]):
    """A file of sim/tasks/phrases or phrases_second: kind → [scene, sentence or several, what the last one means]."""


class SceneFile(RootModel[dict[str, dict[str, tuple[float, float]]]]):
    """sim/tasks/phrase_scenes.yaml: scene → thing → place on the table, base frame, metres."""


@dataclass(frozen=True, slots=True)
class Case:
    """Sentences about a scene, of which the last is judged.

    Attributes:
        set_: "first" or "second": that one was written later, by somebody who knew no word of the reader.
    """

    language: str
    kind: str
    scene: str
    said: tuple[str, ...]
    meant: str
    set_: str = "first"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sentence ends: with effects, or with an outcome's kind and texts."""

    kind: str
    texts: tuple[str, ...] = ()
    effects: Effects = field(default_factory=Effects)


def load_phrases() -> list[Case]:
    """Every sentence of every language.

    Raises:
        BadInputError: a file is missing or wrong.
    """
    cases = []
    for set_, folder in _SETS.items():
        for code in load_languages():
            for kind, told in load_yaml(resolve(f"tasks/{folder}/{code}.yaml"), PhraseFile).root.items():
                cases += [Case(code, kind, s, (x,) if isinstance(x, str) else tuple(x), m, set_) for s, x, m in told]
    return cases


def run_phrases(cases: int) -> Iterator[dict[str, Any]]:
    """Judge the first so many sentences, one after the other."""
    scenes = load_yaml(resolve("tasks/phrase_scenes.yaml"), SceneFile).root
    around, rules, tables = surroundings(), load_rules(), dict[str, Table]()
    for case in load_phrases()[:cases]:
        if case.scene not in tables:
            tables[case.scene] = lay(scenes[case.scene], around)
        yield judge(case, tables[case.scene], rules)


def surroundings() -> Surroundings:
    """What perception knows before it looks at these scenes."""
    return Surroundings.of(load_robot(ROBOT))


def judge(case: Case, table: Table, rules: RuleBook) -> dict[str, Any]:
    """Pass the sentences of a case through reading, programme and rules, and compare what the last would do."""
    here = table.copy()
    for said in case.said[:-1]:
        if follow(said, here, rules).kind != "motion":
            return _told(case, Ending("before"), is_right=False, is_wrong=False)
    before = here.copy()
    ending = follow(case.said[-1], here, rules)
    meant = case.meant.removeprefix(_MAYBE)
    goes = ending.kind == "motion" and not ending.effects.is_nothing
    options = [one.strip() for one in meant.split(" | ")]
    moving = [one for one in options if one not in (_NOTHING, _ANSWER) and not one.startswith(_REFUSE)]
    if goes:
        is_right = bool(moving) and is_meant(" | ".join(moving), before, here, ending.effects)
        return _told(case, ending, is_right=is_right, is_wrong=not is_right)
    is_right = meant == _NOTHING or case.meant.startswith(_MAYBE) or (meant == _ANSWER and ending.kind == "answered")
    for deed in (one.removeprefix(_REFUSE) for one in options if one.startswith(_REFUSE)):
        is_right = any(deed in text for text in ending.texts)
    return _told(case, ending, is_right=is_right, is_wrong=False)


def _told(case: Case, ending: Ending, *, is_right: bool, is_wrong: bool) -> dict[str, Any]:
    effects = ending.effects
    return {
        "set": case.set_,
        "language": case.language,
        "kind": case.kind,
        "scene": case.scene,
        "instruction": list(case.said),
        "meant": case.meant,
        "ended": ending.kind,
        "texts": list(ending.texts),
        "placed": {name: list(how) for name, how in effects.placed.items()},
        "pushed": effects.pushed,
        "held": effects.held,
        "right": is_right,
        "wrong_motion": is_wrong,
    }


def follow(text: str, table: Table, rules: RuleBook) -> Ending:
    """Do with a sentence what the controller does up to its rules, and what would follow, on the table."""
    instruction = Instruction(text)
    if rules.read(instruction).question is not None:
        return Ending("answered")
    held = " ".join(table.held.split()[:2])
    meant = recall(instruction, table.last, held)
    asked = meant if isinstance(meant, Outcome) else rules.understand(meant)
    if isinstance(asked, Outcome):
        return _ended(asked)
    view = table.heard(text)
    found = programme(asked.goal, asked.todo, view.seen(), view.around, view.moved)
    if isinstance(found, Outcome):
        return _ended(found)
    try:
        plan = found.plan if isinstance(found, Programme) else _point(asked.instruction, view)
    except PlannerError as error:
        return Ending("asked", (str(error),))
    answer = rules.answer(asked, plan)
    if answer is not None:
        return _ended(answer)
    ruling = rules.judge(asked, plan, held=held)
    if ruling.ending is not None:
        return _ended(ruling.ending)
    if ruling.to_confirm:
        return Ending("asked", ruling.to_confirm)
    after = view.copy()
    try:
        effects = after.do(plan)
    except UnclearError as error:
        return Ending("asked", (str(error),))
    except MotionError as error:
        return Ending("refused", (str(error),))
    moved = tuple(one for one in after.moved if one not in table.moved)
    table.items, table.moved, table.held = after.items, after.moved, after.held
    table.last = Past(asked.instruction.text, Outcome(OutcomeKind.ACHIEVED), moved=moved)
    return Ending("motion", effects=effects)


def _ended(outcome: Outcome) -> Ending:
    kind = "asked" if outcome.kind is OutcomeKind.ASKED else outcome.kind.value
    return Ending(kind, tuple(cause.text for cause in outcome.causes))


def _point(instruction: Instruction, table: Table) -> Plan:
    def find(_: PlannerRequest, nouns: tuple[str, ...]) -> Found:
        return Found(Detections({noun: table.boxes_of(noun) for noun in nouns}), "")

    return plan_by_detection(PlannerRequest(_PICTURE, instruction), find)


# ------------------------------------------------------------------------------------------------- totals


def summarise_phrases(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what is as meant and what would move wrongly, with 95 % intervals (Wilson), by kind and language."""
    wrong, right = sum(r["wrong_motion"] for r in results), sum(r["right"] for r in results)
    return {
        "cases": len(results),
        "right": round(right / len(results), 4),
        "right_interval_95": wilson_interval(right, len(results)),
        "wrong_motion": wrong,
        "wrong_motion_interval_95": wilson_interval(wrong, len(results)),
        "sets": _by(results, "set"),
        "kinds": _by(results, "kind"),
        "languages": _by(results, "language"),
    }


def _by(results: list[dict[str, Any]], what: str) -> dict[str, Any]:
    return {
        name: {**counted, "questions": share([r["ended"] == "asked" for r in chosen])}
        for name, chosen, counted in judged_by(results, what)
    }
