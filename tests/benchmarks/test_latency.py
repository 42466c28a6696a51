"""Stages until the first motion add up to it, and what keeps cores busy ends with the benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.benchmarks.latency import _busy_processes, stacked, summarise_latency
from qwen2vl_robot.messages import Instruction
from qwen2vl_robot.task import Task


def row(first_motion_s: float | None, busy: int = 0, **stages: float) -> dict[str, Any]:
    seconds = {} if first_motion_s is None else {"first_motion": first_motion_s, "total": 3 * first_motion_s}
    return {"busy": busy, "before_motion": stages, "seconds": seconds}


def test_a_task_notes_its_stages_up_to_the_first_motion_only() -> None:
    task = Task(Instruction("pick up the red block"), ())
    with task.timed("plan"):
        time.sleep(0.02)
    task.moves()
    with task.timed("plan"):
        time.sleep(0.02)
    task.moves()  # the second motion of the task
    assert task.before_motion["plan"] == pytest.approx(0.02, abs=0.015)
    assert task.seconds["plan"] >= 0.04
    assert task.before_motion["plan"] <= task.seconds["first_motion"] < task.seconds["plan"]


def test_percentiles_are_of_the_tasks_that_moved_and_apart_for_a_busy_machine() -> None:
    rows = [row(float(s), rehearse=0.5 * s) for s in range(1, 12)] + [row(None), row(40.0, busy=2)]
    totals = summarise_latency(rows)
    assert (totals["first_motion_s_median"], totals["episode_s_median"]) == (6.0, 18.0)
    calm = totals["busy"]["0"]
    assert (calm["episodes"], calm["moved"], calm["first_motion_s"]["90"]) == (12, 11, 10.0)
    assert calm["stages_s_median"]["rehearse"] == 3.0
    assert totals["busy"]["2"]["first_motion_s"]["50"] == 40.0


def test_where_nothing_moved_there_is_no_figure() -> None:
    totals = summarise_latency([row(None)])
    assert totals["first_motion_s_median"] is None
    assert "first motion None s" in stacked(totals)


def test_the_bars_follow_one_another() -> None:
    lines = stacked(summarise_latency([row(4.0, observe=1.0, rehearse=3.0)])).splitlines()
    observe, rehearse = (next(line for line in lines if line.split()[0] == name) for name in ("observe", "rehearse"))
    assert 3 * observe.count("█") == rehearse.count("█")
    assert rehearse.index("█") == observe.rindex("█") + 1


def test_busy_processes_end_whatever_happens() -> None:
    before = set(_children())

    def breaks() -> None:
        with _busy_processes(2):
            assert len(set(_children()) - before) == 2
            raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        breaks()
    assert set(_children()) == before


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_busy_processes_end_when_the_benchmark_is_killed() -> None:
    code = (
        "import time\nfrom qwen2vl_robot.benchmarks.latency import _busy_processes\n"
        "with _busy_processes(1):\n    print(open('/proc/thread-self/children').read(), flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout
        child = int(bench.stdout.readline())
        bench.kill()
        bench.wait(20)
    ends_s = time.monotonic() + 20.0
    while is_running(child) and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
