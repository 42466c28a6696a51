"""Names as ROS 2 resolves them, and a table in which every row is stated once."""

from __future__ import annotations

import pytest

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph import interface as rows


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
    assert rows.resolve_name(name, "robot", namespace, remap) == absolute


@pytest.mark.parametrize("name", ["", "a b", "1a", "a//b", "~x", "a/", "ä"])
def test_what_is_no_ros_name_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="no ROS name"):
        rows.resolve_name(name, "robot")


def test_launchs_own_rules_name_the_node() -> None:
    rules = ["__node:=left_robot", "__ns:=/", "/tf:=tf"]
    assert rows.parse_remaps(rules, "robot", "/x") == ({"/tf": "tf"}, "left_robot", "/")


@pytest.mark.parametrize("rule", ["a", "a:=b:=c", "a:=", ":=b"])
def test_a_rule_of_another_form_is_refused(rule: str) -> None:
    with pytest.raises(BadInputError, match="from:=to"):
        rows.parse_remaps([rule], "robot", "/")


def test_every_row_is_stated_once_with_a_meaning() -> None:
    table = [*rows.TOPICS_IN, *rows.TOPICS_OUT, *rows.SERVICES]
    assert len({row.name for row in table}) == len(table)
    assert all(row.meaning for row in [*table, *rows.ACTIONS])


def test_nothing_that_acts_is_latched() -> None:
    """A command from before the node listened must not act."""
    acting = (rows.INSTRUCTION, rows.VOICE_INSTRUCTION, rows.STOP, rows.APPROVE, rows.JOINT_TRAJECTORY)
    assert all(row.qos.is_reliable and not row.qos.is_latched for row in acting)
