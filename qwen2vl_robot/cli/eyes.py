"""The commands bench camera and bench lookout: what watches over the camera, and what the camera watches over."""

from __future__ import annotations

from typing import Annotated

import typer

from qwen2vl_robot.cli.base import STDOUT, CameraName, JsonFile, bench
from qwen2vl_robot.cli.output import gather, provenance, save_json, say


@bench.command("camera", epilog="Example: qwen2vl-robot bench camera --json out/camera.json")
def bench_camera(
    scenes: Annotated[int, typer.Option(min=1, max=100_000, help="Default scenes with a right calibration.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene; the next takes the next seed.")] = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Have the arm move into view, with cameras off by 0, 5, 15 and 30 mm.")
    ] = False,
    camera: CameraName = None,
    json_file: JsonFile = None,
) -> None:
    """Check rightly calibrated cameras by the arm in view. Exit code 1: one was called wrong, or with --live right."""
    if live:
        _bench_live(scenes, seed, camera or "ideal", json_file)
    from qwen2vl_robot.benchmarks.camera import run_camera_checks, summarise_camera_checks

    found = gather(
        run_camera_checks(scenes, seed, camera or "ideal"),
        "scenes",
        scenes,
        answer=lambda results: {**provenance(), "totals": summarise_camera_checks(results), "scenes": results},
        json_file=json_file,
    )
    say("totals", found["totals"])
    save_json(found, json_file)
    raise typer.Exit(1 if found["totals"]["false_alarms"] else 0)


def _bench_live(scenes: int, seed: int, camera: str, json_file: str | None) -> None:
    from qwen2vl_robot.benchmarks.live_check import run_live_checks, summarise_live_checks

    found = gather(
        run_live_checks(scenes, seed, camera),
        "checks",
        4 * scenes,
        answer=lambda results: {**provenance(), "totals": summarise_live_checks(results), "checks": results},
        json_file=json_file,
    )
    say("totals", found["totals"])
    save_json(found, json_file)
    raise typer.Exit(1 if found["totals"]["wrong"] else 0)


@bench.command("lookout", epilog="Example: qwen2vl-robot bench lookout --frames 300 --json -")
def bench_lookout(
    frames: Annotated[int, typer.Option(min=1, max=100_000, help="How many frames are judged.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the scene and the motion that are recorded.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Send recorded 640x480 frames of a moving arm over the graph, and judge them on one core. Exit code 1: a stop."""
    from qwen2vl_robot.benchmarks.lookout import run_lookout

    answer = {**provenance(), **run_lookout(frames, seed)}
    save_json(answer, json_file)
    if json_file != STDOUT:
        say("totals", answer["totals"])
        say(f"{answer['command']}; {answer['machine']}")
    raise typer.Exit(1 if answer["totals"]["false_stops"] else 0)
