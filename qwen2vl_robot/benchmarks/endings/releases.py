"""A table → endings of a place: the target rests where it should, or it only looks so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwen2vl_robot.benchmarks.endings.promises import (
    Ending,
    at_home,
    away_from,
    knock,
    lying,
    place_aim,
    release_step,
    standing_at,
)
from qwen2vl_robot.benchmarks.endings.table import AWAY, COPY, Table
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Cylinder, Relation, Sphere
from qwen2vl_robot.relations import placements

_APART_M = 0.1


def placed(table: Table) -> Ending | None:
    """The target rests where it was to be put, a bit off at most."""
    return _placed(table, lambda aim_m: away_from(table, aim_m, 0.0, 0.012))


def _placed(table: Table, where: Callable[[Array], Array]) -> Ending | None:
    before = table.holding()
    aim = place_aim(table, before)
    if aim is None:
        return None
    step = release_step(table, before, *aim)
    return Ending(step, before, at_home(table, {table.target: standing_at(table, where(aim[0]))}, None))


def placed_beside(table: Table) -> Ending | None:
    """It fell 6 to 12 cm from there."""
    return _placed(table, lambda aim_m: away_from(table, aim_m, 0.06, 0.12))


def placed_knocked(table: Table) -> Ending | None:
    """It rests where it should, and something unnamed was knocked aside."""
    ending = placed(table)
    poses = None if ending is None else knock(table, ending.before, dict(ending.arrangement.poses))
    if ending is None or poses is None:
        return None
    return replace(ending, arrangement=replace(ending.arrangement, poses=poses))


def placed_copy(table: Table) -> Ending | None:
    """What looks like the target was pushed to 20 to 28 mm from the aim; the target lies on the floor."""
    spot = table.free_spot(table.bodies[table.target].shape, without=(table.target,))
    if spot is None:
        return None
    before = table.holding({COPY: spot})
    aim = place_aim(table, before)
    if aim is None:
        return None
    near = standing_at(table, away_from(table, aim[0], 0.020, 0.028))
    poses = {table.target: AWAY, COPY: near}
    return Ending(release_step(table, before, *aim), before, at_home(table, poses, None))


def placed_beside_copy(table: Table) -> Ending | None:
    """The target rests where it should; what looks like it stands elsewhere, as before."""
    spot = table.free_spot(table.bodies[table.target].shape, without=(table.target,))
    if spot is None:
        return None
    before = table.holding({COPY: spot})
    aim = place_aim(table, before)
    if aim is None or np.linalg.norm(aim[0][:2] - spot[:2, 3]) < _APART_M:
        return None
    poses = {table.target: standing_at(table, aim[0]), COPY: before.truth.bodies[COPY].T_base_object}
    return Ending(release_step(table, before, *aim), before, at_home(table, poses, None))


def placed_new_copy(table: Table) -> Ending | None:
    """What looks like the target has come from somewhere to near the aim; the target stands elsewhere on the table."""
    before = table.holding()
    aim = place_aim(table, before)
    spot = table.free_spot(table.bodies[table.target].shape, without=(table.target,))
    if aim is None or spot is None or np.linalg.norm(aim[0][:2] - spot[:2, 3]) < _APART_M:
        return None
    poses = {table.target: spot, COPY: standing_at(table, away_from(table, aim[0], 0.0, 0.02))}
    return Ending(release_step(table, before, *aim), before, at_home(table, poses, None))


def placed_slid(table: Table) -> Ending | None:
    """What it was put on, in or beside slid by 3 to 8 cm, and it along with that."""
    ending = placed(table)
    if ending is None:
        return None
    reference = ending.before.truth.bodies[table.reference]
    spot = table.free_spot(
        reference.shape, reference.T_base_object[:2, 3], (0.03, 0.08), without=(table.reference, table.target)
    )
    if spot is None:
        return None
    poses = {k: T.copy() for k, T in ending.arrangement.poses.items()}
    slide_m = spot[:2, 3] - reference.T_base_object[:2, 3]
    poses[table.target][:2, 3] += slide_m
    poses[table.reference] = reference.T_base_object.copy()
    poses[table.reference][:2, 3] += slide_m
    return replace(ending, arrangement=replace(ending.arrangement, poses=poses))


def still_held(table: Table) -> Ending | None:
    """The fingers opened, they say, but the target still hangs between them."""
    before = table.holding()
    aim = place_aim(table, before)
    if aim is None:
        return None
    return Ending(release_step(table, before, *aim), before, at_home(table, {}, table.target))


def toppled(table: Table) -> Ending | None:
    """The cylinder lies where it should stand."""
    before = table.holding()
    aim, shape = place_aim(table, before), table.bodies[table.target].shape
    if aim is None or not isinstance(shape, Cylinder):
        return None
    T = lying(table, aim[0][:2], shape)
    T[2, 3] += aim[0][2] - shape.height_m / 2
    return Ending(release_step(table, before, *aim), before, at_home(table, {table.target: T}, None))


def rolling(table: Table) -> Ending | None:
    """A ball that was put down is still near there, and rolls."""
    shape = table.bodies[table.target].shape
    if not isinstance(shape, Sphere):
        return None
    before = table.holding()
    start = before.scene.find(table.reference)
    others = [b for b in before.scene.bodies() if b.name not in (table.target, table.reference)]
    shape_seen, rules = before.scene.find(table.target).shape, table.surroundings.rules
    found = placements(Relation.NEXT_TO, shape_seen, start, others, rules, None)
    if not found:
        return None
    step = release_step(table, before, found[0], Relation.NEXT_TO)
    bearing, speed_mps = table.rng.uniform(0.0, 2 * np.pi), table.rng.uniform(0.15, 0.4)
    velocity = speed_mps * np.array([np.cos(bearing), np.sin(bearing), 0.0])
    arrangement = at_home(table, {table.target: standing_at(table, found[0])}, None)
    return Ending(step, before, replace(arrangement, speeds_mps={table.target: velocity}))
