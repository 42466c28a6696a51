"""An arrangement → the same in the plant, at rest: how a motion ended that nobody made; staged.py is its client."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen2vl_robot.bullet import TIME_STEP_S, Friction
from qwen2vl_robot.config import ObjectSpec
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.scenes import PlantObject
from qwen2vl_robot.plant.staged import Arrangement, Extra, TrueEnding

_AWAY_M = -5.0
_GRIP_ROOM_M = 0.004  # between fingers and body before they close
_GRIP_S, _REST_S = 0.25, 0.4


class Staging(Plant):
    """A plant that can be arranged."""

    def __init__(
        self, scene_path: str, seed: int, always: tuple[ObjectSpec, ...], count: int, camera: str | None = None
    ) -> None:
        super().__init__(scene_path, seed, always, count, camera=camera)
        self._start = {item.label: self._world.pose(item.label) for item in self._scene.objects}

    def add(self, label: str, extra: Extra) -> None:
        """Add a body, away from everything."""
        self._add(_body(label, extra))

    def copy(self, label: str, of: str) -> None:
        """Add a body that looks and weighs as another one, away from everything."""
        like = next(item for item in self._scene.objects if item.label == of)
        self._add(replace(like, label=label, T_base_object=make_pose([0.0, 0.0, _AWAY_M])))

    def _add(self, item: PlantObject) -> None:
        friction = Friction(item.friction, item.rolling_friction)
        self._world.add_body(
            item.label, item.shape, item.T_base_object, mass_kg=item.mass_kg, friction=friction, rgb=item.rgb
        )
        self._scene = replace(self._scene, objects=(*self._scene.objects, item))
        self._start[item.label] = item.T_base_object

    def arrange(self, arrangement: Arrangement) -> None:
        """Put arm and bodies somewhere, close the fingers on what they hold, and let all come to rest."""
        robot, force_n = self._world.robot, self._profile.gripper.force_n
        for label, T_base_object in {**self._start, **arrangement.poses}.items():
            self._world.set_pose(label, T_base_object)
        robot.reset_arm(arrangement.q_rad, arrangement.width_m)
        robot.command_arm(arrangement.q_rad)
        robot.command_gripper(arrangement.width_m, force_n)
        if arrangement.held is not None and arrangement.T_tool_held is not None:
            self._grip(arrangement.held, robot.tool_pose() @ arrangement.T_tool_held, arrangement.width_m)
        self._world.step(round(_REST_S / TIME_STEP_S))
        for label, velocity_mps in arrangement.speeds_mps.items():
            self._world.set_velocity(label, velocity_mps)

    def _grip(self, label: str, T_base_object: Array, width_m: float) -> None:
        """Close the fingers on a body that floats between them, so that it does not fall before they touch it."""
        robot = self._world.robot
        robot.reset_arm(robot.arm_state()[0], width_m + _GRIP_ROOM_M)
        self._world.set_pose(label, T_base_object)
        self._world.set_gravity(0.0)
        robot.command_gripper(0.0, self._profile.gripper.force_n)
        self._world.step(round(_GRIP_S / TIME_STEP_S))
        self._world.set_gravity()

    def true_ending(self) -> TrueEnding:
        """Read poses, speeds, what touches the fingers, and the joints."""
        touching = self._world.contacts.touching(of=[])
        fingers = self._profile.gripper.finger_links
        pairs = {(c.a, c.b) for c in touching} | {(c.b, c.a) for c in touching}
        bodies = self.true_objects()
        gripped = frozenset(label for label in bodies if all((label, finger) in pairs for finger in fingers))
        return TrueEnding(bodies, gripped, np.array(self._world.robot.arm_state()[0]))


def _body(label: str, extra: Extra) -> PlantObject:
    T_base_object = make_pose([0.0, 0.0, _AWAY_M])
    return PlantObject(
        label, "", "", extra.shape, T_base_object, extra.rgb, extra.mass_kg, extra.friction, 0.0, can_be_picked=True
    )
