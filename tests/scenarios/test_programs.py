"""Programs on the graph and a real node, robot, supervisor and twin, each in a process of its own over DDS."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.graph.interface import GoalStatus
from qwen2vl_robot.nodes.watch import run_node, wait_for
from qwen2vl_robot.reasons import RequestReason
from tests.domains import DOMAIN
from tests.hostile import ROOT
from tests.quick import quick_robot, quick_scene

TIMED = "use_sim_time:=true"
OURS = {f"~/{name}": f"/{interface.NODE_NAME}/{name}" for name in ("execute", "approve", "status", "cancel", "reset")}
ASKER = f"""
import sys, time
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
graph = DdsGraph("dying", domain_id={DOMAIN}, remap={OURS!r})
client = graph.action_client(interface.EXECUTE)
while not client.is_served():
    time.sleep(0.05)
goal = graph.message(interface.EXECUTE.type + "_Goal")(instruction="pick up the red block")
sent = client.send(goal)
while sent.accepted() is None:
    time.sleep(0.01)
print("accepted", flush=True)
time.sleep(600)
"""


class Program:
    """A client of the node, and what it heard."""

    def __init__(self) -> None:
        self.graph = DdsGraph("program", domain_id=DOMAIN, remap=OURS)
        self.client = self.graph.action_client(interface.EXECUTE)
        self.scenes: list[Any] = []
        self.status: dict[str, Any] = {}
        self.feedback: list[Any] = []
        self.joints: dict[str, float] = {}
        self.graph.subscribe(interface.PLANNING_SCENE, self.scenes.append)
        self.graph.subscribe(interface.JOINT_STATES, lambda m: self.joints.update(zip(m.name, m.position, strict=True)))
        self.graph.subscribe(interface.STATUS, lambda m: self.status.update(json.loads(m.data)))
        until(self.client.is_served)

    def send(self, text: str, **fields: str) -> Any:
        goal = self.graph.message(f"{interface.EXECUTE.type}_Goal")(instruction=text, **fields)
        return self.client.send(goal, self.feedback.append)

    def result(self, sent: Any) -> tuple[GoalStatus, Any]:
        until(lambda: sent.outcome() is not None)
        found: tuple[GoalStatus, Any] = sent.outcome()
        return found


def until(condition: Callable[[], Any], at_most_s: float = 300.0) -> None:
    """Wait for what a busy machine shows late."""
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("nodes")
    given = (TIMED, f"robot:={quick_robot()}", "silence_s:=2.0", "approval:=auto", "approval_timeout_s:=300.0")
    nodes = (
        ["sim", "--seed", "3", "--scene", quick_scene("default")],
        ["supervisor", *(part for p in given[:3] for part in ("-p", p))],
        ["run", *(part for p in given for part in ("-p", p))],
    )
    with contextlib.ExitStack() as stack:
        domain = {"ROS_DOMAIN_ID": str(DOMAIN)}
        started = {folder / f"{node[0]}.ready": [*node, "--graph", "dds"] for node in nodes}
        processes = [stack.enter_context(run_node(command, ready, domain)) for ready, command in started.items()]
        for ready, process in zip(started, processes, strict=True):
            wait_for(ready.exists, process, ready.stem, 300.0)
        asking = Program()
        stack.callback(asking.graph.close)
        until(lambda: asking.status.get("state") == "idle")
        yield asking


def test_a_motion_through_the_table_is_refused_by_name_and_a_safe_one_runs(program: Program) -> None:
    """The example that the page shows."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    command = [sys.executable, str(ROOT / "examples" / "motion_on_the_graph.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    down, turn, *_, ran = done.stdout.splitlines()
    assert down.startswith("down through the table: refused: collision"), done.stdout
    assert "table" in down or "obstacle" in down
    assert turn == "a turn: accepted"
    assert ran.startswith(("a turn, run: achieved", "a turn, run: not_verified")), done.stdout
    assert program.status["last_task"]["source"] == "trajectory"


def test_moveit_gets_the_things_that_were_measured(program: Program) -> None:
    until(lambda: program.scenes)
    scene = program.scenes[-1]
    assert scene.is_diff and scene.robot_state.is_diff
    things = [body for body in scene.world.collision_objects if body.operation == 0]
    assert things
    assert all(body.header.frame_id == "panda_link0" for body in things)
    places = np.array([[p.position.x, p.position.y, p.position.z] for b in things for p in b.primitive_poses])
    assert np.abs(places).max() < 1.5


def test_a_task_with_a_persons_yes_ends_as_achieved(program: Program) -> None:
    program.feedback.clear()
    sent = program.send("go home", approval="confirm")
    until(lambda: any(f.awaits for f in program.feedback) or sent.outcome())
    asked = next(f for f in program.feedback if f.awaits)
    assert json.loads(asked.verdict)["digest"] == asked.awaits
    busy = program.result(program.send("go home"))
    assert (busy[0], busy[1].reason) == (GoalStatus.ABORTED, RequestReason.BUSY)
    wrong = program.graph.call(interface.APPROVE_NOW, 60.0, digest="ab" * 32)
    assert not wrong.accepted
    right = program.graph.call(interface.APPROVE_NOW, 60.0, digest=asked.awaits)
    assert (right.accepted, right.text) == (True, "approved")
    status, result = program.result(sent)
    assert (status, result.outcome) == (GoalStatus.SUCCEEDED, "achieved"), result.text
    assert json.loads(result.report)["instruction"] == "go home"


def test_what_a_voice_asks_waits_for_a_person_and_can_be_cancelled(program: Program) -> None:
    program.feedback.clear()
    sent = program.send("pick up the red block", source="voice")
    until(lambda: any(f.awaits for f in program.feedback) or sent.outcome())
    asked = next(f for f in program.feedback if f.awaits)
    assert any("voice" in doubt for doubt in json.loads(asked.verdict)["doubts"])
    sent.cancel()
    status, result = program.result(sent)
    assert (status, result.reason) == (GoalStatus.CANCELED, "cancelled")
    assert "the client of ~/execute" in result.text


def test_a_cancel_on_the_way_halts_the_arm_and_says_who(program: Program) -> None:
    program.feedback.clear()
    until(lambda: program.joints)
    began = dict(program.joints)
    sent = program.send("pick up the red block")
    until(lambda: any(abs(program.joints[name] - q) > 0.05 for name, q in began.items()) or sent.outcome())
    sent.cancel()
    status, result = program.result(sent)
    assert (status, result.outcome, result.reason) == (GoalStatus.CANCELED, "aborted", "cancelled"), result.text
    assert "the client of ~/execute" in result.text
    until(lambda: program.status["stopped_by"] is not None)  # an aborted motion: a person looks first
    refused = program.result(program.send("go home"))
    assert refused[1].reason == "stopped"
    assert program.graph.call(interface.RESET, 60.0).success


def test_a_client_that_dies_changes_nothing(program: Program) -> None:
    tasks = program.status["tasks"]
    dying = subprocess.Popen([sys.executable, "-c", ASKER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "accepted\n"
    dying.kill()
    dying.wait(20)
    until(lambda: program.status["tasks"] > tasks)
    assert program.status["last_task"]["outcome"] == "achieved", program.status["last_task"]
    assert program.status["stopped_by"] is None
    until(lambda: program.scenes[-1].robot_state.attached_collision_objects)
    (held,) = program.scenes[-1].robot_state.attached_collision_objects
    assert (held.object.type.key, held.object.operation) == ("red block", 0)
