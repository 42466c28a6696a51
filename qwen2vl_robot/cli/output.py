"""Answers → a terminal, a pipe or a JSON file: a pipe gets no colour and whole lines, an interrupt loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from qwen2vl_robot.cli.base import PROGRAM, STDOUT
from qwen2vl_robot.results import UnsavedError, write_json

_WIDE = 100_000  # columns, where no terminal says how wide it is: nothing is wrapped
_KEEP_EVERY_S = 2.0

Results = list[dict[str, Any]]


def console(*, stderr: bool = False) -> Console:
    """A console that colours and wraps on a terminal alone."""
    if (sys.stderr if stderr else sys.stdout).isatty():
        return Console(stderr=stderr)
    return Console(stderr=stderr, width=_WIDE, color_system=None, force_terminal=False)


def say(*words: object) -> None:
    """Print one line for people on stderr, as it is: what stands in brackets is no markup."""
    console(stderr=True).print(*words, markup=False, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table on stdout."""
    console().print(table)


def save_json(answer: dict[str, Any], json_file: str | None) -> None:
    """Write an answer to where `--json` says, if it says anything.

    Raises:
        UnsavedError: the file cannot be written.
    """
    if json_file is None:
        return
    if json_file != STDOUT:
        write_json(Path(json_file), answer)
        return
    try:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise UnsavedError(f"--json -: stdout cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def saved_on_failure(json_file: str | None) -> Iterator[None]:
    """Write the report of a run to `--json` also where its own files could not be written."""
    try:
        yield
    except UnsavedError as error:
        if error.report is not None:
            save_json(error.report, json_file)
        raise


def gather(
    results: Iterable[dict[str, Any]],
    what: str,
    total: int,
    *,
    answer: Callable[[Results], dict[str, Any]],
    json_file: str | None,
    describe: Callable[[Results], str] | None = None,
) -> dict[str, Any]:
    """Collect all results with a progress bar; what there is goes to `--json` every two seconds and at an interrupt.

    Args:
        what: the word beside the bar, where `describe` makes none of the results so far.
        answer: the whole answer from some results; what is kept on the way says that it is not complete.

    Returns:
        The answer, which is left to the caller to print and to save.
    """
    gathered: Results = []
    kept_s = time.monotonic()
    try:
        with _progress() as progress:
            bar = progress.add_task(what, total=total)
            for result in results:
                gathered.append(result)
                progress.update(bar, completed=len(gathered), description=describe(gathered) if describe else what)
                if json_file != STDOUT and time.monotonic() - kept_s > _KEEP_EVERY_S:
                    _keep(answer, gathered, json_file)
                    kept_s = time.monotonic()
    except BaseException:
        if gathered and json_file is not None:
            _keep(answer, gathered, json_file)
            say(f"{len(gathered)} of {total} {what} are in {'the JSON' if json_file == STDOUT else json_file}")
        raise
    return answer(gathered)


def _keep(answer: Callable[[Results], dict[str, Any]], gathered: Results, json_file: str | None) -> None:
    """Save what there is; a disk that is full now ends no run that may last for hours."""
    try:
        save_json({**answer(gathered), "is_complete": False}, json_file)
    except UnsavedError as error:
        say(str(error))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
    )


class _Rate(ProgressColumn):
    """How many results come a minute."""

    def render(self, task: Task) -> Text:
        """Write the rate, as soon as there is one."""
        return Text("" if task.speed is None else f"{60.0 * task.speed:.3g}/min")


def provenance() -> dict[str, Any]:
    """What made an answer: the command as it was typed, and the machine."""
    return {"command": " ".join([PROGRAM, *sys.argv[1:]]), "machine": machine_name()}


def machine_name() -> str:
    """Processor and cores, for whoever compares figures."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "unknown processor"
    return f"{model}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
