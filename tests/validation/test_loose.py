"""Things that nothing reaches stand fixed in a run; what may be moved by arm, load or a neighbour is loose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.stage import Stage, standing
from qwen2vl_robot.benchmarks.validation import pick_and_place
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import rotation_from_rotvec
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Effect, GripperSegment, Scene, SceneObject, freeze
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.findings import Approach, Swept
from qwen2vl_robot.validation.loose import loose_bodies
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.timeline import timeline
from qwen2vl_robot.validation.trials import Draw
from tests.validation.conftest import Hand, home_state, stands

PANDA = load_robot("franka_panda")
CUBE_M = (0.04, 0.04, 0.04)
STEP = pick_and_place(Stage(PANDA, Kinematics(PANDA)), 1)
MOTION = replace(STEP.motion, effect=Effect("hold", "target"))
TARGET = standing("target", CUBE_M, 0.5, 0.0, 0.1)


def drawn(scene: Scene, reach_m: float = 0.0) -> Draw:
    return Draw(scene, np.zeros(7), dict.fromkeys((body.name for body in scene.objects), 0.0), reach_m)


def near(name: str, *clearances_m: float, end_s: float = 1.0) -> Approach:
    count = len(clearances_m)
    return Approach(name, None, np.linspace(0.0, end_s, count), 0.005 * np.arange(count), np.array(clearances_m))


def loose(  # type: ignore[no-untyped-def]
    *others: SceneObject, clearance_m: dict[str, float], reach_m: float = 0.0, motion=MOTION, grips=()
) -> set[str | None]:
    swept = Swept((), tuple(near(name, 0.2, m) for name, m in clearance_m.items()), 2)
    return set(loose_bodies(swept, motion, grips, drawn(Scene((TARGET, *others), ()), reach_m), 0.0))


def test_the_target_is_loose_and_what_is_far_away_is_not() -> None:
    far = standing("far", CUBE_M, 0.7, 0.3, 0.1)
    assert loose(far, clearance_m={"target": 0.0, "far": 0.15}) == {"target"}


@pytest.mark.parametrize(("reach_m", "is_loose"), [(0.0, False), (0.05, True)])
def test_what_the_runs_errors_bring_near_is_loose(reach_m: float, is_loose: bool) -> None:
    other = standing("other", CUBE_M, 0.6, 0.1, 0.1)
    assert ("other" in loose(other, clearance_m={"other": 0.06}, reach_m=reach_m)) == is_loose


def test_a_clearance_between_two_samples_counts() -> None:
    """Both samples are 30 mm away, but the way between them is 40 mm long."""
    passed = Approach("other", None, np.array([0.0, 1.0]), np.array([0.0, 0.04]), np.array([0.03, 0.03]))
    scene = Scene((TARGET, standing("other", CUBE_M, 0.6, 0.1, 0.1)), ())
    assert "other" in loose_bodies(Swept((), (passed,), 2), MOTION, (), drawn(scene), 0.0)


@pytest.mark.parametrize(("clearance_m", "is_loose"), [(0.04, True), (0.15, False)])
def test_what_opening_fingers_may_reach_is_loose(clearance_m: float, is_loose: bool) -> None:
    """The sweep measured with the fingers closed, and nothing after they opened."""
    other = standing("other", CUBE_M, 0.6, 0.1, 0.1)
    assert ("other" in loose(other, clearance_m={"other": clearance_m}, grips=(GripperSegment(1.0, 1.5, 0.08),))) == (
        is_loose
    )


def test_where_nobody_measured_before_or_after_the_fingers_move_everything_is_loose() -> None:
    other = standing("other", CUBE_M, 0.6, 0.1, 0.1)
    assert "other" in loose(other, clearance_m={"other": 0.15}, grips=(GripperSegment(3.0, 3.5, 0.08),))


def test_a_row_of_neighbours_and_a_stack_are_loose_as_a_whole() -> None:
    row = [standing(f"row {i}", CUBE_M, 0.5, 0.048 * i, 0.1) for i in range(1, 5)]  # 8 mm apart
    top = replace(standing("top", CUBE_M, 0.5, 0.048 * 4, 0.1), T_base_object=row[-1].T_base_object.copy())
    top.T_base_object[2, 3] += 0.04
    beside = standing("beside", CUBE_M, 0.5, 0.048 * 4 + 0.06, 0.1)  # 20 mm from the last one
    assert loose(*row, top, beside, clearance_m={}) == {"target", "row 1", "row 2", "row 3", "row 4", "top"}


def test_when_a_thing_is_pushed_everything_is_loose() -> None:
    far = standing("far", CUBE_M, 0.7, 0.3, 0.1)
    push = replace(MOTION, effect=Effect("push", "target", np.eye(4)))
    assert loose(far, clearance_m={}, motion=push) == {"target", "far"}


def test_far_things_that_stand_fixed_change_nothing(twin: Twin) -> None:
    """The same motion alone, and among 24 things of which the sweep comes near to few."""
    for count in (1, 25):
        step = pick_and_place(Stage(PANDA, Kinematics(PANDA)), count)
        swept, grips = twin.examine(step.motion, step.scene, step.start), timeline(step.motion, step.start).grips
        chosen = loose_bodies(swept, step.motion, grips, drawn(step.scene), step.start.gripper_width_m)
        assert "block 1" in chosen
        assert len(chosen) <= 8
        trials = twin.try_out(step.motion, step.scene, step.start, swept, (0, 1, 2))
        assert [t.violations for t in trials] == [(), (), ()]


def test_a_finger_that_opens_beside_a_thin_thing_topples_it(hand: Hand, twin: Twin) -> None:
    """The arm does not move after that, so no sweep of it comes near to the thing."""
    closed = replace(home_state(PANDA), gripper_width_m=0.0)
    hand.to((0.5, 0.0, 0.12), 2.0).to((0.5, 0.0, 0.012), 1.2).grip(0.08)
    card = stands("card", Box((0.06, 0.0015, 0.012)), 0.5, 0.0592)
    verdict = twin.rehearse(hand.motion(Effect("none")), Scene((card,), ()), closed)
    assert not verdict.accepted
    assert ViolationKind.MOVED_OTHER in {violation.kind for violation in verdict.violations}


@pytest.mark.parametrize(
    ("height_m", "tilt_rad"), [(0.1, 0.0), (0.005, 0.3)], ids=["floats in the air", "leans on nothing"]
)
def test_a_scene_that_cannot_stand_is_refused_though_nothing_reaches_it(
    hand: Hand, twin: Twin, height_m: float, tilt_rad: float
) -> None:
    cube = stands("cube", Box((0.045, 0.045, 0.05)), 0.5, -0.1)
    far = stands("far", Box((0.03, 0.03, 0.3)), 0.5, 0.35, on_m=height_m)
    T = np.array(far.T_base_object)
    T[:3, :3] = rotation_from_rotvec([tilt_rad, 0.0, 0.0])
    scene = Scene((cube, replace(far, T_base_object=freeze(T))), ())
    verdict = twin.rehearse(hand.pick(cube, 0.03).motion(Effect("hold", "cube")), scene, home_state(PANDA))
    assert ViolationKind.MOVED_OTHER in {violation.kind for violation in verdict.violations}
