"""The command line: qwen2vl-robot demo, run, sim, record, voice, plan, check, eval, bench, calibrate, doctor ...

Exit code 0: done (`demo`: achieved, `check`: accepted, `plan`: there is something to do). 1: an honest failure, a
refusal or a question. 2: bad input, with one line. `--json FILE` writes one JSON document; with `-` it goes to stdout,
and nothing else does.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from qwen2vl_robot.bounds import ERROR_CHARS, shown

# isort: off - imported for their commands, which --help lists in this order
from qwen2vl_robot.cli import (
    asking,
    bags,
    benches,
    cameras,
    comparing,
    console,
    eyes,
    graph,
    machine,
    robots,
    scoring,
    shell,
    single,
    speed,
    training,
    voice,
)
from qwen2vl_robot.cli.base import PROGRAM, ROS_ARGUMENTS, app
from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.graph.names import split_ros_arguments

# isort: on

__all__ = [
    "app",
    "asking",
    "bags",
    "benches",
    "cameras",
    "comparing",
    "console",
    "eyes",
    "graph",
    "machine",
    "main",
    "robots",
    "scoring",
    "shell",
    "single",
    "speed",
    "training",
    "voice",
]

# Typer brings its own click or uses the installed one, by version; both have this root.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


_TAKEN = {  # options that bear the names of ROS 2's
    "run": ("-r", "-p", "--params-file", "--log-level"),
    "supervisor": ("-r", "-p", "--params-file"),
    "sim": ("-r", "--log-level"),
    "voice": ("-r", "-p", "--params-file"),
}


def main() -> None:
    """Run the command line; every expected failure is one line on stderr."""
    try:
        code = app(_own_arguments(sys.argv[1:]), prog_name=PROGRAM, standalone_mode=False)
    except typer.Abort:
        code = _fail("interrupted", 130)
    except _UsageError as error:
        code = _fail(error.format_message(), 2)
    except BadInputError as error:
        code = _fail(str(error), 2)
    except RobotError as error:
        code = _fail(str(error) or type(error).__name__, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _own_arguments(arguments: list[str]) -> list[str]:
    """Turn what ROS 2 gives (`--ros-args -r from:=to --enclave /arm ... --`) into options of the command.

    Parameters of a command that has none are ignored, as by rcl; what is for the middleware goes to rclpy as it is.

    Raises:
        BadInputError: ROS 2 does not know an argument.
    """
    own, ros = split_ros_arguments(arguments)
    command = next((a for a in own if not a.startswith("-")), "")
    taken = _TAKEN.get(command, ("-r",))
    options: list[str] = []
    for name, value in ros:
        if name in taken and not (name == "--log-level" and ":=" in value):
            options += [name, value]
        if name not in ("-r", "-p", "--params-file"):
            ROS_ARGUMENTS.extend(part for part in (name, value) if part)
    return own + options


def _fail(problem: str, code: int) -> int:
    """Say in one line why the command ends; the exit code."""
    print(f"{PROGRAM}: {shown(problem, ERROR_CHARS)}", file=sys.stderr)
    return code
