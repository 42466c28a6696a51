"""Motion, scene, start state → Verdict: numbers first, then geometry, then one physics run, in a fresh twin.

Runs in a worker process (pool.py); nothing that talks to an arm imports it.
"""

from __future__ import annotations

import time

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.messages import Motion, RobotState, Scene, SceneObject, Sphere, Verdict, Violation, digest
from qwen2vl_robot.validation import limits
from qwen2vl_robot.validation.rollout import Rollout, roll_out
from qwen2vl_robot.validation.sweep import sweep
from qwen2vl_robot.world import TABLE, BulletWorld

_ROLLING_FRICTION = 0.002  # of a ball; without it a touched ball never rests


class Twin:
    """Rehearses motions, each in a world built anew: a verdict depends on nothing that was rehearsed before."""

    def __init__(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._world = BulletWorld()
        self._world.add_table()
        self._world.add_robot(profile)
        self._taken = {TABLE, *self._world.link_names()}

    def rehearse(self, motion: Motion, scene: Scene, start: RobotState, film: bool = False) -> Verdict:
        """Judge a motion, cheapest check first; a stage that finds something ends the rehearsal.

        Args:
            film: whether to picture the physics run.
        """
        began = time.perf_counter()
        violations, run = self._judge(motion, scene, start, film)
        accepted = not violations and run is not None
        return Verdict(
            accepted=accepted,
            violations=violations,
            motion_digest=digest(motion),
            scene_digest=digest(scene),
            start_digest=digest(start),
            robot_digest=self._profile.digest,
            scene_after=run.scene if accepted and run is not None else None,
            state_after=run.state if accepted and run is not None else None,
            film=run.film if run is not None else None,
            seconds=time.perf_counter() - began,
        )

    def close(self) -> None:
        """Give the world back."""
        self._world.close()

    def _judge(
        self, motion: Motion, scene: Scene, start: RobotState, film: bool
    ) -> tuple[tuple[Violation, ...], Rollout | None]:
        found = limits.check(motion, scene, start, self._profile) or self._check_names(scene)
        if not found:
            self._build(scene)
            found = sweep(self._world, self._profile, motion, scene, start)
        if found:
            return found, None
        self._build(scene)
        run = roll_out(self._world, self._profile, motion, scene, start, film=film)
        return run.violations, run

    def _check_names(self, scene: Scene) -> tuple[Violation, ...]:
        clash = sorted({body.name for body in scene.bodies()} & self._taken)
        return tuple(Violation("format", None, (name, "is the name of a link or the table"), 1.0, "") for name in clash)

    def _build(self, scene: Scene) -> None:
        world = self._world
        world.reset()
        world.add_table(scene.table_height_m)
        world.add_robot(self._profile)
        for body in scene.objects:
            self._add(body, body.mass_kg if body.mass_kg is not None else self._profile.object_mass_kg)
        for body in scene.obstacles:
            self._add(body, 0.0)  # nobody knows what it is, so it does not give way

    def _add(self, body: SceneObject, mass_kg: float) -> None:
        self._world.add_body(
            body.name,
            body.shape,
            body.T_base_object,
            mass_kg=mass_kg,
            friction=body.friction if body.friction is not None else self._profile.object_friction,
            rolling_friction=_ROLLING_FRICTION if isinstance(body.shape, Sphere) else 0.0,
            rgb=body.rgb or (180.0, 180.0, 180.0),
        )
