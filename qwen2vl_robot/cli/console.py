"""The commands that serve the console's page, and measure it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from qwen2vl_robot.cli.base import STDOUT, JsonFile, app, bench
from qwen2vl_robot.cli.graph import GraphName, Ready, Remap
from qwen2vl_robot.cli.output import Results, gather, provenance, save_json
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


@bench.command("console", epilog="Example: qwen2vl-robot bench console --json out/console.json")
def bench_console(
    clicks: Annotated[int, typer.Option(min=1, max=10_000, help="Stops by a click on the page.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Of the latency with and without a console.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Measure the console's page in a headless Chromium, and what it costs the controller.

    Frames a second beside the 3D view, first paint, stop click to halt on the wire alone and among 50 readers and
    1,000 silent connections, and a stop's latency with and without a console that is read.
    """
    from qwen2vl_robot.benchmarks.console import PARTS, run_console

    def answer(results: Results) -> dict[str, Any]:
        return {**provenance(), "totals": {r["part"]: {k: v for k, v in r.items() if k != "part"} for r in results}}

    found = gather(run_console(clicks, rounds), "parts", len(PARTS), answer=answer, json_file=json_file)
    if json_file != STDOUT:
        for part in PARTS:
            figures = json.dumps(found["totals"][part])
            typer.echo(f"{part}: {figures}")
    save_json(found, json_file)
