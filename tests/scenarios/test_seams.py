"""Every seam fails in every way, and the arm ends stopped, at once and for good.

The table of what came of it is docs/results/seam-faults.md; `SEAMS=write pytest tests/scenarios/test_seams.py` writes
it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.errors import ExecutionError, ObservationError, PlannerError
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    ApprovalMode,
    Instruction,
    OutcomeKind,
    Violation,
    freeze,
)
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.pool import RehearsalProcess
from tests.cells import PROFILE, accept, reach
from tests.scenarios.desk import AWAY, HOME, Cell, Planner, Rehearsal, Setup, Spoil

TABLE = Path(__file__).parents[2] / "docs" / "results" / "seam-faults.md"
FAULTS = ("off", "stuck", "garbage", "wrong", "slow", "late", "intermittent", "killed")
SEAMS = ("camera", "joints", "worker", "planner", "gate", "executor", "clock")
DEADLINE_NS = 100_000_000


def fails(error: Exception) -> Spoil:
    def spoil(value: Any, n: int) -> Any:
        raise error

    return spoil


def sometimes(error: Exception) -> Spoil:
    def spoil(value: Any, n: int) -> Any:
        if n % 2:
            raise error
        return value

    return spoil


def first_of_all(values: list[Any]) -> Spoil:
    """The same answer for ever."""

    def spoil(value: Any, n: int) -> Any:
        values.append(value)
        return values[0]

    return spoil


def spoilt(setup: Setup, seam: str, fault: str) -> None:
    """Break one seam in one way."""
    cell = setup.cell

    def waits(seconds: float) -> Spoil:
        def spoil(value: Any, n: int) -> Any:
            cell.sleep(seconds)
            return value

        return spoil

    if seam == "camera":
        gone = ObservationError("no frame")
        cell.spoils["frame"] = {
            "off": fails(gone), "killed": fails(gone), "intermittent": sometimes(gone),
            "stuck": lambda f, n: replace(f, stamp_ns=97_000_000_000),
            "garbage": lambda f, n: replace(f, depth_m=np.random.default_rng(n).random(f.depth_m.shape, np.float32)),
            "wrong": lambda f, n: replace(f, T_base_camera=freeze(look_at((1.1, 0.1, 0.7), (0.45, 0.0, 0.0)))),
            "slow": lambda f, n: (cell.sleep(3.0), f)[1],
            "late": lambda f, n: replace(f, stamp_ns=f.stamp_ns - 5_000_000_000),
        }[fault]  # fmt: skip
    elif seam == "joints":
        gone = ObservationError("no joint state")
        cell.spoils["state"] = {
            "off": fails(gone), "killed": fails(gone), "intermittent": sometimes(gone),
            "stuck": first_of_all([]),
            "garbage": lambda s, n: replace(s, q_rad=freeze(np.full(7, np.nan))),
            "wrong": lambda s, n: replace(s, q_rad=freeze(s.q_rad + 0.5)),
            "slow": waits(0.7),
            "late": lambda s, n: replace(s, stamp_ns=s.stamp_ns - 500_000_000),
        }[fault]  # fmt: skip
    elif seam == "worker":
        setup.rehearsal = _worker(setup, fault)
    elif seam == "planner":
        gone_plan = PlannerError("no usable reply")
        setup.planner.spoil = {
            "off": fails(gone_plan), "killed": fails(gone_plan), "stuck": fails(PlannerError("no answer within 60 s")),
            "garbage": lambda p, n: parse_reply("\x00{]"),
            "wrong": lambda p, n: parse_reply(
                '{"objects":[{"label":"unicorn","boxes":[[1,1,90,90]]}],"actions":[{"do":"pick","object":0}]}'
            ),
            "slow": waits(40.0), "late": waits(400.0), "intermittent": sometimes(gone_plan),
        }[fault]  # fmt: skip
    elif seam == "gate":
        _break_gate(setup, fault, waits)
    elif seam == "executor":
        _break_arm(cell, fault)
    else:
        gone_clock = ExecutionError("no time")
        cell.spoils["now"] = {
            "off": fails(gone_clock), "killed": fails(gone_clock), "stuck": first_of_all([]),
            "garbage": lambda t, n: None, "wrong": lambda t, n: t + 10_000_000_000,
            "slow": lambda t, n: (t + cell.began_ns) // 2, "late": lambda t, n: t - 1_000_000_000,
            "intermittent": lambda t, n: t - 2_000_000_000 * (n % 2),
        }[fault]  # fmt: skip


def _worker(setup: Setup, fault: str) -> Any:
    cell = setup.cell
    if fault == "off":
        return RehearsalProcess(PROFILE, budget_s=5.0, interpreter="/nonexistent/python")
    if fault == "stuck":
        return RehearsalProcess(PROFILE, budget_s=0.002, workers=1)
    broken = Violation(ViolationKind.WORKER_CRASHED, None, ("the process ended (signal 9)",), 0.1, "s")
    refusing = {"accepted": False, "violations": (broken,)}

    def waits(seconds: float) -> Spoil:
        return lambda v, n: (cell.sleep(seconds), v)[1]

    spoils: dict[str, Spoil] = {
        "garbage": lambda v, n: replace(v, motion_digest="garbage", trials=None),
        "wrong": lambda v, n: replace(v, motion_digest=accept(reach(HOME, [0.1] * 7), cell.state()).motion_digest),
        "slow": waits(31.0), "late": waits(300.0),
        "intermittent": lambda v, n: replace(v, **refusing) if n % 2 else v,
        "killed": lambda v, n: replace(v, **refusing),
    }  # fmt: skip
    return Rehearsal(cell, spoils[fault])


def _break_gate(setup: Setup, fault: str, waits: Callable[[float], Spoil]) -> None:
    cell, halt = setup.cell, setup.halt

    def stops(value: Any, n: int) -> Any:
        halt.stop("a person said stop")
        return value

    if fault == "off":
        halt.stop("switched off")
    elif fault == "stuck":
        setup.approval = ApprovalMode.NEVER
    elif fault in ("killed", "intermittent"):
        cell.spoils["moving"] = stops
    else:
        other = reach(AWAY, [0.2] * 7)
        setup.spoil = {
            "garbage": lambda a, n: None,
            "wrong": lambda a, n: replace(a, motion=other),
            "slow": waits(3.0), "late": waits(60.0),
        }[fault]  # fmt: skip


def _break_arm(cell: Cell, fault: str) -> None:
    gone = ExecutionError("the link is down")
    if fault == "off":
        cell.is_deaf = True
    elif fault == "stuck":
        cell.spoils["moving"] = lambda m, n: True
    elif fault == "garbage":
        cell.spoils["state"] = lambda s, n: replace(s, q_rad=freeze([1e12] * 7))
    elif fault == "wrong":
        cell.spoils["state"] = lambda s, n: replace(s, q_rad=freeze(s.q_rad + np.eye(7)[1] * 0.08))
    elif fault == "slow":
        cell.pace = 0.4
    elif fault == "late":
        cell.lag_s = 0.8
    elif fault == "intermittent":
        cell.spoils["moving"] = lambda m, n: m and n % 3 != 0
    else:
        cell.spoils |= {"moving": fails(gone), "stop": fails(gone)}


def ends(seam: str, fault: str) -> tuple[str, str]:
    """Run a task with one seam broken: how it ended, and how the arm was stopped; fails where it is not at rest."""
    cell = Cell()
    setup = Setup(cell, Planner(cell), Rehearsal(cell))
    spoilt(setup, seam, fault)
    try:
        outcome = setup.controller().run(Instruction("go home")).outcome
        told = outcome.kind.value + ("" if outcome.kind is OutcomeKind.ACHIEVED else f": {outcome.reasons[0]}")
    except Exception as error:  # noqa: BLE001 - breakage is an outcome here; what counts is the arm
        told = f"{type(error).__name__}: {error}"
    finally:
        if isinstance(setup.rehearsal, RehearsalProcess):
            setup.rehearsal.close()
    _check_at_rest(cell, setup.halt, told)
    how = "nothing moved" if cell.motion is None else "arrived" if cell.stopped_ns is None else "stopped at once"
    return told.split(";")[0][:90], how


def _check_at_rest(cell: Cell, halt: Halt, told: str) -> None:
    """Stopped within the deadline, still there after ten seconds, and latched if it was aborted."""
    if cell.stopped_ns is not None:
        assert cell.stopped_ns - cell.looked_ns <= DEADLINE_NS, told
    assert cell.track is None, told
    q_rad = cell.q_rad.copy()
    cell.sleep(10.0)
    assert np.array_equal(cell.q_rad, q_rad), told
    if told.startswith("aborted"):
        assert halt.stopped_by() is not None, told


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], tuple[str, str]]:
    return {(seam, fault): ends(seam, fault) for seam in SEAMS for fault in FAULTS}


def test_every_fault_of_every_seam_ends_with_the_arm_at_rest(rows: dict[tuple[str, str], tuple[str, str]]) -> None:
    assert len(rows) == len(SEAMS) * len(FAULTS)
    assert ends_well() == ("achieved", "arrived")


def ends_well() -> tuple[str, str]:
    """The same cell without a fault does what it is asked to."""
    cell = Cell()
    outcome = Setup(cell, Planner(cell), Rehearsal(cell)).controller().run(Instruction("go home")).outcome
    return outcome.kind.value, "arrived" if cell.stopped_ns is None and cell.motion is not None else "not arrived"


def test_the_table_of_faults_is_the_committed_one(rows: dict[tuple[str, str], tuple[str, str]]) -> None:
    lines = [
        "# Faults on each seam, and how they end",
        "",
        "Made by `SEAMS=write pytest tests/scenarios/test_seams.py`.",
    ]
    lines += ["", "| seam | fault | the arm | the outcome |", "|---|---|---|---|"]
    lines += [f"| {seam} | {fault} | {how} | {told} |" for (seam, fault), (told, how) in rows.items()]
    text = "\n".join(lines) + "\n"
    if os.environ.get("SEAMS") == "write":
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")
    known = [line.split("|")[:4] for line in TABLE.read_text(encoding="utf-8").splitlines()]
    assert [line.split("|")[:4] for line in text.splitlines()] == known
