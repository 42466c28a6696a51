"""The commands datagen and train: rendered samples, and the small checkpoint that is trained on them."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import JsonFile, RayName, app, check_choice
from qwen2vl_robot.cli.output import Results, gather, machine_name, provenance, save_json, say
from qwen2vl_robot.fleet.running import place
from qwen2vl_robot.results import reserve


@app.command(epilog="Example: qwen2vl-robot datagen --out data/tabletop --count 8192 --seed 100000")
def datagen(
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of scenes.")] = 8192,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 100_000,
    scene: Annotated[str, typer.Option(help="The scene file with the ranges to draw from.")] = "scenes/training.yaml",
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that render at once.")] = os.cpu_count()
    or 1,
    full: Annotated[
        bool, typer.Option("--full", help="Keep images as the camera sees them; else as the small checkpoint does.")
    ] = False,
    ray: RayName = None,
    json_file: JsonFile = None,
) -> None:
    """Render samples for a training into shards that WebDataset reads.

    A second call goes on where the first one stopped, and renders again what is cut off.
    """
    from qwen2vl_robot.training.dataset import datagen_job, generate

    job = datagen_job(scene, out, count, seed, is_full=full)

    def answer(shards: Results) -> dict[str, Any]:
        listed = sorted(shards, key=lambda shard: int(shard["seed"]))
        scenes = sum(int(shard["samples"]) for shard in listed)
        return {**provenance(), "out": str(out), "seed": seed, "scenes": scenes, "shards": listed}

    with reserve(out):
        found = gather(
            generate(job, place(ray, processes)), "shards", len(job.units), answer=answer, json_file=json_file
        )
    say(f"{out} holds the {found['scenes']} scenes from seed {seed}")
    save_json(found, json_file)


@app.command(epilog="Example: qwen2vl-robot train --data data/tabletop --validation data/validation --out runs/out")
def train(
    data: Annotated[Path, typer.Option(help="Samples to train on.")],
    validation: Annotated[Path, typer.Option(help="Samples for measuring only.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    run: Annotated[Path, typer.Option(help="Folder for the state to resume from.")] = Path("runs/tabletop"),
    start: Annotated[Path | None, typer.Option(help="A checkpoint to begin with; random weights if left out.")] = None,
    stage: Annotated[
        str, typer.Option(help="all; words: do not train vision; sights: train vision alone, on cut-outs of objects.")
    ] = "all",
    threads: Annotated[int | None, typer.Option(min=1, help="One a core if left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps, counted over all resumptions.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the order of samples.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Train the small checkpoint. Resumes from --run when that folder holds a state."""
    check_choice("--stage", stage, ("all", "words", "sights"))
    _restart_with_fast_malloc()
    from qwen2vl_robot.training.train import TrainingSettings
    from qwen2vl_robot.training.train import train as train_checkpoint

    settings = TrainingSettings(
        data, validation, out, run, steps=steps, seed=seed, start=start, stage=stage, threads=threads
    )
    is_one = out.resolve() == run.resolve()
    with reserve(out), contextlib.nullcontext() if is_one else reserve(run, "--run"):
        figures = train_checkpoint(settings)
    for name, value in figures.items():
        say(f"{name} {value:.3f}")
    save_json({"machine": machine_name(), "seed": seed, "steps": steps, "figures": figures}, json_file)


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
        os.execve(sys.executable, [sys.executable, "-m", "qwen2vl_robot", *sys.argv[1:]], {**os.environ, **settings})
