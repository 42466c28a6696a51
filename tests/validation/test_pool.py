"""The rehearsal process: any failure in it is a refusal, and the next rehearsal works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import Motion, RobotState, Scene, digest
from qwen2vl_robot.validation.pool import RehearsalProcess

EMPTY = Scene((), ())


@pytest.fixture(scope="module")
def rehearsal(profile: RobotProfile) -> Iterator[RehearsalProcess]:
    with RehearsalProcess(profile, budget_s=60.0) as process:
        process.start()
        yield process


@pytest.fixture
def nod(hand: Any) -> Motion:
    """A short safe motion."""
    motion: Motion = hand.move(hand.q_rad + 0.05, 0.5).motion()
    return motion


@pytest.fixture
def long_nod(hand: Any) -> Motion:
    """A safe motion that takes long enough to be interrupted."""
    for sign in (1, -1) * 60:
        hand.move(hand.q_rad + sign * 0.05, 1.0)
    motion: Motion = hand.motion()
    return motion


def test_verdict_crosses_the_process_boundary_whole(
    rehearsal: RehearsalProcess, nod: Motion, start: RobotState, twin: Any
) -> None:
    verdict = rehearsal.rehearse(nod, EMPTY, start)
    assert verdict.accepted
    assert digest(verdict) == digest(twin.rehearse(nod, EMPTY, start))


def test_worker_killed_in_the_middle_is_a_refusal_and_the_next_rehearsal_works(
    rehearsal: RehearsalProcess, nod: Motion, long_nod: Motion, start: RobotState
) -> None:
    rehearsal.start()
    assert rehearsal.pid is not None
    threading.Timer(0.3, os.kill, (rehearsal.pid, signal.SIGKILL)).start()
    verdict = rehearsal.rehearse(long_nod, EMPTY, start)
    assert not verdict.accepted
    assert [v.kind for v in verdict.violations] == ["worker_crashed"]
    assert verdict.motion_digest == digest(long_nod)
    assert verdict.scene_after is None
    assert rehearsal.rehearse(nod, EMPTY, start).accepted


def test_budget_that_runs_out_is_a_refusal_in_time(profile: RobotProfile, long_nod: Motion, start: RobotState) -> None:
    with RehearsalProcess(profile, budget_s=0.2) as hasty:
        hasty.start()
        began = time.monotonic()
        verdict = hasty.rehearse(long_nod, EMPTY, start)
        assert [v.kind for v in verdict.violations] == ["worker_timeout"]
        assert not verdict.accepted
        assert time.monotonic() - began < 5.0


def test_a_second_worker_killed_while_it_tries_is_a_refusal_and_the_pool_heals(
    rehearsal: RehearsalProcess, nod: Motion, long_nod: Motion, start: RobotState
) -> None:
    rehearsal.start()
    os.kill(rehearsal.pids[1], signal.SIGSTOP)  # it is still at its trials when it dies
    threading.Timer(4.0, os.kill, (rehearsal.pids[1], signal.SIGKILL)).start()
    verdict = rehearsal.rehearse(long_nod, EMPTY, start)
    assert [v.kind for v in verdict.violations] == ["worker_crashed"]
    assert rehearsal.rehearse(nod, EMPTY, start).accepted
    assert len(rehearsal.pids) == 2


def test_time_that_runs_out_never_lowers_the_number_of_trials(
    profile: RobotProfile, nod: Motion, start: RobotState
) -> None:
    many = profile.safety.model_copy(update={"trials": 1000})
    with RehearsalProcess(profile.model_copy(update={"safety": many}), budget_s=0.5) as hasty:
        hasty.start()
        verdict = hasty.rehearse(nod, EMPTY, start)
    assert not verdict.accepted
    assert [v.kind for v in verdict.violations] == ["worker_timeout"]


def test_one_worker_and_three_give_the_same_verdict(profile: RobotProfile, nod: Motion, start: RobotState) -> None:
    found = set()
    for workers in (1, 3):
        with RehearsalProcess(profile, budget_s=60.0, workers=workers) as pool:
            found.add(digest(pool.rehearse(nod, EMPTY, start)))
    assert len(found) == 1


def test_too_few_trials_for_the_threshold_accept_nothing(profile: RobotProfile, nod: Motion, start: RobotState) -> None:
    few = profile.safety.model_copy(update={"trials": 4})
    with RehearsalProcess(profile.model_copy(update={"safety": few}), budget_s=60.0) as pool:
        verdict = pool.rehearse(nod, EMPTY, start)
    assert not verdict.accepted


def test_a_robot_whose_mesh_does_not_load_is_bad_input(profile: RobotProfile, tmp_path: Path) -> None:
    text = profile.urdf_path.read_text(encoding="utf-8").replace("link3.obj", "nowhere.obj")
    folder = profile.urdf_path.parent
    broken = tmp_path / "broken.urdf"
    broken.write_text(text.replace("package://meshes", f"{folder}/meshes"), encoding="utf-8")
    with (
        RehearsalProcess(profile.model_copy(update={"urdf": str(broken)}), budget_s=5.0) as pool,
        pytest.raises(BadInputError, match="mesh .*nowhere.obj"),
    ):
        pool.start()


def test_interpreter_without_bullet_is_a_refusal(
    profile: RobotProfile, nod: Motion, start: RobotState, tmp_path: Any
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # no site-packages
    bare.chmod(0o755)
    with RehearsalProcess(profile, budget_s=5.0, interpreter=str(bare)) as without:
        verdict = without.rehearse(nod, EMPTY, start)
    assert not verdict.accepted
    assert verdict.violations[0].kind in ("worker_raised", "worker_crashed")


def test_what_is_no_motion_at_all_is_a_refusal(rehearsal: RehearsalProcess, start: RobotState) -> None:
    verdict = rehearsal.rehearse("up and down", EMPTY, start)  # type: ignore[arg-type]
    assert not verdict.accepted
    assert [v.kind for v in verdict.violations] == ["worker_raised"]


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_budget_must_be_above_zero(profile: RobotProfile, budget_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RehearsalProcess(profile, budget_s=budget_s)


def test_whoever_imports_the_pool_does_not_load_bullet() -> None:
    script = "import sys, qwen2vl_robot.validation.pool, qwen2vl_robot.validation.request; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pybullet", "pinocchio", "torch"} & set(loaded)
