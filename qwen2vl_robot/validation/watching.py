"""A run as it goes → what it touches, moves and lets slip, and what the fingers hold by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen2vl_robot.bullet import BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Motion, Scene, Violation
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.effects import MOVED_M, TILTED_RAD, tilt_rad
from qwen2vl_robot.validation.handling import Handling

SLIPPED_M = 0.015


class Watch:
    """Looks at a world when it is told to; a nominal run may touch nothing but what is meant, a trial may brush it.

    Attributes:
        handling: what the gripper holds, has held and may take.
        is_closing: whether the fingers close or press.
        rest: `T_base_object` of each object, settled, before the motion.
        found: the first time and the largest amount of each kind and pair.
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
        """Begin before anything moved.

        Args:
            openings: time and tool position (3,) of every opening of the gripper.
        """
        self._world = world
        self._profile = profile
        self._effect = motion.effect
        self._openings = openings
        self._is_trial = is_trial
        self._bodies = {body.name: body for body in scene.objects}
        self._suspects: list[Violation] = []
        self._T_tool_held: Array | None = None
        self.handling = Handling(profile, motion, scene)
        self.is_closing = self.handling.held is not None
        self.rest: dict[str, Array] = {}
        self.found: dict[tuple[str, tuple[str, ...]], Violation] = {}

    # -------------------------------------------------------------------------------------- what is held

    def hold(self, T_tool_held: Array) -> None:
        """Note how the held object lies in the tool; what it moves from there is slip."""
        self._T_tool_held = T_tool_held

    def settle(self) -> None:
        """Note where everything has come to rest; in a nominal run nothing leaves where it was measured by that."""
        self.rest = {name: self._world.pose(name) for name in self._bodies}
        for name, body in self._bodies.items():
            if name != self.handling.held and not self._is_trial:
                self._note_moved(0.0, name, body.T_base_object)
        self._note_slip(0.0)

    def begin_grip(self, is_opening: bool) -> None:
        """Note that the fingers begin to move."""
        self.is_closing = not is_opening
        if is_opening:
            self._let_go()

    def end_grip(self) -> None:
        """After closing: what both fingers touch is held; what one finger has touched without a grasp is a contact."""
        if self.is_closing and self.handling.held is None:
            pairs = [(c.a, c.b) for c in self._world.contacts.touching(of=[])]
            name = self.handling.grasped(pairs)
            if name is not None:
                self.handling.grasp(name, self._world)
                self.hold(invert(self._world.robot.tool_pose()) @ self._world.pose(name))
            for suspect in self._suspects:
                if name not in suspect.bodies:
                    self.note(suspect)
            self._suspects = []
        self.is_closing = False

    def _let_go(self) -> None:
        self.handling.release()
        self._T_tool_held = None

    # ------------------------------------------------------------------------------------------ looking

    def look(self, at_s: float) -> None:
        """Judge every contact of the arm and of what it holds, and whether that slips."""
        held = self.handling.held
        tool_m: Array | None = None
        for contact in self._world.contacts.touching(of=[] if held is None else [held]):
            if tool_m is None:
                tool_m = self._world.robot.tool_pose()[:3, 3]
            release_m = next((p for t, p in self._openings if t >= at_s), None)
            pair = (contact.a, contact.b)
            is_meant = self.handling.may_touch(*pair, tool_m, release_m)
            if not is_meant and not self._is_trial:
                self._suspect(Violation(ViolationKind.CONTACT, at_s, pair, contact.force_n, "N"))
            if contact.force_n > self._profile.safety.contact_n and not self.handling.is_grip(*pair):
                self.note(Violation(ViolationKind.FORCE, at_s, pair, contact.force_n, "N"))
        self._note_slip(at_s)

    def look_around(self, at_s: float) -> None:
        """Judge whether anything has moved that nobody handles."""
        for name in self._bodies:
            if name not in self.handling.handled and name != self._effect.name:
                self._note_moved(at_s, name, self.rest[name])

    def note(self, violation: Violation) -> None:
        """Keep the first time and the largest amount of each kind and pair."""
        key = (violation.kind, violation.bodies)
        known = self.found.get(key)
        if known is None:
            self.found[key] = violation
        elif violation.amount > known.amount:
            self.found[key] = replace(known, amount=violation.amount)

    def _suspect(self, violation: Violation) -> None:
        """Note a wrong contact, unless it may turn out to be the beginning of a grasp."""
        fingers = set(self._profile.gripper.finger_links)
        a, b = violation.bodies
        other = b if a in fingers else a
        if {a, b} & fingers and other in self.handling.candidates and self.handling.held is None:
            if self._effect.kind == "hold":
                return  # that the fingers brush what they are about to take shows in the effect, if it matters
            if self.is_closing:
                self._suspects.append(violation)
                return
        self.note(violation)

    def _note_slip(self, at_s: float) -> None:
        """The held object left its place in the tool: it slips once, then it is no longer held."""
        held = self.handling.held
        if held is None or self._T_tool_held is None:
            return
        T_tool_held = invert(self._world.robot.tool_pose()) @ self._world.pose(held)
        slip_m = float(np.linalg.norm(T_tool_held[:3, 3] - self._T_tool_held[:3, 3]))
        if slip_m > SLIPPED_M:
            self.note(Violation(ViolationKind.GRASP_SLIP, at_s, (held,), slip_m, "m"))
            self._let_go()

    def _note_moved(self, at_s: float, name: str, T_base_before: Array) -> None:
        T_base_object = self._world.pose(name)
        moved_m = float(np.linalg.norm(T_base_object[:3, 3] - T_base_before[:3, 3]))
        if moved_m > MOVED_M:
            self.note(Violation(ViolationKind.MOVED_OTHER, at_s, (name,), moved_m, "m"))
        tilted_rad = tilt_rad(self._bodies[name], T_base_object, T_base_before)
        if tilted_rad > TILTED_RAD:
            self.note(Violation(ViolationKind.MOVED_OTHER, at_s, (name, "toppled"), tilted_rad, "rad"))
