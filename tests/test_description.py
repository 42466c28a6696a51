"""What a robot file leaves to the URDF: limits, a gripper, the robot's own description."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from qwen2vl_robot.bounds import MESH_BYTES, URDF_CHARS, URDF_DEPTH, URDF_ELEMENTS
from qwen2vl_robot.config import RobotProfile, load_robot, load_yaml, robot_file
from qwen2vl_robot.description import check_description, read_joints, take_live, wants_live
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.urdf_files import check_meshes, mesh_digests
from tests.hostile import MOST_MB, grown_mb

ROBOTS = ("franka_panda", "kuka_iiwa", "xarm6")


@pytest.fixture(autouse=True)
def no_live_description() -> Iterator[None]:
    yield
    os.environ.pop("QWEN2VL_ROBOT_DESCRIPTION", None)


def urdf_of(robot: str) -> str:
    return load_robot(robot).urdf_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_robot_agrees_with_its_own_urdf(robot: str) -> None:
    check_description(urdf_of(robot), load_robot(robot))


@pytest.mark.parametrize("robot", ROBOTS)
def test_home_points_the_tool_down_inside_the_workspace(robot: str) -> None:
    profile = load_robot(robot)
    T = Kinematics(profile).tool_pose(np.array(profile.home_q_rad))
    assert T[2, 2] < -0.999
    assert (T[:3, 3] > profile.workspace.min_m).all()
    assert (T[:3, 3] < profile.workspace.max_m).all()


def test_limits_that_a_short_file_leaves_out_come_from_the_urdf() -> None:
    profile = load_robot("xarm6")
    known = read_joints(urdf_of("xarm6"))
    assert [j.lower_rad for j in profile.joints] == [known[j.name].lower for j in profile.joints]
    assert profile.joints[0].velocity_radps == 3.14


def test_a_file_that_allows_more_than_the_robot_is_refused() -> None:
    profile = load_robot("franka_panda")
    fast = profile.joints[0].model_copy(update={"velocity_radps": 99.0})
    with pytest.raises(BadInputError, match=r"panda_joint1: the robot file allows velocity_radps 99, the robot 2\.175"):
        check_description(urdf_of("franka_panda"), profile.model_copy(update={"joints": (fast, *profile.joints[1:])}))


def short_file(folder: Path, **changes: object) -> Path:
    data = yaml.safe_load(robot_file("xarm6").read_text(encoding="utf-8")) | changes
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_a_joint_that_the_urdf_lacks_is_named(tmp_path: Path) -> None:
    joints = [{"name": "elbow", "acceleration_radps2": 1.0, "jerk_radps3": 1.0}]
    with pytest.raises(BadInputError, match="has no joint elbow; it has joint1"):
        load_yaml(short_file(tmp_path, joints=joints), RobotProfile)


def test_a_mount_on_a_link_that_is_not_there_is_named(tmp_path: Path) -> None:
    mount = {"urdf": "robots/grippers/parallel.urdf", "parent_link": "wrist"}
    profile = load_yaml(short_file(tmp_path, gripper_mount=mount), RobotProfile)
    with pytest.raises(BadInputError, match="no link 'wrist'; it has world, link_base"):
        _ = profile.urdf_path


def test_a_robot_may_describe_itself(tmp_path: Path) -> None:
    path = short_file(tmp_path, urdf="robot_description", gripper_mount=None)
    assert wants_live(path)
    assert not wants_live(robot_file("xarm6"))
    with pytest.raises(BadInputError, match="is robot_state_publisher running"):
        load_yaml(path, RobotProfile)
    take_live(urdf_of("xarm6"))
    profile = load_yaml(path, RobotProfile)
    assert profile.joints == load_robot("xarm6").joints
    assert Kinematics(profile).dof == 6


def test_a_mesh_that_is_not_installed_is_named() -> None:
    urdf = '<robot name="r"><link name="a"><collision><geometry><mesh filename="package://no_such/a.stl"/></geometry></collision></link></robot>'
    with pytest.raises(BadInputError, match="mesh package://no_such/a.stl"):
        take_live(urdf)


def test_a_mesh_that_changed_makes_another_robot(tmp_path: Path) -> None:
    source = load_robot("xarm6").urdf_path
    urdf = tmp_path / "arm.urdf"
    mesh = tmp_path / "link.obj"
    mesh.write_text("v 0 0 0\n")
    urdf.write_text(
        '<robot name="r"><link name="base"><visual><geometry><mesh filename="seen.obj"/></geometry></visual>'
        '<collision><geometry><mesh filename="link.obj"/></geometry></collision></link></robot>'
    )
    before = mesh_digests(urdf)
    assert len(before) == 1
    mesh.write_text("v 0 0 0.1\n")
    assert mesh_digests(urdf) != before
    mesh.unlink()
    assert mesh_digests(urdf) == ("",)
    assert all(mesh_digests(source))


HOSTILE = {
    "entities": '<!DOCTYPE r [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><robot>&b;</robot>',
    "a deep one": "<robot>" + "<link>" * 100_000,
    "a wide one": "<robot>" + "<link/>" * (URDF_ELEMENTS + 1) + "</robot>",
    "a long one": "<robot>" + " " * URDF_CHARS + "</robot>",
    "a cut one": "<robot><link",
    "no XML": "machine example.org password hunter2",
    "another document": "<hunter2/>",
    "letters that no encoding has": "<robot name='\ud800'/>",
    "a null": "<robot>\0</robot>",
    "a wild limit": '<robot><joint name="j" type="revolute"><limit lower="hunter" velocity="nan"/></joint></robot>',
}


@pytest.mark.parametrize("urdf", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_description_is_one_line(urdf: str) -> None:
    with pytest.raises(BadInputError) as refused:
        read_joints(urdf)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
    assert "hunter2" not in str(refused.value)


def test_a_description_of_as_many_elements_as_allowed_is_read() -> None:
    deep = "<link>" * (URDF_DEPTH - 1) + "</link>" * (URDF_DEPTH - 1)
    wide = "<link/>" * (URDF_ELEMENTS - URDF_DEPTH)
    assert read_joints(f"<robot>{deep}{wide}</robot>") == {}


@pytest.mark.parametrize("name", ["a deep one", "a wide one", "a long one"])
def test_the_worst_refused_descriptions_take_little_memory(name: str) -> None:
    code = f"""
from qwen2vl_robot.description import read_joints
from qwen2vl_robot.errors import BadInputError
from tests.test_description import HOSTILE
def attack():
    try:
        read_joints(HOSTILE[{name!r}])
    except BadInputError:
        return True
"""
    assert grown_mb(code) < MOST_MB


def test_a_whole_robot_file_with_a_device_as_its_urdf_is_one_line(tmp_path: Path) -> None:
    data = yaml.safe_load(robot_file("franka_panda").read_text(encoding="utf-8")) | {"urdf": "/dev/zero"}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    profile = load_yaml(tmp_path / "robot.yaml", RobotProfile)
    for read in (lambda: profile.digest, lambda: Kinematics(profile)):
        with pytest.raises(BadInputError, match="not a file"):
            read()


@pytest.mark.parametrize("urdf", ["/dev/zero", "a" * 300, "x\0y", "/"])
def test_a_urdf_that_is_no_file_is_one_line(tmp_path: Path, urdf: str) -> None:
    with pytest.raises(BadInputError):
        load_yaml(short_file(tmp_path, urdf=urdf), RobotProfile)


def test_a_mesh_is_as_large_as_allowed_and_no_byte_larger(tmp_path: Path) -> None:
    shape = '<collision><geometry><mesh filename="a.stl"/></geometry></collision>'
    (tmp_path / "arm.urdf").write_text(f'<robot name="r"><link name="a">{shape}</link></robot>')
    mesh = tmp_path / "a.stl"
    mesh.touch()
    os.truncate(mesh, MESH_BYTES)
    check_meshes(tmp_path / "arm.urdf")
    os.truncate(mesh, MESH_BYTES + 1)
    with pytest.raises(BadInputError, match=f"mesh a.stl: more than {MESH_BYTES} bytes"):
        check_meshes(tmp_path / "arm.urdf")
