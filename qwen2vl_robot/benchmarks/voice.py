"""Sentences of sim/voice, spoken by espeak-ng in noise → what the voice node hears of them, and invents.

Every sound takes the node's own way: a WAV file, resampled, cut into utterances, recognised and read. Nothing is
published.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from qwen2vl_robot.benchmarks.shares import share
from qwen2vl_robot.config import Strict, load_yaml
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.hearing import Recogniser
from qwen2vl_robot.nodes.sound import open_sound
from qwen2vl_robot.nodes.voice import Ears, transcribe
from qwen2vl_robot.reading import asks_to_stop, read
from qwen2vl_robot.resources import resolve

SNRS_DB = (20, 10, 0)
NOISES = ("white", "pink", "hum", "babble")
_VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+m3", "en-us-nyc", "en-gb-x-rp+f3", "en-029")
_SPEEDS_WPM = (130, 150, 170)
_ESPEAK_S = 20.0
_QUIET_S = 0.6  # before and after what is said
_NOTES_HZ = ((262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294))
_WITHOUT_WORDS = ("silence", "music")
Sound = npt.NDArray[np.float64]


class SpokenSentences(Strict):
    """sim/voice/sentences.yaml."""

    commands: list[str] = Field(min_length=1)
    stops: list[str] = Field(min_length=1)
    other: list[str] = Field(min_length=1)
    halves: list[str] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One sound: what is said how, over which noise; `text` is empty for silence and music."""

    kind: str
    text: str
    voice: str
    speed_wpm: int
    noise: str
    snr_db: int


def cases(seed: int) -> list[Case]:
    """Draw every sentence, and four sounds without words of a kind, for each of SNRS_DB.

    Raises:
        BadInputError: the file of sentences is missing or wrong.
    """
    rng = np.random.default_rng(seed)
    sentences = load_yaml(resolve("voice/sentences.yaml"), SpokenSentences)
    drawn = []
    for snr_db in SNRS_DB:
        said = [(kind, text) for kind in SpokenSentences.model_fields for text in getattr(sentences, kind)]
        for kind, text in [*said, *((kind, "") for kind in _WITHOUT_WORDS for _ in range(4))]:
            voice, noise = str(rng.choice(_VOICES)), str(rng.choice(NOISES))
            drawn.append(Case(kind, text, voice, int(rng.choice(_SPEEDS_WPM)), noise, snr_db))
    order = rng.permutation(len(drawn))  # so that a part of them is like the whole
    return [drawn[index] for index in order]


def run_voice(count: int, seed: int, recogniser: Recogniser) -> Iterator[dict[str, Any]]:
    """Let the node hear the first of the cases, one after the other.

    Raises:
        BadInputError: espeak-ng or pocketsphinx is missing.
    """
    if shutil.which("espeak-ng") is None:
        raise BadInputError("bench voice needs espeak-ng; run: apt-get install espeak-ng")
    ears = Ears()
    babble = _babble(seed)
    with tempfile.TemporaryDirectory() as folder:
        for index, case in enumerate(cases(seed)[:count]):
            file = Path(folder) / "said.wav"
            _write(file, case, babble, np.random.default_rng((seed, index)))
            with open_sound(str(file), ears.frame_bytes) as frames:
                began = time.perf_counter()
                heard = list(transcribe(ears, recogniser, frames))
            yield {
                **{name: getattr(case, name) for name in Case.__dataclass_fields__},
                "heard": heard,
                "seconds": round(time.perf_counter() - began, 2),
                **judge(case, heard),
            }


def judge(case: Case, heard: list[str]) -> dict[str, bool]:
    """Compare what was heard with what was said.

    Returns:
        is_exact: one sentence was heard, and it means the same; is_word_exact: in the same words.
        is_stopped: something was heard that stops. is_unsaid: a motion would be proposed that nobody asked for.
    """
    goal = read(case.text)
    wanted = [goal] if case.kind == "commands" else []
    goals = [read(text) for text in heard]
    return {
        "is_exact": goals == [goal],
        "is_word_exact": [text.lower() for text in heard] == [case.text.lower()],
        "is_stopped": any(asks_to_stop(text) for text in heard),
        "is_unsaid": any(found.asks_for_motion and found not in wanted for found in goals),
    }


def summarise_voice(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Count by what was said, and commands by how loud the noise was."""
    commands = [r for r in results if r["kind"] == "commands"]
    stops = [r for r in results if r["kind"] == "stops"]
    beside = [r for r in results if r["kind"] not in ("commands", "stops")]
    kinds = dict.fromkeys(r["kind"] for r in results)
    return {
        "utterances": sum(1 for r in results if r["text"]),
        "exact": {
            f"{snr} dB": {"count": len(at), **share([r["is_exact"] for r in at])}
            for snr in SNRS_DB
            if (at := [r for r in commands if r["snr_db"] == snr])
        },
        "word_exact": share([r["is_word_exact"] for r in commands]) if commands else None,
        "stops_heard": {"count": len(stops), **share([r["is_stopped"] for r in stops])} if stops else None,
        "stops_heard_at": {
            f"{snr} dB": f"{sum(r['is_stopped'] for r in at)} of {len(at)}"
            for snr in SNRS_DB
            if (at := [r for r in stops if r["snr_db"] == snr])
        },
        "median_s": float(np.median([r["seconds"] for r in results])) if results else None,
        "commands_misheard_as_motions": sum(r["is_unsaid"] for r in commands),
        "motions_not_said": {
            kind: f"{sum(r['is_unsaid'] for r in results if r['kind'] == kind)} of "
            f"{sum(r['kind'] == kind for r in results)}"
            for kind in kinds
        },
        "false_stops": sum(r["is_stopped"] for r in (*commands, *beside)),
    }


def _write(file: Path, case: Case, babble: Sound, rng: np.random.Generator) -> None:
    """Write the sound of a case as a WAV file, with one channel or two; signal-to-noise is of power, over all."""
    rate_hz, sound = _speak(case) if case.text else _wordless(case.kind)
    quiet = np.zeros(int(_QUIET_S * rate_hz))
    power = float(np.mean(sound**2)) or 1e-6
    sound = np.concatenate([quiet, sound, quiet])
    noise = _noise(case.noise, len(sound), rate_hz, rng)
    if case.noise == "babble":
        noise = np.roll(babble, -int(rng.integers(len(babble))))[: len(sound)]
    sound += noise * np.sqrt(power / 10 ** (case.snr_db / 10) / np.mean(noise**2))
    samples = (sound / np.abs(sound).max() * 16_000).astype("<i2")
    channels = int(rng.integers(1, 3))
    with wave.open(str(file), "wb") as out:
        out.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        out.writeframes(np.repeat(samples, channels).tobytes())


def _speak(case: Case) -> tuple[int, Sound]:
    command = ["espeak-ng", "-v", case.voice, "-s", str(case.speed_wpm), "--stdin", "--stdout"]
    done = subprocess.run(command, input=case.text.encode(), capture_output=True, check=True, timeout=_ESPEAK_S)
    with wave.open(io.BytesIO(done.stdout)) as said:
        samples = np.frombuffer(said.readframes(said.getnframes()), dtype="<i2")
        return said.getframerate(), samples / 32768


def _wordless(kind: str) -> tuple[int, Sound]:
    """Four seconds of nothing, or of chords with overtones."""
    rate_hz = 44_100
    t = np.arange(rate_hz) / rate_hz
    chords = [sum(np.sin(2 * np.pi * f * k * t) / k for f in chord for k in (1, 2, 3, 4)) for chord in _NOTES_HZ]
    music = np.concatenate([np.asarray(chord) * np.exp(-2 * t) for chord in chords])
    return rate_hz, music if kind == "music" else np.zeros(4 * rate_hz)


def _babble(seed: int) -> Sound:
    """Twenty seconds of five other voices that say other things, at the rate of espeak-ng (music: twice as fast)."""
    rng = np.random.default_rng((seed, 1))
    other = load_yaml(resolve("voice/sentences.yaml"), SpokenSentences).other
    crowd: Sound = np.zeros(20 * 22_050)
    for voice in rng.choice(_VOICES, 5, replace=False):
        said = [_speak(Case("other", str(text), str(voice), 160, "", 0))[1] for text in rng.choice(other, 10)]
        crowd += np.resize(np.concatenate(said), len(crowd))
    return np.asarray(crowd)


def _noise(kind: str, length: int, rate_hz: int, rng: np.random.Generator) -> Sound:
    white = rng.normal(0, 1, length)
    if kind == "pink":
        spectrum = np.fft.rfft(white)
        return np.asarray(np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), length))
    if kind == "hum":  # of a motor: the mains' harmonics over a little hiss
        t = np.arange(length) / rate_hz
        waves = [np.sin(2 * np.pi * 100 * k * t + rng.uniform(0, 6)) / k for k in range(1, 12)]
        return np.asarray(np.sum(waves, axis=0) + 0.1 * white)
    return np.asarray(white)
