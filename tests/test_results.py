"""Files are whole or absent, and a folder belongs to one command at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.results import LOCK_FILE, UnsavedError, draw_all, reserve, save_run, write_json

SMALL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
HOLD = """
import sys, time
from pathlib import Path
from qwen2vl_robot.results import reserve
with reserve(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_folder_that_another_process_writes_to_is_refused_until_that_one_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInputError, match=rf"--out .*: process {other.pid} is writing there"):
            reserve(tmp_path).__enter__()
        other.kill()  # its lock file stays, and means nothing
        other.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with reserve(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / LOCK_FILE).exists()


def test_of_many_that_come_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "time.sleep(2)")
    began = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=-1, stderr=-1) for _ in range(6)]
    outcomes = [process.communicate(timeout=60)[0] for process in began]
    assert outcomes.count(b"held\n") >= 1
    assert all(process.returncode in (0, 1) for process in began)
    held = HOLD.replace("time.sleep(60)", "pass")
    assert run(held, tmp_path).stdout == "held\n"  # nobody left it locked


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="Not a directory"), reserve(tmp_path / "file" / "out"):
        pass


def test_json_that_does_not_fit_leaves_what_the_file_held_before(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    code = SMALL + "import sys; from pathlib import Path; from qwen2vl_robot.results import write_json\n"
    code += "write_json(Path(sys.argv[1]), {'a': 'x' * 10000})"
    done = run(code, tmp_path / "a.json")
    assert "UnsavedError" in done.stderr
    assert "File too large" in done.stderr
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_device_is_one_line() -> None:
    with pytest.raises(UnsavedError, match="/dev/full: cannot be written: No space left on device"):
        write_json(Path("/dev/full"), {"a": 1})
    assert Path("/dev/full").is_char_device()


def test_a_picture_that_does_not_fit_costs_neither_the_report_nor_other_pictures(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_text("of an earlier run")
    code = SMALL + "import sys; from pathlib import Path; from qwen2vl_robot.results import UnsavedError, save_run\n"
    code += """
def draw(count):
    return lambda file: file.write_bytes(bytes(count))
try:
    save_run(Path(sys.argv[1]), {"outcome": "achieved"}, {"big.png": draw(10000), "small.png": draw(1), "no.png": None})
except UnsavedError as error:
    print(error, error.report)
"""
    told = run(code, tmp_path).stdout
    assert told.count("\n") == 1
    assert "achieved, and report.json says how, but" in told
    assert "big.png: cannot be written: File too large" in told
    assert sorted(os.listdir(tmp_path)) == ["report.json", "small.png"]


def test_only_files_that_were_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "film.gif").write_text("of an earlier run")
    assert save_run(tmp_path, {"outcome": "asked"}, {"frame.png": lambda f: f.write_text(""), "film.gif": None}) == (
        "report.json",
        "frame.png",
    )
    assert not (tmp_path / "film.gif").exists()


def test_a_folder_in_the_place_of_a_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "film.gif").mkdir()
    with pytest.raises(UnsavedError, match=r"film\.gif: cannot be written: Is a directory"):
        draw_all(tmp_path, {"film.gif": lambda f: f.write_text("")})


def test_reserving_takes_no_time(tmp_path: Path) -> None:
    began_s = time.perf_counter()
    for _ in range(100):
        with reserve(tmp_path):
            pass
    assert time.perf_counter() - began_s < 10.0
