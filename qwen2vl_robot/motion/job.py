"""One action, its scene and start → what each recipe needs: named bodies, free lines, models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert, project, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import CameraFrame, GroundedAction, Motion, RobotState, Scene, SceneObject
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.attempts import CLEARANCES_M, Attempt, each
from qwen2vl_robot.motion.collision import CollisionModel, Pair
from qwen2vl_robot.motion.grasps import Grasp, Hand, closing_yaw_rad, measure_hand
from qwen2vl_robot.motion.path import Space, tool_line
from qwen2vl_robot.motion.timeline import MotionBuilder
from qwen2vl_robot.reasons import MotionReason
from qwen2vl_robot.sides import Sides

LINE_SPEED_RATIO = 0.5
RISE_M = np.array([0.0, 0.0, 0.09])  # straight up and down over a grasp or a release
_SHADOW_ROOM_M = 0.005  # around unseen room: fingers are not where they should be to the millimetre
_SHADOW_TOP_M = 0.015  # above it: narrower things than those that count may stand higher in a shadow, which is a wedge
_LINE_MARGIN_M = 0.002  # less than the fingertips' clearance to the table


@dataclass(frozen=True, slots=True, eq=False)
class Robot:
    """The robot that performs the motions.

    Attributes:
        hand: sizes of its gripper.
        home_rad: joints (n,) at which every motion ends, except a wait.
    """

    profile: RobotProfile
    kinematics: Kinematics
    hand: Hand
    home_rad: Array


@dataclass(frozen=True, eq=False)
class Job:
    """The action to perform, with its scene and start.

    Attributes:
        rules: when something is on, in or beside something else.
        state: the arm's state at the start of every motion.
        seed: of the searches for a path around obstacles.
        seen: the frame in which the scene was measured, where there is one.
    """

    robot: Robot
    rules: RelationRules
    action: GroundedAction
    scene: Scene
    state: RobotState
    seed: int
    seen: CameraFrame | None = None

    @cached_property
    def current_yaw_rad(self) -> float:
        """Bearing along which the fingers close at the start."""
        return closing_yaw_rad(self.robot.kinematics.tool_pose(self.state.q_rad), self.robot.hand.closing_axis)

    @property
    def sides(self) -> Sides:
        """Which way left and behind are.

        Raises:
            MotionError: the scene does not say.
        """
        if self.scene.sides is None:
            raise unsupported("nothing is left, right, in front or behind: the camera's picture is turned too far")
        return self.scene.sides

    def find(self, name: str | None, verb: str) -> SceneObject:
        """Find the body with a name; `verb` is for the message.

        Raises:
            MotionError: the name is None, or the scene has no such body.
        """
        known = ", ".join(body.name for body in self.scene.bodies()) or "nothing"
        if name is None:
            raise unsupported(f"nothing is named to {verb}; the scene has {known}")
        try:
            return self.scene.find(name)
        except KeyError:
            raise unsupported(f"no {name!r} to {verb}; the scene has {known}") from None

    def builder(self) -> MotionBuilder:
        """Start a motion at the arm's state."""
        return MotionBuilder(self.robot.profile, self.state)

    def each(
        self, attempts: Callable[[float], Iterable[Attempt]], *, clearances_m: tuple[float, ...] = CLEARANCES_M
    ) -> Iterator[Motion]:
        """Yield the motions of the attempts that work (see `attempts.each`)."""
        return each(attempts, clearances_m, self.seed)

    def model(
        self,
        bodies: Iterable[SceneObject],
        held: tuple[SceneObject, Array] | None = None,
        *,
        clearance_m: float = 0.0,
        near: frozenset[str] = frozenset(),
    ) -> CollisionModel:
        """Build the robot among bodies (see `CollisionModel`); `held`: the object in the gripper and `T_tool_held`."""
        attached = None if held is None else (held[0].name, held[0].shape, held[1])
        return CollisionModel(
            self.robot.kinematics, bodies, self.scene.table_height_m, attached, clearance_m=clearance_m, near=near
        )

    def close_to(self, model: CollisionModel, q_rad: Array, width_m: float, name: str) -> frozenset[Pair]:
        """Collect the pairs of a body that are closer at joints (n,) than a straight line allows."""
        pairs = model.all_close(q_rad, width_m, _LINE_MARGIN_M)
        return frozenset(pair for pair in pairs if name in pair)

    def touching_fingers(self, name: str) -> frozenset[Pair]:
        """Pair a body with each finger."""
        return frozenset(frozenset((link, name)) for link in self.robot.profile.gripper.finger_links)

    def descent(self, model: CollisionModel, width_m: float, T_base_tool: Array) -> Array:
        """Compute joints (m, n) straight down to a tool pose (4, 4), with every step free of collisions.

        Raises:
            MotionError: outside the workspace or out of reach, or something is in the way.
        """
        self.check_workspace(T_base_tool[:3, 3])
        home_rad = self.robot.home_rad
        q_rad = ik.solve(self.robot.kinematics, T_base_tool, [home_rad], posture_rad=home_rad)
        return tool_line(line_space(model, width_m), q_rad, RISE_M)[::-1]

    def hidden(self, T_base_tool: Array) -> int:
        """Count the points of the hand at a tool pose (4, 4), and above it, where no camera has looked."""
        boxes_m = _boxes(self.scene.unseen_m, self.scene.shadow_m)
        if not len(boxes_m):
            return 0
        here_m = transform(T_base_tool, self.robot.hand.room_m)
        p_m = np.concatenate([here_m, here_m + RISE_M])
        is_near = ((boxes_m[:, 1] > p_m.min(axis=0)) & (boxes_m[:, 0] < p_m.max(axis=0))).all(axis=-1)
        low_m, high_m = boxes_m[is_near, 0], boxes_m[is_near, 1]
        return int(((p_m[:, None] > low_m) & (p_m[:, None] < high_m)).all(axis=-1).any(axis=-1).sum())

    def dark_ratio(self, grasp: Grasp) -> float:
        """Return the share of the fingers' room at a grasp which the frame does not show to be free; 0 without one."""
        if self.seen is None:
            return 0.0
        k = self.seen.intrinsics
        p_m = transform(invert(self.seen.T_base_camera) @ grasp.T_base_tool, self.robot.hand.fingers_m(grasp.opening_m))
        column, row = np.nan_to_num(np.round(project(p_m, k.fx_px, k.fy_px, k.cx_px, k.cy_px)), nan=-1.0).astype(int).T
        inside = (column >= 0) & (column < k.width_px) & (row >= 0) & (row < k.height_px)
        is_free = self.seen.depth_m[row[inside], column[inside]] >= p_m[inside, 2]  # no depth shows nothing
        return 1.0 - float(is_free.sum()) / len(p_m)

    def shadow_top_m(self, grasp: Grasp) -> float | None:
        """Return the height of the top of the unseen room that fingers would go into, None where they meet none."""
        boxes_m = _boxes(self.scene.shadow_m)
        p_m = transform(grasp.T_base_tool, self.robot.hand.fingers_m(grasp.opening_m))
        p_m = np.concatenate([p_m + share * RISE_M for share in (0.0, 0.25, 0.5, 0.75, 1.0)])[:, None]
        low_m, high_m = boxes_m[None, :, 0] - _SHADOW_ROOM_M, boxes_m[None, :, 1] + _SHADOW_ROOM_M
        is_met = ((p_m > low_m) & (p_m < high_m)).all(axis=-1).any(axis=0)
        return float(boxes_m[is_met, 1, 2].max()) + _SHADOW_TOP_M if is_met.any() else None

    def check_workspace(self, p_base_m: Array) -> None:
        """Refuse a point (3,), base frame, outside the workspace.

        Raises:
            MotionError: the point is outside; the message has the limits.
        """
        if not self.is_in_workspace(p_base_m):
            x, y, z = p_base_m
            low, high = self.robot.profile.workspace.min_m, self.robot.profile.workspace.max_m
            raise MotionError(
                f"({x:.3f}, {y:.3f}, {z:.3f}) m lies outside the workspace {low} to {high} m",
                reason=MotionReason.OUT_OF_REACH,
            )

    def is_in_workspace(self, p_base_m: Array) -> bool:
        """Check whether a point (3,), base frame, lies in the workspace."""
        low, high = np.array(self.robot.profile.workspace.min_m), np.array(self.robot.profile.workspace.max_m)
        return bool(np.all((p_base_m >= low) & (p_base_m <= high)))


def _boxes(*given_m: Array | None) -> Array:
    """Join boxes (k, 2, 3) of the scene."""
    return np.concatenate([np.zeros((0, 2, 3)), *(boxes_m for boxes_m in given_m if boxes_m is not None)])


def measure_robot(profile: RobotProfile) -> Robot:
    """Load a profile's robot and measure its hand."""
    kinematics = Kinematics(profile)
    return Robot(profile, kinematics, measure_hand(kinematics, profile), np.array(profile.home_q_rad))


def line_space(model: CollisionModel, width_m: float, ignored: frozenset[Pair] = frozenset()) -> Space:
    """Describe where the tool may move straight, close to the object that it takes or leaves."""
    return Space(model, width_m, _LINE_MARGIN_M, ignored)


def unsupported(message: str) -> MotionError:
    """Make the error for an action that is impossible now or always."""
    return MotionError(message, reason=MotionReason.UNSUPPORTED)
