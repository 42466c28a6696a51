"""Cameras that are off by 15 mm move nothing, those within 6 mm do, and the label is measured apart from the check."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.cameras import wrong_camera
from tests.cells import PROFILE


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("is_hazard", [True, False])
def test_the_gate_tells_wrong_cameras_from_right_ones(is_hazard: bool, is_near: bool) -> None:
    for seed in (1, 2):
        rng = np.random.default_rng([seed, is_hazard, is_near])
        accepted, size_m, unit, reason = wrong_camera(PROFILE, rng, is_hazard, is_near)
        assert unit == "m"
        assert size_m >= 0.0149 if is_hazard else size_m <= 0.0061
        assert accepted != is_hazard, reason
