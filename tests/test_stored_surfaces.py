"""Surfaces from the user's cache are those that are sampled, and nothing that is wrong with a file changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.perception.stored_surfaces import Points, recall
from qwen2vl_robot.perception.surfaces import _sample_links, surfaces_of
from tests.cells import PROFILE

_URDF = """<robot name="r"><link name="a"><visual><geometry><mesh filename="seen.stl"/></geometry></visual>
<collision><geometry><mesh filename="hit.stl"/></geometry></collision></link></robot>"""


class Sampled:
    """Samples, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Points:
        self.times += 1
        points = np.random.default_rng(3).random((2, 40, 3))
        return {"file": (points[0], points[1]), "tool/é": (points[1, :5], points[0, :5])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qwen2vl_robot"


@pytest.fixture
def urdf(tmp_path: Path) -> Path:
    file = tmp_path / "robot.urdf"
    file.write_text(_URDF, encoding="utf-8")
    for name in ("seen.stl", "hit.stl"):
        (tmp_path / name).write_bytes(b"solid")
    return file


def same(a: Points, b: Points) -> bool:
    return list(a) == list(b) and all(np.array_equal(x, y) for k in a for x, y in zip(a[k], b[k], strict=True))


def test_what_is_read_back_is_what_was_sampled(folder: Path, urdf: Path) -> None:
    sampled = Sampled()
    assert same(recall(urdf, sampled), Sampled()())
    assert same(recall(urdf, sampled), Sampled()())
    assert sampled.times == 1, "it was read, not sampled"
    assert len(list(folder.glob("surfaces-*.npz"))) == 1


def test_of_a_robot_they_are_those_of_its_meshes() -> None:
    kinematics = Kinematics(PROFILE)
    assert same(surfaces_of(kinematics).links, _sample_links(kinematics))


@pytest.mark.parametrize("wrong", ["empty", "cut", "changed", "foreign", "another"])
def test_a_wrong_file_is_sampled_anew(folder: Path, urdf: Path, wrong: str) -> None:
    sampled = Sampled()
    recall(urdf, sampled)
    (file,) = folder.glob("surfaces-*.npz")
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": content[: len(content) // 2],
            "changed": content[:-300] + bytes([content[-300] ^ 1]) + content[-299:],
            "foreign": b"\x00\xff{]",
            "another": b"0" * 64 + content[64:],
        }[wrong]
    )
    assert same(recall(urdf, sampled), Sampled()())
    assert sampled.times == 2
    assert file.read_bytes() == content


@pytest.mark.parametrize(("name", "is_other"), [("seen.stl", True), ("hit.stl", False), ("robot.urdf", True)])
def test_what_they_follow_from_makes_a_file_of_its_own(folder: Path, urdf: Path, name: str, is_other: bool) -> None:
    sampled = Sampled()
    recall(urdf, sampled)
    with (urdf.parent / name).open("ab") as file:
        file.write(b"\n\n")
    recall(urdf, sampled)
    assert sampled.times == 1 + is_other
    assert len(list(folder.glob("surfaces-*.npz"))) == 1 + is_other


def test_without_a_place_to_write_every_point_is_there(
    tmp_path: Path, urdf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert same(recall(urdf, Sampled()), Sampled()())


def test_old_files_go(folder: Path, urdf: Path) -> None:
    for number in range(15):
        urdf.write_text(_URDF + f"<!-- {number} -->", encoding="utf-8")
        recall(urdf, Sampled())
    assert len(list(folder.glob("surfaces-*.npz"))) == 12
