"""Start and goal joints → collision-free waypoints: straight if free, else by RRT-Connect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ompl import base as ompl_base
from ompl import geometric as ompl_geometric
from ompl import util as ompl_util

from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, make_pose
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.collision import CollisionModel, Pair
from qwen2vl_robot.reasons import MotionReason

_CHECK_STEP_RAD = 0.02  # between checked joints: a joint moves a point 0.8 m away by 16 mm, about the clearance
_CHECK_BUDGET = 6000  # configurations that one search may check; a count, so that a busy machine changes nothing
_SEARCH_RANGE_RAD = 0.6
_SHORTCUTS = 60
_LINE_STEP_M = 0.01
_LINE_JUMP_RAD = 0.15  # a larger joint step on a line means that the IK solution jumped to another branch


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The collision model and margins for a movement of the arm.

    Attributes:
        width_m: gripper opening during the movement.
        margin_m: distance to keep from all bodies.
        ignored: pairs of names that may come close.
    """

    model: CollisionModel
    width_m: float
    margin_m: float
    ignored: frozenset[Pair] = frozenset()

    def hit(self, q_rad: Array) -> tuple[str, str] | None:
        """Name two bodies that come too close at joints (n,), or None."""
        return self.model.closest(q_rad, self.width_m, self.margin_m, self.ignored)

    def hit_between(self, a_rad: Array, b_rad: Array) -> tuple[str, str] | None:
        """Name the first two bodies that come too close on the straight line between joints, or None."""
        count = max(int(np.ceil(np.abs(b_rad - a_rad).max() / _CHECK_STEP_RAD)), 1)
        for share in np.arange(count + 1) / count:
            if (pair := self.hit(a_rad + share * (b_rad - a_rad))) is not None:
                return pair
        return None


class BlockedError(MotionError):
    """Start and goal are free, but the straight path is not; a search may find another path."""


def straight(space: Space, start_rad: Array, goal_rad: Array) -> list[Array]:
    """Return start and goal if the straight line between the joints is free.

    Raises:
        BlockedError: start and goal are free, but the path is blocked.
        MotionError: start or goal touch something.
    """
    _check_ends(space, start_rad, goal_rad)
    if (pair := space.hit_between(start_rad, goal_rad)) is not None:
        message = f"no free path: straight {pair[0]} comes within {space.margin_m * 1000:.0f} mm of {pair[1]}"
        raise BlockedError(message, reason=MotionReason.NO_PATH)
    return [start_rad, goal_rad]


def plan(space: Space, start_rad: Array, goal_rad: Array, seed: int) -> list[Array]:
    """Find waypoints from start to goal (both included) with free straight lines between them.

    The same inputs and seed give the same waypoints.

    Raises:
        MotionError: start or goal is too close to something, or the bounded search found no path.
    """
    _check_ends(space, start_rad, goal_rad)
    blocked_by = space.hit_between(start_rad, goal_rad)
    if blocked_by is None:
        return [start_rad, goal_rad]
    waypoints = _search(space, start_rad, goal_rad, seed)
    if not waypoints:
        text = f"straight {blocked_by[0]} meets {blocked_by[1]}, and {_CHECK_BUDGET} checks found no path"
        raise _no_path(text)
    return _shorten(space, waypoints, np.random.default_rng(seed))


def _check_ends(space: Space, start_rad: Array, goal_rad: Array) -> None:
    for q, what in ((start_rad, "start"), (goal_rad, "goal")):
        if (pair := space.hit(q)) is not None:
            raise _no_path(f"at the {what} {pair[0]} is closer than {space.margin_m * 1000:.0f} mm to {pair[1]}")


def tool_line(space: Space, q_start_rad: Array, offset_m: Array) -> Array:
    """Move the tool straight by an offset (3,), base frame, without turning it; return joints (m, n), all free.

    Raises:
        MotionError: out of reach on the way, or something is in the way.
    """
    T_base_start, offset = space.model.kinematics.tool_pose(q_start_rad), np.asarray(offset_m)
    count = max(int(np.ceil(np.linalg.norm(offset) / _LINE_STEP_M)), 2)
    points = [np.asarray(q_start_rad)]
    for share in np.arange(1, count + 1) / count:
        T = make_pose(T_base_start[:3, 3] + share * offset, T_base_start[:3, :3])
        q = ik.solve(space.model.kinematics, T, [points[-1]], posture_rad=points[-1], random_seeds=0)
        if np.abs(q - points[-1]).max() > _LINE_JUMP_RAD:
            raise MotionError(
                "the arm would have to change its configuration during a straight line",
                reason=MotionReason.OUT_OF_REACH,
            )
        points.append(q)
    check_line(space, np.stack(points))
    return np.stack(points)


def check_line(space: Space, points_rad: Array) -> None:
    """Check dense joints (m, n) one by one.

    Raises:
        MotionError: two bodies come too close.
    """
    for q in points_rad:
        if (pair := space.hit(q)) is not None:
            raise _no_path(f"on a straight line {pair[0]} comes within {space.margin_m * 1000:.0f} mm of {pair[1]}")


def _search(space: Space, start_rad: Array, goal_rad: Array, seed: int) -> list[Array]:
    """Search with RRT-Connect between two free configurations; empty when the budget of checks is spent."""
    kinematics = space.model.kinematics
    n, checks = kinematics.dof, [0]

    def is_free(state: Sequence[float]) -> bool:
        checks[0] += 1
        return space.hit(np.array([state[i] for i in range(n)])) is None

    ompl_util.setLogLevel(ompl_util.LogLevel.LOG_NONE)  # OMPL warns about each reseeding, which is intended here
    ompl_util.RNG.setSeed(seed + 1)  # OMPL takes 0 as "seed by the clock"
    real = ompl_base.RealVectorStateSpace(n)
    bounds = ompl_base.RealVectorBounds(n)
    for i in range(n):
        bounds.setLow(i, float(min(kinematics.lower_rad[i], start_rad[i], goal_rad[i])))
        bounds.setHigh(i, float(max(kinematics.upper_rad[i], start_rad[i], goal_rad[i])))
    real.setBounds(bounds)
    setup = ompl_geometric.SimpleSetup(real)
    setup.setStateValidityChecker(is_free)
    information = setup.getSpaceInformation()
    information.setStateValidityCheckingResolution(2 * _CHECK_STEP_RAD / real.getMaximumExtent())
    start, goal = real.allocState(), real.allocState()
    for i in range(n):
        start[i], goal[i] = float(start_rad[i]), float(goal_rad[i])
    setup.setStartAndGoalStates(start, goal)
    planner = ompl_geometric.RRTConnect(information)
    planner.setRange(_SEARCH_RANGE_RAD)
    setup.setPlanner(planner)
    setup.solve(ompl_base.PlannerTerminationCondition(lambda: checks[0] > _CHECK_BUDGET))
    if not setup.haveExactSolutionPath():
        return []
    return [np.array([state[i] for i in range(n)]) for state in setup.getSolutionPath().getStates()]


def _shorten(space: Space, waypoints: list[Array], rng: np.random.Generator) -> list[Array]:
    """Cut corners: replace the path between random waypoints by a straight line where that is free.

    Raises:
        MotionError: the path of the search is not free at the finer step used here.
    """
    for _ in range(_SHORTCUTS):
        if len(waypoints) <= 2:
            break
        i, j = sorted(rng.choice(len(waypoints), 2, replace=False))
        if j - i >= 2 and space.hit_between(waypoints[i], waypoints[j]) is None:
            waypoints = waypoints[: i + 1] + waypoints[j:]
    for a, b in zip(waypoints, waypoints[1:], strict=False):
        if (pair := space.hit_between(a, b)) is not None:
            raise _no_path(f"the path around brings {pair[0]} within {space.margin_m * 1000:.0f} mm of {pair[1]}")
    return waypoints


def _no_path(text: str) -> MotionError:
    return MotionError(f"no free path: {text}", reason=MotionReason.NO_PATH)
