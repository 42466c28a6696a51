"""Speech becomes a sentence of the grammar; noise becomes none; a sound that cannot be used is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bounds import SOUND_BYTES
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes import voice
from qwen2vl_robot.nodes.sound import RATE_HZ, open_sound
from qwen2vl_robot.nodes.voice import SpeechRecogniser, grammar, transcribe
from qwen2vl_robot.reading import read, stop_word


@pytest.fixture(scope="module")
def recogniser() -> SpeechRecogniser:
    pytest.importorskip("pocketsphinx", reason="the extra `voice` is not installed")
    return SpeechRecogniser()


def write(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def listen(recogniser: SpeechRecogniser, path: Path) -> list[str]:
    with open_sound(str(path), recogniser.frame_bytes) as frames:
        return list(transcribe(recogniser, frames))


def test_the_grammar_has_the_phrasings_over_the_known_things() -> None:
    text = grammar()
    assert "put <thing> on <thing>" in text
    assert "wait <number> seconds" in text
    assert "<thing> = [the] [red | orange" in text
    assert "{" not in text


def test_a_word_that_the_dictionary_lacks_leaves_its_sentence_out() -> None:
    assert "nudge" not in grammar(lambda word: word != "nudge")


def test_the_grammar_can_stop_and_deny() -> None:
    text = grammar()
    assert "<stop> = stop | halt | freeze;" in text
    assert "[<deny>] <sentence>" in text


def speak(sentence: str, folder: Path) -> Path:
    """Have espeak-ng say a sentence, half as loud, with silence around it, at the recogniser's rate."""
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(folder / "raw.wav"), sentence], check=True)
    with wave.open(str(folder / "raw.wav"), "rb") as file:
        rate_hz, data = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    times_s = np.arange(0, len(data) / rate_hz, 1 / RATE_HZ)
    spoken = np.interp(times_s, np.arange(len(data)) / rate_hz, data) * 0.5
    silence = np.zeros(RATE_HZ // 2)
    return write(folder / "said.wav", np.concatenate([silence, spoken, silence]))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng, which speaks the sentence, is not installed")
@pytest.mark.parametrize(
    "sentence",
    ["put the red block on the blue plate", "do not pick up the red block", "don't pick up the red block", "stop"],
)
def test_a_spoken_sentence_is_recognised(recogniser: SpeechRecogniser, tmp_path: Path, sentence: str) -> None:
    heard = listen(recogniser, speak(sentence, tmp_path))
    assert heard == [sentence]
    if sentence == "stop":
        assert stop_word(heard[0])
    else:
        assert read(heard[0]).asks_for_motion == (not sentence.startswith("do"))


@pytest.mark.parametrize("loudness", [0, 30])
def test_silence_and_noise_give_no_sentence(recogniser: SpeechRecogniser, tmp_path: Path, loudness: int) -> None:
    noise = np.random.default_rng(0).normal(0, loudness, 3 * RATE_HZ)
    assert listen(recogniser, write(tmp_path / "noise.wav", noise)) == []


@pytest.mark.parametrize(("rate_hz", "channels", "width"), [(8000, 1, 1), (22050, 2, 2), (44100, 6, 3), (96000, 1, 4)])
def test_sound_of_any_rate_and_channels_becomes_the_recognisers(
    tmp_path: Path, rate_hz: int, channels: int, width: int
) -> None:
    pytest.importorskip("soxr", reason="the extra `voice` is not installed")
    tone = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz) / 2
    whole = np.round(tone * 2 ** (8 * width - 1)).astype("<i8") + (128 if width == 1 else 0)
    octets = np.repeat(whole, channels).view(np.uint8).reshape(-1, 8)[:, :width]
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((channels, width, rate_hz, 0, "NONE", ""))
        file.writeframes(octets.tobytes())
    with open_sound(str(tmp_path / "tone.wav"), 960) as frames:
        heard = np.frombuffer(b"".join(frames), dtype="<i2")[:RATE_HZ].astype(float)
    spectrum = np.abs(np.fft.rfft(heard))
    assert int(spectrum.argmax()) == 440
    assert 0.45 * 32768 < heard[1000:-1000].max() < 0.55 * 32768


@pytest.mark.parametrize(
    ("rate_hz", "frames", "why"), [(3000, 800, "3000 Hz; needed"), (4000, 4000 * 2001, "2001 s of sound")]
)
def test_sound_that_cannot_be_used_is_named(tmp_path: Path, rate_hz: int, frames: int, why: str) -> None:
    path = write(tmp_path / "odd.wav", np.zeros(frames), rate_hz=rate_hz)
    with pytest.raises(BadInputError, match=why), open_sound(str(path), 960):
        pass


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng, which speaks the sentence, is not installed")
def test_too_long_speech_gives_no_sentence(
    recogniser: SpeechRecogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = speak("stop", tmp_path)
    monkeypatch.setattr(voice, "_MOST_BYTES", RATE_HZ // 10)
    assert listen(recogniser, said) == []
    monkeypatch.undo()
    assert listen(recogniser, said) == ["stop"]


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no_such"), open_sound(str(tmp_path / "no_such.wav"), 960):
        pass


HOSTILE_SOUND = {
    "nothing": b"",
    "a header alone": b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff",
    "a header that lies": b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x00\x00\x80\x3e\x00\x00" + b"\0" * 20,
    "a piece that claims to be negative": b"RIFF\x24\x00\x00\x00WAVEdata\xff\xff\xff\xff",
    "text": b"machine example.org password hunter2",
}


@pytest.mark.parametrize("data", HOSTILE_SOUND.values(), ids=HOSTILE_SOUND.keys())
def test_hostile_sound_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(BadInputError, match=r"a\.wav") as refused, open_sound(str(tmp_path / "a.wav"), 960):
        pass
    assert "hunter2" not in str(refused.value)


def test_sound_from_what_is_no_file_or_too_long_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="not a file"), open_sound(str(tmp_path / "pipe"), 960):
        pass
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(SOUND_BYTES + 1)
    with (
        pytest.raises(BadInputError, match=f"more than {SOUND_BYTES} bytes"),
        open_sound(str(tmp_path / "long.wav"), 9),
    ):
        pass
