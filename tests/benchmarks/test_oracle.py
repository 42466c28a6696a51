"""Two collision libraries with two kinematics see the same distances, and the twin's never sees more room."""

from __future__ import annotations

import pytest

from qwen2vl_robot.benchmarks.agreement import disagreements_m
from qwen2vl_robot.config import load_robot


@pytest.fixture(scope="module")
def found_m() -> list[float]:
    return disagreements_m(load_robot("franka_panda"), 60, seed=3)


def test_bullet_and_coal_differ_by_no_more_than_a_millimetre(found_m: list[float]) -> None:
    assert len(found_m) > 40
    assert max(abs(d) for d in found_m) <= 0.00101


def test_the_twin_never_sees_more_room_than_the_oracle(found_m: list[float]) -> None:
    assert max(found_m) <= 1e-4
