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
from qwen2vl_robot.cli import benches, graph, machine, scoring, single, training
from qwen2vl_robot.cli.base import PROGRAM, app
from qwen2vl_robot.errors import BadInputError, RobotError

# isort: on

__all__ = ["app", "benches", "graph", "machine", "main", "scoring", "single", "training"]

# Typer brings its own click or uses the installed one, by version; both have this root.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Run the command line; every expected failure is one line on stderr."""
    # ROS 2 launches with `--ros-args -r from:=to -p name:=value --params-file FILE`, and these options bear its names.
    arguments = [a for a in sys.argv[1:] if a not in ("--ros-args", "--")]
    try:
        code = app(arguments, prog_name=PROGRAM, standalone_mode=False)
    except typer.Abort:
        code = _fail("interrupted", 130)
    except _UsageError as error:
        code = _fail(error.format_message(), 2)
    except BadInputError as error:
        code = _fail(str(error), 2)
    except RobotError as error:
        code = _fail(str(error) or type(error).__name__, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(problem: str, code: int) -> int:
    """Say in one line why the command ends; the exit code."""
    print(f"{PROGRAM}: {shown(problem, ERROR_CHARS)}", file=sys.stderr)
    return code
