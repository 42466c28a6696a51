"""Perturbed runs hasten through a guarded segment; what they report is in the motion's own time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.messages import Box, Motion, RobotState, Scene, SceneObject, freeze
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.findings import Rollout
from qwen2vl_robot.validation.rollout import roll_out
from qwen2vl_robot.validation.timeline import Haste, timeline
from tests.cells import PROFILE
from tests.guarded_motion import descent

MOMENTS_S = st.floats(0.0, 60.0)


@given(MOMENTS_S, MOMENTS_S, MOMENTS_S, MOMENTS_S)
def test_haste_keeps_the_order_of_moments_and_goes_there_and_back(
    a: float, b: float, first_s: float, then_s: float
) -> None:
    haste = Haste(min(a, b), max(a, b))
    assert np.isclose(haste.motion_s(haste.run_s(first_s)), first_s, atol=1e-9)
    assert (haste.run_s(first_s) <= haste.run_s(then_s)) or first_s > then_s
    assert haste.run_s(first_s) <= first_s


def test_only_the_guarded_segment_is_hastened_and_its_way_stays() -> None:
    motion = descent()
    haste, own = Haste.through(motion), timeline(motion, state(motion))
    run = haste.line(own)
    assert run.end_s < 0.25 * own.end_s
    for moment_s in np.linspace(0.0, own.end_s, 11):
        there = run.q_at(np.array([haste.run_s(float(moment_s))]))
        assert np.allclose(there, own.q_at(np.array([moment_s])), atol=1e-6)


def test_a_contact_has_the_moment_of_the_motion() -> None:
    """Fingers come down on a block that is 3 cm below them; both runs hit it at the same height."""
    motion = descent()
    block = SceneObject("block", Box((0.2, 0.2, 0.1)), make_pose((0.5, 0.0, 0.05)))
    own, hastened = run(motion, block, trial=False), run(motion, block, trial=True)
    moments = [contact_s(found) for found in (own, hastened)]
    assert abs(moments[0] - moments[1]) < 0.5, moments  # 4 mm of the way
    assert moments[1] > 1.0


def state(motion: Motion) -> RobotState:
    return RobotState(0, motion.segments[0].q_rad[0], freeze(np.zeros(7)), 0.08)  # type: ignore[union-attr]


def run(motion: Motion, block: SceneObject, *, trial: bool) -> Rollout:
    scene = Scene((), (block,))
    world = BulletWorld()
    world.add_table()
    world.add_robot(PROFILE)
    world.add_body(block.name, block.shape, block.T_base_object, mass_kg=0.0)
    whole = (((0.0, timeline(motion, state(motion)).end_s),), np.zeros(7)) if trial else None
    try:
        return roll_out(world, PROFILE, motion, scene, state(motion), trial=whole)
    finally:
        world.close()


def contact_s(found: Rollout) -> float:
    forces = [v.time_s for v in found.violations if v.kind is ViolationKind.FORCE]
    assert forces and forces[0] is not None, found.violations
    return forces[0]
