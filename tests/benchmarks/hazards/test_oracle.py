"""Two collision libraries with two kinematics measure the same distances, and the twin never measures more room."""

from __future__ import annotations

import pytest

from qwen2vl_robot.benchmarks.agreement import disagreements_m
from qwen2vl_robot.config import load_robot


@pytest.fixture(scope="module")
def found_m() -> tuple[list[float], list[float]]:
    return disagreements_m(load_robot("franka_panda"), 150, seed=3)


def test_bullet_and_coal_differ_by_less_than_a_millimetre(found_m: tuple[list[float], list[float]]) -> None:
    same_m, _ = found_m
    assert len(same_m) > 200
    assert max(abs(d) for d in same_m) < 0.0009


def test_the_twin_never_sees_more_room_than_there_is(found_m: tuple[list[float], list[float]]) -> None:
    _, bare_m = found_m
    assert max(bare_m) <= 1e-4
    assert min(bare_m) > -0.00105
