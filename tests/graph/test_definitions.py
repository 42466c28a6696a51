"""The types of msgs/, which ROS 2 builds, are those that the DDS transport makes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rosbags.typesys import get_types_from_msg, get_typestore

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.definitions import OWN_ACTIONS, OWN_SERVICES
from qwen2vl_robot.graph.idl import DISTROS, type_hash, typestore

MSGS = Path(__file__).resolve().parents[2] / "msgs"
FILES = sorted([*MSGS.glob("srv/*.srv"), *MSGS.glob("action/*.action")])
OWN: dict[str, tuple[str, ...]] = {**OWN_SERVICES, **OWN_ACTIONS}


def parts(file: Path) -> list[str]:
    """Request and response, or goal, result and feedback, as ROS 2 reads them from the file."""
    return re.split(r"^---$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def type_of(file: Path) -> str:
    return f"qwen2vl_robot_msgs/{file.parent.name}/{file.stem}"


def test_every_type_of_ours_has_its_file_and_is_built() -> None:
    assert {type_of(file) for file in FILES} == set(OWN)
    listed = re.findall(r'"((?:srv|action)/\w+\.\w+)"', (MSGS / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert sorted(listed) == [file.relative_to(MSGS).as_posix() for file in FILES]
    offered = {entry.type for entry in (*interface.SERVICES, *interface.ACTIONS)}
    assert set(OWN) <= offered


@pytest.mark.parametrize("distro", DISTROS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_has_the_hash_that_our_nodes_announce(file: Path, distro: str) -> None:
    """The files are read by rosbags' own parser, which shares nothing with ours."""
    ends = ("Request", "Response") if file.suffix == ".srv" else ("Goal", "Result", "Feedback")
    found = parts(file)
    assert len(found) == len(ends)
    for end, text in zip(ends, found, strict=True):
        name = f"{type_of(file)}_{end}"
        store = get_typestore(DISTROS[distro])
        (fields,) = get_types_from_msg(text, f"qwen2vl_robot_msgs/msg/{file.stem}").values()
        store.register({name: fields})
        assert store.fielddefs[name][1] == typestore(distro).fielddefs[name][1]
        if distro != "humble":  # it has no hashes
            assert type_hash(name, distro) == store.hash_rihs01(name)


@pytest.mark.parametrize(
    ("name", "digits"),
    [  # as rosidl 4.6.6 of Jazzy writes them beside what it builds from msgs/
        ("action/Execute_SendGoal_Request", "46c658422faf21d9ed497140f11c20a4d166cb3425bf0b7cd0115e35e6ed5adf"),
        ("srv/CheckTrajectory_Request", "3877a09f6eee930f2db39cc426e5864aded219e4354f05111c959ee3b28d9e2a"),
    ],
)
def test_the_hashes_are_those_of_ros_own_generator(name: str, digits: str) -> None:
    assert type_hash(f"qwen2vl_robot_msgs/{name}", "jazzy") == f"RIHS01_{digits}"


def test_the_message_package_is_named_where_colcon_and_rosdep_look() -> None:
    package = ElementTree.parse(MSGS / "package.xml").getroot()
    assert package.findtext("name") == "qwen2vl_robot_msgs"
    assert "rosidl_interface_packages" in [group.text for group in package.iter("member_of_group")]
    ours = ElementTree.parse(MSGS.parent / "package.xml").getroot()
    assert "qwen2vl_robot_msgs" in [entry.text for entry in ours.iter("exec_depend")]
