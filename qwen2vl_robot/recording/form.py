"""Messages of the flow → JSON with every bit of every number but a NaN's; and back, where a replay needs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union

import numpy as np
import numpy.typing as npt
from pydantic import Field

from qwen2vl_robot.bounds import DIGEST_CHARS, JOINTS, NAME_CHARS, PICTURES
from qwen2vl_robot.config import Strict
from qwen2vl_robot.errors import ExecutionError, ObservationError, RobotError
from qwen2vl_robot.geometry import read_only
from qwen2vl_robot.messages import Approval, CameraFrame, Cause, Instruction, InstructionSource, Intrinsics, Refusal
from qwen2vl_robot.messages import RobotState as State
from qwen2vl_robot.reasons import ObservationReason, RefusalReason

_NOT_SAID = frozenset(
    {"picture", "film", "seconds", "before_motion", "traces"}
)  # pictures have messages of their own; times differ each time
_Text = Annotated[str, Field(max_length=NAME_CHARS)]
# A driver that measured nothing says so by NaN, and the flow refuses it: that is part of a recording.
_Number = Annotated[float, Field(allow_inf_nan=True)]
_Joints = Annotated[tuple[_Number, ...], Field(max_length=JOINTS)]
_Stamp = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def to_json(value: object) -> Any:
    """What JSON holds of a message: names of classes under "is", arrays as lists, numbers that are none as text.

    Times taken and pictures are left out.

    Raises:
        TypeError: the message holds a type that no message should hold.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, CameraFrame):
        return _frame_to_json(value)
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(to_json(item) for item in value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, RobotError):
        reason = getattr(value, "reason", None)
        return {"is": type(value).__name__, "text": str(value), "reason": to_json(reason)}
    if is_dataclass(value) and not isinstance(value, type):
        said = {f.name: to_json(getattr(value, f.name)) for f in fields(value) if _is_said(value, f.name)}
        return {"is": type(value).__name__, **said}
    raise TypeError(f"a recording cannot hold a {type(value).__name__}")


def _is_said(value: object, name: str) -> bool:
    return name not in _NOT_SAID or (name == "seconds" and type(value).__name__ in ("Action", "GroundedAction"))


def _frame_to_json(frame: CameraFrame) -> dict[str, Any]:
    k = frame.intrinsics
    return {
        "is": "CameraFrame",
        "stamp_ns": frame.stamp_ns,
        "size_px": [k.width_px, k.height_px],
        "focal_px": [k.fx_px, k.fy_px],
        "centre_px": [k.cx_px, k.cy_px],
        "T_base_camera": frame.T_base_camera.tolist(),
        "others": [_frame_to_json(other) for other in frame.others],
        "clip": len(frame.clip),
    }


# ------------------------------------------------------------------------------------------------------ back


class FrameForm(Strict):
    """A camera's frame without its pictures, which have messages of their own."""

    is_: Literal["CameraFrame"] = Field(alias="is")
    stamp_ns: _Stamp
    size_px: tuple[int, int]
    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    T_base_camera: Annotated[tuple[tuple[float, float, float, float], ...], Field(min_length=4, max_length=4)]
    others: Annotated[tuple[FrameForm, ...], Field(max_length=PICTURES)] = ()
    clip: Annotated[int, Field(ge=0, le=1000)] = 0

    def message(self, pictures: Sequence[Pictures], clip: Sequence[npt.NDArray[np.uint8]]) -> CameraFrame:
        """The frame with its pictures: the first camera's, then those of the others.

        Raises:
            ValueError: another number of pictures, or another size.
        """
        first, *rest = pictures
        if len(rest) != len(self.others) or len(clip) != self.clip:
            raise ValueError(f"{len(pictures)} frames with a clip of {len(clip)}; {1 + len(self.others)} are named")
        k = Intrinsics(*self.size_px, *self.focal_px, *self.centre_px)
        if first.rgb.shape[:2] != first.depth_m.shape or first.depth_m.shape != self.size_px[::-1]:
            raise ValueError(f"pictures of {first.rgb.shape[:2]} and {first.depth_m.shape}; {self.size_px} px")
        others = tuple(form.message([one], ()) for form, one in zip(self.others, rest, strict=True))
        pose = read_only(self.T_base_camera, (4, 4))
        return CameraFrame(self.stamp_ns, first.rgb, first.depth_m, k, pose, others, tuple(clip))


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What one camera saw: (h, w, 3) uint8 and (h, w) float32 metres."""

    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]


class StateForm(Strict):
    """An arm's state."""

    is_: Literal["RobotState"] = Field(alias="is")
    stamp_ns: _Stamp
    q_rad: _Joints
    dq_radps: _Joints
    gripper_width_m: _Number
    held: _Text | None = None
    effort_nm: _Joints | None = None

    def message(self) -> State:
        """The same as a message."""
        q_rad, dq_radps = read_only(self.q_rad, (None,)), read_only(self.dq_radps, (None,))
        effort_nm = None if self.effort_nm is None else read_only(self.effort_nm, (None,))
        return State(self.stamp_ns, q_rad, dq_radps, self.gripper_width_m, self.held, effort_nm)


class InstructionForm(Strict):
    """A person's words."""

    is_: Literal["Instruction"] = Field(alias="is")
    text: str
    source: InstructionSource
    plainly: tuple[str, ...] = ()
    is_begun: bool = False

    def message(self) -> Instruction:
        """The same as a message (BadInputError: no usable words)."""
        return Instruction(self.text, self.source)


class ApprovalForm(Strict):
    """An approver's yes."""

    is_: Literal["Approval"] = Field(alias="is")
    verdict_digest: Annotated[str, Field(max_length=DIGEST_CHARS)]
    token: Annotated[str, Field(max_length=DIGEST_CHARS)]
    stops: int

    def message(self) -> Approval:
        """The same as a message: it names one verdict, and no gate lets it count for another."""
        return Approval(self.verdict_digest, self.token, self.stops)


class CauseForm(Strict):
    """Why something did not go on."""

    is_: Literal["Cause", "Refusal"] = Field(alias="is")
    reason: RefusalReason
    text: str
    numbers: tuple[tuple[str, _Number], ...] = ()

    def message(self) -> Cause:
        """The same as a message."""
        kind = Refusal if self.is_ == "Refusal" else Cause
        return kind(self.reason, self.text, self.numbers)


class ErrorForm(Strict):
    """An error of a port."""

    is_: Annotated[str, Field(alias="is", pattern=r"^[A-Za-z]{1,40}Error$")]
    text: str
    reason: Annotated[ObservationReason | _Text | None, Field(union_mode="left_to_right")] = None

    def message(self) -> RobotError:
        """The same as an exception."""
        if self.is_ == "ObservationError":
            known = self.reason if isinstance(self.reason, ObservationReason) else ObservationReason.BAD_FRAME
            return ObservationError(self.text, reason=known)
        return ExecutionError(self.text) if self.is_ == "ExecutionError" else RobotError(self.text)


Form = Union[FrameForm, StateForm, InstructionForm, ApprovalForm, CauseForm, ErrorForm]
