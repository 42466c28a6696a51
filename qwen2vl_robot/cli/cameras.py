"""The command bench degradation: how the chain answers an ever worse camera."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, JsonFile, bench
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json, say, show


@bench.command("degradation", epilog="Example: qwen2vl-robot bench degradation --json out/degradation.json")
def bench_degradation(
    scenes: Annotated[int, typer.Option(min=1, max=10_000, help="Default scenes, each seen at every level.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Make the camera worse, one effect at a time: from which level the chain stops, and what it names as the cause.

    Exit code 1: a right camera was called wrong.
    """
    from qwen2vl_robot.benchmarks.degradation import run_degradation, summarise_degradation

    began = time.perf_counter()

    def answer(results: Results) -> dict[str, Any]:
        about = {**provenance(), "seed": seed, "seconds": round(time.perf_counter() - began, 1)}
        return {**about, "totals": summarise_degradation(results), "scenes": results}

    found = gather(run_degradation(scenes, seed), "scenes", scenes, answer=answer, json_file=json_file)
    if json_file != STDOUT:
        totals = found["totals"]
        table = Table("effect", "stopped, by level", "stops from", "causes", "right")
        for name, e in totals["effects"].items():
            stopped = ", ".join(f"{level} {e['unit']}: {count}" for level, count in e["stopped"].items())
            causes = ", ".join(f"{cause} {count}" for cause, count in e["causes"].items())
            table.add_row(name, stopped, str(e["stops_from"]), causes, f"{e['right']} of {sum(e['stopped'].values())}")
        show(table)
        say(f"right causes {totals['right']} of {totals['stopped']}, false alarms {totals['false_alarms']}")
        say(f"seed {seed}; {found['command']}; {found['machine']}; {found['seconds']} s")
    save_json(found, json_file)
    raise typer.Exit(1 if found["totals"]["false_alarms"] else 0)
