"""Who may touch whom while a motion handles an object: rules shared by sweep and physics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qwen2vl_robot.bullet import TABLE, BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Motion, Relation, RobotState, Scene
from qwen2vl_robot.validation.timeline import Timeline

NEAR_M = 0.03  # an object may touch its support this close to where it is grasped or released
SUPPORT_GAP_M = 0.004  # a body closer than this to an object at rest counts as its support


@dataclass(slots=True)
class Handling:
    """What the gripper holds, has held and may grasp, as the motion proceeds.

    Attributes:
        candidates: names that the gripper may close on.
        held: name of the object in the gripper now.
        handled: names that the fingers hold, have held or push; the fingers may touch these.
        supports: names of what the held object stood on when it was grasped.
        grasp_m: (3,) tool position at the grasp; None if nothing has been grasped.
        leaving: tool position (3,) where each object was let go or last pushed, until the hand has left it.
        left: names of what was let go or pushed and that the hand has left; it may not be touched again.
    """

    profile: RobotProfile
    motion: Motion
    scene: Scene
    held: str | None = None
    handled: set[str] = field(default_factory=set)
    supports: set[str] = field(default_factory=set)
    grasp_m: Array | None = None
    leaving: dict[str, Array] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.held = self.scene.held
        effect = self.motion.effect
        if effect.kind == "push" and effect.name is not None:
            self.handled.add(effect.name)
        if self.held is not None:
            self.handled.add(self.held)

    @property
    def candidates(self) -> set[str]:
        effect = self.motion.effect
        if effect.kind == "none":
            return {body.name for body in self.scene.objects}
        return {effect.name} if effect.kind == "hold" and effect.name is not None else set()

    def grasp(self, name: str, world: BulletWorld) -> None:
        """Record that the fingers have closed on an object at its place in `world`."""
        self.held = name
        self.handled.add(name)
        self.leaving.pop(name, None)
        self.left.discard(name)
        self.grasp_m = world.robot.tool_pose()[:3, 3]
        others = [n for n in (TABLE, *(body.name for body in self.scene.bodies())) if n != name]
        self.supports = {n for n in others if world.contacts.distance_m(name, n) < SUPPORT_GAP_M}

    def release(self, tool_m: Array) -> None:
        """Record that the fingers have opened, with the tool at `tool_m` (3,)."""
        if self.held is not None:
            self.leaving[self.held] = tool_m
        self.held = None
        self.grasp_m = None
        self.supports = set()

    def push(self, a: str, b: str, tool_m: Array) -> None:
        """Record that the fingers push their object, if that is what the contact of `a` and `b` is."""
        name = self.motion.effect.name
        if self.motion.effect.kind == "push" and name is not None and name in (a, b) and name not in self.left:
            self.leaving[name] = tool_m

    def depart(self, way_m: Array) -> None:
        """Record what the hand leaves behind when the tool goes through the points (k, 3)."""
        for name, p_m in list(self.leaving.items()):
            if float(np.linalg.norm(way_m - p_m, axis=1).max(initial=0.0)) > NEAR_M:
                self.left.add(name)
                del self.leaving[name]

    def may_touch(self, a: str, b: str, tool_m: Array, release_m: Array | None) -> bool:
        """Check whether a contact is intended, with the tool at `tool_m` and the next release at `release_m`.

        The world does not report contacts that the robot file allows, so they need no rule here.
        """
        fingers = set(self.profile.gripper.finger_links)
        if {a, b} == fingers:
            return True
        for one, other in ((a, b), (b, a)):
            if one in fingers and other in self.handled - self.left:
                return True
            if one == self.held and other in self.supports and _is_near(tool_m, self.grasp_m):
                return True
            if one == self.held and self._may_land_on(other) and _is_near(tool_m, release_m):
                return True
        return False

    def is_grip(self, a: str, b: str) -> bool:
        """Check whether the contact is the fingers pressing on their object or on each other."""
        fingers = set(self.profile.gripper.finger_links)
        taken = (self.handled | self.candidates) - self.left
        return {a, b} == fingers or (a in fingers and b in taken) or (b in fingers and a in taken)

    def _may_land_on(self, name: str) -> bool:
        effect = self.motion.effect
        if effect.kind == "none":
            return name == TABLE or name in {body.name for body in self.scene.bodies()}
        if effect.relation in (Relation.ON, Relation.IN):
            return name == effect.reference or (name == TABLE and effect.reference is None)
        return name == TABLE

    def grasped(self, touching: list[tuple[str, str]]) -> str | None:
        """Find the candidate that both fingers touch; None if there is none."""
        touched = [self._touched_by(finger, touching) for finger in self.profile.gripper.finger_links]
        both = sorted(touched[0] & touched[1] & self.candidates)
        return both[0] if both else None

    def _touched_by(self, finger: str, touching: list[tuple[str, str]]) -> set[str]:
        return {b if a == finger else a for a, b in touching if finger in (a, b)}


def find_openings(world: BulletWorld, line: Timeline, start: RobotState, scene: Scene) -> list[tuple[float, Array]]:
    """List time and tool position (3,) of every gripper segment that opens, or of all if an object is held at first.

    Leaves the arm at the last of them.
    """
    found = []
    width_m, is_holding = start.gripper_width_m, scene.held is not None
    for grip in line.grips:
        if grip.width_m > width_m or is_holding:
            world.robot.reset_arm(line.q_at(np.array([grip.start_s]))[0], width_m)
            found.append((grip.start_s, world.robot.tool_pose()[:3, 3]))
        width_m = grip.width_m
    return found


def _is_near(p_m: Array, q_m: Array | None) -> bool:
    return q_m is not None and float(np.linalg.norm(p_m - q_m)) <= NEAR_M
