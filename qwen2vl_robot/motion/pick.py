"""An object to be picked → motions that go down over it, close on it and carry it home."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import invert
from qwen2vl_robot.messages import Effect, Motion, SceneObject
from qwen2vl_robot.motion.attempts import Try
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import Grasp, grasps
from qwen2vl_robot.motion.job import LINE_SPEED_RATIO, Job, line_space, unsupported
from qwen2vl_robot.motion.path import check_line
from qwen2vl_robot.motion.timeline import Way
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.relations import free_gap_m

_STANDS_ON_M = 0.01  # a bottom this close to a top stands on it


def pick(job: Job) -> Iterator[Motion]:
    """Motions that take an object from above.

    Raises:
        MotionError: it cannot be grasped, or not now.
    """
    scene = job.scene
    if scene.held is not None:
        raise unsupported(f"the gripper already holds {scene.held}; place it first")
    target = job.find(job.action.target, "pick")
    if load := next((b.name for b in scene.bodies() if _stands_on(b, target)), None):
        raise MotionError(f"{load} stands on {target.name}; move it first", reason=MotionReason.NO_GRASP)
    found = grasps(target, job.robot.hand, job.current_yaw_rad)
    near = frozenset({target.name})

    def tries(clearance_m: float) -> Iterator[Try]:
        before = job.model(scene.bodies(), clearance_m=clearance_m, near=near)
        for grasp in found:
            yield partial(_try_grasp, job, before, clearance_m, target, grasp)

    return job.each(tries)


def _try_grasp(
    job: Job, before: CollisionModel, clearance_m: float, target: SceneObject, grasp: Grasp, way: Way
) -> Motion:
    line = job.descent(before, grasp.opening_m, grasp.T_base_tool)
    T_tool_target = invert(grasp.T_base_tool) @ target.T_base_object
    rest = [body for body in job.scene.bodies() if body is not target]
    after = job.model(rest, (target, T_tool_target), clearance_m=clearance_m)
    support = job.close_to(after, line[-1], grasp.width_m, target.name)
    check_line(line_space(after, grasp.width_m, support), line[::-1])
    timeline = job.timeline()
    timeline.open_to(grasp.opening_m)
    timeline.travel(before, line[0], way)
    timeline.follow(line, LINE_SPEED_RATIO)
    timeline.close_on(grasp.width_m)
    timeline.follow(line[::-1], LINE_SPEED_RATIO)
    timeline.travel(after, job.robot.home_rad, way)
    return timeline.motion(Effect("hold", target.name))


def _stands_on(body: SceneObject, support: SceneObject) -> bool:
    if body is support or abs(body.bottom_m - support.top_m) > _STANDS_ON_M:
        return False
    return free_gap_m(body, support) < -_STANDS_ON_M
