"""Plants in which something goes wrong while an arm works: one class a fault; client.py names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen2vl_robot.geometry import make_pose, read_only
from qwen2vl_robot.messages import ApprovedMotion, GripperSegment, RobotState
from qwen2vl_robot.plant.cell import Plant

_LIFTED_M = 0.10  # above where it stood: half way
_SLIP_M = 0.08  # below the fingers' pads
_BUMP_MPS = 0.6
_BUMP_SHARE = 0.6  # of a motion
_STUCK_M = 0.045  # as wide as many blocks
_APART_M = 0.11  # between things, so that the second one stands free


class Slipping(Plant):
    """What was lifted falls out of the fingers half way, once."""

    def __init__(self, *args: Any) -> None:
        self._stood_m: dict[str, float] = {}
        self._has_slipped = False
        super().__init__(*args)
        self._stood_m = {item.label: float(self._world.pose(item.label)[2, 3]) for item in self._scene.objects}

    def _drive(self) -> None:
        super()._drive()
        for label, stood_m in self._stood_m.items() if not self._has_slipped else ():
            T_base_object = self._world.pose(label)
            if T_base_object[2, 3] > stood_m + _LIFTED_M:
                T_base_object[2, 3] -= _SLIP_M
                self._world.set_pose(label, T_base_object)
                self._has_slipped = True


class Bumped(Plant):
    """Somebody bumps against the table during the first motion: whatever stands on it slides."""

    def __init__(self, *args: Any) -> None:
        self._was_bumped = False
        super().__init__(*args)

    def _drive(self) -> None:
        super()._drive()
        if self._was_bumped or self._motion is None:
            return
        if self._world.time_s - self._starts_s > _BUMP_SHARE * self._motion.duration_s:
            bearing = self._rng.uniform(0.0, 2 * np.pi)
            for item in self._scene.objects:
                self._world.set_velocity(item.label, _BUMP_MPS * np.array([np.cos(bearing), np.sin(bearing), 0.0]))
            self._was_bumped = True


class Echoing(Plant):
    """The driver takes motions, moves nothing, and reports what it was told as if it were measured."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._told = super().state()

    def execute(self, approved: ApprovedMotion) -> None:
        super().execute(approved)
        self._still_rad = self._world.robot.arm_state()[0]

    def state(self) -> RobotState:
        """Report the commanded joints and width."""
        self.tick()
        q_rad, dq_radps, width_m = self._told.q_rad, np.zeros(len(self._told.q_rad)), self._told.gripper_width_m
        since_s = self._world.time_s - self._starts_s
        if self._motion is not None and self._track is not None and since_s >= 0.0:
            q_rad, dq_radps = self._track.at(since_s)[:2]
        return RobotState(round(self._world.time_s * 1e9), read_only(q_rad), read_only(dq_radps), width_m)

    def _drive(self) -> None:
        motion, track, since_s = self._motion, self._track, self._world.time_s - self._starts_s
        super()._drive()
        if motion is None or track is None or since_s < 0.0:
            return
        width_m = self._told.gripper_width_m
        for segment in motion.segments:
            if isinstance(segment, GripperSegment) and segment.start_s <= since_s < segment.end_s:
                width_m = segment.width_m
        self._told = RobotState(0, read_only(track.at(since_s)[0]), self._told.dq_radps, width_m)
        self._world.robot.command_arm(self._still_rad)


class HalfClosed(Plant):
    """The fingers never close further than 45 mm, and report it as it is."""

    def _drive(self) -> None:
        super()._drive()
        if self._grips and self._world.time_s - self._starts_s >= self._grips[0].start_s:
            width_m = max(self._grips[0].width_m, _STUCK_M)
            self._world.robot.command_gripper(width_m, self._profile.gripper.force_n)


class Doubled(Plant):
    """A second thing that looks just like one of those that can be picked stands on the table."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        like = next((item for item in self._scene.objects if item.can_be_picked), None)
        taken_m = [self._world.pose(item.label)[:2, 3] for item in self._scene.objects]
        spots_m = self._rng.uniform([0.40, -0.24], [0.66, 0.24], (300, 2))
        free_m = [p for p in spots_m if all(np.linalg.norm(p - q) > _APART_M for q in taken_m)]
        if like is None or not free_m:
            return
        T_base_object = make_pose([*free_m[0], like.T_base_object[2, 3]])
        self._world.add_body("second", like.shape, T_base_object, mass_kg=like.mass_kg, rgb=like.rgb)
