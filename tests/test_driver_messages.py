"""How many messages and files of real drivers are tried; docs/robot.md says it, and here it is counted."""

from __future__ import annotations

import re

from qwen2vl_robot.resources import data_root
from tests.graph import test_driver_cameras as cameras
from tests.graph import test_driver_depth as depth
from tests.nodes import test_driver_grippers as grippers
from tests.nodes import test_driver_joints as joints
from tests.test_driver_descriptions import FILES, ROBOTS
from tests.test_foreign import REFUSED

LEAST = 60  # of all kinds together


def test_the_page_says_how_many_messages_of_drivers_are_tried() -> None:
    """Each entry of these tables is one message, or a stream of them, with the right value or reason."""
    tables = {
        "of cameras": (
            cameras.RIGHT_INFOS, cameras.WRONG_INFOS, cameras.RIGHT_PICTURES, cameras.WRONG_PICTURES,
            cameras.RIGHT_DEPTHS, cameras.WRONG_DEPTHS, depth.RIGHT, depth.WRONG,
        ),
        "of joint_states": (joints.RIGHT, joints.WRONG),
        "of grippers": (grippers.DRIVERS, grippers.WRONG),
        "of arms": (ROBOTS, FILES, REFUSED),
    }  # fmt: skip
    counts = {what: sum(map(len, found)) for what, found in tables.items()}
    assert sum(counts.values()) >= LEAST
    page = (data_root() / "docs" / "robot.md").read_text(encoding="utf-8")
    said = {what: re.findall(rf"(\d+) {what}\b", page) for what in counts}
    assert said == {what: [str(count)] for what, count in counts.items()}
