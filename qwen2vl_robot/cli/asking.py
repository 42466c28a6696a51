"""The command bench answers: questions, and how often their answers are right."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, bench
from qwen2vl_robot.cli.output import gather, provenance, save_json, say, show
from qwen2vl_robot.cli.scoring import share_text


@bench.command("answers", epilog="Example: qwen2vl-robot bench answers --json out/answers.json")
def bench_answers(
    scenes: Annotated[int, typer.Option(min=1, max=1000, help="Scenes over which the sentences are spread.")] = 58,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 66000,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many scenes are asked about at once.")] = 2,
    camera: CameraName = None,
    json_file: JsonFile = None,
) -> None:
    """Ask questions in nine languages and hold the answers to the plant's truth. Exit code 1: below 95 % right."""
    from qwen2vl_robot.benchmarks.answers import load_questions, run_answers, summarise_answers

    model = camera or "d435"
    found = gather(
        run_answers(scenes, seed, model, processes),
        "sentences",
        len(load_questions()),
        answer=lambda results: {
            **provenance(),
            "seed": seed,
            "camera": model,
            "totals": summarise_answers(results),
            "sentences": results,
        },
        json_file=json_file,
        describe=lambda results: f"{sum(not r['right'] for r in results)} wrong of {len(results)}",
    )
    totals = found["totals"]
    if json_file != STDOUT:
        table = Table(f"answers, seed {seed}", "right")
        for name, right in {**totals["right_by_kind"], **totals["right_by_language"], "all": totals["right"]}.items():
            table.add_row(name, share_text(right))
        show(table)
        say(
            f"of {totals['no_questions']} other sentences {totals['no_questions_answered']} answered; "
            f"{found['command']}; {found['machine']}"
        )
    save_json(found, json_file)
    raise typer.Exit(0 if totals["right"]["ratio"] >= 0.95 and not totals["no_questions_answered"] else 1)
