"""What comes into the arm's way stops it untouched; loads, still scenes and things elsewhere do not."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.moving import moved_while_moving
from qwen2vl_robot.benchmarks.hazards.oracle import PathOracle
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, SceneObject, freeze
from tests.cells import PROFILE


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("is_hazard", [True, False])
def test_the_watch_tells_what_comes_into_the_way_from_all_else(is_hazard: bool, is_near: bool) -> None:
    rng = np.random.default_rng([1, is_hazard, is_near])
    accepted, amount_m, unit, reason = moved_while_moving(PROFILE, rng, is_hazard, is_near)
    assert unit == "m"
    assert accepted != is_hazard, reason
    assert 0.04 <= amount_m <= 0.12 if is_hazard else amount_m == 0.0 or amount_m >= 0.2


def test_a_moving_body_is_measured_like_one_that_stands() -> None:
    kinematics, box = Kinematics(PROFILE), Box((0.05, 0.06, 0.07))
    q_rad = np.array(PROFILE.home_q_rad) + np.linspace(0.0, 0.5, 5)[:, None] * np.eye(7)[0]
    poses = np.array([make_pose([0.4, y_m, 0.4]) for y_m in np.linspace(0.3, 0.1, 5)])
    found_m = PathOracle(kinematics, q_rad, 0.08).to_moving_m(box, poses)
    for q, T, measured_m in zip(q_rad, poses, found_m, strict=True):
        alone = PathOracle(kinematics, q[None], 0.08).clearance_m(SceneObject("box", box, freeze(T)))
        assert measured_m == pytest.approx(alone, abs=1e-6)
