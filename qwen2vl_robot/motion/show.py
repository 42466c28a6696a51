"""Cameras and a scene → motions that bring the arm where the cameras see enough of it to be checked by it.

The poses hold the hand over the work place, higher than things stand; the way there is free and was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, make_pose, rotation_z, transform
from qwen2vl_robot.messages import CameraFrame, Effect, JointSegment, Motion
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.attempts import Attempt
from qwen2vl_robot.motion.collision import CollisionModel
from qwen2vl_robot.motion.job import Job, unsupported
from qwen2vl_robot.motion.timeline import PathFinder
from qwen2vl_robot.perception.showing import foresee
from qwen2vl_robot.perception.surfaces import outlines_of
from qwen2vl_robot.reasons import MotionReason

_REACH_RATIOS = (0.42, 0.56, 0.7)  # of the workspace's depth
_BEARINGS_RAD = np.deg2rad(np.arange(-60.0, 61.0, 20.0))
_RISES_M = (0.06, 0.16, 0.28)  # over what stands on the table
_CLEARANCES_M = (0.05, 0.012)  # wide first: where things are was measured by the camera that is in question
_CAP_M = 0.03  # a camera that will say less than this says nothing
_LEAST_PX = 3000  # of the arm; some of it may have no depth
_STEP_RAD = 0.1


def show(job: Job) -> Iterator[Motion]:
    """Make motions that end with the arm in view, the pose that tells most about the cameras first.

    Raises:
        MotionError: the gripper is full, no camera looked, or none would see enough of the arm.
    """
    if job.scene.held is not None:
        raise unsupported(f"the gripper holds {job.scene.held}, which hides the arm; put it down first")
    if job.seen is None:
        raise unsupported("there is no camera to show the arm to")
    poses = _poses(job, job.seen)
    if not poses:
        text = f"in no pose over the work place would a camera see {_LEAST_PX} px of the arm; look where it points"
        raise MotionError(text, reason=MotionReason.NOT_IN_VIEW)

    def attempts(clearance_m: float) -> Iterator[Attempt]:
        model = job.model(job.scene.bodies(), clearance_m=clearance_m)
        for q_rad in poses:
            yield partial(_go, job, model, q_rad)

    return job.each(attempts, clearances_m=_CLEARANCES_M)


def _go(job: Job, model: CollisionModel, q_rad: Array, find_path: PathFinder) -> Motion:
    builder = job.builder()
    builder.travel(model, q_rad, find_path)
    motion = builder.motion(Effect("show"))
    _check_seen(job, motion)
    return motion


def _poses(job: Job, seen: CameraFrame) -> list[Array]:
    """Choose joints (n,): those that more cameras are checked by first, then those that tell more."""
    found: list[tuple[int, float, Array]] = []
    for q_rad in _candidates(job):
        looks = [foresee(camera, job.robot.kinematics, replace(job.state, q_rad=q_rad)) for camera in _cameras(seen)]
        enough = [unsure_m for px, unsure_m in looks if px >= _LEAST_PX]
        if enough:
            found.append((-len(enough), sum(min(unsure_m, _CAP_M) for unsure_m in enough), q_rad))
    return [q_rad for _, _, q_rad in sorted(found, key=lambda pose: pose[:2])]


def _cameras(seen: CameraFrame) -> tuple[CameraFrame, ...]:
    return (seen, *seen.others)


def _candidates(job: Job) -> Iterator[Array]:
    """Joints (n,) with the hand over the work place, turned as at home; the start too, where it is as high."""
    robot = job.robot
    T_home = robot.kinematics.tool_pose(robot.home_rad)
    home_bearing_rad = float(np.arctan2(T_home[1, 3], T_home[0, 3]))
    floor_m = job.scene.table_height_m + robot.profile.safety.things_below_m
    for rise_m in _RISES_M:
        for ratio in _REACH_RATIOS:
            for bearing_rad in _BEARINGS_RAD:
                turn = rotation_z(float(bearing_rad))
                p_m = turn @ [ratio * robot.profile.workspace.max_m[0], 0.0, floor_m + rise_m]
                if not job.is_in_workspace(p_m):
                    continue
                T = make_pose(p_m, rotation_z(float(bearing_rad) - home_bearing_rad) @ T_home[:3, :3])
                try:
                    yield ik.solve(robot.kinematics, T, [robot.home_rad], posture_rad=robot.home_rad, random_seeds=0)
                except MotionError:
                    continue


def _check_seen(job: Job, motion: Motion) -> None:
    """Refuse a way through space that no camera has seen; the twin looks again, more closely.

    Raises:
        MotionError: a link would enter it.
    """
    boxes_m = job.scene.unseen_m
    if boxes_m is None or not len(boxes_m):
        return
    kinematics = job.robot.kinematics
    outlines = outlines_of(kinematics)
    for q_rad in _thinned(motion):
        poses = kinematics.link_poses(q_rad, job.state.gripper_width_m)
        for link, points_m in outlines.items():
            if link not in kinematics.moving_links:
                continue
            p_m = transform(poses[link], points_m)[::4, None]
            if ((p_m > boxes_m[None, :, 0]) & (p_m < boxes_m[None, :, 1])).all(axis=-1).any():
                text = f"on the way into view {link} would enter space that no camera has seen"
                raise MotionError(text, reason=MotionReason.NO_PATH)


def _thinned(motion: Motion) -> Iterator[Array]:
    """Joints (n,) along a motion, some way apart, and its end."""
    last: Array | None = None
    for segment in motion.segments:
        if isinstance(segment, JointSegment):
            for q_rad in segment.q_rad:
                if last is None or np.abs(q_rad - last).max() >= _STEP_RAD:
                    last = q_rad
                    yield q_rad
            yield segment.q_rad[-1]
