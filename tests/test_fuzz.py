"""Malformed input breaks nothing and is never let through: a short stretch of the stream of `make fuzz`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import CameraFrame, Intrinsics, Refusal, freeze
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.validation.change import difference
from tests import fuzz
from tests.cells import PROFILE, approval_of, look, rehearsed


def test_no_malformed_input_breaks_or_passes_anything() -> None:
    assert fuzz.run(1500, seed=1) == Counter()


@given(st.text(max_size=300))
def test_any_text_is_a_plan_or_a_planner_error(text: str) -> None:
    told = ""
    try:
        assert parse_reply(text).actions
    except PlannerError as error:
        told = str(error)
    assert "\n" not in told


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**70), 2**70))


@given(stamp=st.integers(-(2**62), 2**62), width=numbers, began_ns=st.integers(-(2**62), 2**62))
def test_no_state_of_any_numbers_makes_the_gate_raise_or_approve(stamp: int, width: float, began_ns: int) -> None:
    start = fuzz.REST
    live = fuzz.replace(start, stamp_ns=stamp, gripper_width_m=np.nan if width is None else width)
    step = replace(rehearsed(fuzz.MOTION, start, began_ns), seen=look(0))
    answer = Gate(PROFILE, ()).admit(step, live, look(0), approval_of(step), Halt(), fuzz.NOW_NS)
    assert isinstance(answer, Refusal)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_frames_of_any_size_and_depth_can_be_compared(h: int, w: int, depth: float) -> None:
    k = Intrinsics(w, h, 10.0, 10.0, 1.0, 1.0)
    rgb = np.zeros((h, w, 3), dtype=np.uint8)
    frame = CameraFrame(0, rgb, np.full((h, w), depth, dtype=np.float32), k, freeze(np.eye(4)))
    told = difference(frame, frame, np.array([[-9.0] * 3, [9.0] * 3]))
    assert (told is None) == bool(np.isfinite(depth))
