"""A bag from anybody is refused with its reason, or answers; it never makes a flow decide by guesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.recording.bag import BagReader, BagWriter, types
from qwen2vl_robot.recording.replay import Files, replay
from qwen2vl_robot.recording.tape import Tape
from tests.recording.tables import again, desk, record

STRING = "std_msgs/msg/String"
Change = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "bag.mcap"
    record(path, desk(), "go home")
    return path


def changed(bag: Path, out: Path, change: Change) -> Path:
    """A copy of a bag whose calls are changed; None leaves one out."""
    writer = BagWriter(out)
    for message in BagReader(bag).messages():
        data = message.data
        if message.type == STRING:
            document = change(json.loads(types().deserialize_cdr(data, STRING).data))  # type: ignore[attr-defined]
            if document is None:
                continue
            data = bytes(types().serialize_cdr(types().types[STRING](data=json.dumps(document)), STRING))
        writer.write(message.topic, message.type, data, sequence=message.sequence)
    writer.close()
    return out


def setup(**values: Any) -> Change:
    return lambda call: {**call, "setup": {**call["setup"], **values}} if call["call"] == "setup" else call


def answer(name: str, value: Any) -> Change:
    return lambda call: {**call, "answer": value} if call["call"] == name else call


def test_a_bag_that_only_passed_through_is_the_same(bag: Path, tmp_path: Path) -> None:
    assert again(changed(bag, tmp_path / "same.mcap", lambda call: call)).differences == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setup(format=99), "format 99; this version replays format 2"),
        (setup(limits=[1.0, float("1e9"), 1.0, 1.0]), "limits"),
        (setup(surprise=1), "surprise"),
        (lambda call: {**call, "call": "task"} if call["n"] == 1 else call, "does not begin with a setup"),
        (lambda call: None, "it holds no decisions"),
    ],
)
def test_a_setup_that_cannot_be_used_is_said(bag: Path, tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        Tape(changed(bag, tmp_path / "bad.mcap", change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda call: None if call["n"] == 20 else call, "calls 20 to 20 were dropped"),
        (answer("arm.state", {"is": "RobotState"}), "stamp_ns"),
        (answer("arm.state", "home"), "call"),
        (answer("clock.now_ns", "noon"), "a whole number is needed"),
        (answer("clock.now_ns", 2**70), "a whole number is needed"),
        (answer("camera.capture", {"is": "CameraFrame"}), "stamp_ns"),
        (answer("camera.capture", None), "empty"),
        (answer("approver.approve", {"is": "ApprovedMotion"}), "call"),
        (answer("task", {"is": "Instruction", "text": "go home", "source": "god"}), "source"),
    ],
)
def test_an_answer_that_no_recorder_writes_ends_the_replay(
    bag: Path, tmp_path: Path, change: Change, said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        again(changed(bag, tmp_path / "bad.mcap", change))


def test_a_cut_bag_is_replayed_as_far_as_it_goes(bag: Path, tmp_path: Path) -> None:
    data = bag.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    result = again(cut)
    assert result.differences == []
    assert "cut or broken" in result.cut
    assert result.decisions >= 1


def test_a_bag_without_its_end_but_with_its_task_is_compared_whole(bag: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bag.read_bytes()[:-100])
    assert again(cut).differences == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../robot", "http://127.0.0.1:1/v1#m"])
def test_a_path_in_a_bag_is_not_opened(bag: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="give it with --robot"):
        replay(changed(bag, tmp_path / "bad.mcap", setup(robot=name)), Files())
    with pytest.raises(BadInputError, match="give them with --rules"):
        replay(changed(bag, tmp_path / "bad2.mcap", setup(rules=name)), Files())


def test_a_recording_of_the_graph_holds_no_decisions(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "graph.mcap")
    writer.write("/instruction", STRING, bytes(types().serialize_cdr(types().types[STRING](data="go"), STRING)))
    writer.close()
    with pytest.raises(BadInputError, match="holds no decisions"):
        Tape(tmp_path / "graph.mcap")
