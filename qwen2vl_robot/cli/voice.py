"""The command bench voice: what the voice node hears of what was said, and what it hears though nobody said it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import STDOUT, JsonFile, bench
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json, say


@bench.command("voice", epilog="Example: qwen2vl-robot bench voice --json out/voice.json")
def bench_voice(
    count: Annotated[int, typer.Option(min=1, max=321, help="How many sounds, of 321, in a drawn order.")] = 321,
    seed: Annotated[int, typer.Option(min=0, help="Draws voices, speeds, noise and order.")] = 0,
    recogniser: Annotated[
        str, typer.Option(help="auto, pocketsphinx, or a Whisper checkpoint's folder or hub name.")
    ] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Let espeak-ng say commands, stops, half sentences and other speech in noise, and count what is heard."""
    from qwen2vl_robot.benchmarks.voice import run_voice, summarise_voice
    from qwen2vl_robot.nodes.hearing import open_recogniser

    listener = open_recogniser(recogniser)
    began = time.perf_counter()

    def answer(results: Results) -> dict[str, Any]:
        about = {
            **provenance(),
            "seed": seed,
            "recogniser": listener.name,
            "seconds": round(time.perf_counter() - began, 1),
        }
        return {**about, "totals": summarise_voice(results), "sounds": results}

    found = gather(run_voice(count, seed, listener), "sounds", count, answer=answer, json_file=json_file)
    if json_file != STDOUT:
        for name, figures in found["totals"].items():
            say(f"{name.replace('_', ' ')}: {figures}")
        say(f"seed {seed}; {found['command']}; {found['machine']}; {found['seconds']} s")
    save_json(found, json_file)
