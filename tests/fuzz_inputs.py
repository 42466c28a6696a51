"""Malformed files, pictures, sounds and messages → whether one was let through; none may break what reads it.

Each target takes bytes, so that seeds (`tests.fuzz`) and coverage (`tests.guided`) can drive it.
"""

from __future__ import annotations

import io
import struct
import tempfile
import wave
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from qwen2vl_robot.cell import CellRules
from qwen2vl_robot.config import RobotProfile, SceneRanges, parse, robot_file
from qwen2vl_robot.description import read_joints
from qwen2vl_robot.documents import parse_json, parse_yaml
from qwen2vl_robot.errors import BadInputError, ObservationError, PlannerError
from qwen2vl_robot.foreign import motion_of
from qwen2vl_robot.graph.conversions import (
    joints_from_message,
    pose_from_transform,
    state_from_joints,
)
from qwen2vl_robot.graph.lens import lens_from_info, rectify_depth
from qwen2vl_robot.graph.pictures import depth_from_image, rgb_from_compressed, rgb_from_image
from qwen2vl_robot.graph.trajectories import (
    derivatives_from_trajectory,
    foreign_trajectory,
    segment_from_trajectory,
)
from qwen2vl_robot.messages import JointSegment, Refusal, RobotState, freeze
from qwen2vl_robot.nodes.sound import open_sound
from qwen2vl_robot.planner.reply import parse_reply
from qwen2vl_robot.resources import data_root
from qwen2vl_robot.validation.request import Request
from tests.cells import PROFILE

REST = RobotState(0, freeze(PROFILE.home_q_rad), freeze(np.zeros(7)), 0.08)

SIZE_PX = (16, 12)


def reply(data: bytes) -> bool:
    """A plan has boxes in the picture, and no line break in what is wrong with it."""
    try:
        plan = parse_reply(data.decode("utf-8", "replace"))
    except PlannerError as error:
        return "\n" in str(error)
    return not all(0 <= b.x0 < b.x1 <= 1000 for a in plan.actions if a.object for b in a.object.boxes)


def document(data: bytes) -> bool:
    """A YAML file is one of ours, or one printable line."""
    text = data.decode("utf-8", "replace")
    for model in (Request, RobotProfile, SceneRanges, CellRules):
        try:
            parse(parse_yaml(text, "fuzz"), model, "fuzz")
        except BadInputError as error:
            if not str(error).isprintable():
                return True
    try:
        parse_json(data, "fuzz")
    except BadInputError as error:
        return not str(error).isprintable()
    return False


def picture(data: bytes) -> bool:
    """A compressed frame has the size that its camera declares."""
    try:
        rgb = rgb_from_compressed(SimpleNamespace(data=data, format="png"), SIZE_PX)
    except ObservationError as error:
        return not str(error).isprintable()
    return rgb.shape != (SIZE_PX[1], SIZE_PX[0], 3) or rgb.dtype != np.uint8


def description(data: bytes) -> bool:
    """A URDF's limits are finite."""
    try:
        joints = read_joints(data.decode("utf-8", "replace"))
    except BadInputError as error:
        return not str(error).isprintable()
    limits = [[j.lower, j.upper, *([] if j.is_continuous else [j.velocity, j.effort])] for j in joints.values()]
    return not all(np.isfinite(each).all() for each in limits)


def sound(data: bytes) -> bool:
    """A sound is whole frames of the rate that is understood."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(data)
        file.flush()
        try:
            with open_sound(file.name, 960) as frames:
                return any(len(frame) != 960 for frame in frames)
        except BadInputError as error:
            return not str(error).isprintable()


def messages(data: bytes) -> bool:
    """Camera, arm and tf: what is taken over is finite, and as large as it says."""
    take = _Bytes(data)
    calls: tuple[Callable[[], bool], ...] = (
        lambda: rgb_from_image(_image(take, ("rgb8", "mono16", "yuyv", "bayer_rggb16", "yuv"))).shape[2] != 3,
        lambda: bool(np.isinf(depth_from_image(_image(take, ("32FC1", "16UC1", "8UC1")))).any()),
        lambda: _is_wild_lens(_info(take)),
        lambda: not np.isfinite(pose_from_transform(_transform(take))).all(),
        lambda: not np.isfinite(state_from_joints(joints_from_message(_joints(take)), PROFILE, 0).q_rad).all(),
        lambda: _is_wild(_trajectory(take)),
        lambda: _is_wild_motion(_of_another(take)),
    )
    try:
        with np.errstate(all="ignore"):
            return calls[take.below(len(calls))]()
    except (ObservationError, BadInputError) as error:
        return not str(error).isprintable()


def _is_wild_lens(info: Any) -> bool:
    lens = lens_from_info(info)
    depth_m = np.ones(lens.size_px[::-1], dtype=np.float32)
    rectified_m = rectify_depth(depth_m, lens, "raw")
    return rectified_m.shape != depth_m.shape or not np.isfinite(lens.rectified.fx_px)


def _is_wild(trajectory: Any) -> bool:
    segment = segment_from_trajectory(trajectory, PROFILE)
    derivatives_from_trajectory(trajectory, PROFILE)
    # No number need be finite: a real controller does not look.
    return not (np.diff(segment.time_s) > 0).all()


def _is_wild_motion(message: Any) -> bool:
    """Of a trajectory from anybody only finite numbers are left, that rise in time and begin where the arm is."""
    given = foreign_trajectory(message, 10**9)
    motion = given if isinstance(given, Refusal) else motion_of(given, REST, PROFILE)
    if isinstance(motion, Refusal):
        return not motion.text.isprintable() or len(motion.text) > 2000
    (segment,) = motion.segments
    assert isinstance(segment, JointSegment)
    is_sound = np.isfinite(segment.q_rad).all() and (np.diff(segment.time_s) > 0).all()
    return not is_sound or not np.array_equal(segment.q_rad[0], REST.q_rad)


class _Bytes:
    """Bytes → numbers, names and choices; when they are used up, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        return int.from_bytes(self.bytes(2), "little") % limit

    def number(self) -> float:
        kind = self.below(8)
        if kind < 5:
            return self.below(2000) / 1000.0 - 1.0
        return (float("nan"), float("inf"), float(struct.unpack("<d", self.bytes(8))[0]))[kind - 5]

    def numbers(self, most: int) -> list[float]:
        return [self.number() for _ in range(self.below(most + 1))]


def _image(take: _Bytes, encodings: tuple[str, ...]) -> Any:
    width, height, step = take.below(20), take.below(20), take.below(80)
    length = step * height if take.below(4) else take.below(2000)
    encoding = encodings[take.below(len(encodings))]
    sizes = {"width": width, "height": height, "step": step, "is_bigendian": take.below(2)}
    return SimpleNamespace(**sizes, encoding=encoding, data=take.bytes(length))


def _info(take: _Bytes) -> Any:
    k = [take.number() * 100 for _ in range(9)]
    if take.below(4):  # mostly of a form that the rest is looked at
        k = [abs(k[0]), 0.0, abs(k[2]) % 20, 0.0, abs(k[4]), abs(k[5]) % 20, 0.0, 0.0, 1.0]
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0] if take.below(2) else take.numbers(24)[:12] or [0.0] * 12
    return SimpleNamespace(
        **{"width": take.below(20), "height": take.below(20), "k": k, "d": take.numbers(8), "r": [0.0] * 9},
        p=p + [0.0] * (12 - len(p)),
        distortion_model=("plumb_bob", "rational_polynomial", "equidistant", "")[take.below(4)],
        binning_x=take.below(3),
        binning_y=take.below(3),
        roi=SimpleNamespace(x_offset=take.below(3), y_offset=0, width=take.below(20), height=take.below(20)),
    )


def _transform(take: _Bytes) -> Any:
    axes = {axis: take.number() for axis in "xyz"}
    return SimpleNamespace(
        translation=SimpleNamespace(**axes), rotation=SimpleNamespace(**{axis: take.number() for axis in "xyzw"})
    )


def _names(take: _Bytes) -> list[str]:
    known = [*(j.name for j in PROFILE.joints), *PROFILE.gripper.joints]
    kept = known if take.below(4) else known[: take.below(len(known))]
    return kept if take.below(4) else [*kept, take.bytes(take.below(30)).decode("latin-1")]


def _joints(take: _Bytes) -> Any:
    names = _names(take)
    count = len(names) if take.below(4) else take.below(12)
    numbers = [[take.number() for _ in range(count)] for _ in range(2)]
    effort = [] if take.below(4) else take.numbers(8)
    return SimpleNamespace(name=names, position=numbers[0], velocity=numbers[1], effort=effort)


def _trajectory(take: _Bytes) -> Any:
    def point(at: int) -> Any:
        stamp = SimpleNamespace(sec=at if take.below(4) else take.below(99) - 9, nanosec=take.below(1000))
        positions = [take.number() for _ in range(7 if take.below(4) else take.below(9))]
        effort = [] if take.below(8) else take.numbers(1)
        given = {"velocities": take.numbers(1), "accelerations": take.numbers(1), "effort": effort}
        return SimpleNamespace(positions=positions, **given, time_from_start=stamp)

    names = [j.name for j in PROFILE.joints]
    points = [point(at) for at in range(take.below(4))]
    return SimpleNamespace(joint_names=names if take.below(4) else _names(take), points=points)


def _of_another(take: _Bytes) -> Any:
    """A request with both fields of moveit_msgs/RobotTrajectory; some of them are sound."""
    given = _trajectory(take)
    given.joint_names = given.joint_names if take.below(8) == 0 else [j.name for j in PROFILE.joints]
    stamp = SimpleNamespace(sec=take.below(9) if take.below(8) == 0 else 0, nanosec=0)
    given.header = SimpleNamespace(stamp=stamp, frame_id="" if take.below(8) else "camera")
    if take.below(2):
        for at, point in enumerate(given.points):
            point.positions = [q + at * 0.01 for q in PROFILE.home_q_rad]
            point.velocities = [] if take.below(2) else [0.0] * 7
            point.accelerations = []
            point.time_from_start = SimpleNamespace(sec=at, nanosec=take.below(9))
    other = SimpleNamespace(joint_names=[] if take.below(8) else ["base"], points=[])
    return SimpleNamespace(joint_trajectory=given, multi_dof_joint_trajectory=other)


TARGETS: dict[str, Callable[[bytes], bool]] = {
    target.__name__: target for target in (reply, document, picture, description, sound, messages)
}


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Well-formed inputs of a target, to begin with."""
    sim = data_root() / "sim"
    if target == "reply":
        return (
            b'{"objects":[{"label":"red block","boxes":[[1,2,300,400]]}],"actions":[{"do":"pick","object":0}]}',
            b"1. pick <|object_ref_start|>red block<|object_ref_end|><|box_start|>(10,20),(300,400)<|box_end|>",
            b"```json\n{}\n```",
        )
    if target == "document":
        files = (sim / "hazards" / "accepted_over_block.yaml", sim / "scenes" / "default.yaml", robot_file("xarm6"))
        return (*(file.read_bytes() for file in files), b"a: &a [1, 2]\nb: {<<: {c: *a}}\n", b'{"a": [1, "b"]}')
    if target == "picture":
        return tuple(_packed(kind) for kind in ("PNG", "JPEG"))
    if target == "description":
        return ((sim / "robots" / "grippers" / "parallel.urdf").read_bytes(),)
    if target == "sound":
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, 16_000, 0, "NONE", ""))
            out.writeframes(bytes(4000))
        return (file.getvalue(),)
    return (bytes(range(256)) * 2, bytes(400))


def _packed(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(SIZE_PX[0] * SIZE_PX[1] * 3, dtype=np.uint8).reshape(SIZE_PX[1], SIZE_PX[0], 3)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, repeat, swap or replace pieces of some bytes."""
    for _ in range(int(rng.integers(1, 8))):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
        piece = bytes(rng.integers(0, 256, length, dtype=np.uint8)) if rng.random() < 0.5 else data[at : at + length]
        other = int(rng.integers(len(data) + 1))
        keep = int(rng.integers(0, 2)) * length
        data = data[:other] + piece * int(rng.integers(1, 4)) + data[other + keep :]
        if rng.random() < 0.05:
            data = data[:at]
    return data[:20_000]


def bad_input(name: str) -> Callable[[np.random.Generator], bool]:
    """A target that draws its input from a seed."""

    def run(rng: np.random.Generator) -> bool:
        known = seeds(name)
        return TARGETS[name](spoilt(known[int(rng.integers(len(known)))], rng))

    run.__name__ = f"bad_{name}"
    return run
