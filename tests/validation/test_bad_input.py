"""`check` answers unusable requests and robots with exit code 2 and one line, never with an approval."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen2vl_robot import cli
from qwen2vl_robot.config import load_robot, robot_file

HOME = [0.0, -1.1, 0.0, -2.6, 0.0, 1.5, 0.785]
AWAY = [0.1, -1.1, 0.0, -2.6, 0.0, 1.5, 0.785]
BLOCK = {"name": "block", "shape": "box", "size_m": [0.05, 0.05, 0.05], "position_m": [0.5, 0.1, 0.025]}
NAMES = [f"panda_joint{i}" for i in range(1, 8)]


def point(time_s: float, positions_rad: list[float]) -> dict[str, Any]:
    return {"time_s": time_s, "positions_rad": positions_rad}


def way(*points: dict[str, Any]) -> dict[str, Any]:
    return {"joints": list(points)}


SOUND = {"start_q_rad": HOME, "objects": [BLOCK], "motion": [way(point(0.0, HOME), point(1.0, AWAY))]}
REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown_robot": ({"robot": "r2d2"}, "r2d2"),
    "unknown_joint": ({"joint_names": ["panda_elbow", *NAMES[1:]]}, "panda_elbow"),
    "joint_named_twice": ({"joint_names": [NAMES[1], *NAMES[1:]]}, "panda_joint1"),
    "unknown_object": ({"picks": "green bowl"}, "green bowl"),
    "fixed_object": ({"picks": "block", "objects": [{**BLOCK, "mass_kg": 0}]}, "block"),
    "times_stand": ({"motion": [way(point(0, HOME), point(1, AWAY), point(1, AWAY))]}, "increase"),
    "times_fall": ({"motion": [way(point(0, HOME), point(2, AWAY), point(1, AWAY))]}, "increase"),
    "gap_in_joints": (
        {"motion": [way(point(0, HOME), point(1, AWAY)), way(point(1, HOME), point(2, HOME))]},
        "segments must join",
    ),
    "gap_in_time": ({"motion": [way(point(0, HOME), point(2, AWAY)), way(point(1, AWAY), point(3, HOME))]}, "begins"),
    "zone_inside_out": (
        {"zones": [{"name": "desk", "min_m": [0.5, 0.0, 0.0], "max_m": [0.4, 1.0, 1.0]}]},
        "inside out",
    ),
}
ROBOTS: dict[str, tuple[dict[str, Any], str]] = {
    "confidence_of_two": ({"safety": {"confidence": 2}}, "confidence"),
    "success_ratio_of_two": ({"safety": {"success_ratio": 2}}, "success_ratio"),
    "no_trials": ({"safety": {"trials": 0}}, "trials"),
    "negative_uncertainty": ({"safety": {"uncertainty": {"position_m": -0.01}}}, "position_m"),
    "unknown_link": ({"tool_link": "panda_thumb"}, "panda_thumb"),
    "unknown_link_of_a_contact": ({"allowed_contacts": [["panda_elbow", "table"]]}, "panda_elbow"),
}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Check a request and return the line that explains the refusal."""

    def call(content: dict[str, Any]) -> str:
        path = tmp_path / "request.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["qwen2vl-robot", "check", str(path), "--json", "-"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert ended.value.code == 2
        assert out == ""
        assert err.startswith("qwen2vl-robot: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_cannot_be_meant_is_one_line(case: str, refuse) -> None:  # type: ignore[no-untyped-def]
    changes, message = REQUESTS[case]
    assert message in refuse({**SOUND, **changes})


@pytest.mark.parametrize("case", ROBOTS)
def test_a_robot_file_that_cannot_be_meant_is_one_line(  # type: ignore[no-untyped-def]
    case: str, refuse, tmp_path: Path
) -> None:
    changes, message = ROBOTS[case]
    assert message in refuse({**SOUND, "robot": str(robot_with(tmp_path, **changes))})


def test_a_mesh_that_does_not_load_is_one_line(refuse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    urdf = tmp_path / "panda.urdf"
    urdf.write_bytes(load_robot("franka_panda").urdf_path.read_bytes())  # without its meshes
    message = refuse({**SOUND, "robot": str(robot_with(tmp_path, urdf=str(urdf)))})
    assert "link0.obj: not found" in message


def robot_with(folder: Path, **changes: Any) -> Path:
    """Write Panda's robot file with changed fields."""
    content = yaml.safe_load(robot_file("franka_panda").read_text(encoding="utf-8"))
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
