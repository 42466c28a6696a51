"""A measured object → grasps from above: tool poses and openings of the fingers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.errors import MotionError
from qwen2vl_robot.geometry import Array, invert, make_pose, read_only, transform
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.messages import Box, Container, Hull, SceneObject, Sphere, shape_size_m
from qwen2vl_robot.motion.pinches import LEAST_ROOM_M, pinches
from qwen2vl_robot.reasons import MotionReason

TIP_CLEARANCE_M = 0.004  # between the fingertips and the object's support
PALM_CLEARANCE_M = 0.006
_OPENING_ROOM_M = (0.030, 0.016)  # added to the object's width; the smaller one where neighbours are near
_LEAST_ROOM_M = 0.008  # measured widths are wrong by some millimetres
_LEAST_BITE_M = 0.006  # the object's top must be this far above the tool's origin
_ROUND_YAWS = 12
_ROOM_STEP_M = 0.03
_FINGER_STEP_M = 0.005
_MOST_PINCHES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Hand:
    """The sizes of a gripper that grasping depends on, metres.

    Attributes:
        palm_m: from the tool's origin back to the palm; limits how tall an object fits between the fingers.
        pad_depth_m: from the tool's origin forward to the fingertips.
        outer_m: from the tool's origin to the outside of closed fingers, along the closing axis.
        side_m: the same across the closing axis.
        max_width_m: largest opening between the fingers.
        closing_axis: "x" or "y" of the tool frame.
        room_m: points (n, 3) of the tool frame that fill the box around the open hand.
    """

    palm_m: float
    pad_depth_m: float
    outer_m: float
    side_m: float
    max_width_m: float
    closing_axis: str
    room_m: Array

    def fingers_m(self, opening_m: float) -> Array:
        """Fill the fingers at an opening with points (n, 3) of the tool frame, from the tips up to the palm."""
        along = np.arange(opening_m / 2, opening_m / 2 + self.outer_m + _FINGER_STEP_M, _FINGER_STEP_M)
        across = np.linspace(-self.side_m, self.side_m, 5)
        up = np.arange(-self.palm_m, self.pad_depth_m + _FINGER_STEP_M, _FINGER_STEP_M)
        axes = [np.r_[-along, along], across] if self.closing_axis == "x" else [across, np.r_[-along, along]]
        points_m: Array = np.stack(np.meshgrid(*axes, up), axis=-1).reshape(-1, 3)
        return points_m


@dataclass(frozen=True, slots=True, eq=False)
class Grasp:
    """One grasp of an object.

    Attributes:
        T_base_tool: (4, 4) tool pose when the fingers close.
        width_m: width of the object between the fingers.
        opening_m: opening of the fingers on the way down.
    """

    T_base_tool: Array
    width_m: float
    opening_m: float


def measure_hand(kinematics: Kinematics, profile: RobotProfile) -> Hand:
    """Measure the hand from the profile and from the hulls of the links that carry the tool."""
    model, gripper = kinematics.model, profile.gripper
    poses = kinematics.link_poses(np.array(profile.home_q_rad), 0.0)
    T_tool_base = invert(poses[profile.tool_link])
    joint_of = {link: model.frames[model.getFrameId(link)].parentJoint for link in kinematics.link_hulls}
    tool_joint = model.frames[model.getFrameId(profile.tool_link)].parentJoint
    palms = [
        transform(T_tool_base @ poses[link], hull)
        for link, hull in kinematics.link_hulls.items()
        if link not in gripper.finger_links and joint_of[link] == tool_joint
    ]
    palm_m = max(-max((float(palm[:, 2].max()) for palm in palms), default=-0.03), 0.0)
    moved = [n for n in kinematics.link_hulls if n in gripper.finger_links or joint_of[n] in kinematics.finger_joints]
    fingers = np.vstack([transform(T_tool_base @ poses[link], kinematics.link_hulls[link]) for link in moved])
    closing = "xy".index(gripper.closing_axis)
    outer_m, side_m = (float(np.abs(fingers[:, axis]).max()) for axis in (closing, 1 - closing))
    parts = np.vstack([fingers, *palms])
    low, high = parts.min(axis=0), parts.max(axis=0)
    axes = [np.linspace(a, b, max(2, round((b - a) / _ROOM_STEP_M) + 1)) for a, b in zip(low, high, strict=True)]
    room_m = read_only(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3))
    return Hand(palm_m, gripper.pad_depth_m, outer_m, side_m, gripper.max_width_m, gripper.closing_axis, room_m)


def downward(p_base_m: Array, closing_yaw_rad: float, closing_axis: str) -> Array:
    """Compute `T_base_tool` (4, 4) that points down, with the fingers closing along a bearing."""
    along = np.array([np.cos(closing_yaw_rad), np.sin(closing_yaw_rad), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    if closing_axis == "y":
        return make_pose(p_base_m, np.column_stack([np.cross(along, down), along, down]))
    return make_pose(p_base_m, np.column_stack([along, np.cross(down, along), down]))


def closing_yaw_rad(T_base_tool: Array, closing_axis: str) -> float:
    """Compute the bearing along which the fingers close at a tool pose."""
    x, y, _ = T_base_tool[:3, "xy".index(closing_axis)]
    return float(np.arctan2(y, x))


def by_turn(yaws_rad: list[float], from_rad: float) -> list[float]:
    """Sort bearings by how far the wrist must turn to reach them."""
    return sorted(yaws_rad, key=lambda yaw: (round(abs(_wrap(yaw - from_rad)), 9), yaw))


def grasps(target: SceneObject, hand: Hand, current_yaw_rad: float) -> list[Grasp]:
    """List the grasps of an object from above, the smallest turn of the wrist first, wide openings before narrow ones.

    Raises:
        MotionError: no shape explains it, it is a container, or too wide or too low; the message has the sizes.
    """
    if isinstance(target.shape, Hull):
        return _box_grasps(target, target.shape, hand, current_yaw_rad)
    across = _yaws_and_widths(target)
    fitting = {yaw: w for yaw, w in across.items() if w + _LEAST_ROOM_M <= hand.max_width_m}
    if isinstance(target.shape, Container) or not fitting:
        widths = " or ".join(f"{w * 1000:.0f}" for w in sorted({round(w, 4) for w in across.values()}))
        most = f"{(hand.max_width_m - _LEAST_ROOM_M) * 1000:.0f}"
        raise MotionError(
            f"{target.name} is {widths} mm wide; the gripper takes at most {most} mm from above",
            reason=MotionReason.NO_GRASP,
        )
    height_m = _tool_height_m(target, hand)
    p = np.array([*target.T_base_object[:2, 3], height_m])
    options: list[Grasp] = []
    for room_m in _OPENING_ROOM_M:
        for yaw in by_turn(list(fitting), current_yaw_rad):
            opening_m = min(fitting[yaw] + room_m, hand.max_width_m)
            options.append(Grasp(downward(p, yaw, hand.closing_axis), fitting[yaw], opening_m))
    return options


def _box_grasps(target: SceneObject, hull: Hull, hand: Hand, current_yaw_rad: float) -> list[Grasp]:
    """List grasps of a thing that is known by the boxes that hold it."""
    if not hull.boxes_m:
        raise unexplained(target)
    yaw_rad = float(np.arctan2(target.T_base_object[1, 0], target.T_base_object[0, 0]))
    tool_m = max(target.bottom_m + TIP_CLEARANCE_M + hand.pad_depth_m, target.top_m - hand.palm_m + PALM_CLEARANCE_M)
    least_m = tool_m + _LEAST_BITE_M - float(target.T_base_object[2, 3])
    sizes = (hand.side_m, hand.outer_m, hand.max_width_m)
    found = pinches(np.array(hull.boxes_m), *sizes, tips_m=least_m - _LEAST_BITE_M - hand.pad_depth_m, least_m=least_m)
    if not found:
        most = f"{(hand.max_width_m - 2 * LEAST_ROOM_M) * 1000:.0f}"
        raise MotionError(
            f"nowhere on {target.name} do the fingers find a part of at most {most} mm with room on both sides, from "
            f"{1000 * (tool_m + _LEAST_BITE_M):.0f} mm of height up; it is {1000 * target.top_m:.0f} mm high",
            reason=MotionReason.NO_GRASP,
        )
    options: list[Grasp] = []
    for pinch in found[:_MOST_PINCHES]:
        at = transform(target.T_base_object, np.array([[*pinch.middle_m, 0.0]]))[0]
        yaws = by_turn([_wrap(yaw_rad + pinch.yaw_rad + turn) for turn in (0.0, np.pi)], current_yaw_rad)
        opening_m = pinch.width_m + 2 * pinch.room_m
        pose = downward(np.array([at[0], at[1], tool_m]), yaws[0], hand.closing_axis)
        options.append(Grasp(pose, pinch.width_m, opening_m))
    return options


def unexplained(body: SceneObject) -> MotionError:
    """Make the error for a body of which only its points are known."""
    size = " x ".join(f"{side_m * 1000:.0f}" for side_m in shape_size_m(body.shape))
    return MotionError(
        f"{body.name} measures {size} mm, and no shape explains its points; how to touch it is not known",
        reason=MotionReason.UNEXPLAINED,
    )


def _yaws_and_widths(target: SceneObject) -> dict[float, float]:
    """Map each bearing along which to close to the object's width there."""
    size = shape_size_m(target.shape)
    if isinstance(target.shape, Box | Container):
        yaw = float(np.arctan2(target.T_base_object[1, 0], target.T_base_object[0, 0]))
        return {_wrap(yaw + k * np.pi / 2): size[k % 2] for k in range(4)}
    return {_wrap(2 * np.pi * k / _ROUND_YAWS): size[0] for k in range(_ROUND_YAWS)}


def _tool_height_m(target: SceneObject, hand: Hand) -> float:
    """Compute the tool's height: the object's middle, or higher if palm or fingertips would hit something."""
    lowest = target.bottom_m + TIP_CLEARANCE_M + hand.pad_depth_m
    palm_free = target.top_m - hand.palm_m + PALM_CLEARANCE_M
    height_m = max(float(target.T_base_object[2, 3]), lowest, palm_free)
    is_ball_off = isinstance(target.shape, Sphere) and height_m > target.T_base_object[2, 3] + 1e-3
    if is_ball_off or height_m > target.top_m - _LEAST_BITE_M:
        raise MotionError(
            f"{target.name} is {(target.top_m - target.bottom_m) * 1000:.0f} mm high, which the fingers cannot grip: "
            f"their tips reach {hand.pad_depth_m * 1000:.0f} mm beyond the grip and stay "
            f"{TIP_CLEARANCE_M * 1000:.0f} mm above its support, the palm is {hand.palm_m * 1000:.0f} mm behind it",
            reason=MotionReason.NO_GRASP,
        )
    return height_m


def _wrap(angle_rad: float) -> float:
    return float((angle_rad + np.pi) % (2 * np.pi) - np.pi)
