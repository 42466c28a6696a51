"""A recorded frame and somebody's trajectory → the twin's answer to it in what the frame shows, without a robot.

The frame is an .npz file, as examples/frame.npz, or a bag of decisions, of which the first look counts. Both come from
anybody: sizes are looked at before anything is unpacked.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from qwen2vl_robot.assembly import Ports, assemble
from qwen2vl_robot.bounds import FRAME_BYTES, IMAGE_BYTES, IMAGE_PIXELS, JOINTS, shown
from qwen2vl_robot.config import RobotProfile, Strict, load_robot, load_yaml
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError, ExecutionError, PlannerError
from qwen2vl_robot.foreign import MAX_POINTS, ForeignTrajectory, given_rows
from qwen2vl_robot.geometry import Array, read_only
from qwen2vl_robot.messages import (
    ApprovedMotion,
    CameraFrame,
    Instruction,
    Intrinsics,
    Observation,
    Outcome,
    Plan,
    RobotState,
    StepRecord,
    Verdict,
)
from qwen2vl_robot.perception import Surroundings
from qwen2vl_robot.reasons import PlannerReason
from qwen2vl_robot.recording.answers import TapeArm, TapeCamera
from qwen2vl_robot.recording.tape import BadTapeError, DivergedError, Tape, TapeEndError
from qwen2vl_robot.validation.answer import to_answer
from qwen2vl_robot.validation.findings import RehearsalCase
from qwen2vl_robot.validation.pool import RehearsalProcess

_BUDGET_S = 60.0
_ARRAYS = 32  # in one file
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, TypeError, OSError),
)
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)\{'descr': '([<|][uif][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,9},? ?){0,4})\), \} *\n",
    re.DOTALL,
)
_NOW_NS = 1_000_000_000_000  # no time passes: the frame is the present
_RIGID = 1e-3  # how far a rotation may be from one
_Row = Annotated[tuple[float, ...], Field(max_length=JOINTS)]


class _Duration(Strict):
    sec: int
    nanosec: Annotated[int, Field(ge=0, lt=10**9)] = 0


class _Point(Strict):
    positions: _Row
    velocities: _Row = ()
    accelerations: _Row = ()
    effort: _Row = ()
    time_from_start: _Duration


class _Header(Strict):
    stamp: _Duration = _Duration(sec=0)
    frame_id: str = ""


class _Trajectory(Strict):
    """trajectory_msgs/JointTrajectory; its stamp and its efforts are not used."""

    header: _Header = _Header()
    joint_names: Annotated[tuple[str, ...], Field(max_length=JOINTS)]
    points: Annotated[tuple[_Point, ...], Field(max_length=MAX_POINTS)]


class _MultiDof(Strict):
    header: _Header = _Header()
    joint_names: Annotated[tuple[str, ...], Field(max_length=0)] = ()
    points: Annotated[tuple[str, ...], Field(max_length=0)] = ()


class _File(Strict):
    """Either the fields of a JointTrajectory, or those of a moveit_msgs/RobotTrajectory."""

    header: _Header = _Header()
    joint_names: Annotated[tuple[str, ...], Field(max_length=JOINTS)] | None = None
    points: Annotated[tuple[_Point, ...], Field(max_length=MAX_POINTS)] | None = None
    joint_trajectory: _Trajectory | None = None
    multi_dof_joint_trajectory: _MultiDof | None = None


def check_in_frame(frame: Path, trajectory: Path, robot: str) -> tuple[dict[str, Any], Verdict | None]:
    """Rehearse a trajectory in what a frame shows.

    Returns:
        The answer as `check` writes it, with `reasons`, the typed words; and the verdict, None where none was reached.

    Raises:
        BadInputError: a file cannot be used, or is not of this robot.
    """
    profile, given = load_robot(robot), read_trajectory(trajectory)
    seen = read_frame(frame)
    if seen.robot.q_rad.shape != (len(profile.joints),):
        text = f"{seen.robot.q_rad.size} joints; {profile.name} has {len(profile.joints)}"
        raise BadInputError(f"{shown(frame)}: {text}")
    still = _Still(seen, profile)
    with RehearsalProcess(profile, budget_s=_BUDGET_S) as rehearsal:
        rehearsal.start()  # a robot that cannot be loaded is bad input, not a refusal
        ports = Ports(still, still, still, still, rehearsal)
        checked = assemble(Surroundings.of(profile), ports).foreign.check(given)
    if isinstance(checked, Outcome):
        return _unrehearsed(checked), None
    answer = to_answer(checked.verdict, RehearsalCase(checked.motion, checked.scene, checked.start, profile))
    return {**answer, "reasons": [violation["kind"] for violation in answer["violations"]]}, checked.verdict


def _unrehearsed(outcome: Outcome) -> dict[str, Any]:
    said = {"accepted": False, "violations": [], "explanation": "; ".join(outcome.reasons), "trials": None}
    return {**said, "seconds": 0.0, "reasons": [str(cause.reason) for cause in outcome.causes]}


# ----------------------------------------------------------------------------------------------- what is read


def read_trajectory(path: Path) -> ForeignTrajectory:
    """Read a trajectory as `ros2 topic echo` prints one, YAML or JSON.

    Raises:
        BadInputError: it is of another form.
    """
    file = load_yaml(path, _File)
    given = file.joint_trajectory
    if given is None and file.joint_names is not None and file.points is not None:
        given = _Trajectory(header=file.header, joint_names=file.joint_names, points=file.points)
    if given is None:
        raise BadInputError(f"{shown(path)}: joint_names and points, or joint_trajectory, are needed")
    points = given.points
    return ForeignTrajectory(
        given.joint_names,
        [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in points],
        [point.positions for point in points],
        given_rows([point.velocities for point in points]),
        given_rows([point.accelerations for point in points]),
        given.header.frame_id,
    )


def read_frame(path: Path) -> Observation:
    """Read a recorded frame with the arm's state.

    Raises:
        BadInputError: neither an .npz file of the needed arrays nor a bag of decisions.
    """
    return _first_look(path) if path.suffix == ".mcap" else _from_arrays(path)


def _first_look(path: Path) -> Observation:
    """The first frame of a bag, with the arm's state that was read next."""
    tape = Tape(path)
    camera, arm = TapeCamera(tape), TapeArm(tape)
    frame: CameraFrame | None = None
    try:
        while (name := tape.next_name()) is not None:
            if name == "camera.capture" and frame is None:
                frame = camera.capture()
            elif name == "arm.state" and frame is not None:
                return Observation(frame, arm.state())
            else:
                tape.take(name)
    except (BadTapeError, DivergedError, TapeEndError) as error:
        raise BadInputError(str(error)) from error
    raise BadInputError(f"{shown(path)}: no frame with a state of the arm is in it")


def _from_arrays(path: Path) -> Observation:
    what = shown(path)
    arrays = _unpack(read_file(path, IMAGE_BYTES), what)
    lacks = [name for name in ("rgb", "K", "T_base_camera", "q_rad") if name not in arrays]
    if lacks or not {"depth_m", "depth_mm"} & arrays.keys():
        raise BadInputError(f"{what}: {', '.join(lacks) or 'depth_m or depth_mm'} is missing")
    rgb, k, pose, q_rad = arrays["rgb"], arrays["K"], arrays["T_base_camera"], arrays["q_rad"]
    depth_m = arrays["depth_m"] if "depth_m" in arrays else arrays["depth_mm"] / 1000.0
    width_m = arrays.get("gripper_width_m", np.array(math.nan))
    is_picture = rgb.ndim == 3 and rgb.shape[2] == 3 and 0 < rgb.shape[0] * rgb.shape[1] <= IMAGE_PIXELS
    for is_right, need in (
        (is_picture and rgb.dtype == np.uint8, "rgb is needed as uint8 of (height, width, 3)"),
        (depth_m.shape == rgb.shape[:2], "depth is needed for every pixel of rgb"),
        (k.shape == (3, 3) and np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0, "K is needed as (3, 3), pixels"),
        (_is_pose(pose), "T_base_camera is needed as a pose (4, 4), metres"),
        (q_rad.ndim == 1 and 0 < q_rad.size <= JOINTS and np.isfinite(q_rad).all(), "q_rad is needed as (n,), rad"),
        (width_m.size == 1 and not np.isinf(width_m).any(), "gripper_width_m is one number"),
    ):
        if not is_right:
            raise BadInputError(f"{what}: {need}")
    metres = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan).astype(np.float32)
    intrinsics = Intrinsics(rgb.shape[1], rgb.shape[0], *(float(v) for v in (k[0, 0], k[1, 1], k[0, 2], k[1, 2])))
    frame = CameraFrame(_NOW_NS, rgb.astype(np.uint8), metres, intrinsics, read_only(pose))
    width = float(width_m.reshape(-1)[0])
    return Observation(frame, RobotState(_NOW_NS, read_only(q_rad), read_only(np.zeros(q_rad.size)), width))


def _is_pose(T: Array) -> bool:
    if T.shape != (4, 4) or not np.isfinite(T).all() or not np.array_equal(T[3], (0.0, 0.0, 0.0, 1.0)):
        return False
    rotation = T[:3, :3]
    return bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < _RIGID and np.linalg.det(rotation) > 0.0)


def _unpack(data: bytes, what: str) -> dict[str, Array]:
    """Read the numbers of an .npz file; a header that claims more than there is is refused before memory is taken.

    Raises:
        BadInputError: no such file, or not one of plain numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > _ARRAYS or sum(entry.file_size for entry in entries) > FRAME_BYTES:
                raise BadInputError(f"{what}: more than {_ARRAYS} arrays or {FRAME_BYTES} bytes")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except _UNREADABLE as error:
        raise BadInputError(f"{what}: not an .npz file of numbers: {shown(error)}") from error


def _array(data: bytes) -> Array:
    """One array of an .npy file (ValueError: it is none, or not of plain numbers).

    Its header is a line of Python. It is matched, not evaluated: numpy's own reader raises what Python's parser does.
    """
    head = _HEADER.match(data)
    if head is None:
        raise ValueError("an array without the header that numpy writes, or not of plain numbers")
    kind, is_fortran, sizes = head[1].decode(), head[2] == b"True", head[3].decode()
    dtype, shape = np.dtype(kind), tuple(int(size) for size in sizes.split(",") if size.strip())
    body = data[head.end() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"an array of {dtype} and shape {shape} in {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if is_fortran else "C")


# ------------------------------------------------------------------------------------------------ one moment


class _Still:
    """Camera, arm, clock and planner of the one moment that was recorded; nothing moves and nothing is planned."""

    def __init__(self, seen: Observation, profile: RobotProfile) -> None:
        width_m = seen.robot.gripper_width_m
        self._frame = replace(seen.frame, stamp_ns=_NOW_NS)
        self._state = replace(
            seen.robot,
            stamp_ns=_NOW_NS,
            dq_radps=read_only(np.zeros(len(profile.joints))),
            gripper_width_m=profile.gripper.max_width_m if math.isnan(width_m) else width_m,
        )

    def capture(self) -> CameraFrame:
        return self._frame

    def newest(self, since_ns: int) -> CameraFrame | None:
        return None

    def state(self) -> RobotState:
        return self._state

    def now_ns(self) -> int:
        return _NOW_NS

    def sleep(self, seconds: float) -> None:
        """No time passes."""

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        raise PlannerError("nothing is planned in a recorded frame", reason=PlannerReason.NO_REPLY)

    def execute(self, approved: ApprovedMotion) -> None:
        raise ExecutionError("there is no arm behind a recorded frame")

    def is_moving(self) -> bool:
        return False

    def has_gripped(self) -> bool:
        return False

    def go_on(self) -> int:
        raise ExecutionError("there is no arm behind a recorded frame")

    def retreat(self, from_s: float) -> int:
        raise ExecutionError("there is no arm behind a recorded frame")

    def stop(self) -> None:
        """Nothing moves."""
