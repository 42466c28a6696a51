"""A camera that the arm contradicts moves nothing: not before a plan, not at the gate, and people are told."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.camera_guard import CHECK_LASTS_S, CameraGuard
from qwen2vl_robot.camera_verdict import CameraVerdict
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    ApprovedMotion,
    CameraFrame,
    Cause,
    Effect,
    Instruction,
    Observation,
    Outcome,
    OutcomeKind,
    Refusal,
    Rehearsed,
    TaskReport,
    freeze,
)
from qwen2vl_robot.nodes.health import Health, Level
from qwen2vl_robot.nodes.reports import task_outcome
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reasons import AbortReason, ObservationReason, RefusalReason
from tests.cells import PROFILE, SCENE, accept, approval_of, reach
from tests.nodes.local_graph import LocalGraph
from tests.scenarios.desk import Cell, Planner, Rehearsal

AROUND = Surroundings.of(PROFILE)
SIDEWAYS = make_pose([0.0, 0.05, 0.0])
CLEAR, FEW = 2, 10  # seeds: much of the arm in view, and nothing of it


@lru_cache(maxsize=4)
def look(seed: int) -> Observation:
    with PlantProcess("scenes/tabletop.yaml", seed) as plant:
        return Observation(plant.link.capture(), plant.link.state())


def ask_gate(seed: int, guard: CameraGuard, off: Array | None = None) -> ApprovedMotion | Refusal:
    """Ask a gate about a motion that was rehearsed in the same frame from the same state."""
    seen = look(seed)
    frame = replace(seen.frame, T_base_camera=(np.eye(4) if off is None else off) @ seen.frame.T_base_camera)
    robot = replace(seen.robot, dq_radps=freeze(np.zeros(7)))
    motion = reach(robot.q_rad, [0.01] * 7, 0.2)
    step = Rehearsed(motion, accept(motion, robot), SCENE, robot, robot.stamp_ns, frame)
    gate = Gate(PROFILE, (), guard=guard)
    return gate.admit(step, robot, frame, approval_of(step), Halt(), robot.stamp_ns)


def test_the_gate_admits_by_a_camera_that_the_arm_confirms() -> None:
    assert isinstance(ask_gate(CLEAR, CameraGuard(AROUND, is_required=True)), ApprovedMotion)


def test_the_gate_refuses_a_camera_that_the_arm_contradicts_with_size_and_direction() -> None:
    answer = ask_gate(CLEAR, CameraGuard(AROUND), SIDEWAYS)
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.CAMERA_OFF
    assert dict(answer.numbers)["y_m"] == pytest.approx(0.05, abs=0.008)
    assert "mm along y" in answer.text and "calibrate the camera" in answer.text


def test_an_unchecked_camera_passes_the_gate_unless_a_check_is_required() -> None:
    assert isinstance(ask_gate(FEW, CameraGuard(AROUND)), ApprovedMotion)
    answer = ask_gate(FEW, CameraGuard(AROUND, is_required=True))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.CAMERA_UNCHECKED


def test_a_look_that_cannot_be_measured_is_refused_at_the_gate() -> None:
    seen = look(CLEAR)
    robot = replace(seen.robot, dq_radps=freeze(np.zeros(7)))
    motion = reach(robot.q_rad, [0.01] * 7, 0.2)
    depth_m = np.full_like(seen.frame.depth_m, 0.4)  # a wall right before the camera
    frame = replace(seen.frame, depth_m=depth_m)
    step = Rehearsed(motion, accept(motion, robot), SCENE, robot, robot.stamp_ns, frame)
    gate = Gate(PROFILE, (), guard=CameraGuard(AROUND))
    answer = gate.admit(step, robot, frame, approval_of(step), Halt(), robot.stamp_ns)
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.NO_FRAME


class MovedCell(Cell):
    """A cell whose camera is not where it says, or gives no depth of the arm, as of black things."""

    off: Array = np.eye(4)
    arm_is_black: bool = False
    arm_is_gone: bool = False

    def see(self) -> CameraFrame:
        frame = super().see()
        k, T = frame.intrinsics, frame.T_base_camera
        v, u = np.mgrid[0 : k.height_px, 0 : k.width_px]
        rays = np.stack([(u - k.cx_px) / k.fx_px, (v - k.cy_px) / k.fy_px, np.ones(u.shape)], axis=-1)
        table_m = (-T[2, 3] / (rays @ T[2, :3])).astype(np.float32)
        if self.arm_is_black:
            frame = replace(frame, depth_m=np.where(frame.depth_m < table_m - 0.01, np.float32(np.nan), frame.depth_m))
        if self.arm_is_gone:
            frame = replace(frame, depth_m=table_m)
        return replace(frame, T_base_camera=self.off @ T)


def go_home(cell: MovedCell, **guard: Any) -> tuple[TaskReport, Planner]:
    planner = Planner(cell)
    ports = Ports(cell, cell, cell, planner, Rehearsal(cell), guard=CameraGuard(AROUND, **guard))
    return assemble(AROUND, ports).run(Instruction("go home")), planner


def test_a_camera_off_sideways_is_refused_before_anything_is_planned() -> None:
    cell = MovedCell()
    cell.off = SIDEWAYS
    report, planner = go_home(cell)
    assert report.outcome.kind is OutcomeKind.REFUSED
    assert report.outcome.reason is ObservationReason.CAMERA_OFF
    assert planner.asked == 0
    assert cell.motion is None


def test_an_arm_that_is_not_where_it_should_show_is_no_unchecked_camera() -> None:
    cell = MovedCell()
    cell.arm_is_gone = True
    report, _ = go_home(cell)
    assert report.outcome.reason is ObservationReason.CAMERA_OFF
    assert "not where it should show" in report.outcome.causes[0].text


def test_a_camera_that_the_arm_confirms_is_reported_as_checked() -> None:
    report, _ = go_home(MovedCell())
    assert report.outcome.kind is OutcomeKind.ACHIEVED
    assert task_outcome(report).cameras[0].text.startswith("camera checked: off by")


def test_an_unchecked_camera_is_reported_and_motion_goes_on_unless_a_check_is_required() -> None:
    cell = MovedCell()
    cell.arm_is_black = True
    report, _ = go_home(cell)
    assert task_outcome(report).cameras[0].text.startswith("camera unchecked: the arm shows in")
    assert cell.motion is not None
    held = MovedCell()
    held.arm_is_black = True
    report, planner = go_home(held, is_required=True)
    assert report.outcome.reason is ObservationReason.CAMERA_UNCHECKED
    assert planner.asked == 0 and held.motion is None


def test_diagnostics_say_what_the_arm_says_of_the_camera() -> None:
    health = Health(LocalGraph(), hardware_id="", facts=dict)
    guard = CameraGuard(AROUND, on_seen=health.on_camera)
    guard.look(look(FEW))
    assert health.problems()["camera check"].level is Level.WARN
    assert health.problems()["camera check"].text.startswith("camera unchecked")
    off = replace(look(CLEAR).frame, T_base_camera=SIDEWAYS @ look(CLEAR).frame.T_base_camera)
    guard.look(replace(look(CLEAR), frame=off))
    assert health.problems()["camera check"].level is Level.ERROR
    guard.look(look(CLEAR))
    assert "camera check" not in health.problems()


# ------------------------------------------------------------------------------------------- several cameras


def two(second: Array | None = None, seed: int = CLEAR) -> Observation:
    """What a camera sees, and a second one at its place whose published pose is off."""
    seen = look(seed)
    other = replace(seen.frame, T_base_camera=(np.eye(4) if second is None else second) @ seen.frame.T_base_camera)
    return replace(seen, frame=replace(seen.frame, others=(other,)))


def test_every_camera_is_checked_by_its_name() -> None:
    said = CameraGuard(AROUND, names=("front", "side")).look(two())
    assert said.against is None
    assert [(c.name, c.verdict) for c in said.cameras] == [(n, CameraVerdict.PASSES) for n in ("front", "side")]
    assert "front: camera checked" in said.text and "side: camera checked" in said.text


@pytest.mark.parametrize("off_m", [0.016, 0.05])
def test_a_wrong_further_camera_is_refused_and_named(off_m: float) -> None:
    said = CameraGuard(AROUND, names=("front", "side")).look(two(make_pose([0.0, off_m, 0.0])))
    assert said.against is ObservationReason.CAMERA_OFF
    assert said.text.startswith("side: the camera is off by")
    assert dict(said.numbers)["y_m"] == pytest.approx(off_m, abs=0.008)
    assert [c.verdict for c in said.cameras] == [CameraVerdict.PASSES, CameraVerdict.REFUSES]


def test_a_wrong_further_camera_holds_motion_and_people_are_told() -> None:
    health = Health(LocalGraph(), hardware_id="", facts=dict)
    guard = CameraGuard(AROUND, on_seen=health.on_camera)
    seen = two(SIDEWAYS)
    robot = replace(seen.robot, dq_radps=freeze(np.zeros(7)))
    motion = reach(robot.q_rad, [0.01] * 7, 0.2)
    step = Rehearsed(motion, accept(motion, robot), SCENE, robot, robot.stamp_ns, seen.frame)
    answer = Gate(PROFILE, (), guard=guard).admit(step, robot, seen.frame, approval_of(step), Halt(), robot.stamp_ns)
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.CAMERA_OFF
    assert answer.text.startswith("camera 2: ")
    assert set(health.problems()) == {"camera check camera 2"}
    guard.look(two())
    assert not health.problems()


def test_a_further_camera_that_sees_nothing_of_the_arm_holds_motion_only_where_a_check_is_required() -> None:
    seen = look(CLEAR)
    bare = replace(seen.frame, depth_m=np.full_like(seen.frame.depth_m, np.nan))
    both = replace(seen, frame=replace(seen.frame, others=(bare,)))
    assert CameraGuard(AROUND).look(both).against is None
    said = CameraGuard(AROUND, is_required=True).look(both)
    assert said.against is ObservationReason.CAMERA_UNCHECKED
    assert "camera 2: camera unchecked" in said.text


# ------------------------------------------------------------------------------------------- a check that lasts


def desk(after_s: float, *, is_black: bool, off: Array | None = None) -> Observation:
    """What the desk's camera sees after some time, with an arm that shows or one that gives no depth."""
    cell = MovedCell()
    cell.sleep(after_s)
    cell.arm_is_black, cell.off = is_black, np.eye(4) if off is None else off
    return Observation(cell.see(), cell.state())


@pytest.mark.parametrize(
    ("after_s", "off", "against"),
    [
        (30.0, None, None),
        (CHECK_LASTS_S + 1.0, None, ObservationReason.CAMERA_UNCHECKED),
        (-30.0, None, ObservationReason.CAMERA_UNCHECKED),
        (30.0, make_pose([0.0, 0.001, 0.0]), ObservationReason.CAMERA_UNCHECKED),
    ],
    ids=["soon", "late", "before", "moved"],
)
def test_a_check_counts_for_a_while_at_one_pose(
    after_s: float, off: Array | None, against: ObservationReason | None
) -> None:
    guard = CameraGuard(AROUND, is_required=True)
    assert guard.look(desk(0.0, is_black=True)).against is ObservationReason.CAMERA_UNCHECKED
    assert guard.look(desk(0.0, is_black=False)).against is None
    said = guard.look(desk(after_s, is_black=True, off=off))
    assert said.against is against
    assert said.cameras[0].verdict is CameraVerdict.UNKNOWN, "what is remembered is not what is seen"


def test_a_camera_that_was_wrong_since_is_not_remembered_as_right() -> None:
    guard = CameraGuard(AROUND, is_required=True)
    assert guard.look(desk(0.0, is_black=False)).against is None
    assert guard.look(desk(1.0, is_black=False, off=SIDEWAYS)).against is ObservationReason.CAMERA_OFF
    assert guard.look(desk(2.0, is_black=True)).against is ObservationReason.CAMERA_UNCHECKED


def test_only_a_motion_that_shows_the_arm_passes_the_gate_unchecked_where_a_check_is_required() -> None:
    seen = look(FEW)
    robot = replace(seen.robot, dq_radps=freeze(np.zeros(7)))
    for kind, passes in (("show", True), ("none", False)):
        motion = replace(reach(robot.q_rad, [0.01] * 7, 0.2), effect=Effect(kind))
        step = Rehearsed(motion, accept(motion, robot), SCENE, robot, robot.stamp_ns, seen.frame)
        gate = Gate(PROFILE, (), guard=CameraGuard(AROUND, is_required=True))
        answer = gate.admit(step, robot, seen.frame, approval_of(step), Halt(), robot.stamp_ns)
        assert isinstance(answer, ApprovedMotion) is passes


def test_showing_the_arm_is_no_way_past_a_camera_that_is_off() -> None:
    seen = look(CLEAR)
    frame = replace(seen.frame, T_base_camera=SIDEWAYS @ seen.frame.T_base_camera)
    robot = replace(seen.robot, dq_radps=freeze(np.zeros(7)))
    motion = replace(reach(robot.q_rad, [0.01] * 7, 0.2), effect=Effect("show"))
    step = Rehearsed(motion, accept(motion, robot), SCENE, robot, robot.stamp_ns, frame)
    gate = Gate(PROFILE, (), guard=CameraGuard(AROUND))
    answer = gate.admit(step, robot, frame, approval_of(step), Halt(), robot.stamp_ns)
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.CAMERA_OFF


def test_an_intruder_that_was_the_arm_itself_is_the_cameras_fault() -> None:
    seen = look(CLEAR)
    off = replace(seen, frame=replace(seen.frame, T_base_camera=SIDEWAYS @ seen.frame.T_base_camera))
    came = Outcome(OutcomeKind.ABORTED, (Cause(AbortReason.INTRUSION, "something came into the arm's way"),))
    guard = CameraGuard(AROUND, is_required=True)
    guard.look(off)
    assert [c.reason for c in guard.explained(came, None).causes] == [
        ObservationReason.CAMERA_OFF,
        AbortReason.INTRUSION,
    ]
    for fine in (seen, desk(0.0, is_black=True)):  # a hand stays a hand, whether or not the camera is checked
        guard.look(fine)
        assert guard.explained(came, None) == came
