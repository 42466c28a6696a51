"""Motion, scene, start → Verdict: numbers, geometry, one physics run, then perturbed runs.

The cheapest stage comes first. Runs in worker processes (pool.py) that share the work; no code near an arm imports it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bullet import TABLE, BulletWorld, Friction
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.film import shoot
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.messages import (
    GripperSegment,
    Motion,
    RobotState,
    Scene,
    SceneObject,
    Sphere,
    Verdict,
    Violation,
    digest,
    shape_size_m,
)
from qwen2vl_robot.reasons import ViolationKind
from qwen2vl_robot.validation import limits
from qwen2vl_robot.validation.explain import explain
from qwen2vl_robot.validation.findings import RehearsalCase, Rollout, Swept, Trial, make_verdict, tolerated
from qwen2vl_robot.validation.handling import Handling
from qwen2vl_robot.validation.loose import loose_bodies
from qwen2vl_robot.validation.rollout import roll_out
from qwen2vl_robot.validation.space import add_forbidden
from qwen2vl_robot.validation.sweep import sweep
from qwen2vl_robot.validation.timeline import timeline
from qwen2vl_robot.validation.trials import WEAKEST, draw, seed_of, spans

_ROLLING_FRICTION = 0.002  # of a ball; without it a touched ball rolls on forever
_TORQUE_STEP_S = 0.02
_MOST_BODIES = 1000  # Bullet keeps the collision shapes of removed bodies until a reset
_CLEAR_M = 0.002
_ROOM_M = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1)  # shifts to try when looking for room
_BEARINGS_RAD = np.pi / 4 * np.arange(8)
_BEYOND_TOOL_M = 0.1  # how far a load reaches beyond the tool, for the effect of joint errors


_BEFORE_GEOMETRY = (ViolationKind.FORMAT, ViolationKind.NON_FINITE, ViolationKind.START_STATE)  # no moment to show


class Twin:
    """Rehearses motions, each among newly built bodies, so that a verdict does not depend on earlier rehearsals.

    Only glances at the same scene share bodies: they simulate nothing, and nothing but arm and load is moved.
    """

    def __init__(self, profile: RobotProfile) -> None:
        """Load the robot.

        Raises:
            BadInputError: the URDF or a mesh cannot be loaded, or lacks what the profile names.
        """
        self._profile = profile
        self._world = BulletWorld()
        self._world.add_table()
        try:
            self._world.add_robot(profile)
        except ValueError as error:
            raise BadInputError(str(error)) from error
        self._table_height_m = 0.0
        self._bodies = 0
        self._stands = ""  # the digest of a scene that stands in the world as a glance has left it
        self._taken = {TABLE, *self._world.robot.link_names()}
        self._joint_reach_m = self._world.robot.reach_m(_BEYOND_TOOL_M)

    @property
    def simulated_s(self) -> float:
        """How much has been simulated since the world was last set up anew."""
        return self._world.time_s

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, film: bool = False) -> Verdict:
        """Rehearse a motion in this process, stage by stage; the first stage with a violation ends the rehearsal.

        Args:
            film: whether to record pictures of the nominal run.
        """
        began, case = time.perf_counter(), RehearsalCase(motion, scene, start, self._profile)
        swept = self.examine(motion, scene, start)
        if swept.violations:
            return make_verdict(case, swept.violations, began=began)
        run = self.run(motion, scene, start, film)
        trials: list[Trial] = []
        if not run.violations:
            allowed = tolerated(self._profile.safety)
            for index in range(self._profile.safety.trials):
                trials.append(self.try_out(motion, scene, start, swept, (index,))[0])
                if sum(bool(t.violations) for t in trials) > allowed:
                    break
        return make_verdict(case, run.violations, run, trials, began=began)

    def examine(self, motion: Motion, scene: Scene, start: RobotState) -> Swept:
        """Check numbers, torques and geometry."""
        # Only objects that the gripper may hold have to collide with other bodies; the rest can be fixed.
        loose = frozenset({scene.held, *Handling(self._profile, motion, scene).candidates})
        return self._examine(motion, scene, start, lambda: self._surround(scene, motion, loose))

    def glance(self, motion: Motion, scene: Scene, start: RobotState) -> Swept:
        """Examine a chunk of a motion that grips nothing; a second one in the same scene finds it still standing.

        Raises:
            BadInputError: the motion moves the gripper, or is to change something.
        """
        if motion.effect.kind != "none" or any(isinstance(s, GripperSegment) for s in motion.segments):
            raise BadInputError("a glance is for a motion of the arm alone")

        def stand() -> None:
            seen = digest(scene)
            if self._stands != seen:
                self._surround(scene, motion, frozenset({scene.held}))
                self._stands = seen
            for body in scene.objects:
                if body.name == scene.held:  # the last glance moved it with the arm
                    self._world.set_pose(body.name, body.T_base_object)

        return self._examine(motion, scene, start, stand)

    def _examine(self, motion: Motion, scene: Scene, start: RobotState, build: Callable[[], None]) -> Swept:
        found = limits.check(motion, scene, start, self._profile) or self._check_names(scene)
        if not found:
            build()
            found = self._check_torques(motion, scene)
        return Swept(found, (), 0) if found else sweep(self._world, self._profile, motion, scene, start)

    def _surround(self, scene: Scene, motion: Motion, loose: frozenset[str | None]) -> None:
        """Build the scene with its forbidden space."""
        self._build(scene, loose)
        add_forbidden(self._world, scene, with_shadow=motion.effect.kind == "hold")

    def run(self, motion: Motion, scene: Scene, start: RobotState, film: bool = False) -> Rollout:
        """Simulate the whole motion in the measured scene, in which everything can move: it has to stand, too."""
        self._build(scene, is_shown=film)
        return roll_out(self._world, self._profile, motion, scene, start, film=film)

    def try_out(
        self, motion: Motion, scene: Scene, start: RobotState, swept: Swept, indices: tuple[int, ...]
    ) -> list[Trial]:
        """Run the trials with these indices, each in its own perturbed world."""
        line, seed = timeline(motion, start), seed_of(scene, motion)
        trials = []
        for index in indices:
            drawn = draw(scene, self._profile, self._joint_reach_m, seed, index)
            todo = spans(swept, line, drawn, index == WEAKEST)
            self._build(drawn.scene, loose_bodies(swept, motion, line.grips, drawn, start.gripper_width_m))
            run = roll_out(self._world, self._profile, motion, drawn.scene, start, trial=(todo, drawn.q_offset_rad))
            trials.append(Trial(index, run.violations, drawn.q_offset_rad, run.track))
        return trials

    def show(
        self, motion: Motion, scene: Scene, start: RobotState, violations: tuple[Violation, ...]
    ) -> tuple[str, npt.NDArray[np.uint8] | None]:
        """Explain a refusal: one sentence, and a picture of the moment if there is one."""
        first = next((v for v in violations if v.time_s is not None), None)
        if first is None or first.time_s is None or first.kind in _BEFORE_GEOMETRY:
            return explain(violations, scene, self._profile), None
        self._build(scene, is_shown=True)
        line = timeline(motion, start)
        width_m = next((g.width_m for g in reversed(line.grips) if g.end_s <= first.time_s), start.gripper_width_m)
        self._world.robot.reset_arm(line.q_at(np.array([first.time_s]))[0], width_m)
        if scene.held is not None and scene.T_tool_held is not None:
            self._world.set_pose(scene.held, self._world.robot.tool_pose() @ scene.T_tool_held)
        picture = shoot(self._world)
        room_m = self._find_room(first, motion, scene) if first.kind == ViolationKind.COLLISION else None
        is_grasp = room_m is not None and self._still_grasps(room_m, motion, scene)
        return explain(violations, scene, self._profile, room_m, is_grasp=is_grasp), picture

    def _find_room(self, violation: Violation, motion: Motion, scene: Scene) -> Array | None:
        """Find the shortest of some horizontal shifts (2,) of the arm that clears everything; None if none does.

        The bodies are moved the opposite way. The target of a grasp only counts if it was hit.
        """
        world = self._world
        around = {b.name for b in scene.bodies()} - {scene.held, motion.effect.name}
        around |= {b for b in violation.bodies if b in world.names()}
        if not around or TABLE in around:
            return None
        poses = {name: world.pose(name) for name in sorted(around)}
        for distance_m in _ROOM_M:
            for bearing in _BEARINGS_RAD:
                way_m = distance_m * np.array([np.cos(bearing), np.sin(bearing)])
                for name, T in poses.items():
                    world.set_pose(name, T @ make_pose(-T[:3, :3].T @ [*way_m, 0.0]))
                if all(world.contacts.clearance_m(name, scene.held, 2 * _CLEAR_M) > _CLEAR_M for name in poses):
                    return way_m
        return None

    def _still_grasps(self, way_m: Array, motion: Motion, scene: Scene) -> bool:
        """Check whether the fingers would still be over the target of the grasp after this shift."""
        target = next((b for b in scene.objects if motion.effect.kind == "hold" and b.name == motion.effect.name), None)
        return target is not None and float(np.linalg.norm(way_m)) <= min(shape_size_m(target.shape)[:2]) / 2

    def close(self) -> None:
        """Close the world."""
        self._world.close()

    def _check_names(self, scene: Scene) -> tuple[Violation, ...]:
        clash = sorted({body.name for body in scene.bodies()} & self._taken)
        return tuple(
            Violation(ViolationKind.FORMAT, None, (name, "is the name of a link or the table"), 1.0, "")
            for name in clash
        )

    def _check_torques(self, motion: Motion, scene: Scene) -> tuple[Violation, ...]:
        """Check each joint's torque by inverse dynamics, with the heaviest object that the hand may hold."""
        names = {motion.effect.name, scene.held} if motion.effect.kind != "none" else {b.name for b in scene.objects}
        masses = [
            b.mass_kg if b.mass_kg is not None else self._profile.object_mass_kg
            for b in scene.objects
            if b.name in names
        ]
        load_kg = max(masses, default=0.0) * (1.0 + self._profile.safety.uncertainty.mass_ratio)
        allowed = np.array([joint.effort_nm for joint in self._profile.joints])
        found: dict[int, Violation] = {}
        for time_s, q_rad, dq_radps, ddq_radps2 in limits.states_of_motion(motion):
            every = max(1, round(_TORQUE_STEP_S * len(time_s) / max(time_s[-1] - time_s[0], _TORQUE_STEP_S)))
            some = slice(None, None, every)
            needed = self._world.robot.torques_nm(q_rad[some], dq_radps[some], ddq_radps2[some], load_kg)
            over = np.abs(needed) - allowed
            for j, worst in enumerate(np.argmax(over, axis=0)):  # argmax finds the first NaN, if there is one
                known = found.get(j)
                if not over[worst, j] <= (0.0 if known is None else known.amount):
                    at_s, name = float(time_s[some][worst]), self._profile.joints[j].name
                    found[j] = Violation(ViolationKind.JOINT_TORQUE, at_s, (name,), float(over[worst, j]), "N m")
        return tuple(found[j] for j in sorted(found))

    def _build(self, scene: Scene, loose: frozenset[str | None] | None = None, *, is_shown: bool = False) -> None:
        """Replace the bodies; loading the robot again would take longer than a whole trial.

        Args:
            loose: the objects that can move, None for all; Bullet skips contacts between two fixed bodies.
            is_shown: whether the bodies appear in pictures.
        """
        world, self._stands = self._world, ""
        self._bodies += len(world.names())  # bodies of the last build, including forbidden space
        if scene.table_height_m != self._table_height_m or self._bodies > _MOST_BODIES:
            world.reset()
            world.add_table(scene.table_height_m)
            world.add_robot(self._profile)
            self._table_height_m, self._bodies = scene.table_height_m, 0
        for name in world.names():
            if name != TABLE:
                world.remove(name)
        world.robot.reset_arm(np.array(self._profile.home_q_rad), self._profile.gripper.max_width_m)
        for body in scene.objects:
            mass_kg = body.mass_kg if body.mass_kg is not None else self._profile.object_mass_kg
            self._add(body, mass_kg if loose is None or body.name in loose else 0.0, is_shown)
        for body in scene.obstacles:
            self._add(body, 0.0, is_shown)  # unknown, so it does not yield

    def _add(self, body: SceneObject, mass_kg: float, is_shown: bool) -> None:
        sliding = body.friction if body.friction is not None else self._profile.object_friction
        self._world.add_body(
            body.name,
            body.shape,
            body.T_base_object,
            mass_kg=mass_kg,
            friction=Friction(sliding, rolling=_ROLLING_FRICTION if isinstance(body.shape, Sphere) else 0.0),
            rgb=(body.rgb or (180.0, 180.0, 180.0)) if is_shown else None,
        )
