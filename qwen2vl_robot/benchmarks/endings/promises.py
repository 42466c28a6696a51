"""A table → what the twin would have promised for a step, and where things are put to end it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.benchmarks.endings.table import COPY, Before, Table, grip_width_m, held_pose
from qwen2vl_robot.geometry import Array, make_pose, rotation_from_rotvec
from qwen2vl_robot.messages import (
    Cylinder,
    Effect,
    JointSegment,
    Motion,
    Rehearsed,
    Relation,
    RobotState,
    Scene,
    Shape,
    Sphere,
    Verdict,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.plant.staged import Arrangement
from qwen2vl_robot.relations import placements

_PLACE_TOLERANCE_M, _FALL_TOLERANCE_M = 0.03, 0.05  # as `motion/place.py`


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """What is arranged in the plant, and the step that is said to have ended so.

    Attributes:
        reports: joints (n,) that the driver reports, whatever the truth is; None for a driver that measures.
    """

    step: Rehearsed
    before: Before
    arrangement: Arrangement
    reports: Array | None = None


def step_of(table: Table, before: Before, effect: Effect, after: Scene, width_m: float) -> Rehearsed:
    """A step of which the twin promised this scene, with the arm at home."""
    start = before.observation.robot
    q_rad = freeze(np.stack([start.q_rad, table.home_rad]))
    motion = Motion(table.surroundings.profile.name, (JointSegment(freeze([0.0, 3.0]), q_rad),), effect)
    end = RobotState(start.stamp_ns, freeze(table.home_rad), freeze(np.zeros(len(table.home_rad))), width_m, after.held)
    verdict = Verdict(True, (), "", "", "", "", after, end)
    return Rehearsed(motion, verdict, before.scene, start, 0, before.frame)


def hold_step(table: Table, before: Before) -> Rehearsed:
    """A pick of the target that the twin accepted."""
    width_m = grip_width_m(before.scene.find(table.target), table.bodies[table.target])
    after = replace(before.scene, held=table.target, T_tool_held=freeze(table.T_tool_held))
    return step_of(table, before, Effect("hold", table.target), after, width_m)


def release_step(table: Table, before: Before, aim_m: Array, relation: Relation) -> Rehearsed:
    """A place of the target at a point (3,) that the twin accepted."""
    tolerance_m = _FALL_TOLERANCE_M if relation is Relation.IN else _PLACE_TOLERANCE_M
    T = freeze(make_pose(aim_m))
    effect = Effect("release", table.target, T, relation, table.reference, tolerance_m)
    return step_of(table, before, effect, moved(before.scene, table.target, T), table.open_m)


def moved(scene: Scene, name: str, T_base_object: Array) -> Scene:
    """The scene with one object elsewhere, and nothing held."""
    objects = tuple(replace(o, T_base_object=T_base_object) if o.name == name else o for o in scene.objects)
    return replace(scene, objects=objects, held=None, T_tool_held=None)


def idle_step(table: Table, before: Before) -> Rehearsed:
    """A step that is to change nothing but the arm."""
    return step_of(table, before, Effect("none"), before.scene, before.observation.robot.gripper_width_m)


def place_aim(table: Table, before: Before) -> tuple[Array, Relation] | None:
    """Where the target is to be put down: on the plate or in the bowl, sometimes beside it."""
    upon = Relation.ON if "plate" in table.reference else Relation.IN
    relation = Relation.NEXT_TO if table.rng.random() < 0.3 else upon
    scene = before.scene
    reference = scene.find(table.reference)
    others = [b for b in scene.bodies() if b.name not in (table.target, table.reference)]
    shape = scene.find(table.target).shape
    if isinstance(shape, Sphere) and relation is not Relation.IN:
        return None  # a ball rolls off whatever is flat
    found = placements(relation, shape, reference, others, table.surroundings.rules, None)
    found = [p for p in found if 0.36 < p[0] < 0.70 and abs(p[1]) < 0.28]
    return (found[0], relation) if found else None


def standing_at(table: Table, p_m: Array, turn: Array | None = None) -> Array:
    """The target's pose at a measured point (3,): as high as its true shape stands there, two millimetres up."""
    true_m = shape_size_m(table.bodies[table.target].shape)[2]
    believed_m = shape_size_m(table.standing().scene.find(table.target).shape)[2]
    p = np.array(p_m) + np.array([0.0, 0.0, (true_m - believed_m) / 2 + 0.002])
    yaw = table.rng.uniform(-np.pi, np.pi)
    return make_pose(p, rotation_from_rotvec([0.0, 0.0, yaw]) if turn is None else turn)


def away_from(table: Table, p_m: Array, low_m: float, high_m: float) -> Array:
    """Draw a point (3,) at a horizontal distance from another one."""
    bearing = table.rng.uniform(0.0, 2 * np.pi)
    return p_m + table.rng.uniform(low_m, high_m) * np.array([np.cos(bearing), np.sin(bearing), 0.0])


def at_home(table: Table, poses: dict[str, Array], held: str | None, width_m: float | None = None) -> Arrangement:
    """The arm at home but for a small error, bodies elsewhere, and perhaps one between the fingers."""
    T_tool_held = None
    if held is not None:
        T_tool_held = table.T_tool_held if held in (table.target, COPY) else held_pose(true_shape(table, held))
        width_m = shape_size_m(true_shape(table, held))[1]
    q_rad = table.home_rad + table.rng.uniform(-0.004, 0.004, len(table.home_rad))
    return Arrangement(q_rad, table.open_m if width_m is None else width_m, poses, held=held, T_tool_held=T_tool_held)


def true_shape(table: Table, label: str) -> Shape:
    """The true shape of a body."""
    return table.standing().truth.bodies[label].shape


def lying(table: Table, xy_m: Array, shape: Cylinder) -> Array:
    """Draw a pose (4, 4) of a cylinder that has toppled near a point (2,)."""
    yaw = table.rng.uniform(-np.pi, np.pi)
    R = rotation_from_rotvec([0.0, 0.0, yaw]) @ rotation_from_rotvec([np.pi / 2, 0.0, 0.0])
    off = table.rng.uniform(-0.02, 0.02, 2)
    return make_pose([*(xy_m + off), shape.diameter_m / 2 + 0.001], R)


def knock(table: Table, before: Before, keep: dict[str, Array] | None = None) -> dict[str, Array] | None:
    """Poses with one bystander 3 to 15 cm from where it stood."""
    label = table.bystander()
    if label is None:
        return None
    start = before.truth.bodies[label]
    spot = table.free_spot(
        start.shape, start.T_base_object[:2, 3], (0.03, 0.15), without=(label, table.target), also=keep
    )
    if spot is None:
        return None
    T = start.T_base_object.copy()
    T[:2, 3] = spot[:2, 3]
    return {**(keep or {}), label: T}
