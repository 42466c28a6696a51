"""Commands about this machine and its camera: calibrate, board, doctor."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, JsonFile, app
from qwen2vl_robot.cli.graph import GraphName, Namespace, Remap
from qwen2vl_robot.cli.output import save_json, show
from qwen2vl_robot.cli.shell import check_camera
from qwen2vl_robot.errors import BadInputError


@app.command(epilog="Example: qwen2vl-robot calibrate views/ --out calibration.yaml")
def calibrate(
    views: Annotated[
        Path | None, typer.Argument(help="Folder with views.yaml and its pictures; docs/robot.md explains it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("calibration.yaml"),
    live: Annotated[
        bool, typer.Option("--live", help="Check the cameras of a running controller: its arm moves into their view.")
    ] = False,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
    json_file: JsonFile = None,
) -> None:
    """Find the camera's pose from pictures of a ChArUco board, or check it by the arm in view (docs/robot.md).

    Exit code of --live: 0 where every camera passes, 1 where one is refused, 3 where nobody knows.
    """
    if live == (views is not None):
        raise BadInputError("calibrate: give the folder of views, or --live to check a running controller's cameras")
    if views is None:
        raise typer.Exit(check_camera(graph, namespace, remap, json_file))
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


@app.command(epilog="Example: qwen2vl-robot board board.pdf --squares 7 5 --square-mm 30 --marker-mm 22")
def board(
    file: Annotated[Path, typer.Argument(help="The sheet to write, a .pdf or a .png; print it at 100 %.")],
    squares: Annotated[tuple[int, int], typer.Option(help="Squares along x and along y.")] = (7, 5),
    square_mm: Annotated[float, typer.Option(help="Side of a square.")] = 30.0,
    marker_mm: Annotated[float, typer.Option(help="Side of a marker.")] = 22.0,
    dictionary: Annotated[str, typer.Option(help="OpenCV's name of the markers' dictionary.")] = "DICT_5X5_100",
) -> None:
    """Print a ChArUco board for `calibrate`, with a bar of 100 mm, and the line for views.yaml that describes it."""
    from qwen2vl_robot.config import parse
    from qwen2vl_robot.nodes.board_printing import print_board
    from qwen2vl_robot.nodes.calibration_board import BoardSpec

    numbers = {
        "squares_x": squares[0],
        "squares_y": squares[1],
        "square_m": round(square_mm / 1000, 6),
        "marker_m": round(marker_mm / 1000, 6),
        "dictionary": dictionary,
    }
    print_board(parse(numbers, BoardSpec, "board"), file)
    typer.echo(f"board: {{{', '.join(f'{key}: {value}' for key, value in numbers.items())}}}")


@app.command(epilog="Example: qwen2vl-robot doctor --model Qwen/Qwen2-VL-7B-Instruct")
def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="Examine this model: does it fit into memory, does its server answer? Nothing is loaded."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Also ask the model about rendered pictures: find the unit of its boxes, and compare both modes.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --calibrate: write the settings here, for --model to read.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """List what is installed and what is missing, with the command that installs it.

    Exit code 1: something that the demo needs is missing, or the model cannot be used.
    """
    from qwen2vl_robot.doctor import diagnose, examine_model, is_ready

    if out is not None and not calibrate:
        raise BadInputError("--out: only with --calibrate")
    if model is not None or calibrate:
        is_usable = examine_model(model, partial(typer.echo, err=json_file == STDOUT), calibrates=calibrate, out=out)
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
