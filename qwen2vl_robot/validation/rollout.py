"""One physics run of a motion → what it touches, moves and drops, and the world after it.

The nominal run follows the whole motion and forbids every unintended contact. In a trial the world is perturbed;
the arm may brush a body, but not hit it hard, shift or topple it. A trial simulates only the given spans of the motion,
and hastens through a guarded segment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import TIME_STEP_S, BulletWorld
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.film import FILM_HZ, shoot
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Motion, RobotState, Scene, Violation, freeze
from qwen2vl_robot.validation.ending import Ending
from qwen2vl_robot.validation.findings import Rollout
from qwen2vl_robot.validation.handling import find_openings
from qwen2vl_robot.validation.resting import RESTS_MPS
from qwen2vl_robot.validation.timeline import Haste, Span, timeline
from qwen2vl_robot.validation.watching import RunMonitor

SETTLE_S = 0.25
AFTER_S = 0.5
_TRIAL_SETTLE_S = 0.08
_ASLEEP_MPS = 0.005  # a slower body sleeps until it is touched
_SETTLED_MPS = 0.002  # fingers and bodies slower than this for `_STILL_S` have settled
_STILL_S = 0.1
_MOST_REST_S = 1.0  # longest wait for bodies to rest, before the arm skips ahead and at the end
_LOOK_STEPS = 4  # contacts are read at 60 Hz
_BYSTANDER_STEPS = 24  # other objects' poses at 10 Hz
_FILM_STEPS = round(1.0 / FILM_HZ / TIME_STEP_S)
_SQUEEZE_S = 0.35


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
    """Simulate the motion with motors in a world that holds the robot and the scene before any movement.

    Args:
        trial: spans to simulate and the joint error (n,), rad; None for the nominal run.
    """
    return _Run(world, profile, motion, scene, start, film, trial).run()


class _Run:
    """The state of one run: time, last gripper command, findings."""

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
        self._is_trial = trial is not None
        self._haste = Haste.through(motion) if self._is_trial else Haste(0.0, 0.0)
        self._line = self._haste.line(timeline(motion, start))
        spans, self._q_offset_rad = trial or (((0.0, self._line.end_s + AFTER_S),), np.zeros(len(profile.joints)))
        self._spans = tuple((self._haste.run_s(begin_s), self._haste.run_s(end_s)) for begin_s, end_s in spans)
        self._film: list[npt.NDArray[np.uint8]] | None = [] if film else None
        openings = find_openings(world, self._line, start, scene)
        self._monitor = RunMonitor(world, profile, motion, scene, openings, self._is_trial)
        self._still_since = 0
        self._track: list[list[float]] = []

    def run(self) -> Rollout:
        self._settle()
        self._follow()
        monitor, effect = self._monitor, self._motion.effect
        ending = Ending(self._world, self._profile, effect, self._scene, monitor.handling, monitor.rest)
        monitor.end(self._line.end_s)
        for violation in ending.violations(self._line):
            monitor.note(violation)
        film = None if self._film is None else np.stack(self._film)
        state = ending.state_after(self._start, self._line.end_s)
        track = freeze(np.reshape(self._track, (-1, 4)))
        return Rollout(tuple(map(self._timed, monitor.findings.values())), ending.scene_after(), state, film, track)

    def _timed(self, violation: Violation) -> Violation:
        """Give the moment of the motion, not of the run."""
        at_s = violation.time_s
        return violation if at_s is None else replace(violation, time_s=self._haste.motion_s(at_s))

    # ------------------------------------------------------------------------------------ before it begins

    def _settle(self) -> None:
        """Let everything come to rest, with the held object between the fingers, and record the poses."""
        world, begin_s, held = self._world, self._spans[0][0], self._monitor.handling.held
        q_rad, width_m = self._q_at(begin_s), self._width_at(begin_s)
        world.robot.reset_arm(q_rad, width_m)
        world.robot.command_arm(q_rad)
        if held is None:
            world.robot.command_gripper(width_m, self._profile.gripper.force_n)
        else:
            self._squeeze(held, q_rad)
        world.step(round((_TRIAL_SETTLE_S if self._is_trial else SETTLE_S) / TIME_STEP_S))
        self._monitor.settle()
        meant = {self._monitor.handling.held, self._motion.effect.name}
        for name in self._monitor.loose:
            if name not in meant and world.speed_mps(name) < _ASLEEP_MPS:
                world.put_to_sleep(name)

    def _squeeze(self, held: str, q_rad: Array) -> None:
        """Close the fingers on the held object without gravity, then put everything else back."""
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
        self._monitor.hold(T_tool_held)

    # ------------------------------------------------------------------------------------------ as it goes

    def _follow(self) -> None:
        """Simulate every span; between two spans, carry the arm with what it holds to the next."""
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
        """Simulate from one time step to another, then on until loose bodies rest; return the step reached."""
        world = self._world
        last = end + round(_MOST_REST_S / TIME_STEP_S)
        last = last if following is None else min(following, last)
        time_s = np.arange(begin, max(last, end) + 1, dtype=np.float64) * TIME_STEP_S
        q_rad = self._line.q_at(time_s) + self._q_offset_rad
        dq_radps = np.diff(q_rad, axis=0) / TIME_STEP_S
        begins = {max(0, round(g.start_s / TIME_STEP_S)): i for i, g in enumerate(self._line.grips)}
        ends = {round(g.end_s / TIME_STEP_S) for g in self._line.grips}
        step = begin
        while step < end or (step < last and not self._is_at_rest()):
            if step in begins:
                self._begin_grip(begins[step])
            until = min(step - step % _LOOK_STEPS + _LOOK_STEPS, end if step < end else last)
            until = min((s for s in (*begins, *ends) if step < s < until), default=until)
            world.robot.follow(q_rad[step + 1 - begin : until + 1 - begin], dq_radps[step - begin : until - begin])
            step = until
            self._look(step)
            if self._is_trial and self._has_settled(step):
                step = min(s for s in ends if s >= step)  # the arm rests, too: nothing changes until then
            if step in ends:
                self._monitor.end_grip()
        return step

    def _has_settled(self, step: int) -> bool:
        """Check whether the fingers and all bodies have come to rest during a movement of the gripper."""
        at_s = step * TIME_STEP_S
        if not any(g.start_s + _STILL_S < at_s < g.end_s - TIME_STEP_S for g in self._line.grips):
            self._still_since = step
            return False
        is_still = self._world.robot.finger_speed_mps() < _SETTLED_MPS
        if not (is_still and all(self._world.speed_mps(name) < _SETTLED_MPS for name in self._monitor.loose)):
            self._still_since = step
        return (step - self._still_since) * TIME_STEP_S >= _STILL_S

    def _look(self, step: int) -> None:
        """Run the checks that are due after this many steps."""
        if step % _LOOK_STEPS == 0:
            self._monitor.look(step * TIME_STEP_S)
        if step % _BYSTANDER_STEPS == 0:
            self._monitor.look_around(step * TIME_STEP_S)
            if self._is_trial:
                at_s = self._haste.motion_s(step * TIME_STEP_S)
                self._track.append([at_s, *self._world.robot.tool_pose()[:3, 3]])
        if self._film is not None and step % _FILM_STEPS == 0:
            self._film.append(shoot(self._world))

    def _skip_to(self, at_s: float) -> None:
        """Move the arm past a span in which nothing can be touched."""
        world, held, q_rad = self._world, self._monitor.handling.held, self._q_at(at_s)
        if held is None and not self._monitor.is_closing:
            width_m = self._width_at(at_s)
            world.robot.reset_arm(q_rad, width_m)
            world.robot.command_gripper(width_m, self._profile.gripper.force_n)
        else:
            world.carry_arm(q_rad, held)
        world.robot.command_arm(q_rad)

    def _is_at_rest(self) -> bool:
        held = self._monitor.handling.held
        return all(self._world.speed_mps(name) < RESTS_MPS for name in self._monitor.loose if name != held)

    def _q_at(self, at_s: float) -> Array:
        joints: Array = self._line.q_at(np.array([at_s]))[0] + self._q_offset_rad
        return joints

    def _width_at(self, at_s: float) -> float:
        """Find the last commanded opening."""
        widths = [grip.width_m for grip in self._line.grips if grip.end_s <= at_s]
        return widths[-1] if widths else self._start.gripper_width_m

    def _begin_grip(self, index: int) -> None:
        grip = self._line.grips[index]
        self._monitor.begin_grip(grip.start_s, is_opening=grip.width_m > self._world.robot.arm_state()[2])
        self._world.robot.command_gripper(grip.width_m, self._profile.gripper.force_n)
