"""What was seen, and what the twin left behind → the world in which a step begins, as it is rehearsed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.messages import CameraFrame, Observation, RobotState, Scene, Verdict
from qwen2vl_robot.validation.unseen import unseen_space


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """The world as it will be when a step begins.

    Attributes:
        frame: what the camera saw last.
        measured: the scene as it was measured from that frame.
        scene, start: scene and arm as they will be; the measured ones for the first step.
    """

    frame: CameraFrame
    measured: Scene
    scene: Scene
    start: RobotState

    @classmethod
    def now(cls, observation: Observation, scene: Scene) -> Outlook:
        """The world as it has just been measured."""
        return cls(observation.frame, scene, scene, observation.robot)

    def after(self, verdict: Verdict) -> Outlook | None:
        """The world that an accepted motion leaves behind; None when the twin does not say."""
        if verdict.scene_after is None or verdict.state_after is None:
            return None
        return replace(self, scene=verdict.scene_after, start=verdict.state_after)

    def with_unseen(self, targets: tuple[str | None, ...], profile: RobotProfile) -> Outlook:
        """The same, the space that no camera has seen marked in the scene; see `unseen.unseen_space`."""
        unseen_m = unseen_space(self.frame, self.measured, self.scene, profile, targets)
        return replace(self, scene=replace(self.scene, unseen_m=unseen_m))
