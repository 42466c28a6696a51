"""A recorded task over an empty table, and the same task replayed: no plant, no model, no Bullet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwen2vl_robot.approval import AskingApprover
from qwen2vl_robot.assembly import Ports
from qwen2vl_robot.errors import ObservationError, RobotError
from qwen2vl_robot.messages import Instruction, TaskReport
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.recording.replay import Again, Replayed
from qwen2vl_robot.recording.session import Recording, Session, setup_of
from qwen2vl_robot.recording.tape import Tape
from qwen2vl_robot.rules import load_rules
from tests.cells import PROFILE
from tests.scenarios.desk import Cell, Planner, Rehearsal, Setup

AROUND = Surroundings.of(PROFILE)
NO_MODEL = str(Path(__file__).parent)


def raise_it(error: Exception) -> Any:
    def spoil(value: object, count: int) -> object:
        raise error

    return spoil


def done_and_failed(folder: Path) -> list[Path]:
    """Bags of one task that was done and one that its words refuse, and of one that broke."""
    record(folder / "done.mcap", desk(), "go home", "do not move")
    record(folder / "failed.mcap", desk(state=raise_it(ObservationError("no state"))), "go home")
    return [folder / "done.mcap", folder / "failed.mcap"]


def record(path: Path, setup: Setup, *tasks: str) -> list[TaskReport | RobotError]:
    """Carry out tasks with everything recorded."""
    cell = setup.cell
    approver = AskingApprover(setup.halt, setup.approval, on_question=lambda step, asks, doubts: None)
    ports = Ports(cell, cell, cell, setup.planner, setup.rehearsal, approver)
    about = setup_of(AROUND, PROFILE.name, NO_MODEL, seed=0)
    ended: list[TaskReport | RobotError] = []
    with Session(Recording(path), about, AROUND, ports, setup.halt, setup.halt.stop) as session:
        for task in tasks:
            try:
                ended.append(session.run(Instruction(task)))
            except RobotError as error:
                ended.append(error)
    return ended


def desk(**spoils: object) -> Setup:
    """A table whose answers are spoilt."""
    cell = Cell(spoils=spoils)  # type: ignore[arg-type]
    return Setup(cell, Planner(cell), Rehearsal(cell))


def again(path: Path, setup: Setup | None = None) -> Replayed:
    """Replay a bag with a planner and a twin like those that were recorded."""
    fresh = setup or desk()
    return Again(Tape(path), AROUND, load_rules(), fresh.planner, fresh.rehearsal).run()
