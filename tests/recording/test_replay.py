"""A replay of a recorded task finds no difference, however it ended, and finds every one that is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.errors import ObservationError, PlannerError
from qwen2vl_robot.messages import ApprovalMode, TaskReport, freeze
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.reasons import ObservationReason
from tests.recording.tables import again, desk, raise_it, record
from tests.scenarios.desk import HOME, Setup


def stopping(setup: Setup) -> Any:
    def spoil(value: object, count: int) -> object:
        if count == 3:
            setup.halt.stop("a hand on the button")
        return value

    return spoil


def kinds(ended: list[Any]) -> list[str]:
    return [e.outcome.kind.value if isinstance(e, TaskReport) else type(e).__name__ for e in ended]


def test_a_task_that_was_done_is_replayed_without_a_difference(tmp_path: Path) -> None:
    ended = record(tmp_path / "bag.mcap", desk(), "go home", "do not move")
    assert kinds(ended) == ["achieved", "refused"]
    result = again(tmp_path / "bag.mcap")
    assert (result.tasks, result.differences, result.cut) == (2, [], "")
    assert result.decisions > 6


@pytest.mark.parametrize(
    ("name", "spoil", "kind"),
    [
        ("frame", raise_it(ObservationError("no picture", reason=ObservationReason.NO_FRAME)), "refused"),
        ("picture", lambda frame, n: frame and replace(frame, depth_m=frame.depth_m * 0.5), "aborted"),
        ("state", lambda state, n: replace(state, q_rad=freeze(state.q_rad * np.nan)), "aborted"),
        ("state", raise_it(ObservationError("no state")), "aborted"),
        ("now", lambda now_ns, n: now_ns + (n == 4) * 5_000_000_000, "aborted"),
        ("moving", lambda moving, n: False, "aborted"),
    ],
)
def test_a_task_that_failed_is_replayed_without_a_difference(tmp_path: Path, name: str, spoil: Any, kind: str) -> None:
    ended = record(tmp_path / "bag.mcap", desk(**{name: spoil}), "go home", "go home")
    assert kind in kinds(ended)
    result = again(tmp_path / "bag.mcap")
    assert result.differences == []
    assert result.tasks == 2


def test_a_stop_in_the_middle_of_a_motion_is_replayed_where_it_was(tmp_path: Path) -> None:
    setup = desk()
    setup.cell.spoils["state"] = stopping(setup)
    ended = record(tmp_path / "bag.mcap", setup, "go home", "go home")
    assert kinds(ended) == ["aborted", "refused"]
    assert again(tmp_path / "bag.mcap").differences == []


def test_an_approval_that_never_came_is_replayed(tmp_path: Path) -> None:
    setup = desk()
    setup.approval = ApprovalMode.NEVER
    assert kinds(record(tmp_path / "bag.mcap", setup, "go home")) == ["refused"]
    assert again(tmp_path / "bag.mcap").differences == []


def test_another_plan_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path / "bag.mcap", desk(), "go home")
    other = desk()
    other.planner.spoil = lambda plan, n: parse_reply('{"objects":[],"actions":[{"do":"wait","seconds":1}]}')
    lines = again(tmp_path / "bag.mcap", other).differences
    assert "planner.plan" in lines[0]
    assert "'home' was recorded, 'wait' came" in " ".join(lines)


def test_a_planner_that_breaks_now_is_a_difference(tmp_path: Path) -> None:
    record(tmp_path / "bag.mcap", desk(), "go home")
    other = desk()
    other.planner.spoil = raise_it(PlannerError("no reply"))
    assert "planner.plan" in again(tmp_path / "bag.mcap", other).differences[0]


def test_another_verdict_is_a_difference_and_its_motion_goes_through_no_gate(tmp_path: Path) -> None:
    record(tmp_path / "bag.mcap", desk(), "go home")
    other = desk()

    def worse(verdict: Any, n: int) -> Any:
        after = replace(verdict.state_after, q_rad=freeze(HOME + 1e-9))
        return replace(verdict, state_after=after)

    other.rehearsal.spoil = worse
    lines = again(tmp_path / "bag.mcap", other).differences
    assert "answer.state_after.q_rad[0]" in lines[0]
    assert "off by 1e-09" in lines[0]
    assert any("not_confirmed" in line or "the flow asks for" in line for line in lines)
