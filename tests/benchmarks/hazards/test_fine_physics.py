"""The fine physics obeys the laws that it integrates: Coulomb's, the lever's, and that nothing moves untouched."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.fine_physics import RUNS, STEP_S, is_shoved, slips, tips, topples
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array

PROFILE = load_robot("franka_panda")
STILL = np.zeros((1000, 3))


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.5, 0, 0), (1.0, 70, 130), (2.5, RUNS, RUNS)])
def test_a_load_slips_where_its_weight_exceeds_coulombs_friction(ratio: float, low: int, high: int) -> None:
    mass_kg = ratio * 2.0 * 0.5 * PROFILE.gripper.force_n / 9.81
    assert low <= slips(PROFILE, rng(), mass_kg, 0.5, STILL) <= high


def test_a_pull_upwards_counts_like_weight() -> None:
    mass_kg = 0.5 * 2.0 * 0.5 * PROFILE.gripper.force_n / 9.81
    assert slips(PROFILE, rng(), mass_kg, 0.5, STILL + np.array([0.0, 0.0, 30.0])) == RUNS


@pytest.mark.parametrize(("beyond_m", "low", "high"), [(-0.02, 0, 0), (0.0, 70, 130), (0.02, RUNS, RUNS)])
def test_a_cube_tips_where_its_centre_lies_beyond_the_edge(beyond_m: float, low: int, high: int) -> None:
    assert low <= tips(PROFILE, rng(), beyond_m, 0.045, 1.5) <= high


def closing(end_m: float) -> Array:
    """A gap that shrinks from 3 cm within two seconds."""
    return np.linspace(0.03, end_m, round(2.0 / STEP_S))


@pytest.mark.parametrize(("end_m", "low", "high"), [(0.02, 0, 0), (-0.01, 70, 150), (-0.03, RUNS, RUNS)])
def test_a_neighbour_moves_as_far_as_it_is_pushed(end_m: float, low: int, high: int) -> None:
    assert low <= is_shoved(PROFILE, rng(), closing(end_m), (0.1, 0.05), 0.02, 0.8) <= high


def test_a_tall_and_thin_neighbour_falls_where_a_low_one_slides() -> None:
    low, tall = (is_shoved(PROFILE, rng(), closing(-0.008), size, 0.05, 0.8) for size in ((0.1, 0.05), (0.03, 0.15)))
    assert low < tall


@pytest.mark.parametrize(("fall_m", "low", "high"), [(0.016, 0, 0), (0.06, 50, 150), (0.09, RUNS, RUNS)])
def test_a_slim_block_topples_from_a_height_that_a_low_fall_does_not_reach(fall_m: float, low: int, high: int) -> None:
    assert low <= topples(PROFILE, rng(), fall_m, (0.04, 0.105)) <= high


def test_a_cube_needs_a_far_longer_fall_to_topple_than_a_slim_block() -> None:
    assert topples(PROFILE, rng(), 0.2, (0.05, 0.05)) == 0
    assert topples(PROFILE, rng(), 0.2, (0.04, 0.105)) == RUNS
