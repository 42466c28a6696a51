"""Names resolve as in ROS 2, and the interface defines every topic and service once."""

from __future__ import annotations

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface, names


@pytest.mark.parametrize(
    ("name", "namespace", "remap", "absolute"),
    [
        ("image", "/", {}, "/image"),
        ("image", "left/", {}, "/left/image"),
        ("~/status", "/left", {}, "/left/robot/status"),
        ("/tf", "/left", {}, "/tf"),
        ("/tf", "/left", {"/tf": "tf"}, "/left/tf"),
        ("image", "/left", {"image": "/camera/image_raw"}, "/camera/image_raw"),
        ("image", "/left", {"/left/image": "other"}, "/left/other"),
        ("image", "/left", {"image": "a", "a": "b"}, "/left/a"),
    ],
)
def test_a_name_resolves_as_in_ros(name: str, namespace: str, remap: dict[str, str], absolute: str) -> None:
    assert names.resolve_name(name, "robot", namespace, remap) == absolute


@pytest.mark.parametrize("name", ["", "a b", "1a", "a//b", "~x", "a/", "ä"])
def test_what_is_no_ros_name_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="no ROS name"):
        names.resolve_name(name, "robot")


def test_launchs_own_rules_name_the_node() -> None:
    rules = ["__node:=left_robot", "__ns:=/", "/tf:=tf"]
    assert names.parse_remaps(rules, "robot", "/x") == ({"/tf": "tf"}, "left_robot", "/")


@pytest.mark.parametrize("rule", ["a", "a:=b:=c", "a:=", ":=b"])
def test_a_rule_of_another_form_is_refused(rule: str) -> None:
    with pytest.raises(BadInputError, match="from:=to"):
        names.parse_remaps([rule], "robot", "/")


def test_rules_for_a_node_apply_to_it_alone() -> None:
    rules = [
        "robot:__node:=left_robot",
        "plant:__ns:=/elsewhere",
        "plant:image:=a",
        "robot:image:=b",
        "rostopic://tf:=c",
    ]
    assert names.parse_remaps(rules, "robot", "/x") == ({"image": "b", "tf": "c"}, "left_robot", "/x")


def test_the_first_rule_for_a_name_counts() -> None:
    assert names.parse_remaps(["image:=a", "image:=b"], "robot", "/")[0] == {"image": "a"}


def test_what_ros_launch_gives_is_told_from_our_own_options() -> None:
    line = "run --graph ros --ros-args -r __node:=left -r a:=b -p x:=1 --params-file f.yaml -e /arm"
    line += " --log-level rcl:=debug --log-level info --disable-rosout-logs -- --autostart true --ros-args --param y:=2"
    own, ros = names.split_ros_arguments(line.split())
    assert own == ["run", "--graph", "ros", "--autostart", "true"]
    assert ros == [
        ("-r", "__node:=left"), ("-r", "a:=b"), ("-p", "x:=1"), ("--params-file", "f.yaml"), ("--enclave", "/arm"),
        ("--log-level", "rcl:=debug"), ("--log-level", "info"), ("--disable-rosout-logs", ""), ("-p", "y:=2"),
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["--ros-args --nonsense x", "--ros-args -r", "--ros-args -e"])
def test_what_ros_does_not_know_is_refused(line: str) -> None:
    with pytest.raises(BadInputError, match="--ros-args"):
        names.split_ros_arguments(line.split())


def test_every_topic_and_service_is_defined_once_with_a_meaning() -> None:
    topics, services = [*interface.TOPICS_IN, *interface.TOPICS_OUT], [*interface.SERVICES]
    for table in (topics, services):  # a topic and a service may share a name: ~/approve
        assert len({entry.name for entry in table}) == len(table)
    table = [*topics, *services]
    assert all(entry.meaning for entry in [*table, *interface.ACTIONS])


def test_nothing_that_acts_is_latched() -> None:
    """A command from before the node listened must not act."""
    acting = (
        interface.INSTRUCTION,
        interface.VOICE_INSTRUCTION,
        interface.AGENT_INSTRUCTION,
        interface.STOP,
        interface.APPROVE,
        interface.REJECT,
        interface.JOINT_TRAJECTORY,
    )
    assert all(topic.qos.is_reliable and not topic.qos.is_latched for topic in acting)
