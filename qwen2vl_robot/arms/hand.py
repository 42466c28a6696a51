"""A robot whose gripper is known → where its pads are, which way they close, how wide they are at which position."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.geometry import Array, invert, make_pose, transform
from qwen2vl_robot.kinematics import Kinematics

_STEPS = 11  # positions of the driver that are looked at
_SHUT_M = 0.008  # closed pads of a mesh stand so close, or overlap by as much
_LEAST_OPENING_M = 0.01
_BEHIND_TIPS_M = 0.010  # the tool frame's origin, so that the pads have something to hold
_NEAR_M, _DEEP_M, _ALIGNED = 0.006, 0.06, 0.99  # of a link that can serve as the tool frame


@dataclass(frozen=True, slots=True, eq=False)
class FoundHand:
    """A gripper, as its URDF shows it.

    Attributes:
        finger_links: left, then right: the left one is on the positive side of the closing axis.
        rows: width and position of the driver, from narrow to wide.
        tool_link: a link of the URDF that can be the tool frame, None where there is none.
        T_hand_tool: (4, 4) of the tool frame in the hand's link.
        closing_axis: of the tool frame.
        pad_depth_m, finger_thickness_m: as in the robot file.
    """

    finger_links: tuple[str, str]
    rows: tuple[tuple[float, float], ...]
    tool_link: str | None
    T_hand_tool: Array
    closing_axis: str
    pad_depth_m: float
    finger_thickness_m: float


def find_hand(kinematics: Kinematics, hand_link: str, moved: tuple[str, ...], lower: float, upper: float) -> FoundHand:
    """Look at the hulls of the moved links while the driver goes from its lower to its upper limit.

    Args:
        kinematics: of a profile whose widths are the driver's way from its lower limit.

    Raises:
        BadInputError: no two links close on each other along an axis of the hand's link.
    """
    steps = np.linspace(0.0, upper - lower, _STEPS)
    hulls = [_hulls_in(kinematics, hand_link, moved, float(step)) for step in steps]
    found = [(one, other, axis) for one, other in combinations(hulls[0], 2) for axis in range(3)]
    gaps = {key: np.array([_gap_m(h[key[0]], h[key[1]], key[2]) for h in hulls]) for key in found}
    closing = {k: g for k, g in gaps.items() if abs(g.min()) <= _SHUT_M and g.max() >= _LEAST_OPENING_M}
    if not closing:
        raise BadInputError(
            f"no two of {', '.join(moved)} close on each other along an axis of {hand_link}; write the gripper by hand"
        )
    best = max(closing, key=lambda k: (round(float(closing[k].max()), 3), -abs(float(closing[k].min()))))
    one, other, axis = best
    pads = [(h[one], h[other]) for h in hulls]
    if pads[0][0][:, axis].mean() < pads[0][1][:, axis].mean():
        one, other, pads = other, one, [(b, a) for a, b in pads]
    T_hand_tool = _tool_frame(pads, axis)
    tool, closing_axis = _link_like(kinematics, hand_link, moved, T_hand_tool)
    T = T_hand_tool if tool is None else _pose_in(kinematics, hand_link, tool)
    tips = max(float(transform(invert(T), np.vstack(pair))[:, 2].max()) for pair in pads)
    thickness_m = float(np.ptp(pads[0][0][:, axis]))
    rows = _rows(closing[best], lower + steps)
    return FoundHand(
        (one, other), rows, tool, T_hand_tool, closing_axis, round(max(tips, 0.0) + 0.002, 4), round(thickness_m, 4)
    )


def _hulls_in(kinematics: Kinematics, hand: str, moved: tuple[str, ...], width_m: float) -> dict[str, Array]:
    poses = kinematics.link_poses(np.array(kinematics.profile.home_q_rad), width_m)
    T_hand_base = invert(poses[hand])
    hulls = kinematics.link_hulls
    return {link: transform(T_hand_base @ poses[link], hulls[link]) for link in moved if link in hulls}


def _pose_in(kinematics: Kinematics, hand: str, link: str) -> Array:
    poses = kinematics.link_poses(np.array(kinematics.profile.home_q_rad), 0.0)
    T: Array = invert(poses[hand]) @ poses[link]
    return T


def _gap_m(one: Array, other: Array, axis: int) -> float:
    low, high = sorted((one[:, axis], other[:, axis]), key=lambda values: float(values.mean()))
    return float(high.min() - low.max())


def _rows(gaps_m: Array, positions: Array) -> tuple[tuple[float, float], ...]:
    """Make the table of strictly rising widths."""
    rows: list[tuple[float, float]] = []
    for gap_m, position in sorted(zip(gaps_m.tolist(), positions.tolist(), strict=True)):
        width_m = round(max(gap_m, 0.0), 4)
        if rows and width_m <= rows[-1][0]:
            if width_m == 0.0:  # pads that overlap by a little: the tightest but one is shut
                rows[-1] = (0.0, round(position, 5))
            continue
        rows.append((width_m, round(position, 5)))
    return tuple(rows)


def _tool_frame(pads: list[tuple[Array, Array]], axis: int) -> Array:
    """Place a tool frame between the pads: z towards the tips, y along the closing axis from right to left."""
    all_m = np.vstack([np.vstack(pair) for pair in pads])
    shut = min(pads, key=lambda pair: _gap_m(pair[0], pair[1], axis))
    shut_m = np.vstack(shut)
    middle_m = (shut_m.min(axis=0) + shut_m.max(axis=0)) / 2
    ways = np.where(np.arange(3) == axis, 0.0, middle_m)
    z = np.zeros(3)
    along = int(np.argmax(np.abs(ways)))
    z[along] = np.sign(ways[along]) or 1.0
    y = np.eye(3)[axis]
    origin_m = middle_m.copy()
    origin_m[along] = z[along] * (float((all_m @ z).max()) - _BEHIND_TIPS_M)
    T: Array = make_pose(np.round(origin_m, 4), np.column_stack([np.cross(y, z), y, z]))
    return T


def _link_like(kinematics: Kinematics, hand: str, moved: tuple[str, ...], T_hand_tool: Array) -> tuple[str | None, str]:
    """Find a link of the URDF that stands where the tool frame is wanted, and its axis that closes."""
    poses = kinematics.link_poses(np.array(kinematics.profile.home_q_rad), 0.0)
    frames, model = {f.name: f for f in kinematics.model.frames}, kinematics.model
    hand_joint = model.frames[model.getFrameId(hand)].parentJoint
    fitting = {}
    for link, pose in poses.items():
        if link in moved or frames[link].parentJoint != hand_joint:
            continue
        T = invert(T_hand_tool) @ invert(poses[hand]) @ pose
        turned = np.abs(T[1, :2])  # the closing axis along the link's x and y
        is_between = float(np.hypot(*T[:2, 3])) <= _NEAR_M and -_DEEP_M <= T[2, 3] <= _BEHIND_TIPS_M - 0.002
        if is_between and T[2, 2] >= _ALIGNED and turned.max() >= _ALIGNED:
            fitting[link] = (abs(float(T[2, 3])), "xy"[int(np.argmax(turned))])
    if not fitting:
        return None, "y"
    best = min(fitting, key=lambda link: fitting[link][0])
    return best, fitting[best][1]
