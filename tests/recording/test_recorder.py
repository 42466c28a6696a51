"""The recorder never makes anybody wait; what it cannot write is counted, said, and ends as it was told to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.messages import CameraFrame, Intrinsics, RobotState, freeze
from qwen2vl_robot.recording import recorder as recorder_module
from qwen2vl_robot.recording.bag import BagReader
from qwen2vl_robot.recording.recorder import OnDiskError, Recorder
from qwen2vl_robot.recording.taps import Call

STATE = RobotState(5, freeze(np.zeros(7)), freeze(np.zeros(7)), 0.08)
_FILE_BYTES = 300_000


def frame(side_px: int, seed: int) -> CameraFrame:
    """A frame of noise, which no codec makes small."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
    k = Intrinsics(side_px, side_px, 100.0, 100.0, 50.0, 50.0)
    return CameraFrame(seed, rgb, rng.random((side_px, side_px), dtype=np.float32), k, freeze(np.eye(4)))


def test_every_call_is_in_the_file_by_its_number(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bag.mcap")
    for _ in range(50):
        recorder(Call("arm.state", STATE))
    assert recorder.close() == f"50 of 50 calls are in {tmp_path / 'bag.mcap'}"
    calls = [m.sequence for m in BagReader(tmp_path / "bag.mcap").messages() if m.topic == "/decision/calls"]
    assert calls == list(range(1, 51))


def test_more_than_memory_may_hold_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_MOST_WAITING_BYTES", 20_000_000)
    recorder = Recorder(tmp_path / "bag.mcap")
    picture = frame(1000, 1)
    began_s = time.monotonic()
    for _ in range(40):
        recorder(Call("camera.capture", picture))
    assert time.monotonic() - began_s < 0.5
    said = recorder.close()
    assert recorder.dropped > 0
    assert f"{40 - recorder.dropped} of 40 calls" in said
    assert "too slow" in said


def test_a_folder_that_cannot_be_made_stops_or_goes_on_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "bag.mcap"
    with pytest.raises(BadInputError, match="cannot be recorded"):
        Recorder(path, on_disk_error=OnDiskError.STOP)
    recorder = Recorder(path, on_disk_error=OnDiskError.GO_ON)
    recorder(Call("arm.state", STATE))
    assert "0 of 1 calls" in recorder.close()


@pytest.mark.parametrize("on_disk_error", list(OnDiskError))
def test_a_full_disk_stops_or_goes_on_as_it_is_told(tmp_path: Path, on_disk_error: OnDiskError) -> None:
    command = [sys.executable, "-m", "tests.recording.test_recorder", str(tmp_path / "bag.mcap"), on_disk_error.value]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert ("told: the recording" in out) is (on_disk_error is OnDiskError.STOP)
    assert "ended: File too large" in out
    reader = BagReader(tmp_path / "bag.mcap")
    calls = [m.sequence for m in reader.messages() if m.topic == "/decision/calls"]
    assert calls == list(range(1, len(calls) + 1))
    assert not reader.is_whole


def record_to_a_full_disk(path: Path, on_disk_error: OnDiskError) -> None:
    """Record more than the system lets this process write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    told: list[str] = []
    recorder = Recorder(path, on_disk_error=on_disk_error, on_broken=told.append)
    for number in range(100):
        recorder(Call("camera.capture", frame(100, number)))
        time.sleep(0.01)
    print(recorder.close(), flush=True)
    print(*(f"told: {why}" for why in told), flush=True)


if __name__ == "__main__":
    record_to_a_full_disk(Path(sys.argv[1]), OnDiskError(sys.argv[2]))
    os._exit(0)
