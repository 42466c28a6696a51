"""A table → endings of a push, of going home and of waiting, as they should be and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwen2vl_robot.benchmarks.endings.promises import (
    Ending,
    at_home,
    away_from,
    idle_step,
    knock,
    moved,
    standing_at,
    step_of,
)
from qwen2vl_robot.benchmarks.endings.table import AWAY, Table
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import Effect, freeze

_PUSH_M, _PUSH_TOLERANCE_M = 0.09, 0.04  # as `motion/pushes.py` and `motion/push.py`
_SHORT_RAD = 0.045


def pushed(table: Table) -> Ending | None:
    """The target stands where it was to be pushed."""
    return _pushed(table, lambda start_m, aim_m: away_from(table, aim_m, 0.0, 0.015))


def pushed_short(table: Table) -> Ending | None:
    """It moved by half as far at most, or not at all."""
    return _pushed(table, lambda start_m, aim_m: start_m + table.rng.choice([0.0, 0.3, 0.4]) * (aim_m - start_m))


def _pushed(table: Table, where: Callable[[Array, Array], Array]) -> Ending | None:
    before = table.standing()
    start = before.scene.find(table.target)
    true = before.truth.bodies[table.target]
    for bearing in table.rng.permutation(4):
        along = np.array([np.cos(bearing * np.pi / 2), np.sin(bearing * np.pi / 2), 0.0])
        aim_m = start.T_base_object[:3, 3] + _PUSH_M * along
        if table.free_spot(true.shape, aim_m[:2], (0.0, 1e-6), without=(table.target,)) is None:
            continue
        T = freeze(make_pose(aim_m, start.T_base_object[:3, :3]))
        effect = Effect("push", table.target, T, tolerance_m=_PUSH_TOLERANCE_M)
        step = step_of(table, before, effect, moved(before.scene, table.target, T), 0.0)
        end = standing_at(table, where(start.T_base_object[:3, 3], aim_m), true.T_base_object[:3, :3])
        return Ending(step, before, at_home(table, {table.target: end}, None, 0.0))
    return None


def pushed_knocked(table: Table) -> Ending | None:
    """It stands where it should, and something unnamed was knocked aside."""
    ending = pushed(table)
    poses = None if ending is None else knock(table, ending.before, dict(ending.arrangement.poses))
    if ending is None or poses is None:
        return None
    return replace(ending, arrangement=replace(ending.arrangement, poses=poses))


def homed(table: Table) -> Ending | None:
    """The arm went home from over the table."""
    q_rad = table.arm_in_view()
    if q_rad is None:
        return None
    before = table.with_arm_at(q_rad)
    return Ending(idle_step(table, before), before, at_home(table, {}, None))


def homed_short(table: Table) -> Ending | None:
    """One joint never makes the last 0.045 rad, and the controller says that it finished."""
    ending = homed(table)
    if ending is None:
        return None
    q_rad = table.home_rad.copy()
    q_rad[table.rng.integers(len(q_rad))] += table.rng.choice([-1.0, 1.0]) * _SHORT_RAD
    return replace(ending, arrangement=replace(ending.arrangement, q_rad=q_rad))


def homed_echo(table: Table) -> Ending | None:
    """The arm stands where it was, and the driver reports what it was told."""
    ending = homed(table)
    if ending is None:
        return None
    arrangement = replace(ending.arrangement, q_rad=np.array(ending.before.observation.robot.q_rad))
    return replace(ending, arrangement=arrangement, reports=table.home_rad)


def homed_unseen_echo(table: Table) -> Ending | None:
    """As `homed_echo`, where the camera sees too little of the arm that stands aside."""
    q_rad = table.arm_out_of_view()
    if q_rad is None:
        return None
    before = table.with_arm_at(q_rad)
    aside = replace(at_home(table, {}, None), q_rad=q_rad)
    return Ending(idle_step(table, before), before, aside, reports=table.home_rad)


def homed_knocked(table: Table) -> Ending | None:
    """The arm is at home and has swept something along."""
    ending = homed(table)
    poses = None if ending is None else knock(table, ending.before)
    if ending is None or poses is None:
        return None
    return replace(ending, arrangement=replace(ending.arrangement, poses=poses))


def waited(table: Table) -> Ending | None:
    """Nothing happened, as it should."""
    before = table.standing()
    return Ending(idle_step(table, before), before, at_home(table, {}, None))


def waited_moved(table: Table) -> Ending | None:
    """Something was moved while the arm waited."""
    before = table.standing()
    poses = knock(table, before)
    return None if poses is None else Ending(idle_step(table, before), before, at_home(table, poses, None))


def waited_gone(table: Table) -> Ending | None:
    """Something was taken away while the arm waited."""
    before, label = table.standing(), table.bystander()
    if label is None:
        return None
    return Ending(idle_step(table, before), before, at_home(table, {label: AWAY}, None))
