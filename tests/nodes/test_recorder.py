"""A recording: what was published comes out of the bag again, by its absolute name, read by another library."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface
from qwen2vl_robot.nodes.recorder import Recorder, recorded_topics
from tests.nodes.local_graph import LocalGraph


def test_what_was_published_comes_out_of_the_bag(tmp_path: Path) -> None:
    graph = LocalGraph()
    recorder = Recorder(graph, tmp_path / "bag.mcap")
    graph.give(interface.INSTRUCTION, data="pick up the red block")
    graph.give(interface.STATUS.at(f"{interface.NODE_NAME}/status"), data='{"state": "working"}')
    recorder.close()
    graph.give(interface.INSTRUCTION, data="too late")
    with AnyReader([tmp_path / "bag.mcap"]) as reader:
        recorded = {c.topic: reader.deserialize(raw, c.msgtype).data for c, _, raw in reader.messages()}  # type: ignore[attr-defined]
    assert recorded == {"/instruction": "pick up the red block", "/qwen2vl_robot/status": '{"state": "working"}'}


def test_pictures_are_recorded_where_asked_for_of_every_camera() -> None:
    assert not {topic.name for topic in recorded_topics(("",), False)} & {"image", "depth", "image/compressed"}
    names = {topic.name for topic in recorded_topics(("front/", "side/"), True)}
    assert {"front/image", "front/depth", "side/image", "side/camera_info"} <= names


def test_an_earlier_recording_is_not_overwritten(tmp_path: Path) -> None:
    earlier = tmp_path / "bag.mcap"
    earlier.touch()
    with pytest.raises(BadInputError, match="exists already"):
        Recorder(LocalGraph(), earlier)
