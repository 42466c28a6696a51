"""A recorder at 640x480 RGB-D and 10 Hz with joint states at 50 Hz → its share of a core and of the disk.

`python -m tests.recording.load 30` records for 30 s. The frames are those of the simulated D435, with noise.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from qwen2vl_robot.messages import CameraFrame
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.recording.recorder import Recorder
from qwen2vl_robot.recording.taps import Call

_TICK_S = 0.02
_FRAME_TICKS = 5
_NOISE = 1.0  # of 255, one standard deviation: a camera's picture is never twice the same


def frames(count: int) -> list[CameraFrame]:
    """Frames of the simulated D435 over one table."""
    rng = np.random.default_rng(0)
    with PlantProcess("scenes/default.yaml", 3, camera="d435") as plant:
        seen = []
        for _ in range(count):
            frame = plant.link.capture()
            noise = rng.normal(0.0, _NOISE, frame.rgb.shape).round()
            seen.append(replace(frame, rgb=np.clip(frame.rgb + noise, 0, 255).astype(np.uint8)))
            plant.link.sleep(0.2)
        return seen


def feed(seen: list[CameraFrame], state: object, seconds: float, sink: Callable[[Call], object]) -> float:
    """Give frames and states to a sink at their rates; returns the CPU seconds of this process."""
    begin_s, cpu_s = time.monotonic(), _cpu_s()
    for tick in range(round(seconds / _TICK_S)):
        sink(Call("arm.is_moving", True))
        sink(Call("arm.state", state))
        sink(Call("clock.now_ns", tick))
        if tick % _FRAME_TICKS == 0:
            sink(Call("camera.newest", seen[tick // _FRAME_TICKS % len(seen)]))
        time.sleep(max(0.0, begin_s + (tick + 1) * _TICK_S - time.monotonic()))
    return _cpu_s() - cpu_s


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, with the same feed without a recorder taken off."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", nargs="?", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    seen = frames(20)
    with PlantProcess("scenes/default.yaml", 3) as plant:
        state = plant.link.state()
    bare_s = feed(seen, state, seconds, lambda call: None)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "bag.mcap")
        cpu_s = feed(seen, state, seconds, recorder)
        before_s = _cpu_s()
        said = recorder.close()
        cpu_s += _cpu_s() - before_s
        size = (Path(folder) / "bag.mcap").stat().st_size
    document = {
        "core_percent": round(100 * (cpu_s - bare_s) / seconds, 1),
        "megabytes_a_second": round(size / 1e6 / seconds, 2),
        "dropped": recorder.dropped,
        "said": said.partition(" calls")[0] + " calls",
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
