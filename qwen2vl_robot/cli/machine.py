"""Commands about this machine and its camera: calibrate, doctor."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, JsonFile, app
from qwen2vl_robot.cli.output import save_json, show


@app.command(epilog="Example: qwen2vl-robot calibrate views/ --out calibration.yaml")
def calibrate(
    views: Annotated[Path, typer.Argument(help="Folder with views.yaml and its pictures; docs/robot.md explains it.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("calibration.yaml"),
    json_file: JsonFile = None,
) -> None:
    """Find the camera's pose from pictures of a ChArUco board on the flange or on the table (docs/robot.md)."""
    from qwen2vl_robot.nodes.camera_calibration import calibrate_folder, write_calibration

    done = calibrate_folder(views)
    for line in done.unused:
        typer.echo(f"unused: {line}", err=True)
    found = done.calibration
    write_calibration(out, found)
    save_json(found.model_dump(mode="json"), json_file)
    if found.held_out_m is None:
        typer.echo("unchecked: the board lay in one place only, and nothing but your word says where that is", err=True)
    if json_file != STDOUT:
        checked = "" if found.held_out_m is None else f", a view from the others {found.held_out_m * 1000:.1f} mm"
        residual = f"residual {found.residual_m * 1000:.1f} mm, {found.residual_deg:.2f} deg{checked}"
        typer.echo(f"{out}: {residual}, {found.views} views")


@app.command(epilog="Example: qwen2vl-robot doctor --model Qwen/Qwen2-VL-7B-Instruct")
def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="Examine this model: does it fit into memory, does its server answer? Nothing is loaded."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Also ask the model about rendered pictures and find the unit of its boxes."),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """List what is installed and what is missing, with the command that installs it.

    Exit code 1: something that the demo needs is missing, or the model cannot be used.
    """
    from qwen2vl_robot.doctor import diagnose, examine_model, is_ready

    if model is not None or calibrate:
        is_usable = examine_model(model, partial(typer.echo, err=json_file == STDOUT), calibrates=calibrate)
        save_json({"model": model, "is_usable": is_usable}, json_file)
        raise typer.Exit(0 if is_usable else 1)
    findings = diagnose()
    save_json({"is_ready": is_ready(findings), "findings": [asdict(f) for f in findings]}, json_file)
    table = Table("", "what", "found", "to fix it")
    for f in findings:
        mark = "[green]ok" if f.ok else ("[red]missing" if f.is_required else "[yellow]optional")
        table.add_row(mark, *map(escape, (f.name, f.detail, f.command)))
    if json_file != STDOUT:
        show(table)
    raise typer.Exit(0 if is_ready(findings) else 1)
