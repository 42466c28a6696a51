"""A bag reads to its last chunk, however its writer died, and nothing that it holds harms its reader."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from rosbags.highlevel import AnyReader

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.recording.bag import FLUSH_S, BagReader, BagWriter, types

STRING = "std_msgs/msg/String"


def text(words: str) -> bytes:
    return bytes(types().serialize_cdr(types().types[STRING](data=words), STRING))


def write(path: Path, count: int, size: int = 100_000) -> None:
    bag = BagWriter(path)
    for number in range(1, count + 1):
        bag.write("/decision/calls", STRING, text(f"{number} ") + os.urandom(size), sequence=number)
    bag.close()


def numbers(path: Path) -> tuple[list[int], BagReader]:
    reader = BagReader(path)
    return [message.sequence for message in reader.messages()], reader


def test_other_libraries_read_what_was_written(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag.mcap")
    bag.write("/decision/task", STRING, text("go home"), sequence=1)
    bag.close()
    with AnyReader([tmp_path / "bag.mcap"]) as reader:
        assert [reader.deserialize(raw, c.msgtype).data for c, _, raw in reader.messages()] == ["go home"]  # type: ignore[attr-defined]
    with (tmp_path / "bag.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
        assert summary is not None
        assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
        assert make_reader(file).get_header().profile == "ros2"


def test_no_recording_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "bag.mcap", 1)
    with pytest.raises(BadInputError, match="exists already"):
        BagWriter(tmp_path / "bag.mcap")


def test_a_file_that_is_cut_anywhere_reads_to_its_last_whole_chunk(tmp_path: Path) -> None:
    write(tmp_path / "bag.mcap", 40)
    data, cut = (tmp_path / "bag.mcap").read_bytes(), tmp_path / "cut.mcap"
    most = 0
    for end in range(8, len(data), len(data) // 60):
        cut.write_bytes(data[:end])
        found, reader = numbers(cut)
        assert found == list(range(1, len(found) + 1))
        assert not reader.is_whole
        assert len(found) >= most
        most = len(found)
    assert most > 20
    assert numbers(tmp_path / "bag.mcap")[1].is_whole


def test_a_flipped_bit_ends_the_reading_with_a_reason(tmp_path: Path) -> None:
    write(tmp_path / "bag.mcap", 40)
    data = bytearray((tmp_path / "bag.mcap").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bag.mcap").write_bytes(data)
    found, reader = numbers(tmp_path / "bag.mcap")
    assert found == list(range(1, len(found) + 1))
    assert 0 < len(found) < 40
    assert "cut or broken" in reader.problem


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_chunk_that_says_it_is_huge_takes_no_memory(tmp_path: Path, compression: CompressionType) -> None:
    path = tmp_path / "bomb.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1 << 30, compression=compression)
        writer.start()
        channel = writer.register_channel("/decision/calls", "cdr", writer.register_schema(STRING, "ros2msg", b""))
        writer.add_message(channel, 0, b"\0" * 300_000_000, 0)
        writer.finish()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, reader = numbers(path)
    assert found == []
    assert "cut or broken" in reader.problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 300_000


def test_a_record_that_says_it_is_huge_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + b"\x06" + struct.pack("<Q", 1 << 60))
    assert numbers(path)[0] == []


@pytest.mark.parametrize("content", [b"", b"MCAP", b"\x7fELF" + bytes(100), b"SQLite format 3\0"])
def test_what_is_no_bag_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bag.mcap"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="a bag is needed"):
        BagReader(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "a folder"), (tmp_path / "none", "no such file")):
        with pytest.raises(BadInputError, match=what):
            BagReader(path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_process_loses_no_more_than_its_last_moment(tmp_path: Path, number: int) -> None:
    path = tmp_path / "bag.mcap"
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.recording.kills", "--child", str(path)], stdout=-1, text=True
    )
    assert child.stdout is not None
    while int(child.stdout.readline()) < 30:
        """Until some messages are written."""
    time.sleep(2 * FLUSH_S)
    child.send_signal(number)
    said = [int(line) for line in child.stdout.read().split()]
    assert child.wait() == -number
    reader = BagReader(path)
    found = [message.sequence for message in reader.messages() if message.topic == "/decision/calls"]
    assert found == list(range(1, len(found) + 1))
    assert not reader.is_whole
    assert len(found) >= 30
    assert len(found) <= max(said, default=30) + 5
