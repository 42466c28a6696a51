"""The executor stops the arm at every doubt, and says achieved only when a measurement shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.config import RelationRules, load_yaml
from qwen2vl_robot.errors import ExecutionError, ObservationError
from qwen2vl_robot.executor import STOP_DEADLINE_S, ExecutionReport, JointTrack, run
from qwen2vl_robot.geometry import look_at, make_pose
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.judge import judge
from qwen2vl_robot.messages import (
    ApprovedMotion,
    Box,
    Cause,
    Container,
    Cylinder,
    Effect,
    Motion,
    OutcomeKind,
    Relation,
    RobotState,
    Scene,
    SceneObject,
    freeze,
)
from qwen2vl_robot.plant.client import PlantLink, PlantProcess
from qwen2vl_robot.resources import resolve
from qwen2vl_robot.sides import ROBOT_SIDES, sides_in_picture
from tests.cells import PROFILE, admit, grip, reach

RULES = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
OFFSET_RAD = [0.3, 0.1, 0.0, 0.1, 0.0, 0.1, -0.2]

# ------------------------------------------------------------------------------------- run, on a real plant


@pytest.fixture(scope="module")
def plant_link() -> Iterator[PlantLink]:
    with PlantProcess("scenes/default.yaml", 5, count=2) as plant:
        yield plant.link


@pytest.fixture
def link(plant_link: PlantLink) -> PlantLink:
    plant_link.stop()
    plant_link.sleep(0.5)
    return plant_link


class FaultyArm:
    """A real plant's arm of which one answer is spoilt, after a number of good ones."""

    def __init__(self, link: PlantLink, spoil: Callable[[RobotState], RobotState], after: int = 10) -> None:
        self._link, self._spoil, self._left = link, spoil, after
        self.stops = 0

    def state(self) -> RobotState:
        self._left -= 1
        state = self._link.state()
        return self._spoil(state) if self._left < 0 else state

    def execute(self, approved: ApprovedMotion) -> None:
        self._link.execute(approved)

    def is_moving(self) -> bool:
        return self._link.is_moving()

    def stop(self) -> None:
        self.stops += 1
        self._link.stop()


def approve(link: PlantLink, seconds: float = 1.0) -> ApprovedMotion:
    return admit(reach(link.state().q_rad, OFFSET_RAD, seconds), link, link)


def stopped() -> Halt:
    halt = Halt()
    halt.stop("a person said stop")
    return halt


class StopsAt(Halt):
    """Is stopped once the plant's clock has passed a time."""

    def __init__(self, link: PlantLink, end_ns: int) -> None:
        super().__init__()
        self._link, self._end_ns = link, end_ns

    def cause(self) -> Cause | None:
        if self._link.now_ns() > self._end_ns:
            self.stop("a person said stop")
        return super().cause()


def aborted(report: ExecutionReport, reason: str) -> None:
    assert report.reason == reason, report
    assert report.causes[0].text
    assert not report.is_finished


def test_a_good_motion_finishes_close_to_its_track(link: PlantLink) -> None:
    report = run(approve(link), link, link, PROFILE, Halt())
    assert report.is_finished
    assert (report.reason, report.causes) == (None, ())
    assert report.max_tracking_error_rad < 0.02
    assert 0.9 < report.seconds < 1.5


def test_a_gripper_motion_finishes(link: PlantLink) -> None:
    assert run(admit(grip(0.05), link, link), link, link, PROFILE, Halt()).is_finished


def test_a_motion_that_was_changed_after_approval_is_not_sent(link: PlantLink) -> None:
    forged = replace(approve(link), motion=reach(link.state().q_rad, [0.31, *OFFSET_RAD[1:]]))
    aborted(run(forged, link, link, PROFILE, Halt()), "digest_mismatch")
    assert not link.is_moving()


def test_a_motion_for_another_robot_file_is_not_sent(link: PlantLink) -> None:
    other = PROFILE.model_copy(update={"start_tolerance_rad": 1.0})
    aborted(run(approve(link), link, link, other, Halt()), "digest_mismatch")


def test_an_expired_approval_is_not_sent(link: PlantLink) -> None:
    approved = admit(reach(link.state().q_rad, OFFSET_RAD), link, link, lifetime_s=0.5)
    link.sleep(0.6)
    aborted(run(approved, link, link, PROFILE, Halt()), "expired")
    assert not link.is_moving()


def test_one_approval_moves_the_arm_once(link: PlantLink) -> None:
    approved = admit(grip(0.05), link, link)  # where the arm is does not forbid it a second time
    assert run(approved, link, link, PROFILE, Halt()).is_finished
    report = run(approved, link, link, PROFILE, Halt())
    aborted(report, "rejected")
    assert "used before" in report.causes[0].text


def test_a_stop_that_was_released_while_the_arm_moved_ends_the_motion(link: PlantLink) -> None:
    class Blink(Halt):
        """Is stopped and reset between two looks."""

        def cause(self) -> Cause | None:
            if link.is_moving():
                self.stop("a person said stop")
                self.reset()
            return super().cause()

    aborted(run(approve(link), link, link, PROFILE, Blink()), "stopped")
    assert not link.is_moving()


def test_a_motion_that_the_arm_rejects_is_aborted(link: PlantLink) -> None:
    approved = approve(link)
    assert run(approved, link, link, PROFILE, Halt()).is_finished  # and the arm is elsewhere now
    report = run(replace(approved, expires_ns=2**62, token="another"), link, link, PROFILE, Halt())
    aborted(report, "rejected")
    assert "rad from" in report.causes[0].text


def test_a_stop_asked_for_before_the_start_sends_nothing(link: PlantLink) -> None:
    start_rad = link.state().q_rad
    aborted(run(approve(link), link, link, PROFILE, stopped()), "stopped")
    link.sleep(0.5)
    assert np.allclose(link.state().q_rad, start_rad, atol=1e-3)


def test_a_stop_asked_for_on_the_way_halts_the_arm(link: PlantLink) -> None:
    approved = approve(link, 2.0)
    end_ns = link.now_ns() + 1_000_000_000
    report = run(approved, link, link, PROFILE, StopsAt(link, end_ns))
    aborted(report, "stopped")
    assert not link.is_moving()
    link.sleep(0.5)
    assert np.max(np.abs(link.state().dq_radps)) < 0.02
    assert 0.9 < report.seconds < 1.2


def age(state: RobotState) -> RobotState:
    return replace(state, stamp_ns=state.stamp_ns - 201_000_000)


def hurry(state: RobotState) -> RobotState:
    return replace(state, stamp_ns=state.stamp_ns + 1)


def blind(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze([np.nan, *state.q_rad[1:]]))


def shorten(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad[:6]))


def stray(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad + PROFILE.tracking_tolerance_rad * 1.5))


def lose(state: RobotState) -> RobotState:
    raise ObservationError("no joint state")


def lean(state: RobotState) -> RobotState:
    return replace(state, q_rad=freeze(state.q_rad + 0.07))


class LosingArm:
    """Its fingers have closed on, some time after the start."""

    def __init__(self, after: int = 20) -> None:
        self._left = after

    def __call__(self, state: RobotState) -> RobotState:
        self._left -= 1
        return state if self._left > 0 else replace(state, gripper_width_m=state.gripper_width_m - 0.01)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lean, "contact"),
        (LosingArm(), "grip_lost"),
        (age, "stale_state"),
        (hurry, "stale_state"),
        (blind, "not_finite"),
        (shorten, "not_finite"),
        (stray, "tracking"),
        (lose, "link_lost"),
    ],
)
def test_a_state_that_is_not_as_it_should_be_stops_the_arm(
    link: PlantLink, spoil: Callable[[RobotState], RobotState], reason: str
) -> None:
    arm = FaultyArm(link, spoil)
    aborted(run(approve(link), arm, link, PROFILE, Halt()), reason)
    assert arm.stops == 1
    assert not link.is_moving()


class StuckArm(FaultyArm):
    """Never says that it has arrived."""

    def is_moving(self) -> bool:
        return True


class QuitterArm(FaultyArm):
    """Says after a while that it has arrived."""

    def is_moving(self) -> bool:
        return self._left > 0 and super().is_moving()


def test_an_arm_that_never_arrives_is_stopped(link: PlantLink) -> None:
    report = run(approve(link), StuckArm(link, lambda s: s), link, PROFILE, Halt())
    aborted(report, "overrun")
    assert 3.0 < report.seconds < 3.2


def test_an_arm_that_ends_early_is_an_abort(link: PlantLink) -> None:
    aborted(run(approve(link), QuitterArm(link, lambda s: s), link, PROFILE, Halt()), "ended_early")


class StillClock:
    """Time stands still while the plant's goes on."""

    def __init__(self, link: PlantLink) -> None:
        self._link, self._ns = link, link.now_ns()

    def now_ns(self) -> int:
        return self._ns

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


def test_joint_states_that_no_longer_change_their_stamp_stop_the_arm(link: PlantLink) -> None:
    clock = StillClock(link)
    arm = StuckArm(link, lambda s: replace(s, stamp_ns=clock.now_ns(), q_rad=start_rad), after=0)
    start_rad = link.state().q_rad
    report = run(approve(link), arm, clock, PROFILE, Halt())
    aborted(report, "stale_state")
    assert "no new joint state" in report.causes[0].text


class LeapingClock:
    """Goes on by a second after a while, or goes back."""

    def __init__(self, link: PlantLink, leap_s: float) -> None:
        self._link, self._leap_ns, self._left = link, round(leap_s * 1e9), 20

    def now_ns(self) -> int:
        self._left -= 1
        return self._link.now_ns() + (self._leap_ns if self._left < 0 else 0)

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


@pytest.mark.parametrize("leap_s", [1.0, -1.0])
def test_a_clock_that_leaps_stops_the_arm(link: PlantLink, leap_s: float) -> None:
    aborted(run(approve(link), link, LeapingClock(link, leap_s), PROFILE, Halt()), "clock")
    assert not link.is_moving()


class BusyClock:
    """The clock of a process that gets no core for a while; the plant's time and the wall's go on."""

    def __init__(self, link: PlantLink, busy_s: float) -> None:
        self._link, self._busy_s, self._left = link, busy_s, 20

    def now_ns(self) -> int:
        self._left -= 1
        if self._left == 0:
            time.sleep(self._busy_s)
        return self._link.now_ns()

    def sleep(self, seconds: float) -> None:
        self._link.sleep(seconds)


@pytest.mark.parametrize(("busy_s", "reason"), [(0.7, None), (2.2, "clock")])
def test_a_late_look_is_judged_by_the_states_that_came_meanwhile(busy_s: float, reason: str | None) -> None:
    with PlantProcess("scenes/default.yaml", 5, count=2, realtime=True) as plant:
        link = plant.link
        report = run(approve(link, 3.0), link, BusyClock(link, busy_s), PROFILE, Halt())
        assert report.reason == reason, report


@pytest.mark.parametrize("stale", [1, 2])
def test_a_stale_state_in_between_is_looked_at_again(link: PlantLink, stale: int) -> None:
    looks = iter([False] * 10 + [True] * stale)

    def spoil(state: RobotState) -> RobotState:
        return age(state) if next(looks, False) else state

    assert run(approve(link), FaultyArm(link, spoil, after=0), link, PROFILE, Halt()).is_finished


def test_the_stop_is_given_within_its_deadline(link: PlantLink) -> None:
    report = run(approve(link), FaultyArm(link, stray), link, PROFILE, Halt())
    assert report.stopped_after_s is not None
    assert 0.0 <= report.stopped_after_s <= STOP_DEADLINE_S


def test_an_arm_that_cannot_be_stopped_is_said_so(link: PlantLink) -> None:
    class DeafArm(FaultyArm):
        def stop(self) -> None:
            raise ExecutionError("cable cut")

    report = run(approve(link), DeafArm(link, lose), link, PROFILE, Halt())
    aborted(report, "link_lost")
    assert "cable cut" in report.causes[1].text


def test_a_halt_before_the_motion_keeps_it_from_the_arm(link: PlantLink) -> None:
    class NewArm(FaultyArm):
        def execute(self, approved: ApprovedMotion) -> None:
            raise AssertionError("a halted motion was sent")

    report = run(approve(link), NewArm(link, lambda state: state), link, PROFILE, stopped())
    aborted(report, "stopped")


def test_an_interrupt_stops_the_arm_and_goes_on(link: PlantLink) -> None:
    def interrupt(state: RobotState) -> RobotState:
        raise KeyboardInterrupt

    arm = FaultyArm(link, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(approve(link), arm, link, PROFILE, Halt())
    assert arm.stops == 1
    assert not link.is_moving()


# ------------------------------------------------------------------------------------------------- track

TRACK = JointTrack(reach(np.zeros(7), [1.0] * 7, 2.0), np.zeros(7))


@given(st.floats(-1.0, 4.0))
def test_the_track_stays_between_start_and_end(time_s: float) -> None:
    q_rad, dq_radps = TRACK.at(time_s)
    assert (q_rad >= 0.0).all()
    assert (q_rad <= 1.0).all()
    assert (dq_radps >= -1e-9).all()


@given(st.floats(0.2, 2.0), st.floats(0.0, 0.15))
def test_a_lag_within_the_allowance_is_no_tracking_error(time_s: float, lag_s: float) -> None:
    assert TRACK.error_rad(TRACK.at(time_s - lag_s)[0], time_s, 0.15) < 0.006


# ------------------------------------------------------------------------------------------------- judge

BLOCK = SceneObject("red block", Box((0.05, 0.04, 0.05)), make_pose([0.5, 0.1, 0.025]))
PLATE = SceneObject("blue plate", Cylinder(0.16, 0.014), make_pose([0.5, -0.1, 0.007]))
BEFORE = Scene((BLOCK, PLATE), ())
HOLD = Effect("hold", "red block")
ON_PLATE = make_pose([0.5, -0.1, 0.039])
PLACE = Effect("release", "red block", ON_PLATE, Relation.ON, "blue plate")
PUSH = Effect("push", "red block", make_pose([0.6, 0.1, 0.025]))


def gripped(width_m: float) -> RobotState:
    return RobotState(0, freeze(PROFILE.home_q_rad), freeze([0.0] * 7), width_m)


def block_at(p_m: list[float], name: str = "red block") -> SceneObject:
    return replace(BLOCK, name=name, T_base_object=make_pose(p_m))


def verdict_on(
    effect: Effect, measured: Scene | None, width_m: float = 0.05, expected: Scene | None = None
) -> OutcomeKind:
    outcome = judge(effect, expected, BEFORE, measured, gripped(width_m), RULES)
    assert (outcome.kind is OutcomeKind.ACHIEVED) == (outcome.reasons == ())
    return outcome.kind


def test_a_motion_without_effect_is_achieved_when_it_finished() -> None:
    assert verdict_on(Effect("none"), None) is OutcomeKind.ACHIEVED


@pytest.mark.parametrize(("y_m", "in_picture"), [(-0.24, True), (0.04, False)])
def test_a_release_beside_something_is_judged_by_the_sides_of_the_plan(y_m: float, in_picture: bool) -> None:
    facing = look_at([1.4, 0.0, 0.6], [0.5, 0.0, 0.0])  # its left is -y, the robot's is +y
    placed = make_pose([0.5, y_m, 0.025])
    effect = Effect("release", "red block", placed, Relation.LEFT_OF, "blue plate")
    for sides, is_left in ((sides_in_picture(facing), in_picture), (ROBOT_SIDES, not in_picture), (None, False)):
        before = replace(BEFORE, sides=sides)
        measured = replace(before, objects=(replace(BLOCK, T_base_object=placed), PLATE))
        outcome = judge(effect, None, before, measured, gripped(0.08), RULES)
        assert (outcome.kind is OutcomeKind.ACHIEVED) is is_left


@pytest.mark.parametrize("effect", [HOLD, PLACE, PUSH], ids=lambda e: e.kind)
def test_what_was_not_measured_is_never_achieved(effect: Effect) -> None:
    assert verdict_on(effect, None) is OutcomeKind.WRONG_EFFECT


@pytest.mark.parametrize("effect", [Effect("fly", "red block"), Effect("hold"), Effect("release", "red block")])
def test_an_effect_that_cannot_be_measured_is_never_achieved(effect: Effect) -> None:
    assert verdict_on(effect, BEFORE) is OutcomeKind.WRONG_EFFECT


@pytest.mark.parametrize("seen", [(), (block_at([0.3, 0.0, 0.45]),)], ids=["out of view", "in the gripper"])
def test_a_grasp_is_achieved_when_the_gap_fits_and_the_place_is_empty(seen: tuple[SceneObject, ...]) -> None:
    assert verdict_on(HOLD, Scene((*seen, PLATE), ())) is OutcomeKind.ACHIEVED


@pytest.mark.parametrize("width_m", [0.0, 0.004, 0.08, float("nan")])
def test_a_gap_that_does_not_fit_the_object_is_no_grasp(width_m: float) -> None:
    assert verdict_on(HOLD, Scene((PLATE,), ()), width_m) is OutcomeKind.WRONG_EFFECT


def test_a_grasp_is_no_motion_when_the_object_is_still_there() -> None:
    assert verdict_on(HOLD, BEFORE) is OutcomeKind.NO_MOTION
    assert verdict_on(HOLD, BEFORE, 0.0) is OutcomeKind.NO_MOTION


def test_a_grasp_is_no_motion_when_an_unnamed_body_is_still_there() -> None:
    measured = Scene((PLATE,), (block_at([0.51, 0.11, 0.025], "obstacle 1"),))
    assert verdict_on(HOLD, measured) is OutcomeKind.NO_MOTION


def test_a_believed_hold_does_not_hide_what_is_still_there() -> None:
    held = block_at([0.3, 0.0, 0.45])
    left = block_at([0.5, 0.1, 0.025], "obstacle 1")
    measured = Scene((held, PLATE), (left,), held="red block", T_tool_held=np.eye(4))
    assert verdict_on(HOLD, measured) is OutcomeKind.NO_MOTION


@pytest.mark.parametrize(("width_m", "kind"), [(0.04, OutcomeKind.ACHIEVED), (0.08, OutcomeKind.WRONG_EFFECT)])
def test_fingers_that_are_open_wider_than_in_the_twin_hold_nothing(width_m: float, kind: OutcomeKind) -> None:
    """The length of a tall block says nothing: it is gripped by its width."""
    tall = replace(BLOCK, shape=Box((0.04, 0.04, 0.12)), T_base_object=make_pose([0.5, 0.1, 0.06]))
    outcome = judge(HOLD, None, Scene((tall,), ()), Scene((), ()), gripped(width_m), RULES, gripped(0.04))
    assert outcome.kind is kind


def test_an_object_that_was_pushed_aside_is_no_grasp() -> None:
    assert verdict_on(HOLD, Scene((block_at([0.56, 0.1, 0.025]), PLATE), ())) is OutcomeKind.WRONG_EFFECT


def test_lifting_from_a_bowl_leaves_the_bowl_where_it_was() -> None:
    bowl = SceneObject("yellow bowl", Container((0.15, 0.15, 0.055), 0.006), make_pose([0.5, 0.1, 0.0275]))
    before = Scene((replace(BLOCK, T_base_object=make_pose([0.5, 0.1, 0.031])), bowl), ())
    outcome = judge(HOLD, None, before, Scene((bowl,), ()), gripped(0.05), RULES)
    assert outcome.kind is OutcomeKind.ACHIEVED


def test_a_place_is_achieved_where_it_was_predicted_in_the_relation() -> None:
    outcome = judge(PLACE, None, BEFORE, Scene((block_at([0.51, -0.1, 0.04]), PLATE), ()), gripped(0.08), RULES)
    assert outcome.kind is OutcomeKind.ACHIEVED
    assert outcome.error_m == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize(
    ("p_m", "kind"),
    [
        ([0.5, -0.02, 0.025], OutcomeKind.WRONG_EFFECT),  # fell beside the plate
        ([0.5, -0.1, 0.065], OutcomeKind.WRONG_EFFECT),  # near, but floating
        ([0.5, 0.1, 0.025], OutcomeKind.NO_MOTION),
        ([np.nan, 0.0, 0.0], OutcomeKind.WRONG_EFFECT),
    ],
)
def test_a_place_elsewhere_is_not_achieved(p_m: list[float], kind: OutcomeKind) -> None:
    assert verdict_on(PLACE, Scene((block_at(p_m), PLATE), ()), 0.08) is kind


def test_a_place_whose_object_or_reference_was_not_found_is_not_achieved() -> None:
    assert verdict_on(PLACE, Scene((PLATE,), ()), 0.08) is OutcomeKind.WRONG_EFFECT
    assert verdict_on(PLACE, Scene((block_at([0.5, -0.1, 0.039]),), ()), 0.08) is OutcomeKind.WRONG_EFFECT


def test_a_place_whose_reference_slid_away_is_not_achieved() -> None:
    away = replace(PLATE, T_base_object=make_pose([0.5, -0.25, 0.007]))
    assert verdict_on(PLACE, Scene((block_at([0.5, -0.1, 0.039]), away), ()), 0.08) is OutcomeKind.WRONG_EFFECT


def test_an_object_still_in_the_gripper_was_not_placed() -> None:
    measured = Scene((block_at([0.5, -0.1, 0.039]), PLATE), (), held="red block", T_tool_held=np.eye(4))
    assert verdict_on(PLACE, measured) is OutcomeKind.NO_MOTION


def test_an_effect_that_moved_a_bystander_is_wrong() -> None:
    ball = SceneObject("green block", Box((0.05, 0.05, 0.05)), make_pose([0.6, -0.2, 0.025]))
    placed = block_at([0.5, -0.1, 0.039])
    expected = Scene((placed, PLATE, ball), ())
    rolled = replace(ball, T_base_object=make_pose([0.7, -0.2, 0.025]))
    assert verdict_on(PLACE, Scene((placed, PLATE, ball), ()), 0.08, expected) is OutcomeKind.ACHIEVED
    assert verdict_on(PLACE, Scene((placed, PLATE, rolled), ()), 0.08, expected) is OutcomeKind.WRONG_EFFECT


@pytest.mark.parametrize(
    ("x_m", "kind"),
    [(0.6, OutcomeKind.ACHIEVED), (0.505, OutcomeKind.NO_MOTION), (0.55, OutcomeKind.WRONG_EFFECT)],
)
def test_a_push_is_judged_by_where_the_object_came_to_lie(x_m: float, kind: OutcomeKind) -> None:
    assert verdict_on(PUSH, Scene((block_at([x_m, 0.1, 0.025]), PLATE), ()), 0.0) is kind


@given(st.floats(0.3, 0.7), st.floats(-0.3, 0.3), st.floats(0.0, 0.3))
def test_a_place_is_achieved_only_within_its_tolerance(x_m: float, y_m: float, z_m: float) -> None:
    outcome = judge(PLACE, None, BEFORE, Scene((block_at([x_m, y_m, z_m]), PLATE), ()), gripped(0.08), RULES)
    if outcome.kind is OutcomeKind.ACHIEVED:
        assert np.linalg.norm(np.array([x_m, y_m, z_m]) - ON_PLATE[:3, 3]) <= PLACE.tolerance_m + 1e-9


def test_a_motion_of_no_segments_is_finished_at_once(link: PlantLink) -> None:
    motion = Motion(PROFILE.name, (), Effect("none"))
    assert run(admit(motion, link, link), link, link, PROFILE, Halt()).is_finished
