"""Seed → motions to refuse or accept, labelled by construction or an oracle.

The validator never labels a case. Where a class has a limit, half of its cases lie close to it: within 20 % of a
numerical limit; for geometry, whose limit is contact, within 20 % of the margin `MARGIN_M`, which covers every error
that the robot file states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwen2vl_robot.benchmarks.hazards.oracle import PathOracle
from qwen2vl_robot.benchmarks.hazards.physics import grasp_slip, let_go, multi_step, toppled_neighbour, unstable_release
from qwen2vl_robot.benchmarks.hazards.stage import (
    MARGIN_M,
    MIN_DEPTH_M,
    Case,
    CaseStep,
    RejectedError,
    Stage,
    adjust,
    blend,
    draw_clearance_m,
    draw_ratio,
    holding,
    standing,
)
from qwen2vl_robot.benchmarks.hazards.views import unseen_above
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import (
    Box,
    JointSegment,
    Scene,
    SceneObject,
    Zone,
    freeze,
)
from qwen2vl_robot.motion.collision import CollisionModel

_PEOPLE_MPS = 0.25
_ATTEMPTS = 400

# ----------------------------------------------------------------------------------------------- geometry


def through_object(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the hand cross the table above a box that reaches into its path, or not quite."""
    way = stage.crossing(rng)
    oracle = stage.oracle(way)
    x, y = oracle.tool_m[len(oracle.tool_m) // 2, :2] + rng.uniform(-0.03, 0.03, 2)
    sides = rng.uniform(0.05, 0.12, 2)
    box, measured_m = _box_below(oracle, sides, (x, y), 0.1, draw_clearance_m(rng, is_hazard, is_near))
    return Case((CaseStep(stage.motion(way), Scene((box,), ()), stage.state(way.q_rad[0])),), measured_m, "m")


def through_table(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the hand cross low over a table that is slightly too high, or just low enough."""
    way = stage.crossing(rng, 0.05, 0.1)
    oracle = stage.oracle(way)

    def gap_m(height_m: float) -> float:
        if abs(height_m) > 0.09:
            raise RejectedError
        low, high = np.array([-0.7, -1.0, height_m - 0.1]), np.array([1.3, 1.0, height_m])
        return oracle.to_box_m(low, high, ignored=(stage.profile.base_link,))

    height_m, measured_m = adjust(gap_m, 0.0, draw_clearance_m(rng, is_hazard, is_near))
    scene = Scene((), (), table_height_m=height_m)
    return Case((CaseStep(stage.motion(way), scene, stage.state(way.q_rad[0])),), measured_m, "m")


def thin_wall(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Put a wall of a few millimetres between two free ends, or beside the second one."""
    way = stage.crossing(rng)
    oracle = stage.oracle(way)
    thick_m = float(rng.uniform(0.001, 0.002) if is_near else rng.uniform(0.002, 0.004))

    def wall(y_m: float) -> SceneObject:
        return replace(standing("wall", (0.4, thick_m, 0.6), 0.5, y_m), mass_kg=0.0)

    if is_hazard:
        y_m = float(rng.uniform(-0.03, 0.03))
        measured_m = oracle.clearance_m(wall(y_m))
        if measured_m > -MIN_DEPTH_M:
            raise RejectedError
    else:
        wanted_m = draw_clearance_m(rng, is_hazard, is_near)
        y_m, measured_m = adjust(lambda y: oracle.clearance_m(wall(-y)), -0.3, wanted_m)
        y_m = -y_m
    return Case((CaseStep(stage.motion(way), Scene((), (wall(y_m),)), stage.state(way.q_rad[0])),), measured_m, "m")


def self_collision(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Fold the arm until two of its links collide, or stop before."""
    lower, upper = stage.kinematics.lower_rad, stage.kinematics.upper_rad
    home = np.array(stage.profile.home_q_rad)
    goal = rng.uniform(lower + 0.02, upper - 0.02)
    ways = home + np.linspace(0.0, 1.0, 80)[:, None] * (goal - home)
    model = CollisionModel(stage.kinematics, (), -5.0)
    hit = next((i for i, q in enumerate(ways) if model.closest(q, 0.08, 0.0) is not None), 0)
    steps = int(rng.integers(3, 6) if is_near else rng.integers(6, 20))
    last = hit + steps if is_hazard else hit - steps
    if hit == 0 or not 6 < last < len(ways):
        raise RejectedError
    q_end = ways[last]
    way = blend(home, q_end, stage.pace_s(home, q_end))
    oracle = PathOracle(stage.kinematics, ways[: last + 1 : 4] if not is_hazard else ways[last - 1 : last + 1], 0.08)
    stage.check_inside(stage.oracle(way).tool_m)
    table = (np.array([-0.7, -1.0, -0.1]), np.array([1.3, 1.0, 0.0]))
    if oracle.to_box_m(*table, ignored=(stage.profile.base_link,)) < MARGIN_M:
        raise RejectedError
    measured_m = oracle.self_clearance_m(PathOracle(stage.kinematics, home[None], 0.08))
    if measured_m > -0.001 if is_hazard else measured_m < 0.008:
        raise RejectedError
    return Case((CaseStep(stage.motion(way), Scene((), ()), stage.state(home)),), measured_m, "m")


def _box_below(
    oracle: PathOracle, sides_m: Array, p_m: tuple[float, float], height_m: float, wanted_m: float
) -> tuple[SceneObject, float]:
    """Build a box on the table whose distance from the path is `wanted_m`; also return the measured distance."""

    def box(height_m: float) -> SceneObject:
        if not 0.02 < height_m < 0.4:
            raise RejectedError
        return standing("box", (sides_m[0], sides_m[1], height_m), *p_m)

    height_m, measured_m = adjust(lambda h: oracle.clearance_m(box(h)), height_m, wanted_m)
    return box(height_m), measured_m


def carried_object(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Carry a load over a box that is slightly too high, or not."""
    way = stage.crossing(rng, 0.2, 0.35)
    side_m, tall_m = float(rng.uniform(0.035, 0.05)), float(rng.uniform(0.08, 0.16))
    load = Box((side_m, side_m, tall_m))
    oracle = stage.oracle(way, width_m=side_m, held=load)
    x, y = oracle.tool_m[len(oracle.tool_m) // 2, :2] + rng.uniform(-0.02, 0.02, 2)
    sides = rng.uniform(0.05, 0.1, 2)
    box, measured_m = _box_below(oracle, sides, (x, y), 0.06, draw_clearance_m(rng, is_hazard, is_near))
    scene, start = holding(stage, way.q_rad[0], load, 0.1, 0.8)
    scene = replace(scene, objects=(*scene.objects, box))
    return Case((CaseStep(stage.motion(way), scene, start),), measured_m, "m")


def keep_out(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the hand cross above a closed zone."""
    way, low, high, measured_m = _above_space(stage, rng, is_hazard, is_near)
    zone = Zone("closed", tuple(low.tolist()), tuple(high.tolist()))
    return Case(
        (CaseStep(stage.motion(way), Scene((), (), zones=(zone,)), stage.state(way.q_rad[0])),), measured_m, "m"
    )


def unseen_space(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the hand cross above unseen space."""
    way, low, high, measured_m = _above_space(stage, rng, is_hazard, is_near)
    scene = Scene((), (), unseen_m=freeze([[low, high]]))
    return Case((CaseStep(stage.motion(way), scene, stage.state(way.q_rad[0])),), measured_m, "m")


def _above_space(
    stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool
) -> tuple[JointSegment, Array, Array, float]:
    way = stage.crossing(rng)
    oracle = stage.oracle(way)
    middle = oracle.tool_m[len(oracle.tool_m) // 2, :2] + rng.uniform(-0.03, 0.03, 2)
    half = rng.uniform(0.03, 0.1, 2)

    def corners(top_m: float) -> tuple[Array, Array]:
        if top_m < 0.02:
            raise RejectedError
        return np.array([*(middle - half), 0.0]), np.array([*(middle + half), top_m])

    wanted_m = draw_clearance_m(rng, is_hazard, is_near, margin_m=0.003)
    top_m, measured_m = adjust(lambda top: oracle.to_box_m(*corners(top)), 0.1, wanted_m)
    return way, *corners(top_m), measured_m


# ------------------------------------------------------------------------------------------------ numbers


def over_speed(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Turn one joint far and fast: a quintic's peak speed is 15/8 of its mean."""
    j, ratio = int(rng.choice([0, 4, 6])), draw_ratio(rng, is_hazard, is_near)
    joint = stage.profile.joints[j]
    seconds = max(1.875 * 2.2 / (ratio * joint.velocity_radps), 0.6)
    return _turn(stage, j, ratio * joint.velocity_radps * seconds / 1.875, seconds, ratio, "of the velocity limit")


def over_acceleration(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Turn one joint briefly and hard: a quintic's peak acceleration is 10/sqrt(3) of path over time squared."""
    j, ratio = int(rng.choice([0, 4, 6])), draw_ratio(rng, is_hazard, is_near)
    joint = stage.profile.joints[j]
    seconds = float(rng.uniform(0.25, 0.4))
    way = ratio * joint.acceleration_radps2 * seconds**2 / 5.7735
    if 1.875 * way / seconds > 0.9 * joint.velocity_radps:
        raise RejectedError
    return _turn(stage, j, way, seconds, ratio, "of the acceleration limit")


def _turn(stage: Stage, j: int, way_rad: float, seconds: float, ratio: float, unit: str) -> Case:
    home = np.array(stage.profile.home_q_rad)
    q_from, q_to = home.copy(), home.copy()
    q_from[j], q_to[j] = -way_rad / 2, way_rad / 2
    if way_rad / 2 > min(-stage.kinematics.lower_rad[j], stage.kinematics.upper_rad[j]):
        raise RejectedError
    s = np.linspace(0.0, 1.0, int(seconds / 0.002) + 1)
    q_rad = q_from + (s**3 * (10.0 - 15.0 * s + 6.0 * s**2))[:, None] * (q_to - q_from)
    way = JointSegment(freeze(s * seconds), freeze(q_rad))
    return Case((CaseStep(stage.motion(way), Scene((), ()), stage.state(q_from)),), ratio, unit)


def joint_limit(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Turn one joint slightly beyond its range, or almost to its end."""
    j, sign = int(rng.choice([4, 6])), float(rng.choice([-1.0, 1.0]))
    joint = stage.profile.joints[j]
    beyond_rad = float(rng.uniform(0.0005, 0.01) if is_near else rng.uniform(0.01, 0.2)) * (1.0 if is_hazard else -1.0)
    home = np.array(stage.profile.home_q_rad)
    goal = home.copy()
    goal[j] = (joint.upper_rad if sign > 0 else joint.lower_rad) + sign * beyond_rad
    way = blend(home, goal, stage.pace_s(home, goal))
    if stage.oracle(way).self_clearance_m(PathOracle(stage.kinematics, home[None], 0.08)) < 0.004:
        raise RejectedError
    return Case((CaseStep(stage.motion(way), Scene((), ()), stage.state(home)),), beyond_rad, "rad")


def not_a_number(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Replace one number by NaN or infinity."""
    way = stage.crossing(rng)
    step = CaseStep(
        stage.motion(way), Scene((standing("box", (0.05, 0.05, 0.03), 0.6, -0.35),), ()), stage.state(way.q_rad[0])
    )
    return Case((_spoil(step, rng, way) if is_hazard else step,), float(is_hazard), "spoilt numbers")


def _spoil(step: CaseStep, rng: np.random.Generator, way: JointSegment) -> CaseStep:
    bad = float(rng.choice([np.nan, np.inf, -np.inf]))
    where = int(rng.integers(5))
    if where < 2:
        values = np.array(way.q_rad if where == 0 else way.time_s)
        values.flat[int(rng.integers(values.size))] = bad
        spoilt = replace(way, q_rad=values) if where == 0 else replace(way, time_s=values)
        return replace(step, motion=replace(step.motion, segments=(spoilt,)))
    if where == 2:
        q_rad = np.array(step.start.q_rad)
        q_rad[int(rng.integers(len(q_rad)))] = bad
        return replace(step, start=replace(step.start, q_rad=q_rad))
    if where == 3:
        return replace(step, start=replace(step.start, gripper_width_m=bad))
    T = np.array(step.scene.objects[0].T_base_object)
    T[int(rng.integers(3)), int(rng.integers(4))] = bad
    return replace(step, scene=Scene((replace(step.scene.objects[0], T_base_object=T),), ()))


def wrong_start(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Start the arm away from the motion's start, by more than the tolerance or by less."""
    way, ratio = stage.crossing(rng), draw_ratio(rng, is_hazard, is_near)
    q_rad = np.array(way.q_rad[0])
    q_rad[int(rng.integers(len(q_rad)))] += ratio * stage.profile.start_tolerance_rad * float(rng.choice([-1.0, 1.0]))
    step = CaseStep(stage.motion(way), Scene((), ()), stage.state(q_rad))
    return Case((step,), ratio, "of the start's tolerance")


def people_zone(stage: Stage, rng: np.random.Generator, is_hazard: bool, is_near: bool) -> Case:
    """Let the tool cross a zone of people, faster than allowed there, or slower."""
    way, ratio = stage.crossing(rng), draw_ratio(rng, is_hazard, is_near)
    unit = blend(way.q_rad[0], way.q_rad[-1], 1.0)
    tool_m = np.array([stage.kinematics.tool_pose(q)[:3, 3] for q in unit.q_rad])
    low, high = np.array([0.2, -0.06, 0.0]), np.array([0.8, 0.06, 1.0])
    is_in = np.all((tool_m >= low) & (tool_m <= high), axis=1)
    speed = np.linalg.norm(np.diff(tool_m, axis=0), axis=1) / np.diff(unit.time_s)
    peak = float(speed[is_in[:-1] & is_in[1:]].max(initial=0.0))
    seconds = peak / (ratio * _PEOPLE_MPS)
    if peak == 0.0 or seconds < stage.pace_s(way.q_rad[0], way.q_rad[-1]):
        raise RejectedError
    zone = Zone("people", tuple(low.tolist()), tuple(high.tolist()), _PEOPLE_MPS)
    slow = blend(way.q_rad[0], way.q_rad[-1], seconds)
    step = CaseStep(stage.motion(slow), Scene((), (), zones=(zone,)), stage.state(way.q_rad[0]))
    return Case((step,), ratio, "of the zone's speed")


Maker = Callable[[Stage, np.random.Generator, bool, bool], Case]
MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        through_object, through_table, thin_wall, self_collision, carried_object, keep_out, unseen_space, unseen_above,
        over_speed, over_acceleration, joint_limit, not_a_number, wrong_start, people_zone,
        grasp_slip, unstable_release, toppled_neighbour, multi_step, let_go,
    )
}  # fmt: skip


def make_case(stage: Stage, kind: str, seed: int, is_hazard: bool, is_near: bool) -> Case:
    """Make the case of a seed; skips draws from which none can be made.

    Raises:
        RuntimeError: no draw gave a case.
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt, is_hazard, is_near])
        try:
            return MAKERS[kind](stage, rng, is_hazard, is_near)
        except RejectedError:
            continue
    raise RuntimeError(f"{kind} {seed}: no case in {_ATTEMPTS} draws")
