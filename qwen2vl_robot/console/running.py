"""A command's options → a console that runs until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

from qwen2vl_robot.console.desk import Desk
from qwen2vl_robot.console.server import Console
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.launching import NodeOptions, join

MOST_ROBOTS = 8


def run_console_process(
    options: NodeOptions, namespaces: Sequence[str], port: int, show: Callable[[str], None]
) -> None:
    """Serve the page of the robots in these namespaces.

    Args:
        show: is called with the page's address, which holds the token.

    Raises:
        BadInputError: a namespace is given twice, there are too many, or the port is taken.
    """
    if len(set(namespaces)) != len(namespaces) or not 0 < len(namespaces) <= MOST_ROBOTS:
        raise BadInputError(f"--namespace: give 1 to {MOST_ROBOTS} different ones, not {', '.join(namespaces)}")
    with contextlib.ExitStack() as graphs:
        desks = []
        for namespace in namespaces:
            graph = join(replace(options, namespace=namespace), "console")
            graphs.callback(graph.close)
            desks.append(Desk(graph, namespace))
        asyncio.run(_serve(Console(desks), options, port, show))


async def _serve(console: Console, options: NodeOptions, port: int, show: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    show(await console.start(port))
    if options.ready is not None:
        options.ready.touch()
    try:
        await ended.wait()
    finally:
        await console.close()
