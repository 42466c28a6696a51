"""The controller's ears: what it takes, what it refuses and says, and that only a reset releases a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import ApprovalMode, InstructionSource
from qwen2vl_robot.nodes.controller_node import ControllerNode
from qwen2vl_robot.nodes.settings import Settings
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph

URDF = PROFILE.urdf_path.read_text(encoding="utf-8")


class Cell:
    """A controller without its workers, and what it told."""

    def __init__(self, **settings: Any) -> None:
        self.graph = LocalGraph()
        self.node = ControllerNode(self.graph, Settings(approval=ApprovalMode.AUTO, **settings))
        self.node.activate()

    def say(self, text: str, row: interface.Topic = interface.INSTRUCTION) -> None:
        self.graph.give(row, data=text)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.graph.sent["~/status"][-1].data)
        return told

    def waiting(self) -> Any:
        """The instruction that `spin` would carry out next."""
        return self.node._tasks.get_nowait() if not self.node._tasks.empty() else None


@pytest.fixture
def cell() -> Iterator[Cell]:
    made = Cell()
    yield made
    made.node.close()


def test_an_instruction_becomes_the_task(cell: Cell) -> None:
    cell.say(" pick up the red block ")
    assert cell.status()["state"] == "working"
    assert cell.waiting().text == "pick up the red block"


def test_a_spoken_one_is_marked_as_such(cell: Cell) -> None:
    cell.say("pick up the red block", interface.VOICE_INSTRUCTION)
    assert cell.waiting().source is InstructionSource.VOICE


@pytest.mark.parametrize("text", ["reset", "approve", "yes, go on", "release the stop"])
def test_voice_never_releases_a_stop(cell: Cell, text: str) -> None:
    cell.graph.give(interface.STOP, data=True)
    cell.say(text, interface.VOICE_INSTRUCTION)
    assert cell.status()["state"] == "stopped"
    assert cell.waiting() is None


def test_a_stop_latches_until_the_reset_service(cell: Cell) -> None:
    cell.graph.give(interface.STOP, data=True)
    cell.graph.give(interface.STOP, data=False)
    assert cell.status()["state"] == "stopped"
    assert cell.status()["stopped_by"] == "topic stop"
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "~/reset" in cell.status()["last_refusal"]
    answer = cell.graph.call(interface.RESET)
    assert (answer.success, answer.message) == (True, "released")
    assert cell.status()["state"] == "idle"
    cell.say("pick up the red block")
    assert cell.waiting() is not None


def test_false_on_the_stop_topic_does_nothing(cell: Cell) -> None:
    cell.graph.give(interface.STOP, data=False)
    assert cell.status()["state"] == "idle"


def test_the_stop_service_latches_too(cell: Cell) -> None:
    assert cell.graph.call(interface.STOP_NOW).success
    assert cell.node.stopped_by()


def test_a_burst_is_one_task_and_many_refusals(cell: Cell) -> None:
    told = len(cell.graph.sent["~/status"])
    for number in range(1000):
        cell.say(f"pick up the red block {number}")
    assert cell.waiting().text == "pick up the red block 0"
    assert cell.waiting() is None
    assert cell.node.status.report().refused_instructions == 999
    assert len(cell.graph.sent["~/status"]) < told + 5
    assert cell.node.health.troubles()["instruction"].count == 999


def test_ten_megabytes_are_refused_in_a_moment(cell: Cell) -> None:
    began_s = time.perf_counter()
    cell.say("x" * 10_000_000)
    assert time.perf_counter() - began_s < 1.0
    assert cell.waiting() is None
    assert "10000000 characters" in cell.status()["last_refusal"]
    assert len(cell.graph.sent["~/status"][-1].data) < 5000


@pytest.mark.parametrize("text", ["", "   ", "a\x00b"])
def test_what_is_no_sentence_is_refused(cell: Cell, text: str) -> None:
    cell.say(text)
    assert cell.waiting() is None
    assert "instruction" in cell.node.health.troubles()


def test_nothing_is_taken_before_the_node_is_active() -> None:
    cell = Cell()
    cell.node.deactivate()
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "not active" in cell.status()["last_refusal"]
    cell.node.close()


def test_an_approval_is_answered_in_the_status(cell: Cell) -> None:
    cell.graph.give(interface.APPROVE, data="ab" * 32)
    assert cell.status()["approval"] == {
        "digest": "ab" * 32,
        "accepted": False,
        "reason": "nothing awaits an approval",
    }


def test_cancel_without_a_task_says_so(cell: Cell) -> None:
    assert cell.graph.call(interface.CANCEL).message == "there is no task"


def test_a_description_that_agrees_is_fine(cell: Cell) -> None:
    cell.graph.give(interface.ROBOT_DESCRIPTION, data=URDF)
    cell.say("pick up the red block")
    assert cell.waiting() is not None


@pytest.mark.parametrize(
    ("urdf", "told"),
    [
        (URDF.replace("panda_joint3", "elbow"), "no joint panda_joint3"),
        ("<robot", "not a URDF"),
        ("<sdf/>", "its root is <sdf>"),
        ('<!DOCTYPE r [<!ENTITY a "b">]><robot/>', "entity"),
    ],
)
def test_a_description_that_disagrees_forbids_motion(cell: Cell, urdf: str, told: str) -> None:
    cell.graph.give(interface.ROBOT_DESCRIPTION, data=urdf)
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert told in cell.status()["last_refusal"]
    assert "robot_description" in cell.node.health.troubles()


def test_a_required_description_must_have_come() -> None:
    cell = Cell(needs_description=True)
    cell.say("pick up the red block")
    assert cell.waiting() is None
    assert "no robot_description came yet" in cell.status()["last_refusal"]
    cell.node.close()


def test_whatever_breaks_in_a_task_halts_the_arm_and_is_told(cell: Cell) -> None:
    cell.say("pick up the red block")
    cell.node._carry_out(cell.waiting())  # nothing was configured: the controller does not exist
    assert cell.status()["last_task"]["outcome"] == "aborted"
    assert cell.status()["state"] == "idle"
    assert "task" in cell.node.health.troubles()


def test_a_callback_that_breaks_stops_the_arm(cell: Cell) -> None:
    cell.graph.broken("image: ValueError: never expected")
    assert cell.status()["state"] == "stopped"
    assert "never expected" in cell.status()["stopped_by"]


def test_ending_gives_up_the_task_and_lets_spin_return(cell: Cell) -> None:
    cell.say("pick up the red block")
    cell.node.end_spin()
    assert cell.node.halt.cause() is not None
    cell.node.spin()


def test_diagnostics_come_every_second_with_each_trouble_by_name(cell: Cell) -> None:
    cell.say("")
    end_s = time.monotonic() + 10
    while not cell.graph.sent.get("/diagnostics"):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    report = cell.graph.sent["/diagnostics"][0]
    names = {s.name.rpartition(": ")[2]: s for s in report.status}
    assert names["instruction"].level == 1
    assert "empty" in names["instruction"].message
    assert {v.key for v in names["controller"].values} >= {"state", "robot", "image messages"}
