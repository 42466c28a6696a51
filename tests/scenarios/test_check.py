"""A check of the camera by the arm: plant, twin and gate are real; what it must refuse moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from qwen2vl_robot.approval import PromptingApprover
from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.benchmarks.live_check import Moved
from qwen2vl_robot.camera_guard import CameraGuard
from qwen2vl_robot.camera_verdict import CameraVerdict
from qwen2vl_robot.controller import Controller
from qwen2vl_robot.geometry import make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import Instruction, OutcomeKind, RobotState, TaskReport
from qwen2vl_robot.motion import show
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.checking import CHECK
from qwen2vl_robot.planner.scripted import ScriptedPlanner
from qwen2vl_robot.plant.client import PlantProcess
from qwen2vl_robot.reasons import AbortReason, MotionReason, ObservationReason, RefusalReason, TaskReason
from qwen2vl_robot.validation.pool import RehearsalProcess
from tests.quick import quick_scene
from tests.scenarios.stage import QUICK as PROFILE

AROUND = Surroundings.of(PROFILE)
HIDDEN, CLEAR = 10, 2  # seeds: nothing of the arm in view at home, and much of it
HOME = '{"objects":[],"actions":[{"do":"home"}]}'


@pytest.fixture(scope="module")
def twin() -> Iterator[RehearsalProcess]:
    with RehearsalProcess(PROFILE, budget_s=120.0, workers=1) as rehearsal:
        rehearsal.start()
        yield rehearsal


class Cell(Moved):
    """A plant whose camera is off along y; a stop comes after so many looks at an arm that moves."""

    def __init__(self, plant: PlantProcess, off_m: float, stop_after: int | None = None) -> None:
        super().__init__(plant, make_pose([0.0, off_m, 0.0]))
        self.halt, self._left = Halt(), stop_after

    def state(self) -> RobotState:
        if self._left is not None and self.motions:
            self._left -= 1
            if self._left == 0:
                self.halt.stop("a person stopped it")
        return self._link.state()

    def controller(self, twin: RehearsalProcess, *, says: bool = True, replies: tuple[str, ...] = ()) -> Controller:
        approver = PromptingApprover(self.halt, lambda _: says)
        guard = CameraGuard(AROUND, is_required=True)
        ports = Ports(self, self, self, ScriptedPlanner(*replies), twin, approver, guard=guard)
        return assemble(AROUND, ports, halt=self.halt)


def moved_rad(cell: Cell, before: RobotState) -> float:
    return float(np.abs(cell.state().q_rad - before.q_rad).max())


class Checked(NamedTuple):
    """What a cell that wants its camera checked did: it held a task back, and was checked."""

    cell: Cell
    controller: Controller
    held: TaskReport
    held_motions: int
    report: TaskReport


@pytest.fixture(scope="module")
def checked(twin: RehearsalProcess) -> Iterator[Checked]:
    with PlantProcess(quick_scene(), HIDDEN) as plant:
        cell = Cell(plant, 0.0)
        controller = cell.controller(twin, replies=(HOME,))
        held = controller.run(Instruction("go home"))
        yield Checked(cell, controller, held, cell.motions, controller.run(CHECK))


def test_a_right_camera_passes_and_the_arm_comes_home(checked: Checked) -> None:
    assert checked.report.outcome.kind is OutcomeKind.ACHIEVED, checked.report.outcome
    assert [step.action.verb.value for step in checked.report.steps] == ["show", "home"]
    (camera,) = checked.report.cameras
    assert camera.verdict is CameraVerdict.PASSES
    assert camera.shown_px > 2000
    assert camera.size_m == pytest.approx(0.0, abs=0.003)
    assert np.abs(checked.cell.state().q_rad - np.array(PROFILE.home_q_rad)).max() < 0.02


def test_a_check_lets_tasks_go_that_need_one(checked: Checked) -> None:
    assert checked.held.outcome.reason is ObservationReason.CAMERA_UNCHECKED
    assert checked.held_motions == 0
    assert checked.cell.motions == 2
    done = checked.controller.run(Instruction("go home"))
    assert done.outcome.kind is OutcomeKind.ACHIEVED, done.outcome
    assert checked.cell.motions == 3


def test_a_wrong_camera_is_refused_with_size_and_direction(twin: RehearsalProcess) -> None:
    with PlantProcess(quick_scene(), HIDDEN) as plant:
        cell = Cell(plant, 0.02)
        report = cell.controller(twin).run(CHECK)
        assert report.outcome.kind is not OutcomeKind.ACHIEVED
        assert ObservationReason.CAMERA_OFF in {cause.reason for cause in report.outcome.causes}
        (camera,) = report.cameras
        assert camera.verdict is CameraVerdict.REFUSES
        assert camera.off_m == pytest.approx((0.0, 0.02, 0.0), abs=0.004)
        assert "+20 mm along y" in camera.text or "+19 mm along y" in camera.text or "+21 mm along y" in camera.text
        assert cell.motions == 1, "nothing moves by a camera that is known to be wrong"


def test_a_person_who_says_no_keeps_the_arm_where_it_is(twin: RehearsalProcess) -> None:
    with PlantProcess(quick_scene(), HIDDEN) as plant:
        cell = Cell(plant, 0.0)
        before = cell.state()
        report = cell.controller(twin, says=False).run(CHECK)
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert report.outcome.reason is RefusalReason.NOT_CONFIRMED
        assert "look whether the arm's way is free" in report.outcome.reasons[0]
        assert report.cameras[0].verdict is CameraVerdict.UNKNOWN
        assert cell.motions == 0
        assert moved_rad(cell, before) < 0.01


def test_a_stop_in_the_middle_leaves_nothing_known(twin: RehearsalProcess) -> None:
    with PlantProcess(quick_scene(), HIDDEN) as plant:
        cell = Cell(plant, 0.0, stop_after=20)
        report = cell.controller(twin).run(CHECK)
        assert report.outcome.kind is OutcomeKind.ABORTED
        assert report.outcome.reason is AbortReason.STOPPED
        assert report.cameras[0].verdict is CameraVerdict.UNKNOWN
        assert cell.motions == 1
        plant.link.sleep(0.5)  # it brakes
        stopped = cell.state()
        plant.link.sleep(1.0)
        assert moved_rad(cell, stopped) < 0.01
        again = cell.controller(twin).run(CHECK)
        assert again.outcome.reason is RefusalReason.STOPPED
        assert cell.motions == 1


def test_where_no_pose_is_in_view_it_says_so(twin: RehearsalProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "_LEAST_PX", 640 * 480)  # no arm fills the picture
    with PlantProcess(quick_scene(), HIDDEN) as plant:
        cell = Cell(plant, 0.0)
        report = cell.controller(twin).run(CHECK)
        assert report.outcome.kind is OutcomeKind.REFUSED
        assert report.outcome.reason is MotionReason.NOT_IN_VIEW
        assert "px of the arm" in report.outcome.reasons[0]
        assert len(report.steps) == 1, "another plan would not help"
        assert cell.motions == 0


def test_where_the_arm_is_in_view_nothing_moves(twin: RehearsalProcess) -> None:
    with PlantProcess(quick_scene(), CLEAR) as plant:
        cell = Cell(plant, 0.0)
        report = cell.controller(twin).run(CHECK)
        assert report.outcome.kind is OutcomeKind.ACHIEVED
        assert report.outcome.reason is TaskReason.ALREADY
        assert report.cameras[0].verdict is CameraVerdict.PASSES
        assert cell.motions == 0
