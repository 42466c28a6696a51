"""A person's no on the graph: what counts, and that whatever cannot be read lets nothing go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from qwen2vl_robot.graph import interface
from qwen2vl_robot.messages import Approval, ApprovalMode, Refusal, RobotState, digest, freeze
from tests.cells import PROFILE, reach, rehearsed
from tests.nodes.test_controller_node import Cell

REST = RobotState(0, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)
STEP = rehearsed(reach(REST.q_rad, [0.1, 0, 0, 0, 0, 0, 0]), REST, 0)
DIGEST = digest(STEP.verdict)


class Asking:
    """A step that awaits a person, as the controller's flow has it."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.found: list[Approval | Refusal] = []
        cell.node.halt.begin_task()
        self._thread = threading.Thread(target=lambda: self.found.append(cell.node.approver.approve(STEP, ())))
        self._thread.start()
        end_s = time.monotonic() + 10.0
        while cell.node.approver.awaited() is None:
            assert time.monotonic() < end_s
            time.sleep(0.005)

    def answer(self) -> Approval | Refusal:
        self._thread.join(10.0)
        return self.found[0]


@pytest.fixture
def cell() -> Iterator[Cell]:
    fresh = Cell()
    fresh.node.approver._mode = ApprovalMode.CONFIRM
    yield fresh
    fresh.node.halt.cancel("the test ended")
    fresh.close()


def test_a_no_ends_the_task_and_its_reason_is_the_outcomes(cell: Cell) -> None:
    asking = Asking(cell)
    cell.graph.give(interface.REJECT, data=json.dumps({"digest": DIGEST, "reason": "the cup is full"}))
    refusal = asking.answer()
    assert isinstance(refusal, Refusal)
    assert "rejected by a person: the cup is full" in str(refusal)
    said = cell.status()["approval"]
    assert (said["digest"], said["accepted"], said["rejected"]) == (DIGEST, False, True)


NOTHING = [
    "",
    "{",
    "[]",
    DIGEST,
    json.dumps({"digest": DIGEST}),
    json.dumps({"digest": DIGEST, "reason": ""}),
    json.dumps({"digest": DIGEST, "reason": "x" * 301}),
    json.dumps({"digest": DIGEST, "reason": "no", "approve": True}),
    "[" * 10_000,
]


@pytest.mark.parametrize("text", NOTHING)
def test_what_cannot_be_read_is_said_and_lets_nothing_go(cell: Cell, text: str) -> None:
    asking = Asking(cell)
    cell.graph.give(interface.REJECT, data=text)
    assert "reject" in cell.node.health.problems()
    assert asking.found == []
    assert cell.node.approver.awaited() == DIGEST


def test_a_no_to_another_step_changes_nothing(cell: Cell) -> None:
    asking = Asking(cell)
    cell.graph.give(interface.REJECT, data=json.dumps({"digest": "ab" * 32, "reason": "no"}))
    assert asking.found == []
    assert cell.status()["approval"]["rejected"] is False
