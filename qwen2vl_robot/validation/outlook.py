"""The last frame and what the twin left behind → the world in which the next step begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.messages import CameraFrame, Observation, RobotState, Scene, Verdict
from qwen2vl_robot.validation.unseen import Known, shadow_space, unseen_space


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """The predicted world at the start of a step.

    Attributes:
        frame: the latest camera frame.
        measured: the scene measured from that frame.
        scene, start: predicted scene and arm state; the measured ones for the first step.
    """

    frame: CameraFrame
    measured: Scene
    scene: Scene
    start: RobotState

    @classmethod
    def now(cls, observation: Observation, scene: Scene) -> Outlook:
        """Take the world as it has just been measured."""
        return cls(observation.frame, scene, scene, observation.robot)

    def after(self, verdict: Verdict) -> Outlook | None:
        """Predict the world after an accepted motion; None when the verdict has no scene or state."""
        if verdict.scene_after is None or verdict.state_after is None:
            return None
        start = replace(verdict.state_after, effort_nm=self.start.effort_nm)  # a robot that tells torques goes on to
        return replace(self, scene=verdict.scene_after, start=start)

    def with_unseen(self, targets: tuple[str | None, ...], profile: RobotProfile, known: Known) -> Outlook:
        """Return a copy with the space that no camera has seen marked in the scene; see `unseen`."""
        looked = (self.frame, self.measured, self.scene, profile, targets, known)
        return replace(self, scene=replace(self.scene, unseen_m=unseen_space(*looked), shadow_m=shadow_space(*looked)))
