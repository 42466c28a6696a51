"""Of an SRDF's disabled pairs a robot file takes those that touch here now and then, and never one of the fingers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qwen2vl_robot.arms.checks import _self_collision
from qwen2vl_robot.arms.contacts import Sampled, sample_contacts
from qwen2vl_robot.arms.guess import guess_robot
from qwen2vl_robot.arms.srdf import read_disabled, sort_out
from qwen2vl_robot.arms.writing import write_robot
from qwen2vl_robot.bounds import SRDF_PAIRS
from qwen2vl_robot.config import RobotProfile, load_robot, load_unconfirmed_robot, parse
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.motion.collision import CollisionModel

ARM = Path(__file__).parent / "knuckle_arm.urdf"
KNUCKLES = load_robot(str(Path(__file__).parent / "knuckle_arm.yaml"))
MANY = "".join(f"<disable_collisions link1='a' link2='{i}'/>" for i in range(SRDF_PAIRS + 1))
HORNED = ("elbow", "turret")
SHELL = '<collision><geometry><mesh filename="turret.stl"/></geometry></collision>'


def srdf(folder: Path, *pairs: tuple[str, str], reason: str = "Never", more: str = "") -> Path:
    """As MoveIt's setup assistant writes it."""
    lines = [f'<disable_collisions link1="{a}" link2="{b}" reason="{reason}"/>' for a, b in pairs]
    file = folder / "arm.srdf"
    text = f'<?xml version="1.0"?><robot name="r"><group name="arm"/>{"".join(lines)}{more}</robot>'
    file.write_text(text, encoding="utf-8")
    return file


def stl(*boxes_m: tuple[tuple[float, ...], float]) -> bytes:
    """Cubes, each by its middle and its side, as one mesh: its hull is more than they are."""
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    faces = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1),
             (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]  # fmt: skip
    triangles = [corners[list(f)] * side + np.array(middle) for middle, side in boxes_m for f in faces]
    facets = b"".join(struct.pack("<12fH", 0, 0, 0, *t.ravel(), 0) for t in triangles)
    return b"made by a test".ljust(80) + struct.pack("<I", len(triangles)) + facets


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The turret has two horns beside the arm's plane: the elbow meets the hull between them, and never a horn."""
    folder = tmp_path_factory.mktemp("srdf")
    horns = [((-0.3, side, 0.3), 0.02) for side in (-0.25, 0.25)]
    (folder / "turret.stl").write_bytes(stl(((0.0, 0.0, 0.06), 0.1), *horns))
    text = ARM.read_text(encoding="utf-8")
    shape = '<cylinder radius="0.06" length="0.12"/></geometry></collision>'
    assert shape in text
    text = text.replace(f'<collision><origin xyz="0 0 0.06" rpy="0 0 0"/><geometry>{shape}', SHELL)
    (folder / "arm.urdf").write_text(text, encoding="utf-8")
    pairs = (HORNED, ("base", "wrist"), ("base", "left_finger"), ("base", "camera\u2028name: mine"), ("palm", "tool"))
    lines = write_robot(folder / "mine", folder / "arm.urdf", guess_robot, srdf(folder, *pairs))
    return folder / "mine" / "robot.yaml", lines


def test_a_pair_that_touches_by_its_hulls_alone_is_taken_with_its_reason(made: tuple[Path, list[str]]) -> None:
    file, lines = made
    text = file.read_text(encoding="utf-8")
    assert load_unconfirmed_robot(str(file)).srdf_contacts == (HORNED,)
    assert "# Never; in " in text
    assert any("of its 5 pairs 1 touch by their hulls alone" in line and "camera" in line for line in lines), lines


def test_what_touches_by_its_true_shapes_or_is_the_grippers_stays_checked(made: tuple[Path, list[str]]) -> None:
    text = made[0].read_text(encoding="utf-8")
    assert "Checked all the same: ['base', 'wrist'], their true shapes touch in 1." in text
    assert "Checked all the same: ['base', 'left_finger'], the gripper moves one of them." in text


def test_a_foreign_name_adds_no_line_to_the_file(made: tuple[Path, list[str]]) -> None:
    text = made[0].read_text(encoding="utf-8")
    assert "camera" in text
    assert yaml.safe_load(text)["name"] == "mine"
    assert "\u2028" not in text


def test_twin_plant_and_paths_leave_the_pair_out_and_nothing_else(made: tuple[Path, list[str]]) -> None:
    with_it = load_unconfirmed_robot(str(made[0]))
    without = with_it.model_copy(update={"srdf_contacts": ()})
    found = [set(sample_contacts(p).ratios) for p in (without, with_it)]  # Bullet, which twin and plant use
    assert HORNED in found[0]
    assert found[1] == found[0] - {HORNED}
    models = [CollisionModel(Kinematics(p), (), -1.0) for p in (without, with_it)]  # coal, which plans paths
    rng, kinematics = np.random.default_rng(0), Kinematics(with_it)
    close: list[set[frozenset[str]]] = [set(), set()]
    for q_rad in rng.uniform(kinematics.lower_rad, kinematics.upper_rad, (200, 6)):
        for index, model in enumerate(models):
            close[index] |= model.all_close(q_rad, 0.04, 0.0)
    assert frozenset(HORNED) in close[0]
    assert close[1] == close[0] - {frozenset(HORNED)}


def test_the_check_takes_such_a_pair_and_refuses_one_that_never_touches(made: tuple[Path, list[str]]) -> None:
    profile = load_unconfirmed_robot(str(made[0]))
    assert [text for is_right, text in _self_collision(profile) if not is_right] == []
    idle = profile.model_copy(update={"srdf_contacts": (HORNED, ("palm", "tool"))})
    (text,) = [text for is_right, text in _self_collision(idle) if not is_right]
    assert "[('palm', 'tool')] never touch: take them out" in text


@pytest.mark.parametrize("kept", [("base", "left_finger"), ("palm", "right_finger"), ("base", "table")])
def test_no_file_can_leave_out_a_finger_or_the_table(kept: tuple[str, str]) -> None:
    data = KNUCKLES.model_dump() | {"srdf_contacts": [kept]}
    with pytest.raises(BadInputError, match=f"{kept[1]} is always checked"):
        parse(data, RobotProfile, "robot.yaml")


def test_what_never_touches_or_is_allowed_by_design_is_not_taken() -> None:
    sampled = Sampled((("base", "upper"),), (), {("base", "upper"): 1.0}, 0.9, 3)
    found = sort_out({("base", "upper"): "Adjacent", ("base", "wrist"): "Never"}, Kinematics(KNUCKLES), (), sampled)
    assert (found.taken, found.kept, found.unknown, found.count) == ({}, {}, (), 2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<robot", "as an SRDF: not a URDF: no XML"),
        ("<sdf/>", "its root is not <robot>"),
        ('<!DOCTYPE r [<!ENTITY x "y">]><robot/>', "entity"),
        ("<robot>" + "<g>" * 40 + "</g>" * 40 + "</robot>", "deep"),
        ("<robot name='r'/>", "disables no collisions"),
        ("<robot><disable_collisions link1='a'/></robot>", "needs two links, has 'a' and ''"),
        ("<robot><disable_collisions link1='a' link2='a'/></robot>", "needs two links"),
        (
            f"<robot>{MANY}</robot>",
            "pairs are disabled",
        ),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_is_no_srdf_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "arm.srdf"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=why) as raised:
        read_disabled(file)
    assert "\n" not in str(raised.value)


def test_no_folder_is_left_where_the_srdf_cannot_be_read(tmp_path: Path) -> None:
    missing: Any = tmp_path / "none.srdf"
    with pytest.raises(BadInputError, match=r"none\.srdf"):
        write_robot(tmp_path / "mine", ARM, guess_robot, missing)
    assert not (tmp_path / "mine").exists()
