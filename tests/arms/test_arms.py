"""A URDF gives a robot file of guesses that works in simulation; no arm moves by it before a person confirmed it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from qwen2vl_robot.arms.checks import check_robot
from qwen2vl_robot.arms.contacts import sample_contacts
from qwen2vl_robot.arms.guess import CONFIRM, guess_robot
from qwen2vl_robot.arms.joints import dissect
from qwen2vl_robot.arms.writing import write_robot
from qwen2vl_robot.config import RobotProfile, load_robot, load_unconfirmed_robot
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kinematics import Kinematics

ARM = Path(__file__).parent / "knuckle_arm.urdf"
TEXT = ARM.read_text(encoding="utf-8")
KNUCKLES = load_robot(str(Path(__file__).parent / "knuckle_arm.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms") / "mine"
    write_robot(folder, ARM, guess_robot)
    return folder


def guessed(text: str, folder: Path) -> RobotProfile:
    """Guess the robot file of another URDF and load it."""
    (folder / "other.urdf").write_text(text, encoding="utf-8")
    write_robot(folder / "other", folder / "other.urdf", guess_robot)
    return load_unconfirmed_robot(str(folder / "other" / "robot.yaml"))


def test_what_is_written_moves_nothing_until_a_person_has_confirmed_all_of_it(folder: Path) -> None:
    file = folder / "robot.yaml"
    with pytest.raises(BadInputError, match=f"not confirmed yet: {', '.join(CONFIRM)}"):
        load_robot(str(file))
    text = file.read_text(encoding="utf-8")
    for name in CONFIRM[:-1]:
        text = text.replace(f"{name}, ", "", 1)
        file.with_name("part.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(BadInputError, match="not confirmed yet"):
            load_robot(str(file.with_name("part.yaml")))
    file.with_name("all.yaml").write_text(re.sub(r"unconfirmed: .*", "unconfirmed: []", text), encoding="utf-8")
    assert load_robot(str(file.with_name("all.yaml"))).name == "mine"


def test_arm_gripper_and_tool_are_found(folder: Path) -> None:
    found = load_unconfirmed_robot(str(folder / "robot.yaml"))
    assert [j.name for j in found.joints] == [j.name for j in KNUCKLES.joints]
    assert (found.tool_link, found.base_link) == ("tool", "base")
    assert found.gripper.joints == ("left_knuckle_joint",)
    assert found.gripper.finger_links == ("left_finger", "right_finger")
    for width_m in (0.0, 0.03, 0.06, 0.085):
        assert found.gripper.position(width_m) == pytest.approx(KNUCKLES.gripper.position(width_m), abs=0.01)
    assert found.allowed_contacts == (("base", "table"),)


def test_limits_are_the_urdfs_and_an_endless_joint_gets_one(folder: Path) -> None:
    found = load_unconfirmed_robot(str(folder / "robot.yaml"))
    assert [(j.lower_rad, j.velocity_radps, j.effort_nm) for j in found.joints[:3]] == [
        (-3.1, 2.0, 120.0),
        (-2.1, 2.0, 120.0),
        (-2.6, 2.0, 90.0),
    ]
    assert (found.joints[5].lower_rad, found.joints[5].upper_rad) == (-3.1415, 3.1415)  # one turn, whatever is counted


def test_home_points_the_tool_down_with_nothing_that_touches(folder: Path) -> None:
    found = load_unconfirmed_robot(str(folder / "robot.yaml"))
    T = Kinematics(found).tool_pose(np.array(found.home_q_rad))
    assert T[2, 2] < -0.999
    assert T[0, 3] > 0.2
    assert not sample_contacts(found, samples=0).at_home


def test_the_file_marks_its_guesses_and_the_picture_shows_the_robot(folder: Path) -> None:
    text = (folder / "robot.yaml").read_text(encoding="utf-8")
    assert text.count("GUESS") >= 6
    with Image.open(folder / "robot.png") as picture:
        assert picture.size == (1440, 480)
        shots = np.asarray(picture).reshape(480, 3, 480, 3)
    assert (shots[:, 1] != shots[:, 2]).any(axis=-1).mean() > 0.005  # the fingers have moved


def test_a_tool_frame_that_the_urdf_lacks_is_added_by_the_file(tmp_path: Path) -> None:
    text = re.sub(r'(?s)  <link name="tool"/>|<joint name="tool_mount".*?</joint>', "", TEXT)
    found = guessed(text, tmp_path)
    assert found.tool_mount is not None and found.tool_mount.parent_link == "palm"
    T = Kinematics(found).tool_pose(np.array(found.home_q_rad))
    T_ours = Kinematics(KNUCKLES).tool_pose(np.array(found.home_q_rad))
    assert np.linalg.norm((T - T_ours)[:2, 3]) < 0.002  # between the pads, as in the whole URDF
    assert T[2, 2] < -0.999


def test_a_driver_that_counts_the_other_way_gets_the_other_table(tmp_path: Path) -> None:
    """A gripper that opens as its joint turns on is as good as one that closes."""
    text = TEXT.replace('lower="0" upper="0.8"', 'lower="-0.8" upper="0"')
    for side, axis in (("left", "1 0 0"), ("right", "-1 0 0")):
        other = " ".join(str(-int(v)) for v in axis.split())
        for joint in (f"{side}_knuckle_joint", f"{side}_finger_joint"):
            text = re.sub(rf'(?s)(name="{joint}".*?<axis xyz=)"{axis}"', rf'\1"{other}"', text, count=1)
    found = guessed(text, tmp_path)
    assert (found.gripper.position(0.0), found.gripper.position(0.085)) == (-0.8, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (r"<mimic [^>]*/>", "", "no gripper found"),
        (r'(name="a1" type=)"revolute"', r'\1"prismatic"', "two that slide"),
        (r'(name="left_knuckle_joint"(?s:.*?))upper="0.8"', r'\1upper="0"', "open and closed are not known"),
        (r"</robot>", '<link name="floor"/></robot>', "one root link is needed, found base, floor"),
        (r"</robot>", "", "no XML"),
    ],
)
def test_what_is_no_arm_with_one_gripper_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        guessed(re.sub(old, new, TEXT), tmp_path)
    assert not (tmp_path / "other").exists()


def test_an_arm_with_a_second_arm_is_refused() -> None:
    second = '<link name="b"/><joint name="b1" type="revolute"><parent link="base"/><child link="b"/></joint></robot>'
    with pytest.raises(BadInputError, match="joints that belong to neither: b1"):
        dissect(TEXT.replace("</robot>", second))


def test_the_checks_pass_for_what_was_guessed_and_list_what_is_left(folder: Path) -> None:
    findings = check_robot(load_unconfirmed_robot(str(folder / "robot.yaml")))
    assert {f.check for f in findings} == {"kinematics", "gripper", "home", "self-collision", "pick in the twin"}
    assert [f.detail for f in findings if not f.is_right] == []


def test_a_pair_that_only_sometimes_touches_must_not_be_allowed() -> None:
    changed = KNUCKLES.model_copy(update={"allowed_contacts": (("base", "table"), ("base", "palm"))})
    found = [f for f in check_robot(changed) if f.check == "self-collision" and not f.is_right]
    assert len(found) == 1 and re.search(
        "base and palm are allowed to touch, and do in .% .*: not by design", found[0].detail
    )


def test_a_home_that_leans_or_touches_is_found() -> None:
    changed = KNUCKLES.model_copy(update={"home_q_rad": (0.0, 0.1, 2.55, 0.0, 2.15, 0.0)})
    wrong = {f.check for f in check_robot(changed) if not f.is_right}
    assert {"home"} <= wrong


def test_a_gripper_the_wrong_way_round_ends_the_checks_at_once() -> None:
    rows = ((0.0, 0.0), (0.085, 0.8))
    changed = KNUCKLES.model_copy(update={"gripper": KNUCKLES.gripper.model_copy(update={"position_by_width_m": rows})})
    (only,) = check_robot(changed)
    assert not only.is_right and "stand 85 mm apart" in only.detail


def test_the_data_that_is_written_is_the_data_that_was_guessed(folder: Path) -> None:
    data = yaml.safe_load((folder / "robot.yaml").read_text(encoding="utf-8"))
    assert data["unconfirmed"] == list(CONFIRM)
    assert json.dumps(data["joints"])
