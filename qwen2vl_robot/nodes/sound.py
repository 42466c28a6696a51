"""A microphone, a stream or a WAV file of any rate and channels → frames of 16 bit mono at the recogniser's rate."""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import (
    SOUND_BYTES,
    SOUND_CHANNELS,
    SOUND_LEAST_HZ,
    SOUND_MOST_HZ,
    SOUND_S,
    VALUE_CHARS,
    shown,
)
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError

RATE_HZ = 16_000
_SAMPLE_BYTES = (1, 2, 3, 4)  # what PCM in a WAV file has
_FULL_SCALE = 32767.0


@contextlib.contextmanager
def open_sound(source: str, frame_bytes: int) -> Iterator[Iterator[bytes]]:
    """Open a sound source as frames: "microphone" (arecord), "-" (standard input, raw s16le mono 16 kHz) or a WAV file.

    Raises:
        BadInputError: the source cannot be used.
    """
    if source == "-":
        yield _frames(sys.stdin.buffer, frame_bytes)
    elif source == "microphone":
        if shutil.which("arecord") is None:
            raise BadInputError("--source microphone needs arecord (alsa-utils); or pipe sound to --source -")
        command = ["arecord", "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(RATE_HZ)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as recording:
            assert recording.stdout is not None
            try:
                yield _frames(recording.stdout, frame_bytes)
            finally:
                recording.terminate()
    else:
        yield _wave_frames(Path(source), frame_bytes)


def _frames(stream: IO[bytes], frame_bytes: int) -> Iterator[bytes]:
    while len(frame := stream.read(frame_bytes)) == frame_bytes:
        yield frame


def _wave_frames(path: Path, frame_bytes: int) -> Iterator[bytes]:
    try:
        with wave.open(io.BytesIO(read_file(path, SOUND_BYTES)), "rb") as file:
            channels, width, rate_hz = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, ValueError, ArithmeticError, RuntimeError, struct.error) as error:
        raise BadInputError(f"--source {shown(path)}: not a WAV file ({shown(error, VALUE_CHARS)})") from error
    if channels > SOUND_CHANNELS or width not in _SAMPLE_BYTES or not SOUND_LEAST_HZ <= rate_hz <= SOUND_MOST_HZ:
        raise BadInputError(
            f"--source {shown(path)}: {channels} channels, {8 * width} bit, {rate_hz} Hz; "
            f"needed: 1 to {SOUND_CHANNELS} channels, 8 to 32 bit, {SOUND_LEAST_HZ} to {SOUND_MOST_HZ} Hz"
        )
    length_s = len(data) / (channels * width * rate_hz)
    if length_s > SOUND_S:
        raise BadInputError(f"--source {shown(path)}: {length_s:.0f} s of sound; {SOUND_S:.0f} s are taken at most")
    samples = to_recogniser_rate(_mono(data, channels, width), rate_hz)
    data = np.clip(np.round(samples * _FULL_SCALE), -32768, 32767).astype("<i2").tobytes()
    data += bytes(RATE_HZ * 2)  # a second of silence ends the last utterance
    return (data[i : i + frame_bytes] for i in range(0, len(data) - frame_bytes + 1, frame_bytes))


def _mono(data: bytes, channels: int, width: int) -> npt.NDArray[np.float32]:
    """PCM as WAV files hold it → the mean of its channels, -1 to 1; what is left of a last frame is dropped."""
    data = data[: len(data) // (channels * width) * channels * width]
    if width == 1:  # the only one without a sign
        samples = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        octets = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole = np.zeros((len(octets), 4), np.uint8)
        whole[:, 1:] = octets
        samples = whole.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        samples = np.frombuffer(data, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    mean: npt.NDArray[np.float32] = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mean


def to_recogniser_rate(samples: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float32]:
    """Resample mono sound to 16 kHz.

    Raises:
        BadInputError: soxr is not installed.
    """
    if rate_hz == RATE_HZ:
        return samples
    try:
        soxr: Any = importlib.import_module("soxr")
    except ImportError as error:
        raise BadInputError(
            f"sound of {rate_hz} Hz needs soxr; run: pip install 'qwen2vl-robot[voice]', or give {RATE_HZ} Hz"
        ) from error
    resampled: npt.NDArray[np.float32] = soxr.resample(samples, rate_hz, RATE_HZ)
    return resampled
