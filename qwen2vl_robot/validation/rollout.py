"""One physics run of a motion → what it touches, moves, drops, and the world it leaves behind.

The nominal run follows the whole motion and forbids every contact that is not meant. A trial runs in a perturbed world,
where the arm may brush something, but not hit it hard, shift or topple it; it simulates the stretches that it is given.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import TIME_STEP_S, BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.film import FILM_HZ, shoot
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import (
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Violation,
    freeze,
)
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation.effects import MOVED_M, TILTED_RAD, EffectJudge, tilt_rad
from qwen2vl_robot.validation.findings import Rollout
from qwen2vl_robot.validation.handling import Handling, find_openings
from qwen2vl_robot.validation.timeline import Span, timeline

SETTLE_S = 0.25
AFTER_S = 0.5
_TRIAL_SETTLE_S = 0.08
_STILL_MPS = 0.02
_ASLEEP_MPS = 0.005  # what is slower when it has settled costs no time until it is touched
_SETTLED_MPS = 0.002  # fingers and bodies that were slower for `_STILL_S` have settled
_STILL_S = 0.1
_MOST_REST_S = 1.0  # waited for bodies to rest before a stretch is skipped
SLIPPED_M = 0.015
_LOOK_STEPS = 4  # contacts are read at 60 Hz
_BYSTANDER_STEPS = 24  # other objects' poses at 10 Hz
_FILM_STEPS = round(1.0 / FILM_HZ / TIME_STEP_S)
_SQUEEZE_S = 0.35
_SAME_M = 0.002  # a bystander that ends this close to where it was measured has not moved


def roll_out(
    world: BulletWorld,
    profile: RobotProfile,
    motion: Motion,
    scene: Scene,
    start: RobotState,
    *,
    film: bool = False,
    trial: tuple[tuple[Span, ...], Array] | None = None,
) -> Rollout:
    """Let motors follow the motion in a world that holds the robot and the scene, nothing yet moved.

    Args:
        trial: the stretches to simulate and by how much the joints (n,) miss; None for the nominal run.
    """
    return _Run(world, profile, motion, scene, start, film, trial).run()


class _Run:
    """One run: what the gripper does, what was touched first and hardest, where everything stood."""

    def __init__(
        self,
        world: BulletWorld,
        profile: RobotProfile,
        motion: Motion,
        scene: Scene,
        start: RobotState,
        film: bool,
        trial: tuple[tuple[Span, ...], Array] | None,
    ) -> None:
        self._world = world
        self._profile = profile
        self._motion = motion
        self._scene = scene
        self._start = start
        self._line = timeline(motion, start)
        self._is_trial = trial is not None
        self._spans, self._q_offset_rad = trial or (((0.0, self._line.end_s + AFTER_S),), np.zeros(len(profile.joints)))
        self._handling = Handling(profile, motion, scene)
        self._bodies = {body.name: body for body in scene.objects}
        self._film: list[npt.NDArray[np.uint8]] | None = [] if film else None
        self._found: dict[tuple[str, tuple[str, ...]], Violation] = {}
        self._suspects: list[Violation] = []
        self._T_tool_held: Array | None = None
        self._openings: list[tuple[float, Array]] = []
        self._still_since = 0

    def run(self) -> Rollout:
        self._openings = find_openings(self._world, self._line, self._start, self._scene)
        self._settle()
        self._follow()
        self._judge_arm()
        self._judge_effect()
        film = None if self._film is None else np.stack(self._film)
        return Rollout(tuple(self._found.values()), self._scene_after(), self._state_after(), film)

    # ------------------------------------------------------------------------------------ before it begins

    def _settle(self) -> None:
        """Let everything come to rest, the held object between the fingers, and remember where it stands."""
        world, begin_s = self._world, self._spans[0][0]
        q_rad, width_m = self._q_at(begin_s), self._width_at(begin_s)
        world.robot.reset_arm(q_rad, width_m)
        self._closing = self._handling.held is not None
        world.robot.command_arm(q_rad)
        if self._handling.held is None:
            world.robot.command_gripper(width_m, self._profile.gripper.force_n)
        else:
            self._squeeze(self._handling.held, q_rad)
        world.step(round((_TRIAL_SETTLE_S if self._is_trial else SETTLE_S) / TIME_STEP_S))
        self._rest = {name: world.pose(name) for name in self._bodies}
        for name, body in self._bodies.items():
            if name != self._handling.held and not self._is_trial:
                self._note_moved(0.0, name, body.T_base_object)
        if self._handling.held is not None:
            self._note_slip(0.0)
        meant = {self._handling.held, self._motion.effect.name}
        for name in self._rest.keys() - meant:
            if world.speed_mps(name) < _ASLEEP_MPS:
                world.put_to_sleep(name)

    def _squeeze(self, held: str, q_rad: Array) -> None:
        """Close the fingers on the held object while nothing has weight, then put everything else back."""
        world, profile = self._world, self._profile
        others = [body for body in self._scene.bodies() if body.name != held]
        open_m = min(profile.gripper.max_width_m, self._start.gripper_width_m + 0.004)
        T_tool_held = np.asarray(self._scene.T_tool_held)
        world.robot.reset_arm(q_rad, open_m)
        world.set_pose(held, world.robot.tool_pose() @ T_tool_held)
        world.set_gravity(0.0)
        world.robot.command_gripper(0.0, profile.gripper.force_n)
        world.step(round(_SQUEEZE_S / TIME_STEP_S))
        world.set_gravity()
        for body in others:
            world.set_pose(body.name, body.T_base_object)
        self._T_tool_held = T_tool_held

    # ------------------------------------------------------------------------------------------ as it goes

    def _follow(self) -> None:
        """Play every stretch; between two of them the arm is carried over, with what it holds."""
        at = round(self._spans[0][0] / TIME_STEP_S)
        for index, (begin_s, end_s) in enumerate(self._spans):
            begin = max(at, round(begin_s / TIME_STEP_S))
            if begin > at:
                self._skip_to(begin * TIME_STEP_S)
            following = self._spans[index + 1 : index + 2]
            at = self._play(
                begin, round(end_s / TIME_STEP_S), round(following[0][0] / TIME_STEP_S) if following else None
            )

    def _play(self, begin: int, end: int, following: int | None) -> int:
        """Simulate from one time step to another, then on until what is loose rests; returns the step reached."""
        world = self._world
        last = end if following is None else min(following, end + round(_MOST_REST_S / TIME_STEP_S))
        time_s = np.arange(begin, max(last, end) + 1, dtype=np.float64) * TIME_STEP_S
        q_rad = self._line.q_at(time_s) + self._q_offset_rad
        dq_radps = np.diff(q_rad, axis=0) / TIME_STEP_S
        begins = {max(0, round(g.start_s / TIME_STEP_S)): i for i, g in enumerate(self._line.grips)}
        ends = {round(g.end_s / TIME_STEP_S): i for i, g in enumerate(self._line.grips)}
        step = begin
        while step < end or (step < last and not self._is_at_rest()):
            if step in begins:
                self._begin_grip(begins[step])
            until = min(step - step % _LOOK_STEPS + _LOOK_STEPS, end if step < end else last)
            until = min((s for s in (*begins, *ends) if step < s < until), default=until)
            world.robot.follow(q_rad[step + 1 - begin : until + 1 - begin], dq_radps[step - begin : until - begin])
            step = until
            self._watch(step)
            if self._is_trial and self._has_settled(step):
                step = min(s for s in ends if s >= step)  # the arm rests too: nothing changes until then
            if step in ends:
                self._end_grip(ends[step])
        return step

    def _has_settled(self, step: int) -> bool:
        """Whether the fingers have come to rest in a movement of the gripper, and so has everything else."""
        at_s = step * TIME_STEP_S
        if not any(g.start_s + _STILL_S < at_s < g.end_s - TIME_STEP_S for g in self._line.grips):
            self._still_since = step
            return False
        is_still = self._world.robot.finger_speed_mps() < _SETTLED_MPS
        if not (is_still and all(self._world.speed_mps(name) < _SETTLED_MPS for name in self._bodies)):
            self._still_since = step
        return (step - self._still_since) * TIME_STEP_S >= _STILL_S

    def _watch(self, step: int) -> None:
        """Look at what is due after this many steps."""
        if step % _LOOK_STEPS == 0:
            self._look(step * TIME_STEP_S)
        if step % _BYSTANDER_STEPS == 0:
            self._look_around(step * TIME_STEP_S)
        if self._film is not None and step % _FILM_STEPS == 0:
            self._film.append(shoot(self._world))

    def _skip_to(self, at_s: float) -> None:
        """Carry the arm over a stretch in which nothing can be touched."""
        world, held, q_rad = self._world, self._handling.held, self._q_at(at_s)
        if held is None and not self._closing:
            width_m = self._width_at(at_s)
            world.robot.reset_arm(q_rad, width_m)
            world.robot.command_gripper(width_m, self._profile.gripper.force_n)
        else:
            world.carry_arm(q_rad, held)
        world.robot.command_arm(q_rad)

    def _is_at_rest(self) -> bool:
        held = self._handling.held
        return all(self._world.speed_mps(name) < _STILL_MPS for name in self._bodies if name != held)

    def _q_at(self, at_s: float) -> Array:
        joints: Array = self._line.q_at(np.array([at_s]))[0] + self._q_offset_rad
        return joints

    def _width_at(self, at_s: float) -> float:
        """Opening that was commanded last."""
        widths = [grip.width_m for grip in self._line.grips if grip.end_s <= at_s]
        return widths[-1] if widths else self._start.gripper_width_m

    def _begin_grip(self, index: int) -> None:
        grip = self._line.grips[index]
        width_m = self._world.robot.arm_state()[2]
        if grip.width_m > width_m:
            self._handling.release()
            self._T_tool_held = None
            self._closing = False
        else:
            self._closing = True
        self._world.robot.command_gripper(grip.width_m, self._profile.gripper.force_n)

    def _end_grip(self, index: int) -> None:
        """After closing: what both fingers touch is held; what one finger has touched without a grasp is a contact."""
        if self._closing and self._handling.held is None:
            name = self._handling.grasped(self._pairs())
            if name is not None:
                self._handling.grasp(name, self._world)
                self._T_tool_held = invert(self._world.robot.tool_pose()) @ self._world.pose(name)
            for suspect in self._suspects:
                if name not in suspect.bodies:
                    self._note(suspect)
            self._suspects = []
        self._closing = False

    def _pairs(self) -> list[tuple[str, str]]:
        return [(c.a, c.b) for c in self._world.contacts.touching(of=[])]

    def _look(self, at_s: float) -> None:
        held = self._handling.held
        tool_m: Array | None = None
        for contact in self._world.contacts.touching(of=[] if held is None else [held]):
            if tool_m is None:
                tool_m = self._world.robot.tool_pose()[:3, 3]
            release_m = next((p for t, p in self._openings if t >= at_s), None)
            pair = (contact.a, contact.b)
            is_meant = self._handling.may_touch(*pair, tool_m, release_m)
            if not is_meant and not self._is_trial:
                self._suspect(Violation(ViolationKind.CONTACT, at_s, pair, contact.force_n, "N"))
            if contact.force_n > self._profile.safety.contact_n and not self._handling.is_grip(*pair):
                self._note(Violation(ViolationKind.FORCE, at_s, pair, contact.force_n, "N"))
        if held is not None:
            self._note_slip(at_s)

    def _suspect(self, violation: Violation) -> None:
        """Note a wrong contact, unless it may turn out to be the beginning of a grasp."""
        fingers = set(self._profile.gripper.finger_links)
        a, b = violation.bodies
        other = b if a in fingers else a
        if {a, b} & fingers and other in self._handling.candidates and self._handling.held is None:
            if self._motion.effect.kind == "hold":
                return  # that the fingers brush what they are about to take shows in the effect, if it matters
            if self._closing:
                self._suspects.append(violation)
                return
        self._note(violation)

    def _note(self, violation: Violation) -> None:
        """Keep the first time and the largest amount of each kind and pair."""
        key = (violation.kind, violation.bodies)
        known = self._found.get(key)
        if known is None:
            self._found[key] = violation
        elif violation.amount > known.amount:
            self._found[key] = replace(known, amount=violation.amount)

    def _note_slip(self, at_s: float) -> None:
        """The held object left its place in the tool: it slips once, then it is no longer held."""
        held = self._handling.held
        if held is None or self._T_tool_held is None:
            return
        T_tool_held = invert(self._world.robot.tool_pose()) @ self._world.pose(held)
        slip_m = float(np.linalg.norm(T_tool_held[:3, 3] - self._T_tool_held[:3, 3]))
        if slip_m > SLIPPED_M:
            self._note(Violation(ViolationKind.GRASP_SLIP, at_s, (held,), slip_m, "m"))
            self._handling.release()
            self._T_tool_held = None

    def _look_around(self, at_s: float) -> None:
        for name in self._bodies:
            if name not in self._handling.handled and name != self._motion.effect.name:
                self._note_moved(at_s, name, self._rest[name])

    def _note_moved(self, at_s: float, name: str, T_base_before: Array) -> None:
        T_base_object = self._world.pose(name)
        moved_m = float(np.linalg.norm(T_base_object[:3, 3] - T_base_before[:3, 3]))
        if moved_m > MOVED_M:
            self._note(Violation(ViolationKind.MOVED_OTHER, at_s, (name,), moved_m, "m"))
        tilted_rad = tilt_rad(self._bodies[name], T_base_object, T_base_before)
        if tilted_rad > TILTED_RAD:
            self._note(Violation(ViolationKind.MOVED_OTHER, at_s, (name, "toppled"), tilted_rad, "rad"))

    # ---------------------------------------------------------------------------------------- after it

    def _judge_arm(self) -> None:
        """The arm is where the motion ends, and no number of the world has been lost."""
        q_rad, dq_radps, width_m = self._world.robot.arm_state()
        poses = [self._world.pose(name) for name in self._bodies]
        numbers = np.concatenate([q_rad, dq_radps, [width_m], *(pose.ravel() for pose in poses)])
        lost = int(np.count_nonzero(~np.isfinite(numbers)))
        if lost:
            self._note(Violation(ViolationKind.NON_FINITE, self._line.end_s, ("twin",), float(lost), "values"))
        for joint, off_rad in zip(self._profile.joints, np.abs(q_rad - self._line.q_rad[-1]), strict=True):
            if not off_rad <= self._profile.start_tolerance_rad:  # the next motion starts from here
                self._note(
                    Violation(ViolationKind.WRONG_EFFECT, self._line.end_s, (joint.name,), float(off_rad), "rad")
                )

    def _judge_effect(self) -> None:
        effect = self._motion.effect
        judge = EffectJudge(self._world, self._profile, effect, self._bodies, self._rest)
        for what, amount, unit in judge.shortfalls():
            self._note(Violation(ViolationKind.WRONG_EFFECT, self._line.end_s, (str(effect.name), what), amount, unit))

    def _scene_after(self) -> Scene:
        held = self._handling.held
        T_tool_held = None
        if held is not None:
            T_tool_held = freeze(invert(self._world.robot.tool_pose()) @ self._world.pose(held))
        objects = tuple(self._object_after(body) for body in self._scene.objects)
        return replace(self._scene, objects=objects, held=held, T_tool_held=T_tool_held)

    def _object_after(self, body: SceneObject) -> SceneObject:
        """Bystanders keep the pose that was measured: that they settle by a hair is the twin's doing."""
        T_base_object = self._world.pose(body.name)
        moved_m = float(np.linalg.norm(T_base_object[:3, 3] - self._rest[body.name][:3, 3]))
        if body.name not in self._handling.handled and body.name != self._motion.effect.name and moved_m < _SAME_M:
            return body
        return replace(body, T_base_object=freeze(T_base_object))

    def _state_after(self) -> RobotState:
        q_rad, _, width_m = self._world.robot.arm_state()
        stamp_ns = self._start.stamp_ns + round(self._line.end_s * 1e9)
        width_m = min(max(width_m, 0.0), self._profile.gripper.max_width_m)
        return RobotState(stamp_ns, freeze(q_rad), freeze(np.zeros_like(q_rad)), width_m, self._handling.held)
