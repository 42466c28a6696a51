"""While the arm moves: what comes into its way stops it and is named, all else does not, and a blind watch stops it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qwen2vl_robot import executor
from qwen2vl_robot.benchmarks.hazards.stage import Stage, blend
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.lookout import MOST_BLIND_S, Lookout
from qwen2vl_robot.messages import Box, CameraFrame, Effect, Motion, Rehearsed, Scene, SceneObject, freeze
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.plant.visited import Visit, VisitedProcess
from qwen2vl_robot.ports import Camera
from qwen2vl_robot.reasons import AbortReason
from tests.cells import PROFILE, SCENE, accept, admit

AROUND = Surroundings.of(PROFILE)
SEED = 6
GOAL_M = np.array([0.48, 0.15, 0.28])  # where the hand goes, over the table and all that stands on it
SIZE_M = (0.05, 0.05, 0.05)
COMES = Visit(SIZE_M, GOAL_M + np.array([0.28, 0.05, 0.0]), np.array([-0.2, 0.0, 0.0]), 0.8, 2.4)
FAR = Visit(SIZE_M, np.array([0.72, -0.1, 0.1]), np.array([0.0, -0.1, 0.0]), 0.3)


def over(start_q_rad: Array, p_m: Array = GOAL_M, seconds: float = 2.5) -> Motion:
    """Bring the hand to a point."""
    q_rad = Stage(PROFILE, AROUND.kinematics).solve(p_m)
    return Motion(PROFILE.name, (blend(start_q_rad, q_rad, seconds),), Effect("none"))


@dataclass
class Cell:
    """A plant, and what is rehearsed in it."""

    plant: VisitedProcess
    scene: Scene = SCENE
    camera: Camera | None = None

    def go(self, p_m: Array = GOAL_M) -> tuple[executor.ExecutionReport, Lookout]:
        link = self.plant.link
        motion = over(link.state().q_rad, p_m)
        lookout = Lookout(self.camera or link, AROUND, self.rehearsed(motion))
        assert not lookout.problem
        return executor.run(admit(motion, link, link), link, link, PROFILE, Halt(), lookout=lookout), lookout

    def rehearsed(self, motion: Motion) -> Rehearsed:
        link = self.plant.link
        start = replace(link.state(), held=self.scene.held)
        return Rehearsed(motion, accept(motion, start, self.scene), self.scene, start, link.now_ns(), link.capture())


@pytest.fixture(params=["ideal", "d435", "structured_light"])
def any_cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    with VisitedProcess("scenes/tabletop.yaml", SEED, camera=request.param) as plant:
        yield Cell(plant)


@pytest.fixture
def cell() -> Iterator[Cell]:
    with VisitedProcess("scenes/tabletop.yaml", SEED) as plant:
        yield Cell(plant)


def visitor(visit: Visit) -> SceneObject:
    return SceneObject("green block", Box(visit.size_m), freeze(make_pose(visit.p_from_m)))


def test_an_arm_alone_finishes_with_every_camera(any_cell: Cell) -> None:
    report, lookout = any_cell.go()
    assert report.is_finished, report
    assert lookout.frames >= 11
    assert "at up to 0.24 m/s" in lookout.describe()


def test_what_comes_into_the_way_stops_the_arm_before_it_is_touched(any_cell: Cell) -> None:
    any_cell.plant.invite(COMES)
    report, _ = any_cell.go()
    assert report.reason is AbortReason.INTRUSION, report
    assert not any_cell.plant.true_hit()
    cause, numbers = report.causes[0], dict(report.causes[0].numbers)
    at_m = COMES.at_m(numbers["at_s"])
    assert np.linalg.norm(at_m - [numbers["x_m"], numbers["y_m"], numbers["z_m"]]) < 0.06
    assert 0.03 < numbers["size_m"] < 0.12
    assert cause.text.startswith("something ")


def test_without_a_lookout_the_same_visitor_is_hit(cell: Cell) -> None:
    cell.plant.invite(COMES)
    link = cell.plant.link
    executor.run(admit(over(link.state().q_rad), link, link), link, link, PROFILE, Halt())
    assert cell.plant.true_hit()


def test_a_thing_that_is_known_is_named(cell: Cell) -> None:
    cell.plant.invite(COMES)
    cell.scene = Scene((), (visitor(COMES),))
    report, _ = cell.go()
    assert report.reason is AbortReason.INTRUSION
    assert report.causes[0].text.startswith("the green block moved and came into the arm's way at (")


def test_what_moves_elsewhere_stops_nothing(any_cell: Cell) -> None:
    any_cell.plant.invite(FAR)
    report, _ = any_cell.go()
    assert report.is_finished, report


def test_what_stands_in_view_from_the_first_stops_nothing(cell: Cell) -> None:
    cell.plant.invite(replace(COMES, velocity_mps=np.zeros(3)))
    report, _ = cell.go()
    assert report.is_finished, report


def test_a_load_is_part_of_the_arm(cell: Cell) -> None:
    size_m, T_tool_held = (0.05, 0.05, 0.12), make_pose([0.0, 0.0, 0.04])
    cell.plant.carry(size_m, T_tool_held)
    load = SceneObject("load", Box(size_m), freeze(np.eye(4)))
    unknown, _ = cell.go()
    assert unknown.reason is AbortReason.INTRUSION
    cell.plant.link.sleep(0.5)
    cell.scene = Scene((load,), (), held="load", T_tool_held=freeze(T_tool_held))
    known, _ = cell.go(GOAL_M - np.array([0.0, 0.25, 0.0]))
    assert known.is_finished, known


class Spoilt:
    """A real camera whose frames are spoilt while the arm moves."""

    def __init__(self, camera: Camera, how: str) -> None:
        self._camera, self._how = camera, how

    def capture(self) -> CameraFrame:
        return self._camera.capture()

    def newest(self, since_ns: int) -> CameraFrame | None:
        frame = self._camera.newest(since_ns)
        if frame is None or self._how == "none":
            return None
        if self._how == "unusable":
            raise ObservationError("camera: the sizes differ")
        if self._how == "old":
            return replace(frame, stamp_ns=since_ns)
        if self._how == "elsewhere":
            return replace(frame, T_base_camera=freeze(make_pose([0.0, 0.0, 0.05]) @ frame.T_base_camera))
        if self._how == "zoomed":
            return replace(frame, intrinsics=replace(frame.intrinsics, fx_px=2 * frame.intrinsics.fx_px))
        return replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("none", "no frame came"),
        ("old", "no frame came"),
        ("unusable", "the sizes differ"),
        ("covered", "too little of the frame has depth"),
        ("zoomed", "of another mode"),
    ],
)
def test_a_blind_watch_stops_the_arm(cell: Cell, how: str, told: str) -> None:
    cell.camera = Spoilt(cell.plant.link, how)
    report, lookout = cell.go()
    assert report.reason is AbortReason.UNWATCHED, report
    assert told in report.causes[0].text
    assert MOST_BLIND_S < report.seconds < MOST_BLIND_S + 0.2
    assert told in lookout.describe()


def test_a_camera_that_moves_with_the_arm_watches_nothing_and_says_so(cell: Cell) -> None:
    cell.camera = Spoilt(cell.plant.link, "elsewhere")
    report, lookout = cell.go()
    assert report.is_finished, report
    assert lookout.describe() == "not watched: the camera moves with the arm"


def test_a_motion_that_nobody_could_watch_is_not_sent(cell: Cell) -> None:
    link = cell.plant.link
    motion = over(link.state().q_rad)
    lookout = Lookout(link, AROUND, replace(cell.rehearsed(motion), seen=None))
    report = executor.run(admit(motion, link, link), link, link, PROFILE, Halt(), lookout=lookout)
    assert report.reason is AbortReason.UNWATCHED
    assert not link.is_moving()
