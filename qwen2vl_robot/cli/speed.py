"""The command bench latency: how long a person waits for the first motion, and for the whole task."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, ModelName, bench
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json, say
from qwen2vl_robot.cli.scoring import PlannerKind


@bench.command("latency", epilog="Example: qwen2vl-robot bench latency --episodes 20 --json out/latency.json")
def bench_latency(
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Tasks, each run alone and beside others.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first task; the next takes the next seed.")] = 5000,
    busy: Annotated[
        int, typer.Option(min=0, max=64, help="Processes that never rest, beside the second run; 0: no second run.")
    ] = 2,
    planner: Annotated[
        PlannerKind, typer.Option(help="checkpoint: the model; truth: the plant's true boxes.")
    ] = PlannerKind.CHECKPOINT,
    model: ModelName = None,
    camera: CameraName = None,
    json_file: JsonFile = None,
) -> None:
    """Run whole tasks in the plant and time each stage from the instruction to the first motion, and to the end."""
    from qwen2vl_robot.benchmarks.latency import run_latency, stacked, summarise_latency
    from qwen2vl_robot.planner.process import SHIPPED_MODEL

    def answer(results: Results) -> dict[str, Any]:
        about = {**provenance(), "seed": seed, "planner": planner.value, "camera": camera or "d435"}
        return {**about, "totals": summarise_latency(results), "episodes": results}

    found = gather(
        run_latency(planner.value, model or SHIPPED_MODEL, episodes, seed, camera, busy),
        "tasks",
        episodes * (2 if busy else 1),
        answer=answer,
        json_file=json_file,
    )
    if json_file != STDOUT:
        say(stacked(found["totals"]))
        say("whole task, median", f"{found['totals']['episode_s_median']} s")
        say(f"seed {seed}; {found['command']}; {found['machine']}")
    save_json(found, json_file)
