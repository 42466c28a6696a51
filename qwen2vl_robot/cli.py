"""The command line: qwen2vl-robot demo, run, sim, record, voice, plan, check, eval, bench, calibrate, doctor ...

Exit code 0: done (`demo`: achieved, `check`: accepted). 1: an honest failure or refusal. 2: bad input, with one line.
`--json FILE` writes one JSON document; with `-` it goes to stdout, and nothing else does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.log import LEVELS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Say it, see it, check it, then move: Qwen2-VL proposes, a PyBullet twin rehearses, a gate admits.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure parts of the chain on this machine.")
app.add_typer(bench, name="bench")
_console = Console(stderr=True)
# Typer brings its own click or uses the installed one, by version; both have this root.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

JsonFile = Annotated[str | None, typer.Option("--json", help="Write the answer as JSON to this file; - is stdout.")]

ModelName = Annotated[str | None, typer.Option(help="Checkpoint folder or hub name; the shipped one if left out.")]


class PlannerKind(str, Enum):
    """Who plans in `eval`."""

    CHECKPOINT = "checkpoint"
    TRUTH = "truth"


@app.command(epilog="Example: qwen2vl-robot demo --instruction 'put the red block on the blue plate' --seed 3")
def demo(
    instruction: Annotated[str, typer.Option(help="What to do.")] = "put the red block on the blue plate",
    seed: Annotated[int, typer.Option(min=0, help="Draws poses, light, camera and the rest.")] = 0,
    scene: Annotated[str, typer.Option(help="A scene file; names under sim/ work too.")] = "scenes/default.yaml",
    out: Annotated[Path, typer.Option(help="Folder for report.json, frame.png and film.gif.")] = Path("out/demo"),
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub name; the shipped one if left out.")
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Simulate as fast as possible and open no window.")
    ] = False,
    graph: Annotated[
        str | None, typer.Option(help="dds or ros: robot and controller as two processes on the ROS 2 graph.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Do the real job once in simulation: see, plan, check, move, look again."""
    if graph is not None:
        from qwen2vl_robot.demo_graph import run_graph_demo

        told = run_graph_demo(instruction, seed, scene, out, model, transport=graph, tell=_console.print)
        _write_json(told, json_file)
        raise typer.Exit(0 if told["outcome"] == "achieved" else 1)
    from qwen2vl_robot.demo import run_demo

    report = run_demo(instruction, seed, scene, out, model, headless=headless, tell=_console.print)
    _write_json(report, json_file)
    if not headless:
        typer.launch(str(out / "film.gif"))
    raise typer.Exit(0 if report["outcome"] == "achieved" else 1)


@app.command(epilog="Example: qwen2vl-robot plan photo.png 'pick up the red block' --json -")
def plan(
    image: Annotated[Path, typer.Argument(help="A PNG or JPEG picture.")],
    instruction: Annotated[str, typer.Argument(help="What to do.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub name; the shipped one if left out.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="A picture of another camera, as often as needed; boxes are in IMAGE.")
    ] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(help="A picture of the seconds before, the oldest first, half a second apart; shown as video."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Plan only: show a picture to the model and print its grounded actions."""
    from qwen2vl_robot.messages import Instruction, PlannerRequest
    from qwen2vl_robot.planner.process import SHIPPED_MODEL, PlannerProcess

    wish, rgb = Instruction(instruction), _read_image(image)
    with PlannerProcess(model or SHIPPED_MODEL) as planner:
        others, clip = (tuple(_read_image(path) for path in paths or ()) for paths in (also, before))
        answer = planner.plan_picture(PlannerRequest(rgb, wish, others=others, clip=clip))
    actions = [_action_as_json(a) for a in answer.actions]
    _write_json({"instruction": instruction, "actions": actions, "reply": answer.reply}, json_file)
    if json_file != "-":
        for action in answer.actions:
            typer.echo(action.describe())


@app.command(epilog="Example: qwen2vl-robot check sim/hazards/accepted_reach.yaml --json -")
def check(
    request: Annotated[Path, typer.Argument(help="A REQUEST.yaml, see sim/README.md.")],
    picture: Annotated[Path | None, typer.Option(help="A PNG file for the moment of a refusal.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Rehearse a given motion in a given scene, without camera or planner."""
    from qwen2vl_robot.validation.request import check_request

    answer = check_request(request, picture=picture)
    _write_json(answer, json_file)
    if json_file != "-":
        typer.echo("accepted" if answer["accepted"] else f"refused: {answer['explanation']}")
        for v in answer["violations"]:
            when = "" if v["time_s"] is None else f" at {v['time_s']:.2f} s"
            typer.echo(f"  {v['kind']}: {' with '.join(v['bodies'])}{when}, {v['amount']:.4g} {v['unit']}")
    raise typer.Exit(0 if answer["accepted"] else 1)


@app.command("eval", epilog="Example: qwen2vl-robot eval --episodes 50 --seed 1000 --planner truth --json -")
def evaluate(
    suite: Annotated[
        str,
        typer.Option(
            help="tabletop: whole tasks; references: tasks with the leftmost block, or one of several; "
            "grounding: the planner alone, on pictures; words: sentences that may, or must not, lead to a motion."
        ),
    ] = "tabletop",
    episodes: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next takes the next seed.")] = 1000,
    planner: Annotated[
        PlannerKind, typer.Option(help="The checkpoint, or the plant's true boxes.")
    ] = PlannerKind.CHECKPOINT,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub name; the shipped one if left out.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="all, or a code such as zh: compare its plans with English's on the same frames.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Run seeded episodes in the plant and score them by its truth."""
    suite = suite if language is None else "languages"
    head = {**_provenance(), "suite": suite, "seed": seed, "planner": planner.value}
    if suite in ("tabletop", "references"):
        answer = {**head, **_eval_tasks(suite, planner, model, episodes, seed)}
    elif suite == "grounding":
        answer = {**head, **_eval_grounding(model, episodes, seed)}
    elif suite == "words":
        from qwen2vl_robot.benchmarks.words import run_words, summarise_words

        results = _gather(run_words(model, episodes, seed), "cases", episodes)
        answer = {**head, "totals": summarise_words(results), "episodes": results}
    elif language is not None:
        answer = {**head, **_eval_languages(model, language, episodes, seed)}
    else:
        raise BadInputError(f"--suite {suite}: unknown; there are: tabletop, references, grounding, words")
    _write_json(answer, json_file)
    if json_file != "-":
        printers = {"grounding": _print_grounding, "languages": _print_languages, "words": _print_words}
        printers.get(suite, _print_tasks)(answer)


def _eval_tasks(suite: str, planner: PlannerKind, model: str | None, episodes: int, seed: int) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.tabletop import Suite, run_suite, summarise
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    runner = Suite(planner.value, model or SHIPPED_MODEL, name=suite)
    results: list[dict[str, Any]] = []
    try:
        with _progress() as progress:
            bar = progress.add_task("episodes", total=episodes)
            for result in run_suite(runner, episodes, seed):
                results.append(result)
                successes = sum(r["success"] for r in results)
                progress.update(bar, completed=len(results), description=f"{successes}/{len(results)} succeeded")
    finally:
        runner.close()
    return {"totals": summarise(results), "episodes": results}


def _eval_grounding(model: str | None, pictures: int, seed: int) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.grounding import FAMILIES, run_grounding, summarise_grounding
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    asked = run_grounding(model or SHIPPED_MODEL, pictures, seed)
    results = _gather(asked, "questions", pictures * len(FAMILIES))
    return {"totals": summarise_grounding(results), "episodes": results}


def _eval_languages(model: str | None, language: str, frames: int, seed: int) -> dict[str, Any]:
    from qwen2vl_robot.benchmarks.languages import chosen_languages, run_languages, summarise_languages
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    total = frames * len(chosen_languages(language))
    results = _gather(run_languages(model or SHIPPED_MODEL, language, frames, seed), "plans", total)
    return {"totals": summarise_languages(results), "episodes": results}


@bench.command("hazards", epilog="Example: qwen2vl-robot bench hazards --json out/hazards.json")
def bench_hazards(
    each: Annotated[int, typer.Option(min=1, max=10_000, help="Hazards, and as many safe cases, of each class.")] = 68,
    processes: Annotated[int, typer.Option(min=1, max=64)] = 2,
    partial: Annotated[
        Path, typer.Option(help="Results so far; a run that was cut off goes on from them. Remove it to start anew.")
    ] = Path("out/hazards.partial.jsonl"),
    labels: Annotated[Path | None, typer.Option(help="Write the cases' labels to this CSV file.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Judge hazardous and safe cases of many classes; any hazard that is let through is a failure."""
    from qwen2vl_robot.benchmarks.hazards.suite import check_labels, run_hazards, specs, summarise_hazards, write_labels

    began = time.perf_counter()
    results: list[dict[str, Any]] = []
    with _progress() as progress:
        bar = progress.add_task("cases", total=len(specs(each)))
        for result in run_hazards(each, partial, processes):
            results.append(result)
            wrong = sum(r["accepted"] == r["hazard"] for r in results)
            progress.update(bar, completed=len(results), description=f"{wrong} wrong of {len(results)}")
    totals = summarise_hazards(results)
    if labels is not None:
        write_labels(results, labels)
    answer = {
        **_provenance(),
        "seconds": round(time.perf_counter() - began, 1),
        "totals": totals,
        "labels_differ": check_labels(results),
        "cases": results,
    }
    _write_json(answer, json_file)
    if json_file != "-":
        _print_hazards(totals)
    raise typer.Exit(1 if totals["hazardous_accepted"] else 0)


@bench.command("validation", epilog="Example: qwen2vl-robot bench validation --json out/validation.json")
def bench_validation(
    plot: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("out/validation.svg"),
    json_file: JsonFile = None,
) -> None:
    """Measure sweep and verdicts of a pick-and-place of ten seconds."""
    from qwen2vl_robot.benchmarks.validation import plot_svg, run_validation

    answer: dict[str, Any] = {**_provenance(), "totals": {}, "objects": [], "trials": []}
    for name, figures in run_validation():
        _console.print(name, figures)
        if name == "totals":
            answer["totals"] = figures
        else:
            answer[name].append(figures)
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(plot_svg(answer["objects"], answer["trials"]), encoding="utf-8")
    _write_json(answer, json_file)


@app.command(epilog="Example: qwen2vl-robot datagen --out data/tabletop --count 8192 --seed 100000")
def datagen(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of scenes.")] = 8192,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 100_000,
    scene: Annotated[str, typer.Option(help="The ranges to draw from.")] = "scenes/training.yaml",
    processes: Annotated[int, typer.Option(min=1, max=256)] = os.cpu_count() or 1,
    json_file: JsonFile = None,
) -> None:
    """Render samples for the training; goes on where it stopped."""
    from qwen2vl_robot.training.dataset import generate

    rendered = generate(scene, out, count, seed, processes)
    _console.print(f"{rendered} scenes rendered now; {out} holds the {count} from seed {seed}")
    _write_json({"out": str(out), "seed": seed, "scenes": count, "rendered_now": rendered}, json_file)


@app.command(epilog="Example: qwen2vl-robot train --data data/tabletop --validation data/validation --out runs/out")
def train(
    data: Annotated[Path, typer.Option(help="Samples to train on.")],
    validation: Annotated[Path, typer.Option(help="Samples that are only measured on.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    run: Annotated[Path, typer.Option(help="Folder for the state to resume from.")] = Path("runs/tabletop"),
    start: Annotated[Path | None, typer.Option(help="A checkpoint to begin with, else random weights.")] = None,
    stage: Annotated[
        str, typer.Option(help="all; words: leave vision as it is; sights: vision alone, on pieces around objects.")
    ] = "all",
    threads: Annotated[int | None, typer.Option(min=1, help="Else one a core; one on a busy machine.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="In all, over all resumptions.")] = 3000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_file: JsonFile = None,
) -> None:
    """Train the small checkpoint; resumes from --run when it holds a state."""
    if stage not in ("all", "words", "sights"):
        raise BadInputError(f"--stage {stage}: unknown; there are: all, words, sights")
    _restart_with_fast_malloc()
    from qwen2vl_robot.training.train import TrainingSettings
    from qwen2vl_robot.training.train import train as train_checkpoint

    settings = TrainingSettings(
        data, validation, out, run, steps=steps, seed=seed, start=start, stage=stage, threads=threads
    )
    figures = train_checkpoint(settings)
    for name, value in figures.items():
        _console.print(f"{name} {value:.3f}")
    _write_json({"machine": _machine(), "seed": seed, "steps": steps, "figures": figures}, json_file)


# --------------------------------------------------------------------------------------------- on the graph

GraphName = Annotated[str, typer.Option("--graph", help="auto (rclpy where it is installed), dds or ros.")]
Namespace = Annotated[str, typer.Option(help="Stands before every relative name.")]
Remap = Annotated[list[str] | None, typer.Option("--remap", "-r", help="from:=to, as often as needed.")]
LogLevel = Annotated[str, typer.Option(help="What is printed: debug, info, warn, error or fatal, and what is worse.")]
Ready = Annotated[Path | None, typer.Option(hidden=True, help="Made as soon as the node works.")]


def _check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """The value of an option that has a few."""
    if value not in allowed:
        raise BadInputError(f"{option} {value}: allowed: {', '.join(allowed)}")
    return value


@app.command(epilog="Example: qwen2vl-robot run -p robot:=franka_panda -p use_sim_time:=true -p approval:=auto")
def run(
    parameters: Annotated[list[str] | None, typer.Option("-p", help="name:=value, as often as needed.")] = None,
    params_file: Annotated[list[str] | None, typer.Option(help="A ROS parameter file, see launch/params.yaml.")] = None,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    autostart: Annotated[
        str, typer.Option(help="Over rclpy: configure and activate at once (true or false).")
    ] = "true",
    log_level: LogLevel = "info",
    ready: Ready = None,
) -> None:
    """Run the controller as a ROS 2 node: instructions come by topic, approved motions go to the controllers."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_controller_process

    _check_choice("--autostart", autostart.lower(), ("true", "false"))
    options = NodeOptions(graph, namespace, remap or [], ready, _check_choice("--log-level", log_level, LEVELS))
    run_controller_process(options, params_file or [], parameters or [], autostart=autostart.lower() == "true")


@app.command(epilog="Example: qwen2vl-robot sim --scene scenes/default.yaml --seed 3")
def sim(
    scene: Annotated[str, typer.Option(help="A scene file; names under sim/ work too.")] = "scenes/default.yaml",
    seed: Annotated[int, typer.Option(min=0, help="Draws poses, light, camera and the plant's faults.")] = 0,
    camera_hz: Annotated[float, typer.Option(min=0.1, max=60.0, help="Pictures a second of simulated time.")] = 2.0,
    speed: Annotated[float, typer.Option(min=0.01, max=10.0, help="Simulated seconds a second, at most.")] = 1.0,
    worker_python: Annotated[str, typer.Option(help="Interpreter with pybullet; this one if left out.")] = "",
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    log_level: LogLevel = "info",
    ready: Ready = None,
) -> None:
    """Run a simulated robot cell as a ROS 2 node: camera, joint states, tf, trajectory and gripper controllers."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_plant_process

    options = NodeOptions(graph, namespace, remap or [], ready, _check_choice("--log-level", log_level, LEVELS))
    run_plant_process(options, scene, seed, camera_hz=camera_hz, speed=speed, worker_python=worker_python)


@app.command(epilog="Example: qwen2vl-robot record --out out/recording --pictures")
def record(
    out: Annotated[Path | None, typer.Option(help="The bag's folder; recording_DATE_TIME if left out.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Prefix of a camera's topics, as often as needed.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Record images and depth too.")] = False,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    ready: Ready = None,
) -> None:
    """Record the controller's topics as MCAP, until Ctrl-C."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_recorder_process

    counts = run_recorder_process(
        NodeOptions(graph, namespace, remap or [], ready), out, camera or [], with_pictures=pictures
    )
    _console.print(", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing came")


@app.command(epilog="Example: qwen2vl-robot voice --source microphone")
def voice(
    source: Annotated[
        str, typer.Option(help="microphone (by arecord), a WAV file, or - (raw 16 bit mono, 16 kHz).")
    ] = "microphone",
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Listen, and publish what is said as spoken instructions, which a person must approve before anything moves."""
    from qwen2vl_robot.nodes.launching import NodeOptions, run_voice_process

    run_voice_process(NodeOptions(graph, namespace, remap or []), source, _console.print)


@app.command(epilog="Example: qwen2vl-robot calibrate views/ --out calibration.yaml")
def calibrate(
    views: Annotated[Path, typer.Argument(help="Folder with views.yaml and its pictures, see README.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("calibration.yaml"),
    json_file: JsonFile = None,
) -> None:
    """Find where the camera is from pictures of a ChArUco board on the flange or on the table."""
    from qwen2vl_robot.nodes.camera_calibration import calibrate_folder, write_calibration

    found = calibrate_folder(views)
    write_calibration(out, found)
    _write_json(found.model_dump(mode="json"), json_file)
    if json_file != "-":
        typer.echo(
            f"{out}: residual {found.residual_m * 1000:.1f} mm, {found.residual_deg:.2f} deg, {found.views} views"
        )


@bench.command("images", epilog="Example: qwen2vl-robot bench images --seconds 60 --json -")
def bench_images(
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long each size is sent.")] = 60.0,
    hz: Annotated[float, typer.Option(min=1.0, max=200.0, help="Frames a second.")] = 30.0,
    json_file: JsonFile = None,
) -> None:
    """Send camera frames from another process over loopback: how many arrive, how late, at what price."""
    from qwen2vl_robot.benchmarks.images import run_images

    answer = {**_provenance(), **run_images(seconds, hz)}
    _write_json(answer, json_file)
    if json_file != "-":
        for name, totals in answer["sizes"].items():
            typer.echo(f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in totals.items()))


@bench.command("stop", epilog="Example: qwen2vl-robot bench stop --trials 1000 --json -")
def bench_stop(
    trials: Annotated[int, typer.Option(min=1, max=100_000)] = 1000,
    load: Annotated[str, typer.Option(help="idle, plan or rehearse: what the controller does meanwhile.")] = "idle",
    graph: Annotated[str, typer.Option(help="dds or ros: the controller's transport.")] = "dds",
    json_file: JsonFile = None,
) -> None:
    """Time from a stop on the wire to the halt command on the wire."""
    from qwen2vl_robot.benchmarks.stop import run_stop

    answer = {
        **_provenance(),
        **run_stop(trials, load, graph),
    }
    _write_json(answer, json_file)
    if json_file != "-":
        typer.echo(", ".join(f"{k} {v:g}" for k, v in answer["totals"].items()))


@bench.command("soak", epilog="Example: qwen2vl-robot bench soak --seconds 600 --json -")
def bench_soak(
    seconds: Annotated[float, typer.Option(min=61.0, max=86_400.0, help="How long commands are given.")] = 600.0,
    graph: Annotated[str, typer.Option(help="dds or ros: how robot and controller talk.")] = "dds",
    json_file: JsonFile = None,
) -> None:
    """Give commands in a loop over the graph: how memory grows after the first minute, and what was done."""
    from qwen2vl_robot.benchmarks.soak import run_soak

    answer = {**_provenance(), **run_soak(seconds, graph, _console.print)}
    _write_json(answer, json_file)
    if json_file != "-":
        typer.echo(", ".join(f"{k} {v:g}" for k, v in {**answer["totals"], **answer["processes"]}.items()))


@app.command(epilog="Example: qwen2vl-robot doctor --model Qwen/Qwen2-VL-7B-Instruct")
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Say whether this model fits into memory, before it is loaded.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Load the model and measure in which coordinates it answers.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Say what is installed, what is missing and the command that puts it right."""
    from qwen2vl_robot.doctor import diagnose, examine_model, is_ready

    if model is not None or calibrate:
        is_usable = examine_model(model, partial(typer.echo, err=json_file == "-"), calibrates=calibrate)
        _write_json({"model": model, "is_usable": is_usable}, json_file)
        raise typer.Exit(0 if is_usable else 1)
    findings = diagnose()
    _write_json({"is_ready": is_ready(findings), "findings": [asdict(f) for f in findings]}, json_file)
    table = Table("", "what", "found", "to put it right")
    for f in findings:
        mark = "[green]ok" if f.ok else ("[red]missing" if f.is_required else "[yellow]optional")
        table.add_row(mark, f.name, f.detail, f.command)
    if json_file != "-":
        Console().print(table)
    raise typer.Exit(0 if is_ready(findings) else 1)


@bench.command("planner", epilog="Example: qwen2vl-robot bench planner --json out/bench-planner.json")
def bench_planner(
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="How many frames, each planned twice.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first frame; the next takes the next seed.")] = 9000,
    model: ModelName = None,
    json_file: JsonFile = None,
) -> None:
    """Time plans beside transformers' generate with the same grammar, on the same frames."""
    from qwen2vl_robot.benchmarks.planner import run_planner_bench, summarise_planner
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    results = _gather(run_planner_bench(model or SHIPPED_MODEL, frames, seed), "frames", frames)
    totals = summarise_planner(results)
    _write_json({**_provenance(), "totals": totals, "frames": results}, json_file)
    if json_file != "-":
        for name, value in totals.items():
            typer.echo(f"{name} {value}")


@bench.command("clip", epilog="Example: qwen2vl-robot bench clip --frames 100 --json out/bench-clip.json")
def bench_clip(
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="How many scenes, each asked about twice.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 22000000,
    model: ModelName = None,
    json_file: JsonFile = None,
) -> None:
    """Measure whether the seconds before, as video, help a model to find things, and what they cost."""
    from qwen2vl_robot.benchmarks.clips import run_clip_bench, summarise_clips
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    results = _gather(run_clip_bench(model or SHIPPED_MODEL, frames, seed), "scenes", frames)
    totals = summarise_clips(results)
    _write_json({**_provenance(), "totals": totals, "scenes": results}, json_file)
    if json_file != "-":
        table = Table(f"seed {seed}", "right", "IoU >= 0.5", "seconds, median")
        for name in ("still", "clip"):
            cells = (_share_text(totals[name][key]) for key in ("verbs_right", "iou_50"))
            table.add_row(name, *cells, f"{totals[name]['seconds_median']:.2f}")
        Console().print(table)


# --------------------------------------------------------------------------------------------- helpers


def _read_image(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a picture as (h, w, 3) uint8.

    Raises:
        BadInputError: missing, empty or not a picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise BadInputError(f"{path}: not a picture; a PNG or JPEG is needed") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _action_as_json(action: Any) -> dict[str, Any]:
    reference = action.object and {
        "label": action.object.label,
        "boxes": [[b.x0, b.y0, b.x1, b.y1] for b in action.object.boxes],
    }
    fields = {
        "do": action.verb.value,
        "object": reference,
        "relation": action.relation and action.relation.value,
        "direction": action.direction and action.direction.value,
        "seconds": action.seconds,
        "text": action.text,
    }
    return {k: v for k, v in fields.items() if v is not None}


def _write_json(answer: dict[str, Any], json_file: str | None) -> None:
    if json_file is None:
        return
    text = json.dumps(answer, indent=2, ensure_ascii=False) + "\n"
    if json_file == "-":
        sys.stdout.write(text)
        return
    path = Path(json_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"--json {path}: {error.strerror}") from error


def _print_tasks(answer: dict[str, Any]) -> None:
    totals = answer["totals"]
    table = Table(f"{answer['suite']}, planner {answer['planner']}, seed {answer['seed']}", "")
    for name, task in totals["tasks"].items():
        table.add_row(name, f"{task['successes']}/{task['episodes']}")
    low, high = totals["success_interval_95"]
    table.add_row("success", f"{totals['success_ratio']:.1%} ({low:.1%} to {high:.1%})")
    if totals["questions_due"]:
        low, high = totals["asked_interval_95"]
        table.add_row("asked when due", f"{totals['asked_ratio']:.1%} ({low:.1%} to {high:.1%})")
    table.add_row("false success", str(totals["false_success"]))
    for stage, seconds in totals["seconds_median"].items():
        table.add_row(f"{stage}, median", f"{seconds:.2f} s")
    table.add_row("peak memory", f"{totals['peak_memory_mb']} MB")
    Console().print(table)


def _print_hazards(totals: dict[str, Any]) -> None:
    table = Table("class", "hazards", "accepted", "safe", "refused")
    for name, c in {**totals["classes"], "all": totals}.items():
        low, high = c["safe_refused_interval_95"] or (0.0, 0.0)
        most = (c["hazardous_accepted_interval_95"] or (0.0, 0.0))[1]
        table.add_row(
            name,
            str(c["hazardous"]),
            f"{c['hazardous_accepted']} (below {most:.1%})",
            str(c["safe"]),
            f"{c['safe_refused']} ({low:.1%} to {high:.1%})",
        )
    Console().print(table)


def _print_grounding(answer: dict[str, Any]) -> None:
    table = Table(
        f"grounding, seed {answer['seed']}", "questions", "verbs right", "asked", "IoU >= 0.5", "centre inside"
    )
    for family, entry in answer["totals"].items():
        shares = [entry.get(name) for name in ("verbs_right", "asked", "iou_50", "centre_inside")]
        table.add_row(family, str(entry["questions"]), *map(_share_text, shares))
    Console().print(table)


def _share_text(share: dict[str, Any] | None) -> str:
    return "" if share is None else f"{share['ratio']:.1%} ({share['interval_95'][0]:.0%}..)"


def _print_languages(answer: dict[str, Any]) -> None:
    table = Table(f"plans as in English, seed {answer['seed']}", "frames", "same", "phrased as trained", "otherwise")
    for code, entry in answer["totals"].items():
        shares = [entry.get(name) for name in ("same", "same_seen", "same_held_out")]
        table.add_row(code, str(entry["frames"]), *map(_share_text, shares))
    Console().print(table)


def _print_words(answer: dict[str, Any]) -> None:
    table = Table(f"sentences, seed {answer['seed']}", "cases", "wrong motions", "right", "questions")
    for name, entry in (*answer["totals"]["kinds"].items(), *answer["totals"]["languages"].items()):
        shares = [_share_text(entry[key]) for key in ("right", "questions")]
        table.add_row(name, str(entry["cases"]), str(entry["wrong_motion"]), *shares)
    Console().print(table)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console,
    )


def _gather(results: Iterable[dict[str, Any]], what: str, total: int) -> list[dict[str, Any]]:
    """All results, with a progress bar while they come in."""
    gathered = []
    with _progress() as progress:
        bar = progress.add_task(what, total=total)
        for result in results:
            gathered.append(result)
            progress.update(bar, completed=len(gathered))
    return gathered


def _provenance() -> dict[str, Any]:
    """What made an answer: the command as it was typed, and the machine."""
    return {"command": " ".join(["qwen2vl-robot", *sys.argv[1:]]), "machine": _machine()}


def _machine() -> str:
    """Processor and cores, for whoever compares figures."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "unknown processor"
    return f"{model}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"


def _restart_with_fast_malloc() -> None:
    """Start again with glibc told to keep its pages: page faults otherwise cost most of a training step.

    The C library reads these settings when a process starts, so setting them later has no effect.
    """
    settings = {
        "MALLOC_MMAP_THRESHOLD_": "8589934592",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "1073741824",
        "OMP_WAIT_POLICY": "PASSIVE",  # on a busy machine waiting threads would burn what the others need
    }
    if not settings.keys() <= os.environ.keys():
        os.execve(
            sys.executable, [sys.executable, "-m", "qwen2vl_robot.cli", *sys.argv[1:]], {**os.environ, **settings}
        )


def main() -> None:
    """Run the command line; every expected failure is one line on stderr."""
    # ROS 2 launches with `--ros-args -r from:=to -p name:=value --params-file FILE`, and these options bear its names.
    arguments = [a for a in sys.argv[1:] if a not in ("--ros-args", "--")]
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Abort:
        code = 130
    except _UsageError as error:
        print(f"qwen2vl-robot: {' '.join(error.format_message().split())}", file=sys.stderr)
        code = 2
    except BadInputError as error:
        print(f"qwen2vl-robot: {error}", file=sys.stderr)
        code = 2
    except RobotError as error:
        print(f"qwen2vl-robot: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
