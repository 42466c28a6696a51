"""A world with its table, and one with a robot on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import load_robot


@pytest.fixture
def world() -> Iterator[BulletWorld]:
    with BulletWorld() as world:
        world.add_table()
        yield world


@pytest.fixture
def cell(world: BulletWorld) -> BulletWorld:
    world.add_robot(load_robot("franka_panda"))
    return world
