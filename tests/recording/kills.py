"""Recorders that are killed at a random moment → does each file read to its last chunk, and how much is lost.

`python -m tests.recording.kills 1000` runs so many trials, half of them with SIGKILL and half with SIGHUP.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qwen2vl_robot.messages import RobotState, freeze
from qwen2vl_robot.recording.bag import BagReader
from qwen2vl_robot.recording.recorder import PREFIX, Recorder
from qwen2vl_robot.recording.taps import Call
from tests.cells import look

_HZ = 100.0
_MOST_S = 1.5  # of a trial
_MAY_LOSE_S = 1.0  # four times as long as a chunk waits: the machine may be busy


def record(path: Path, said: int) -> None:
    """Record frames and states until somebody kills this process; each call's number is said once it was taken."""
    recorder, number = Recorder(path), 0
    state = RobotState(0, freeze(np.zeros(7)), freeze(np.zeros(7)), 0.08)
    while True:
        number += 1
        answer: object = look(number) if number % 10 == 0 else state
        recorder(Call("camera.capture" if number % 10 == 0 else "arm.state", answer))
        os.write(said, f"{number}\n".encode())
        time.sleep(1.0 / _HZ)


def kill_one(path: Path, number: int, after_s: float) -> tuple[int, int]:
    """Kill a recorder; returns how many calls it had taken, and how many its file holds without a gap.

    Raises:
        AssertionError: the file cannot be read, or a call is missing in its middle.
    """
    reads, says = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            record(path, says)
        finally:
            os._exit(1)
    os.close(says)
    time.sleep(after_s)
    os.kill(child, number)
    os.waitpid(child, 0)
    with os.fdopen(reads, "rb") as pipe:
        taken = len(pipe.read().split())
    if not path.exists():
        return taken, 0
    data = path.read_bytes()
    if len(data) < 8:
        return taken, 0
    calls = [m.sequence for m in BagReader(path).messages() if m.topic == f"{PREFIX}/calls"]
    assert calls == list(range(1, len(calls) + 1)), f"{path}: calls {calls} have a gap"
    return taken, len(calls)


def main() -> None:
    """Run the trials and print what came of them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trials", nargs="?", type=int, default=1000)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # started under nohup, no child would die of it
    if given.child is not None:
        record(given.child, sys.stdout.fileno())
    rng = random.Random(0)
    lost_s, failed, empty = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(given.trials):
            path = Path(folder) / f"{trial}.mcap"
            number = (signal.SIGKILL, signal.SIGHUP)[trial % 2]
            try:
                taken, held = kill_one(path, number, rng.uniform(0.0, _MOST_S))
                lost_s.append((taken - held) / _HZ)
                empty += taken > 0 and held == 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the trial failed
                failed += 1
                print(f"trial {trial}, signal {number}: {error}", file=sys.stderr)
            path.unlink(missing_ok=True)
    late = sum(s > _MAY_LOSE_S for s in lost_s)
    document = {
        "trials": given.trials,
        "unreadable_or_with_a_gap": failed,
        "lost_more_than_1_s": late,
        "lost_s": {q: round(float(np.quantile(lost_s, float(q))), 3) for q in ("0.5", "0.99", "1.0")},
        "killed_before_the_first_chunk": empty,
    }
    print(json.dumps(document, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if failed or late else 0)


if __name__ == "__main__":
    main()
