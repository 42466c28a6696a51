"""An export is what LeRobot's format says; `make lerobot` reads one back with LeRobot itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from qwen2vl_robot.cli import app
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.recording.bag import BagReader
from qwen2vl_robot.recording.lerobot import FPS, export
from tests.recording.tables import done_and_failed

LAYOUT = Path(__file__).parents[2] / "docs" / "foxglove.json"


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One task done, one refused by its words, one aborted."""
    return done_and_failed(tmp_path_factory.mktemp("bags"))


def test_every_task_is_an_episode_and_refused_and_failed_ones_are_marked(bags: list[Path], tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["export", *map(str, bags), "--lerobot", str(tmp_path / "set")])
    assert said.exit_code == 0, said.output
    episodes = pq.read_table(tmp_path / "set" / "meta" / "episodes").to_pylist()
    ends = {(e["tasks"][0], e["outcome"], e["success"]) for e in episodes}
    assert ends == {("go home", "achieved", True), ("do not move", "refused", False), ("go home", "aborted", False)}
    assert next(e for e in episodes if e["outcome"] == "refused")["reason"] == "negated"
    rows = pq.read_table(tmp_path / "set" / "data").to_pylist()
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert [row["index"] for row in rows] == list(range(info["total_frames"]))
    assert [e["dataset_to_index"] - e["dataset_from_index"] for e in episodes] == [e["length"] for e in episodes]
    for row, after in zip(rows, rows[1:], strict=False):
        assert row["timestamp"] == pytest.approx(row["frame_index"] / FPS)
        if row["episode_index"] == after["episode_index"]:
            assert row["action"] == after["observation.state"]
    moved = [row["observation.state"] for row in rows if row["episode_index"] == 0]
    assert np.ptp(np.array(moved), axis=0).max() > 0.3
    picture = Image.open(io.BytesIO(rows[0]["observation.images.camera"]["bytes"]))
    assert picture.size[::-1] == tuple(info["features"]["observation.images.camera"]["shape"][:2])


def test_a_cut_task_is_marked_and_a_folder_with_files_is_left_alone(bags: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bags[0].read_bytes()[: bags[0].stat().st_size // 2])
    assert export([cut], tmp_path / "set") == {"cut": 1}
    with pytest.raises(BadInputError, match="not empty"):
        export([cut], tmp_path / "set")


def test_a_bag_without_decisions_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "none.mcap").write_bytes(b"none")
    with pytest.raises(BadInputError, match="a bag is needed"):
        export([tmp_path / "none.mcap"], tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_the_layout_for_foxglove_shows_topics_that_a_bag_has(bags: list[Path]) -> None:
    layout = json.loads(LAYOUT.read_text(encoding="utf-8"))
    text = json.dumps(layout["configById"])
    topics = {message.topic for message in BagReader(bags[0]).messages()}
    wanted = {word for word in text.replace(".", '"').split('"') if word.startswith("/decision/")}
    assert len(wanted) == 9
    assert wanted <= topics
    shown = json.dumps([layout["layout"], layout["configById"]["Tab!words"]])
    assert all(panel in shown for panel in layout["configById"])
