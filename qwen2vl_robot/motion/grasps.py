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
_BESIDE_M = 0.003  # paths keep 2 mm from a thing's sides, which are as far apart as the pads
_LINKAGE_WIDTHS = 12
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
        linkage_m: rows of a width, rising, and of how far back from the tool's origin the links between palm and pads
            leave the room between the pads free there; empty where there are none.
    """

    palm_m: float
    pad_depth_m: float
    outer_m: float
    side_m: float
    max_width_m: float
    closing_axis: str
    room_m: Array
    linkage_m: tuple[tuple[float, float], ...] = ()

    def free_m(self, width_m: float) -> float:
        """How far a thing of a width may reach back from the tool's origin before it meets linkage or palm."""
        if not self.linkage_m:
            return self.palm_m
        widths_m, free_m = zip(*self.linkage_m, strict=True)
        return float(np.interp(width_m, widths_m, free_m))

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
    linkage_m = _linkage(kinematics, [link for link in moved if link not in gripper.finger_links], palm_m)
    sizes_m = (palm_m, gripper.pad_depth_m, outer_m, side_m, gripper.max_width_m)
    return Hand(*sizes_m, gripper.closing_axis, room_m, linkage_m)


def _linkage(kinematics: Kinematics, links: list[str], palm_m: float) -> tuple[tuple[float, float], ...]:
    """Measure at some widths how far back the links of a gripper's linkage leave the room between the pads free."""
    profile, rows = kinematics.profile, []
    axis = "xy".index(profile.gripper.closing_axis)
    for width_m in np.linspace(0.0, profile.gripper.max_width_m, _LINKAGE_WIDTHS) if links else ():
        poses = kinematics.link_poses(np.array(profile.home_q_rad), float(width_m))
        T_tool_base = invert(poses[profile.tool_link])
        hulls = [transform(T_tool_base @ poses[link], kinematics.link_hulls[link]) for link in links]
        foremost_m = max(_foremost_m(hull, axis, float(width_m) / 2 + _BESIDE_M) for hull in hulls)
        rows.append((float(width_m), min(max(-foremost_m, 0.0), palm_m)))
    return tuple(rows)


def _foremost_m(hull_m: Array, axis: int, half_m: float) -> float:
    """The largest z of a hull (n, 3) within `half_m` of the middle along an axis, -inf where nothing of it is there.

    It is at a corner, or where an edge leaves; of lines between corners only edges can be the foremost.
    """
    x, z = hull_m[:, axis], hull_m[:, 2]
    found = list(z[np.abs(x) <= half_m])
    for side_m in (-half_m, half_m):
        below, above = x < side_m, x > side_m
        share = (side_m - x[below][:, None]) / (x[above][None] - x[below][:, None])
        found += list((z[below][:, None] + share * (z[above][None] - z[below][:, None])).max(axis=0, initial=-np.inf))
    return float(max(found, default=-np.inf))


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
    heights_m = _tool_heights_m(target, hand, set(fitting.values()))
    options: list[Grasp] = []
    for room_m in _OPENING_ROOM_M:
        for yaw in by_turn([yaw for yaw, w in fitting.items() if w in heights_m], current_yaw_rad):
            opening_m = min(fitting[yaw] + room_m, hand.max_width_m)
            p = np.array([*target.T_base_object[:2, 3], heights_m[fitting[yaw]]])
            options.append(Grasp(downward(p, yaw, hand.closing_axis), fitting[yaw], opening_m))
    return options


def _box_grasps(target: SceneObject, hull: Hull, hand: Hand, current_yaw_rad: float) -> list[Grasp]:
    """List grasps of a thing that is known by the boxes that hold it."""
    if not hull.boxes_m:
        raise unexplained(target)
    yaw_rad = float(np.arctan2(target.T_base_object[1, 0], target.T_base_object[0, 0]))
    free_m = min((free for _, free in hand.linkage_m), default=hand.palm_m)  # whichever part is pinched
    tool_m = max(target.bottom_m + TIP_CLEARANCE_M + hand.pad_depth_m, target.top_m - free_m + PALM_CLEARANCE_M)
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


def _tool_heights_m(target: SceneObject, hand: Hand, widths_m: set[float]) -> dict[float, float]:
    """Compute the tool's height for each width that can be gripped.

    It is the object's middle, or higher if palm, linkage or fingertips would hit something.

    Raises:
        MotionError: no width can be; the message has the sizes.
    """
    lowest, middle = target.bottom_m + TIP_CLEARANCE_M + hand.pad_depth_m, float(target.T_base_object[2, 3])
    heights_m = {w: max(middle, lowest, target.top_m - hand.free_m(w) + PALM_CLEARANCE_M) for w in widths_m}
    highest_m = middle + 1e-3 if isinstance(target.shape, Sphere) else target.top_m - _LEAST_BITE_M
    fitting = {w: h for w, h in heights_m.items() if h <= highest_m}
    if not fitting:
        free_m = max(map(hand.free_m, widths_m))
        raise MotionError(
            f"{target.name} is {(target.top_m - target.bottom_m) * 1000:.0f} mm high, which the fingers cannot grip: "
            f"their tips reach {hand.pad_depth_m * 1000:.0f} mm beyond the grip and stay "
            f"{TIP_CLEARANCE_M * 1000:.0f} mm above its support, the palm is {free_m * 1000:.0f} mm behind it",
            reason=MotionReason.NO_GRASP,
        )
    return fitting


def _wrap(angle_rad: float) -> float:
    return float((angle_rad + np.pi) % (2 * np.pi) - np.pi)
