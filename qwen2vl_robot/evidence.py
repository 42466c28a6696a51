"""A finished step and two looks after it → what the judge needs: views, states, and where what moved was and is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Effect, JointSegment, Observation, Rehearsed, RobotState, Scene, SceneObject
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.view import LevelledView, make_view

_SAME_POSE = 0.001  # m, and rad: a camera at the wrist is back where it was, to less than a pixel
_MOVED_M = 0.005  # what the twin moves by more is to be somewhere else


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A step with what was seen before and after it.

    Attributes:
        end: the twin's state after the motion, its joints those of the motion's last point.
        left, arrived: bodies that were to move, where they were and where they are now, or should be.
        measured: the scene from the second look, None where it could not be measured.
    """

    effect: Effect
    start: RobotState
    end: RobotState
    state: RobotState
    scene: Scene
    expected: Scene
    measured: Scene | None
    before: LevelledView
    looks: tuple[LevelledView, LevelledView]
    left: tuple[SceneObject, ...]
    arrived: tuple[SceneObject, ...]
    surroundings: Surroundings

    @property
    def after(self) -> LevelledView:
        return self.looks[-1]


def gather(
    step: Rehearsed, looks: tuple[Observation, Observation], measured: Scene | None, surroundings: Surroundings
) -> Case:
    """Gather what the checks need.

    Raises:
        ObservationError: a frame cannot be used or came twice, the camera has moved, or the twin promised nothing.
    """
    expected, end, seen = step.verdict.scene_after, step.verdict.state_after, step.seen
    if expected is None or end is None or seen is None:
        raise ObservationError("there is no scene before the motion, or no prediction, to compare with")
    if not looks[0].frame.stamp_ns < looks[1].frame.stamp_ns:
        raise ObservationError("both looks show one frame, which cannot tell whether anything moves")
    for frame in (look.frame for look in looks):
        if frame.intrinsics != seen.intrinsics or not np.allclose(
            frame.T_base_camera, seen.T_base_camera, atol=_SAME_POSE
        ):
            raise ObservationError("the camera is not what or where it was before the motion")
    kinematics, profile = surroundings.kinematics, surroundings.profile
    before = make_view(Observation(seen, step.start), kinematics, profile)
    first, second = (make_view(look, kinematics, profile) for look in looks)
    state = looks[-1].robot
    pairs = list(_movers(step.scene, expected, measured, state, surroundings))
    return Case(
        effect=step.motion.effect,
        start=step.start,
        end=replace(end, q_rad=_last_joints(step)),
        state=state,
        scene=step.scene,
        expected=expected,
        measured=measured,
        before=before,
        looks=(first, second),
        left=tuple(was for was, _ in pairs),
        arrived=tuple(now for _, now in pairs),
        surroundings=surroundings,
    )


def _last_joints(step: Rehearsed) -> Array:
    pieces = [s for s in step.motion.segments if isinstance(s, JointSegment)]
    return pieces[-1].q_rad[-1] if pieces else step.start.q_rad


def _movers(
    scene: Scene, expected: Scene, measured: Scene | None, state: RobotState, surroundings: Surroundings
) -> Iterator[tuple[SceneObject, SceneObject]]:
    """Each body that the twin moved or held: where it was, and where it is now, as far as that is known."""
    for body in expected.bodies():
        was = find(scene, body.name)
        if was is None:
            continue
        if body.name == expected.held and expected.T_tool_held is not None:
            T_base_tool = surroundings.kinematics.tool_pose(state.q_rad, state.gripper_width_m)
            yield was, replace(body, T_base_object=T_base_tool @ expected.T_tool_held)
        elif body.name == scene.held or distance_m(was, body) > _MOVED_M:
            now = None if measured is None or measured.held == body.name else find(measured, body.name)
            yield was, body if now is None else now


def find(scene: Scene, name: str) -> SceneObject | None:
    """The named body, if it was measured and its pose is a pose."""
    body = next((b for b in scene.bodies() if b.name == name), None)
    return body if body is not None and np.isfinite(body.T_base_object).all() else None


def distance_m(a: SceneObject, b: SceneObject) -> float:
    return float(np.linalg.norm(a.T_base_object[:3, 3] - b.T_base_object[:3, 3]))
