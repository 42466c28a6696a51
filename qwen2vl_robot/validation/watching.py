"""A run in progress → what it touches, moves and lets slip, and what the fingers hold."""

from __future__ import annotations

import math
from dataclasses import replace

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Motion, Scene, Violation
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.handling import Handling
from qwen2vl_robot.validation.resting import RESTS_MPS, TILTED_RAD, Resting, tilt_rad

SLIPPED_M = 0.015
MOVED_M = 0.01  # a bystander that moves more was pushed away


class RunMonitor:
    """Checks a world at given times; a nominal run allows intended contacts only, a trial light touches as well.

    Attributes:
        handling: what the gripper holds, has held and may grasp.
        is_closing: whether the fingers are closing or pressing.
        loose: the objects that can move.
        rest: settled `T_base_object` of each object before the motion.
        let_go: `T_base_object` at which each object was let go, or came to rest after a push.
        findings: a violation for each kind and pair, with its first time and largest amount.
    """

    def __init__(
        self,
        world: BulletWorld,
        profile: RobotProfile,
        motion: Motion,
        scene: Scene,
        openings: list[tuple[float, Array]],
        is_trial: bool,
    ) -> None:
        """Start before anything moves.

        Args:
            openings: time and tool position (3,) of every opening of the gripper.
        """
        self._world = world
        self._profile = profile
        self._effect = motion.effect
        self._openings = openings
        self._is_trial = is_trial
        self._bodies = {body.name: body for body in scene.objects}
        self.loose = [name for name in self._bodies if not world.is_fixed(name)]
        self._resting = Resting(world, {body.name: body for body in scene.bodies()})
        self._suspects: list[Violation] = []
        self._T_tool_held: Array | None = None
        self.handling = Handling(profile, motion, scene)
        self.is_closing = self.handling.held is not None
        self.rest: dict[str, Array] = {}
        self.let_go: dict[str, Array] = {}
        self.findings: dict[tuple[str, tuple[str, ...]], Violation] = {}

    # -------------------------------------------------------------------------------------- what is held

    def hold(self, T_tool_held: Array) -> None:
        """Record the pose of the held object in the tool; a change of that pose is slip."""
        self._T_tool_held = T_tool_held

    def settle(self) -> None:
        """Record where everything has come to rest; in a nominal run, settling must not move objects."""
        self.rest = {name: self._world.pose(name) for name in self._bodies}
        for name, body in self._bodies.items():
            if name != self.handling.held and not self._is_trial:
                self._note_moved(0.0, name, body.T_base_object)
        self._note_slip(0.0)

    def begin_grip(self, at_s: float, is_opening: bool) -> None:
        """Record that the fingers begin to move; before they close, everything let go has to rest in its place."""
        self.is_closing = not is_opening
        if is_opening:
            if self.handling.held is not None:
                self.let_go[self.handling.held] = self._world.pose(self.handling.held)
            self._let_go()
        elif self.handling.held is None:
            self._judge_let_go(at_s)

    def end_grip(self) -> None:
        """Record a grasp if both fingers touch a candidate; report suspected contacts that do not belong to it."""
        if self.is_closing and self.handling.held is None:
            pairs = [(c.a, c.b) for c in self._world.contacts.touching(of=[])]
            name = self.handling.grasped(pairs)
            if name is not None:
                self.handling.grasp(name, self._world)
                self.let_go.pop(name, None)
                self.hold(invert(self._world.robot.tool_pose()) @ self._world.pose(name))
            for suspect in self._suspects:
                if name not in suspect.bodies:
                    self.note(suspect)
            self._suspects = []
        self.is_closing = False

    def end(self, at_s: float) -> None:
        """Judge where everything rests in the end, except what is held."""
        self._judge_let_go(at_s)
        for name, T_base_before in self.rest.items():
            if name not in (self.handling.held, *self.let_go):
                for violation in self._resting.unsettled(name, T_base_before[:3, 2], at_s):
                    self.note(violation)

    def _judge_let_go(self, at_s: float) -> None:
        for name, T_base_before in self.let_go.items():
            for violation in self._resting.let_go(name, T_base_before, at_s):
                self.note(violation)

    def _let_go(self) -> None:
        self.handling.release(self._world.robot.tool_pose()[:3, 3])
        self._T_tool_held = None

    # ------------------------------------------------------------------------------------------ looking

    def look(self, at_s: float) -> None:
        """Check every contact of the arm and its load, and whether the load slips."""
        held = self.handling.held
        tool_m: Array | None = None
        if self.handling.leaving:
            tool_m = self._world.robot.tool_pose()[:3, 3]
            self.handling.depart(tool_m[None])
        for name in self.handling.left - self.let_go.keys():
            if self._world.speed_mps(name) < RESTS_MPS:
                self.let_go[name] = self._world.pose(name)
        for contact in self._world.contacts.touching(of=[] if held is None else [held]):
            if tool_m is None:
                tool_m = self._world.robot.tool_pose()[:3, 3]
            release_m = next((p for t, p in self._openings if t >= at_s), None)
            pair = (contact.a, contact.b)
            is_meant = self.handling.may_touch(*pair, tool_m, release_m)
            if is_meant:
                self.handling.push(*pair, tool_m)
            elif not self._is_trial:
                self._suspect(Violation(ViolationKind.CONTACT, at_s, pair, contact.force_n, "N"))
            if contact.force_n > self._profile.safety.contact_n and not self.handling.is_grip(*pair):
                self.note(Violation(ViolationKind.FORCE, at_s, pair, contact.force_n, "N"))
        self._note_slip(at_s)

    def look_around(self, at_s: float) -> None:
        """Check whether an object that the motion does not handle has moved."""
        for name in self.loose:
            if name not in self.handling.handled and name != self._effect.name:
                self._note_moved(at_s, name, self.rest[name])

    def note(self, violation: Violation) -> None:
        """Record a violation; keep the first time and the largest amount of each kind and pair."""
        key = (violation.kind, violation.bodies)
        known = self.findings.get(key)
        if known is None:
            self.findings[key] = violation
        elif violation.amount > known.amount:
            self.findings[key] = replace(known, amount=violation.amount)

    def _suspect(self, violation: Violation) -> None:
        """Record an unintended contact, unless it may be the start of a grasp."""
        fingers = set(self._profile.gripper.finger_links)
        a, b = violation.bodies
        other = b if a in fingers else a
        if {a, b} & fingers and other in self.handling.candidates and self.handling.held is None:
            if self._effect.kind == "hold" and other not in self.handling.left:
                return  # if the fingers' touch disturbs their target, the effect shows it
            if self.is_closing:
                self._suspects.append(violation)
                return
        self.note(violation)

    def _note_slip(self, at_s: float) -> None:
        """Report a held object that moved in the tool; from then on it counts as released."""
        held = self.handling.held
        if held is None or self._T_tool_held is None:
            return
        T_base_tool = self._world.robot.tool_pose()
        # A rigid pose keeps lengths: comparing in the base frame needs no inverse.
        slip_m = math.dist(
            self._world.pose(held)[:3, 3], T_base_tool[:3, :3] @ self._T_tool_held[:3, 3] + T_base_tool[:3, 3]
        )
        if slip_m > SLIPPED_M:
            self.note(Violation(ViolationKind.GRASP_SLIP, at_s, (held,), slip_m, "m"))
            self._let_go()

    def _note_moved(self, at_s: float, name: str, T_base_before: Array) -> None:
        T_base_object = self._world.pose(name)
        moved_m = math.dist(T_base_object[:3, 3], T_base_before[:3, 3])
        if moved_m > MOVED_M:
            self.note(Violation(ViolationKind.MOVED_OTHER, at_s, (name,), moved_m, "m"))
        tilted_rad = tilt_rad(self._bodies[name], T_base_object, T_base_before[:3, 2])
        if tilted_rad > TILTED_RAD:
            self.note(Violation(ViolationKind.MOVED_OTHER, at_s, (name, "toppled"), tilted_rad, "rad"))
