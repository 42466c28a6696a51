"""What stands around a table is seen, keeps out of the way, and changes nothing of a scene without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.room import Waves, furnish

ROOT = Path(__file__).resolve().parents[2]
TABLETOP = (ROOT / "sim/scenes/tabletop.yaml").read_text(encoding="utf-8")
KINDS = ("wall", "chair", "clutter", "hand")


def plant(tmp_path: Path, room: str, seed: int = 0) -> Plant:
    file = tmp_path / "scene.yaml"
    catalogue = f"catalogue: {ROOT}/sim/objects/catalogue.yaml"
    file.write_text(TABLETOP.replace("catalogue: objects/catalogue.yaml", catalogue) + room, encoding="utf-8")
    return Plant(str(file), seed)


def test_without_a_room_a_picture_is_as_before(tmp_path: Path) -> None:
    frames = []
    for room in ("", "around: []\ntable_waves_m: 0.0\n"):
        made = plant(tmp_path, room)
        frames.append(made.capture())
        made.close()
    assert np.array_equal(frames[0].rgb, frames[1].rgb)
    assert np.array_equal(frames[0].depth_m, frames[1].depth_m, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_of_a_room_is_seen_in_some_scenes(tmp_path: Path, kind: str) -> None:
    shown = []
    for seed in range(6):
        made = plant(tmp_path, f"around: [{kind}]\n", seed)
        made.capture()
        assert made._seen is not None
        shown.append(sum(str(name).startswith("room") for name in made._seen[1].flat))
        made.close()
    assert max(shown) > 200, shown


@pytest.mark.parametrize("seed", range(30))
def test_a_room_keeps_out_of_the_work_place(seed: int) -> None:
    fixtures = furnish(KINDS, np.random.default_rng(seed))
    assert len(fixtures) >= 1 + 4 + 4 + 6
    for fixture in fixtures:
        half_m = np.abs(fixture.T_base_fixture[:3, :3]) @ np.array(fixture.size_m) / 2
        low, high = fixture.T_base_fixture[:3, 3] - half_m, fixture.T_base_fixture[:3, 3] + half_m
        assert high[0] < -0.4 or low[1] > 0.34 or high[1] < -0.34


@pytest.mark.parametrize("seed", range(10))
def test_waves_are_as_high_as_asked_for_and_smooth(seed: int) -> None:
    waves = Waves.draw(0.008, np.random.default_rng(seed))
    x, y = np.meshgrid(np.linspace(0.2, 0.9, 200), np.linspace(-0.5, 0.5, 200))
    heights_m = waves.at_m(np.stack([x, y], axis=-1))
    assert np.ptp(heights_m) == pytest.approx(0.008, rel=0.05)
    assert 0.001 < heights_m.std() < 0.004
    assert np.abs(np.diff(heights_m, axis=1)).max() < 0.001


def test_depth_shows_the_waves_where_the_table_shows(tmp_path: Path) -> None:
    """The table's points lie on the waves, those of things where they lay."""
    flat, wavy = (plant(tmp_path, room) for room in ("", "table_waves_m: 0.010\n"))
    (_, before_m), (_, after_m) = (p._look(p._scene.intrinsics) for p in (flat, wavy))
    assert wavy._seen is not None
    assert wavy._scene.waves is not None
    is_table = wavy._seen[1] == "table"
    assert np.array_equal(before_m[~is_table], after_m[~is_table], equal_nan=True)
    k, T = wavy._scene.intrinsics, wavy._scene.T_base_camera
    rows, cols = np.nonzero(is_table & (np.abs(before_m - 0.9) < 0.3))
    rays = np.stack([(cols - k.cx_px) / k.fx_px, (rows - k.cy_px) / k.fy_px, np.ones(len(rows))], axis=1)
    p_m = T[:3, 3] + after_m[rows, cols, None] * (rays @ T[:3, :3].T)
    assert np.abs(p_m[:, 2] - wavy._scene.waves.at_m(p_m[:, :2])).max() < 0.001
    assert np.ptp(p_m[:, 2]) > 0.004
    for made in (flat, wavy):
        made.close()
