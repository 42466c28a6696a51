"""The command eval: seeded episodes in the plant → scores by the plant's truth, printed and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, ModelName, PartialFile, RayName, app, check_choice
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json, show
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.jobs import Job
from qwen2vl_robot.fleet.running import place, run_job


class PlannerKind(str, Enum):
    """Who plans in `eval`."""

    CHECKPOINT = "checkpoint"
    TRUTH = "truth"


@app.command("eval", epilog="Example: qwen2vl-robot eval --episodes 50 --seed 1000 --planner truth --json -")
def evaluate(
    suite: Annotated[
        str,
        typer.Option(
            help="tabletop: whole tasks; references: tasks that say the leftmost block, or name one of several; "
            "things: shapes that nobody here made, picked up by their true boxes; "
            "long: several things, planned from what is measured; "
            "grounding: the planner alone, on pictures; words: sentences that may, or must not, lead to a motion; "
            "phrases: what people say about small scenes, read and measured, without a model."
        ),
    ] = "tabletop",
    episodes: Annotated[int, typer.Option(min=1, max=100_000, help="Number of episodes, or of pictures.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next takes the next seed.")] = 1000,
    planner: Annotated[
        PlannerKind, typer.Option(help="checkpoint: the model; truth: the plant's true boxes.")
    ] = PlannerKind.CHECKPOINT,
    model: ModelName = None,
    language: Annotated[
        str | None,
        typer.Option(help="all, or a code such as zh: compare its plans with those for English."),
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Something goes wrong in the plant: a slip, a bump, an echoing driver ...")
    ] = False,
    camera: CameraName = None,
    scene: Annotated[
        str | None, typer.Option(help="A scene file instead of the suite's own, such as scenes/xarm6.yaml.")
    ] = None,
    ray: RayName = None,
    partial: PartialFile = None,
    json_file: JsonFile = None,
) -> None:
    """Run seeded episodes in the plant and score them by its truth.

    An interrupted run keeps its results so far in the JSON file, marked `"is_complete": false`.
    """
    suite = suite if language is None else "languages"
    given = {"--camera": camera, "--scene": scene, "--faults": faults or None, "--ray": ray, "--partial": partial}
    _check_options(suite, planner, {**given, "--model": model})
    head = {**provenance(), "suite": suite, "seed": seed, "planner": planner.value}
    if language is not None:
        found = _eval_languages(head, model, language, episodes, json_file)
    elif suite == "grounding":
        found = _eval_grounding(head, model, episodes, json_file)
    elif suite == "words":
        found = _eval_words(head, model, episodes, json_file)
    elif suite == "phrases":
        found = _eval_phrases(head, episodes, json_file)
    else:
        asked = {"faults": faults, "camera": camera, "scene": scene}
        found = _eval_in_units(head, asked, model, episodes, _Where(ray, partial, json_file))
    if json_file != STDOUT:
        _PRINTERS[suite](found)
    save_json(found, json_file)


def _check_options(suite: str, planner: PlannerKind, given: dict[str, object]) -> None:
    """Refuse an option that a suite would pass over.

    Raises:
        BadInputError: the option, or the suite, is none of those that are named.
    """
    check_choice("--suite", suite, _PRINTERS)
    if suite == "things" and (planner is not PlannerKind.TRUTH or given["--model"] is not None):
        raise BadInputError("--suite things: only with --planner truth; no model here has seen such things")
    if suite in ("long", "phrases") and given["--model"] is not None:
        raise BadInputError(f"--suite {suite}: no model is asked in it; leave out --model")
    for option, suites in (
        ("--camera", _IN_UNITS),
        ("--scene", _TASKS),
        ("--faults", _TASKS),
        ("--ray", _IN_UNITS),
        ("--partial", _IN_UNITS),
    ):
        if given[option] is not None and suite not in suites:
            raise BadInputError(f"{option}: only with --suite {' or '.join(suites)}")


@dataclass(frozen=True, slots=True)
class _Where:
    """Where episodes are run, and where their results go."""

    ray: str | None
    partial: Path | None
    json_file: str | None


def _eval_in_units(
    head: dict[str, Any], asked: dict[str, Any], model: str | None, episodes: int, where: _Where
) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.episodes import CAMERA
    from qwen2vl_robot.benchmarks.long import long_job, summarise_long
    from qwen2vl_robot.benchmarks.tabletop import suite_job, summarise
    from qwen2vl_robot.benchmarks.things import summarise_things, things_job
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    suite, asked = head["suite"], {**asked, "camera": asked["camera"] or CAMERA}
    if suite == "things":
        job = things_job(asked["camera"], episodes, head["seed"])
        return _in_units(job, "things", {**head, "camera": asked["camera"]}, summarise_things, where)
    if suite == "long":
        job = long_job(asked["camera"], episodes, head["seed"])
        return _in_units(job, "tasks", {**head, "planner": None, "camera": asked["camera"]}, summarise_long, where)
    job = suite_job(head["planner"], model or SHIPPED_MODEL, {"name": suite, **asked}, episodes, head["seed"])
    return _in_units(job, "episodes", {**head, **asked}, summarise, where)


def _in_units(
    job: Job, what: str, head: dict[str, Any], summarise: Callable[[Results], dict[str, Any]], where: _Where
) -> dict[str, Any]:
    """Run a job's episodes; the answer lists them in the order of their seeds, however they came."""

    def answer(results: Results) -> dict[str, Any]:
        in_order = sorted(results, key=lambda r: int(r["seed"]))
        return {**head, "totals": summarise(in_order), "episodes": in_order}

    return gather(
        run_job(job, place(where.ray, 1), where.partial),
        what,
        len(job.units),
        answer=answer,
        json_file=where.json_file,
        describe=lambda results: f"{sum(r['success'] for r in results)}/{len(results)} succeeded",
    )


def _eval_grounding(head: dict[str, Any], model: str | None, pictures: int, json_file: str | None) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.grounding import FAMILIES, run_grounding, summarise_grounding
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    return gather(
        run_grounding(model or SHIPPED_MODEL, pictures, head["seed"]),
        "questions",
        pictures * len(FAMILIES),
        answer=lambda results: {**head, "totals": summarise_grounding(results), "episodes": results},
        json_file=json_file,
    )


def _eval_words(head: dict[str, Any], model: str | None, cases: int, json_file: str | None) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.words import run_words, summarise_words
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    return gather(
        run_words(model or SHIPPED_MODEL, cases, head["seed"]),
        "cases",
        cases,
        answer=lambda results: {**head, "totals": summarise_words(results), "episodes": results},
        json_file=json_file,
    )


def _eval_phrases(head: dict[str, Any], cases: int, json_file: str | None) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.phrases import load_phrases, run_phrases, summarise_phrases

    return gather(
        run_phrases(cases),
        "cases",
        min(cases, len(load_phrases())),
        answer=lambda results: {**head, "totals": summarise_phrases(results), "episodes": results},
        json_file=json_file,
    )


def _eval_languages(
    head: dict[str, Any], model: str | None, language: str, frames: int, json_file: str | None
) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.languages import chosen_languages, run_languages, summarise_languages
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    return gather(
        run_languages(model or SHIPPED_MODEL, language, frames, head["seed"]),
        "plans",
        frames * len(chosen_languages(language)),
        answer=lambda results: {**head, "totals": summarise_languages(results), "episodes": results},
        json_file=json_file,
    )


def _print_words(answer: dict[str, Any]) -> None:
    table = Table(f"sentences, seed {answer['seed']}", "cases", "wrong motions", "right", "questions")
    for name, entry in (*answer["totals"]["kinds"].items(), *answer["totals"]["languages"].items()):
        shares = [share_text(entry[key]) for key in ("right", "questions")]
        table.add_row(name, str(entry["cases"]), str(entry["wrong_motion"]), *shares)
    show(table)


def _print_tasks(answer: dict[str, Any]) -> None:
    totals = answer["totals"]
    table = Table(f"{answer['suite']}, planner {answer['planner']}, seed {answer['seed']}", "")
    for name, task in totals["tasks"].items():
        table.add_row(name, f"{task['successes']}/{task['episodes']}")
    table.add_row("success", _ratio_text(totals, "success"))
    if totals["questions_due"]:
        table.add_row("asked when due", _ratio_text(totals, "asked"))
    table.add_row("false success", str(totals["false_success"]))
    table.add_row("not verified", str(totals["not_verified"]))
    for stage, seconds in totals["seconds_median"].items():
        table.add_row(f"{stage}, median", f"{seconds:.2f} s")
    table.add_row("peak memory", f"{totals['peak_memory_mb']} MB")
    show(table)


def _print_things(answer: dict[str, Any]) -> None:
    totals = answer["totals"]
    table = Table(f"things, camera {answer['camera']}, seed {answer['seed']}", "")
    table.add_row("lifted", _ratio_text(totals, "success"))
    if totals["attempted"]:
        table.add_row(f"of the {totals['attempted']} tried", _ratio_text(totals, "of_attempted"))
    for outcome, count in totals["outcomes"].items():
        table.add_row(outcome.replace("_", " "), str(count))
    table.add_row("false success", str(totals["false_success"]))
    show(table)


def _print_long(answer: dict[str, Any]) -> None:
    totals = answer["totals"]
    table = Table(f"long, camera {answer['camera']}, seed {answer['seed']}", "")
    for kind, entry in totals["tasks"].items():
        table.add_row(kind, share_text(entry))
    table.add_row("success", _ratio_text(totals, "success"))
    if totals["steps"]:
        table.add_row(f"of {totals['steps']} steps", _ratio_text(totals, "step"))
    table.add_row("false success", str(totals["false_success"]))
    table.add_row("a task, median", f"{totals['seconds_median']:.1f} s")
    show(table)


def _print_grounding(answer: dict[str, Any]) -> None:
    table = Table(
        f"grounding, seed {answer['seed']}", "questions", "verbs right", "asked", "IoU >= 0.5", "centre inside"
    )
    for family, entry in answer["totals"].items():
        shares = [entry.get(name) for name in ("verbs_right", "asked", "iou_50", "centre_inside")]
        table.add_row(family, str(entry["questions"]), *map(share_text, shares))
    show(table)


def _ratio_text(totals: dict[str, Any], name: str) -> str:
    low, high = totals[f"{name}_interval_95"]
    return f"{totals[f'{name}_ratio']:.1%} ({low:.1%} to {high:.1%})"


def share_text(share: dict[str, Any] | None) -> str:
    """A share of right answers with the lower end of its 95 % interval; nothing where it was not measured."""
    return "" if share is None else f"{share['ratio']:.1%} ({share['interval_95'][0]:.0%}..)"


def _print_languages(answer: dict[str, Any]) -> None:
    table = Table(f"plans as in English, seed {answer['seed']}", "frames", "same", "phrased as trained", "otherwise")
    for code, entry in answer["totals"].items():
        shares = [entry.get(name) for name in ("same", "same_seen", "same_held_out")]
        table.add_row(code, str(entry["frames"]), *map(share_text, shares))
    show(table)


_TASKS = ("tabletop", "references")
_IN_UNITS = (*_TASKS, "things", "long")
_PRINTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    **dict.fromkeys(_TASKS, _print_tasks),
    "things": _print_things,
    "long": _print_long,
    "grounding": _print_grounding,
    "words": _print_words,
    "phrases": _print_words,
    "languages": _print_languages,
}
