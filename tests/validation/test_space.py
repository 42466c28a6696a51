"""Zones and unseen space count as solid; seen space, fitted shapes and the space around a target are free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, look_at, make_pose, transform
from qwen2vl_robot.messages import Box, CameraFrame, Intrinsics, RobotState, Scene, SceneObject, Verdict, Zone, freeze
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.unseen import Known, unseen_space

CAN = SceneObject("can", Box((0.06, 0.06, 0.12)), freeze(make_pose([0.55, 0.0, 0.06])))
K = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
EYE = (1.2, 0.0, 0.6)
NOTHING = Known(np.zeros((0, 2, 3)), ())


def view(*bodies: SceneObject, eye: tuple[float, float, float] = EYE) -> CameraFrame:
    """Depth of a table and of boxes on it, by rays: no renderer takes part."""
    T = look_at(eye, (0.5, 0.0, 0.0))
    v, u = np.mgrid[0 : K.height_px, 0 : K.width_px]
    rays = np.stack([(u - K.cx_px) / K.fx_px, (v - K.cy_px) / K.fy_px, np.ones(u.shape)], axis=-1)
    towards = rays.reshape(-1, 3) @ T[:3, :3].T
    depth_m = np.where(towards[:, 2] < 0, -T[2, 3] / towards[:, 2], np.nan)
    for body in bodies:
        depth_m = np.fmin(depth_m, _to_box(body, T[:3, 3], towards))
    rgb = np.zeros((K.height_px, K.width_px, 3), dtype=np.uint8)
    return CameraFrame(0, rgb, depth_m.reshape(u.shape).astype(np.float32), K, freeze(T))


def _to_box(body: SceneObject, eye_m: Array, towards: Array) -> Array:
    assert isinstance(body.shape, Box)
    low, high = (body.T_base_object[:3, 3] + s * np.array(body.shape.size_m) / 2 for s in (-1.0, 1.0))
    with np.errstate(divide="ignore"):
        a, b = (low - eye_m) / towards, (high - eye_m) / towards
    near, far = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
    hit: Array = np.where((near <= far) & (far > 0), near, np.nan)
    return hit


def is_unseen(boxes_m: Array, p_m: tuple[float, float, float]) -> bool:
    return any(((low <= p_m) & (p_m <= high)).all() for low, high in boxes_m)


def test_space_behind_an_object_is_unseen_and_space_before_it_is_seen(profile: RobotProfile) -> None:
    scene = Scene((CAN,), ())
    boxes_m = unseen_space(view(CAN), scene, scene, profile, (), NOTHING)
    assert is_unseen(boxes_m, (0.47, 0.0, 0.03))
    assert not is_unseen(boxes_m, (0.65, 0.0, 0.03))
    assert not is_unseen(boxes_m, (0.47, 0.2, 0.03))


def test_the_target_is_free_with_room_for_the_fingers(profile: RobotProfile) -> None:
    scene = Scene((CAN,), ())
    boxes_m = unseen_space(view(CAN), scene, scene, profile, ("can",), NOTHING)
    assert not is_unseen(boxes_m, (0.505, 0.0, 0.03))
    assert is_unseen(boxes_m, (0.44, 0.0, 0.03))


def test_an_empty_table_in_view_hides_nothing_in_the_middle(profile: RobotProfile) -> None:
    scene = Scene((), ())
    boxes_m = unseen_space(view(), scene, scene, profile, (), NOTHING)
    assert not any(is_unseen(boxes_m, (x, y, z)) for x in (0.4, 0.6) for y in (-0.2, 0.2) for z in (0.01, 0.07))


def test_a_camera_without_depth_has_seen_nothing(profile: RobotProfile) -> None:
    blind = view()
    nothing = np.full_like(blind.depth_m, np.nan)
    frame = CameraFrame(0, blind.rgb, nothing, blind.intrinsics, blind.T_base_camera)
    boxes_m = unseen_space(frame, Scene((), ()), Scene((), ()), profile, (), NOTHING)
    assert is_unseen(boxes_m, (0.5, 0.0, 0.03))


def test_boxes_of_unseen_space_do_not_overlap_and_fill_the_workspace_at_most(profile: RobotProfile) -> None:
    scene = Scene((CAN,), ())
    boxes_m = unseen_space(view(CAN), scene, scene, profile, (), NOTHING)
    low_m, high_m = (np.array(corner) for corner in (profile.workspace.min_m, profile.workspace.max_m))
    assert (boxes_m[:, 0] >= [*low_m[:2], 0.0]).all() and (boxes_m[:, 1] <= high_m + 0.04).all()
    low_m, high_m = boxes_m[:, None], boxes_m[None]
    shared_m = np.minimum(low_m[..., 1, :], high_m[..., 1, :]) - np.maximum(low_m[..., 0, :], high_m[..., 0, :])
    overlaps = (shared_m > 1e-9).all(axis=-1) & ~np.eye(len(boxes_m), dtype=bool)
    assert not overlaps.any()


# --------------------------------------------------------------------------------------------- high up


@pytest.mark.parametrize("height_m", [0.2, 0.44, 0.6, 1.0])
def test_what_no_pixel_shows_is_unseen_at_every_height(profile: RobotProfile, height_m: float) -> None:
    """A 5 cm ball there would show in no pixel: it is beside the picture."""
    empty = Scene((), ())
    boxes_m = unseen_space(view(), empty, empty, profile, (), NOTHING)
    assert is_unseen(boxes_m, (0.5, -0.6, height_m))


def test_the_room_high_up_in_view_is_seen(profile: RobotProfile) -> None:
    empty = Scene((), ())
    assert not is_unseen(unseen_space(view(), empty, empty, profile, (), NOTHING), (0.5, 0.0, 0.22))


ABOVE = np.array([[[0.3, -0.7, 0.0], [0.86, -0.3, 1.2]]])


def test_a_person_can_vouch_for_room_above_where_things_stand_and_not_below(profile: RobotProfile) -> None:
    empty = Scene((), ())
    boxes_m = unseen_space(view(), empty, empty, profile, (), Known(ABOVE, ()))
    assert not is_unseen(boxes_m, (0.5, -0.5, 0.3))
    assert is_unseen(boxes_m, (0.5, -0.5, 0.1)), "things can be put there"
    assert is_unseen(boxes_m, (0.5, 0.5, 0.3)), "nobody vouched for that side"


def test_the_arm_itself_is_where_nothing_else_can_be(profile: RobotProfile) -> None:
    empty, link = Scene((), ()), SceneObject("link", Box((0.1, 0.1, 0.1)), freeze(make_pose([0.5, -0.5, 0.5])))
    boxes_m = unseen_space(view(), empty, empty, profile, (), Known(np.zeros((0, 2, 3)), (link,)))
    assert not is_unseen(boxes_m, (0.5, -0.5, 0.5))
    assert is_unseen(boxes_m, (0.5, -0.5, 0.7))


def test_what_a_further_camera_sees_is_seen(profile: RobotProfile) -> None:
    empty, behind = Scene((CAN,), ()), (0.47, 0.0, 0.03)
    front = view(CAN)
    both = replace(front, others=(view(CAN, eye=(-0.2, 0.0, 0.9)),))
    assert is_unseen(unseen_space(front, empty, empty, profile, (), NOTHING), behind)
    assert not is_unseen(unseen_space(both, empty, empty, profile, (), NOTHING), behind)


def test_a_refusal_says_for_which_box_somebody_would_have_to_vouch(
    twin: Twin, hand: Any, start: RobotState, profile: RobotProfile
) -> None:
    high = freeze([[[0.4, -0.05, 0.16], [0.6, 0.05, 0.46]]])
    across = hand.to((0.5, 0.15, 0.3), 2.0).to((0.5, -0.15, 0.3), 3.0).motion()
    verdict = twin.rehearse(across, Scene((), (), unseen_m=high), start)
    assert "min_m: [0.4, -0.05, 0.16], max_m: [0.6, 0.05, 0.46]" in verdict.explanation
    low = freeze([[[0.4, -0.05, 0.1], [0.6, 0.05, 0.46]]])
    verdict = twin.rehearse(across, Scene((), (), unseen_m=low), start)
    assert "unseen" in {v.kind for v in verdict.violations}
    assert "min_m" not in verdict.explanation, "nobody can vouch for where things stand"


# ------------------------------------------------------------------------------------------ in the sweep


def judged(twin: Twin, hand: Any, scene: Scene, start: RobotState) -> Verdict:
    return twin.rehearse(hand.to((0.5, 0.15, 0.12), 2.0).to((0.5, -0.15, 0.12), 3.0).motion(), scene, start)


ACROSS = Zone("closed", (0.4, -0.05, 0.0), (0.6, 0.05, 0.3))


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        (Scene((), (), zones=(ACROSS,)), "zone"),
        (Scene((), (), zones=(Zone("people", ACROSS.min_m, ACROSS.max_m, 0.02),)), "zone_speed"),
        (Scene((), (), unseen_m=freeze([[ACROSS.min_m, ACROSS.max_m]])), "unseen"),
        (Scene((), (), zones=(Zone("wrong", ACROSS.max_m, ACROSS.min_m),)), "format"),
        (Scene((), (), zones=(Zone("wrong", (np.nan, 0.0, 0.0), ACROSS.max_m),)), "non_finite"),
        (Scene((), (), unseen_m=freeze([[ACROSS.max_m, ACROSS.min_m]])), "format"),
    ],
)
def test_a_way_through_forbidden_space_is_refused(
    twin: Twin, hand: Any, start: RobotState, scene: Scene, kind: str
) -> None:
    verdict = judged(twin, hand, scene, start)
    assert {v.kind for v in verdict.violations} == {kind}
    assert verdict.explanation


def test_a_way_past_a_zone_is_accepted(twin: Twin, hand: Any, start: RobotState) -> None:
    beside = Zone("closed", (0.6, -0.5, 0.0), (0.8, 0.5, 0.05))
    people = Zone("people", ACROSS.min_m, ACROSS.max_m, 0.8)
    assert judged(twin, hand, Scene((), (), zones=(beside, people)), start).accepted


def test_the_speed_in_a_zone_is_that_of_the_tool(
    twin: Twin, new_hand: Callable[[], Any], start: RobotState, profile: RobotProfile
) -> None:
    everywhere = Zone("people", (-2.0, -2.0, -2.0), (2.0, 2.0, 2.0), 0.001)
    hand = new_hand()
    motion = hand.to((0.5, 0.15, 0.2), 2.0).motion()
    tool_m = np.array([hand._kinematics.tool_pose(q)[:3, 3] for q in motion.segments[0].q_rad])
    fastest = (np.linalg.norm(np.diff(tool_m, axis=0), axis=1) / np.diff(motion.segments[0].time_s)).max()
    verdict = twin.rehearse(motion, Scene((), (), zones=(everywhere,)), start)
    found = next(v for v in verdict.violations if v.kind == "zone_speed")
    assert found.amount == pytest.approx(fastest - 0.001, rel=0.02)


# ------------------------------------------------------------------------------- the bound of the sweep


@pytest.mark.parametrize("y_m", np.linspace(-0.1, 0.1, 7).tolist())
def test_no_wall_is_so_thin_that_the_arm_jumps_over_it(
    twin: Twin, new_hand: Callable[[], Any], start: RobotState, y_m: float
) -> None:
    wall = SceneObject("wall", Box((0.4, 0.0005, 0.5)), freeze(make_pose([0.5, y_m, 0.25])), mass_kg=0.0)
    hand = new_hand().to((0.5, 0.2, 0.15), 2.0)
    fast = hand.to((0.5, -0.2, 0.15), 0.9).motion()
    found = twin.examine(fast, Scene((), (wall,)), start).violations
    assert any("wall" in v.bodies for v in found)


def test_no_point_of_the_arm_travels_farther_than_the_stated_step(twin: Twin, new_hand: Callable[[], Any]) -> None:
    from qwen2vl_robot.kinematics import Kinematics
    from qwen2vl_robot.validation.findings import STEP_M
    from qwen2vl_robot.validation.timeline import timeline

    rng = np.random.default_rng(4)
    hand = new_hand()
    kinematics = Kinematics(hand.profile)
    low, high = kinematics.lower_rad, kinematics.upper_rad
    for _ in range(5):
        hand = new_hand().move(rng.uniform(low, high), 3.0)
        motion = hand.motion()
        at_home = RobotState(0, freeze(hand.profile.home_q_rad), freeze(np.zeros(7)), 0.08)
        line = timeline(motion, at_home)
        q_rad = line.q_at(line.even_travel(0.0, 3.0, twin._world.robot.reach_m(0.0), STEP_M))
        tips = []
        for q in q_rad:
            poses = kinematics.link_poses(q, 0.08)
            tips.append(np.concatenate([transform(poses[link], hull) for link, hull in kinematics.link_hulls.items()]))
        assert np.linalg.norm(np.diff(tips, axis=0), axis=-1).max() <= STEP_M + 1e-9
