"""A rendered frame with one thing wrong with its camera → that cause, with its number; right cameras → no alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pytest

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import make_pose, read_only, rotation_from_rotvec
from qwen2vl_robot.messages import (
    Action,
    CameraFrame,
    Cause,
    ImageBox,
    ObjectReference,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Verb,
)
from qwen2vl_robot.nodes.health import Health, Level
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reasons import MotionReason, ObservationReason, PerceptionReason
from tests.cells import PROFILE
from tests.nodes.local_graph import LocalGraph
from tests.test_perception import HOME
from tests.test_perception import look as render

AROUND = Surroundings.of(PROFILE)
SEED = 3  # the arm shows, and so do five things
LATER_NS = 300_000_000
Change = Callable[[CameraFrame], CameraFrame]


@lru_cache(maxsize=8)
def looks(model: str = "ideal", seed: int = SEED) -> tuple[Observation, Observation, ImageBox]:
    """Two looks at one still scene, and where its red block shows."""
    with PlantProcess("scenes/default.yaml", seed, camera=model) as plant:
        one = Observation(plant.link.capture(), plant.link.state())
        plant.link.sleep(LATER_NS / 1e9)
        return one, Observation(plant.link.capture(), plant.link.state()), plant.truth.boxes()["red block"].box


def changed(change: Change, model: str = "ideal") -> Observation:
    seen = looks(model)[0]
    return replace(seen, frame=change(seen.frame))


def with_depth(change: Callable[[Any], Any]) -> Change:
    return lambda frame: replace(frame, depth_m=change(np.array(frame.depth_m)).astype(np.float32))


def moved(x_px: float, y_px: float) -> Change:
    matrix = np.array([[1.0, 0.0, x_px], [0.0, 1.0, y_px]])
    nothing = float("nan")
    return with_depth(lambda d: cv2.warpAffine(d, matrix, d.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=nothing))


def half_blind(depth_m: Any) -> Any:
    depth_m[:, : int(0.65 * depth_m.shape[1])] = np.nan
    return depth_m


def noisy(depth_m: Any) -> Any:
    return depth_m + np.random.default_rng(0).normal(0.0, 0.025, depth_m.shape)


def tilted(frame: CameraFrame) -> CameraFrame:
    turn = make_pose([0.0, 0.0, 0.0], rotation_from_rotvec(np.deg2rad([4.0, 0.0, 0.0])))
    return replace(frame, T_base_camera=read_only(frame.T_base_camera @ turn))


def focal(ratio: float) -> Change:
    def change(frame: CameraFrame) -> CameraFrame:
        k = frame.intrinsics
        return replace(frame, intrinsics=replace(k, fx_px=k.fx_px * ratio, fy_px=k.fy_px * ratio))

    return change


def halved(frame: CameraFrame) -> CameraFrame:
    return replace(frame, intrinsics=replace(frame.intrinsics, width_px=320, height_px=240))


def reddened(ratio: float) -> Change:
    def change(frame: CameraFrame) -> CameraFrame:
        return replace(frame, rgb=np.clip(frame.rgb * np.array([ratio, 1.0, 1.0]), 0, 255).astype(np.uint8))

    return change


def number(observation: Observation, name: str) -> float:
    said = CameraGuard(AROUND).look(observation)
    return dict(said.numbers)[name]


@pytest.mark.parametrize("model", ["ideal", "d435", "structured_light"])
@pytest.mark.parametrize("seed", [3, 6, 17])
def test_a_right_camera_raises_no_alarm_and_none_of_its_numbers_is_unusual(model: str, seed: int) -> None:
    first, second, _ = looks(model, seed)
    healths: list[Any] = []
    guard = CameraGuard(AROUND, on_health=healths.append)
    for look in (first, second):
        assert guard.look(look).against is None
        shifts = [m for m in healths[-1].unusual if m.name != "shift_px"]  # up to 2 px are usual in a D435's model
        assert not shifts, [m.text for m in shifts]
        assert healths[-1].ill is None


@pytest.mark.parametrize(
    ("change", "reason", "name", "value"),
    [
        (
            with_depth(lambda d: d * 1000.0),
            ObservationReason.CAMERA_UNITS,
            "scale_ratio",
            pytest.approx(1000.0, rel=0.02),
        ),
        (
            with_depth(lambda d: d / 1000.0),
            ObservationReason.CAMERA_UNITS,
            "scale_ratio",
            pytest.approx(1000.0, rel=0.02),
        ),
        (with_depth(half_blind), ObservationReason.CAMERA_BLIND, "missing_ratio", pytest.approx(0.65, abs=0.15)),
        (focal(1.1), ObservationReason.CAMERA_INFO, "focal_ratio", pytest.approx(0.1, abs=0.02)),
        (focal(0.9), ObservationReason.CAMERA_INFO, "focal_ratio", pytest.approx(0.11, abs=0.03)),
        (halved, ObservationReason.CAMERA_INFO, "sizes", 2.0),
        (tilted, ObservationReason.CAMERA_TILTED, "tilt_deg", pytest.approx(4.0, abs=0.5)),
        (moved(6.0, -3.0), ObservationReason.CAMERA_MISREGISTERED, "shift_px", pytest.approx(6.7, abs=0.5)),
        (with_depth(noisy), ObservationReason.CAMERA_NOISY, "noise_m", pytest.approx(0.02, abs=0.01)),
        (reddened(0.65), ObservationReason.CAMERA_COLOURS, "cast_ratio", pytest.approx(1.54, abs=0.1)),
    ],
    ids=["mm", "m", "blind", "long", "short", "size", "tilt", "shift", "noise", "red"],
)
def test_an_ill_camera_is_refused_by_its_cause_with_its_number(
    change: Change, reason: ObservationReason, name: str, value: Any
) -> None:
    observation = changed(change)
    with pytest.raises(ObservationError) as refused:
        CameraGuard(AROUND).confirm(observation)
    assert refused.value.reason is reason, refused.value
    assert number(observation, name) == value


def test_a_camera_that_repeats_a_frame_is_stuck_once_it_has_shown_noise() -> None:
    first, second, _ = looks()
    guard = CameraGuard(AROUND)
    again = replace(second, frame=replace(second.frame, stamp_ns=second.frame.stamp_ns + LATER_NS))
    assert [guard.look(o).against for o in (first, second)] == [None, None]
    assert guard.look(again).against is ObservationReason.CAMERA_STUCK


def test_a_frame_that_comes_again_while_nothing_moved_is_not_called_fine_without_noise() -> None:
    first, _, _ = looks()
    healths: list[Any] = []
    guard = CameraGuard(AROUND, on_health=healths.append)
    guard.look(first)
    guard.look(replace(first, frame=replace(first.frame, stamp_ns=first.frame.stamp_ns + LATER_NS)))
    assert "repeats" in {m.name for m in healths[-1].unmeasured}


def test_a_few_pixels_that_change_while_an_arm_settles_are_no_noise() -> None:
    first, _, _ = looks()
    rgb, depth_m = np.array(first.frame.rgb), np.array(first.frame.depth_m)
    rgb[200:240, 300:340] = 90
    frames = [
        replace(
            first.frame, rgb=rgb, depth_m=depth_m + np.float32(1e-4 * n), stamp_ns=first.frame.stamp_ns + n * LATER_NS
        )
        for n in (1, 2, 3)
    ]
    guard = CameraGuard(AROUND)
    assert guard.look(first).against is None
    assert [guard.look(replace(first, frame=frame)).against for frame in frames] == [None] * 3


def test_a_frame_that_comes_again_though_the_arm_has_left_is_stuck() -> None:
    over_table = HOME.copy()
    over_table[[1, 3, 5]] = 0.1, -2.0, 2.1
    with BulletWorld() as world:
        world.add_table()
        world.add_robot(PROFILE)
        world.robot.reset_arm(over_table, 0.08)
        first = render(world, 1).observation
    guard = CameraGuard(AROUND)
    guard.look(first)
    robot = replace(first.robot, q_rad=first.robot.q_rad + 0.4 * np.eye(7)[0])
    frame = replace(first.frame, stamp_ns=first.frame.stamp_ns + LATER_NS)
    assert guard.look(Observation(frame, robot)).against is ObservationReason.CAMERA_STUCK


def test_a_picture_without_edges_does_not_call_its_registration_fine() -> None:
    grey = changed(lambda frame: replace(frame, rgb=np.full_like(frame.rgb, 150)))
    healths: list[Any] = []
    CameraGuard(AROUND, on_health=healths.append).look(grey)
    assert "shift_px" in {m.name for m in healths[0].unmeasured}


def test_a_hand_before_the_camera_is_no_wrong_unit() -> None:
    near = changed(with_depth(lambda d: np.full_like(d, 0.35)))
    assert CameraGuard(AROUND).look(near).against is not ObservationReason.CAMERA_UNITS


def refused_with(reason: Any) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, (Cause(reason, "something else"),))


@pytest.mark.parametrize("reason", [MotionReason.NO_PATH, PerceptionReason.LABEL_MISMATCH, PerceptionReason.NOT_FOUND])
def test_what_a_camera_is_bad_enough_to_explain_is_named_first_with_its_number(reason: Any) -> None:
    guard = CameraGuard(AROUND)
    assert guard.look(changed(moved(2.0, 2.0))).against is None
    outcome = guard.explained(refused_with(reason), None)
    assert [cause.reason for cause in outcome.causes] == [ObservationReason.CAMERA_MISREGISTERED, reason]
    assert dict(outcome.causes[0].numbers)["shift_px"] == pytest.approx(2.8, abs=0.4)
    assert outcome.kind is OutcomeKind.REFUSED


def test_a_thing_without_depth_is_why_it_is_not_found() -> None:
    _, _, box = looks()
    plan = Plan((Action(Verb.PICK, ObjectReference("red block", (box,))),), "")

    def clear(depth_m: Any) -> Any:
        rows, columns = (round(v * 0.48) for v in (box.y0, box.y1)), (round(v * 0.64) for v in (box.x0, box.x1))
        depth_m[slice(*rows), slice(*columns)] = np.nan
        return depth_m

    guard = CameraGuard(AROUND)
    assert guard.look(changed(with_depth(clear))).against is None
    outcome = guard.explained(refused_with(PerceptionReason.NOT_FOUND), plan)
    assert outcome.causes[0].reason is ObservationReason.CAMERA_BLIND
    assert "red block" in outcome.causes[0].text


def test_a_sound_camera_is_blamed_for_nothing_and_an_unsound_one_not_for_what_it_cannot_explain() -> None:
    guard = CameraGuard(AROUND)
    guard.look(looks()[0])
    no_path = refused_with(MotionReason.NO_PATH)
    assert guard.explained(no_path, None) == no_path
    guard.look(changed(reddened(0.79)))
    assert guard.explained(no_path, None) == no_path
    far = refused_with(MotionReason.OUT_OF_REACH)
    assert guard.explained(far, None) == far


def test_diagnostics_name_the_cause_and_hold_every_number() -> None:
    graph = LocalGraph()
    health = Health(graph, hardware_id="", facts=dict)
    guard = CameraGuard(AROUND, on_health=health.on_camera_health)
    guard.look(changed(tilted))
    problem = health.problems()["camera health"]
    assert problem.level is Level.ERROR and "deg tilted" in problem.text
    first, second, _ = looks()
    for look in (first, second):
        guard.look(look)
    assert "camera health" not in health.problems()
    status = next(s for s in health._report().status if s.name.endswith("camera health"))
    assert {"missing_ratio", "shift_px", "tilt_deg", "cast_ratio"} <= {pair.key for pair in status.values}
