"""What stands around a table, and how even the table is → fixed bodies of the plant, and their trace in its depth.

None of it belongs to a scene's objects: nobody asks for it, and no score counts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.messages import Box, Intrinsics

Rgb = tuple[float, float, float]
_WALL, _WOOD, _SKIN, _SLEEVE = (215.0, 210.0, 200.0), (120.0, 80.0, 50.0), (205.0, 160.0, 135.0), (60.0, 70.0, 110.0)
_SLOPE = 0.35  # of the table's short waves beside its long ones
_LONG_M, _SHORT_M = (0.5, 0.9), (0.15, 0.3)  # wave lengths


@dataclass(frozen=True, slots=True, eq=False)
class Fixture:
    """A fixed box of the room."""

    size_m: tuple[float, float, float]
    T_base_fixture: Array
    rgb: Rgb


def furnish(kinds: tuple[str, ...], rng: np.random.Generator) -> tuple[Fixture, ...]:
    """Draw what stands around the table: wall and chair behind it, clutter beside the work place, a hand, a backdrop.

    Everything keeps out of the reach of an arm at work: beside |y| of 0.36 m, or behind the base.
    """
    drawn = {"wall": _wall, "chair": _chair, "clutter": _clutter, "hand": _hand, "backdrop": _backdrop}
    return tuple(fixture for kind in kinds for fixture in drawn[kind](rng))


def add_fixtures(world: BulletWorld, fixtures: tuple[Fixture, ...]) -> tuple[str, ...]:
    """Fix them in the plant's world; returns their names there."""
    names = tuple(f"room {number}" for number in range(len(fixtures)))
    for name, fixture in zip(names, fixtures, strict=True):
        world.add_body(name, Box(fixture.size_m), fixture.T_base_fixture, mass_kg=0.0, rgb=fixture.rgb)
    return names


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """A table top that is not even, as depth shows it; things stand on the plane.

    Attributes:
        vectors_radpm: (n, 2) of the plane waves.
        phases_rad, heights_m: (n,).
    """

    vectors_radpm: Array
    phases_rad: Array
    heights_m: Array

    @classmethod
    def draw(cls, waves_m: float, rng: np.random.Generator) -> Waves:
        """Draw four waves with this height from the deepest valley to the highest top."""
        lengths_m = np.concatenate([rng.uniform(*_LONG_M, 2), rng.uniform(*_SHORT_M, 2)])
        turns = rng.uniform(-np.pi, np.pi, 4)
        vectors = 2 * np.pi / lengths_m[:, None] * np.column_stack([np.cos(turns), np.sin(turns)])
        heights = np.array([1.0, 0.8, _SLOPE, _SLOPE])
        phases = rng.uniform(0.0, 2 * np.pi, 4)
        grid = np.stack(np.meshgrid(np.linspace(0.2, 0.9, 60), np.linspace(-0.5, 0.5, 60)), axis=-1)
        return cls(vectors, phases, heights * waves_m / float(np.ptp(cls(vectors, phases, heights).at_m(grid))))

    def at_m(self, p_xy_m: Array) -> Array:
        """The height (...,) at points (..., 2) of the table."""
        height_m: Array = (self.heights_m * np.sin(p_xy_m @ self.vectors_radpm.T + self.phases_rad)).sum(axis=-1)
        return height_m

    def raise_table(
        self, depth_m: npt.NDArray[np.float32], is_table: npt.NDArray[np.bool_], k: Intrinsics, T_base_camera: Array
    ) -> npt.NDArray[np.float32]:
        """Let depth (h, w) show the table with its waves where it shows the table."""
        rows, cols = np.nonzero(is_table)
        z_m = depth_m[rows, cols].astype(np.float64)
        rays = np.stack([(cols - k.cx_px) / k.fx_px, (rows - k.cy_px) / k.fy_px, np.ones(len(rows))], axis=1)
        towards = rays @ T_base_camera[:3, :3].T
        p_m = T_base_camera[:3, 3] + z_m[:, None] * towards
        raised = depth_m.copy()
        raised[rows, cols] = z_m + self.at_m(p_m[:, :2]) / np.minimum(towards[:, 2], -0.05)
        return raised


def _wall(rng: np.random.Generator) -> list[Fixture]:
    turn = rotation_z(float(rng.uniform(-0.2, 0.2)))
    return [Fixture((0.05, 4.0, 2.4), make_pose([float(rng.uniform(-1.6, -1.1)), 0.0, 0.3], turn), _WALL)]


def _chair(rng: np.random.Generator) -> list[Fixture]:
    side = float(rng.choice([-1.0, 1.0]))
    T = make_pose([float(rng.uniform(-0.95, -0.65)), side * float(rng.uniform(0.1, 0.6)), 0.0])
    parts = [((0.42, 0.42, 0.04), (0.0, 0.0, -0.28)), ((0.03, 0.42, 0.14), (0.19, 0.0, 0.28))]
    parts += [((0.03, 0.04, 0.7), (0.19, y, 0.0)) for y in (-0.19, 0.19)]
    return [Fixture(size, T @ make_pose(list(at)), _WOOD) for size, at in parts]


def _clutter(rng: np.random.Generator) -> list[Fixture]:
    fixtures = []
    for _ in range(int(rng.integers(4, 9))):
        size = tuple(float(v) for v in rng.uniform([0.04, 0.03, 0.01], [0.22, 0.16, 0.14]))
        reach_m = float(np.hypot(size[0], size[1])) / 2
        side = float(rng.choice([-1.0, 1.0]))
        at = [float(rng.uniform(0.1, 0.9)), side * float(rng.uniform(0.36, 0.65) + reach_m), size[2] / 2]
        rgb = tuple(float(v) for v in rng.uniform(20, 235, 3))
        turn = rotation_z(float(rng.uniform(-np.pi, np.pi)))
        fixtures.append(Fixture(size, make_pose(at, turn), rgb))  # type: ignore[arg-type]
    return fixtures


def _hand(rng: np.random.Generator) -> list[Fixture]:
    """A hand that lies on the table at its side, its arm reaching out of the picture."""
    side = float(rng.choice([-1.0, 1.0]))
    T = make_pose(
        [float(rng.uniform(0.3, 0.7)), side * float(rng.uniform(0.46, 0.5)), 0.0], rotation_z(side * np.pi / 2)
    )
    parts: list[tuple[tuple[float, float, float], tuple[float, float, float], Rgb]] = [
        ((0.09, 0.085, 0.028), (0.05, 0.0, 0.014), _SKIN), ((0.3, 0.07, 0.06), (0.25, 0.0, 0.03), _SLEEVE)
    ]  # fmt: skip
    parts += [((0.075, 0.016, 0.016), (-0.03, y, 0.008), _SKIN) for y in (-0.033, -0.011, 0.011, 0.033)]
    return [Fixture(size, T @ make_pose(list(at)), rgb) for size, at, rgb in parts]


def _backdrop(rng: np.random.Generator) -> list[Fixture]:
    """A floor and up to three walls of any colour, far enough away that no camera at the table stands behind them."""
    colours = [tuple(float(v) for v in rng.uniform(20, 250, 3)) for _ in range(4)]
    floor_m, far_m = float(rng.uniform(-0.9, -0.4)), float(rng.uniform(1.3, 2.2))
    sides = [
        ((0.05, 6.0, 4.0), (-far_m, 0.0, 1.0)),
        ((6.0, 0.05, 4.0), (0.5, far_m + 1.2, 1.0)),
        ((6.0, 0.05, 4.0), (0.5, -far_m - 1.2, 1.0)),
    ]
    parts = [((8.0, 8.0, 0.05), (0.0, 0.0, floor_m)), *(side for side in sides if rng.uniform() < 0.6)]
    return [Fixture(size, make_pose(list(at)), rgb) for (size, at), rgb in zip(parts, colours, strict=False)]  # type: ignore[arg-type]
