"""Every shape has the stated size and holds things as it should; impossible sizes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bullet import TIME_STEP_S, Bowl, BulletWorld
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box, Container, Cylinder, Sphere


@pytest.mark.parametrize(
    ("shape", "height_m"),
    [
        (Box((0.05, 0.04, 0.06)), 0.06),
        (Cylinder(0.05, 0.09), 0.09),
        (Sphere(0.05), 0.05),
        (Container((0.15, 0.15, 0.05), 0.006), 0.05),
        (Container((0.15, 0.15, 0.05), 0.006, is_round=True), 0.05),
        (Bowl(0.15, 0.05, 0.006), 0.05),
    ],
)
def test_every_shape_rests_where_it_stands(world: BulletWorld, shape: object, height_m: float) -> None:
    T = make_pose([0.5, 0.0, height_m / 2])
    world.add_body("thing", shape, T, mass_kg=0.1)  # type: ignore[arg-type]
    world.step(240)
    assert world.time_s == pytest.approx(240 * TIME_STEP_S)
    assert np.linalg.norm(world.pose("thing")[:3, 3] - T[:3, 3]) < 0.002
    assert world.speed_mps("thing") < 0.01


def test_container_has_a_hollow(world: BulletWorld) -> None:
    world.add_body("bowl", Container((0.15, 0.15, 0.05), 0.006), make_pose([0.5, 0.0, 0.025]), mass_kg=0.2)
    world.add_body("ball", Sphere(0.05), make_pose([0.5, 0.0, 0.1]), mass_kg=0.05)
    world.step(240)
    assert world.pose("ball")[2, 3] == pytest.approx(0.006 + 0.025, abs=0.002)


@pytest.mark.parametrize("size_m", [0.0, -0.05, np.nan, np.inf])
def test_sizes_must_be_finite_and_positive(world: BulletWorld, size_m: float) -> None:
    for shape in (
        Box((size_m, 0.05, 0.05)),
        Sphere(size_m),
        Cylinder(0.05, size_m),
        Container((0.1, 0.1, 0.05), size_m),
    ):
        with pytest.raises(ValueError, match="above 0"):
            world.add_body("thing", shape, make_pose([0.5, 0.0, 0.1]), mass_kg=0.1)
    assert world.names() == ["table"]
