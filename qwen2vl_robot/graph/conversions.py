"""ROS messages ↔ our frozen messages: duck-typed, without an import of ROS; every received message is checked.

`make` is `Graph.message`: a ROS type's name → its class. An unusable message raises an `ObservationError`; its one line
says what was received and what is allowed. What cameras send is read in `pictures`, `compressed_depth` and `lens`.
"""

from __future__ import annotations

import array
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import JOINTS, shown
from qwen2vl_robot.config import RobotProfile
from qwen2vl_robot.description import prefix_of
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, make_pose, quat_from_rotation, read_only, rotation_from_quat
from qwen2vl_robot.graph.interface import Message, MessageMaker
from qwen2vl_robot.messages import Intrinsics, RobotState
from qwen2vl_robot.reasons import ObservationReason

_NS = 1_000_000_000


# ------------------------------------------------------------------------------------------------- time


def stamp_to_ns(stamp: Message) -> int:
    """Convert builtin_interfaces/msg/Time to nanoseconds."""
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def stamp_from_ns(make: MessageMaker, stamp_ns: int) -> Message:
    """Convert nanoseconds to builtin_interfaces/msg/Time."""
    return make("builtin_interfaces/msg/Time")(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def duration_to_s(duration: Message) -> float:
    """Convert builtin_interfaces/msg/Duration to seconds."""
    return float(duration.sec) + float(duration.nanosec) * 1e-9


def duration_from_s(make: MessageMaker, seconds: float) -> Message:
    """Convert seconds to builtin_interfaces/msg/Duration."""
    total_ns = round(seconds * _NS)
    return make("builtin_interfaces/msg/Duration")(sec=total_ns // _NS, nanosec=total_ns % _NS)


def header(make: MessageMaker, stamp_ns: int, frame_id: str) -> Message:
    """Make a std_msgs/msg/Header."""
    return make("std_msgs/msg/Header")(stamp=stamp_from_ns(make, stamp_ns), frame_id=frame_id)


# ---------------------------------------------------------------------------------------------- camera, in


def pose_from_transform(transform: Message) -> Array:
    """Convert a geometry_msgs/msg/Transform to a pose (4, 4), metres.

    Raises:
        ObservationError: a number is not finite, or the quaternion is zero.
    """
    t, r = transform.translation, transform.rotation
    values = [t.x, t.y, t.z, r.x, r.y, r.z, r.w]
    if not all(math.isfinite(v) for v in values):
        raise ObservationError("the transform has a number that is not finite", reason=ObservationReason.NO_TRANSFORM)
    try:
        return make_pose(values[:3], rotation_from_quat(values[3:]))
    except ValueError as error:
        raise ObservationError(f"the transform's rotation: {error}", reason=ObservationReason.NO_TRANSFORM) from error


# --------------------------------------------------------------------------------------------- camera, out


def image_from_rgb(make: MessageMaker, rgb: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Message:
    """Make a sensor_msgs/msg/Image, rgb8, of RGB pixels (h, w, 3) uint8."""
    return _image(make, "rgb8", rgb, rgb.shape[1] * 3, stamp_ns, frame_id)


def image_from_depth(make: MessageMaker, depth_m: npt.NDArray[np.float32], stamp_ns: int, frame_id: str) -> Message:
    """Make a sensor_msgs/msg/Image, 32FC1, of depth (h, w) in metres; NaN is missing depth."""
    return _image(make, "32FC1", depth_m.astype("<f4"), depth_m.shape[1] * 4, stamp_ns, frame_id)


def _image(
    make: MessageMaker, encoding: str, pixels: npt.NDArray[np.generic], step: int, stamp_ns: int, frame_id: str
) -> Message:
    # rclpy accepts an array.array as it is and checks every element of any other sequence.
    data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return make("sensor_msgs/msg/Image")(
        header=header(make, stamp_ns, frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=data,
    )


def info_from_intrinsics(make: MessageMaker, k: Intrinsics, stamp_ns: int, frame_id: str) -> Message:
    """Make the sensor_msgs/msg/CameraInfo of a rectified camera."""
    fx, fy, cx, cy = k.fx_px, k.fy_px, k.cx_px, k.cy_px
    return make("sensor_msgs/msg/CameraInfo")(
        header=header(make, stamp_ns, frame_id),
        width=k.width_px,
        height=k.height_px,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def pose_message(make: MessageMaker, T: Array) -> Message:
    """Convert a pose (4, 4) to geometry_msgs/msg/Pose."""
    x, y, z, w = (float(v) for v in quat_from_rotation(T[:3, :3]))
    p = [float(v) for v in T[:3, 3]]
    return make("geometry_msgs/msg/Pose")(
        position=make("geometry_msgs/msg/Point")(x=p[0], y=p[1], z=p[2]),
        orientation=make("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
    )


def transform_message(make: MessageMaker, parent: str, child: str, T: Array, stamp_ns: int) -> Message:
    """Make the geometry_msgs/msg/TransformStamped of `T_parent_child` (4, 4)."""
    x, y, z, w = (float(v) for v in quat_from_rotation(T[:3, :3]))
    p = [float(v) for v in T[:3, 3]]
    return make("geometry_msgs/msg/TransformStamped")(
        header=header(make, stamp_ns, parent),
        child_frame_id=child,
        transform=make("geometry_msgs/msg/Transform")(
            translation=make("geometry_msgs/msg/Vector3")(x=p[0], y=p[1], z=p[2]),
            rotation=make("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
        ),
    )


# ------------------------------------------------------------------------------------------------------ arm


def state_from_joints(
    positions: dict[str, tuple[float, float, float]], profile: RobotProfile, stamp_ns: int
) -> RobotState:
    """Build the arm's state, joints in robot-file order; the gripper's width is that of its joints' positions.

    Args:
        positions: joint name → (position, velocity, effort), rad, rad/s and N m (fingers m, m/s and N).

    Raises:
        ObservationError: a joint is missing, or a number is not finite.
    """
    names = [j.name for j in profile.joints]
    missing = [n for n in (*names, *profile.gripper.joints) if n not in positions]
    if missing:
        received = f"; received {shown(', '.join(sorted(positions))) or 'none'}"
        raise ObservationError(
            f"joint_states: {', '.join(missing)} missing{prefix_of(names, positions) or received}",
            reason=ObservationReason.NO_STATE,
        )
    q, dq, effort_nm = ([positions[n][i] for n in names] for i in (0, 1, 2))
    width_m = profile.gripper.width_m([positions[n][0] for n in profile.gripper.joints])
    given = [(f"position of {n}", positions[n][0]) for n in (*names, *profile.gripper.joints)]
    given += [(f"velocity of {n}", v) for n, v in zip(names, dq, strict=True) if math.isfinite(positions[n][0])]
    unknown = [f"{what} is {v}" for what, v in given if not math.isfinite(v)]
    if unknown:
        raise ObservationError(
            f"joint_states: the {', the '.join(unknown)}; does its hardware interface send one?",
            reason=ObservationReason.NO_STATE,
        )
    told_nm = read_only(effort_nm) if np.isfinite(effort_nm).all() else None
    return RobotState(stamp_ns, read_only(q), read_only(dq), width_m, effort_nm=told_nm)


def joints_from_message(message: Message) -> dict[str, tuple[float, float, float]]:
    """Read a sensor_msgs/msg/JointState as joint name → (position, velocity, effort); what is not given is NaN.

    Efforts that are not as many as the names are not given either: few robots need them.

    Raises:
        ObservationError: a name appears twice, or there are not as many positions or velocities as names.
    """
    if max(len(message.name), len(message.position), len(message.velocity), len(message.effort)) > JOINTS:
        raise ObservationError(f"joint_states: more than {JOINTS} joints", reason=ObservationReason.NO_STATE)
    names, positions, velocities = list(message.name), list(message.position), list(message.velocity)
    if len(positions) != len(names) or len(velocities) not in (0, len(names)) or len(set(names)) != len(names):
        raise ObservationError(
            f"joint_states: {len(names)} names, {len(positions)} positions, {len(velocities)} velocities; "
            "allowed: each name once, one position a name, one velocity a name or none",
            reason=ObservationReason.NO_STATE,
        )
    unknown = [math.nan] * len(names)
    efforts = list(message.effort) if len(message.effort) == len(names) else unknown
    values = zip(names, positions, velocities or unknown, efforts, strict=True)
    return {n: (float(p), float(v), float(e)) for n, p, v, e in values}


def joint_names_on_wire(cdr: bytes) -> bytes:
    """Cut the names out of a serialized sensor_msgs/msg/JointState; all of it where it is not well formed.

    XCDR1: four bytes of encapsulation, stamp, frame_id, names; a string is its length, its letters and a zero.
    """
    order: Literal["little", "big"] = "little" if len(cdr) > 1 and cdr[1] & 1 else "big"

    def number(at: int) -> tuple[int, int]:
        at += -at % 4
        return int.from_bytes(cdr[at : at + 4], order), at + 4

    length, at = number(12)
    begin = at + length
    count, at = number(begin)
    for _ in range(min(count, JOINTS + 1)):
        length, at = number(at)
        at += length
    return cdr[begin:at] if at < len(cdr) else cdr


def joint_state_message(
    make: MessageMaker, names: Iterable[str], q: Array, dq: Array, stamp_ns: int, effort: Array | None = None
) -> Message:
    """Make a sensor_msgs/msg/JointState of positions and velocities, and of efforts where they are measured."""
    efforts = {} if effort is None else {"effort": doubles(effort)}
    return make("sensor_msgs/msg/JointState")(
        header=header(make, stamp_ns, ""), name=list(names), position=doubles(q), velocity=doubles(dq), **efforts
    )


def doubles(values: npt.ArrayLike) -> array.array[float]:
    """Numbers as rclpy takes them without a look at each."""
    return array.array("d", np.asarray(values, dtype=np.float64).tobytes())
