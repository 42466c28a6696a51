"""A foreign trajectory → a verdict in the scene as it is seen now; and, where that accepts, the way to the arm.

observe → check the camera → perceive → rehearse → admit → run → judge: every step is that of the controller's own
flow. Nothing here makes another motion in place of one that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qwen2vl_robot.admission import ask, carry_out
from qwen2vl_robot.belief import Belief
from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.foreign import CHUNK_S, MAX_LOOK_AGE_S, MAX_SECONDS, ForeignTrajectory, motion_of
from qwen2vl_robot.lookout import Lookout
from qwen2vl_robot.messages import (
    Cause,
    Effect,
    JointSegment,
    Motion,
    Observation,
    Outcome,
    OutcomeKind,
    Plan,
    Refusal,
    Rehearsed,
    RobotState,
    Scene,
    Verdict,
    freeze,
)
from qwen2vl_robot.parts import Parts
from qwen2vl_robot.perception import perceive
from qwen2vl_robot.policy import SETTLE_S, stop_after
from qwen2vl_robot.reasons import RefusalReason
from qwen2vl_robot.task import refused, shown_after
from qwen2vl_robot.validation.outlook import Outlook

_NOTHING_NAMED = Plan((), "")
_STILL_S = 0.01  # of a motion that only shows the twin a scene
Glance = Callable[[Motion, Scene, RobotState], Verdict]


class ForeignMotions:
    """The gate for motions that others make.

    Args:
        belief: the controller's own: what it holds, the twin has to know.
    """

    def __init__(self, parts: Parts, belief: Belief) -> None:
        self._parts, self._belief = parts, belief

    @property
    def believed(self) -> Scene | None:
        """What the controller believes to be on the table and in the gripper; None before anything was measured."""
        return self._belief.scene

    def check(self, given: ForeignTrajectory) -> Rehearsed | Outcome:
        """Look, and rehearse a trajectory in what is seen; nothing moves. An outcome says why nothing was rehearsed."""
        halted = self._parts.halt.cause()
        if halted is not None:
            return _refused(halted)
        try:
            world = self.look()
        except (ObservationError, PerceptionError) as error:
            return _refused(Cause(error.reason, str(error)))
        return self._rehearse(given, world, MAX_SECONDS, self._parts.rehearsal.rehearse)

    def look(self, glance: Glance | None = None) -> Outlook:
        """Measure the scene now, for the chunks of the next five seconds.

        Args:
            glance: `RehearsalProcess.glance`, which then builds the scene here instead of at the first chunk.

        Raises:
            ObservationError: no usable frame or state, or a camera that the arm contradicts.
            PerceptionError: what is held was never measured.
        """
        world = self._world(self._look())
        if glance is not None:
            q_rad = freeze(np.tile(world.start.q_rad, (2, 1)))
            still = JointSegment(freeze(np.array([0.0, _STILL_S])), q_rad)
            glance(Motion(self._parts.surroundings.profile.name, (still,), Effect("none")), world.scene, world.start)
        return world

    def check_chunk(self, given: ForeignTrajectory, world: Outlook, glance: Glance) -> Rehearsed | Outcome:
        """Judge at most 0.5 s by limits and geometry alone: a partial verdict, which no gate takes.

        Args:
            world: of the last `look`; one older than five seconds is refused.
            glance: `RehearsalProcess.glance`.
        """
        halted = self._parts.halt.cause()
        if halted is not None:
            return _refused(halted)
        age_s = (self._parts.clock.now_ns() - world.frame.stamp_ns) / 1e9
        if not 0.0 <= age_s <= MAX_LOOK_AGE_S:
            text = f"the look at the scene is {age_s:.3f} s old; allowed 0 to {MAX_LOOK_AGE_S} s"
            numbers = (("age_s", age_s), ("allowed_s", MAX_LOOK_AGE_S))
            return _refused(Cause(RefusalReason.STALE_FRAME, text, numbers))
        try:
            live = self._belief.state_of(self._parts.arm)
        except ObservationError as error:
            return _refused(Cause(error.reason, str(error)))
        return self._rehearse(given, replace(world, start=live), CHUNK_S, glance)

    def execute(
        self, given: ForeignTrajectory, on_refused: Callable[[Rehearsed], None] = lambda rehearsed: None
    ) -> Outcome:
        """Check a trajectory, ask approver and gate, run it, and measure that nothing but the arm moved.

        Args:
            on_refused: is shown what the twin refused; what it accepted, the listeners hear of.
        """
        with self._parts.halt.task():
            rehearsed = self.check(given)
            if isinstance(rehearsed, Outcome):
                return rehearsed
            if not rehearsed.verdict.accepted or rehearsed.verdict.scene_after is None:
                on_refused(rehearsed)
                return refused(rehearsed.verdict)
            lookout = Lookout(self._parts.camera, self._parts.surroundings, rehearsed)  # an approval does not last
            approved = ask(self._parts, self._belief, rehearsed, ())
            if isinstance(approved, Refusal):
                return _refused(approved)
            parts, report = self._parts, carry_out(self._parts, approved, lookout)
            if not report.is_finished:
                stop_after(report.reason, parts.halt, parts.clock, self._look)
                return Outcome(OutcomeKind.ABORTED, report.causes)
            return self._judge(rehearsed, parts.clock.now_ns())

    def _rehearse(
        self, given: ForeignTrajectory, world: Outlook, at_most_s: float, twin: Glance
    ) -> Rehearsed | Outcome:
        parts = self._parts
        motion = motion_of(given, world.start, parts.surroundings.profile, at_most_s=at_most_s)
        if isinstance(motion, Refusal):
            return _refused(motion)
        began_ns = parts.clock.now_ns()
        verdict = twin(motion, world.scene, world.start)
        return Rehearsed(motion, verdict, world.scene, world.start, began_ns, world.frame)

    def _look(self) -> Observation:
        """A fresh frame in which the arm contradicts no camera (ObservationError: there is none)."""
        parts = self._parts
        observation = Observation(parts.camera.capture(), self._belief.state_of(parts.arm))
        for listener in parts.listeners:
            listener.on_frame(observation)
        said = parts.guard.look(observation)
        if said.against is not None:
            raise ObservationError(said.text, reason=said.against)
        return observation

    def _world(self, seen: Observation) -> Outlook:
        """The scene as it is seen, with the cell's zones; what no camera has seen is occupied."""
        scene, _ = perceive(_NOTHING_NAMED, seen, self._parts.surroundings, self._belief.scene)
        self._belief.scene = scene
        return self._parts.enclosed(Outlook.now(seen, scene), ())

    def _judge(self, rehearsed: Rehearsed, ended_ns: int) -> Outcome:
        parts = self._parts
        parts.clock.sleep(SETTLE_S)

        def look() -> Observation:
            return shown_after(ended_ns, self._look())

        try:
            outcome, _ = self._belief.judge(rehearsed, look, parts.surroundings, parts.clock)
        except ObservationError as error:
            return Outcome(OutcomeKind.NOT_VERIFIED, (Cause(error.reason, str(error)),))
        return outcome


def _refused(cause: Cause) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, (cause,))
