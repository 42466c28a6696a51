"""An object to pick → motions that go down over it, close on it and carry it home."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert
from qwen2vl_robot.messages import Effect, Hull, Motion, SceneObject
from qwen2vl_robot.motion.attempts import Attempt
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.grasps import Grasp, grasps
from qwen2vl_robot.motion.job import LINE_SPEED_RATIO, Job, line_space, unsupported
from qwen2vl_robot.motion.path import check_line
from qwen2vl_robot.motion.timeline import MotionBuilder, PathFinder
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.relations import free_gap_m

_DARK_STEP = 0.05  # of the fingers' room: less of a difference is none
_FREE_M = 0.012  # of a guarded descent before the fingers are in unseen room
_STANDS_ON_M = 0.01  # a body whose bottom is this close to another's top stands on it


def pick(job: Job) -> Iterator[Motion]:
    """Make motions that pick an object from above.

    Raises:
        MotionError: the object cannot be grasped, or the gripper is full.
    """
    scene = job.scene
    if scene.held is not None:
        raise unsupported(f"the gripper already holds {scene.held}; place it first")
    target = job.find(job.action.target, "pick")
    if load := next((b.name for b in scene.bodies() if _stands_on(b, target)), None):
        raise MotionError(f"{load} stands on {target.name}; move it first", reason=MotionReason.NO_GRASP)
    options = [(g, _feels_from_m(job, target, g)) for g in grasps(target, job.robot.hand, job.current_yaw_rad)]
    options.sort(key=lambda option: (option[1] is not None, *_unseen(job, target, option[0])))
    near = frozenset({target.name})

    def attempts(clearance_m: float) -> Iterator[Attempt]:
        before = job.model(scene.bodies(), clearance_m=clearance_m, near=near)
        for option in options:
            yield partial(_attempt_grasp, job, before, clearance_m, target, option)

    return job.each(attempts)


def _unseen(job: Job, target: SceneObject, grasp: Grasp) -> tuple[int, int]:
    """Measure how much of the hand's room was not seen, and of the fingers' own where sides are only nearly known."""
    steps = round(job.dark_ratio(grasp) / _DARK_STEP) if isinstance(target.shape, Hull) else 0
    return job.hidden(grasp.T_base_tool), steps


def _feels_from_m(job: Job, target: SceneObject, grasp: Grasp) -> float | None:
    """Return the height below which fingers may meet what was not seen, None where they meet nothing.

    Of what no solid explains the sides are only nearly known.
    """
    shadow_top_m = job.shadow_top_m(grasp)
    return max(target.top_m, shadow_top_m or 0.0) if isinstance(target.shape, Hull) else shadow_top_m


def _attempt_grasp(
    job: Job,
    before: CollisionModel,
    clearance_m: float,
    target: SceneObject,
    option: tuple[Grasp, float | None],
    find_path: PathFinder,
) -> Motion:
    """Make the motion of a grasp, beside which stands the height from which on fingers have to feel."""
    grasp, feels_from_m = option
    line = job.descent(before, grasp.opening_m, grasp.T_base_tool)
    T_tool_target = invert(grasp.T_base_tool) @ target.T_base_object
    rest = [body for body in job.scene.bodies() if body is not target]
    after = job.model(rest, (target, T_tool_target), clearance_m=clearance_m)
    support = job.close_to(after, line[-1], grasp.width_m, target.name)
    check_line(line_space(after, grasp.width_m, support), line[::-1])
    builder = job.builder()
    builder.open_to(grasp.opening_m)
    builder.travel(before, line[0], find_path)
    _descend(job, builder, line, feels_from_m)
    builder.close_on(grasp.width_m)
    builder.follow(line[::-1], LINE_SPEED_RATIO)
    builder.travel(after, job.robot.home_rad, find_path)
    return builder.motion(Effect("hold", target.name))


def _descend(job: Job, builder: MotionBuilder, line: Array, feels_from_m: float | None) -> None:
    """Go down a line of joints (m, n); guarded where fingers may meet what no camera has seen.

    Raises:
        MotionError: no contact could be felt there.
    """
    if feels_from_m is None:
        builder.follow(line, LINE_SPEED_RATIO)
        return
    if job.state.effort_nm is None:
        raise MotionError(
            "the fingers may meet what no camera has seen, and the arm tells no torques to feel a contact by",
            reason=MotionReason.NO_EFFORT,
        )
    enters_m = feels_from_m + job.robot.hand.pad_depth_m
    heights_m = [float(job.robot.kinematics.tool_pose(q)[2, 3]) for q in line]
    above = [index for index, height_m in enumerate(heights_m) if height_m >= enters_m + _FREE_M]
    if not above:
        raise MotionError(
            f"what was not seen may begin {1000 * (heights_m[0] - enters_m):.0f} mm below the fingers; "
            f"{1000 * _FREE_M:.0f} mm are needed to tell a contact from going down freely",
            reason=MotionReason.NO_GRASP,
        )
    if above[-1] > 0:
        builder.follow(line[: above[-1] + 1], LINE_SPEED_RATIO)
    builder.descend_guarded(line[above[-1] :], job.robot.kinematics, enters_m)


def _stands_on(body: SceneObject, support: SceneObject) -> bool:
    if body is support or abs(body.bottom_m - support.top_m) > _STANDS_ON_M:
        return False
    return free_gap_m(body, support) < -_STANDS_ON_M
