"""The twin at a motion's end → what is wrong with arm and effect; the scene and state after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Effect, RobotState, Scene, SceneObject, Violation, freeze
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.effects import EffectJudge
from qwen2vl_robot.validation.handling import Handling
from qwen2vl_robot.validation.timeline import Timeline

_SAME_M = 0.002  # a bystander that ends closer than this to its settled pose has not moved


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """The end of a run, read from its world.

    Attributes:
        scene: the scene before the run.
        handling: what the gripper held and touched during the run.
        rest: settled `T_base_object` of each object before the motion.
    """

    world: BulletWorld
    profile: RobotProfile
    effect: Effect
    scene: Scene
    handling: Handling
    rest: Mapping[str, Array]

    def violations(self, line: Timeline) -> Iterator[Violation]:
        """List every difference between the end of the run and the motion's promise."""
        yield from self._lost_numbers(line.end_s)
        yield from self._missed_joints(line)
        bodies = {body.name: body for body in self.scene.objects}
        judge = EffectJudge(self.world, self.profile, self.effect, bodies, self.rest)
        for what, amount, unit in judge.shortfalls():
            yield Violation(ViolationKind.WRONG_EFFECT, line.end_s, (str(self.effect.name), what), amount, unit)

    def _lost_numbers(self, at_s: float) -> Iterator[Violation]:
        """Report values of the world that are not finite."""
        q_rad, dq_radps, width_m = self.world.robot.arm_state()
        poses = [self.world.pose(body.name) for body in self.scene.objects]
        numbers = np.concatenate([q_rad, dq_radps, [width_m], *(pose.ravel() for pose in poses)])
        lost = int(np.count_nonzero(~np.isfinite(numbers)))
        if lost:
            yield Violation(ViolationKind.NON_FINITE, at_s, ("twin",), float(lost), "values")

    def _missed_joints(self, line: Timeline) -> Iterator[Violation]:
        """Check that the arm is where the motion ends, because the next motion starts there."""
        off_rad = np.abs(self.world.robot.arm_state()[0] - line.q_rad[-1])
        for joint, off in zip(self.profile.joints, off_rad.tolist(), strict=True):
            if not off <= self.profile.start_tolerance_rad:
                yield Violation(ViolationKind.WRONG_EFFECT, line.end_s, (joint.name,), off, "rad")

    def scene_after(self) -> Scene:
        """Return the scene with every object where the run left it."""
        held = self.handling.held
        T_tool_held = None
        if held is not None:
            T_tool_held = freeze(invert(self.world.robot.tool_pose()) @ self.world.pose(held))
        objects = tuple(self._object_after(body) for body in self.scene.objects)
        return replace(self.scene, objects=objects, held=held, T_tool_held=T_tool_held)

    def _object_after(self, body: SceneObject) -> SceneObject:
        """Update an object's pose; bystanders keep their measured pose, because settling is the twin's artefact."""
        T_base_object = self.world.pose(body.name)
        moved_m = float(np.linalg.norm(T_base_object[:3, 3] - self.rest[body.name][:3, 3]))
        if body.name not in self.handling.handled and body.name != self.effect.name and moved_m < _SAME_M:
            return body
        return replace(body, T_base_object=freeze(T_base_object))

    def state_after(self, start: RobotState, end_s: float) -> RobotState:
        """Return the arm's state at rest, `end_s` seconds after the state in which the motion started."""
        q_rad, _, width_m = self.world.robot.arm_state()
        stamp_ns = start.stamp_ns + round(end_s * 1e9)
        width_m = min(max(width_m, 0.0), self.profile.gripper.max_width_m)
        return RobotState(stamp_ns, freeze(q_rad), freeze(np.zeros_like(q_rad)), width_m, self.handling.held)
