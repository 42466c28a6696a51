"""A person at a shell and a controller: each of the two in a process of its own, over the wire."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.camera_verdict import CameraVerdict
from qwen2vl_robot.errors import BadInputError, ExecutionError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.dds import DdsGraph
from qwen2vl_robot.messages import InstructionSource, OutcomeKind
from qwen2vl_robot.nodes import shell as shells
from qwen2vl_robot.nodes.reports import ApprovalReport, CameraReport, StatusReport, TaskOutcome, VerdictReport
from qwen2vl_robot.nodes.shell import Shell
from qwen2vl_robot.nodes.watch import run_node, wait_for
from qwen2vl_robot.planner.reply import format_reply
from tests.domains import DOMAIN
from tests.planner.test_server import Server, completion

DIGEST = "3fa2" + "0" * 60


class Robot:
    """A node that says about itself what a test wants, and keeps what it hears."""

    def __init__(self, namespace: str) -> None:
        self.graph = DdsGraph(interface.NODE_NAME, namespace=namespace)
        self.heard: dict[str, list[Any]] = {"instruction": [], "stop": [], "~/approve": []}
        self.status = StatusReport(state="idle", doing="")
        self.on: dict[str, Callable[[Any], None]] = {}
        self._publishers = {t.name: self.graph.publisher(t) for t in (interface.STATUS, interface.VERDICT)}
        for topic in (interface.INSTRUCTION, interface.STOP, interface.APPROVE):
            self.graph.subscribe(topic, lambda message, name=topic.name: self._hear(name, message.data))
        trigger = self.graph.message("std_srvs/srv/Trigger_Response")
        self.graph.serve(interface.RESET, lambda request: trigger(success=True, message="released"))
        self.lack = ""
        self.graph.serve(
            interface.CHECK_CAMERA, lambda request: trigger(success=not self.lack, message=self.lack or "taken")
        )

    def _hear(self, name: str, data: Any) -> None:
        self.heard[name].append(data)
        if name in self.on:
            self.on[name](data)

    def say(self, topic: interface.Topic, text: str) -> None:
        self._publishers[topic.name].publish(self.graph.message(topic.type)(data=text))

    def show(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)
        self.say(interface.STATUS, self.status.model_dump_json())

    def ask(self, *doubts: str) -> None:
        verdict = VerdictReport(
            digest=DIGEST, accepted=True, awaits_approval=True, doubts=list(doubts), action="grasp red block",
            duration_s=4.25, violations=[], rehearsal_s=0.4,
        )  # fmt: skip
        self.say(interface.VERDICT, verdict.model_dump_json())
        self.show(state="awaiting_approval", awaits=DIGEST)


@pytest.fixture
def controller(request: pytest.FixtureRequest) -> Iterator[Robot]:
    there = Robot("/" + "".join(c for c in request.node.name if c.isalpha())[:40])
    yield there
    there.graph.close()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def shell(controller: Robot, told: list[str]) -> Iterator[Shell]:
    graph = DdsGraph("shell", namespace=controller.graph.resolve("x").rpartition("/")[0])
    yield Shell(graph, told.append)
    graph.close()


def test_an_instruction_that_is_taken(controller: Robot, shell: Shell) -> None:
    controller.on["instruction"] = lambda text: controller.show(state="working", doing="observe", instruction=text)
    controller.show()
    assert shell.say("  pick up the red block ").instruction == "pick up the red block"
    assert controller.heard["instruction"] == ["pick up the red block"]


def test_a_refused_instruction_is_an_error_with_its_reason(controller: Robot, shell: Shell) -> None:
    controller.on["instruction"] = lambda text: controller.show(refused_instructions=1, last_refusal="a task runs")
    controller.show()
    with pytest.raises(ExecutionError, match="refused: a task runs"):
        shell.say("go home")


def test_a_stop_word_shows_the_stop(controller: Robot, shell: Shell) -> None:
    controller.on["instruction"] = lambda text: controller.show(state="stopped", stopped_by="text instruction 'halt'")
    controller.show()
    assert shell.say("halt").stopped_by == "text instruction 'halt'"


@pytest.mark.parametrize("text", ["", "   ", "x" * 5000])
def test_what_is_no_instruction_is_not_sent(controller: Robot, shell: Shell, text: str) -> None:
    controller.show()
    with pytest.raises(BadInputError):
        shell.say(text)
    assert controller.heard["instruction"] == []


def test_without_a_controller_every_word_is_an_error(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    monkeypatch.setattr(shells, "HEAR_S", 0.3)
    graph = DdsGraph("shell", namespace="/nobody_is_here")
    try:
        alone = Shell(graph, told.append)
        for act in (alone.status, lambda: alone.say("go home"), alone.stop, alone.reset, alone.question):
            with pytest.raises(ExecutionError, match="nobody|no controller"):
                act()
    finally:
        graph.close()


def test_garbage_about_itself_is_no_status(controller: Robot, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shells, "HEAR_S", 0.5)
    for text in ("", "[]", "{}", '{"state": "dancing"}', "[" * 9000, "{" + '"a":' * 5000):
        controller.say(interface.STATUS, text)
    with pytest.raises(ExecutionError, match="no controller is heard"):
        shell.status()
    controller.show(state="idle")
    assert shell.status().state == "idle"


def test_a_yes_is_for_what_was_shown(controller: Robot, shell: Shell) -> None:
    def answer(text: str) -> None:
        report = ApprovalReport(digest=text, accepted=text == DIGEST, reason="approved")
        controller.show(state="working", awaits=None, approval=report)

    def after_other_news(text: str) -> None:
        controller.show(doing="still thinking")
        answer(text)

    controller.on["~/approve"] = after_other_news
    controller.show(approval=ApprovalReport(digest="0" * 64, accepted=False, reason="an earlier yes"))
    controller.ask("I do not know 'crimson'")
    shell._until(lambda: shell.status().awaits is not None, 5.0)  # the news before may be there first
    verdict = shell.question()
    asked = shells.describe_question(verdict)
    assert "grasp red block, 4.2 s" in asked
    assert "3fa20000" in asked
    assert "I do not know 'crimson'" in asked
    assert shell.approve(verdict).accepted
    assert controller.heard["~/approve"] == [DIGEST]


def test_nothing_is_approved_unseen(controller: Robot, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shells, "ANSWER_S", 0.4)
    controller.show(state="awaiting_approval", awaits=DIGEST)
    with pytest.raises(ExecutionError, match="approved unseen"):
        shell.question()
    controller.show(state="idle", awaits=None)
    shell._until(lambda: shell.status().awaits is None, 5.0)
    with pytest.raises(ExecutionError, match="nothing awaits an approval"):
        shell.question()
    assert controller.heard["~/approve"] == []


def test_a_stop_is_sent_also_where_one_is_latched_already(controller: Robot, shell: Shell) -> None:
    controller.show(state="stopped", stopped_by="topic stop")
    stopped = shell.stop()
    assert stopped is not None
    assert stopped.stopped_by == "topic stop"
    assert controller.heard["stop"]
    assert all(controller.heard["stop"])


def test_a_stop_that_nobody_confirms_is_said_to_be_none(
    controller: Robot, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shells, "HEAR_S", 1.5)
    assert shell.stop() is None
    assert len(controller.heard["stop"]) > 3


def test_a_controller_that_goes_ends_the_watching(controller: Robot, shell: Shell, told: list[str]) -> None:
    controller.show(state="working", doing="run", instruction="go home")
    shell.status()
    threading.Timer(0.5, controller.graph.close).start()
    with pytest.raises(ExecutionError, match="the controller is gone"):
        shell.watch(0)
    assert told == ["working run: go home"]


def test_a_reset_brings_the_controllers_answer(controller: Robot, shell: Shell) -> None:
    assert shell.reset() == "released"


def test_a_check_asks_once_and_brings_what_the_arm_says_of_the_camera(controller: Robot, shell: Shell) -> None:
    seen = CameraReport(
        name="side", verdict=CameraVerdict.REFUSES, text="the camera is off", shown_px=9000, size_m=0.0301,
        off_m=(0.03, -0.002, 0.0), unsure_m=0.0004, turn_rad=0.0,
    )  # fmt: skip
    ended = TaskOutcome(
        instruction="check the camera", source=InstructionSource.CHECK, outcome=OutcomeKind.NOT_VERIFIED, causes=[],
        reasons=[], steps=[], seconds={}, cameras=[seen],
    )  # fmt: skip
    controller.on["~/approve"] = lambda digest: controller.show(
        state="idle", awaits=None, tasks=1, last_task=ended,
        approval=ApprovalReport(digest=digest, accepted=True, reason="approved"),
    )  # fmt: skip
    controller.show()
    tasks = shell.check_camera()
    controller.ask("the camera may be wrong until it is checked")
    asked: list[str] = []

    def say_yes(verdict: VerdictReport) -> None:
        asked.append(verdict.digest)
        assert shell.approve(verdict).accepted

    (camera,) = shell.watch(tasks, say_yes).cameras
    assert asked == [DIGEST]
    said = shells.describe_camera(camera)
    assert said.startswith("side: refuses: the camera is off")
    assert "30.1 mm off: +30.0 mm along x, -2.0 mm along y, +0.0 mm along z, give or take 0.8 mm" in said


def test_a_check_that_is_refused_is_an_error_with_its_reason(controller: Robot, shell: Shell) -> None:
    controller.lack = "not taken: another task is under way"
    controller.show()
    with pytest.raises(ExecutionError, match="another task is under way"):
        shell.check_camera()


# ------------------------------------------------------------------------------------------- the whole cell


def command(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen2vl_robot", *arguments, "--graph", "dds", "--namespace", "/left"],
        input=answer, capture_output=True, text=True, timeout=300, env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
    )  # fmt: skip


@contextlib.contextmanager
def whole_cell(folder: Path, told: list[str], seed: int, *parameters: str) -> Iterator[tuple[Shell, Any]]:
    """Robot, supervisor and controller as processes; yields who looks at them, and the controller's process.

    The model is a server that always says to go home, which takes no time to load.
    """
    model = Server()
    model.answers(completion(format_reply([], [{"do": "home"}])))
    parameters = ("use_sim_time:=true", f"seed:={seed}", f"model:={model.url}#Qwen2-VL-2B-Instruct", *parameters)
    nodes = (
        ["sim", "--seed", str(seed)],
        ["supervisor", "-p", "use_sim_time:=true"],
        ["run", *(part for p in parameters for part in ("-p", p))],
    )
    with contextlib.ExitStack() as stack:
        stack.callback(model.close)
        where, domain = ["--graph", "dds", "--namespace", "/left"], {"ROS_DOMAIN_ID": str(DOMAIN)}
        started = {folder / f"{node[0]}.ready": [*node, *where] for node in nodes}
        processes = [stack.enter_context(run_node(command, ready, domain)) for ready, command in started.items()]
        for ready, process in zip(started, processes, strict=True):
            wait_for(ready.exists, process, ready.stem, 180.0)
        graph = DdsGraph("looker", namespace="/left", domain_id=DOMAIN)
        stack.callback(graph.close)
        yield Shell(graph, told.append), process


def awaits(looker: Shell) -> str | None:
    """What the controller awaits; nothing too while a busy machine lets none of its words through."""
    with contextlib.suppress(ExecutionError):
        return looker.status().awaits
    return None


def test_a_person_who_says_no_at_the_prompt_leaves_the_camera_unknown(tmp_path: Path, told: list[str]) -> None:
    with whole_cell(tmp_path, told, 0, "approval:=auto", "camera_check:=required"):
        held = command("say", "go home", "--watch")
        assert held.returncode == 1
        assert "camera unchecked" in held.stdout
        denied = command("calibrate", "--live", answer="n\n")
        assert denied.returncode == 3, denied
        assert "look whether the arm's way is free" in denied.stdout
        assert "camera: unknown: camera unchecked" in denied.stdout


def test_a_person_at_a_shell_brings_a_robot_through_a_task(tmp_path: Path, told: list[str]) -> None:
    with whole_cell(tmp_path, told, 3, "approval:=confirm") as (looker, process):
        taken = command("say", "go home")
        assert (taken.returncode, taken.stderr) == (0, ""), taken
        wait_for(lambda: awaits(looker), process, "controller", 180.0)
        awaited = str(looker.status().awaits)
        refused = command("approve", answer="n\n")
        assert refused.returncode == 1
        assert "not approved" in refused.stdout
        assert f"Approve? {awaited[:8]}" in refused.stdout
        approved = command("approve", awaited[:6])
        assert (approved.returncode, approved.stdout.splitlines()[-1]) == (0, "approved"), approved
        stopped = command("stop")
        assert stopped.returncode == 0, stopped
        assert "topic stop" in stopped.stdout
        said = command("say", "go home")
        assert said.returncode == 1
        assert "refused" in said.stderr
        assert looker.status().stopped_by == "topic stop"
        released = command("reset", "--yes")
        assert released.returncode == 0, released
        wait_for(lambda: looker.status().stopped_by is None, process, "controller", 60.0)


@pytest.mark.parametrize("arguments", [(), ("views", "--live")], ids=["nothing", "both"])
def test_calibrate_wants_a_folder_or_a_running_controller(arguments: tuple[str, ...]) -> None:
    wrong = command("calibrate", *arguments)
    assert wrong.returncode == 2
    assert "give the folder of views, or --live" in wrong.stderr


def test_a_check_without_a_controller_is_an_error() -> None:
    alone = command("calibrate", "--live")
    assert alone.returncode == 1
    assert "no controller is heard" in alone.stderr


def test_what_is_no_digest_approves_nothing() -> None:
    wrong = command("approve", "3fa2; rm")
    assert wrong.returncode == 2
    assert "give at least 4 of the digits" in wrong.stderr
