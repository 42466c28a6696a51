"""Fingers go into the narrow room beside a thing that nobody has seen last, guarded, slowly, and not at all unfelt."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, look_at, make_pose
from qwen2vl_robot.guarded import SPEED_MPS
from qwen2vl_robot.messages import (
    Box,
    CameraFrame,
    GroundedAction,
    Hull,
    Intrinsics,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Verb,
    freeze,
)
from qwen2vl_robot.motion.skills import MotionMaker
from qwen2vl_robot.reasons import MotionReason, ViolationKind
from qwen2vl_robot.relations import load_relations
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.unseen import Known, shadow_space

_TALL = SceneObject("block", Box((0.045, 0.045, 0.08)), freeze(make_pose([0.5, 0.0, 0.04])))
_ALONG, _ACROSS = np.array([1.0, 0.0]), np.array([0.0, 1.0])
_PICK = GroundedAction(Verb.PICK, "block")
_NOTHING = Known(np.zeros((0, 2, 3)), ())


def shadow(*sides: Array, high_m: float = 0.06) -> Array:
    """Unseen room beside the block, on each of these sides."""
    middles_m = [np.array([*(_TALL.T_base_object[:2, 3] + side * 0.0425), high_m / 2]) for side in sides]
    half_m = np.array([0.02, 0.02, high_m / 2])
    return freeze([[middle - half_m, middle + half_m] for middle in middles_m])


@pytest.fixture(scope="module")
def maker(profile: RobotProfile) -> MotionMaker:
    return MotionMaker(profile, load_relations())


@pytest.fixture
def feels(start: RobotState) -> RobotState:
    return replace(start, effort_nm=freeze(np.zeros(7)))


def best(maker: MotionMaker, scene: Scene, state: RobotState) -> Motion:
    return next(maker.ways(_PICK, scene, state))


def closing(motion: Motion, maker: MotionMaker) -> Array:
    """The direction along which the fingers close."""
    down = next(s for i, s in enumerate(motion.segments) if isinstance(s, JointSegment) and _closes_after(motion, i))
    turned: Array = np.abs(maker._robot.kinematics.tool_pose(down.q_rad[-1])[:2, 1])
    return turned


def _closes_after(motion: Motion, index: int) -> bool:
    after = motion.segments[index + 1 : index + 2]
    return bool(after) and not isinstance(after[0], JointSegment) and after[0].width_m == 0.0


@pytest.mark.parametrize("side", [_ALONG, -_ALONG, _ACROSS, -_ACROSS])
def test_a_grasp_that_keeps_fingers_out_of_unseen_room_comes_first(
    maker: MotionMaker, feels: RobotState, side: Array
) -> None:
    motions = list(maker.ways(_PICK, Scene((_TALL,), (), shadow_m=shadow(side)), feels))
    assert motions[0].guarded is None
    assert closing(motions[0], maker) @ np.abs(side) < 0.1
    assert any(motion.guarded is not None for motion in motions)


def test_where_every_grasp_enters_unseen_room_the_descent_is_guarded_and_the_twin_accepts_it(
    maker: MotionMaker, feels: RobotState, twin: Twin
) -> None:
    scene = Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS))
    motion = best(maker, scene, feels)
    guarded = motion.guarded
    assert guarded is not None
    segment = motion.segments[guarded.index]
    assert isinstance(segment, JointSegment) and _closes_after(motion, guarded.index)
    speed_mps = -np.diff(guarded.height_m) / np.diff(segment.time_s)
    assert 0.5 * SPEED_MPS < speed_mps.max() <= SPEED_MPS
    assert twin.rehearse(motion, scene, feels).violations == ()


def test_an_arm_that_tells_no_torques_gets_no_such_grasp(maker: MotionMaker, start: RobotState) -> None:
    with pytest.raises(MotionError) as caught:
        best(maker, Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS)), start)
    assert caught.value.reason is MotionReason.NO_EFFORT
    assert best(maker, Scene((_TALL,), (), shadow_m=shadow(_ALONG)), start).guarded is None


def test_unseen_room_that_reaches_too_high_is_not_entered(maker: MotionMaker, feels: RobotState) -> None:
    with pytest.raises(MotionError) as caught:
        best(maker, Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS, high_m=0.16)), feels)
    assert caught.value.reason is MotionReason.NO_GRASP


def test_the_twin_refuses_such_a_grasp_that_is_not_guarded_or_guarded_too_late(
    maker: MotionMaker, feels: RobotState, twin: Twin
) -> None:
    scene = Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS))
    motion = best(maker, scene, feels)
    assert motion.guarded is not None
    late = replace(motion.guarded, since_s=motion.segments[motion.guarded.index].end_s - 0.01)
    for other in (None, late):
        found = twin.examine(replace(motion, guarded=other), scene, feels).violations
        assert [violation.kind for violation in found] == [ViolationKind.UNSEEN] * len(found) and found


def test_the_twin_refuses_a_palm_in_unseen_room(maker: MotionMaker, feels: RobotState, twin: Twin) -> None:
    motion = best(maker, Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS)), feels)
    high = np.array([[[0.4, -0.15, 0.1], [0.6, 0.15, 0.14]]])
    found = twin.examine(motion, Scene((_TALL,), (), shadow_m=freeze(high)), feels).violations
    assert ViolationKind.UNSEEN in {violation.kind for violation in found}


def test_the_twin_refuses_a_guarded_descent_that_is_too_fast_or_tells_false_heights(
    maker: MotionMaker, feels: RobotState, twin: Twin
) -> None:
    scene = Scene((_TALL,), (), shadow_m=shadow(_ALONG, _ACROSS))
    motion = best(maker, scene, feels)
    guarded = motion.guarded
    assert guarded is not None
    free = best(maker, Scene((_TALL,), ()), feels)
    index = next(i for i in range(len(free.segments)) if _closes_after(free, i))
    fast = free.segments[index]
    assert isinstance(fast, JointSegment)
    heights_m = freeze([maker._robot.kinematics.tool_pose(q)[2, 3] for q in fast.q_rad])
    hurried = replace(free, guarded=replace(guarded, index=index, since_s=fast.start_s + 0.1, height_m=heights_m))
    falsified = replace(motion, guarded=replace(guarded, height_m=freeze(guarded.height_m + 0.01)))
    stretched = replace(motion, guarded=replace(guarded, height_m=freeze(guarded.height_m * 2.0)))
    for wrong, kind in (
        (hurried, ViolationKind.TOOL_SPEED),
        (falsified, ViolationKind.FORMAT),
        (stretched, ViolationKind.FORMAT),
        (replace(motion, guarded=replace(guarded, index=0)), ViolationKind.FORMAT),
        (replace(motion, guarded=replace(guarded, index=99)), ViolationKind.FORMAT),
        (replace(motion, guarded=replace(guarded, since_s=float("nan"))), ViolationKind.NON_FINITE),
        (replace(motion, guarded="yes"), ViolationKind.FORMAT),  # type: ignore[arg-type]
    ):
        kinds = {violation.kind for violation in twin.examine(wrong, scene, feels).violations}
        assert kind in kinds, (wrong.guarded, kinds)


# ------------------------------------------------------------------------------------- what no camera has seen


def view(high_m: float) -> tuple[CameraFrame, Scene]:
    """A block on a table, seen from the robot's far side: each ray ends on the block or on the table."""
    size_m = (0.045, 0.045, high_m)
    block = SceneObject("block", Box(size_m), freeze(make_pose([0.5, 0.0, high_m / 2])))
    k, T = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5), look_at((1.1, 0.0, 0.6), (0.5, 0.0, 0.02))
    v, u = np.mgrid[0:480, 0:640]
    rays = np.stack([(u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px, np.ones(u.shape)], axis=-1) @ T[:3, :3].T
    depth_m = -T[2, 3] / rays[..., 2]
    low, high = (np.array([0.5, 0.0, high_m / 2]) + sign * np.array(size_m) / 2 for sign in (-1, 1))
    with np.errstate(divide="ignore"):
        ends = np.stack([(low - T[:3, 3]) / rays, (high - T[:3, 3]) / rays])
    enters, leaves = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    depth_m = np.where((enters <= leaves) & (enters > 0.0), np.minimum(enters, depth_m), depth_m)
    rgb = np.zeros((480, 640, 3), dtype=np.uint8)
    return CameraFrame(0, rgb, depth_m.astype(np.float32), k, freeze(T)), Scene((block,), ())


def test_the_room_right_behind_a_tall_thing_is_a_shadow_and_that_before_it_is_none(profile: RobotProfile) -> None:
    frame, scene = view(0.08)
    boxes_m = shadow_space(frame, scene, scene, profile, ("block",), _NOTHING)
    middles_m = boxes_m.mean(axis=1)
    assert len(boxes_m) and (boxes_m[:, 0, 0] < 0.5 - 0.0225).all()
    assert middles_m[:, 0].min() > 0.5 - 0.0225 - 0.035  # no further than fingers go
    assert 0.03 < boxes_m[:, 1, 2].max() <= 0.08


def test_behind_a_flat_thing_nothing_can_hide(profile: RobotProfile) -> None:
    frame, scene = view(0.015)
    assert len(shadow_space(frame, scene, scene, profile, ("block",), _NOTHING)) == 0


def test_beside_what_is_not_handled_there_is_no_shadow_for_fingers(profile: RobotProfile) -> None:
    frame, scene = view(0.08)
    assert len(shadow_space(frame, scene, scene, profile, (), _NOTHING)) == 0


@pytest.mark.parametrize("in_boxes", [True, False])
def test_a_notch_of_boxes_that_hold_a_thing_may_hide_something(profile: RobotProfile, in_boxes: bool) -> None:
    """Behind the block lies a slab that belongs to it; over the slab nobody sees, and no box of the thing is there."""
    frame, _ = view(0.08)
    half_m = np.array([0.05625, 0.0225, 0.04])
    block = ((0.01125, -0.0225, -0.04), (0.05625, 0.0225, 0.04))
    slab = ((-0.05625, -0.0225, -0.04), (0.01125, 0.0225, -0.03))
    corners = tuple((float(x), float(y), float(z)) for x, y, z in product(*zip(-half_m, half_m, strict=True)))
    hull = Hull(corners, (block, slab) if in_boxes else ())
    scene = Scene((SceneObject("block", hull, freeze(make_pose([0.46625, 0.0, 0.04]))),), ())
    boxes_m = shadow_space(frame, scene, scene, profile, ("block",), _NOTHING)
    notch_m = np.array([0.455, 0.0, 0.035])
    assert any(((low < notch_m) & (notch_m < high)).all() for low, high in boxes_m) == in_boxes
