"""tf without tf2: chains, interpolation, and the lookups that must fail."""

from __future__ import annotations

import numpy as np
import pytest

from qwen2vl_robot.bounds import NAME_CHARS, TRANSFORMS
from qwen2vl_robot.errors import ObservationError
from qwen2vl_robot.geometry import Array, make_pose, rotation_z
from qwen2vl_robot.graph.conversions import transform_message
from qwen2vl_robot.graph.frames import Frames
from qwen2vl_robot.graph.idl import message_class
from qwen2vl_robot.reasons import ObservationReason


def frames(*items: tuple[str, str, Array, int], is_static: bool = True) -> Frames:
    buffer = Frames()
    for parent, child, T, stamp_ns in items:
        item = transform_message(message_class, parent, child, T, stamp_ns)
        buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[item]), is_static=is_static)
    return buffer


def test_a_chain_is_multiplied_in_both_directions() -> None:
    a, b = make_pose([1, 0, 0], rotation_z(0.3)), make_pose([0, 2, 0], rotation_z(-0.1))
    buffer = frames(("world", "arm", a, 0), ("world", "camera", b, 0))
    assert np.allclose(buffer.lookup("arm", "camera", 5), np.linalg.inv(a) @ b)
    assert np.allclose(buffer.lookup("camera", "arm", 5), np.linalg.inv(b) @ a)


def test_a_moving_frame_is_interpolated_and_stays_rigid() -> None:
    buffer = frames(
        ("base", "camera", make_pose([0, 0, 0]), 10),
        ("base", "camera", make_pose([1, 0, 0], rotation_z(1.0)), 20),
        is_static=False,
    )
    pose = buffer.lookup("base", "camera", 15)
    assert pose[:3, 3] == pytest.approx([0.5, 0, 0])
    assert np.allclose(pose[:3, :3], rotation_z(0.5))


@pytest.mark.parametrize(("stamp_ns", "message"), [(5, "off"), (10**10, r"\+10\.000 s off")])
def test_a_time_outside_the_received_transforms_is_refused(stamp_ns: int, message: str) -> None:
    buffer = frames(("base", "camera", np.eye(4), 10), ("base", "camera", np.eye(4), 20), is_static=False)
    with pytest.raises(ObservationError, match=message):
        buffer.lookup("base", "camera", stamp_ns)


def test_frames_that_form_a_cycle_are_refused() -> None:
    buffer = frames(("b", "a", np.eye(4), 0), ("c", "b", np.eye(4), 0), ("a", "c", np.eye(4), 0))
    with pytest.raises(ObservationError, match="cycle") as caught:
        buffer.lookup("base", "a", 0)
    assert caught.value.reason is ObservationReason.NO_TRANSFORM


def test_frames_that_are_not_connected_are_named() -> None:
    with pytest.raises(ObservationError, match="no path from camera to base; frames with a parent: gripper"):
        frames(("elsewhere", "gripper", np.eye(4), 0)).lookup("base", "camera", 0)


def test_a_transform_without_rotation_is_left_out_and_reported() -> None:
    buffer = Frames()
    item = transform_message(message_class, "base", "camera", np.eye(4), 0)
    item.transform.rotation.w = 0.0
    buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[item]), is_static=True)
    assert "camera" in buffer.problems()[0]
    with pytest.raises(ObservationError):
        buffer.lookup("base", "camera", 0)


def test_frames_that_somebody_makes_up_do_not_fill_the_memory_nor_hide_those_that_are_known() -> None:
    buffer = frames(("base", "camera", np.eye(4), 10), is_static=False)
    item = transform_message(message_class, "base", "x", np.eye(4), 10)
    for number in range(TRANSFORMS + 100):
        item.child_frame_id = f"made_up_{number}"
        buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[item]), is_static=False)
    buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[item] * 1_000_000), is_static=False)
    with pytest.raises(ObservationError, match="no path"):
        buffer.lookup("base", f"made_up_{TRANSFORMS + 50}", 10)
    assert np.allclose(buffer.lookup("base", "made_up_5", 10), np.eye(4))
    item.child_frame_id = "camera"
    item.header.stamp.nanosec = 30
    buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[item]), is_static=False)
    assert np.allclose(buffer.lookup("base", "camera", 20), np.eye(4))


def test_a_frame_with_a_name_without_end_is_left_out() -> None:
    name = "x" * (NAME_CHARS + 1)
    with pytest.raises(ObservationError, match="no path") as refused:
        frames(("base", name, np.eye(4), 0)).lookup("base", name, 0)
    assert len(str(refused.value)) < 600
