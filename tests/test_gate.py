"""The gate lets through what was rehearsed, just now, from here, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen2vl_robot.gate import Gate, GateLimits
from qwen2vl_robot.halt import Halt
from qwen2vl_robot.messages import (
    Approval,
    ApprovedMotion,
    CameraFrame,
    JointSegment,
    Motion,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    Trials,
    Verdict,
    Violation,
    Zone,
    digest,
    freeze,
)
from qwen2vl_robot.reasons import RefusalReason, ViolationKind
from tests.cells import PROFILE, SCENE, accept, approval_of, look, reach, rehearsed

NOW_NS = 50_000_000_000
HOME = np.array(PROFILE.home_q_rad)


def at_rest(stamp_ns: int = NOW_NS) -> RobotState:
    return RobotState(stamp_ns, freeze(HOME), freeze(np.zeros(7)), 0.08)


MOTION = reach(HOME, [0.1] * 7, 0.2)
SEEN = look(NOW_NS)


def ask(
    gate: Gate,
    motion: Motion = MOTION,
    verdict: Verdict | None = None,
    scene: Scene = SCENE,
    start: RobotState | None = None,
    live: RobotState | None = None,
    rehearsed_ns: int = NOW_NS,
    seen: CameraFrame | None = SEEN,
    fresh: CameraFrame | None = SEEN,
    halt: Halt | None = None,
    approval: Approval | str | None = "",
) -> ApprovedMotion | Refusal:
    """Ask the gate; without an approval of its own ("") the step comes with a good one."""
    step = Rehearsed(motion, verdict or accept(MOTION, at_rest()), scene, start or at_rest(), rehearsed_ns, seen)
    halt = halt or Halt()
    given = approval_of(step, halt) if isinstance(approval, str) else approval
    return gate.admit(step, live or at_rest(), fresh, given, halt, NOW_NS)


def reason(answer: ApprovedMotion | Refusal) -> str:
    assert isinstance(answer, Refusal)
    assert answer.text
    return answer.reason


@pytest.fixture
def gate() -> Gate:
    return Gate(PROFILE, ())


def test_gate_admits_what_was_rehearsed_just_now_from_here(gate: Gate) -> None:
    verdict = accept(MOTION, at_rest())
    approved = ask(gate, verdict=verdict)
    assert isinstance(approved, ApprovedMotion)
    assert approved.motion is MOTION
    assert approved.digest == digest(MOTION)
    assert approved.verdict_digest == digest(verdict)
    assert (approved.scene_digest, approved.start_digest) == (digest(SCENE), digest(at_rest()))
    assert approved.robot_digest == PROFILE.digest
    assert approved.expires_ns == NOW_NS + 2_000_000_000


def test_gate_refuses_a_verdict_that_refuses(gate: Gate) -> None:
    verdict = replace(accept(MOTION, at_rest()), accepted=False)
    assert reason(ask(gate, verdict=verdict)) == "not_accepted"


def test_gate_refuses_an_accepting_verdict_that_lists_a_violation(gate: Gate) -> None:
    violation = Violation(ViolationKind.COLLISION, 0.1, ("a", "b"), 0.004, "m")
    verdict = replace(accept(MOTION, at_rest()), violations=(violation,))
    answer = ask(gate, verdict=verdict)
    assert reason(answer) == "not_accepted"
    assert isinstance(answer, Refusal)
    assert "4.0 mm" in answer.text


def test_gate_refuses_another_motion_than_the_rehearsed_one(gate: Gate) -> None:
    assert reason(ask(gate, motion=reach(HOME, [0.1] * 7, 0.21))) == "digest_mismatch"


def test_gate_refuses_another_scene_than_the_rehearsed_one(gate: Gate) -> None:
    assert reason(ask(gate, scene=Scene((), (), table_height_m=0.01))) == "digest_mismatch"


def test_gate_refuses_another_start_than_the_rehearsed_one(gate: Gate) -> None:
    start = replace(at_rest(), q_rad=freeze(HOME + 1e-9))
    assert reason(ask(gate, start=start)) == "digest_mismatch"


def test_gate_refuses_a_verdict_about_another_robot(gate: Gate) -> None:
    verdict = replace(accept(MOTION, at_rest()), robot_digest="0" * 64)
    assert reason(ask(gate, verdict=verdict)) == "digest_mismatch"


def test_gate_refuses_a_motion_of_another_robot(gate: Gate) -> None:
    motion = replace(MOTION, robot="kuka_iiwa")
    assert reason(ask(gate, motion=motion, verdict=accept(motion, at_rest()))) == "digest_mismatch"


@pytest.mark.parametrize("rehearsed_ns", [NOW_NS - 30_000_000_001, NOW_NS + 1])
def test_gate_refuses_a_stale_verdict_and_one_from_the_future(gate: Gate, rehearsed_ns: int) -> None:
    assert reason(ask(gate, rehearsed_ns=rehearsed_ns)) == "stale_verdict"


@pytest.mark.parametrize("stamp_ns", [NOW_NS - 200_000_001, NOW_NS + 1])
def test_gate_refuses_a_stale_state_and_one_from_the_future(gate: Gate, stamp_ns: int) -> None:
    assert reason(ask(gate, live=at_rest(stamp_ns))) == "stale_state"


@pytest.mark.parametrize("joint", range(7))
def test_gate_refuses_when_a_joint_moved_since_the_rehearsal(gate: Gate, joint: int) -> None:
    q_rad = HOME.copy()
    q_rad[joint] += PROFILE.start_tolerance_rad * 1.01
    assert reason(ask(gate, live=replace(at_rest(), q_rad=freeze(q_rad)))) == "start_moved"


def test_gate_refuses_when_the_gripper_moved_since_the_rehearsal(gate: Gate) -> None:
    assert reason(ask(gate, live=replace(at_rest(), gripper_width_m=0.07))) == "start_moved"


def test_gate_refuses_another_number_of_joints(gate: Gate) -> None:
    assert reason(ask(gate, live=replace(at_rest(), q_rad=freeze(HOME[:6])))) == "start_moved"


def test_gate_refuses_when_something_else_is_held(gate: Gate) -> None:
    assert reason(ask(gate, live=replace(at_rest(), held="red block"))) == "start_moved"


def test_gate_refuses_when_the_scene_holds_what_the_arm_does_not(gate: Gate) -> None:
    scene = Scene((), (), held="red block")
    assert reason(ask(gate, scene=scene, verdict=accept(MOTION, at_rest(), scene))) == "start_moved"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gate_refuses_a_motion_that_is_not_finite(gate: Gate, bad: float) -> None:
    segment = MOTION.segments[0]
    assert isinstance(segment, JointSegment)
    q_rad = segment.q_rad.copy()
    q_rad[3, 2] = bad
    motion = replace(MOTION, segments=(replace(segment, q_rad=q_rad),))
    assert reason(ask(gate, motion=motion, verdict=accept(motion, at_rest()))) == "not_finite"


@pytest.mark.parametrize(
    "live",
    [
        replace(at_rest(), q_rad=freeze([np.nan] * 7)),
        replace(at_rest(), dq_radps=freeze([np.inf] * 7)),
        replace(at_rest(), gripper_width_m=float("nan")),
    ],
    ids=["positions", "velocities", "width"],
)
def test_gate_refuses_a_live_state_that_is_not_finite(gate: Gate, live: RobotState) -> None:
    assert reason(ask(gate, live=live)) == "not_finite"


def test_gate_refuses_after_a_stop_until_it_is_reset(gate: Gate) -> None:
    halt = Halt()
    halt.stop("a person said stop")
    assert reason(ask(gate, halt=halt)) == "stopped"
    assert reason(ask(gate, halt=halt)) == "stopped"
    halt.reset()
    assert isinstance(ask(gate, halt=halt), ApprovedMotion)


def test_gate_says_who_stopped(gate: Gate) -> None:
    halt = Halt()
    halt.stop("smoke")
    answer = ask(gate, halt=halt)
    assert isinstance(answer, Refusal)
    assert "smoke" in answer.text


def test_gate_refuses_a_task_that_was_cancelled(gate: Gate) -> None:
    halt = Halt()
    with halt.task():
        halt.cancel("changed my mind")
        assert reason(ask(gate, halt=halt)) == "cancelled"
    assert isinstance(ask(gate, halt=halt), ApprovedMotion)


def test_gate_admits_nothing_without_an_approval(gate: Gate) -> None:
    assert reason(ask(gate, approval=None)) == "not_confirmed"


def test_an_approval_is_of_one_verdict_only(gate: Gate) -> None:
    verdict = accept(MOTION, at_rest())
    other = Approval(digest(replace(verdict, scene_digest="0" * 64)), "token", 0)
    assert reason(ask(gate, verdict=verdict, approval=other)) == "not_confirmed"
    assert isinstance(
        ask(gate, verdict=verdict, approval=replace(other, verdict_digest=digest(verdict))), ApprovedMotion
    )


def test_an_approved_motion_carries_the_token_of_its_approval(gate: Gate) -> None:
    approval = Approval(digest(accept(MOTION, at_rest())), "once", 0)
    answer = ask(gate, approval=approval)
    assert isinstance(answer, ApprovedMotion)
    assert answer.token == "once"
    assert reason(ask(gate, approval=replace(approval, token=""))) == "not_confirmed"


def test_a_stop_forgets_what_was_approved(gate: Gate) -> None:
    halt = Halt()
    approval = approval_of(rehearsed(MOTION, at_rest(), NOW_NS), halt)
    assert isinstance(ask(gate, halt=halt, approval=approval), ApprovedMotion)
    halt.stop("stop")
    halt.reset()
    assert reason(ask(gate, halt=halt, approval=approval)) == "not_confirmed"


def test_gate_changes_nothing_and_answers_the_same_again(gate: Gate) -> None:
    step, halt = rehearsed(MOTION, at_rest(), NOW_NS), Halt()
    approval = approval_of(step, halt)
    answers = [gate.admit(step, at_rest(), SEEN, approval, halt, NOW_NS) for _ in range(2)]
    assert digest(answers[0]) == digest(answers[1])


@given(
    point=st.integers(0, len(MOTION.segments[0].time_s) - 1),  # type: ignore[union-attr]
    joint=st.integers(0, 7),
    bit=st.integers(0, 63),
)
def test_one_flipped_bit_of_the_motion_is_refused(point: int, joint: int, bit: int) -> None:
    segment = MOTION.segments[0]
    assert isinstance(segment, JointSegment)
    columns = np.column_stack([segment.q_rad, segment.time_s])
    columns.view(np.uint64)[point, joint] ^= np.uint64(1) << np.uint64(bit)
    forged = replace(MOTION, segments=(JointSegment(columns[:, 7].copy(), columns[:, :7].copy()),))
    assert reason(ask(Gate(PROFILE, ()), motion=forged)) in ("digest_mismatch", "not_finite")


@given(
    age_ns=st.integers(-(10**11), 10**11),
    state_age_ns=st.integers(-(10**9), 10**9),
    off_rad=st.floats(-0.1, 0.1),
    width_m=st.floats(0.0, 0.08),
)
def test_gate_admits_only_inside_every_tolerance(
    age_ns: int, state_age_ns: int, off_rad: float, width_m: float
) -> None:
    live = replace(at_rest(NOW_NS - state_age_ns), q_rad=freeze(HOME + off_rad), gripper_width_m=width_m)
    answer = ask(Gate(PROFILE, ()), live=live, rehearsed_ns=NOW_NS - age_ns)
    inside = 0 <= age_ns <= 3 * 10**10 and 0 <= state_age_ns <= 2 * 10**8 and abs(off_rad) <= 0.019 and width_m > 0.077
    if isinstance(answer, ApprovedMotion):
        assert abs(off_rad) <= 0.0201
        assert width_m > 0.0759
        assert 0 <= age_ns <= 3 * 10**10
        assert 0 <= state_age_ns <= 2 * 10**8
    else:
        assert not inside


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_gate_refuses_a_setting_that_is_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="max_state_age_s"):
        GateLimits(max_state_age_s=seconds)


# --------------------------------------------------------------------------------- trials, zones, fresh frames


@pytest.mark.parametrize("trials", [None, Trials(15, 15, 0.82, 0.8), Trials(16, 15, 0.74, 0.8)])
def test_gate_refuses_what_was_not_tried_often_enough(gate: Gate, trials: Trials | None) -> None:
    assert reason(ask(gate, verdict=replace(accept(MOTION, at_rest()), trials=trials))) == "not_tried"


def test_gate_refuses_a_scene_without_the_zones_of_the_cell() -> None:
    zone = Zone("people", (0.5, -1.0, 0.0), (1.0, 1.0, 2.0))
    gate = Gate(PROFILE, (zone,))
    assert reason(ask(gate)) == "zones_missing"
    scene = replace(SCENE, zones=(zone,))
    assert isinstance(ask(gate, scene=scene, verdict=accept(MOTION, at_rest(), scene)), ApprovedMotion)


@pytest.mark.parametrize(("seen", "fresh"), [(None, SEEN), (SEEN, None), (None, None)])
def test_gate_refuses_without_two_looks_at_the_scene(
    gate: Gate, seen: CameraFrame | None, fresh: CameraFrame | None
) -> None:
    assert reason(ask(gate, seen=seen, fresh=fresh)) == "no_frame"


@pytest.mark.parametrize("stamp_ns", [NOW_NS - 1_000_000_001, NOW_NS + 1])
def test_gate_refuses_a_stale_look_and_one_from_the_future(gate: Gate, stamp_ns: int) -> None:
    assert reason(ask(gate, seen=look(0), fresh=look(stamp_ns))) == "stale_frame"


def test_gate_refuses_a_look_from_before_the_rehearsal(gate: Gate) -> None:
    assert reason(ask(gate, fresh=look(NOW_NS - 1))) == "stale_frame"


def test_gate_refuses_when_something_moved_since_the_rehearsal(gate: Gate) -> None:
    depth_m = SEEN.depth_m.copy()
    depth_m[12:24, 12:24] -= 0.05
    assert reason(ask(gate, fresh=replace(SEEN, depth_m=depth_m))) == "scene_changed"


def test_gate_refuses_when_a_flat_thing_of_another_colour_appeared(gate: Gate) -> None:
    rgb = SEEN.rgb.copy()
    rgb[12:24, 12:24] = (250, 20, 20)
    assert reason(ask(gate, fresh=replace(SEEN, rgb=rgb))) == "scene_changed"


def test_gate_refuses_a_camera_that_went_blind_or_elsewhere(gate: Gate) -> None:
    blind = replace(SEEN, depth_m=np.full_like(SEEN.depth_m, np.nan))
    turned = replace(SEEN, T_base_camera=freeze(np.diag([1.0, -1.0, -1.0, 1.0])))
    assert reason(ask(gate, fresh=blind)) == "scene_changed"
    assert reason(ask(gate, fresh=turned)) == "scene_changed"


def test_noise_and_holes_are_no_change(gate: Gate) -> None:
    rng = np.random.default_rng(0)

    def noisy() -> CameraFrame:
        depth_m = SEEN.depth_m + rng.normal(0.0, 0.002, SEEN.depth_m.shape).astype(np.float32)
        depth_m[rng.random(depth_m.shape) < 0.01] = np.nan
        return replace(SEEN, depth_m=depth_m)

    assert isinstance(ask(gate, seen=noisy(), fresh=noisy()), ApprovedMotion)


@pytest.mark.parametrize("width_m", [None, "wide", -(2**63) - 1, 10**400])
def test_gate_refuses_what_is_no_number(gate: Gate, width_m: object) -> None:
    live = replace(at_rest(), gripper_width_m=width_m)  # type: ignore[arg-type]
    assert reason(ask(gate, live=live)) in ("not_finite", "start_moved")


@pytest.mark.parametrize("radps", [0.11, np.inf, np.nan])
def test_gate_refuses_an_arm_that_still_moves(gate: Gate, radps: float) -> None:
    moving = replace(at_rest(), dq_radps=freeze(np.array([0, 0, 0, -radps, 0, 0, 0])))
    assert reason(ask(gate, live=moving)) in ("start_moved", "not_finite")


def test_gate_refuses_when_something_moved_in_the_view_of_a_further_camera(gate: Gate) -> None:
    depth_m = SEEN.depth_m.copy()
    depth_m[12:24, 12:24] -= 0.05
    seen, moved = replace(SEEN, others=(SEEN,)), replace(SEEN, others=(replace(SEEN, depth_m=depth_m),))
    assert isinstance(ask(gate, seen=seen, fresh=seen), ApprovedMotion)
    assert reason(ask(gate, seen=seen, fresh=moved)) == "scene_changed"
    assert reason(ask(gate, seen=seen, fresh=SEEN)) == "scene_changed"


def test_gate_refuses_a_verdict_of_a_glance(gate: Gate) -> None:
    """Even one that accepts, with every trial and digest that a whole one has."""
    assert reason(ask(gate, verdict=replace(accept(MOTION, at_rest()), is_partial=True))) == RefusalReason.PARTIAL
