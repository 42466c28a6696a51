"""A robot file that does not fit its profile is refused."""

from __future__ import annotations

import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot

PROFILE = load_robot("franka_panda")


def test_profile_of_another_robot_is_refused(world: BulletWorld) -> None:
    foreign = PROFILE.model_copy(update={"tool_link": "no_such_link"})
    with pytest.raises(ValueError, match="no_such_link"):
        world.add_robot(foreign)


def test_a_robot_file_that_allows_contacts_of_no_link_is_refused(world: BulletWorld) -> None:
    wrong = PROFILE.model_copy(update={"allowed_contacts": (("panda_elbow", "table"),)})
    with pytest.raises(ValueError, match="panda_elbow"):
        world.add_robot(wrong)
