"""One action with its scene and start → what every recipe needs for it: named things, free lines, collision models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import GroundedAction, Motion, RobotState, Scene, SceneObject
from qwen2vl_robot.motion import ik
from qwen2vl_robot.motion.attempts import CLEARANCES_M, Try, each
from qwen2vl_robot.motion.collision import CollisionModel, Pair
from qwen2vl_robot.motion.grasps import Hand, closing_yaw_rad, measure_hand
from qwen2vl_robot.motion.path import Space, tool_line
from qwen2vl_robot.motion.timeline import Timeline
from qwen2vl_robot.reasons import MotionReason

LINE_SPEED_RATIO = 0.5
RISE_M = np.array([0.0, 0.0, 0.09])  # straight up and down over a grasp or a release
_LINE_MARGIN_M = 0.002  # less than the fingertips' clearance to the table


@dataclass(frozen=True, slots=True, eq=False)
class Robot:
    """The robot that motions are made for.

    Attributes:
        home_rad: joints (n,) at which every motion ends.
    """

    profile: RobotProfile
    kinematics: Kinematics
    hand: Hand
    home_rad: Array


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked, and where.

    Attributes:
        rules: when something is on, in or beside something else.
        state: from which every motion starts.
        seed: of a search for a way around.
    """

    robot: Robot
    rules: RelationRules
    action: GroundedAction
    scene: Scene
    state: RobotState
    seed: int

    @cached_property
    def current_yaw_rad(self) -> float:
        """Bearing along which the fingers close at the start."""
        return closing_yaw_rad(self.robot.kinematics.tool_pose(self.state.q_rad), self.robot.hand.closing_axis)

    def find(self, name: str | None, verb: str) -> SceneObject:
        """The body of a name, for what a verb needs.

        Raises:
            MotionError: nothing is named, or the scene has no such body.
        """
        known = ", ".join(body.name for body in self.scene.bodies()) or "nothing"
        if name is None:
            raise unsupported(f"nothing is named to {verb}; the scene has {known}")
        try:
            return self.scene.find(name)
        except KeyError:
            raise unsupported(f"no {name!r} to {verb}; the scene has {known}") from None

    def timeline(self) -> Timeline:
        """A motion that begins at the start."""
        return Timeline(self.robot.profile, self.state)

    def each(
        self, tries: Callable[[float], Iterable[Try]], *, clearances_m: tuple[float, ...] = CLEARANCES_M
    ) -> Iterator[Motion]:
        """The motions of the tries that work (see `attempts.each`)."""
        return each(tries, clearances_m, self.seed)

    def model(
        self,
        bodies: Iterable[SceneObject],
        held: tuple[SceneObject, Array] | None = None,
        *,
        clearance_m: float = 0.0,
        near: frozenset[str] = frozenset(),
    ) -> CollisionModel:
        """The robot among bodies (see `CollisionModel`); `held`: what the gripper holds, with `T_tool_held`."""
        attached = None if held is None else (held[0].name, held[0].shape, held[1])
        return CollisionModel(
            self.robot.kinematics, bodies, self.scene.table_height_m, attached, clearance_m=clearance_m, near=near
        )

    def close_to(self, model: CollisionModel, q_rad: Array, width_m: float, name: str) -> frozenset[Pair]:
        """The pairs of a body that come as close at joints (n,) as a line may not."""
        pairs = model.all_close(q_rad, width_m, _LINE_MARGIN_M)
        return frozenset(pair for pair in pairs if name in pair)

    def touching_fingers(self, name: str) -> frozenset[Pair]:
        """The pairs of a body with the fingers."""
        return frozenset(frozenset((link, name)) for link in self.robot.profile.gripper.finger_links)

    def descent(self, model: CollisionModel, width_m: float, T_base_tool: Array) -> Array:
        """Joints (m, n) straight down to a tool pose, from above it, every step free.

        Raises:
            MotionError: outside the workspace or out of reach, or something is in the way.
        """
        self.check_workspace(T_base_tool[:3, 3])
        home_rad = self.robot.home_rad
        q_rad = ik.solve(self.robot.kinematics, T_base_tool, [home_rad], posture_rad=home_rad)
        return tool_line(line_space(model, width_m), q_rad, RISE_M)[::-1]

    def check_workspace(self, p_base_m: Array) -> None:
        """Refuse a place (3,) outside the workspace.

        Raises:
            MotionError: it says which workspace.
        """
        if not self.is_in_workspace(p_base_m):
            x, y, z = p_base_m
            low, high = self.robot.profile.workspace.min_m, self.robot.profile.workspace.max_m
            raise MotionError(
                f"({x:.3f}, {y:.3f}, {z:.3f}) m lies outside the workspace {low} to {high} m",
                reason=MotionReason.OUT_OF_REACH,
            )

    def is_in_workspace(self, p_base_m: Array) -> bool:
        """Whether a place (3,) lies in the workspace."""
        low, high = np.array(self.robot.profile.workspace.min_m), np.array(self.robot.profile.workspace.max_m)
        return bool(np.all((p_base_m >= low) & (p_base_m <= high)))


def measure_robot(profile: RobotProfile) -> Robot:
    """Load the robot of a profile."""
    kinematics = Kinematics(profile)
    return Robot(profile, kinematics, measure_hand(kinematics, profile), np.array(profile.home_q_rad))


def line_space(model: CollisionModel, width_m: float, ignored: frozenset[Pair] = frozenset()) -> Space:
    """Where the tool may go straight, close to what it takes or leaves."""
    return Space(model, width_m, _LINE_MARGIN_M, ignored)


def unsupported(text: str) -> MotionError:
    """An action that cannot be done now, or never."""
    return MotionError(text, reason=MotionReason.UNSUPPORTED)
