"""A table → endings of a pick: the target is in the gripper, or it only looks so.

Each maker draws what it needs and returns None where the table has no room for it.
"""

from __future__ import annotations

from qwen2vl_robot.benchmarks.endings.promises import Ending, at_home, hold_step, knock, lying
from qwen2vl_robot.benchmarks.endings.table import AWAY, COPY, STRANGER, Table
from qwen2vl_robot.messages import Cylinder, shape_size_m


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


def held_tipped(table: Table) -> Ending | None:
    """The target is held, and a cylinder beside it was tipped over."""
    before = table.standing()
    upright = [k for k, o in table.bodies.items() if isinstance(o.shape, Cylinder) and "cylinder" in k]
    upright = [k for k in upright if k not in (table.target, table.reference)]
    if not upright:
        return None
    label = str(table.rng.choice(upright))
    body = table.bodies[label]
    assert isinstance(body.shape, Cylinder)
    poses = {label: lying(table, body.T_base_object[:2, 3], body.shape)}
    return Ending(hold_step(table, before), before, at_home(table, poses, table.target))
