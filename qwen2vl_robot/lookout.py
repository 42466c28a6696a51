"""A camera while an arm moves → what came into its way, or that nobody could have seen it.

What the arm itself moves is left out: its load, and the things that the motion handles, where they may be.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, read_only, transform
from qwen2vl_robot.messages import CameraFrame, Cause, Observation, Rehearsed, RobotState, SceneObject
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.perception.intruders import SMALLEST_M, Eye, Patch
from qwen2vl_robot.perception.surfaces import OUTLINE_M, outlines_of
from qwen2vl_robot.perception.way import ROOM_M, Way, box_points, link_points, load_of
from qwen2vl_robot.ports import Camera
from qwen2vl_robot.reasons import AbortReason

MOST_BLIND_S = 1.5  # three pictures of a camera that takes two a second
_REACTION_S = 0.2  # from a picture to an arm that stands: the look, the lag, the brakes
_LOAD_M = 0.02  # around a load: it may lie askew
_STILL_M = 0.015  # around things that stay where they are
_HANDLED_M = 0.04  # around those that the motion handles
_PUSH_STEP_M = 0.02
_STATES = 200


class Lookout:
    """Watches one motion.

    Args:
        step: what was rehearsed, with the frame in which it was.

    Attributes:
        problem: why nothing can be watched; "" where it can.
        frames: how many were judged.
    """

    def __init__(self, camera: Camera, around: Surroundings, step: Rehearsed) -> None:
        self._camera, self._kinematics, self._step = camera, around.kinematics, step
        self._load = load_of(step, around.kinematics)
        parts, start = link_points(around.kinematics), step.start
        self._way = Way.of(step.motion, start.q_rad, start.gripper_width_m, around.kinematics, parts, self._load)
        self._outlines = outlines_of(around.kinematics)
        self._states: deque[tuple[int, float, RobotState]] = deque(maxlen=_STATES)
        self._still, self._handled = _still(step), _handled(step)
        self._since_ns: int | None = None  # of the latest frame, at first of the motion's begin
        self._seen_ns = 0
        self.frames, self._longest_s, self._lacks = 0, 0.0, "no frame came"
        self._eyes: list[Eye | None] = []
        self.problem = "" if step.seen is not None else "there is no frame to compare with"
        for index, frame in enumerate((step.seen, *step.seen.others) if step.seen is not None else ()):
            try:
                self._eyes.append(Eye(Observation(replace(frame, others=()), start), around))
            except ObservationError as error:
                self._eyes.append(None)
                self.problem = str(error) if index == 0 else self.problem

    def look(self, state: RobotState, since_s: float, now_ns: int) -> Cause | None:
        """Judge the newest frame, if there is a new one.

        Args:
            state: the arm's latest, at `since_s` of the motion's own time.
            now_ns: the clock's time.

        Returns:
            Why the motion must not go on.
        """
        if self._since_ns is None:
            self._since_ns = self._seen_ns = now_ns
        if not self._states or state.stamp_ns > self._states[-1][0]:
            self._states.append((state.stamp_ns, since_s, state))
        try:
            frame = self._camera.newest(self._since_ns)
        except ObservationError as error:
            frame, self._lacks = None, str(error)
        if frame is not None and frame.stamp_ns > self._since_ns:
            self._since_ns = frame.stamp_ns
            cause = self._judge(frame)
            if cause is not None:
                return cause
        blind_s = (now_ns - self._seen_ns) / 1e9
        if blind_s <= MOST_BLIND_S:
            return None
        text = f"for {blind_s:.1f} s no frame showed the arm's way, allowed {MOST_BLIND_S:g} s: {self._lacks}"
        return Cause(AbortReason.UNWATCHED, text, (("blind_s", blind_s), ("allowed_s", MOST_BLIND_S)))

    def describe(self) -> str:
        """Say in one line how well the motion was watched."""
        if not self.frames:
            return f"not watched: {self._lacks}"
        speed_mps = ROOM_M / (self._longest_s + _REACTION_S)
        return (
            f"watched in {self.frames} frames, at most {self._longest_s:.2f} s apart: what is at least "
            f"{SMALLEST_M * 100:.0f} cm large and comes at up to {speed_mps:.2f} m/s is stopped for in time"
        )

    def _judge(self, frame: CameraFrame) -> Cause | None:
        """Look through every camera; one that moved sees nothing, and that is said."""
        at_s, robots = self._robots_at(frame.stamp_ns)
        arm_m = np.vstack([self._arm_m(robot, at_s) for robot in robots])
        excused, has_seen, found = [*self._still, *self._handled], False, None
        for eye, seen in zip(self._eyes, (frame, *frame.others), strict=False):
            if eye is None:
                continue
            if eye.has_moved(seen):
                self._lacks, self._seen_ns = "the camera moves with the arm", frame.stamp_ns
                continue
            if eye.look(seen, arm_m, self._way, at_s, excused) is None:
                self._lacks = "too little of the frame has depth, or it is of another mode"
                continue
            has_seen, patch = True, eye.lasting(seen.stamp_ns)
            found = found or (None if patch is None else self._cause(patch, eye, at_s))
        if has_seen:
            self._longest_s = max(self._longest_s, (frame.stamp_ns - self._seen_ns) / 1e9)
            self.frames, self._seen_ns = self.frames + 1, frame.stamp_ns
        return found

    def _robots_at(self, stamp_ns: int) -> tuple[float, list[RobotState]]:
        """The motion's own time at a stamp, and the states around it: the arm is in between."""
        before = [entry for entry in self._states if entry[0] <= stamp_ns] or [self._states[0]]
        after = [entry for entry in self._states if entry[0] > stamp_ns] or [self._states[-1]]
        around = [before[-2] if len(before) > 1 else before[-1], before[-1], after[0]]
        return before[-1][1], [robot for _, _, robot in around]

    def _arm_m(self, robot: RobotState, at_s: float) -> Array:
        """Points on the arm, and on and in its load, base frame."""
        poses = self._kinematics.link_poses(robot.q_rad, robot.gripper_width_m)
        points = [transform(poses[link], points_m) for link, points_m in self._outlines.items()]
        if self._load is not None and self._load.is_carried(at_s):
            T_base_load = poses[self._kinematics.profile.tool_link] @ self._load.T_tool_load
            points.append(transform(T_base_load, box_points(self._load.size_m + 2 * _LOAD_M, OUTLINE_M)))
        return np.vstack(points)

    def _cause(self, patch: Patch, eye: Eye, at_s: float) -> Cause:
        bodies = [body for body, _ in self._still if body.name != self._step.motion.effect.name]
        gone = [body for body in bodies if eye.has_left(body)]
        nearest = min(gone, key=lambda b: _apart_m(b, patch), default=None)
        x_m, y_m, z_m = (float(v) for v in patch.p_base_m)
        what = f"something {patch.size_m * 100:.0f} cm large" if nearest is None else f"the {nearest.name} moved and"
        text = f"{what} came into the arm's way at ({x_m:.2f}, {y_m:.2f}, {z_m:.2f}) m, {at_s:.1f} s into the motion"
        numbers = (("x_m", x_m), ("y_m", y_m), ("z_m", z_m), ("size_m", patch.size_m), ("at_s", at_s))
        return Cause(AbortReason.INTRUSION, text, numbers)


def _apart_m(body: SceneObject, patch: Patch) -> float:
    return float(np.linalg.norm(body.T_base_object[:3, 3] - patch.p_base_m))


def _still(step: Rehearsed) -> list[tuple[SceneObject, float]]:
    """What stands around, where it was measured."""
    return [(body, _STILL_M) for body in step.scene.bodies() if body.name != step.scene.held]


def _handled(step: Rehearsed) -> list[tuple[SceneObject, float]]:
    """The things that the motion handles, wherever it may move them; also what something is put on or into."""
    scene, effect = step.scene, step.motion.effect
    names = {body.name for body in scene.bodies()}
    found = [scene.find(name) for name in (effect.name, effect.reference) if name in names and name is not None]
    found = [body for body in found if body.name != scene.held]
    if effect.name not in names or effect.name is None or effect.T_base_object is None:
        return [(body, _HANDLED_M) for body in found]
    body, goal_m = scene.find(effect.name), effect.T_base_object[:3, 3]
    from_m = goal_m if effect.kind == "release" else body.T_base_object[:3, 3]
    count = 2 + int(np.linalg.norm(goal_m - from_m) / _PUSH_STEP_M)
    for share in np.linspace(0.0, 1.0, count):
        T_base_object = effect.T_base_object.copy()
        T_base_object[:3, 3] = from_m + share * (goal_m - from_m)
        found.append(replace(body, T_base_object=read_only(T_base_object)))
    return [(body, _HANDLED_M) for body in found]
