"""Messages as drivers send them: each is filled in as the driver that is named fills it in."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qwen2vl_robot.graph.idl import message_class
from qwen2vl_robot.graph.interface import Message

STAMP_S = 1000
EYE = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def matrix_k(fx: float, fy: float, cx: float, cy: float) -> list[float]:
    return [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]


def matrix_p(fx: float, fy: float, cx: float, cy: float, tx: float = 0.0) -> list[float]:
    return [fx, 0.0, cx, tx, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]


def head(frame: str, stamp_ns: int = STAMP_S * 10**9) -> Message:
    stamp = message_class("builtin_interfaces/msg/Time")(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return message_class("std_msgs/msg/Header")(stamp=stamp, frame_id=frame)


def camera_info(
    size_px: tuple[int, int],
    k: Sequence[float],
    p: Sequence[float] | None = None,
    *,
    d: Sequence[float] = (0.0,) * 5,
    model: str = "plumb_bob",
    frame: str = "colour",
    **fields: Any,
) -> Message:
    """A camera_info; `p` None is that of a single camera, whose two pictures have the same intrinsics."""
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0] if p is None else p
    given: dict[str, Any] = {"r": EYE, "binning_x": 0, "binning_y": 0, "roi": roi(), **fields}
    return message_class("sensor_msgs/msg/CameraInfo")(
        header=head(frame),
        width=size_px[0],
        height=size_px[1],
        distortion_model=model,
        d=np.array(d, dtype=np.float64),
        k=np.array(k, dtype=np.float64),
        p=np.array(p, dtype=np.float64),
        **given,
    )


def roi(x_offset: int = 0, y_offset: int = 0, width: int = 0, height: int = 0) -> Message:
    return message_class("sensor_msgs/msg/RegionOfInterest")(
        x_offset=x_offset, y_offset=y_offset, width=width, height=height, do_rectify=False
    )


def image(
    encoding: str, pixels: npt.NDArray[Any], *, frame: str = "colour", pad: int = 0, big: bool = False
) -> Message:
    """An image of pixels (h, w) or (h, w, channels) in the type of the encoding; `pad` bytes follow each row."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xaa" * pad for row in stored]
    return message_class("sensor_msgs/msg/Image")(
        header=head(frame),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=len(rows[0]),
        data=np.frombuffer(b"".join(rows), dtype=np.uint8),
    )


def compressed(form: str, data: bytes, *, frame: str = "colour") -> Message:
    return message_class("sensor_msgs/msg/CompressedImage")(
        header=head(frame), format=form, data=np.frombuffer(data, dtype=np.uint8)
    )


def picture_file(kind: str, pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def config_header(a: float = 0.0, b: float = 0.0, kind: int = 0) -> bytes:
    """The twelve bytes before compressedDepth's picture."""
    return struct.pack("<iff", kind, a, b)


def inverse_depth(depth_m: npt.NDArray[Any], most_m: float = 10.0, quantization: float = 100.0) -> tuple[Any, bytes]:
    """What compressedDepth makes of 32FC1: its values (h, w) of 16 bits and its header."""
    a = quantization * (quantization + 1.0)
    b = 1.0 - a / most_m
    is_near = np.nan_to_num(depth_m, nan=np.inf) < most_m
    values = np.where(is_near, a / np.where(is_near, depth_m, 1.0) + b, 0.0).astype(np.uint16)
    return values, config_header(a, b)


def rvl(values: npt.NDArray[np.uint16]) -> bytes:
    """RVL of (h, w), with the width and the height before it: one pixel after the other, as Wilson's paper does."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while True:
            number, low = number >> 3, number & 7
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    flat, at, previous = [int(v) for v in values.ravel()], 0, 0
    while at < len(flat):
        for is_zero in (True, False):
            start = at
            while at < len(flat) and (flat[at] == 0) == is_zero:
                at += 1
            put(at - start)
        for value in flat[start:at]:
            difference = value - previous
            put(2 * difference if difference >= 0 else -2 * difference - 1)
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f"<II{len(words)}I", values.shape[1], values.shape[0], *words)


def joint_state(
    names: Sequence[str], positions: Sequence[float], velocities: Sequence[float] = (), *, stamp_ns: int
) -> Message:
    return message_class("sensor_msgs/msg/JointState")(
        header=head("", stamp_ns),
        name=list(names),
        position=np.array(positions, dtype=np.float64),
        velocity=np.array(velocities, dtype=np.float64),
        effort=np.zeros(0),
    )
