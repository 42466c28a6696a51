"""Uncertainty and clearances → perturbed worlds, and the spans of a motion to simulate.

A trial simulates the spans in which the drawn errors could cause a contact. It skips the spans in which the clearance
rules a contact out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.messages import (
    Box,
    Container,
    Cylinder,
    GripperSegment,
    Hull,
    Motion,
    Scene,
    SceneObject,
    Shape,
    Sphere,
    digest,
    freeze,
    shape_size_m,
)
from qwen2vl_robot.validation.findings import Swept
from qwen2vl_robot.validation.timeline import Span, Timeline

WEAKEST = 0  # the trial with the worst grip, simulated for as long as something is carried
_BEFORE_GRIP_S, _AFTER_GRIP_S = 0.05, 0.25
_AT_END_S = 0.1
_SKIPPED_S = 0.1  # a shorter gap between two spans is simulated as well
_SLACK_M = 0.005  # added to the drawn errors: the twin's motors lag by up to 3 mm on fast paths


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One possible world.

    Attributes:
        scene: the same bodies with other poses, sizes, masses and frictions.
        q_offset_rad: (n,) constant joint error of the arm.
        moved_m: for each body, the farthest that its surface lies from that in the measured scene.
        joint_m: the farthest that a point of the arm lies from its planned place.
    """

    scene: Scene
    q_offset_rad: Array
    moved_m: Mapping[str, float]
    joint_m: float

    def reach_m(self, name: str, load: str | None = None) -> float:
        """Bound by how much arm and load may be closer to a body than in the measured scene."""
        return self.moved_m.get(name, 0.0) + (0.0 if load is None else self.moved_m[load]) + self.joint_m


def seed_of(scene: Scene, motion: Motion) -> int:
    """Derive the seed of a rehearsal's draws from scene and motion, so that it does not depend on chance."""
    return int(digest((scene, motion))[:12], 16)


def draw(scene: Scene, profile: RobotProfile, joint_reach_m: Array, seed: int, index: int) -> Draw:
    """Draw the world of one trial; the same arguments give the same world in every process.

    Trial 0 has the worst grip that the uncertainty allows: the heaviest and most slippery bodies.

    Args:
        joint_reach_m: (n,) the farthest that one radian of each joint moves any point, metres.
    """
    rng = np.random.default_rng([seed, index])
    u = profile.safety.uncertainty
    turn, lever = _direction(rng) * np.deg2rad(u.extrinsics_deg), _direction(rng) * u.camera_distance_m
    shift = (_direction(rng) * u.extrinsics_m + np.cross(turn, lever))[:2]
    moved: dict[str, float] = {}
    corner = (1.0, -1.0) if index == WEAKEST else None
    bodies = {
        body.name: _draw_body(body, scene, profile, (shift, float(turn[2]), corner), rng, moved)
        for body in scene.bodies()
    }
    q_offset_rad = rng.uniform(-u.joint_rad, u.joint_rad, len(profile.joints))
    T_tool_held = scene.T_tool_held
    if T_tool_held is not None:
        slip_m = np.array([*rng.normal(0.0, u.position_m, 2), 0.0])
        T_tool_held = freeze(np.asarray(T_tool_held) @ make_pose(slip_m))
        if scene.held in moved:
            moved[scene.held] += float(np.linalg.norm(slip_m))
    drawn = replace(
        scene,
        objects=tuple(bodies[body.name] for body in scene.objects),
        obstacles=tuple(bodies[body.name] for body in scene.obstacles),
        T_tool_held=T_tool_held,
    )
    return Draw(drawn, q_offset_rad, moved, float(np.abs(q_offset_rad) @ joint_reach_m))


def _draw_body(
    body: SceneObject,
    scene: Scene,
    profile: RobotProfile,
    alike: tuple[Array, float, tuple[float, float] | None],
    rng: np.random.Generator,
    moved: dict[str, float],
) -> SceneObject:
    """Move, turn and resize a body on its support; a body that carries another one keeps its height."""
    u = profile.safety.uncertainty
    shift_m, turn_rad, corner = alike
    along_m = shift_m + rng.normal(0.0, u.position_m, 2)
    yaw_rad = turn_rad + float(rng.normal(0.0, u.yaw_rad))
    grown_m = rng.uniform(-u.size_m, u.size_m, 3)
    if any(_stands_on(other, body) for other in scene.bodies()):
        grown_m[2] = 0.0
    shape = _resized(body.shape, grown_m)
    T = np.array(body.T_base_object)
    T[:3, :3] = rotation_z(yaw_rad) @ T[:3, :3]
    higher_m = (shape_size_m(shape)[2] - shape_size_m(body.shape)[2]) / 2
    T[:3, 3] += [*along_m, higher_m]
    radius_m = float(np.linalg.norm(shape_size_m(body.shape))) / 2
    moved[body.name] = float(
        np.linalg.norm(along_m) + abs(yaw_rad) * radius_m + np.linalg.norm(grown_m) / 2 + abs(higher_m)
    )
    heavier, rougher = corner or rng.uniform(-1.0, 1.0, 2)
    mass_kg = body.mass_kg if body.mass_kg is not None else profile.object_mass_kg
    friction = body.friction if body.friction is not None else profile.object_friction
    return replace(
        body,
        shape=shape,
        T_base_object=freeze(T),
        mass_kg=mass_kg * (1.0 + float(heavier) * u.mass_ratio),
        friction=friction * (1.0 + float(rougher) * u.friction_ratio),
    )


def _direction(rng: np.random.Generator) -> Array:
    v: Array = rng.normal(size=3)
    return v / np.linalg.norm(v)


def _stands_on(body: SceneObject, support: SceneObject) -> bool:
    if body is support or abs(body.bottom_m - support.top_m) >= shape_size_m(support.shape)[2]:
        return False
    off_m = np.linalg.norm(body.T_base_object[:2, 3] - support.T_base_object[:2, 3])
    return bool(off_m < max(shape_size_m(support.shape)[:2]))


def _resized(shape: Shape, grown_m: Array) -> Shape:
    """Change a shape's outer sizes; each stays at least half of the original."""
    x, y, z = (max(s + float(g), s / 2) for s, g in zip(shape_size_m(shape), grown_m, strict=True))
    if isinstance(shape, Box):
        return Box((x, y, z))
    if isinstance(shape, Hull):
        a, b, c = np.array((x, y, z)) / shape_size_m(shape)

        def resized(p_m: tuple[float, float, float]) -> tuple[float, float, float]:
            return p_m[0] * a, p_m[1] * b, p_m[2] * c

        boxes_m = tuple((resized(low), resized(high)) for low, high in shape.boxes_m)
        return Hull(tuple(map(resized, shape.vertices_m)), boxes_m)
    if isinstance(shape, Container):
        return replace(shape, size_m=(x, x, z) if shape.is_round else (x, y, z))
    return Cylinder(x, z) if isinstance(shape, Cylinder) else Sphere(z)


# ------------------------------------------------------------------------------------------------ spans


def spans(swept: Swept, line: Timeline, drawn: Draw, is_weakest: bool) -> tuple[Span, ...]:
    """List the spans of the motion (start, end in seconds) that a trial must simulate, in order and without overlap.

    Args:
        is_weakest: whether to simulate the whole time in which something may be carried.
    """
    held = drawn.scene.held
    found = [(line.end_s, line.end_s + _AT_END_S)]
    for near in swept.approaches:
        close = np.flatnonzero(near.lowest_m() <= drawn.reach_m(near.name, near.load) + _SLACK_M)
        found += [(float(near.time_s[i]), float(near.time_s[i + 1])) for i in close]
    grips = list(_grips_that_matter(swept, line.grips, drawn))
    found += grips
    if is_weakest and (grips or held is not None):
        found.append((0.0 if held is not None else grips[0][0], _carried_until_s(line)))
    return _merged(found)


def _carried_until_s(line: Timeline) -> float:
    """Find when the gripper opens at the motion's last gripper segment, else the motion's end."""
    widths = [grip.width_m for grip in line.grips]
    is_opening = len(widths) > 1 and widths[-1] > widths[-2]
    return line.grips[-1].end_s if is_opening else line.end_s


def _grips_that_matter(swept: Swept, grips: tuple[GripperSegment, ...], drawn: Draw) -> Iterator[Span]:
    """Yield the spans of all gripper segments, except those of an empty gripper in free space."""
    may_hold = drawn.scene.held is not None
    for grip in grips:
        if may_hold or _is_near(swept, grip, drawn):
            may_hold = True
            yield (max(0.0, grip.start_s - _BEFORE_GRIP_S), grip.end_s + _AFTER_GRIP_S)


def _is_near(swept: Swept, grip: GripperSegment, drawn: Draw) -> bool:
    """Check whether anything may be touched before or after the fingers move, or was not checked there."""
    looked = set()
    for near in swept.approaches:
        for at, moment_s in ((-1, grip.start_s), (0, grip.end_s)):
            if abs(near.time_s[at] - moment_s) < 1e-6:
                looked.add(at)
                if near.clearance_m[at] <= drawn.reach_m(near.name, near.load) + _SLACK_M:
                    return True
    return len(looked) < 2


def _merged(found: list[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for start_s, end_s in sorted(found):
        if merged and start_s <= merged[-1][1] + _SKIPPED_S:
            merged[-1] = (merged[-1][0], max(end_s, merged[-1][1]))
        else:
            merged.append((start_s, end_s))
    return tuple(merged)
