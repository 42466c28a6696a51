"""A motion's path through the scene → what it would touch or enter, and its clearances.

Geometry only. No point of the arm or of its load travels more than `STEP_M` between two samples, so the sweep cannot
miss a collision in which wall and arm together are thicker than that.
"""

from __future__ import annotations

import numpy as np

from qwen2vl_robot.bullet import TABLE, BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import GripperSegment, Motion, RobotState, Scene, Violation, shape_size_m
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.findings import NEAR_M, STEP_M, Approach, Swept
from qwen2vl_robot.validation.handling import Handling, find_openings
from qwen2vl_robot.validation.limits import check_guarded, check_speed, check_workspace
from qwen2vl_robot.validation.resting import STAYS_M, Resting, set_down
from qwen2vl_robot.validation.space import is_shadow, zone_name
from qwen2vl_robot.validation.timeline import timeline
from qwen2vl_robot.validation.unseen import unseen_index

_FREE_M = 0.035  # samples may be spaced out while the clearance between them stays above this
TOUCH_M = 1e-5  # a smaller depth is rounding
LANDING_DEPTH_M = 0.005  # how deep a carried object may overlap its support, because measured sizes are not exact
_FINGER_STEP_M = 0.002


def sweep(world: BulletWorld, profile: RobotProfile, motion: Motion, scene: Scene, start: RobotState) -> Swept:
    """Move the arm through a world with the robot, the scene and its forbidden space; no physics.

    Leaves the arm at the motion's end and the objects where the gripper has put them.
    """
    return _Sweep(world, profile, motion, scene, start).run()


class _Sweep:
    """The state of one sweep: what the arm carries, how wide the fingers are open, what touched."""

    def __init__(
        self, world: BulletWorld, profile: RobotProfile, motion: Motion, scene: Scene, start: RobotState
    ) -> None:
        self._world = world
        self._profile, self._motion = profile, motion
        self._line = timeline(motion, start)
        self._handling = Handling(profile, motion, scene)
        self._scene = scene
        self._start = start
        self._width_m = start.gripper_width_m
        self._T_tool_held = scene.T_tool_held
        self._sizes_m = {body.name: float(np.linalg.norm(shape_size_m(body.shape))) / 2 for body in scene.bodies()}
        self._around = [TABLE, *(body.name for body in scene.bodies())]
        self._links = set(world.robot.link_names())
        self._resting = Resting(world, {body.name: body for body in scene.bodies()})
        self._pushed = motion.effect.name if motion.effect.kind == "push" else None
        self._pushed_s = np.inf  # when it is first touched
        self._loose_m: dict[str, float] = {}
        self._fallen: list[Violation] = []
        self._openings: list[tuple[float, Array]] = []
        self._touches: dict[tuple[str, str], tuple[float, float]] = {}
        self._walked: list[tuple[Array, Array]] = []
        self._approaches: list[Approach] = []

    def run(self) -> Swept:
        self._openings = find_openings(self._world, self._line, self._start, self._scene)
        at_s = 0.0
        for grip in self._line.grips:
            self._walk(at_s, grip.start_s)
            self._grip(grip)
            at_s = grip.end_s
        self._walk(at_s, self._line.end_s)
        time_s, tool_m = (np.concatenate(parts) for parts in zip(*self._walked, strict=True))
        found = (
            *check_workspace(time_s, tool_m, self._profile),
            *check_speed(time_s, tool_m, self._profile, self._scene.zones),
            *check_guarded(time_s, tool_m, self._motion, self._profile),
            *self._fallen,
            *self._violations(),
        )
        return Swept(found, tuple(self._approaches), len(time_s))

    def _walk(self, start_s: float, end_s: float) -> None:
        if end_s <= start_s and self._walked:
            return
        beyond_m = 0.0
        held = self._handling.held
        if held is not None and self._T_tool_held is not None:
            beyond_m = float(np.linalg.norm(self._T_tool_held[:3, 3])) + self._sizes_m[held]
        time_s = self._line.even_travel(start_s, end_s, self._world.robot.reach_m(beyond_m), STEP_M)
        q_rad = self._line.q_at(time_s)
        watched = [name for name in self._around if name != held]
        pace = (NEAR_M, _FREE_M, STEP_M)
        seen = self._world.contacts.scan(q_rad, self._width_m, held, self._T_tool_held, watched, pace)
        self._walked.append((time_s, seen.tool_m))
        for index in seen.touched:
            self._handling.depart(seen.tool_m[: index + 1])
            self._look(float(time_s[index]), q_rad[index], self._width_m)
        self._handling.depart(seen.tool_m)
        for name, gaps in seen.gaps.items():
            at = gaps[:, 0].astype(int)
            clearance_m = self._sure_m(name, time_s[at], gaps[:, 1])
            self._approaches.append(Approach(name, held, time_s[at], STEP_M * gaps[:, 0], clearance_m))

    def _sure_m(self, name: str, time_s: Array, clearance_m: Array) -> Array:
        """Lower the clearances (k,) from a body by how far it may be from where the sweep has it."""
        if name == self._pushed:
            return np.where(time_s < self._pushed_s, clearance_m, 0.0)  # it may be anywhere
        sure_m: Array = np.maximum(clearance_m - self._loose_m.get(name, 0.0), 0.0)
        return sure_m

    def _put(self, q_rad: Array, width_m: float) -> Array:
        """Place arm and load at joints (n,); return `T_base_tool`."""
        self._world.robot.reset_arm(q_rad, width_m)
        T_base_tool = self._world.robot.tool_pose()
        if self._handling.held is not None and self._T_tool_held is not None:
            self._world.set_pose(self._handling.held, T_base_tool @ self._T_tool_held)
        return T_base_tool

    def _look(self, at_s: float, q_rad: Array, width_m: float) -> list[tuple[str, str]]:
        """Place everything at one moment, record unintended contacts, and return every pair that touches."""
        contacts, held = self._world.contacts, self._handling.held
        T_base_tool = self._put(q_rad, width_m)
        release_m = next((p for t, p in self._openings if t >= at_s), None)
        pairs = []
        for contact in contacts.touching(detect=True, of=[] if held is None else [held]):
            depth_m = -contacts.distance_m(contact.a, contact.b)  # the contact list may hold an old contact
            if depth_m <= TOUCH_M:
                continue
            pairs.append((contact.a, contact.b))
            if self._pushed in pairs[-1]:
                self._pushed_s = min(self._pushed_s, at_s)
            if self._is_felt(contact.a, contact.b, at_s):
                continue
            is_meant = self._handling.may_touch(contact.a, contact.b, T_base_tool[:3, 3], release_m)
            if is_meant and not (self._is_landing(contact.a, contact.b) and depth_m > LANDING_DEPTH_M):
                continue
            first_s, deepest_m = self._touches.get((contact.a, contact.b), (at_s, 0.0))
            self._touches[contact.a, contact.b] = (first_s, max(deepest_m, depth_m))
        return pairs

    def _is_felt(self, a: str, b: str, at_s: float) -> bool:
        """Whether it is unseen room that a guarded descent goes into: for fingers, and for what they then hold."""
        guarded, shadows = self._motion.guarded, {name for name in (a, b) if is_shadow(name)}
        others = {a, b} - shadows - set(self._profile.gripper.finger_links) - {self._handling.held}
        return bool(shadows) and guarded is not None and at_s >= guarded.since_s and not others

    def _is_landing(self, a: str, b: str) -> bool:
        return not {a, b} & self._links

    def _grip(self, grip: GripperSegment) -> None:
        """Move the fingers; when closing, stop when both touch a candidate for a grasp."""
        q_rad = self._line.q_at(np.array([grip.start_s]))[0]
        if grip.width_m >= self._width_m or self._handling.held is not None:
            self._open(grip, q_rad)
        else:
            self._close(grip, q_rad)

    def _open(self, grip: GripperSegment, q_rad: Array) -> None:
        if grip.width_m <= self._width_m:
            return  # it already holds an object and only presses
        name, T_base_tool = self._handling.held, self._put(q_rad, self._width_m)
        self._handling.release(T_base_tool[:3, 3])
        self._T_tool_held = None
        for at_s, width_m in self._finger_steps(grip):
            self._look(at_s, q_rad, width_m)
        self._width_m = grip.width_m
        if name is not None:
            self._let_go(name, grip.start_s)

    def _let_go(self, name: str, at_s: float) -> None:
        """Put an object down below the open fingers, where it will stay or, in a hollow, near it."""
        T_base_before = self._world.pose(name)
        set_down(self._world, name, [other for other in self._around if other != name])
        self._fallen += self._resting.fall(name, T_base_before, at_s)
        hollow = self._resting.hollow_around(name)
        self._loose_m[name] = STAYS_M if hollow is None else max(shape_size_m(hollow.shape)[:2])

    def _close(self, grip: GripperSegment, q_rad: Array) -> None:
        before = dict(self._touches)
        first_touch_m: dict[tuple[str, str], float] = {}
        for at_s, width_m in self._finger_steps(grip):
            self._width_m = width_m
            pairs = self._look(at_s, q_rad, width_m)
            for pair in pairs:
                first_touch_m.setdefault(pair, width_m)
            name = self._handling.grasped(pairs)
            if name is not None:
                # Contacts of closing fingers belong to the grasp; only now is it clear that there is one.
                self._touches = {pair: v for pair, v in self._touches.items() if pair in before or name not in pair}
                self._take(name, first_touch_m)
                return

    def _finger_steps(self, grip: GripperSegment) -> list[tuple[float, float]]:
        """List times and widths of a gripper segment, one finger step apart."""
        count = max(2, int(np.ceil(abs(grip.width_m - self._width_m) / _FINGER_STEP_M)) + 1)
        times, widths = np.linspace(grip.start_s, grip.end_s, count), np.linspace(self._width_m, grip.width_m, count)
        return list(zip(times.tolist(), widths.tolist(), strict=True))

    def _take(self, name: str, first_touch_m: dict[tuple[str, str], float]) -> None:
        """Attach an object to the tool, centred between the fingers as closing fingers would centre it."""
        world, robot = self._world, self._world.robot
        self._handling.grasp(name, world)
        T_tool_base = invert(robot.tool_pose())
        T_tool_object = T_tool_base @ world.pose(name)
        touched = [
            max(w for (a, b), w in first_touch_m.items() if {a, b} == {finger, name})
            for finger in self._profile.gripper.finger_links
        ]
        axis = "xyz".index(self._profile.gripper.closing_axis)
        off_m = (touched[0] - touched[1]) / 2  # the finger that touches first pushes it towards the other
        side = np.sign(T_tool_base[axis] @ robot.link_pose(self._profile.gripper.finger_links[0])[:, 3])
        T_tool_object[axis, 3] -= side * off_m
        self._T_tool_held = T_tool_object
        # Centred, both fingers touch half-way.
        self._width_m = float(np.mean(touched))

    def _violations(self) -> tuple[Violation, ...]:
        found = sorted(self._touches.items(), key=lambda item: item[1][0])
        return tuple(Violation(self._kind(a, b), at_s, (a, b), depth_m, "m") for (a, b), (at_s, depth_m) in found)

    def _kind(self, a: str, b: str) -> ViolationKind:
        if {a, b} <= self._links:
            return ViolationKind.SELF_COLLISION
        if any(unseen_index(name) is not None or is_shadow(name) for name in (a, b)):
            return ViolationKind.UNSEEN
        is_zone = {a, b} & {zone_name(z) for z in self._scene.zones}
        return ViolationKind.ZONE if is_zone else ViolationKind.COLLISION
