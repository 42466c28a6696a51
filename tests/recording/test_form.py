"""What JSON holds of a message has every bit of its numbers, and a frame comes back from a bag as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.messages import CameraFrame, RobotState, digest, freeze
from qwen2vl_robot.recording.differences import compare
from qwen2vl_robot.recording.form import StateForm, to_json
from qwen2vl_robot.recording.recorder import Recorder
from qwen2vl_robot.recording.tape import Tape
from qwen2vl_robot.recording.taps import Call
from tests.cells import look
from tests.recording.tables import AROUND, NO_MODEL, PROFILE, setup_of

ANY = st.floats().map(lambda number: math.nan if math.isnan(number) else number)  # all NaNs are one: "no number"


@given(st.lists(ANY, min_size=7, max_size=7), ANY, st.integers(-(2**62), 2**62))
def test_a_state_comes_back_bit_by_bit(q_rad: list[float], width_m: float, stamp_ns: int) -> None:
    state = RobotState(stamp_ns, np.array(q_rad), freeze(np.zeros(7)), width_m, "cup")
    back = StateForm.model_validate(json.loads(json.dumps(to_json(state), allow_nan=False))).message()
    assert digest(back) == digest(state)
    assert back.stamp_ns == stamp_ns


def test_a_frame_with_further_cameras_and_a_clip_comes_back_bit_by_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise(stamp_ns: int) -> CameraFrame:
        depth_m = rng.random((48, 60), dtype=np.float32)
        depth_m[rng.random((48, 60)) < 0.1] = np.nan
        return replace(look(stamp_ns), rgb=rng.integers(0, 255, (48, 60, 3), dtype=np.uint8), depth_m=depth_m)

    clip = tuple(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8) for _ in range(3))
    seen = [replace(noise(n), others=(noise(n + 1), noise(n + 2)), clip=clip) for n in (10, 20)]
    recorder = Recorder(tmp_path / "bag.mcap")
    recorder(setup_of(AROUND, PROFILE.name, NO_MODEL, seed=0).call())
    for frame in seen:
        recorder(Call("camera.capture", frame))
    recorder(Call("camera.newest", None))
    recorder.close()
    tape = Tape(tmp_path / "bag.mcap")
    for frame in seen:
        back = tape.frame("camera.capture")
        assert back is not None
        assert digest(back) == digest(frame)
        assert not back.rgb.flags.writeable
    assert tape.frame("camera.newest") is None


def test_what_no_message_holds_is_not_recorded() -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        to_json(object())


def test_the_last_bit_of_a_number_is_a_difference_and_the_number_of_a_call_is_none() -> None:
    one, other = {"n": 1, "call": "step", "x": [0.1]}, {"n": 9, "call": "step", "x": [np.nextafter(0.1, 1.0)]}
    assert compare([one], [{**one, "n": 9}]) == []
    assert len(compare([one], [other])) == 1
    assert compare([one], []) == ["decision 1: recorded only: step"]
