"""What the controller believes the world to be: the last scene, and by it what the gripper holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from qwen2vl_robot.errors import ObservationError, PerceptionError
from qwen2vl_robot.judge import Compared, judge, look_until_sure
from qwen2vl_robot.messages import Cause, Effect, Observation, Outcome, OutcomeKind, Rehearsed, RobotState, Scene
from qwen2vl_robot.perception import Surroundings, remeasure
from qwen2vl_robot.policy import twice
from qwen2vl_robot.ports import Arm, Clock

_GRIP_ERROR_M = 0.01  # fingers that are this much wider or narrower than when the hold was measured hold nothing


class Belief:
    """The last scene; None before anything was measured.

    Attributes:
        grip_width_m: how far the fingers were apart when the hold was measured, None where none was.
    """

    def __init__(self) -> None:
        self.scene: Scene | None = None
        self.grip_width_m: float | None = None

    @property
    def held(self) -> str | None:
        """The name of what the gripper is believed to hold."""
        return None if self.scene is None else self.scene.held

    def state_of(self, arm: Arm) -> RobotState:
        """The arm's state, with what it is believed to hold: hardware knows a width, not a name.

        What was held is lost once the fingers are no longer as far apart as around it.

        Raises:
            ObservationError: no fresh state.
        """
        state = arm.state()
        if self.grip_width_m is not None and abs(state.gripper_width_m - self.grip_width_m) > _GRIP_ERROR_M:
            self.hold_nothing()
        return replace(state, held=self.held)

    def hold_nothing(self) -> None:
        """Believe that the gripper is empty: a grasp that failed holds nothing that may be counted on."""
        self.grip_width_m = None
        if self.scene is not None:
            self.scene = replace(self.scene, held=None, T_tool_held=None)

    def fail(self, effect: Effect, outcome: Outcome) -> None:
        """Believe in no hold after a step that failed, but for a release that was measured to have let nothing go."""
        if effect.kind != "release" or outcome.kind is not OutcomeKind.NO_MOTION:
            self.hold_nothing()

    def expect(self, step: Rehearsed) -> None:
        """Believe what the twin predicts, until it is measured."""
        self.scene, self.grip_width_m = step.verdict.scene_after, None

    def judge(
        self,
        step: Rehearsed,
        look: Callable[[], Observation],
        surroundings: Surroundings,
        clock: Clock,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Compared:
        """Look until it is sure what a finished motion brought about, and believe that.

        Args:
            look: takes an observation that can show it.
            timed: is entered while one is measured.

        Raises:
            ObservationError: nothing could be measured; then nobody has seen that anything is held.
        """

        def look_anew() -> Observation:
            self.expect(step)
            return twice(look)

        def compare(first: Observation, second: Observation) -> Compared:
            with timed():
                return self.compare(step, (first, second), surroundings)

        try:
            outcome, measured = look_until_sure(look_anew, compare, clock)
        except ObservationError:
            self.hold_nothing()
            raise
        if outcome.kind is not OutcomeKind.ACHIEVED:
            self.fail(step.motion.effect, outcome)
        return outcome, measured

    def compare(self, step: Rehearsed, looks: tuple[Observation, Observation], surroundings: Surroundings) -> Compared:
        """Measure the second look and judge the step by both; why a scene could not be measured is a cause, too."""
        measured, problem = self.measure(step, looks[1], surroundings)
        outcome = judge(step, looks, measured, surroundings)
        if problem is not None and outcome.causes:
            outcome = replace(outcome, causes=(*outcome.causes, problem))
        return outcome, measured

    def measure(
        self, step: Rehearsed, observation: Observation, surroundings: Surroundings
    ) -> tuple[Scene | None, Cause | None]:
        """Look for everything where the twin expects it, else where it was; what is measured is believed.

        Returns:
            The measured scene, or None with the reason why the expected one was not found.
        """
        expected, problem = step.verdict.scene_after, None
        for candidate in (expected, step.scene):
            if candidate is None:
                continue
            robot = replace(observation.robot, held=candidate.held)
            try:
                self.scene = remeasure(candidate, replace(observation, robot=robot), surroundings)
                self.grip_width_m = None if self.scene.held is None else observation.robot.gripper_width_m
                return self.scene, None
            except (ObservationError, PerceptionError) as error:
                problem = problem or Cause(error.reason, str(error))
        self.scene = expected
        self.hold_nothing()
        return None, problem
