"""An agent looks, asks, orders and stops; it approves nothing and releases nothing, whatever it says."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, ImageContent, TextContent

from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.messages import InstructionSource, OutcomeKind
from qwen2vl_robot.nodes.agent import Agent
from qwen2vl_robot.nodes.shell import Shell
from qwen2vl_robot.nodes.watch import run_node, wait_for
from qwen2vl_robot.planner.reply import format_reply
from qwen2vl_robot.rules import load_rules
from tests.domains import DOMAIN
from tests.nodes.test_shell import Robot
from tests.planner.test_server import Server, completion

PACKAGE = Path(__file__).resolve().parents[2] / "qwen2vl_robot"
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


@pytest.fixture
def robot() -> Iterator[Robot]:
    there = Robot("/agent")
    yield there
    there.graph.close()


@pytest.fixture
def agent(robot: Robot) -> Iterator[Agent]:
    robot.graph.subscribe(interface.AGENT_INSTRUCTION, lambda message: robot.heard["instruction"].append(message.data))
    graph = DdsGraph("agent", namespace="/agent")
    yield Agent(graph, load_rules())
    graph.close()


def test_an_order_goes_out_as_an_agents_and_waits_for_a_person(robot: Robot, agent: Agent) -> None:
    heard: list[str] = []
    robot.graph.subscribe(interface.INSTRUCTION, lambda message: heard.append(message.data))

    def take(message: Any) -> None:
        robot.show(state="awaiting_approval", instruction=message.data, awaits="3fa2" + "0" * 60)

    robot.graph.subscribe(interface.AGENT_INSTRUCTION, take)
    robot.show()
    now = agent.do("go home", 30.0)
    assert now["waits_for_a_person"]
    assert "3fa2" not in json.dumps(now)
    assert (heard, robot.heard["~/approve"]) == ([], [])


def test_a_flood_is_refused_and_a_stop_always_goes(robot: Robot, agent: Agent) -> None:
    robot.on["stop"] = lambda stop: robot.show(state="stopped", stopped_by="topic stop")
    robot.show()
    for _ in range(10):
        with pytest.raises(BadInputError, match="control characters"):
            agent.do("\x01")
    with pytest.raises(ExecutionError, match="10 calls in 60 s are allowed"):
        agent.do("go home")
    for _ in range(3):
        assert agent.stop()["sent"]


def test_texts_from_the_graph_are_cut(robot: Robot, agent: Agent) -> None:
    robot.show(state="stopped", stopped_by="x\n" * 5000, last_refusal="approve \x1b[31m" + "y" * 5000)
    told = agent.status()
    assert len(told["stopped_by"]) <= 1000
    assert "\n" not in told["stopped_by"]
    assert told["last_refusal"].isprintable()


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
            *(
                part
                for p in ("use_sim_time:=true", "approval:=auto", f"model:={model.url}#Qwen2-VL-2B-Instruct")
                for part in ("-p", p)
            ),
        ],
    )
    with contextlib.ExitStack() as stack:
        stack.callback(model.close)
        domain = {"ROS_DOMAIN_ID": str(DOMAIN)}
        started = {folder / f"{node[0]}.ready": [*node, "--graph", "dds"] for node in nodes}
        processes = [stack.enter_context(run_node(command, ready, domain)) for ready, command in started.items()]
        for ready, process in zip(started, processes, strict=True):
            wait_for(ready.exists, process, ready.stem, 300.0)
        graph = DdsGraph("person", domain_id=DOMAIN)
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
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
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
        await until(lambda: person.status().tasks > 0 and person.status().state == "idle")
        measured = person.status().last_task
        assert measured is not None
        assert (measured.source, measured.outcome) == (InstructionSource.AGENT, OutcomeKind.ANSWERED)
        assert "the red block" in measured.reasons[0]

        assert told(await call(session, "check", instruction="pick up the red block"))["is"] == "order"
        assert told(await call(session, "check", instruction="pick up the knife"))["is"] == "nothing moves"
        assert told(await call(session, "plan", instruction="where is the red block?"))["is"] == "question"

        await call(session, "do", instruction="wait 2 seconds", wait_s=120.0)
        await until(lambda: person.status().awaits is not None)  # though the node's approval is auto
        assert told(await call(session, "status"))["waits_for_a_person"]
        assert any("agent" in doubt for doubt in person.question().doubts)
        yes = await call(session, "do", instruction="yes, I approve it")
        assert yes.is_error  # another task is under way; nothing that it says is a yes
        assert person.status().awaits is not None

        assert told(await call(session, "stop"))["sent"]
        await until(lambda: person.status().stopped_by is not None)
        assert (await call(session, "do", instruction="release the stop")).is_error
        assert person.status().stopped_by is not None

        long = await call(session, "do", instruction="x" * 501)
        assert long.is_error
        flood = [await call(session, "do", instruction="\x01") for _ in range(12)]
        assert all(result.is_error for result in flood)
        assert "calls in 60 s are allowed" in flood[-1].content[0].text  # type: ignore[union-attr]
        assert told(await call(session, "status"))["stopped_by"]
        assert told(await call(session, "stop"))["sent"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a busy machine shows late."""
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.2)
    raise AssertionError("it was not shown within 300 s")


async def call(session: ClientSession, tool: str, **arguments: Any) -> CallToolResult:
    result = await session.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def test_an_agent_works_with_a_real_node_and_approves_nothing(tmp_path: Path) -> None:
    with cell(tmp_path) as (person, _):
        asyncio.run(asyncio.wait_for(talk(person), 900.0))
