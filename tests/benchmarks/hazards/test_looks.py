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


def seen(stage: Stage, *others: SceneObject, seed: int = 0) -> list[SceneObject]:
    frame, _ = Table((), others, CAMERA, False).cast(np.random.default_rng(seed))
    observation = Observation(frame, stage.state(np.array(PROFILE.home_q_rad)))
    scene, _ = perceive(Plan((), ""), observation, Surroundings.of(PROFILE))
    return list(scene.bodies())


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


def test_two_neighbours_of_one_thing_are_two_things(stage: Stage) -> None:
    """They are of one colour, and what stands between them hides where they could be joined."""
    found = seen(stage, box("left", 0.52, -0.055), box("right", 0.52, 0.055))
    between = Table((box("middle", 0.52, 0.0),), (box("left", 0.52, -0.055), box("right", 0.52, 0.055)), CAMERA, False)
    frame, _ = between.cast(np.random.default_rng(1))
    observation = Observation(frame, stage.state(np.array(PROFILE.home_q_rad)))
    scene, _ = perceive(Plan((), ""), observation, Surroundings.of(PROFILE))
    assert len(found) == 2
    assert len(list(scene.bodies())) == 3
    assert all(max(shape_size_m(body.shape)) < 0.075 for body in scene.bodies())


@pytest.mark.parametrize("seed", range(4))
def test_a_small_thing_far_away_is_explained(stage: Stage, seed: int) -> None:
    """At its edge smoothed depth lies beside it; that is no part that sticks out."""
    (found,) = seen(stage, box("cube", 0.4, 0.15, (0.035, 0.035, 0.035)), seed=seed)
    assert type(found.shape).__name__ != "Hull"


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
