"""The commands bench ...: parts of the chain, measured on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, ModelName, PartialFile, RayName, app, bench
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json, say, show
from qwen2vl_robot.cli.scoring import share_text
from qwen2vl_robot.fleet.running import place, run_job
from qwen2vl_robot.results import draw_all

app.add_typer(bench, name="bench")


@bench.command("hazards", epilog="Example: qwen2vl-robot bench hazards --json out/hazards.json")
def bench_hazards(
    each: Annotated[int, typer.Option(min=1, max=10_000, help="Hazards, and as many safe cases, of each class.")] = 68,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many cases are judged at once.")] = 2,
    partial: Annotated[
        Path, typer.Option(help="Results so far; a run that was cut off goes on from them. Remove it to start anew.")
    ] = Path("out/hazards.partial.jsonl"),
    labels: Annotated[Path | None, typer.Option(help="Write the cases' labels to this CSV file.")] = None,
    ray: RayName = None,
    json_file: JsonFile = None,
) -> None:
    """Judge hazardous and safe cases of many classes. Exit code 1: a hazard was accepted."""
    from qwen2vl_robot.benchmarks.hazards.suite import check_labels, hazards_job, summarise_hazards, write_labels

    began, job = time.perf_counter(), hazards_job(each)
    rank = {unit.key: number for number, unit in enumerate(job.units)}

    def answer(found: Results) -> dict[str, Any]:
        results = sorted(found, key=lambda r: rank[r["key"]])
        return {
            **provenance(),
            "seconds": round(time.perf_counter() - began, 1),
            "totals": summarise_hazards(results),
            "labels_differ": check_labels(results),
            "cases": results,
        }

    found = gather(
        run_job(job, place(ray, processes), partial),
        "cases",
        len(job.units),
        answer=answer,
        json_file=json_file,
        describe=lambda results: f"{sum(r['accepted'] == r['hazard'] for r in results)} wrong of {len(results)}",
    )
    if json_file != STDOUT:
        _print_hazards(found["totals"])
    save_json(found, json_file)
    if labels is not None:
        write_labels(found["cases"], labels)
    raise typer.Exit(1 if found["totals"]["hazardous_accepted"] else 0)


@bench.command("judge", epilog="Example: qwen2vl-robot bench judge --json out/judge.json")
def bench_judge(
    tables: Annotated[int, typer.Option(min=1, max=10_000, help="Scenes, each with an ending of every kind.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 61000,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many scenes are judged at once.")] = 2,
    camera: CameraName = None,
    ray: RayName = None,
    partial: PartialFile = None,
    json_file: JsonFile = None,
) -> None:
    """Judge endings made by hand in the plant. Exit code 1: one that is no success was called achieved."""
    from qwen2vl_robot.benchmarks.endings.suite import endings_job, summarise_endings

    camera = camera or "ideal"
    began = time.perf_counter()

    def answer(results: Results) -> dict[str, Any]:
        in_order = sorted(results, key=lambda table: int(table["seed"]))
        endings = [ending for table in in_order for ending in table["endings"]]
        seconds = round(time.perf_counter() - began, 1)
        head = {**provenance(), "seed": seed, "camera": camera, "seconds": seconds}
        return {**head, "totals": summarise_endings(endings)}

    results = run_job(endings_job(tables, seed, camera), place(ray, processes), partial)
    found = gather(results, "scenes", tables, answer=answer, json_file=json_file)
    if json_file != STDOUT:
        _print_endings(found)
    save_json(found, json_file)
    raise typer.Exit(1 if found["totals"]["false_success"] else 0)


@bench.command("validation", epilog="Example: qwen2vl-robot bench validation --json out/validation.json")
def bench_validation(
    plot: Annotated[Path, typer.Option(help="The SVG file for the plot.")] = Path("out/validation.svg"),
    json_file: JsonFile = None,
) -> None:
    """Measure how long the checks of a ten-second pick-and-place take, by number of objects and of trials."""
    from qwen2vl_robot.benchmarks.validation import plot_svg, run_validation

    answer: dict[str, Any] = {**provenance(), "totals": {}, "objects": [], "trials": []}
    for name, figures in run_validation():
        say(name, figures)
        if name == "totals":
            answer["totals"] = figures
        else:
            answer[name].append(figures)
    save_json(answer, json_file)
    drawing = plot_svg(answer["objects"], answer["trials"])
    draw_all(plot.parent, {plot.name: lambda file: file.write_text(drawing, encoding="utf-8")})


@bench.command(
    "frames", epilog="Example: qwen2vl-robot bench frames FOLDER --overlays out/frames --json out/frames.json"
)
def bench_frames(
    folder: Annotated[Path, typer.Argument(help="Frames with boxes.json; docs/results.md says how it looks.")],
    overlays: Annotated[Path | None, typer.Option(help="Write a picture of each frame with what was measured.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure real RGB-D frames and try the tasks that people marked in them, as far as the twin's verdict."""
    from qwen2vl_robot.benchmarks.frames import load_frames, run_frames, summarise_frames

    frames = load_frames(folder)
    found = gather(
        run_frames(frames, overlays),
        "frames",
        len(frames),
        answer=lambda results: {**provenance(), "totals": summarise_frames(results), "frames": results},
        json_file=json_file,
    )
    if json_file != STDOUT:
        table = Table("frame", "task", "ended as", "why")
        for frame in found["frames"]:
            for task in frame["tasks"]:
                table.add_row(frame["frame"], task["task"], task["reason"], task["text"])
        show(table)
        say(f"{found['totals']}; {found['command']}; {found['machine']}")
    save_json(found, json_file)


@bench.command("images", epilog="Example: qwen2vl-robot bench images --seconds 60 --json -")
def bench_images(
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long each size is sent.")] = 60.0,
    hz: Annotated[float, typer.Option(min=1.0, max=200.0, help="Frames a second.")] = 30.0,
    json_file: JsonFile = None,
) -> None:
    """Send camera frames, then joint states at 1 kHz, from another process: how many arrive, and what they cost."""
    from qwen2vl_robot.benchmarks.images import run_images
    from qwen2vl_robot.benchmarks.joint_states import run_joint_states

    answer = {**provenance(), **run_images(seconds, hz), "joint_states": run_joint_states(min(seconds, 20.0))}
    save_json(answer, json_file)
    if json_file != STDOUT:
        for name, totals in {**answer["sizes"], "joint states": answer["joint_states"]}.items():
            typer.echo(f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in totals.items()))


@bench.command("stop", epilog="Example: qwen2vl-robot bench stop --trials 1000 --json -")
def bench_stop(
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="How many stops are timed.")] = 1000,
    load: Annotated[str, typer.Option(help="What the controller does meanwhile: idle, plan or rehearse.")] = "idle",
    graph: Annotated[str, typer.Option(help="dds or ros: the controller's transport.")] = "dds",
    json_file: JsonFile = None,
) -> None:
    """Measure the time from a stop message to the halt command, both on the network."""
    from qwen2vl_robot.benchmarks.stop import run_stop

    answer = {**provenance(), **run_stop(trials, load, graph)}
    save_json(answer, json_file)
    if json_file != STDOUT:
        typer.echo(", ".join(f"{k} {v:g}" for k, v in answer["totals"].items()))


@bench.command("controllers", epilog="Example: qwen2vl-robot bench controllers --graph ros --json out/controllers.json")
def bench_controllers(
    graph: Annotated[str, typer.Option(help="dds or ros: how goals, cancels and halts are sent.")] = "dds",
    json_file: JsonFile = None,
) -> None:
    """Give ros2_control's own controllers and the stand-in of the simulated cell the same goals, and compare.

    Needs a sourced ROS 2 with ros2_control and ros2_controllers. Starts controller_manager with mock hardware on a ROS
    domain of its own, so that no goal reaches a robot. Exit code 1: the two differ somewhere.
    """
    from qwen2vl_robot.benchmarks.controllers.suite import run_controllers

    answer = {**provenance(), **run_controllers(graph, say)}
    save_json(answer, json_file)
    if json_file != STDOUT:
        table = Table("case", "ros2_control", "stand-in", "differ")
        for case in answer["cases"]:
            table.add_row(
                case["case"], _did(case.get("real")), _did(case.get("stand_in")), "yes" if case["differ"] else ""
            )
        show(table)
        say(f"{answer['totals']}; {answer['versions']}; {answer['command']}; {answer['machine']}")
    raise typer.Exit(1 if answer["totals"]["differ"] else 0)


@bench.command("kills", epilog="Example: qwen2vl-robot bench kills --count 25 --json docs/results/kills.json")
def bench_kills(
    count: Annotated[int, typer.Option(min=0, max=1000, help="How often each process is killed or stopped.")] = 25,
    false_halts: Annotated[
        int, typer.Option(min=0, max=10_000, help="Tasks in which nothing is killed, and nothing may halt.")
    ] = 0,
    busy: Annotated[int, typer.Option(min=0, max=64, help="Processes that compute meanwhile.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene and of the path planner.")] = 3,
    partial: Annotated[
        Path, typer.Option(help="Results so far; a run that was cut off goes on from them. Remove it to start anew.")
    ] = Path("out/kills.partial.jsonl"),
    json_file: JsonFile = None,
) -> None:
    """Kill processes on the first feedback of a motion: how long until the halt, how far the arm goes."""
    from qwen2vl_robot.benchmarks.kills import keys, run_kills, summarise_kills

    began = time.perf_counter()

    def answer(results: Results) -> dict[str, Any]:
        about = {"seed": seed, "busy": busy, "seconds": round(time.perf_counter() - began, 1)}
        return {**provenance(), **about, "totals": summarise_kills(results), "trials": results}

    found = gather(
        run_kills(count, false_halts, busy, seed, partial),
        "trials",
        len(keys(count, false_halts)),
        answer=answer,
        json_file=json_file,
        describe=lambda results: str(results[-1]["kind"]),
    )
    if json_file != STDOUT:
        for kind, totals in found["totals"].items():
            typer.echo(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in totals.items()))
        say(f"seed {seed}; {found['command']}; {found['machine']}; {found['seconds']} s")
    save_json(found, json_file)


@bench.command("soak", epilog="Example: qwen2vl-robot bench soak --seconds 600 --json -")
def bench_soak(
    seconds: Annotated[float, typer.Option(min=61.0, max=86_400.0, help="How long commands are given.")] = 600.0,
    graph: Annotated[str, typer.Option(help="dds or ros: how robot and controller talk.")] = "dds",
    json_file: JsonFile = None,
) -> None:
    """Give commands in a loop over the graph and measure how memory grows after the first minute."""
    from qwen2vl_robot.benchmarks.soak import run_soak

    answer = {**provenance(), **run_soak(seconds, graph, say)}
    save_json(answer, json_file)
    if json_file != STDOUT:
        typer.echo(", ".join(f"{k} {v:g}" for k, v in {**answer["totals"], **answer["processes"]}.items()))


@bench.command("planner", epilog="Example: qwen2vl-robot bench planner --json out/bench-planner.json")
def bench_planner(
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="How many frames, each planned twice.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first frame; the next takes the next seed.")] = 9000,
    model: ModelName = None,
    json_file: JsonFile = None,
) -> None:
    """Compare the time of a plan with that of transformers' generate, with the same grammar on the same frames."""
    from qwen2vl_robot.benchmarks.planner import run_planner_bench, summarise_planner
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    found = gather(
        run_planner_bench(model or SHIPPED_MODEL, frames, seed),
        "frames",
        frames,
        answer=lambda results: {**provenance(), "totals": summarise_planner(results), "frames": results},
        json_file=json_file,
    )
    if json_file != STDOUT:
        for name, value in found["totals"].items():
            typer.echo(f"{name} {value}")
    save_json(found, json_file)


@bench.command("clip", epilog="Example: qwen2vl-robot bench clip --frames 100 --json out/bench-clip.json")
def bench_clip(
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="How many scenes, each asked about twice.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 22000000,
    model: ModelName = None,
    json_file: JsonFile = None,
) -> None:
    """Measure whether a video of the seconds before helps a model to find things, and how long it takes."""
    from qwen2vl_robot.benchmarks.clips import run_clip_bench, summarise_clips
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    found = gather(
        run_clip_bench(model or SHIPPED_MODEL, frames, seed),
        "scenes",
        frames,
        answer=lambda results: {**provenance(), "totals": summarise_clips(results), "scenes": results},
        json_file=json_file,
    )
    if json_file != STDOUT:
        totals = found["totals"]
        table = Table(f"seed {seed}", "right", "IoU >= 0.5", "seconds, median")
        for name in ("still", "clip"):
            cells = (share_text(totals[name][key]) for key in ("verbs_right", "iou_50"))
            table.add_row(name, *cells, f"{totals[name]['seconds_median']:.2f}")
        show(table)
    save_json(found, json_file)


def _did(row: dict[str, Any] | None) -> str:
    return "" if row is None else ", ".join(f"{key} {value}" for key, value in row.items())


def _print_endings(found: dict[str, Any]) -> None:
    totals = found["totals"]
    table = Table(f"endings, seed {found['seed']}", "endings", "called achieved", "not verified")
    for name, kind in totals["kinds"].items():
        counts = (kind["outcomes"].get(outcome, 0) for outcome in ("achieved", "not_verified"))
        table.add_row(f"{'success' if kind['success'] else 'none'}: {name}", str(kind["endings"]), *map(str, counts))
    for name in ("false_success", "true_called"):
        interval = totals[f"{name}_interval_95"]
        low, high = interval or (0.0, 1.0)
        count, key = (
            (totals["no_success"], name) if name == "false_success" else (totals["success"], "true_called_ratio")
        )
        table.add_row(name.replace("_", " "), str(count), f"{totals[key]} ({low:.2%} to {high:.2%})", "")
    show(table)
    say(f"{found['command']}; {found['machine']}; {found['seconds']} s")


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
    show(table)
