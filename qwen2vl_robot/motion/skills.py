"""A grounded action, the scene and the arm's state → a timed `Motion` with its effect.

Each verb has a recipe: `pick.py`, `place.py`, `push.py`, `show.py`, and below `home` and `wait`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.messages import CameraFrame, Effect, GroundedAction, Motion, RobotState, Scene, Verb
from qwen2vl_robot.motion.job import Job, Robot, measure_robot, unsupported
from qwen2vl_robot.motion.pick import pick
from qwen2vl_robot.motion.place import place
from qwen2vl_robot.motion.push import push
from qwen2vl_robot.motion.show import show
from qwen2vl_robot.motion.timeline import PathFinder

_LONGEST_WAIT_S = 60.0
_AT_HOME_RAD, _AT_HOME_S = 0.005, 0.5  # an arm that is at home already stays there for a moment


class MotionMaker:
    """Makes motions for one robot; deterministic, not thread-safe."""

    def __init__(self, profile: RobotProfile, rules: RelationRules, *, seed: int = 0) -> None:
        self._robot = measure_robot(profile)
        self._rules = rules
        self._seed = seed

    def ways(
        self, action: GroundedAction, scene: Scene, state: RobotState, seen: CameraFrame | None = None
    ) -> Iterator[Motion]:
        """Make motions for one action, best first; each starts at `state.q_rad` and ends at home (a wait stays).

        An arm that is shown ends where the cameras of the frame `seen` see it.

        The same inputs and seed give the same motions in every process. At least one comes, or an error.

        Raises:
            MotionError: out of reach, cannot be grasped, no free path, no room, or impossible in this state.
        """
        if action.verb not in RECIPES:
            raise unsupported(f"{action.verb.value} is not a motion; motions are {', '.join(v.value for v in RECIPES)}")
        _check_state(self._robot, state)
        yield from RECIPES[action.verb](Job(self._robot, self._rules, action, scene, state, self._seed, seen))


def _go_home(job: Job) -> Iterator[Motion]:
    if np.abs(job.state.q_rad - job.robot.home_rad).max() <= _AT_HOME_RAD:
        builder = job.builder()
        builder.hold(_AT_HOME_S)
        return iter([builder.motion(Effect("none"))])
    scene, held = job.scene, None
    if scene.held is not None and scene.T_tool_held is not None:
        held = (job.find(scene.held, "carry"), scene.T_tool_held)
    model = job.model([body for body in scene.bodies() if body.name != scene.held], held)

    def go(find_path: PathFinder) -> Motion:
        builder = job.builder()
        builder.travel(model, job.robot.home_rad, find_path)
        return builder.motion(Effect("none"))

    return job.each(lambda _: [go], clearances_m=(0.0,))


def _wait(job: Job) -> Iterator[Motion]:
    seconds = job.action.seconds
    if seconds is None or not 0.0 < seconds <= _LONGEST_WAIT_S:
        raise unsupported(f"wait of {seconds} s; allowed: above 0 to {_LONGEST_WAIT_S:.0f} s")
    builder = job.builder()
    builder.hold(seconds)
    yield builder.motion(Effect("none"))


RECIPES: dict[Verb, Callable[[Job], Iterator[Motion]]] = {
    Verb.PICK: pick,
    Verb.PLACE: place,
    Verb.PUSH: push,
    Verb.HOME: _go_home,
    Verb.WAIT: _wait,
    Verb.SHOW: show,
}


def _check_state(robot: Robot, state: RobotState) -> None:
    """Refuse a start that is not finite or is outside the joint limits.

    Raises:
        MotionError: the message names the joint, its position and its limits.
    """
    dof = robot.kinematics.dof
    if state.q_rad.shape != (dof,) or not np.isfinite(state.gripper_width_m):
        actual = f"{state.q_rad.shape} and {state.gripper_width_m} m"
        raise unsupported(f"start needs {dof} joints and a gripper width, not {actual}")
    for joint, q in zip(robot.profile.joints, state.q_rad, strict=True):
        if not joint.lower_rad <= q <= joint.upper_rad:  # NaN too
            allowed = f"{joint.lower_rad} to {joint.upper_rad} rad"
            raise unsupported(f"{joint.name} starts at {q:.4f} rad, allowed {allowed}")
