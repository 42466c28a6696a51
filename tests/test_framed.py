"""A trajectory in what a recorded frame shows: judged as on the robot, and every file that is not one is one line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qwen2vl_robot import framed
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.reasons import TrajectoryReason, ViolationKind
from tests.cells import PROFILE
from tests.hostile import ROOT
from tests.recording.tables import desk, record
from tests.test_cli import run  # noqa: F401 - a fixture

FRAME = ROOT / "examples" / "frame.npz"
NAMES = [joint.name for joint in PROFILE.joints]
HERE = np.load(FRAME)["q_rad"]


def moveit(way_rad: list[float], seconds: float, **fields: Any) -> dict[str, Any]:
    """As MoveIt plans it: points every 0.1 s with velocities and accelerations."""
    time_s = np.linspace(0.0, seconds, round(seconds * 10) + 1)
    points = []
    for t in time_s:
        s, way = t / seconds, np.array(way_rad)
        points.append({
            "positions": (HERE + s**3 * (10 - 15 * s + 6 * s**2) * way).tolist(),
            "velocities": ((30 * s**2 - 60 * s**3 + 30 * s**4) * way / seconds).tolist(),
            "accelerations": ((60 * s - 180 * s**2 + 120 * s**3) * way / seconds**2).tolist(),
            "time_from_start": {"sec": int(t), "nanosec": round((t - int(t)) * 1e9)},
        })  # fmt: skip
    return {"joint_names": NAMES, "points": points, **fields}


def write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def arrays(path: Path, **changes: Any) -> Path:
    """The example's frame with some arrays replaced, or left out where None is given."""
    kept = {**dict(np.load(FRAME)), **changes}
    np.savez_compressed(path, **{name: value for name, value in kept.items() if value is not None})
    return path


DOWN, ASIDE = [0.0, 1.9, 0.0, 0.6, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_motion_through_what_the_frame_shows_is_refused_by_name(run: Any, tmp_path: Path) -> None:  # noqa: F811
    file = write(tmp_path / "down.yaml", moveit(DOWN, 6.0))
    code, out, _ = run("check", "--frame", str(FRAME), str(file), "--json", "-")
    answer = json.loads(out)
    assert code == 1
    assert not answer["accepted"]
    assert ViolationKind.COLLISION.value in answer["reasons"]
    assert any("table" in v["bodies"] or "obstacle" in " ".join(v["bodies"]) for v in answer["violations"]), answer


def test_a_safe_motion_is_accepted_in_moveits_own_message(run: Any, tmp_path: Path) -> None:  # noqa: F811
    inner = moveit(ASIDE, 2.0, header={"stamp": {"sec": 5, "nanosec": 0}, "frame_id": PROFILE.base_link})
    other = {"header": {"frame_id": ""}, "joint_names": [], "points": []}
    file = write(tmp_path / "aside.yaml", {"joint_trajectory": inner, "multi_dof_joint_trajectory": other})
    code, out, _ = run("check", "--frame", str(FRAME), str(file), "--json", "-")
    answer = json.loads(out)
    assert (code, answer["accepted"], answer["reasons"]) == (0, True, [])
    assert answer["trials"]["count"] == 16


def test_what_is_no_motion_of_the_robot_is_refused_without_a_rehearsal(run: Any, tmp_path: Path) -> None:  # noqa: F811
    file = write(tmp_path / "other.yaml", moveit(ASIDE, 2.0, joint_names=["elbow"]))
    code, out, _ = run("check", "--frame", str(FRAME), str(file), "--json", "-")
    answer = json.loads(out)
    assert (code, answer["reasons"]) == (1, [TrajectoryReason.JOINTS.value])
    assert "elbow" in answer["explanation"]


def test_the_first_look_of_a_bag_is_a_frame(tmp_path: Path) -> None:
    bag = tmp_path / "run.mcap"
    record(bag, desk(), "go home")
    seen = framed.read_frame(bag)
    assert seen.frame.depth_m.shape == seen.frame.rgb.shape[:2]
    assert seen.robot.q_rad.shape == (7,)


BAD_FRAMES: dict[str, dict[str, Any]] = {
    "rgb": {"rgb": None},
    "depth_m or depth_mm": {"depth_mm": None},
    "rgb is needed": {"rgb": np.zeros((480, 640), np.uint8)},
    "rgb is needed as": {"rgb": np.zeros((480, 640, 3), np.float32)},
    "depth is needed": {"depth_mm": np.zeros((4, 4), np.uint16)},
    "K is needed": {"K": np.full((3, 3), np.nan)},
    "T_base_camera is needed": {"T_base_camera": np.ones((4, 4))},
    "T_base_camera is": {"T_base_camera": np.diag([1.0, 1.0, -1.0, 1.0])},
    "q_rad is needed": {"q_rad": np.full(7, np.inf)},
    "gripper_width_m": {"gripper_width_m": np.zeros(3)},
    "not an .npz file of numbers": {"q_rad": np.array([{}], dtype=object)},
}


@pytest.mark.parametrize("said", BAD_FRAMES)
def test_a_frame_that_is_none_says_what_is_needed(tmp_path: Path, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        framed.read_frame(arrays(tmp_path / "frame.npz", **BAD_FRAMES[said]))


def test_a_frame_of_another_robot_is_refused(tmp_path: Path) -> None:
    frame, file = arrays(tmp_path / "frame.npz", q_rad=HERE[:6]), write(tmp_path / "a.yaml", moveit(ASIDE, 2.0))
    with pytest.raises(BadInputError, match="6 joints; franka_panda has 7"):
        framed.check_in_frame(frame, file, "franka_panda")


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def lying(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY",
        zipped(rgb=b"x"),
        zipped(rgb=lying((10**9, 10**6))),
        zipped(rgb=lying((-1, -8))),
        zipped(rgb=b"\x93NUMPY\x01\x00\x76\x00{" + b"(" * 117),
        zipped(**{f"a{k}": lying((8,)) for k in range(40)}),
        zipped(rgb=bytes(framed.FRAME_BYTES + 1)),
    ],
    ids=["empty", "cut", "npy", "text", "huge", "negative", "header", "many", "bomb"],
)
def test_a_hostile_frame_is_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "frame.npz"
    file.write_bytes(data)
    with pytest.raises(BadInputError) as caught:
        framed.read_frame(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"joint_names": NAMES},
        {"joint_trajectory": {"joint_names": NAMES}},
        {"joint_names": NAMES, "points": [{"positions": [0.0]}]},
        {"joint_names": NAMES, "points": [{"positions": "abc", "time_from_start": {"sec": 0}}]},
        {"joint_names": ["a"] * 300, "points": []},
        {**moveit(ASIDE, 0.2), "extra": 1},
        {"joint_trajectory": moveit(ASIDE, 0.2), "multi_dof_joint_trajectory": {"joint_names": ["base"]}},
    ],
)
def test_what_is_no_trajectory_is_bad_input(tmp_path: Path, document: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        framed.read_trajectory(write(tmp_path / "a.yaml", document))
