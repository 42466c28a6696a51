"""A ten-second pick-and-place → the twin's sweep and verdict times by objects and roll-outs."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.benchmarks.agreement import disagreements_m
from qwen2vl_robot.benchmarks.hazards.stage import CaseStep, Stage, blend, standing
from qwen2vl_robot.bullet import TIME_STEP_S, robot_on_table
from qwen2vl_robot.config import RobotProfile, load_robot
from qwen2vl_robot.errors import RobotError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import GripperSegment, JointSegment, Scene, SceneObject, Segment
from qwen2vl_robot.validation.pool import WORKERS, RehearsalProcess
from qwen2vl_robot.validation.rehearsal import Twin
from qwen2vl_robot.validation.timeline import timeline

OBJECTS = 6
OBJECT_COUNTS = (1, 3, 6, 12, 25, 50)
TRIAL_COUNTS = (1, 4, 16, 64, 256)
_BLOCK_M = 0.045
_SWEEP_S, _SWEEPS = 0.5, 9  # duration and number of the measurements
_REPEATS = 5
_BUDGET_S = 300.0
_BARE_STEPS = 5000
_COMPARED = 2000  # configurations at which Bullet's distances are compared with coal's


def run_validation(robot: str = "franka_panda") -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the twin; yields ("totals" | "objects" | "trials", figures) as they are ready."""
    profile = load_robot(robot)
    stage = Stage(profile, Kinematics(profile))
    totals = _sweep_and_replay(profile, pick_and_place(stage, OBJECTS))
    totals |= _judge(profile, pick_and_place(stage, OBJECTS), _REPEATS)
    totals |= _limit(profile, pick_and_place(stage, OBJECTS), totals["verdict_s"])
    totals["replay_ratio"] = round(totals["verdict_s"] / totals["replay_s"], 2)
    same_m, bare_m = disagreements_m(profile, _COMPARED, seed=0)
    totals["compared_with_oracle"] = len(same_m)
    totals["oracle_disagreement_mm"] = round(1000 * max(abs(d) for d in same_m), 3)
    totals["less_room_than_bare_hulls_mm"] = round(1000 * max(-d for d in bare_m), 3)
    totals["more_room_than_bare_hulls_mm"] = round(1000 * max(0.0, *bare_m), 3)
    yield "totals", totals
    for count in OBJECT_COUNTS:
        yield "objects", {"objects": count, **_judge(profile, pick_and_place(stage, count), 1)}
    for count in TRIAL_COUNTS:
        # Few trials can never reach the bound, but only their time matters here.
        safety = profile.safety.model_copy(update={"trials": count, "success_ratio": 0.0})
        patient = profile.model_copy(update={"safety": safety})
        yield "trials", {"trials": count, **_judge(patient, pick_and_place(stage, OBJECTS), 1)}


def pick_and_place(stage: Stage, objects: int) -> CaseStep:
    """Pick a block, carry it past the others, put it down and go home: about ten seconds from home to home."""
    block = standing("block 1", (_BLOCK_M, _BLOCK_M, 0.05), 0.5, 0.2, 0.1)
    bodies = (block, *_others(objects - 1))
    home = np.array(stage.profile.home_q_rad)
    high, low = (stage.solve(np.array([0.5, 0.2, z])) for z in (0.16, 0.03))
    over, down = (stage.solve(np.array([0.5, -0.2, z])) for z in (0.16, 0.034))
    segments: list[Segment] = []
    q_rad = home
    for goal, seconds in (
        (high, 1.5),
        (low, 0.9),
        (0.0, 0.8),
        (high, 0.9),
        (over, 1.6),
        (down, 0.9),
        (0.07, 0.6),
        (over, 0.9),
        (home, 1.9),
    ):
        at_s = segments[-1].end_s if segments else 0.0
        if isinstance(goal, float):
            segments.append(GripperSegment(at_s, at_s + seconds, goal))
        else:
            segments.append(_go(q_rad, goal, seconds, at_s))
            q_rad = goal
    return CaseStep(stage.motion(*segments), Scene(bodies, ()), stage.state(home))


def _go(q_from: Array, q_to: Array, seconds: float, at_s: float) -> JointSegment:
    return blend(q_from, q_to, seconds, at_s)


def _others(count: int) -> Iterator[SceneObject]:
    """Yield blocks on a grid beside the path."""
    places = [(x, y) for x in np.arange(0.3, 0.75, 0.07) for y in np.arange(-0.12, 0.13, 0.06)]
    places += [(x, y) for x in np.arange(0.3, 0.75, 0.07) for y in (-0.36, -0.3, 0.3, 0.36)]
    for index, (x, y) in enumerate(places[:count]):
        yield standing(f"block {index + 2}", (0.03, 0.03, 0.03), float(x), float(y), 0.05)


def _sweep_and_replay(profile: RobotProfile, step: CaseStep) -> dict[str, Any]:
    """Measure how many configurations one core sweeps per second of its time, and a plain replay at 240 Hz."""
    twin = Twin(profile)
    swept = twin.examine(step.motion, step.scene, step.start)
    if swept.violations:
        raise RobotError(f"the benchmark's own motion is refused: {swept.violations[0].describe()}")
    rates = [_swept_per_s(twin, step) for _ in range(_SWEEPS)]
    twin.close()
    return {
        "motion_s": round(step.motion.duration_s, 2),
        # The best rate, as in timeit: slower ones show the load of other processes.
        "sweep_configurations_per_s": round(max(rates)),
        "sweep_configurations_per_s_median": round(statistics.median(rates)),
        "sweep_configurations": swept.samples,
        "replay_s": round(statistics.median(_replay_s(profile, step) for _ in range(_REPEATS)), 4),
    }


def _swept_per_s(twin: Twin, step: CaseStep) -> float:
    """Measure the swept configurations per second of CPU time, including the checks of numbers."""
    samples, began_s = 0, time.process_time()
    while (spent_s := time.process_time() - began_s) < _SWEEP_S:
        samples += twin.examine(step.motion, step.scene, step.start).samples
    return samples / spent_s


def _replay_s(profile: RobotProfile, step: CaseStep) -> float:
    """Measure the seconds that Bullet takes to play a motion once, with all bodies loose and without checks."""
    line = timeline(step.motion, step.start)
    q_rad = line.q_at(np.arange(0.0, line.end_s, TIME_STEP_S))
    dq_radps = np.diff(q_rad, axis=0) / TIME_STEP_S
    grips = {round(grip.start_s / TIME_STEP_S): grip.width_m for grip in line.grips}
    with robot_on_table(profile) as world:
        for body in step.scene.objects:
            world.add_body(body.name, body.shape, body.T_base_object, mass_kg=body.mass_kg or profile.object_mass_kg)
        world.robot.reset_arm(q_rad[0], step.start.gripper_width_m)
        began = time.perf_counter()
        for first, last in itertools.pairwise(sorted({0, *grips, len(dq_radps)})):
            world.robot.command_gripper(grips.get(first, step.start.gripper_width_m), profile.gripper.force_n)
            world.robot.follow(q_rad[first + 1 : last + 1], dq_radps[first:last])
        return time.perf_counter() - began


def _limit(profile: RobotProfile, step: CaseStep, verdict_s: float) -> dict[str, Any]:
    """Measure the least that a verdict's steps cost Bullet: those of the arm alone, shared by the workers without loss.

    Returns:
        The steps of one verdict, bare steps a second of one core, the limit in seconds, and the distance to it.
    """
    twin = Twin(profile)
    before_s = twin.simulated_s
    twin.rehearse(step.motion, step.scene, step.start)
    steps = round((twin.simulated_s - before_s) / TIME_STEP_S)
    twin.close()
    with robot_on_table(profile) as world:
        world.robot.command_arm(step.start.q_rad)
        began_s = time.process_time()
        world.step(_BARE_STEPS)
        per_s = _BARE_STEPS / (time.process_time() - began_s)
    limit_s = steps / per_s / WORKERS
    return {
        "steps": steps,
        "bare_steps_per_s": round(per_s),
        "limit_s": round(limit_s, 3),
        "limit_ratio": round(verdict_s / limit_s, 2),
    }


def _judge(profile: RobotProfile, step: CaseStep, repeats: int) -> dict[str, Any]:
    """Measure the median time of a full verdict by the pool."""
    with RehearsalProcess(profile, budget_s=_BUDGET_S) as rehearsal:
        rehearsal.start()
        verdicts = [rehearsal.rehearse(step.motion, step.scene, step.start) for _ in range(repeats + 1)][1:]
    seconds = statistics.median(v.seconds for v in verdicts)
    return {
        "verdict_s": round(seconds, 3),
        "realtime_ratio": round(step.motion.duration_s / seconds, 2),
        "accepted": all(v.accepted for v in verdicts),
    }


# --------------------------------------------------------------------------------------------------- plot


def plot_svg(objects: list[dict[str, Any]], trials: list[dict[str, Any]]) -> str:
    """Draw both series side by side on logarithmic axes."""
    panels = [("objects", objects, 60), ("trials", trials, 420)]
    parts = [_panel(name, rows, left) for name, rows, left in panels]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="300" font-family="sans-serif" font-size="12">'
        f'<rect width="760" height="300" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(name: str, rows: list[dict[str, Any]], left: int) -> str:
    width, height, top = 300, 200, 40
    xs, ys = (np.log10([max(float(r[key]), 1e-3) for r in rows]) for key in (name, "verdict_s"))
    low, high = float(np.floor(ys.min())), float(np.ceil(ys.max()))
    px = left + width * (xs - xs.min()) / max(float(np.ptp(xs)), 1e-9)
    py = top + height * (1 - (ys - low) / max(high - low, 1e-9))
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(px, py, strict=True))
    marks = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3"/>'
        f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{r["verdict_s"]}</text>'
        f'<text x="{x:.0f}" y="{top + height + 16}" text-anchor="middle">{r[name]}</text>'
        for x, y, r in zip(px, py, rows, strict=True)
    )
    frame = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
    title = f'<text x="{left}" y="{top - 18}">seconds for a verdict against {name} (log, log)</text>'
    return f'{frame}{title}<polyline points="{line}" fill="none" stroke="#26c"/>{marks}'
