"""Plans of achieved tasks become samples, exactly as they were asked and answered; no other plan does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qwen2vl_robot.cli import app
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.training.demonstrations import export_demonstrations, read_demonstrations
from qwen2vl_robot.training.shards import read_shards
from tests.recording.tables import done_and_failed


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One task done by a plan, one refused before a plan, one that broke."""
    return done_and_failed(tmp_path_factory.mktemp("bags"))


def test_the_plan_of_an_achieved_task_is_a_sample_and_no_other_is(bags: list[Path], tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["export", *map(str, bags), "--samples", str(tmp_path / "samples")])
    assert said.exit_code == 0, said.output
    (packed,) = read_shards(tmp_path / "samples", keeps_images=False)
    asked = packed.demonstration
    assert asked is not None
    assert (asked.text, asked.plainly, asked.failures) == ("go home", (), ())
    assert [action.verb.value for action in parse_reply(asked.reply).actions] == ["home"]
    ((rgb, _),) = read_demonstrations(bags[0])
    assert np.array_equal(packed.image(), rgb)


def test_bags_without_an_achieved_plan_and_a_folder_in_use_are_refused(bags: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no task in these bags was achieved by a plan"):
        export_demonstrations(bags[1:], tmp_path / "none")
    export_demonstrations(bags[:1], tmp_path / "one")
    with pytest.raises(BadInputError, match="exists and is not empty"):
        export_demonstrations(bags[:1], tmp_path / "one")
    said = CliRunner().invoke(app, ["export", str(bags[0])])
    assert said.exit_code != 0 and "give one of --lerobot and --samples" in str(said.exception)
