"""Units are worked on once, whatever dies; what was found is kept, and is of one run alone."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from qwen2vl_robot.errors import BadInputError, RobotError
from qwen2vl_robot.fleet.fingerprint import differences, fingerprint
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.fleet.journal import open_journal
from qwen2vl_robot.fleet.running import run_job
from tests.fleet.labour import squares, values


@pytest.mark.parametrize("processes", [1, 3])
def test_each_unit_is_done_once_by_so_many_processes(tmp_path: Path, processes: int) -> None:
    results = list(run_job(squares(tmp_path, 12, seconds=0.05), Here(processes)))
    assert values(results) == [n * n for n in range(12)]
    assert len({r["pid"] for r in results}) == processes
    assert len(list(tmp_path.iterdir())) == 12


def test_a_unit_whose_process_dies_is_done_again(tmp_path: Path) -> None:
    results = list(run_job(squares(tmp_path, 5, dies={3: 2}), Here(2)))
    assert values(results) == [n * n for n in range(5)]
    assert len(list(tmp_path.glob("3.*"))) == 3


def test_a_unit_that_kills_each_process_ends_the_run_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="squares 3: its process died 3 times"):
        list(run_job(squares(tmp_path, 5, dies={3: 99}), Here(1)))


def test_a_unit_that_fails_ends_the_run_and_what_was_found_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    with pytest.raises(BadInputError, match="2 is no number"):
        list(run_job(squares(tmp_path, 4, fails=(2,)), Here(1), kept))
    results = list(run_job(squares(tmp_path, 4), Here(1), kept))
    assert values(results) == [0, 1, 4, 9]
    assert len(list(tmp_path.glob("0.*"))) == len(list(tmp_path.glob("1.*"))) == 1


def test_a_line_that_was_cut_off_is_done_again_and_nothing_else(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    first = list(run_job(squares(tmp_path, 4), Here(1), kept))
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])
    again = list(run_job(squares(tmp_path, 4), Here(1), kept))
    assert values(again) == values(first)
    assert [len(list(tmp_path.glob(f"{n}.*"))) for n in range(4)] == [1, 1, 1, 2]
    assert len(kept.read_text().splitlines()) == 5


def test_a_unit_counts_once_however_often_the_file_names_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    list(run_job(squares(tmp_path, 3), Here(1), kept))
    kept.write_text(kept.read_text() + kept.read_text().splitlines()[1] + "\n")
    assert values(list(run_job(squares(tmp_path, 3), Here(1), kept))) == [0, 1, 4]
    assert values(list(run_job(squares(tmp_path, 5), Here(1), kept))) == [0, 1, 4, 9, 16]
    assert values(list(run_job(squares(tmp_path, 2), Here(1), kept))) == [0, 1]


def test_results_of_another_run_or_version_are_not_mixed_in(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    list(run_job(squares(tmp_path, 2), Here(1), kept))
    with pytest.raises(BadInputError, match="of another run \\(about 1, now 2\\); remove it"):
        list(run_job(squares(tmp_path, 2, about=2), Here(1), kept))
    head, *rest = kept.read_text().splitlines()
    kept.write_text("\n".join([json.dumps({**json.loads(head), "version": "0000"}), *rest]) + "\n")
    with pytest.raises(BadInputError, match="version 0000, now"):
        list(run_job(squares(tmp_path, 2), Here(1), kept))


@pytest.mark.parametrize(
    "text", ["[1, 2]\n", "no json\n", "{}\n", '{"key": "1", "result": {}}\n', "HEAD[]\n", "HEAD{\n", "\xff\xfe\n"]
)
def test_a_file_of_something_else_is_bad_input_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    kept, job = tmp_path / "kept.jsonl", squares(tmp_path, 2)
    with open_journal(kept, job):
        head = kept.read_text()
    foreign = text.replace("HEAD", head).encode("latin-1")
    kept.write_bytes(foreign)
    with pytest.raises(BadInputError, match="line [12] is not a result of this command; remove it"):
        list(run_job(job, Here(1), kept))
    assert kept.read_bytes() == foreign


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    kept, job = tmp_path / "kept.jsonl", squares(tmp_path, 2)
    with open_journal(kept, job), pytest.raises(BadInputError, match="another run is writing there"):
        list(run_job(job, Here(1), kept))


FULL = """
import resource, sys
from pathlib import Path
from qwen2vl_robot.fleet.here import Here
from qwen2vl_robot.fleet.running import run_job
from qwen2vl_robot.results import UnsavedError
from tests.fleet.labour import squares
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    print(len(list(run_job(squares(folder, 9), Here(1), folder / "kept.jsonl"))))
except UnsavedError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_from_what_was_written(tmp_path: Path) -> None:
    def run(most_bytes: int) -> str:
        command = [sys.executable, "-c", FULL, str(tmp_path), str(most_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert "cannot be written: File too large; it holds " in run(400)
    kept = (tmp_path / "kept.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    written = kept.count(b"\n") - 1
    assert 1 <= written < 9
    assert run(resource.RLIM_INFINITY) == "9"
    assert len(list(tmp_path.glob("[0-9].*"))) in (9, 10, 11)  # the unwritten one again, and the next one


def test_a_run_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    results = run_job(squares(tmp_path, 50, seconds=0.2), Here(2))
    pid = next(results)["pid"]
    results.close()
    assert not Path(f"/proc/{pid}").exists()


def test_another_installation_is_told_apart_by_what_computes() -> None:
    assert differences(dict(fingerprint())) == ""
    assert differences({**fingerprint(), "torch": "1.0", "package": "x"}).count(", here ") == 2
