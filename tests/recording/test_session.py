"""The node's parameters make a recorded controller, whose bag replays; the commands say what they cannot use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwen2vl_robot.assembly import Ports
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.gate import GateLimits
from qwen2vl_robot.messages import Instruction, OutcomeKind
from qwen2vl_robot.nodes.recording import Session, close_recording, make_controller
from qwen2vl_robot.nodes.settings import Settings
from qwen2vl_robot.recording.tape import Tape
from tests.recording.tables import AROUND, again, desk, record


def controller_of(settings: Settings) -> Controller | Session:
    setup = desk()
    cell = setup.cell
    ports = Ports(cell, cell, cell, setup.planner, setup.rehearsal)
    return make_controller(settings, AROUND, ports, GateLimits(max_state_age_s=0.3), setup.halt, setup.halt.stop)


def test_a_node_with_a_folder_records_what_a_replay_repeats(tmp_path: Path) -> None:
    controller = controller_of(Settings(record=str(tmp_path / "bags"), seed=5))
    outcome = controller.run(Instruction("go home")).outcome
    assert outcome.kind is OutcomeKind.ACHIEVED
    close_recording(controller)
    (bag,) = (tmp_path / "bags").glob("decisions_*.mcap")
    made_of = Tape(bag).setup
    assert (made_of.seed, made_of.cameras, made_of.limits[1]) == (5, ("",), 0.3)
    assert again(bag).differences == []


def test_a_node_without_a_folder_records_nothing() -> None:
    controller = controller_of(Settings())
    assert isinstance(controller, Controller)
    close_recording(controller)


def test_a_folder_that_cannot_be_written_keeps_the_node_from_starting_or_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="cannot be recorded"):
        controller_of(Settings(record=str(tmp_path / "file")))
    controller = controller_of(Settings(record=str(tmp_path / "file"), on_disk_error="go_on"))
    assert controller.run(Instruction("do not move")).outcome.kind is OutcomeKind.REFUSED
    close_recording(controller)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "qwen2vl_robot.cli", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)


def test_a_folder_of_bags_names_each_that_cannot_be_used_and_none_is_changed(tmp_path: Path) -> None:
    record(tmp_path / "whole.mcap", desk(), "do not move")
    (tmp_path / "cut.mcap").write_bytes((tmp_path / "whole.mcap").read_bytes()[:60])
    (tmp_path / "whole.mcap").unlink()
    (tmp_path / "foreign.mcap").write_bytes(b"SQLite format 3\0")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said = command("replay", str(tmp_path))
    assert said.returncode == 2
    for line in (
        "cut.mcap: cut or broken",
        "foreign.mcap: not an MCAP file",
        "2 bags: 0 without a difference, 0 with, 2",
    ):
        assert line in said.stdout + said.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("arguments", [("replay", "/none"), ("replay", "/tmp", "--film", "x.gif"), ("export", "/none")])
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    said = command(*arguments, *(("--lerobot", "/tmp/none") if arguments[0] == "export" else ()))
    assert said.returncode == 2
    assert len(said.stderr.strip().splitlines()) == 1
