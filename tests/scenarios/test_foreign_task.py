"""Motions that others made, in a real plant: what would hit something is refused by name, what is safe runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.foreign import ForeignTrajectory, from_chunk, motion_of
from qwen2vl_robot.foreign_task import ForeignMotions
from qwen2vl_robot.gate import Gate
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    JointSegment,
    Motion,
    Outcome,
    OutcomeKind,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    Verdict,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.planner.scripted import ScriptedPlanner
from qwen2vl_robot.reasons import ObservationReason, RefusalReason, TrajectoryReason, ViolationKind
from tests.cells import approval_of
from tests.scenarios.stage import PROFILE, RED_BLOCK, BlindCamera, Stage, stage

NAMES = tuple(joint.name for joint in PROFILE.joints)
INTO_THE_BLOCK = [0.221, 1.639, 0.03, 0.302, -0.002, 1.26, 0.083]  # a finger ends inside it
ABOVE_THE_TABLE = [0.15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2]


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with stage(RED_BLOCK) as made:
        yield made


@pytest.fixture
def foreign(scene: Stage) -> ForeignMotions:
    scene.halt = Halt()
    return motions(scene)


def motions(scene: Stage, camera: BlindCamera | None = None) -> ForeignMotions:
    link = scene.plant.link
    ports = Ports(camera or link, link, link, ScriptedPlanner("none"), scene.rehearsal)
    return assemble(Surroundings.of(scene.profile), ports, halt=scene.halt).foreign


def moveit(scene: Stage, way_rad: list[float], seconds: float) -> ForeignTrajectory:
    """As MoveIt gives it: from the measured state, points every 0.1 s with velocities and accelerations."""
    time_s = np.linspace(0.0, seconds, round(seconds * 10) + 1)
    s, way = time_s / seconds, np.array(way_rad)
    q_rad = scene.plant.link.state().q_rad + (s**3 * (10 - 15 * s + 6 * s**2))[:, None] * way
    speed = (30 * s**2 - 60 * s**3 + 30 * s**4)[:, None] * way / seconds
    pull = (60 * s - 180 * s**2 + 120 * s**3)[:, None] * way / seconds**2
    return ForeignTrajectory(NAMES, time_s, q_rad, speed, pull)


def test_a_trajectory_into_a_thing_is_refused_by_its_name(scene: Stage, foreign: ForeignMotions) -> None:
    before, told = scene.plant.link.state().q_rad, list[Rehearsed]()
    outcome = foreign.execute(moveit(scene, INTO_THE_BLOCK, 6.0), told.append)
    assert outcome.kind is OutcomeKind.REFUSED
    assert [step.verdict.accepted for step in told] == [False]
    assert outcome.reason is ViolationKind.COLLISION
    assert any("obstacle 1" in reason for reason in outcome.reasons), outcome.reasons
    assert np.abs(scene.plant.link.state().q_rad - before).max() < 1e-3


def test_a_safe_trajectory_is_checked_without_motion_and_then_runs(scene: Stage, foreign: ForeignMotions) -> None:
    given = moveit(scene, ABOVE_THE_TABLE, 2.0)
    before = scene.plant.link.state().q_rad
    checked = foreign.check(given)
    assert isinstance(checked, Rehearsed)
    assert checked.verdict.accepted
    assert not checked.verdict.is_partial
    assert np.abs(scene.plant.link.state().q_rad - before).max() < 1e-3
    other = motion_of(moveit(scene, [0.06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1.5), checked.start, PROFILE)
    assert isinstance(other, Motion)
    mixed, link = replace(checked, motion=other), scene.plant.link
    gate = Gate(scene.profile, ())
    answer = gate.admit(mixed, link.state(), link.capture(), approval_of(mixed), Halt(), link.now_ns())
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.DIGEST_MISMATCH
    outcome = foreign.execute(given)
    assert outcome.kind in (OutcomeKind.ACHIEVED, OutcomeKind.NOT_VERIFIED), outcome.reasons
    assert np.abs(scene.plant.link.state().q_rad - before - ABOVE_THE_TABLE).max() < 0.01
    again = foreign.execute(given)  # it begins where the arm no longer is
    assert again.reason is TrajectoryReason.START


def test_without_a_usable_look_nothing_is_rehearsed(scene: Stage) -> None:
    scene.halt = Halt()
    outcome = motions(scene, BlindCamera(scene.plant.link)).execute(moveit(scene, ABOVE_THE_TABLE, 2.0))
    assert outcome.kind is OutcomeKind.REFUSED
    assert isinstance(outcome.reason, ObservationReason)


def test_a_latched_stop_comes_first(scene: Stage, foreign: ForeignMotions) -> None:
    scene.halt.stop("a person")
    for answer in (foreign.check(moveit(scene, ABOVE_THE_TABLE, 2.0)), foreign.execute(moveit(scene, [0.0] * 7, 2.0))):
        assert isinstance(answer, Outcome)
        assert answer.reason is RefusalReason.STOPPED


def test_a_stop_ends_it_on_its_way(scene: Stage, foreign: ForeignMotions) -> None:
    link, began = scene.plant.link, scene.plant.link.state().q_rad

    def stop_when_it_moves() -> None:
        end_s = time.monotonic() + 60.0
        while time.monotonic() < end_s and np.abs(link.state().q_rad - began).max() < 0.02:
            time.sleep(0.005)
        scene.halt.stop("a person")

    watcher = threading.Thread(target=stop_when_it_moves)
    watcher.start()
    outcome = foreign.execute(moveit(scene, [-0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 5.0))
    watcher.join()
    assert outcome.kind is OutcomeKind.ABORTED
    assert outcome.reason == "stopped"


def test_a_look_that_is_given_the_glance_has_the_twin_build_its_scene(foreign: ForeignMotions) -> None:
    asked: list[tuple[Motion, Scene, RobotState]] = []

    def glance(motion: Motion, seen: Scene, start: RobotState) -> Verdict:
        asked.append((motion, seen, start))
        return Verdict(False, (), "", "", "", "")

    world = foreign.look(glance)
    ((motion, seen, start),) = asked
    assert (seen, start) == (world.scene, world.start)
    (segment,) = motion.segments
    assert isinstance(segment, JointSegment)
    assert (segment.q_rad == world.start.q_rad).all()


def test_a_chunk_gets_a_partial_verdict_that_no_gate_takes(scene: Stage, foreign: ForeignMotions) -> None:
    link, glance = scene.plant.link, scene.rehearsal.glance  # type: ignore[attr-defined]
    q_rad = link.state().q_rad
    world = foreign.look()
    s = np.arange(1, 15) / 14
    actions = q_rad + (0.03 * s**3 * (10 - 15 * s + 6 * s**2))[:, None] * np.eye(7)[0]
    checked = foreign.check_chunk(from_chunk(actions, 30.0, NAMES, q_rad), world, glance)
    assert isinstance(checked, Rehearsed), checked
    assert checked.verdict.is_partial
    assert not checked.verdict.violations
    gate = Gate(scene.profile, ())
    answer = gate.admit(checked, link.state(), link.capture(), approval_of(checked), Halt(), link.now_ns())
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.PARTIAL
    old = replace(world, frame=replace(world.frame, stamp_ns=world.frame.stamp_ns - 6_000_000_000))
    late = foreign.check_chunk(from_chunk(actions, 30.0, NAMES, q_rad), old, glance)
    assert isinstance(late, Outcome)
    assert late.reason is RefusalReason.STALE_FRAME
