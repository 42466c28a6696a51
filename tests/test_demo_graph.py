"""Robot and controller as two processes over the wire: what is asked for is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from qwen2vl_robot.demo import DemoScene
from qwen2vl_robot.demo_graph import run_graph_demo
from qwen2vl_robot.errors import BadInputError

SCENE = DemoScene("scenes/default.yaml", seed=3, headless=True)


def test_an_instruction_by_topic_moves_the_arm_and_its_effect_is_measured(tmp_path: Path) -> None:
    told: list[str] = []
    report = run_graph_demo("pick up the red block", SCENE, tmp_path, None, transport="dds", say=told.append)
    assert report["outcome"] == "achieved", report
    *earlier, last = report["steps"]  # on a busy machine a first try may be refused as late; it must say so
    assert (last["action"], last["outcome"]) == ("pick red block", "achieved")
    assert all(step["outcome"] != "achieved" and step["reasons"] for step in earlier)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert Image.open(tmp_path / "frame.png").size == (640, 480)
    assert Image.open(tmp_path / "film.gif").n_frames > 5  # type: ignore[attr-defined]
    assert "working run" in told
    assert not list(tmp_path.glob("*.ready"))


def test_an_unknown_transport_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="unknown; allowed: auto, dds, ros"):
        run_graph_demo("go home", SCENE, tmp_path, None, transport="pigeon", say=print)
