"""The twin at a motion's end → how its effect falls short of the promised one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Effect, Relation, SceneObject, shape_size_m

_LIFTED_M = 0.02
_PUSHED_M = 0.005
_TOUCHES_M = 0.002

Shortfall = tuple[str, float, str]  # what is wrong, how much, in which unit


@dataclass(frozen=True, slots=True, eq=False)
class EffectJudge:
    """Compares the twin's world with the expected effect.

    Attributes:
        bodies: the scene's objects by name.
        rest: `T_base_object` of each before the motion.
    """

    world: BulletWorld
    profile: RobotProfile
    effect: Effect
    bodies: Mapping[str, SceneObject]
    rest: Mapping[str, Array]

    def shortfalls(self) -> Iterator[Shortfall]:
        """List every way in which the effect is missed."""
        name = self.effect.name
        if name is None or self.effect.kind == "none":
            return
        if self.effect.kind == "hold":
            yield from self._hold(name)
            return
        yield from self._place(name)
        if self.effect.kind == "release":
            yield from self._release(name)
        else:
            yield from self._push(name)

    def _hold(self, name: str) -> Iterator[Shortfall]:
        lifted_m = float(self.world.pose(name)[2, 3] - self.rest[name][2, 3])
        if not all(self._touches(name, finger) for finger in self.profile.gripper.finger_links):
            yield "is not between the fingers", lifted_m, "m"
        elif lifted_m < _LIFTED_M:
            yield "is not lifted", lifted_m, "m"

    def _place(self, name: str) -> Iterator[Shortfall]:
        off_m = float(np.linalg.norm(self.world.pose(name)[:3, 3] - np.asarray(self.effect.T_base_object)[:3, 3]))
        if not off_m <= self.effect.tolerance_m:
            yield "is not where it should be", off_m, "m"

    def _push(self, name: str) -> Iterator[Shortfall]:
        moved_m = float(np.linalg.norm(self.world.pose(name)[:3, 3] - self.rest[name][:3, 3]))
        if moved_m < _PUSHED_M:
            yield "is not moved", moved_m, "m"

    def _release(self, name: str) -> Iterator[Shortfall]:
        for finger in self.profile.gripper.finger_links:
            if self._touches(name, finger):
                yield f"still touches {finger}", 0.0, "m"
        yield from self._relation(name)

    def _relation(self, name: str) -> Iterator[Shortfall]:
        """Check that the object touches its reference, and for "in" that it is above the hollow."""
        relation, reference = self.effect.relation, self.effect.reference
        if relation not in (Relation.ON, Relation.IN) or reference is None or reference not in self.bodies:
            return
        gap_m = self.world.contacts.distance_m(name, reference)
        if gap_m > _TOUCHES_M:
            yield f"is not {relation.value} {reference}", gap_m, "m"
        elif relation is Relation.IN:
            p_m = invert(self.world.pose(reference)) @ self.world.pose(name)[:, 3]
            half_m = np.array(shape_size_m(self.bodies[reference].shape)) / 2
            outside_m = float((np.abs(p_m[:2]) - half_m[:2]).max())
            if outside_m > 0.0:
                yield f"is not in {reference}", outside_m, "m"

    def _touches(self, name: str, finger: str) -> bool:
        return any({c.a, c.b} == {name, finger} for c in self.world.contacts.touching(of=[]))
