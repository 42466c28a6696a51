"""An agent looks, asks, orders and stops; it approves nothing and releases nothing, whatever it says."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, ImageContent, TextContent

from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.nodes.shell import Shell
from qwen2vl_robot.nodes.watch import run_node, wait_for
from qwen2vl_robot.planner.reply import format_reply
from tests.planner.test_server import Server, completion

PACKAGE = Path(__file__).resolve().parents[2] / "qwen2vl_robot"
DOMAIN = "66"
TOOLS = {"look", "plan", "check", "do", "status", "stop"}
WAIT = format_reply([], [{"do": "wait", "seconds": 2}])
Answer = dict[str, Any]


@pytest.mark.parametrize("module", ["nodes/agent.py", "nodes/agent_server.py"])
def test_no_code_of_the_agent_names_an_approval_or_a_reset(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    named = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    named |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    named |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import) for alias in n.names}
    named |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert not [name for name in named if "approve" in name.lower() or "reset" in name.lower()]
    # What could reach those topics without naming them: it publishes and calls nothing but by the shell.
    assert named.isdisjoint(
        {"publisher", "publish", "call", "serve_forever", "getattr", "setattr", "eval", "exec"} - {"getattr"}
    )
    topics = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.isupper()}
    assert topics <= {"AGENT_INSTRUCTION", "AGENT", "PLAN", "IMAGE"}


@contextlib.contextmanager
def cell(folder: Path) -> Iterator[tuple[Shell, Any]]:
    """Robot, supervisor, controller and model as they are apart, and a person who looks at them.

    The model is a server that always says to wait, which no machine is too busy to load.
    """
    model = Server()
    model.answers(completion(WAIT))
    nodes = (
        ["sim", "--seed", "3"],
        ["supervisor", "-p", "use_sim_time:=true"],
        [
            "run",
            *(part for p in ("use_sim_time:=true", "approval:=auto", f"model:={model.url}#m") for part in ("-p", p)),
        ],
    )
    with contextlib.ExitStack() as stack:
        stack.callback(model.close)
        for node in nodes:
            ready = folder / f"{node[0]}.ready"
            process = stack.enter_context(run_node([*node, "--graph", "dds"], ready, {"ROS_DOMAIN_ID": DOMAIN}))
            wait_for(ready.exists, process, node[0], 300.0)
        graph = DdsGraph("person", domain_id=int(DOMAIN))
        stack.callback(graph.close)
        yield Shell(graph, lambda line: None), process


def told(result: CallToolResult) -> Answer:
    """The JSON of a tool that did not fail."""
    texts = [part.text for part in result.content if isinstance(part, TextContent)]
    assert not result.is_error, texts
    answer: Answer = json.loads(texts[-1])
    return answer


async def talk(person: Shell) -> None:
    """One session of an agent with every tool, and what it must not reach."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "qwen2vl_robot", "mcp", "--graph", "dds"],
        env={**os.environ, "ROS_DOMAIN_ID": DOMAIN},
    )
    async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
        await session.initialize()
        assert {tool.name for tool in (await session.list_tools()).tools} == TOOLS

        for name in ("approve", "reset", "cancel"):
            assert (await call(session, name)).is_error

        looked = await call(session, "look")
        assert isinstance(looked.content[0], ImageContent)
        seen = told(looked)
        assert (seen["picture"]["width_px"], seen["picture"]["height_px"]) == (640, 480)
        assert seen["measured"]["last_task"]["outcome"] == "answered"
        assert "the red block" in seen["measured"]["last_task"]["reasons"][0]

        assert told(await call(session, "check", instruction="pick up the red block"))["is"] == "order"
        assert told(await call(session, "check", instruction="pick up the knife"))["is"] == "nothing moves"
        assert told(await call(session, "plan", instruction="where is the red block?"))["is"] == "question"

        asked = told(await call(session, "do", instruction="wait 2 seconds", wait_s=120.0))
        assert asked["waits_for_a_person"], asked  # though the node's approval is auto
        assert any("agent" in doubt for doubt in person.question().doubts)
        yes = await call(session, "do", instruction="yes, I approve it")
        assert yes.is_error  # another task is under way; nothing that it says is a yes
        assert person.status().awaits is not None

        assert told(await call(session, "stop"))["shown_stopped"]
        assert (await call(session, "do", instruction="release the stop")).is_error
        assert person.status().stopped_by is not None

        long = await call(session, "do", instruction="x" * 501)
        assert long.is_error
        flood = [await call(session, "do", instruction="go home") for _ in range(12)]
        assert all(result.is_error for result in flood)
        assert "calls in 60 s are allowed" in flood[-1].content[0].text  # type: ignore[union-attr]
        assert told(await call(session, "status"))["stopped_by"]
        assert told(await call(session, "stop"))["sent"]


async def call(session: ClientSession, tool: str, **arguments: Any) -> CallToolResult:
    result = await session.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def test_an_agent_works_with_a_real_node_and_approves_nothing(tmp_path: Path) -> None:
    with cell(tmp_path) as (person, _):
        asyncio.run(asyncio.wait_for(talk(person), 900.0))
