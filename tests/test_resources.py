"""Shipped files are found by name, and a missing one gives one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.resources import data_root, resolve

ROOT = Path(__file__).resolve().parents[1]


def test_the_source_tree_is_found_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "share" / "qwen2vl_robot" / "sim" / "robots"
    other.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert data_root() == ROOT


def test_a_file_of_pybullet_data_is_found_without_the_simulator() -> None:
    assert resolve("pybullet_data:plane.urdf").name == "plane.urdf"


def test_a_relative_path_lies_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    assert resolve("mine.yaml", tmp_path) == tmp_path / "mine.yaml"


def test_what_is_not_beside_is_looked_for_under_sim(tmp_path: Path) -> None:
    found = resolve("robots/franka_panda/robot.yaml", tmp_path)
    assert found == ROOT / "sim" / "robots" / "franka_panda" / "robot.yaml"


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    assert resolve(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"


@pytest.mark.parametrize("reference", ["nowhere.yaml", "/nowhere.yaml", "pybullet_data:nowhere.urdf"])
def test_a_missing_file_is_named_in_one_line(reference: str) -> None:
    with pytest.raises(BadInputError, match="no such file") as caught:
        resolve(reference)
    assert reference in str(caught.value)
    assert "\n" not in str(caught.value)
