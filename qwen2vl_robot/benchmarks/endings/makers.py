"""A table → endings of motions: some are successes, some only look so.

A maker draws what it needs and returns None where the table has no room for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwen2vl_robot.benchmarks.endings.promises import (
    Ending,
    at_home,
    away_from,
    hold_step,
    idle_step,
    knock,
    lying,
    moved,
    place_aim,
    release_step,
    standing_at,
    step_of,
)
from qwen2vl_robot.benchmarks.endings.table import AWAY, COPY, STRANGER, Table
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import (
    Cylinder,
    Effect,
    Relation,
    Sphere,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.relations import placements

_PUSH_M, _PUSH_TOLERANCE_M = 0.09, 0.04  # as `motion/pushes.py` and `motion/push.py`
_SHORT_RAD = 0.045

Maker = Callable[[Table], Ending | None]


# ----------------------------------------------------------------------------------- a hold: true, and only so


def held(table: Table) -> Ending | None:
    """The target is in the gripper."""
    before = table.standing()
    return Ending(hold_step(table, before), before, at_home(table, {}, table.target))


def held_beside_copy(table: Table) -> Ending | None:
    """The target is in the gripper, and what looks like it stands where it stood."""
    before = table.standing_with_copy()
    if before is None:
        return None
    return Ending(hold_step(table, before), before, at_home(table, dict(before.arrangement.poses), table.target))


def held_other(table: Table) -> Ending | None:
    """The fingers hold something else as wide; the target stands 5 to 10 cm aside."""
    before = table.standing()
    start = before.truth.bodies[table.target]
    spot = table.free_spot(start.shape, start.T_base_object[:2, 3], (0.05, 0.10), without=(table.target,))
    if spot is None:
        return None
    return Ending(hold_step(table, before), before, at_home(table, {table.target: spot}, STRANGER))


def held_copy(table: Table) -> Ending | None:
    """The fingers hold what looks like the target; the target has fallen where nobody sees it."""
    before = table.standing_with_copy()
    if before is None:
        return None
    return Ending(hold_step(table, before), before, at_home(table, {table.target: AWAY}, COPY))


def swapped(table: Table) -> Ending | None:
    """The fingers hold what looks like the target; the target stands 2 to 5 cm from where that stood."""
    before = table.standing_with_copy()
    if before is None:
        return None
    copy = before.truth.bodies[COPY]
    spot = table.free_spot(copy.shape, copy.T_base_object[:2, 3], (0.02, 0.05), without=(table.target,))
    return (
        None if spot is None else Ending(hold_step(table, before), before, at_home(table, {table.target: spot}, COPY))
    )


def toppled_open(table: Table) -> Ending | None:
    """The gripper is fully open, the cylinder lies where it stood."""
    before = table.standing()
    start = before.truth.bodies[table.target]
    if not isinstance(start.shape, Cylinder):
        return None
    T = lying(table, start.T_base_object[:2, 3], start.shape)
    return Ending(hold_step(table, before), before, at_home(table, {table.target: T}, None))


def missed(table: Table) -> Ending | None:
    """The fingers stopped as wide as the target, with nothing between them; it stands where it was, or a bit aside."""
    before = table.standing()
    start = before.truth.bodies[table.target]
    poses = {}
    if table.rng.random() < 0.5:
        spot = table.free_spot(start.shape, start.T_base_object[:2, 3], (0.0, 0.03), without=(table.target,))
        poses = {} if spot is None else {table.target: spot}
    return Ending(hold_step(table, before), before, at_home(table, poses, None, shape_size_m(start.shape)[1]))


def dropped(table: Table) -> Ending | None:
    """The fingers are closed on nothing; the target stands somewhere else."""
    before = table.standing()
    start = before.truth.bodies[table.target]
    spot = table.free_spot(start.shape, start.T_base_object[:2, 3], (0.06, 0.25), without=(table.target,))
    if spot is None:
        return None
    return Ending(hold_step(table, before), before, at_home(table, {table.target: spot}, None, 0.0))


def held_knocked(table: Table) -> Ending | None:
    """The target is held, and something unnamed was knocked aside on the way."""
    before = table.standing()
    poses = knock(table, before)
    return None if poses is None else Ending(hold_step(table, before), before, at_home(table, poses, table.target))


# ------------------------------------------------------------------------------- a release: true, and only so


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
    if aim is None or np.linalg.norm(aim[0][:2] - spot[:2, 3]) < 0.1:
        return None
    poses = {table.target: standing_at(table, aim[0]), COPY: before.truth.bodies[COPY].T_base_object}
    return Ending(release_step(table, before, *aim), before, at_home(table, poses, None))


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
    found = placements(Relation.NEXT_TO, before.scene.find(table.target).shape, start, others, table.surroundings.rules)
    if not found:
        return None
    step = release_step(table, before, found[0], Relation.NEXT_TO)
    bearing, speed_mps = table.rng.uniform(0.0, 2 * np.pi), table.rng.uniform(0.15, 0.4)
    velocity = speed_mps * np.array([np.cos(bearing), np.sin(bearing), 0.0])
    arrangement = at_home(table, {table.target: standing_at(table, found[0])}, None)
    return Ending(step, before, replace(arrangement, speeds_mps={table.target: velocity}))


# ---------------------------------------------------------------------------------- a push: true, and only so


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


# -------------------------------------------------------------------------------- home and wait: true, and only so


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


SUCCESSES: tuple[Maker, ...] = (held, held_beside_copy, placed, placed_beside_copy, pushed, homed, waited)
FAILURES: tuple[Maker, ...] = (
    held_other,
    held_copy,
    swapped,
    toppled_open,
    missed,
    dropped,
    held_knocked,
    placed_beside,
    placed_knocked,
    placed_copy,
    still_held,
    toppled,
    rolling,
    pushed_short,
    pushed_knocked,
    homed_short,
    homed_echo,
    homed_knocked,
    waited_moved,
)
