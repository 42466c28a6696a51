"""The demo with the checkpoint that ships: it works, it shows how, and a seed repeats it digest by digest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qwen2vl_robot.demo import _drawings
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Action, Outcome, OutcomeKind, RobotState, StepRecord, Verb, freeze
from qwen2vl_robot.results import draw_all, reserve
from tests.cells import PROFILE, accept, reach


def start_demo(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwen2vl_robot.cli", "demo", "--headless", "--out", str(out), "--json", "-"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)


def run_demo(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = start_demo(out, *arguments)
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def digests(report: dict[str, Any]) -> list[str]:
    found = [plan["digest"] for plan in report["plans"]]
    for step in report["steps"]:
        found += [step[part]["digest"] for part in ("motion", "verdict") if step[part]]
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo")
    return (out, *run_demo(out, "--seed", "0"))


def test_the_default_demo_achieves_its_instruction(first: tuple[Path, int, dict[str, Any]]) -> None:
    _, code, report = first
    assert report["outcome"] == "achieved", report
    assert code == 0
    assert [s["outcome"] for s in report["steps"]] == ["achieved", "achieved"]
    assert all(s["verdict"]["accepted"] for s in report["steps"])


def test_the_demo_writes_report_frame_and_film(first: tuple[Path, int, dict[str, Any]]) -> None:
    out, _, report = first
    assert json.loads((out / "report.json").read_text()) == report
    with Image.open(out / "frame.png") as frame:
        assert frame.size == (640, 480)
    with Image.open(out / "film.gif") as film:
        assert film.n_frames > 10


def test_an_object_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    done = start_demo(tmp_path, "--seed", "0", "--instruction", "put the green ball on the blue plate")
    report = json.loads(done.stdout)
    assert report["outcome"] == "asked", report
    assert done.returncode == 1
    assert not any(step["motion"] for step in report["steps"])
    assert done.stderr.splitlines() == [
        "instruction: put the green ball on the blue plate",
        "I read: put the green ball on the blue plate",
        "plan: ask",
        "asked: I see no green ball.",
        f"asked; see report.json, frame.png in {tmp_path}",
    ]


def test_a_seed_gives_the_same_digests_again_and_a_film_that_cannot_be_written_costs_the_film_alone(
    first: tuple[Path, int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "film.gif").mkdir()
    done = start_demo(tmp_path, "--seed", "0")
    assert done.returncode == 1
    assert len(digests(first[2])) >= 5
    assert digests(json.loads(done.stdout)) == digests(first[2])
    assert json.loads(done.stdout) == json.loads((tmp_path / "report.json").read_text())
    *_, last = done.stderr.splitlines()
    assert last.startswith("qwen2vl-robot: achieved, and report.json says how, but")
    assert last.endswith("film.gif: cannot be written: Is a directory")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "frame.png").is_file()


def test_a_folder_in_use_is_noticed_before_anything_starts(tmp_path: Path) -> None:
    with reserve(tmp_path):
        done = start_demo(tmp_path)
        over_the_graph = start_demo(tmp_path, "--graph", "dds")
    for refused in (done, over_the_graph):
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"qwen2vl-robot: --out {tmp_path}: process {os.getpid()} is writing there; "
            "wait for its end or give another folder\n"
        )


def test_a_refusal_is_kept_as_a_picture_until_the_next_demo(tmp_path: Path) -> None:
    picture = np.full((240, 320, 3), 90, dtype=np.uint8)
    motion = reach(np.array(PROFILE.home_q_rad), [0.1] * 7, 0.2)
    state = RobotState(0, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)
    refused = replace(accept(motion, state), accepted=False, picture=picture)
    step = StepRecord(Action(Verb.HOME), motion, refused, Outcome(OutcomeKind.REFUSED))
    for steps in ([step], []):
        pictures: Any = SimpleNamespace(planned=None, steps=steps, clips=[])
        draw_all(tmp_path, _drawings(pictures, Kinematics(PROFILE), ""))
        assert (tmp_path / "refused.png").is_file() is bool(steps)
