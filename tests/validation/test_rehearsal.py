"""The twin's verdicts: what it must refuse, with numbers, and what it must accept, with the world afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.geometry import invert, make_pose
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    Effect,
    Motion,
    Relation,
    RobotState,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    Verdict,
    digest,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.validation.rehearsal import _MOST_BODIES, Twin


def standing(name: str, shape: Shape, x_m: float, y_m: float) -> SceneObject:
    pose = make_pose([x_m, y_m, shape_size_m(shape)[2] / 2])
    return SceneObject(name, shape, freeze(pose), (200.0, 40.0, 40.0))


BLOCK = standing("red block", Box((0.05, 0.045, 0.05)), 0.5, 0.1)
BOWL = standing("green bowl", Container((0.15, 0.15, 0.05), 0.006), 0.6, -0.12)
SCENE = Scene((BLOCK, BOWL), ())
HOLD = Effect("hold", "red block")


def kinds(verdict: Verdict) -> set[str]:
    return {v.kind for v in verdict.violations}


@pytest.fixture(scope="session")
def pick(new_hand: Callable[[], Any], twin: Twin, start: RobotState) -> tuple[Motion, Verdict]:
    motion: Motion = new_hand().pick(BLOCK).motion(HOLD)
    return motion, twin.rehearse(motion, SCENE, start)


def test_safe_pick_is_accepted_with_the_block_in_the_gripper(pick: tuple[Motion, Verdict]) -> None:
    _, verdict = pick
    assert verdict.violations == ()
    assert verdict.accepted
    assert verdict.scene_after is not None
    assert verdict.state_after is not None
    assert verdict.scene_after.held == verdict.state_after.held == "red block"
    assert verdict.scene_after.T_tool_held is not None
    assert np.linalg.norm(verdict.scene_after.T_tool_held[:3, 3]) < 0.005
    assert verdict.state_after.gripper_width_m == pytest.approx(0.045, abs=0.003)
    assert verdict.scene_after.find("red block").bottom_m > 0.3
    assert verdict.scene_after.find("green bowl") is BOWL


def test_verdict_names_what_it_judged_by_digest(pick: tuple[Motion, Verdict], twin: Twin, start: RobotState) -> None:
    motion, verdict = pick
    assert verdict.motion_digest == digest(motion)
    assert verdict.scene_digest == digest(SCENE)
    assert verdict.start_digest == digest(start)
    assert len(verdict.robot_digest) == 64


def test_verdict_depends_on_nothing_rehearsed_before(
    pick: tuple[Motion, Verdict], twin: Twin, start: RobotState
) -> None:
    motion, verdict = pick
    assert digest(twin.rehearse(motion, SCENE, start)) == digest(verdict)


def test_a_twin_that_cleans_up_gives_the_same_verdict(
    pick: tuple[Motion, Verdict], twin: Twin, start: RobotState
) -> None:
    motion, verdict = pick
    twin._bodies = _MOST_BODIES - 10  # in the middle of the trials
    assert digest(twin.rehearse(motion, SCENE, start)) == digest(verdict)


def test_two_fresh_processes_give_the_same_verdict(pick: tuple[Motion, Verdict]) -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        from conftest import Hand, home_state, load_robot
        from test_rehearsal import BLOCK, HOLD, SCENE
        from qwen2vl_robot.messages import digest
        from qwen2vl_robot.validation.rehearsal import Twin
        profile = load_robot("franka_panda")
        print(digest(Twin(profile).rehearse(Hand(profile).pick(BLOCK).motion(HOLD), SCENE, home_state(profile))))
        """
    )
    command = [sys.executable, "-c", script, os.path.dirname(__file__)]
    digests = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] for _ in range(2)]
    assert digests == [digest(pick[1])] * 2


def release_in_bowl(hand: Any, verdict: Verdict, x_m: float = 0.6, tolerance_m: float = 0.03) -> Motion:
    """Lower what is held into the bowl, open, rise, go home."""
    hand.q_rad = verdict.state_after.q_rad
    bottom_m = 0.006 + 0.004
    hand.to((x_m, -0.12, bottom_m + 0.025 + 0.12), 2.0).to((x_m, -0.12, bottom_m + 0.025), 1.2)
    hand.grip(0.08).to((x_m, -0.12, 0.2), 1.2).home()
    wanted = make_pose((0.6, -0.12, 0.006 + 0.025))
    return hand.motion(Effect("release", "red block", wanted, Relation.IN, "green bowl", tolerance_m))


def test_placing_what_the_pick_left_in_the_gripper_is_accepted(
    pick: tuple[Motion, Verdict], hand: Any, twin: Twin
) -> None:
    held = pick[1]
    verdict = twin.rehearse(release_in_bowl(hand, held), held.scene_after, held.state_after)
    assert verdict.violations == ()
    assert verdict.scene_after is not None
    assert verdict.scene_after.held is None
    in_bowl = invert(BOWL.T_base_object) @ verdict.scene_after.find("red block").T_base_object[:, 3]
    assert np.abs(in_bowl[:2]).max() < 0.02


def test_placing_into_the_bowls_wall_is_a_collision_of_the_carried_block(
    pick: tuple[Motion, Verdict], hand: Any, twin: Twin
) -> None:
    held = pick[1]
    verdict = twin.rehearse(release_in_bowl(hand, held, x_m=0.54), held.scene_after, held.state_after)
    assert not verdict.accepted
    assert ("green bowl", "red block") in [v.bodies for v in verdict.violations if v.kind == "collision"]


def test_release_that_ends_elsewhere_than_promised_is_a_wrong_effect(
    pick: tuple[Motion, Verdict], hand: Any, twin: Twin
) -> None:
    held = pick[1]
    hand.q_rad = held.state_after.q_rad
    hand.to((0.45, 0.1, 0.2), 2.0).to((0.45, 0.1, 0.03), 1.2).grip(0.08).to((0.45, 0.1, 0.2), 1.2).home()
    promised = Effect("release", "red block", make_pose((0.45, 0.2, 0.025)), Relation.LEFT_OF, "green bowl")
    verdict = twin.rehearse(hand.motion(promised), held.scene_after, held.state_after)
    assert kinds(verdict) == {"wrong_effect"}
    assert verdict.violations[0].amount == pytest.approx(0.1, abs=0.01)
    assert verdict.scene_after is None


def test_dropping_on_the_way_is_a_grasp_that_slips(pick: tuple[Motion, Verdict], hand: Any, twin: Twin) -> None:
    held = pick[1]
    slippery = replace(held.scene_after.find("red block"), friction=0.0, mass_kg=3.0)
    others = tuple(slippery if body.name == "red block" else body for body in held.scene_after.objects)
    scene = replace(held.scene_after, objects=others)
    verdict = twin.rehearse(release_in_bowl(hand, held), scene, held.state_after)
    assert "grasp_slip" in kinds(verdict)


@pytest.mark.parametrize("shape", [Cylinder(0.05, 0.09), Sphere(0.055), Box((0.06, 0.04, 0.04))])
def test_other_shapes_can_be_picked(shape: Shape, hand: Any, twin: Twin, start: RobotState) -> None:
    body = standing("thing", shape, 0.5, 0.1)
    motion = hand.pick(body, grip_m=max(body.top_m / 2, body.top_m - 0.03)).motion(Effect("hold", "thing"))
    verdict = twin.rehearse(motion, Scene((body,), ()), start)
    assert verdict.violations == ()


def test_grasp_beside_the_block_is_a_wrong_effect(hand: Any, twin: Twin, start: RobotState) -> None:
    missed = replace(BLOCK, T_base_object=freeze(make_pose([0.5, 0.0, 0.025])))
    verdict = twin.rehearse(hand.pick(missed).motion(HOLD), SCENE, start)
    assert kinds(verdict) == {"wrong_effect"}
    assert verdict.violations[0].bodies[0] == "red block"


def test_grasp_of_a_slippery_heavy_block_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    slippery = replace(BLOCK, friction=0.01, mass_kg=2.0)
    verdict = twin.rehearse(hand.pick(slippery).motion(HOLD), Scene((slippery,), ()), start)
    assert kinds(verdict) & {"grasp_slip", "wrong_effect"}


def test_fingers_that_come_down_on_the_block_are_a_collision(hand: Any, twin: Twin, start: RobotState) -> None:
    beside = replace(BLOCK, T_base_object=freeze(make_pose([0.5, 0.06, 0.025])))
    verdict = twin.rehearse(hand.pick(beside).motion(HOLD), SCENE, start)
    assert kinds(verdict) == {"collision"}
    assert {b for v in verdict.violations for b in v.bodies} & {"panda_leftfinger", "panda_rightfinger"}


@pytest.mark.parametrize("thickness_m", [0.05, 0.003, 0.0005])
def test_wall_between_two_free_waypoints_is_a_collision(
    thickness_m: float, hand: Any, twin: Twin, start: RobotState
) -> None:
    wall = SceneObject("wall", Box((0.3, thickness_m, 0.2)), freeze(make_pose([0.5, 0.0, 0.1])))
    hand.to((0.5, 0.25, 0.12), 2.0).to((0.5, -0.25, 0.12), 2.0)
    for scene in (Scene((wall,), ()), Scene((), (wall,))):
        verdict = twin.rehearse(hand.motion(), scene, start)
        assert kinds(verdict) == {"collision"}
        assert all(v.time_s is not None and 2.0 < v.time_s < 4.0 and v.amount > 0 for v in verdict.violations)


@pytest.mark.parametrize(("clearance_m", "expected"), [(0.004, set()), (-0.002, {"collision"})])
def test_near_miss_passes_and_near_hit_does_not(
    clearance_m: float, expected: set[str], hand: Any, twin: Twin, start: RobotState
) -> None:
    tip_m = 0.12 - hand.profile.gripper.pad_depth_m
    tall = tip_m - clearance_m
    fence = SceneObject("fence", Box((0.2, 0.02, tall)), freeze(make_pose([0.5, 0.0, tall / 2])))
    # Down to the height already beside the fence, so that only the straight way over it matters.
    hand.to((0.5, 0.12, 0.12), 2.0)
    for y_m in np.linspace(0.12, -0.12, 25)[1:]:
        hand.to((0.5, float(y_m), 0.12), 0.3)
    assert kinds(twin.rehearse(hand.motion(), Scene((), (fence,)), start)) == expected


def test_way_through_the_table_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    verdict = twin.rehearse(hand.to((0.5, 0.1, 0.1), 2.0).to((0.5, 0.1, -0.005)).motion(), Scene((), ()), start)
    assert kinds(verdict) == {"collision"}
    assert {v.bodies for v in verdict.violations} == {("panda_leftfinger", "table"), ("panda_rightfinger", "table")}


def test_arm_that_folds_into_itself_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    folded = np.array([0.0, -1.1, 0.0, -3.0, 0.0, 0.3, 0.785])
    verdict = twin.rehearse(hand.move(folded, 3.0).motion(), Scene((), ()), start)
    assert kinds(verdict) == {"self_collision"}


def test_way_out_of_the_workspace_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    verdict = twin.rehearse(hand.to((0.1, 0.72, 0.4), 4.0).motion(), Scene((), ()), start)
    assert kinds(verdict) == {"workspace"}
    assert verdict.violations[0].amount == pytest.approx(0.02, abs=0.001)


def test_start_inside_an_obstacle_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    beam = SceneObject("beam", Box((0.1, 0.1, 0.1)), freeze(make_pose([0.22, 0.0, 0.45])))
    verdict = twin.rehearse(hand.move(hand.q_rad + 0.01, 1.0).motion(), Scene((), (beam,)), start)
    assert kinds(verdict) == {"collision"}


def test_opening_the_fingers_into_a_neighbour_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    narrow = replace(start, gripper_width_m=0.01)
    neighbour = SceneObject("neighbour", Box((0.05, 0.03, 0.05)), freeze(make_pose([0.5, 0.055, 0.025])))
    hand.to((0.5, 0.0, 0.15), 2.0).to((0.5, 0.0, 0.03), 1.2)
    assert kinds(twin.rehearse(hand.motion(), Scene((), (neighbour,)), narrow)) == set()
    assert kinds(twin.rehearse(hand.grip(0.08).motion(), Scene((), (neighbour,)), narrow)) == {"collision"}


def test_taking_the_lower_of_two_blocks_moves_the_upper(hand: Any, twin: Twin, start: RobotState) -> None:
    upper = SceneObject("upper", Box((0.04, 0.04, 0.04)), freeze(make_pose([0.515, 0.1, 0.07])))
    verdict = twin.rehearse(hand.pick(BLOCK, grip_m=0.015, lift_m=0.2).motion(HOLD), Scene((BLOCK, upper), ()), start)
    assert not verdict.accepted


def test_push_moves_its_target_and_nothing_else(hand: Any, twin: Twin, start: RobotState) -> None:
    closed = replace(start, gripper_width_m=0.0)
    for y_m, seconds in ((0.2, 2.0), (0.2, 1.2), (0.09, 3.0)):
        hand.to((0.5, y_m, 0.15 if hand.now_s == 0.0 else 0.03), seconds)
    hand.to((0.5, 0.11, 0.15), 1.2).home()
    effect = Effect("push", "red block", make_pose([0.5, 0.055, 0.025]), tolerance_m=0.03)
    verdict = twin.rehearse(hand.motion(effect), SCENE, closed)
    assert verdict.violations == ()
    assert verdict.scene_after is not None
    assert verdict.scene_after.find("red block").T_base_object[1, 3] < 0.08
    other = standing("ball", Sphere(0.05), 0.5, 0.04)
    assert "moved_other" in kinds(twin.rehearse(hand.motion(effect), Scene((BLOCK, other), ()), closed))


def test_push_that_touches_nothing_is_a_wrong_effect(hand: Any, twin: Twin, start: RobotState) -> None:
    effect = Effect("push", "red block", make_pose([0.5, 0.0, 0.025]))
    verdict = twin.rehearse(hand.to((0.5, 0.1, 0.2), 2.0).home().motion(effect), SCENE, start)
    assert kinds(verdict) == {"wrong_effect"}


def test_arm_too_weak_to_follow_is_refused(hand: Any, start: RobotState) -> None:
    weak = tuple(joint.model_copy(update={"effort_nm": 3.0}) for joint in hand.profile.joints)
    feeble = Twin(hand.profile.model_copy(update={"joints": weak}))
    verdict = feeble.rehearse(hand.move(hand.q_rad + 0.05, 1.0).motion(), Scene((), ()), start)
    feeble.close()
    assert kinds(verdict) == {"joint_torque"}
    assert {v.unit for v in verdict.violations} == {"N m"}


def test_body_named_like_a_link_is_refused(hand: Any, twin: Twin, start: RobotState) -> None:
    for name in ("panda_hand", "table"):
        scene = Scene((replace(BLOCK, name=name),), ())
        assert kinds(twin.rehearse(hand.move(hand.q_rad + 0.01, 1.0).motion(), scene, start)) == {"format"}


def test_film_shows_the_run_and_leaves_the_verdict_as_it_is(hand: Any, twin: Twin, start: RobotState) -> None:
    motion = hand.move(hand.q_rad + 0.05, 0.5).motion()
    verdict = twin.rehearse(motion, SCENE, start, film=True)
    assert verdict.film is not None
    assert verdict.film.ndim == 4
    assert len(verdict.film) >= 4
    assert digest(verdict) == digest(twin.rehearse(motion, SCENE, start))
