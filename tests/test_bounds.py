"""docs/security.md has one table of bounds, and it says what the code holds."""

from __future__ import annotations

import re

import pytest

from qwen2vl_robot import bounds
from tests.hostile import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and re.search(r"`[A-Z_]+` [\d,]+", line)]
CODE = {name: value for name, value in vars(bounds).items() if name.isupper()}


def test_the_table_of_bounds_says_what_the_code_holds_and_leaves_nothing_out() -> None:
    pairs = (pair for row in ROWS for pair in re.findall(r"`([A-Z_]+)` ([\d,]*\d)", row))
    assert {(name, float(number.replace(",", ""))) for name, number in pairs} == {
        (n, float(v)) for n, v in CODE.items()
    }


def test_every_row_names_files_that_exist() -> None:
    for row in ROWS:
        *_, held, tested, _ = row.split("|")
        for name in re.findall(r"`([^`]+)`", held):
            assert (ROOT / "qwen2vl_robot" / name).is_file(), row
        for name in re.findall(r"`([^`]+)`", tested):
            assert (ROOT / name).is_file(), row


# What reads a format without bounds of its own, and where alone it may stand: by the bounded reader of that kind, or
# where a process of ours wrote what is read.
READERS = {
    r"json\.loads?\(": ("documents.py", "training/", "benchmarks/", "fleet/journal.py"),
    r"yaml\.(safe_|full_|unsafe_)?load(_all)?\(": ("documents.py",),
    r"Image\.open\(|cv2\.im(read|decode)": ("photos.py", "training/shards.py"),
    r"ElementTree\.(parse|fromstring|XML)\(": ("urdf_files.py",),
    r"wave\.open\(": ("nodes/sound.py", "benchmarks/"),
    r"(pickle|marshal|dill)\.loads?\(": ("process.py", "benchmarks/"),
    r"torch\.load\(": ("training/",),
    r"\.read_(text|bytes)\(": (
        "urdf_files.py",  # what this package wrote
        *("process.py", "doctor.py", "planner/fit.py", "cli/output.py"),  # /proc, own files
        *("training/", "benchmarks/", "console/server.py", "fleet/"),
    ),
}


@pytest.mark.parametrize("call", READERS)
def test_each_format_is_read_in_one_place(call: str) -> None:
    package = ROOT / "qwen2vl_robot"
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(call, file.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith(READERS[call])} == set()


def test_foreign_text_is_shown_as_one_short_printable_line() -> None:
    shown = bounds.shown("\x1b[31m\n" + "x" * 10_000)
    assert len(shown) == bounds.SHOWN_CHARS
    assert shown.isprintable()
    assert shown.endswith("...")
    assert bounds.shown("just right") == "just right"
