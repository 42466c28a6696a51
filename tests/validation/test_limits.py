"""Checks on numbers: each limit with a motion that must break it and one that must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen2vl_robot.config import load_robot
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import (
    Box,
    Effect,
    GripperSegment,
    JointSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Segment,
    freeze,
)
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.limits import check, check_speed, check_workspace

PROFILE = load_robot("franka_panda")
HOME = np.array(PROFILE.home_q_rad)
EMPTY = Scene((), ())


def state(q_rad: Array = HOME) -> RobotState:
    return RobotState(0, freeze(q_rad), freeze(np.zeros(7)), 0.08)


def smooth(delta_rad: Array, seconds: float, step_s: float = 0.01, first_s: float = 0.0) -> JointSegment:
    """From home by a quintic, at rest at both ends."""
    s = np.linspace(0.0, 1.0, round(seconds / step_s) + 1)
    blend = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
    return JointSegment(freeze(first_s + s * seconds), freeze(HOME + blend[:, None] * delta_rad))


def turn(joint: int, angle_rad: float) -> Array:
    delta = np.zeros(7)
    delta[joint] = angle_rad
    return delta


def of(*segments: Segment, effect: Effect | None = None) -> Motion:
    return Motion("franka_panda", segments, effect or Effect("none"))


def kinds(motion: Motion, scene: Scene = EMPTY, start: RobotState | None = None) -> set[str]:
    return {v.kind for v in check(motion, scene, start or state(), PROFILE)}


def test_smooth_slow_motion_breaks_no_limit() -> None:
    assert kinds(of(smooth(turn(0, 1.0), 2.0))) == set()


@pytest.mark.parametrize("joint", range(7))
def test_velocity_is_judged_for_each_joint_on_both_sides_of_its_limit(joint: int) -> None:
    limit = PROFILE.joints[joint].velocity_radps
    for ratio, expected in ((0.98, set()), (1.02, {"joint_velocity"})):
        angle_rad = 0.1 if joint != 3 else -0.1
        seconds = 1.875 * abs(angle_rad) / (limit * ratio)  # a quintic's peak is 1.875 times its mean
        fast = of(smooth(turn(joint, angle_rad), seconds, step_s=seconds / 200))
        found = {v.kind for v in check(fast, EMPTY, state(), PROFILE)} & {"joint_velocity"}
        assert found == expected


def test_velocity_violation_tells_joint_time_and_excess() -> None:
    jump = JointSegment(freeze([0.0, 1.0, 1.4]), freeze([HOME, HOME, HOME + turn(0, 1.0)]))
    found = [v for v in check(of(jump), EMPTY, state(), PROFILE) if v.kind == "joint_velocity"]
    assert [(v.bodies, v.time_s, v.unit) for v in found] == [(("panda_joint1",), 1.0, "rad/s")]
    assert found[0].amount == pytest.approx(2.5 - 2.175)


@pytest.mark.parametrize(("ratio", "expected"), [(0.98, set()), (1.02, {"joint_acceleration"})])
def test_acceleration_is_judged_on_both_sides_of_its_limit(ratio: float, expected: set[str]) -> None:
    limit = PROFILE.joints[1].acceleration_radps2
    seconds = np.sqrt(5.7735 * 0.1 / (limit * ratio))  # a quintic's peak acceleration is 10 / sqrt(3) of delta / T^2
    assert kinds(of(smooth(turn(1, 0.1), seconds, step_s=seconds / 200))) == expected


def test_jerk_is_judged() -> None:
    # A jump to a constant acceleration below its limit: within velocity and acceleration, infinite jerk.
    t = np.arange(0.0, 0.25, 0.001)
    accelerating = 0.5 * 7.0 * t**2
    q_rad = HOME + np.outer(np.concatenate([accelerating, 2 * accelerating[-1] - accelerating[::-1][1:]]), turn(0, 1.0))
    time_s = np.arange(len(q_rad)) * 0.001
    assert kinds(of(JointSegment(freeze(time_s), freeze(q_rad)))) == {"joint_jerk"}


def test_motion_must_start_and_end_at_rest() -> None:
    t = np.arange(0.0, 0.5, 0.01)
    running = JointSegment(freeze(t), freeze(HOME + np.outer(t * 1.0, turn(0, 1.0))))
    assert "joint_acceleration" in kinds(of(running))


def test_arm_must_rest_before_the_gripper_moves() -> None:
    half = smooth(turn(0, 1.0), 2.0)
    first = JointSegment(freeze(half.time_s[:101]), freeze(half.q_rad[:101]))
    second = JointSegment(freeze(half.time_s[100:] + 1.0), freeze(half.q_rad[100:]))
    assert "joint_acceleration" in kinds(of(first, GripperSegment(1.0, 2.0, 0.0), second))
    unbroken = JointSegment(freeze(half.time_s[100:]), freeze(half.q_rad[100:]))
    assert kinds(of(first, unbroken)) == set()


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_position_is_judged_for_each_joint_on_both_sides_of_its_limit(joint: int, side: str) -> None:
    limits = PROFILE.joints[joint]
    end = limits.lower_rad if side == "lower" else limits.upper_rad
    inwards = 0.01 if side == "lower" else -0.01
    for off, expected in ((inwards, set()), (-inwards, {"joint_position"})):
        assert kinds(of(smooth(turn(joint, end + off - HOME[joint]), 20.0, step_s=0.02))) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["time", "joints", "width", "start", "pose", "size", "effect"])
def test_anything_not_finite_is_refused_as_such(value: float, where: str) -> None:
    segment = smooth(turn(0, 0.1), 1.0)
    grip = GripperSegment(1.0, 2.0, value if where == "width" else 0.04)
    time_s, q_rad = np.array(segment.time_s), np.array(segment.q_rad)
    pose = make_pose([0.5, 0.0, 0.025])
    if where == "time":
        time_s[5] = value
    elif where == "joints":
        q_rad[5, 2] = value
    elif where == "pose":
        pose[0, 3] = value
    block = SceneObject("block", Box((value if where == "size" else 0.05, 0.05, 0.05)), freeze(pose))
    start = state(HOME + turn(3, value)) if where == "start" else state()
    effect = Effect("none", tolerance_m=value) if where == "effect" else Effect("none")
    motion = of(JointSegment(freeze(time_s), freeze(q_rad)), grip, effect=effect)
    assert kinds(motion, Scene((block,), ()), start) == {"non_finite"}


def test_start_off_the_first_point_is_refused() -> None:
    motion = of(smooth(turn(0, 0.1), 1.0))
    assert kinds(motion, start=state(HOME + turn(4, 0.019))) == set()
    assert kinds(motion, start=state(HOME + turn(4, 0.021))) == {"start_state"}


def test_start_with_something_else_in_the_gripper_is_refused() -> None:
    block = SceneObject("block", Box((0.05, 0.05, 0.05)), freeze(make_pose([0.5, 0.0, 0.025])))
    motion = of(smooth(turn(0, 0.1), 1.0))
    assert kinds(motion, Scene((block,), ()), replace(state(), held="block")) == {"start_state"}
    holding = Scene((block,), (), held="block")  # without a pose in the tool
    assert kinds(motion, holding, replace(state(), held="block")) == {"start_state"}


def rows(count: int) -> Array:
    return freeze(np.tile(HOME, (count, 1)))


@pytest.mark.parametrize(
    "motion",
    [
        of(),
        of(JointSegment(freeze([0.0, 1.0, 1.0]), rows(3))),
        of(JointSegment(freeze([0.0, 1.0, 0.5]), rows(3))),
        of(JointSegment(freeze([0.0, 1.0]), rows(3))),
        of(JointSegment(freeze([0.0]), rows(1))),
        of(JointSegment(freeze([0.0, 1.0]), freeze(np.zeros((2, 6))))),
        of(JointSegment(freeze([0.5, 1.0]), rows(2))),
        of(JointSegment(freeze([0.0, 1.0]), rows(2)), GripperSegment(1.5, 2.0, 0.0)),
        of(smooth(turn(0, 0.1), 1.0), smooth(turn(0, 0.1), 1.0, first_s=1.0)),
        of(GripperSegment(0.0, 0.0, 0.0)),
        of(GripperSegment(0.0, 1.0, -0.01)),
        of(GripperSegment(0.0, 1.0, 0.09)),
        of(GripperSegment(0.0, 1000.0, 0.05)),
        Motion("other_robot", (smooth(turn(0, 0.1), 1.0),), Effect("none")),
        of(smooth(turn(0, 0.1), 1.0), effect=Effect("dance")),
        of(smooth(turn(0, 0.1), 1.0), effect=Effect("hold", "nobody")),
    ],
    ids=[
        "no segments", "time stands", "time falls", "counts differ", "one point", "six joints", "late start",
        "gap in time", "jump in joints", "no time to grip", "negative width", "too wide", "too long", "other robot",
        "unknown effect", "effect on nobody",
    ],
)  # fmt: skip
def test_malformed_motion_is_refused(motion: Motion) -> None:
    assert "format" in kinds(motion)


@pytest.mark.parametrize("junk", ["q", None, [[1, 2], [3]], "text"])
def test_what_is_not_made_of_numbers_is_refused(junk: object) -> None:
    wrong = JointSegment(freeze([0.0, 1.0]), junk)  # type: ignore[arg-type]
    assert kinds(of(wrong)) == {"format"}
    assert kinds(Motion("franka_panda", (junk,), Effect("none"))) == {"format"}  # type: ignore[arg-type]


def test_bodies_need_names_of_their_own_positive_sizes_and_rigid_poses() -> None:
    motion = of(smooth(turn(0, 0.1), 1.0))
    block = SceneObject("block", Box((0.05, 0.05, 0.05)), freeze(make_pose([0.5, 0.0, 0.025])))
    assert kinds(motion, Scene((block,), (block,))) == {"format"}
    assert kinds(motion, Scene((replace(block, shape=Box((0.05, -0.05, 0.05))),), ())) == {"format"}
    assert kinds(motion, Scene((replace(block, T_base_object=freeze(2 * np.eye(4))),), ())) == {"format"}
    assert kinds(motion, Scene((replace(block, mass_kg=-1.0),), ())) == {"format"}


def test_workspace_tells_the_worst_way_out() -> None:
    inside, outside = np.array([0.5, 0.0, 0.3]), np.array([0.5, 0.75, 0.3])
    times = np.array([0.0, 1.0])
    assert check_workspace(times, np.array([inside, inside]), PROFILE) == ()
    (violation,) = check_workspace(times, np.array([inside, outside]), PROFILE)
    assert (violation.kind, violation.time_s, violation.bodies) == ("workspace", 1.0, (PROFILE.tool_link,))
    assert violation.amount == pytest.approx(0.05)


@settings(deadline=None, max_examples=40)
@given(
    delta=st.lists(st.floats(-0.5, 0.5), min_size=7, max_size=7),
    seconds=st.floats(0.1, 4.0),
    step_s=st.sampled_from([0.002, 0.004, 0.01]),
)
def test_law_a_motion_played_ten_times_slower_keeps_every_rate_that_it_kept(
    delta: list[float], seconds: float, step_s: float
) -> None:
    moved = np.array(delta) * [1, 1, 1, 0.5, 1, 1, 1]
    if not kinds(of(smooth(moved, seconds, step_s))):
        assert not kinds(of(smooth(moved, seconds * 10, step_s * 10)))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_law_no_numbers_make_the_checks_raise(data: st.DataObject) -> None:
    anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
    count = data.draw(st.integers(0, 4))
    times = data.draw(st.lists(anything, min_size=count, max_size=count))
    width = data.draw(st.integers(0, 8))
    points = [data.draw(st.lists(anything, min_size=width, max_size=width)) for _ in range(count)]
    segment = JointSegment(np.array(times, dtype=float), np.array(points, dtype=float).reshape(count, width))
    grip = GripperSegment(data.draw(anything), data.draw(anything), data.draw(anything))
    motion = of(*data.draw(st.permutations([segment, grip])))
    with np.errstate(all="ignore"):
        assert check(motion, EMPTY, state(), PROFILE)


@pytest.mark.parametrize(("tolerance_m", "expected"), [(0.1, set()), (0.11, {"format"}), (0.0, {"format"})])
def test_an_effect_that_would_come_about_anywhere_is_refused(tolerance_m: float, expected: set[str]) -> None:
    body = SceneObject("block", Box((0.05, 0.05, 0.05)), freeze(make_pose([0.5, 0.0, 0.025])))
    effect = Effect("push", "block", freeze(make_pose([0.55, 0.0, 0.025])), tolerance_m=tolerance_m)
    assert kinds(of(smooth(turn(0, 1.0), 2.0), effect=effect), Scene((body,), ())) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(0.98, []), (1.02, [ViolationKind.TOOL_SPEED])])
def test_the_tools_speed_is_judged_on_both_sides_of_its_limit(ratio: float, expected: list[ViolationKind]) -> None:
    limit_mps = PROFILE.safety.tool_speed_mps
    time_s = np.linspace(0.0, 0.5, 51)
    p_base_tool_m = np.array([0.3, 0.0, 0.5]) + np.outer(time_s, [ratio * limit_mps, 0.0, 0.0])
    found = list(check_speed(time_s, p_base_tool_m, PROFILE, ()))
    assert [violation.kind for violation in found] == expected
