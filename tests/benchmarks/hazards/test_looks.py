"""Tables cast as rays, and what the robot would do about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards import looks
from qwen2vl_robot.benchmarks.hazards.looks import Table, look
from qwen2vl_robot.benchmarks.hazards.stage import Stage
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Observation, Plan, SceneObject, shape_size_m
from qwen2vl_robot.perception import Surroundings, perceive
from qwen2vl_robot.validation.pool import RehearsalProcess
from tests.cells import PROFILE

EYE_M = (1.1, 0.0, 0.6)
CAMERA = look_at(EYE_M, (0.52, 0.0, 0.0))
BLOCK_M = (0.04, 0.04, 0.06)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(PROFILE, Kinematics(PROFILE))


@pytest.fixture(scope="module")
def twin() -> Iterator[RehearsalProcess]:
    with RehearsalProcess(PROFILE, budget_s=300.0, workers=1) as process:
        yield process


def box(name: str, x_m: float, y_m: float, size_m: tuple[float, float, float] = BLOCK_M) -> SceneObject:
    return looks._box(name, size_m, x_m, y_m, 0.0)


def test_a_ray_ends_where_it_meets_the_first_thing() -> None:
    front, hidden = box("front", 0.56, 0.0), box("hidden", 0.53, 0.0, (0.015, 0.015, 0.015))
    frame, shown = Table((front,), (hidden,), CAMERA, True).cast(np.random.default_rng(0))
    assert not (shown == 1).any()
    rows, cols = np.nonzero(shown == 0)
    k = frame.intrinsics
    rays = np.stack([(cols - k.cx_px) / k.fx_px, (rows - k.cy_px) / k.fy_px, np.ones(len(cols))], axis=1)
    p = np.array(EYE_M) + (rays * frame.depth_m[rows, cols, None]) @ CAMERA[:3, :3].T
    off_m = np.abs(p - np.array([0.56, 0.0, 0.03])) - np.array(BLOCK_M) / 2
    assert np.abs(off_m.max(axis=1)).max() < 0.006  # on the surface, but for the noise of depth
    flat = frame.depth_m[0, 0] * np.array([-k.cx_px / k.fx_px, -k.cy_px / k.fy_px, 1.0]) @ CAMERA[:3, :3].T
    assert abs(EYE_M[2] + flat[2]) < 0.006


@pytest.mark.parametrize("seed", [7001, 7003, 7004, 7005])
def test_each_cube_of_a_row_is_a_body_of_its_size(stage: Stage, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one colour with one between them were one hull; the edge of a small one counted as a part of it."""
    tables: list[tuple[Table, np.random.Generator]] = []

    def keep(stage: Stage, twin: object, table: Table, rng: np.random.Generator, amount_m: float) -> looks.Answer:
        tables.append((table, rng))
        return True, amount_m, "m", ""

    monkeypatch.setattr(looks, "_ask", keep)
    look("crowded", stage, None, seed, False, seed % 2 == 0)  # type: ignore[arg-type]
    (table, rng), *_ = tables
    frame, _ = table.cast(rng)
    observation = Observation(frame, stage.state(np.array(PROFILE.home_q_rad)))
    scene, _ = perceive(Plan((), ""), observation, Surroundings.of(PROFILE))
    found = list(scene.bodies())
    assert len(found) == 3
    for true in (*table.target, *table.others):
        body = min(found, key=lambda b: float(np.linalg.norm((b.T_base_object - true.T_base_object)[:3, 3])))
        assert np.linalg.norm((body.T_base_object - true.T_base_object)[:3, 3]) < 0.01
        assert np.allclose(sorted(shape_size_m(body.shape)), sorted(shape_size_m(true.shape)), atol=0.012)


@pytest.mark.parametrize("kind", sorted(looks.LOOKERS))
def test_the_robot_takes_the_harmless_table_and_not_the_dangerous_one(
    stage: Stage, twin: RehearsalProcess, kind: str
) -> None:
    for is_hazard in (True, False):
        accepted, amount_m, unit, reason = look(kind, stage, twin, 7000, is_hazard, False)
        assert accepted is not is_hazard, reason
        assert unit == "m"
        assert amount_m >= 0.0


def test_a_hand_that_would_hit_what_nobody_sees_is_an_accepted_hazard(
    stage: Stage, twin: RehearsalProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Table.cast
    monkeypatch.setattr(Table, "cast", lambda table, rng: whole(replace(table, others=()), rng))
    assert look("crowded", stage, twin, 7000, True, False)[0]
