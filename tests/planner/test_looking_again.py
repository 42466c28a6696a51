"""Looking again: what no window shows either is absent, and what one shows gets its box in the whole picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.geometry import look_at
from qwen2vl_robot.messages import (
    Action,
    CameraFrame,
    ImageBox,
    Instruction,
    Intrinsics,
    ObjectReference,
    Plan,
    PlannerRequest,
    Verb,
)
from qwen2vl_robot.planner.windows import Window, plan_looking_again, windows_for, work_place

ASK = Action(Verb.ASK, text="I see no red block.")
SIDE_PX = 12


class SmallEyes:
    """A model that sees a red square only where it is at least so many pixels wide in the picture that it gets."""

    def __init__(self, min_px: int = 20) -> None:
        self.min_px, self.asked = min_px, 0

    def plan_one(self, request: PlannerRequest) -> Plan:
        self.asked += 1
        is_red = request.rgb[..., 0].astype(int) - request.rgb[..., 1] > 100
        ys, xs = np.nonzero(is_red)
        if len(xs) == 0 or np.ptp(xs) + 1 < self.min_px:
            return Plan((ASK,), "", (ObjectReference("red block", ()),))
        height, width = is_red.shape
        x, y = 1000 / width, 1000 / height
        box = ImageBox(x * xs.min(), y * ys.min(), x * (xs.max() + 1), y * (ys.max() + 1))
        return self.finish(request, (ObjectReference("red block", (box,)),))

    def finish(self, request: PlannerRequest, things: tuple[ObjectReference, ...]) -> Plan:
        return Plan((Action(Verb.PICK, things[0]),), "", things)


def _request(at_px: tuple[int, int] | None) -> PlannerRequest:
    rgb = np.full((480, 640, 3), 120, np.uint8)
    if at_px is not None:
        rgb[at_px[1] : at_px[1] + SIDE_PX, at_px[0] : at_px[0] + SIDE_PX] = [220, 20, 20]
    return PlannerRequest(rgb, Instruction("pick up the red block"))


@given(x=st.integers(0, 640 - SIDE_PX), y=st.integers(0, 480 - SIDE_PX))
def test_what_is_too_small_for_the_whole_picture_is_found_wherever_it_is(x: int, y: int) -> None:
    eyes = SmallEyes(min_px=15)
    plan = plan_looking_again(_request((x, y)), None, eyes.plan_one, eyes.finish)
    (action,) = plan.actions
    assert action.verb is Verb.PICK and action.object is not None
    (box,) = action.object.boxes
    true = ImageBox(x / 0.64, y / 0.48, (x + SIDE_PX) / 0.64, (y + SIDE_PX) / 0.48)
    assert box.iou(true) > 0.5
    assert any("windows" in note for note in plan.notes)


def test_what_no_window_shows_is_asked_about() -> None:
    eyes = SmallEyes()
    plan = plan_looking_again(_request(None), None, eyes.plan_one, eyes.finish)
    assert plan.actions == (ASK,)
    assert eyes.asked == 5, "the picture, and four windows"


def test_what_is_too_large_to_be_missed_is_not_believed() -> None:
    rgb = _request(None).rgb.copy()
    rgb[100:180, 100:180] = [220, 20, 20]
    eyes = SmallEyes(min_px=100)
    plan = plan_looking_again(PlannerRequest(rgb, Instruction("x")), None, eyes.plan_one, eyes.finish)
    assert plan.actions == (ASK,)


def test_what_is_seen_well_costs_no_second_look() -> None:
    eyes = SmallEyes(min_px=5)
    rgb = _request(None).rgb.copy()
    rgb[100:180, 100:180] = [220, 20, 20]
    plan = plan_looking_again(PlannerRequest(rgb, Instruction("x")), None, eyes.plan_one, eyes.finish)
    assert plan.actions[0].verb is Verb.PICK and eyes.asked == 1


def test_a_window_whose_answer_cannot_be_used_decides_nothing() -> None:
    eyes = SmallEyes(min_px=15)

    def plan_one(request: PlannerRequest) -> Plan:
        if eyes.asked:
            raise PlannerError("the reply is neither")
        return eyes.plan_one(request)

    plan = plan_looking_again(_request((100, 100)), None, plan_one, eyes.finish)
    assert plan.actions == (ASK,)


def test_a_label_that_no_sentence_can_hold_stays_a_question() -> None:
    asked = Plan((ASK,), "", (ObjectReference("red \ufffd", ()),))
    eyes = SmallEyes()
    plan = plan_looking_again(_request(None), None, lambda _: asked, eyes.finish)
    assert plan.actions == (ASK,)


def test_two_things_are_looked_for_in_each_window_that_is_cut_once() -> None:
    both = (ObjectReference("red block", ()), ObjectReference("blue bowl", ()))
    pictures: list[bytes] = []

    def plan_one(request: PlannerRequest) -> Plan:
        pictures.append(request.rgb.tobytes())
        return Plan((ASK,), "", both)

    rgb = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    plan_looking_again(PlannerRequest(rgb, Instruction("x")), None, plan_one, SmallEyes().finish)
    assert len(pictures) == 1 + 4 * 2
    changes = sum(a != b for a, b in zip(pictures, pictures[1:], strict=False))
    assert changes == 4, "a model encodes a picture once where it is asked about it twice in a row"


def test_every_point_of_the_picture_lies_well_inside_some_window() -> None:
    windows = windows_for((), None)
    for x in np.linspace(0.02, 0.98, 25):
        for y in np.linspace(0.02, 0.98, 25):
            inside = [
                w
                for w in windows
                if (w.x0 == 0 or x - w.x0 > 0.05)
                and (w.y0 == 0 or y - w.y0 > 0.05)
                and (w.x1 == 1 or w.x1 - x > 0.05)
                and (w.y1 == 1 or w.y1 - y > 0.05)
            ]
            assert inside, (x, y)


@given(st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)), st.floats(0.4, 0.6))
def test_a_box_is_cut_where_its_window_ends_inside_the_picture(at: tuple[float, float], side: float) -> None:
    window = Window(at[0], at[1], at[0] + side, at[1] + side)
    assert not window.cuts(ImageBox(300, 300, 500, 500))
    assert window.cuts(ImageBox(300, 300, 1000, 500))
    assert window.cuts(ImageBox(0, 300, 100, 500)) == (at[0] > 0)
    whole = window.outward(ImageBox(0, 0, 1000, 1000))
    assert (whole.x0, whole.x1) == pytest.approx((1000 * at[0], 1000 * (at[0] + side)))


def _frame(distance_m: float) -> CameraFrame:
    intrinsics = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    eye = np.array([0.52, 0.0, 0.0]) + distance_m * np.array([0.6, 0.0, 0.8])
    return CameraFrame(
        rgb=np.zeros((480, 640, 3), np.uint8),
        depth_m=np.ones((480, 640), np.float32),
        intrinsics=intrinsics,
        T_base_camera=look_at(eye, np.array([0.52, 0.0, 0.0])),
        stamp_ns=1,
    )


def test_a_camera_far_away_sees_the_work_place_in_a_part_of_its_picture() -> None:
    near, far = work_place(_frame(0.9)), work_place(_frame(2.0))
    assert near is not None and far is not None
    assert far.x1 - far.x0 < near.x1 - near.x0 <= 1000
    (window,) = windows_for((), far)
    assert window.x1 - window.x0 < 0.75


def test_a_camera_beside_the_table_sees_no_work_place() -> None:
    frame = _frame(1.0)
    turned = frame.T_base_camera.copy()
    turned[:3, 2] *= -1
    turned[:3, 0] *= -1
    assert work_place(replace(frame, T_base_camera=turned)) is None
