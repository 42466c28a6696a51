"""Questions written by hand, asked in scenes drawn by seed → whether each answer agrees with the plant's truth.

The sentences are those of sim/tasks/questions. Nothing is planned for them; before questions about what was done there
is a task, and before those about the gripper, every other time, a pick with the plant's true box.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.answer_truth import SCENE, AnswerTruth, Asked, QuestionFile, lifted
from qwen2vl_robot.benchmarks.episodes import DRAW_STRIDE, REHEARSAL_BUDGET_S
from qwen2vl_robot.benchmarks.shares import share
from qwen2vl_robot.benchmarks.truth_planner import pick_plan
from qwen2vl_robot.config import ObjectSpec, load_robot, load_yaml
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.messages import (
    Instruction,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    StepRecord,
    TaskReport,
)
from qwen2vl_robot.order import understand
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.reply import format_reply, parse_reply
from qwen2vl_robot.plant.client import PlantProcess, PlantTruth
from qwen2vl_robot.plant.scenes import load_scene
from qwen2vl_robot.reading import read
from qwen2vl_robot.resources import data_root, resolve
from qwen2vl_robot.validation.pool import RehearsalProcess

_MIN_VISIBLE_PX = 300  # as in the suite of tasks: what shows less is not asked about
_DRAWS = 40  # everything has to be visible, so that it takes more scenes
_BEFORE = ("do not touch the red block", "throw the red block", "wait 1 second")  # refused, asked, achieved
_ORDER, _TALK = "order", "talk"


def load_questions() -> list[Asked]:
    """Load every sentence of every language.

    Raises:
        BadInputError: a file is missing or wrong.
    """
    files = sorted((data_root() / "sim/tasks/questions").glob("*.yaml"))
    rows = [(file.stem, row) for file in files for row in load_yaml(file, QuestionFile).questions]
    return [Asked(language=code, row=row, text=text) for code, row in rows for text in row.says]


def run_answers(scenes: int, seed: int, camera: str, processes: int) -> Iterator[dict[str, Any]]:
    """Ask every sentence once, spread over scenes of the seeds seed, seed + 1, ...

    Args:
        camera: a model of sim/cameras.
        processes: how many scenes are asked about at once.
    """
    asked = load_questions()
    for other in (one for one in asked if one.row.kind in (_ORDER, _TALK)):
        yield _read_other(other)
    asked = [one for one in asked if one.row.kind not in (_ORDER, _TALK)]
    order = np.random.default_rng([seed, 66]).permutation(len(asked))
    jobs = [([asked[i] for i in order[number::scenes]], seed + number, camera) for number in range(scenes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_ask_in_scene, *job) for job in jobs]
        try:
            for scene in as_completed(running):
                yield from scene.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_other(asked: Asked) -> dict[str, Any]:
    """Hold a sentence that is no such question to the reader: an order stays one, anything else moves nothing."""
    asked_for = understand(Instruction(asked.text))
    is_order = not isinstance(asked_for, Outcome)
    is_answered = read(asked.text).question is not None
    return {
        "language": asked.language,
        "kind": asked.row.kind,
        "sentence": asked.text,
        "outcome": "answered" if is_answered else "moves nothing" if isinstance(asked_for, Outcome) else "an order",
        "answer": "",
        "right": not is_answered and is_order == (asked.row.kind == _ORDER),
        "seconds": 0.0,
    }


def _ask_in_scene(chosen: list[Asked], seed: int, camera: str) -> list[dict[str, Any]]:
    """Ask in one scene, one question after the other."""
    profile = load_robot(load_scene(SCENE)[0].robot)
    around, rehearsal = Surroundings.of(profile), RehearsalProcess(profile, budget_s=REHEARSAL_BUDGET_S)
    results = []
    try:
        with _plant(chosen, seed, camera) as plant:
            ports = Ports(plant.link, plant.link, plant.link, _Scripted(plant.truth), rehearsal)
            controller = assemble(around, ports, seed=seed)
            for number, asked in enumerate(chosen):
                before = _prepare(asked, controller, plant.truth, seed + number)
                results.append({"seed": seed, **_ask(asked, controller, AnswerTruth(plant.truth, around), before)})
    finally:
        rehearsal.close()
    return results


def _ask(asked: Asked, controller: Controller, truth: AnswerTruth, before: TaskReport | None) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        outcome = controller.run(Instruction(asked.text)).outcome
        said, kind = " ".join(outcome.reasons), outcome.kind
    except RobotError as error:
        said, kind = str(error), OutcomeKind.ABORTED
    return {
        "language": asked.language,
        "kind": asked.row.kind,
        "sentence": asked.text,
        "outcome": kind.value,
        "answer": said,
        "right": truth.is_right(asked, said, kind, before),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _plant(chosen: list[Asked], seed: int, camera: str) -> PlantProcess:
    """A scene in which about half of what is asked about is there, and everything can be seen.

    Raises:
        RobotError: none was drawn.
    """
    rng = np.random.default_rng([seed, 67])
    labels = {label for asked in chosen for label in (asked.row.about, asked.row.reference) if " " in label}
    always = tuple(
        ObjectSpec(colour=label.split()[0], kind=label.split()[1]) for label in sorted(labels) if rng.uniform() < 0.5
    )
    count = int(rng.integers(max(3, len(always)), max(3, len(always)) + 3))
    for draw in range(_DRAWS):
        try:
            plant = PlantProcess(
                str(resolve(SCENE)), seed + draw * DRAW_STRIDE, always=always, count=count, camera=camera
            )
        except BadInputError:  # no room for all of them
            continue
        boxes, objects = plant.truth.boxes(), plant.truth.objects()
        if all(name in boxes and boxes[name].visible_px >= _MIN_VISIBLE_PX for name in objects):
            return plant
        plant.close()
    raise RobotError(f"seed {seed}: in none of {_DRAWS} scenes is everything visible")


class _Scripted:
    """A planner that picks by the plant's true box, or waits: only for what comes before a question."""

    def __init__(self, truth: PlantTruth) -> None:
        self._truth = truth

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Plan what `_prepare` asked for (see `ports.Planner`)."""
        label = instruction.text.removeprefix("pick up the ")
        boxes = self._truth.boxes()
        if label not in boxes:
            return parse_reply(format_reply([], [{"do": "wait", "seconds": 1}]))
        return pick_plan(label, boxes[label].box)


def _prepare(asked: Asked, controller: Controller, truth: PlantTruth, number: int) -> TaskReport | None:
    """Do what the question is about; the report of the task before it, where there is one."""
    if asked.row.kind in ("did", "why"):
        choices = _BEFORE[:2] if asked.row.kind == "why" else _BEFORE
        return controller.run(Instruction(choices[number % len(choices)]))
    movable = [label for label, body in truth.objects().items() if body.can_be_picked]
    if asked.row.kind == "held" and number % 2 and movable and not lifted(truth):
        return controller.run(Instruction(f"pick up the {movable[0]}"))
    return None


def summarise_answers(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the share of right answers, by kind and by language, and count what was answered that is no question."""
    asked = [r for r in results if r["kind"] not in (_ORDER, _TALK)]
    others = [r for r in results if r["kind"] in (_ORDER, _TALK)]
    groups = {name: sorted({r[name] for r in asked}) for name in ("kind", "language")}
    return {
        "questions": len(asked),
        "right": share([r["right"] for r in asked]) if asked else None,
        **{
            f"right_by_{name}": {value: share([r["right"] for r in asked if r[name] == value]) for value in values}
            for name, values in groups.items()
        },
        "no_questions": len(others),
        "no_questions_right": sum(r["right"] for r in others),
        "no_questions_answered": sum(r["outcome"] == OutcomeKind.ANSWERED.value for r in others),
        "seconds_median": float(np.median([r["seconds"] for r in asked])) if asked else None,
    }
