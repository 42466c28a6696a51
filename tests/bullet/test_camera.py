"""A picture shows colours, depth and names in the right places."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import look_at, make_pose
from qwen2vl_robot.messages import Box, Intrinsics


def test_picture_has_colour_depth_and_names_where_things_are(cell: BulletWorld) -> None:
    cell.add_body("red block", Box((0.06, 0.06, 0.06)), make_pose([0.5, 0.0, 0.03]), mass_kg=0.1, rgb=(200, 30, 30))
    T_base_camera = look_at([1.2, 0.0, 0.6], [0.5, 0.0, 0.03])
    k = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
    rgb, depth_m, names = cell.render(k, T_base_camera)
    assert names[60, 80] == "red block"
    assert rgb[60, 80, 0] > 2 * rgb[60, 80, 1]
    assert depth_m[60, 80] == pytest.approx(np.linalg.norm([0.7, 0.0, 0.57]), abs=0.05)
    assert "robot" in names
    assert np.isnan(depth_m[names == ""]).all()


@pytest.mark.parametrize("size_px", [(0, 10), (-5, 10), (10, 100_000)])
def test_pictures_of_impossible_sizes_are_refused(cell: BulletWorld, size_px: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="image"):
        cell.render(Intrinsics(*size_px, 100.0, 100.0, 5.0, 5.0), look_at([1, 0, 1], [0, 0, 0]))
