"""Things that nothing reaches stand fixed in a run; what may be moved by arm, load or a neighbour is loose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.benchmarks.hazards.stage import Stage, standing
from qwen2vl_robot.benchmarks.validation import pick_and_place
from qwen2vl_robot.config import load_robot
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Effect, Scene
from qwen2vl_robot.validation.findings import Approach, Swept
from qwen2vl_robot.validation.loose import loose_bodies
from qwen2vl_robot.validation.rehearsal import Twin

PANDA = load_robot("franka_panda")
CUBE_M = (0.04, 0.04, 0.04)
STEP = pick_and_place(Stage(PANDA, Kinematics(PANDA)), 1)
MOTION = replace(STEP.motion, effect=Effect("hold", "target"))
TARGET = standing("target", CUBE_M, 0.5, 0.0, 0.1)


def loose(*others: object, clearance_m: dict[str, float], reach_m: float = 0.0, motion=MOTION) -> set[str | None]:  # type: ignore[no-untyped-def]
    approaches = tuple(
        Approach(name, None, np.array([0.0, 1.0]), np.array([0.0, 0.005]), np.array([0.2, m]))
        for name, m in clearance_m.items()
    )
    scene = Scene((TARGET, *others), ())  # type: ignore[arg-type]
    return set(loose_bodies(Swept((), approaches, 2), motion, scene, lambda name, load: reach_m))


def test_the_target_is_loose_and_what_is_far_away_is_not() -> None:
    far = standing("far", CUBE_M, 0.7, 0.3, 0.1)
    assert loose(far, clearance_m={"target": 0.0, "far": 0.15}) == {"target"}


@pytest.mark.parametrize(("reach_m", "is_loose"), [(0.0, False), (0.05, True)])
def test_what_the_runs_errors_bring_near_is_loose(reach_m: float, is_loose: bool) -> None:
    other = standing("other", CUBE_M, 0.6, 0.1, 0.1)
    assert ("other" in loose(other, clearance_m={"other": 0.06}, reach_m=reach_m)) == is_loose


def test_a_clearance_between_two_samples_counts() -> None:
    """Both samples are 30 mm away, but the way between them is 40 mm long."""
    near = Approach("other", None, np.array([0.0, 1.0]), np.array([0.0, 0.04]), np.array([0.03, 0.03]))
    scene = Scene((TARGET, standing("other", CUBE_M, 0.6, 0.1, 0.1)), ())
    assert "other" in loose_bodies(Swept((), (near,), 2), MOTION, scene, lambda name, load: 0.0)


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


def test_far_things_that_stand_fixed_change_nothing() -> None:
    """The same motion alone, and among 24 things of which the sweep comes near to none."""
    found = {}
    for count in (1, 25):
        step, twin = pick_and_place(Stage(PANDA, Kinematics(PANDA)), count), Twin(PANDA)
        swept = twin.examine(step.motion, step.scene, step.start)
        loose = loose_bodies(swept, step.motion, step.scene, lambda name, load: 0.0)
        assert "block 1" in loose
        assert len(loose) <= 4
        run = twin.run(step.motion, step.scene, step.start, swept)
        trials = twin.try_out(step.motion, step.scene, step.start, swept, (0, 1, 2))
        twin.close()
        assert (run.violations, [t.violations for t in trials]) == ((), [(), (), ()])
        found[count] = run.scene.objects[0].T_base_object
    assert found[1] == pytest.approx(found[25], abs=0.001)
