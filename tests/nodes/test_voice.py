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
from qwen2vl_robot.nodes.voice import RATE_HZ, SpeechRecogniser, grammar, open_sound, transcribe
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


def test_sound_of_another_rate_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "slow.wav", np.zeros(800), rate_hz=8000)
    with pytest.raises(BadInputError, match="8000 Hz; needed: 1 channel, 16 bit, 16000 Hz"), open_sound(str(path), 960):
        pass


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
