"""The command that serves the console's page."""

from __future__ import annotations

from typing import Annotated

import typer

from qwen2vl_robot.cli.base import app
from qwen2vl_robot.cli.graph import GraphName, Ready, Remap
from qwen2vl_robot.errors import BadInputError

Port = Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 takes a free one.")]


@app.command(epilog="Example: qwen2vl-robot console --namespace /left --namespace /right")
def console(
    namespace: Annotated[list[str] | None, typer.Option(help="A robot's; as often as there are robots.")] = None,
    port: Port = 8765,
    graph: GraphName = "auto",
    remap: Remap = None,
    ready: Ready = None,
) -> None:
    """Serve a web page that shows one robot or several and takes a person's words, yes, no, stop and reset.

    The printed address holds a token; nothing answers without it, or from another host. Nothing moves or stops
    because the page or this command ends.
    """
    try:
        from qwen2vl_robot.console.running import run_console_process
    except ModuleNotFoundError as error:
        raise BadInputError(f"{error.name} is missing; pip install 'qwen2vl_robot[console]'") from error
    from qwen2vl_robot.nodes.launching import NodeOptions

    run_console_process(NodeOptions(graph, "/", remap or [], ready), namespace or ["/"], port, _show)


def _show(address: str) -> None:
    typer.echo(f"console: {address}")
