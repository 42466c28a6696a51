"""What every command shares: the program, its version, and the options that several commands have."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

import qwen2vl_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.results import reason_of

PROGRAM = "qwen2vl-robot"
STDOUT = "-"
ROS_ARGUMENTS: list[str] = []  # of this process, for rclpy: enclave, levels of single loggers, where logs go

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Say it, see it, check it, then move: Qwen2-VL proposes, a PyBullet twin rehearses, a gate admits.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure parts of the chain on this machine.")
robot = typer.Typer(no_args_is_help=True, help="Bring an arm of your own: guess its robot file, and check one.")


def version() -> str:
    """The version of this package, also where it runs from a folder and is not installed."""
    try:
        return str(getattr(qwen2vl_robot, "__version__", None) or importlib.metadata.version("qwen2vl_robot"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"{PROGRAM} {version()}")
        raise typer.Exit(0)


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _check_json_file(context: typer.Context, value: str | None) -> str | None:
    """Refuse a file that cannot be written before the work begins, not after it.

    Raises:
        BadInputError: the folder cannot be made, or the file cannot be written.
    """
    if value is None or value == STDOUT or context.resilient_parsing:
        return value
    file = Path(value)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_folder = file.is_dir()
    except OSError as error:
        raise BadInputError(f"--json {file}: {reason_of(error)}") from error
    if is_folder:
        raise BadInputError(f"--json {file}: this is a folder; name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise BadInputError(f"--json {file}: Permission denied")
    return value


def _check_model(context: typer.Context, value: str | None) -> str | None:
    """Refuse a model that cannot be had before anything is started for it.

    Raises:
        BadInputError: its settings are wrong, or it would have to be fetched without a network.
    """
    if value is not None and not context.resilient_parsing:
        from qwen2vl_robot.planner.hub import prepare_hub
        from qwen2vl_robot.planner.sources import read_settings

        prepare_hub(read_settings(value))
    return value


def _check_camera(context: typer.Context, value: str | None) -> str | None:
    """Refuse a camera that there is not before anything is started for it.

    Raises:
        BadInputError: it is unknown, or its file is wrong.
    """
    if value is not None and not context.resilient_parsing:
        from qwen2vl_robot.plant.cameras import load_camera

        load_camera(value)
    return value


JsonFile = Annotated[
    str | None,
    typer.Option("--json", callback=_check_json_file, help="Write the answer to this JSON file; - is stdout."),
]
ModelName = Annotated[
    str | None,
    typer.Option(callback=_check_model, help="Folder, hub name or server; the shipped checkpoint if left out."),
]
CameraName = Annotated[
    str | None,
    typer.Option(
        "--camera",
        callback=_check_camera,
        help="How the simulated camera errs: d435 (unless a scene says so), ideal, structured_light or a file.",
    ),
]
RayName = Annotated[
    str | None,
    typer.Option("--ray", help="Work on a Ray cluster: auto for the one of this machine, or its head's HOST:PORT."),
]
PartialFile = Annotated[
    Path | None,
    typer.Option("--partial", help="Keep each result in this file at once; a run that was cut off goes on from it."),
]


def check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """The value of an option that has a few.

    Raises:
        BadInputError: it is none of them.
    """
    if value not in allowed:
        raise BadInputError(f"{option} {value}: unknown; there are: {', '.join(allowed)}")
    return value
