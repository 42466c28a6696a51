"""Files and names that nothing can be read from end in one line, not in a traceback and not in waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwen2vl_robot.cell import CellRules
from qwen2vl_robot.config import load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.hub import prepare_hub
from qwen2vl_robot.planner.sources import ModelSettings
from qwen2vl_robot.resources import resolve

LONG = "a" * 300


@pytest.mark.parametrize("text", ["known: 2020-99-99", "known: !!int zz", "known: !!bool zz", "known: !!timestamp zz"])
def test_a_value_that_yaml_itself_cannot_make_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cell.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match="cell.yaml: not YAML"):
        load_yaml(path, CellRules)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="not a file"):
        load_yaml(tmp_path / "pipe", CellRules)


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    with pytest.raises(BadInputError, match="no such file"):
        resolve(LONG)
    with pytest.raises(BadInputError, match="too long"):
        prepare_hub(ModelSettings(model=LONG))
