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

NOW_NS = 10**11


def frames(*items: tuple[str, str, Array, int], is_static: bool = True) -> Frames:
    buffer = Frames(lambda: NOW_NS)
    for item in items:
        feed(buffer, item, is_static=is_static)
    return buffer


def feed(buffer: Frames, item: tuple[str, str, Array, int], *, is_static: bool = True) -> None:
    stamped = transform_message(message_class, *item)
    buffer.add(message_class("tf2_msgs/msg/TFMessage")(transforms=[stamped]), is_static=is_static)


def test_a_chain_is_multiplied_in_both_directions() -> None:
    a, b = make_pose([1, 0, 0], rotation_z(0.3)), make_pose([0, 2, 0], rotation_z(-0.1))
    buffer = frames(("world", "arm", a, 0), ("world", "camera", b, 0))
    assert np.allclose(buffer.lookup("arm", "camera", 5), np.linalg.inv(a) @ b)
    assert np.allclose(buffer.lookup("camera", "arm", 5), np.linalg.inv(b) @ a)


def test_a_moving_frame_is_interpolated_and_stays_rigid() -> None:
    buffer = frames(
        ("base", "camera", make_pose([0, 0, 0]), 10 * 10**9),
        ("base", "camera", make_pose([1, 0, 0], rotation_z(1.0)), 20 * 10**9),
        is_static=False,
    )
    pose = buffer.lookup("base", "camera", 15 * 10**9)
    assert pose[:3, 3] == pytest.approx([0.5, 0, 0])
    assert np.allclose(pose[:3, :3], rotation_z(0.5))


@pytest.mark.parametrize(
    ("stamp_ns", "message"), [(5, "first .* after"), (30 * 10**9, r"last .* 30\.000 s before.*still published")]
)
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
    buffer = Frames(lambda: NOW_NS)
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


def test_a_transform_from_the_future_hides_none_that_come_after_it() -> None:
    buffer = frames(("base", "camera", np.eye(4), NOW_NS - 2 * 10**9), is_static=False)
    feed(buffer, ("base", "camera", np.eye(4), NOW_NS + 10**18), is_static=False)
    assert "1000000000.000 s in the future" in buffer.problems()[0]
    feed(buffer, ("base", "camera", np.eye(4), NOW_NS), is_static=False)
    assert buffer.problems() == ()
    assert np.allclose(buffer.lookup("base", "camera", NOW_NS - 10**9), np.eye(4))


def test_after_a_jump_back_of_the_clock_the_new_transforms_count() -> None:
    clock = [NOW_NS]
    buffer = Frames(lambda: clock[0])
    feed(buffer, ("base", "moving", make_pose([1, 0, 0]), NOW_NS), is_static=False)
    feed(buffer, ("base", "fixed", make_pose([1, 0, 0]), NOW_NS))
    clock[0] = 50 * 10**9
    buffer.forget()
    feed(buffer, ("base", "moving", make_pose([1, 0, 0]), NOW_NS), is_static=False)  # one that was still under way
    for stamp_ns in (49 * 10**9, 50 * 10**9):
        feed(buffer, ("base", "moving", make_pose([2, 0, 0]), stamp_ns), is_static=False)
    assert buffer.lookup("base", "moving", 49 * 10**9)[0, 3] == 2.0
    assert buffer.lookup("base", "fixed", 49 * 10**9)[0, 3] == 1.0  # published once, so it is kept
    feed(buffer, ("base", "fixed", make_pose([3, 0, 0]), 0))  # a simulation that began anew
    assert buffer.lookup("base", "fixed", 49 * 10**9)[0, 3] == 3.0


@pytest.mark.parametrize("off_m", [0.061, 0.002])
def test_a_frame_that_two_cells_fix_in_two_places_has_none(off_m: float) -> None:
    buffer = frames(("base", "camera", make_pose([1, 0, 0.5]), 0))
    feed(buffer, ("base", "camera", make_pose([1, 0, 0.5 + off_m]), 0))
    assert f"{off_m * 1000:.1f} mm" in buffer.problems()[0]
    with pytest.raises(ObservationError, match="two places.*Remap /tf") as caught:
        buffer.lookup("base", "camera", 5)
    assert caught.value.reason is ObservationReason.NO_TRANSFORM


@pytest.mark.parametrize("again", [make_pose([1, 0, 0.5]), make_pose([1, 0, 0.5005], rotation_z(0.001))])
def test_a_fixed_frame_may_be_published_again(again: Array) -> None:
    buffer = frames(("base", "camera", make_pose([1, 0, 0.5]), 0))
    feed(buffer, ("base", "camera", again, 10**9))
    assert buffer.lookup("base", "camera", 5)[2, 3] == 0.5


@pytest.mark.parametrize("other", [("stand", np.eye(4)), ("base", make_pose([0, 0, 0], rotation_z(0.01)))])
def test_another_parent_or_another_rotation_is_another_place(other: tuple[str, Array]) -> None:
    buffer = frames(("base", "camera", np.eye(4), 0))
    feed(buffer, (other[0], "camera", other[1], 0))
    with pytest.raises(ObservationError, match="two places"):
        buffer.lookup("base", "camera", 5)


def test_a_moving_frame_of_two_cells_has_no_pose() -> None:
    """Each at 50 Hz, the other's 10 ms later and 6 cm higher."""
    buffer = Frames(lambda: NOW_NS)
    for tick in range(50):
        for late_ns, z_m in ((0, 0.0), (10_000_000, 0.06)):
            stamp_ns = NOW_NS - 10**9 + tick * 20_000_000 + late_ns
            feed(buffer, ("base", "hand", make_pose([0.001 * tick, 0, z_m]), stamp_ns), is_static=False)
    with pytest.raises(ObservationError, match=r"leaps by 0\.060 m in 0\.010 s.*another robot"):
        buffer.lookup("base", "hand", NOW_NS - 10**8)


def test_a_fast_hand_does_not_leap() -> None:
    buffer = Frames(lambda: NOW_NS)
    for tick in range(100):
        stamp_ns = NOW_NS - 10**9 + tick * 10_000_000
        feed(buffer, ("base", "hand", make_pose([0.04 * tick, 0, 0]), stamp_ns), is_static=False)  # 4 m/s
    assert buffer.lookup("base", "hand", NOW_NS - 5 * 10**8)[0, 3] == pytest.approx(2.0)
