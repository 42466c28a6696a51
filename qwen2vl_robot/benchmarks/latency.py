"""Whole tasks, alone and beside busy processes → how long each stage takes, until the first motion and in all."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from qwen2vl_robot.benchmarks.tabletop import Suite

STAGES = ("observe", "check camera", "plan", "perceive", "move", "rehearse", "admit")  # in the order of the flow
_PERCENTS = (50, 90, 99)
# It ends with its input: also when this process is killed.
_BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True: pass
"""


def run_latency(
    planner: Literal["checkpoint", "truth"], model: str, episodes: int, seed: int, camera: str | None, busy: int
) -> Iterator[dict[str, Any]]:
    """Run the same episodes of the tabletop suite twice: alone, and beside `busy` processes that never rest.

    Questions are left out, for nothing moves there. One episode comes before those that count.

    Yields:
        For each: seed, busy, objects, outcome, the seconds of its stages, and those before the first motion, if any.
    """
    suite = Suite(planner, model, camera=camera)
    with contextlib.closing(suite):
        suite.start()
        drawn = (suite.draw(index, seed + index) for index in itertools.count())
        *tasks, first = itertools.islice((e for e in drawn if not e.task.is_question), episodes + 1)
        suite.run(first)
        for count in dict.fromkeys((0, busy)):
            with _busy_processes(count):
                for task in tasks:
                    yield _row(suite.run(task), count)


def _row(ran: dict[str, Any], busy: int) -> dict[str, Any]:
    kept = ("seed", "objects", "outcome", "seconds", "before_motion")
    return {"busy": busy, **{name: ran[name] for name in kept}}


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy; they end with what is inside, whatever happens in it, or with this process."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            busy = subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, start_new_session=True)
            stack.enter_context(busy)  # closes its input, and waits
            stack.callback(busy.kill)
        yield


def summarise_latency(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute percentiles of the first motion and of whole tasks, and each stage's median and mean before it."""
    found = {busy: _of(rows, busy) for busy in sorted({row["busy"] for row in rows})}
    calm = found[min(found)]
    return {
        "first_motion_s_median": calm["first_motion_s"]["50"],
        "episode_s_median": calm["total_s"]["50"],
        "cores": len(os.sched_getaffinity(0)),
        "busy": {str(busy): figures for busy, figures in found.items()},
    }


def _of(rows: list[dict[str, Any]], busy: int) -> dict[str, Any]:
    moved = [row for row in rows if row["busy"] == busy and "first_motion" in row["seconds"]]
    stages = {stage: np.array([row["before_motion"].get(stage, 0.0) for row in moved]) for stage in STAGES}
    return {
        "episodes": sum(row["busy"] == busy for row in rows),
        "moved": len(moved),
        "first_motion_s": _percentiles([row["seconds"]["first_motion"] for row in moved]),
        "total_s": _percentiles([row["seconds"]["total"] for row in moved]),
        "stages_s_median": {s: round(float(np.median(v)), 3) if len(v) else None for s, v in stages.items()},
        "stages_s_mean": {s: round(float(v.mean()), 3) if len(v) else None for s, v in stages.items()},
    }


def _percentiles(values_s: list[float]) -> dict[str, float | None]:
    return {str(p): round(float(np.percentile(values_s, p)), 3) if values_s else None for p in _PERCENTS}


def stacked(totals: dict[str, Any]) -> str:
    """Draw the means of the stages as bars of text, one under the other, so that they add up to the first motion."""
    lines = []
    for busy, figures in totals["busy"].items():
        means_s = {stage: mean_s or 0.0 for stage, mean_s in figures["stages_s_mean"].items()}
        whole_s, from_s = max(sum(means_s.values()), 1e-9), 0.0
        lines.append(f"{busy} busy processes beside: first motion {figures['first_motion_s']['50']} s (median)")
        for stage, mean_s in means_s.items():
            begin, end = (round(48 * at_s / whole_s) for at_s in (from_s, from_s + mean_s))
            lines.append(f"  {stage:<13}{' ' * begin}{'█' * (end - begin)}{' ' * (48 - end)} {mean_s:6.3f} s")
            from_s += mean_s
    return "\n".join(lines)
