"""An object to push → motions that go down behind it, push with closed fingers and go home."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from qwen2vl_robot.geometry import Array
from qwen2vl_robot.messages import Direction, Effect, Hull, Motion, SceneObject
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import unexplained
from qwen2vl_robot.motion.job import LINE_SPEED_RATIO, RISE_M, Job, line_space, unsupported
from qwen2vl_robot.motion.path import tool_line
from qwen2vl_robot.motion.pushes import PUSH_STANDOFF_M, push_starts, pushed
from qwen2vl_robot.motion.timeline import PathFinder
from qwen2vl_robot.relations import toward

_PUSH_SPEED_RATIO = 0.15  # slow, so that the object does not roll or slide on
_PUSH_TOLERANCE_M = 0.04


def push(job: Job) -> Iterator[Motion]:
    """Make motions that push an object in a direction.

    Raises:
        MotionError: it would topple, something is in its way, no direction is given, or the gripper is full.
    """
    action, scene = job.action, job.scene
    if scene.held is not None:
        raise unsupported(f"the gripper holds {scene.held}; place it before pushing")
    target = job.find(action.target, "push")
    if isinstance(target.shape, Hull):
        raise unexplained(target)
    if action.direction is None:
        raise unsupported(f"push needs a direction: {', '.join(d.value for d in Direction)}")
    along = toward(action.direction, job.sides)
    moved = pushed(target, along, scene)
    job.check_workspace(moved.T_base_object[:3, 3])
    before = job.model(scene.bodies())
    friction = job.robot.profile.object_friction
    starts = push_starts(target, along, job.robot.hand, friction, job.current_yaw_rad)
    poses = sorted(starts, key=job.hidden)
    pushes = (partial(_attempt_push, job, before, pose, moved) for pose in poses)
    return job.each(lambda _: pushes, clearances_m=(0.0,))


def _attempt_push(
    job: Job, before: CollisionModel, T_base_tool: Array, moved: SceneObject, find_path: PathFinder
) -> Motion:
    line = job.descent(before, 0.0, T_base_tool)
    rest = [body for body in job.scene.bodies() if body.name != moved.name]
    sweep = moved.T_base_object[:3, 3] - job.scene.find(moved.name).T_base_object[:3, 3]
    sweep = sweep * (1.0 + PUSH_STANDOFF_M / np.linalg.norm(sweep))
    stroke = tool_line(line_space(job.model(rest), 0.0), line[-1], sweep)
    after = job.model([*rest, moved])
    rise = tool_line(line_space(after, 0.0, job.touching_fingers(moved.name)), stroke[-1], RISE_M)
    builder = job.builder()
    builder.open_to(0.0)
    builder.travel(before, line[0], find_path)
    builder.follow(line, LINE_SPEED_RATIO)
    builder.follow(stroke, _PUSH_SPEED_RATIO)
    builder.follow(rise, LINE_SPEED_RATIO)
    builder.travel(after, job.robot.home_rad, find_path)
    return builder.motion(Effect("push", moved.name, moved.T_base_object, tolerance_m=_PUSH_TOLERANCE_M))
