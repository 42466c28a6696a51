"""A microphone, a stream or a WAV file of any rate and channels → frames of 16 bit mono at the recogniser's rate."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import struct
import subprocess
import sys
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
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # forms of WAV files
_FORMS = frozenset({*((_PCM, bits) for bits in (8, 16, 24, 32)), (_FLOAT, 32), (_FLOAT, 64)})
_FULL_SCALE = 32767


@contextlib.contextmanager
def open_sound(source: str, frame_bytes: int, rate_hz: int = RATE_HZ, channels: int = 1) -> Iterator[Iterator[bytes]]:
    """Open a sound source as frames: "microphone" (arecord), "-" (standard input, raw s16le) or a WAV file.

    Args:
        rate_hz, channels: of the microphone or of standard input; a WAV file says its own.

    Raises:
        BadInputError: the source cannot be used.
    """
    check_form(f"--source {shown(source)}", rate_hz, channels)
    if source == "-":
        yield _stream_frames(sys.stdin.buffer, frame_bytes, rate_hz, channels)
    elif source == "microphone":
        if shutil.which("arecord") is None:
            raise BadInputError("--source microphone needs arecord (alsa-utils); or pipe sound to --source -")
        command = ["arecord", "-q", "-t", "raw", "-f", "S16_LE", "-c", str(channels), "-r", str(rate_hz)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as recording:
            assert recording.stdout is not None
            try:
                yield _stream_frames(recording.stdout, frame_bytes, rate_hz, channels)
            finally:
                recording.terminate()
    else:
        yield _wave_frames(Path(source), frame_bytes)


def _stream_frames(stream: IO[bytes], frame_bytes: int, rate_hz: int, channels: int) -> Iterator[bytes]:
    """Read a block at a time, as long as one frame, and cut what comes of it into frames."""
    block = frame_bytes // 2 * rate_hz // RATE_HZ * 2 * channels
    resample = None if rate_hz == RATE_HZ else _load_soxr(rate_hz).ResampleStream(rate_hz, RATE_HZ, 1, "float32")
    pending = b""
    while len(data := stream.read(block)) == block:
        if channels == 1 and resample is None:
            yield data
            continue
        samples = from_pcm(data).reshape(-1, channels).mean(axis=1, dtype=np.float32)
        pending += to_pcm(samples if resample is None else resample.resample_chunk(samples))
        while len(pending) >= frame_bytes:
            yield pending[:frame_bytes]
            pending = pending[frame_bytes:]


def _wave_frames(path: Path, frame_bytes: int) -> Iterator[bytes]:
    try:
        channels, rate_hz, samples = _read_wave(read_file(path, SOUND_BYTES))
    except (EOFError, ValueError, struct.error) as error:
        raise BadInputError(f"--source {shown(path)}: not a WAV file ({shown(error, VALUE_CHARS)})") from error
    check_form(f"--source {shown(path)}", rate_hz, channels)
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels)
    if len(samples) > SOUND_S * rate_hz:
        raise BadInputError(
            f"--source {shown(path)}: {len(samples) / rate_hz:.0f} s of sound; {SOUND_S:.0f} s are taken at most"
        )
    if not np.isfinite(samples).all():
        raise BadInputError(f"--source {shown(path)}: {np.sum(~np.isfinite(samples))} samples are no finite number")
    data = to_pcm(to_recogniser_rate(samples.mean(axis=1, dtype=np.float32), rate_hz))
    data += bytes(RATE_HZ * 2)  # a second of silence ends the last utterance
    return (data[i : i + frame_bytes] for i in range(0, len(data) - frame_bytes + 1, frame_bytes))


def check_form(name: str, rate_hz: int, channels: int) -> None:
    """Check that sound has a rate and a number of channels that are taken.

    Raises:
        BadInputError: it has not.
    """
    if not (0 < channels <= SOUND_CHANNELS and SOUND_LEAST_HZ <= rate_hz <= SOUND_MOST_HZ):
        raise BadInputError(
            f"{name}: {channels} channels, {rate_hz} Hz; "
            f"needed: 1 to {SOUND_CHANNELS} channels, {SOUND_LEAST_HZ} to {SOUND_MOST_HZ} Hz"
        )


def _read_wave(data: bytes) -> tuple[int, int, npt.NDArray[np.float32]]:
    """Return channels, rate and interleaved samples, -1 to 1 (floats may be beyond); ValueError if there are none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("it does not begin as one")
    at, form = 12, None
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        piece = data[at + 8 : at + 8 + size]
        if kind == b"fmt ":
            code, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", piece)
            if code == _EXTENSIBLE:
                code = struct.unpack_from("<H", piece, 24)[0]
            form = (code, bits), channels, rate_hz
        elif kind == b"data":
            if form is None:
                raise ValueError("sound before its form")
            (code, bits), channels, rate_hz = form
            if (code, bits) not in _FORMS or not channels:
                raise ValueError(
                    f"form {code}, {bits} bit, {channels} channels; taken: PCM of 8 to 32 bit, IEEE floats"
                )
            return channels, rate_hz, _samples(piece, code, bits)
        at += 8 + size + size % 2
    raise ValueError("no sound in it")


def _samples(data: bytes, code: int, bits: int) -> npt.NDArray[np.float32]:
    width = bits // 8
    data = data[: len(data) // width * width]
    if code == _FLOAT:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            return np.asarray(np.frombuffer(data, f"<f{width}"), np.float32)
    if bits == 8:  # the only one without a sign
        return (np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1).astype(np.float32)
    if bits == 24:
        octets = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole = np.zeros((len(octets), 4), np.uint8)
        whole[:, 1:] = octets
        return np.asarray(whole.view("<i4")[:, 0] / 2**31, np.float32)
    return np.asarray(np.frombuffer(data, f"<i{width}") / 2 ** (bits - 1), np.float32)


def to_pcm(samples: npt.NDArray[np.float32]) -> bytes:
    """Sound from -1 to 1 → s16le; what is louder is clipped."""
    return np.clip(np.round(samples * _FULL_SCALE), -32768, 32767).astype("<i2").tobytes()


def from_pcm(data: bytes) -> npt.NDArray[np.float32]:
    """s16le → sound from -1 to 1."""
    return (np.frombuffer(data, "<i2") / (_FULL_SCALE + 1)).astype(np.float32)


def to_recogniser_rate(samples: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float32]:
    """Resample mono sound to 16 kHz.

    Raises:
        BadInputError: soxr is not installed.
    """
    if rate_hz == RATE_HZ:
        return samples
    resampled: npt.NDArray[np.float32] = _load_soxr(rate_hz).resample(samples, rate_hz, RATE_HZ)
    return resampled


def _load_soxr(rate_hz: int) -> Any:
    try:
        return importlib.import_module("soxr")
    except ImportError as error:
        raise BadInputError(
            f"sound of {rate_hz} Hz needs soxr; run: pip install 'qwen2vl-robot[voice]', or give {RATE_HZ} Hz"
        ) from error
