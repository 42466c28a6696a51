"""The commands datagen, train and merge: rendered samples, and what is trained on them."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, JsonFile, RayName, app, check_choice
from qwen2vl_robot.cli.output import Results, gather, machine_name, provenance, save_json, say, show
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.fleet.running import place
from qwen2vl_robot.results import reserve

_METHODS = ("whole", "lora")
_SAY_EVERY = 10  # steps
_V = TypeVar("_V")


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
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint, or for the adapter.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Samples to train on; whole: several times for several folders.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Samples for measuring only; lora does without.")] = None,
    method: Annotated[
        str, typer.Option(help="whole: the small checkpoint; lora: an adapter for --model, a Qwen-VL of any size.")
    ] = "whole",
    run: Annotated[Path | None, typer.Option(help="whole: folder for the state to resume from; runs/tabletop.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="whole: a checkpoint to begin with; random weights if left out.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="whole: all; words: without vision; sights: vision alone, on cut-outs of objects."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="whole: one a core if left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps, counted over all resumptions.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the order of samples.")] = 0,
    model: Annotated[str | None, typer.Option(help="lora: a folder, a hub name or its settings (.yaml).")] = None,
    rank: Annotated[int | None, typer.Option(min=1, max=1024, help="lora: rank of the factors; 16.")] = None,
    rate: Annotated[float | None, typer.Option(min=1e-9, max=1.0, help="lora: highest learning rate; 1e-4.")] = None,
    image_tokens: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="lora: image tokens in a batch at most; 2048.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="lora: print the memory that it takes, and do nothing else.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train the small checkpoint, or fine-tune a Qwen-VL with LoRA.

    A training goes on from the state in --run, with lora from that in --out. Several GPUs:
    accelerate launch -m qwen2vl_robot train --method lora ...
    """
    check_choice("--method", method, _METHODS)
    lora = {"--model": model, "--rank": rank, "--rate": rate, "--image-tokens": image_tokens, "--memory": memory}
    whole = {"--run": run, "--start": start, "--stage": stage, "--threads": threads}
    _refuse_options("lora" if method == "whole" else "whole", lora if method == "whole" else whole)
    chosen = {"data": data, "validation": validation, "out": out, "steps": steps, "seed": seed}
    if method == "whole":
        return _train_whole({**chosen, "run": run, "start": start, "stage": stage, "threads": threads}, json_file)
    sizes = {"rank": rank, "rate": rate, "image_tokens": image_tokens}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if memory:
        return _show_memory(model, sizes, json_file)
    return _train_lora(model, {**chosen, **sizes}, json_file)


def _refuse_options(method: str, options: dict[str, Any]) -> None:
    """Refuse options of the method that was not asked for.

    Raises:
        BadInputError: one was given.
    """
    for name, value in options.items():
        if value:
            raise BadInputError(f"{name}: only with --method {method}")


def _train_whole(given: dict[str, Any], json_file: str | None) -> None:
    given["stage"] = check_choice("--stage", given["stage"] or "all", ("all", "words", "sights"))
    for name in ("data", "validation", "out"):
        _given(f"--{name}", given[name])
    _restart_with_fast_malloc()
    from qwen2vl_robot.training.train import TrainingSettings
    from qwen2vl_robot.training.train import train as train_checkpoint

    given |= {"run": given["run"] or Path("runs/tabletop"), "data": tuple(given["data"])}
    settings = TrainingSettings(**given)
    out, run = settings.out, settings.run
    is_one = out.resolve() == run.resolve()
    with reserve(out), contextlib.nullcontext() if is_one else reserve(run, "--run"):
        figures = train_checkpoint(settings)
    for name, value in figures.items():
        say(f"{name} {value:.3f}")
    head = {"machine": machine_name(), "seed": settings.seed, "steps": settings.steps}
    save_json({**head, "figures": figures}, json_file)


def _given(option: str, value: _V | None) -> _V:
    """A needed option's value.

    Raises:
        BadInputError: it was left out.
    """
    if value is None:
        raise BadInputError(f"{option} is missing")
    return value


def _train_lora(model: str | None, given: dict[str, Any], json_file: str | None) -> None:
    """Fine-tune; of several processes, as accelerate starts them, the first one speaks and writes."""
    name = _given("--model", model)
    folders, out = _given("--data", given.pop("data")), _given("--out", given.pop("out"))
    if len(folders) > 1:
        raise BadInputError("--data: one folder with --method lora")
    from qwen2vl_robot.planner.sources import read_settings
    from qwen2vl_robot.training.lora import LoraSettings, check_extra, train_lora

    check_extra()
    is_first = os.environ.get("RANK", "0") == "0"
    settings = LoraSettings(read_settings(name), folders[0], out, **given)
    found: Results = []
    with reserve(out) if is_first else contextlib.nullcontext():
        for figures in train_lora(settings):
            found.append(figures)
            if is_first and (figures["step"] % _SAY_EVERY == 0 or figures["step"] in (1, settings.steps)):
                say(_line(figures, settings.steps))
    if not is_first:
        return
    said = f"{out} holds the adapter of step {found[-1]['step']:.0f}" if found else f"{out} has these steps already"
    say(said + f"; use it with --model {out}")
    save_json({**provenance(), "model": name, "seed": given["seed"], "steps": found}, json_file)


def _line(figures: dict[str, float], steps: int) -> str:
    line = f"step {figures['step']:.0f} of {steps}, {figures['seconds']:.0f} s, loss {figures['loss']:.3f}"
    held_back = figures.get("validation_loss")
    return line if held_back is None else f"{line}, on validation samples {held_back:.3f}"


def _show_memory(model: str | None, options: dict[str, Any], json_file: str | None) -> None:
    """Print the memory of a fine-tuning of one model, or of the sizes that are known by name."""
    from qwen2vl_robot.planner.fit import KNOWN, shape_of
    from qwen2vl_robot.training.memory import training_memory

    options.pop("rate", None)
    shapes = {model: shape_of(model)} if model else KNOWN
    found = {name: training_memory(shape, **options) for name, shape in shapes.items()}
    table = Table("GB", "weights", "LoRA, gradients, Adam", "activations", "one GPU", "each of 4, 8", "GPUs of 80 GB")
    for name, needs in found.items():
        parts = (needs.weights, needs.factors, needs.activations, needs.one_gpu)
        fewest = needs.fewest_gpus()
        shared = f"{needs.each_of(4):.1f}, {needs.each_of(8):.1f}"
        table.add_row(name, *(f"{part:.1f}" for part in parts), shared, str(fewest or "too small"))
    if json_file != STDOUT:
        show(table)
    save_json({"memory_gb": {name: asdict(needs) for name, needs in found.items()}, **options}, json_file)


@app.command(epilog="Example: qwen2vl-robot merge runs/lora --out checkpoints/merged")
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of an adapter.")],
    out: Annotated[Path, typer.Option(help="A new folder for the checkpoint.")],
) -> None:
    """Write a checkpoint with an adapter added to its model's weights, for a server or another machine."""
    from qwen2vl_robot.training.lora_files import merge as merge_adapter

    say(f"{out} holds {merge_adapter(adapter, out)} with {adapter}")


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
