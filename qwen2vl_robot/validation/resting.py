"""Where a body was → how far it falls when it is let go, and whether it rests upright where it should.

What is let go has to stay below the place where it was let go. In the hollow of a container it may slide and lean on
the wall, because things roll together there; a ball has no upright anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Container, SceneObject, Sphere, Violation, shape_size_m
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.relations import extent_m

TILTED_RAD = 0.26  # a body that tilts more has toppled
# A third of the height from which the slimmest thing of sim/objects (4 by 10.5 cm) topples: it lands on one edge and
# rocks, rigid and without bounce (Housner 1963). A place lets go at 4 mm; in its worst perturbed world it is 7 mm.
LONGEST_FALL_M = 0.02
STAYS_M = 0.005  # in the perturbed worlds of ordinary places it is at most 1 mm
LEANS_RAD = np.deg2rad(5.0)  # as above, at most 0.2 degrees
RESTS_MPS = 0.02
_REACHED_M = 0.0005
_FARTHEST_M = 1.0
_MOST_STEPS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Resting:
    """Judges where bodies have come to rest.

    Attributes:
        bodies: the scene's bodies by name, with their shapes.
    """

    world: BulletWorld
    bodies: Mapping[str, SceneObject]

    def let_go(self, name: str, T_base_before: Array, at_s: float) -> Iterator[Violation]:
        """Judge what was let go, or left after a push, at a pose `T_base_before` (4, 4)."""
        yield from self.fall(name, T_base_before, at_s)
        slid_m = float(np.linalg.norm((self.world.pose(name) - T_base_before)[:2, 3]))
        if not slid_m <= STAYS_M and self.hollow_around(name) is None:
            yield Violation(ViolationKind.UNSETTLED, at_s, (name, "does not stay where it was left"), slid_m, "m")
        yield from self.unsettled(name, _resting_axis(T_base_before), at_s)

    def fall(self, name: str, T_base_before: Array, at_s: float) -> Iterator[Violation]:
        """Judge how far a body falls onto its support, or to the rim of the container that it falls into."""
        lands_m = self._bottom_m(name, self.world.pose(name))
        hollow = self.hollow_around(name)
        if hollow is not None:
            lands_m = max(lands_m, replace(hollow, T_base_object=self.world.pose(hollow.name)).top_m)
        fell_m = self._bottom_m(name, T_base_before) - lands_m
        if not fell_m <= LONGEST_FALL_M:
            yield Violation(ViolationKind.DROPPED, at_s, (name,), fell_m, "m")

    def unsettled(self, name: str, axis: Array, at_s: float) -> Iterator[Violation]:
        """Judge whether a body is at rest with its z axis along a unit direction (3,)."""
        allowed_rad = LEANS_RAD if self.hollow_around(name) is None else TILTED_RAD
        leans_rad = tilt_rad(self.bodies[name], self.world.pose(name), axis)
        if not leans_rad <= allowed_rad:
            yield Violation(ViolationKind.UNSETTLED, at_s, (name, "does not stay upright"), leans_rad, "rad")
        speed_mps = self.world.speed_mps(name)
        if not speed_mps <= RESTS_MPS:
            yield Violation(ViolationKind.UNSETTLED, at_s, (name, "does not come to rest"), speed_mps, "m/s")

    def hollow_around(self, name: str) -> SceneObject | None:
        """Find the container that a body is in: its centre lies between the walls, its bottom below the rim."""
        p_m = self.world.pose(name)[:, 3]
        bottom_m = self._bottom_m(name, self.world.pose(name))
        for body in self.bodies.values():
            if not isinstance(body.shape, Container) or body.name == name:
                continue
            half_m = np.array(shape_size_m(body.shape)) / 2
            T_base_container = self.world.pose(body.name)
            off_m = np.abs((invert(T_base_container) @ p_m)[:2])
            rises_m = bottom_m - float(T_base_container[2, 3])
            if (off_m < half_m[:2] - body.shape.wall_m).all() and -half_m[2] < rises_m < half_m[2]:
                return body
        return None

    def _bottom_m(self, name: str, T_base_object: Array) -> float:
        down = np.array([[0.0, 0.0, -1.0]])
        return float(T_base_object[2, 3] - extent_m(self.bodies[name].shape, T_base_object[:3, :3], down)[0])


def set_down(world: BulletWorld, name: str, supports: Sequence[str]) -> None:
    """Lower a body straight down until it is about to touch one of `supports`; no physics."""
    T = world.pose(name)
    for _ in range(_MOST_STEPS):
        gap_m = min(world.contacts.distance_m(name, other, _FARTHEST_M) for other in supports)
        if gap_m < _REACHED_M:
            return
        T[2, 3] -= gap_m
        world.set_pose(name, T)


def tilt_rad(body: SceneObject, T_base_object: Array, axis: Array) -> float:
    """Compute by how much a body's z axis differs from a unit direction (3,); 0 for a ball."""
    if isinstance(body.shape, Sphere):
        return 0.0
    return float(np.arccos(np.clip(T_base_object[:3, 2] @ axis, -1.0, 1.0)))


def _resting_axis(T_base_object: Array) -> Array:
    """Find the direction (3,) in which a body's z axis should rest: the nearest one that is upright or level."""
    x, y, z = T_base_object[:3, 2]
    axis = np.array([0.0, 0.0, z]) if abs(z) > np.hypot(x, y) else np.array([x, y, 0.0])
    unit: Array = axis / np.linalg.norm(axis)
    return unit
