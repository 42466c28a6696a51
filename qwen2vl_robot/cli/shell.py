"""Commands that speak with a controller on the graph: say, status, approve, stop, reset, mcp; its camera check."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from qwen2vl_robot.bounds import shown
from qwen2vl_robot.cli.base import STDOUT, JsonFile, app
from qwen2vl_robot.cli.graph import GraphName, Namespace, Remap
from qwen2vl_robot.cli.output import save_json
from qwen2vl_robot.cli.output import say as tell
from qwen2vl_robot.errors import BadInputError

if TYPE_CHECKING:
    from qwen2vl_robot.nodes.reports import VerdictReport
    from qwen2vl_robot.nodes.shell import Shell

_LINE_CHARS = 2000  # what is printed of a text that came over the graph
_PREFIX_CHARS = 4


@app.command(epilog="Example: qwen2vl-robot say 'put the red block on the blue plate' --watch")
def say(
    instruction: Annotated[str, typer.Argument(help="What to do.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show what happens until the task has ended.")] = False,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Give the robot an instruction.

    Exit code 0: it is taken, or with --watch: achieved, or a question that is answered. 1: anything else. Ctrl-C ends
    the watching, not the task.
    """
    from qwen2vl_robot.nodes.shell import describe, describe_task

    with _shell(graph, namespace, remap) as shell:
        tasks = shell.status().tasks
        now = shell.say(instruction)
        if now.stopped_by is not None:
            _print(describe(now))
            return
        if not watch:
            _print("taken; `qwen2vl-robot status` shows what becomes of it")
            return
        try:
            task = shell.watch(tasks)
        except KeyboardInterrupt:
            tell("the task goes on; `qwen2vl-robot stop` stops it")
            raise typer.Exit(130) from None
        _print(describe_task(task))
    raise typer.Exit(0 if task.outcome.value in ("achieved", "answered") else 1)


@app.command(epilog="Example: qwen2vl-robot status --namespace /left --json -")
def status(
    graph: GraphName = "auto", namespace: Namespace = "/", remap: Remap = None, json_file: JsonFile = None
) -> None:
    """Show what the robot does, what it waits for, and how its latest task ended."""
    from qwen2vl_robot.nodes.shell import describe, describe_question, describe_task

    with _shell(graph, namespace, remap) as shell:
        now = shell.status()
        save_json(now.model_dump(mode="json"), json_file)
        if json_file is not None:
            return
        _print(describe(now))
        if now.awaits is not None:
            _print(describe_question(shell.question()))
        if now.last_task is not None:
            _print(f"the latest task: {describe_task(now.last_task)}")
        if now.last_refusal is not None:
            _print(f"the latest refused instruction: {now.last_refusal}")


@app.command(epilog="Example: qwen2vl-robot approve 3fa2")
def approve(
    digest: Annotated[
        str | None, typer.Argument(help="The first letters of what was shown; asked at the prompt if left out.")
    ] = None,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Show what awaits a person's yes, and say it. Exit code 1: nothing awaits it, or the answer does not count."""
    from qwen2vl_robot.nodes.shell import describe_question

    begin = None if digest is None else digest.strip().lower()
    if begin is not None and (len(begin) < _PREFIX_CHARS or not set(begin) <= set("0123456789abcdef")):
        raise BadInputError(f"approve {digest}: give at least {_PREFIX_CHARS} of the digits 0 to 9 and a to f")
    with _shell(graph, namespace, remap) as shell:
        verdict = shell.question()
        _print(describe_question(verdict))
        if begin is None and not typer.confirm("Approve?", default=False):
            _print("not approved")
            raise typer.Exit(1)
        if begin is not None and not verdict.digest.startswith(begin):
            _print(f"not approved: what awaits a yes begins with {verdict.digest[:8]}")
            raise typer.Exit(1)
        answer = shell.approve(verdict)
    _print(answer.reason)
    raise typer.Exit(0 if answer.accepted else 1)


@app.command(epilog="Example: qwen2vl-robot stop --namespace /left")
def stop(graph: GraphName = "auto", namespace: Namespace = "/", remap: Remap = None) -> None:
    """Stop the robot; only a reset releases that. It is no substitute for the robot's own emergency stop.

    Exit code 1: nobody listened, or no controller showed that it is stopped.
    """
    from qwen2vl_robot.nodes.shell import describe

    with _shell(graph, namespace, remap) as shell:
        now = shell.stop()
    _print("sent; no controller shows that it is stopped" if now is None else describe(now))
    raise typer.Exit(1 if now is None else 0)


@app.command(epilog="Example: qwen2vl-robot reset --yes")
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask at the prompt.")] = False,
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Release a stop, after a person has looked at the robot. Exit code 1: it was not released."""
    from qwen2vl_robot.nodes.shell import describe

    with _shell(graph, namespace, remap) as shell:
        _print(describe(shell.status()))
        if not yes and not typer.confirm("Release it?", default=False):
            raise typer.Exit(1)
        _print(shell.reset())


@app.command(epilog="Example: qwen2vl-robot mcp --namespace /left")
def mcp(
    rules: Annotated[str, typer.Option(help="The cell's rules by which `check` judges.")] = "rules/default.yaml",
    camera: Annotated[str, typer.Option(help="Prefix of the topics of the camera that `look` shows.")] = "",
    graph: GraphName = "auto",
    namespace: Namespace = "/",
    remap: Remap = None,
) -> None:
    """Serve an agent on standard input and output (MCP): look, plan, check, do, status, stop. A person approves.

    The agent's program starts this; it ends when that leaves. It cannot approve a motion or release a stop.
    """
    from qwen2vl_robot.nodes.agent import Agent
    from qwen2vl_robot.nodes.launching import NodeOptions, join
    from qwen2vl_robot.rules import load_rules

    try:
        from qwen2vl_robot.nodes.agent_server import serve
    except ImportError as error:
        raise BadInputError(f"mcp needs the package mcp: pip install 'qwen2vl_robot[mcp]' ({error})") from error

    book = load_rules(rules)
    joined = join(NodeOptions(graph, namespace, remap or []), "agent")
    try:
        serve(Agent(joined, book, camera))
    finally:
        joined.close()


def check_camera(graph: str, namespace: str, remap: list[str] | None, json_file: str | None) -> int:
    """Have a controller show its arm to its cameras, with a person's yes at the prompt; returns the exit code."""
    from qwen2vl_robot.camera_verdict import CameraVerdict
    from qwen2vl_robot.nodes.shell import describe_camera, describe_question, describe_task

    with _shell(graph, namespace, remap) as shell:

        def ask(verdict: VerdictReport) -> None:
            _print(describe_question(verdict))
            is_wanted = False
            try:
                is_wanted = typer.confirm("Approve?", default=False, err=json_file == STDOUT)
            finally:  # also where the prompt is interrupted
                if not is_wanted:
                    shell.cancel()
            if is_wanted:
                _print(shell.approve(verdict).reason)

        tasks = shell.check_camera()
        try:
            task = shell.watch(tasks, ask)
        except KeyboardInterrupt:
            tell("the check goes on; `qwen2vl-robot stop` stops it")
            raise typer.Exit(130) from None
    if json_file != STDOUT:
        _print(describe_task(task))
        for camera in task.cameras:
            _print(describe_camera(camera))
    save_json(task.model_dump(mode="json"), json_file)
    verdicts = {camera.verdict for camera in task.cameras}
    if CameraVerdict.REFUSES in verdicts:
        return 1
    return 0 if verdicts == {CameraVerdict.PASSES} else 3


@contextlib.contextmanager
def _shell(graph: str, namespace: str, remap: list[str] | None) -> Iterator[Shell]:
    """Join the graph for one conversation."""
    from qwen2vl_robot.nodes.launching import NodeOptions, join
    from qwen2vl_robot.nodes.shell import Shell

    joined = join(NodeOptions(graph, namespace, remap or []), "shell")
    try:
        yield Shell(joined, _print)
    finally:
        joined.close()


def _print(text: str) -> None:
    """Print what may come from anybody on the graph: without control characters, in bounds."""
    for line in text.splitlines():
        typer.echo(shown(line, _LINE_CHARS))
