"""The commands robot ...: a new arm's URDF → a robot file of guesses; a robot file → what is right, and what is not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from qwen2vl_robot.cli.base import STDOUT, JsonFile, app, robot
from qwen2vl_robot.cli.output import save_json, show
from qwen2vl_robot.errors import BadInputError

app.add_typer(robot, name="robot")


@robot.command(epilog="Example: qwen2vl-robot robot init my_arm.urdf --out my_arm")
def init(
    urdf: Annotated[
        Path, typer.Argument(help="URDF of the arm with its gripper; a xacro has to be expanded to one first.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to make; its name is the robot's.")],
    srdf: Annotated[
        Path | None, typer.Option(help="SRDF of the same robot: of its disabled collisions those that touch here.")
    ] = None,
) -> None:
    """Guess a robot file from a URDF: tool link, joints, limits, gripper, home and allowed contacts, and a picture.

    Every guess is marked, and nothing moves by it before a person has confirmed it: run `robot check` on the file.
    """
    from qwen2vl_robot.arms.guess import guess_robot
    from qwen2vl_robot.arms.writing import write_robot

    if urdf.suffix == ".xacro":
        raise BadInputError(f"{urdf}: expand it first: xacro {urdf.name} > {urdf.stem}")
    if out.exists():
        raise BadInputError(f"{out}: is there already; give a folder that is not")
    written = write_robot(out, urdf, guess_robot, srdf)
    for line in written:
        typer.echo(line)


@robot.command(epilog="Example: qwen2vl-robot robot check my_arm/robot.yaml")
def check(
    file: Annotated[str, typer.Argument(help="A robot.yaml, or the name of a robot in sim/robots.")],
    json_file: JsonFile = None,
) -> None:
    """Try a robot file in simulation and list what a person has to confirm; no arm moves.

    Kinematics by two libraries, the gripper against the URDF's shapes, home, self-collision by sampling, picks in the
    twin. Exit code 0: all is right and confirmed; 1: something is not.
    """
    from qwen2vl_robot.arms.checks import TO_CONFIRM, check_robot
    from qwen2vl_robot.config import load_unconfirmed_robot

    profile = load_unconfirmed_robot(file)
    findings = check_robot(profile)
    left = {name: TO_CONFIRM[name] for name in profile.unconfirmed}
    is_ready = all(f.is_right for f in findings) and not left
    save_json({"is_ready": is_ready, "findings": [asdict(f) for f in findings], "unconfirmed": left}, json_file)
    if json_file != STDOUT:
        table = Table("", "check", "found")
        for f in findings:
            table.add_row("[green]ok" if f.is_right else "[red]no", *map(escape, (f.check, f.detail)))
        for name, what in left.items():
            table.add_row("[yellow]confirm", escape(name), escape(what))
        show(table)
        if left:
            typer.echo("Take what you have confirmed out of `unconfirmed`; until it is empty the file moves no arm.")
    raise typer.Exit(0 if is_ready else 1)
