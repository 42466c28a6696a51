"""Plants in which something goes wrong while an arm works: one class a fault; client.py names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qwen2vl_robot.bullet import TIME_STEP_S
from qwen2vl_robot.geometry import Array, make_pose, read_only
from qwen2vl_robot.messages import ApprovedMotion, Box, GripperSegment, Intrinsics, RobotState
from qwen2vl_robot.plant.cell import Plant
from qwen2vl_robot.plant.laid import Laid
from qwen2vl_robot.plant.scenes import PlantObject, populate
from qwen2vl_robot.plant.visited import Visit

_LIFTED_M = 0.10  # above where it stood: half way
_SLIP_M = 0.08  # below the fingers' pads
_BUMP_MPS = 0.6
_BUMP_SHARE = 0.6  # of a motion
_STUCK_M = 0.045  # as wide as many blocks
_VISITOR, _CARRIED, _STANDS_RADPS = "visitor", "carried", 0.02
_ROUGH, _LAID_S = 0.8, 0.3  # friction of what is laid by hand, and the time that it has to come to rest
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


class Visited(Plant):
    """Something glides along a line, whatever is there, while the first motion is under way; visited.py tells where."""

    def __init__(self, *args: Any) -> None:
        self._visit: Visit | None = None
        self._T_tool_carried: Array | None = None
        self._began_s: float | None = None
        self._was_hit = False
        super().__init__(*args)

    def invite(self, visit: Visit) -> Intrinsics:
        """Put a visitor where it waits; it moves once a motion is under way for as long as it says."""
        self._visit = visit
        self._world.add_body(_VISITOR, Box(visit.size_m), make_pose(visit.p_from_m), mass_kg=0.0, rgb=visit.rgb)
        return self._stream.intrinsics

    def send_away(self) -> None:
        """Take the visitor away."""
        self._world.remove(_VISITOR)
        self._visit = None

    def carry(self, size_m: tuple[float, float, float], T_tool_carried: Array) -> None:
        """Fix a thing to the tool, as a load that does not slip."""
        self._T_tool_carried = T_tool_carried
        T = self._world.robot.tool_pose() @ T_tool_carried
        self._world.add_body(_CARRIED, Box(size_m), T, mass_kg=0.0, rgb=(90.0, 140.0, 60.0), collides=False)

    def shown_px(self, q_rad: Array, p_m: Array) -> int:
        """Count the pixels that would show the visitor at a point, the arm at other joints; nothing moves by it."""
        world, visit = self._world, self._visit
        assert visit is not None
        was_rad, _, width_m = world.robot.arm_state()
        world.robot.reset_arm(q_rad, width_m)
        world.set_pose(_VISITOR, make_pose(p_m))
        self._look(self._stream.intrinsics)
        assert self._seen is not None
        shown = int((self._seen[1] == _VISITOR).sum())
        world.robot.reset_arm(was_rad, width_m)
        world.set_pose(_VISITOR, make_pose(visit.p_from_m))
        self._seen = None
        return shown

    def true_hit(self) -> bool:
        """Whether the arm touched the visitor while it moved."""
        return self._was_hit

    def _drive(self) -> None:
        super()._drive()
        now_s, robot = self._world.time_s, self._world.robot
        if self._T_tool_carried is not None:
            self._world.set_pose(_CARRIED, robot.tool_pose() @ self._T_tool_carried)
        if self._motion is not None and self._began_s is None:
            self._began_s = self._starts_s
        if self._visit is None or self._began_s is None:
            return
        self._world.set_pose(_VISITOR, make_pose(self._visit.at_m(now_s - self._began_s)))
        if float(np.max(np.abs(robot.arm_state()[1]))) > _STANDS_RADPS:
            pairs = self._world.contacts.touching(of=[_VISITOR])
            self._was_hit |= any(_VISITOR in (contact.a, contact.b) for contact in pairs)


class LaidTable(Plant):
    """Nothing stands on the table but boxes that are laid there; laid.py is its client."""

    def __init__(self, *args: Any) -> None:
        self._press_n: dict[str, float] = {}
        super().__init__(*args)

    def lay(self, boxes: tuple[Laid, ...]) -> None:
        """Lay boxes, instead of all that stands there, and let them come to rest."""
        for item in self._scene.objects:
            self._world.remove(item.label)
        laid = [
            PlantObject(b.label, "", "", Box(b.size_m), b.T_base_object, b.rgb, b.mass_kg, _ROUGH, 0.0, True)
            for b in boxes
        ]
        self._scene = replace(self._scene, objects=tuple(laid), fixtures=())
        populate(self._world, self._scene)
        self._press_n = {item.label: 0.0 for item in laid}
        self._step(round(_LAID_S / TIME_STEP_S))

    def true_press_n(self, label: str) -> float:
        """The largest force, N, with which the arm pressed on a box."""
        return self._press_n[label]

    def _drive(self) -> None:
        super()._drive()
        for name, force_n in self._world.contacts.pressed() if self._press_n else ():
            if name in self._press_n:
                self._press_n[name] = max(self._press_n[name], force_n)
