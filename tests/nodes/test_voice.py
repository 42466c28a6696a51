"""Speech becomes utterances and whole sentences; noise becomes none; a sound that cannot be used is named."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bounds import SOUND_BYTES
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes import voice
from qwen2vl_robot.nodes.hearing import worth_saying
from qwen2vl_robot.nodes.sound import RATE_HZ, open_sound
from qwen2vl_robot.nodes.spoken import make_network, sentence, to_jsgf
from qwen2vl_robot.nodes.voice import Ears, Hearing, Utterance, listen
from qwen2vl_robot.reading import asks_to_stop, read


@pytest.fixture(scope="module")
def ears() -> Ears:
    pytest.importorskip("pocketsphinx", reason="the extra `voice` is not installed")
    return Ears()


class Scripted:
    """Hears a fixed sentence in everything, after a while; keeps what it was given."""

    name = "scripted"

    def __init__(self, text: str | None, wait: threading.Event | None = None) -> None:
        self.text, self.wait, self.given = text, wait, list[np.ndarray]()

    def recognise(self, samples: np.ndarray) -> str | None:
        if self.wait is not None:
            self.wait.wait(10)
        self.given.append(samples)
        if self.text == "broken":
            raise RuntimeError("no such layer")
        return self.text

    def is_stop(self, samples: np.ndarray) -> bool:
        return True


def write(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def utterances(ears: Ears, path: Path) -> list[Utterance]:
    with open_sound(str(path), ears.frame_bytes) as frames:
        return [u for frame in frames for u in ears.hear(frame)]


# ------------------------------------------------------------------------------------- what is listened for


def leads_to_an_end(text: str) -> bool:
    network = make_network(sentence())
    places = network.begin()
    for word in text.split():
        places = network.follow(places, word)
    return network.is_final(places)


@pytest.mark.parametrize(
    "text",
    [
        "put the red block on the blue plate", "please grab the biggest brick", "go home", "stop", "please stop",
        "take the green ball and put it in the bowl", "push the duck to the left", "where is the blue ball",
        "don't pick up the red block", "wait for three seconds", "the orange ball goes into the blue bowl",
    ],
)  # fmt: skip
def test_what_people_say_is_listened_for(text: str) -> None:
    assert leads_to_an_end(text)


@pytest.mark.parametrize("text", ["", "put the", "take it", "the weather", "put the red block", "stop the weather"])
def test_halves_and_other_speech_are_not(text: str) -> None:
    assert not leads_to_an_end(text)


def test_every_sentence_that_is_listened_for_can_be_read() -> None:
    """Walk the network at random: what comes of it is an order, a question or a stop, without an unread word."""
    rng, network = np.random.default_rng(0), make_network(sentence())
    walked = set()
    while len(walked) < 25:
        places, words = network.begin(), list[str]()
        while not (network.is_final(places) and rng.random() < 0.6):
            following = sorted(network.words(places))
            if not following:
                break
            words.append(str(rng.choice(following)))
            places = network.follow(places, words[-1])
        walked.add(" ".join(words))
    read_whole = [text for text in walked if asks_to_stop(text) or read(text).is_understood]
    assert len(read_whole) >= 0.8 * len(walked), sorted(walked - set(read_whole))


def test_a_word_that_the_dictionary_lacks_leaves_its_sentences_out() -> None:
    assert "nudge" in to_jsgf(sentence(), lambda word: True)
    assert "nudge" not in to_jsgf(sentence(), lambda word: word != "nudge")


@pytest.mark.parametrize(
    ("text", "is_worth"),
    [
        ("put the red block on the blue plate", True), ("stop", True), ("please stop", True), ("go home", True),
        ("don't pick up the red block", True), ("where is the blue ball", True), ("set the cup down", True),
        ("put the red block", False), ("pick up the", False), ("take the green ball and", False), ("", False),
        ("take a look at this article about black holes", False), ("the red block is on the plate", False),
        ("one two three", False), (None, False),
    ],
)  # fmt: skip
def test_only_whole_sentences_are_worth_an_instruction(text: str | None, is_worth: bool) -> None:
    assert (worth_saying(text) == text) if is_worth else worth_saying(text) is None


def speak(sentence: str, folder: Path) -> Path:
    """Have espeak-ng say a sentence, half as loud, with silence around it, at the recogniser's rate."""
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(folder / "raw.wav"), sentence], check=True)
    with wave.open(str(folder / "raw.wav"), "rb") as file:
        rate_hz, data = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    times_s = np.arange(0, len(data) / rate_hz, 1 / RATE_HZ)
    spoken = np.interp(times_s, np.arange(len(data)) / rate_hz, data) * 0.5
    silence = np.zeros(RATE_HZ // 2)
    return write(folder / "said.wav", np.concatenate([silence, spoken, silence]))


@pytest.mark.parametrize("loudness", [0, 30])
def test_silence_and_noise_are_no_utterance(ears: Ears, tmp_path: Path, loudness: int) -> None:
    noise = np.random.default_rng(0).normal(0, loudness, 3 * RATE_HZ)
    assert utterances(ears, write(tmp_path / "noise.wav", noise)) == []


needs_a_voice = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@needs_a_voice
def test_speech_between_pauses_is_one_utterance(ears: Ears, tmp_path: Path) -> None:
    found = [u for u in utterances(ears, speak("put the red block on the blue plate", tmp_path)) if not u.is_suspicion]
    assert len(found) == 1
    assert 1.5 < len(found[0].samples) / RATE_HZ < 4.0
    assert 0.05 < np.abs(found[0].samples).max() <= 1.0


@needs_a_voice
def test_a_stop_in_the_midst_of_too_long_speech_is_suspected_and_the_rest_dropped(
    ears: Ears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(voice, "_MOST_BYTES", RATE_HZ)
    said = speak("and so on and so forth, stop stop, the weather was lovely that day", tmp_path)
    with caplog.at_level("WARNING"):
        found = utterances(ears, said)
    assert found and all(u.is_suspicion for u in found)
    assert "without a pause" in caplog.text
    monkeypatch.undo()
    assert any(not u.is_suspicion for u in utterances(ears, speak("go home", tmp_path)))


@needs_a_voice
def test_clipped_speech_gives_no_utterance(ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with wave.open(str(speak("go home", tmp_path)), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    with caplog.at_level("WARNING"):
        found = utterances(ears, write(tmp_path / "loud.wav", np.clip(samples * 40, -32768, 32767)))
    assert all(u.is_suspicion for u in found)
    assert "clipped" in caplog.text


# --------------------------------------------------------------------------------------- beside the microphone

PIECE = Utterance(np.zeros(10, np.float32))
SUSPICION = Utterance(np.zeros(10, np.float32), is_suspicion=True)


def test_a_suspicion_is_looked_into_before_what_waits() -> None:
    said, go = list[str](), threading.Event()
    hearing = Hearing(Scripted("go home", go), said.append)
    for utterance in (PIECE, PIECE, SUSPICION):  # the first one is under way when the last one comes
        hearing.put(utterance)
        time.sleep(0.1)
    go.set()
    hearing.close()
    assert said == ["go home", "stop", "go home"]


def test_a_flood_of_speech_is_left_out_loudly_and_a_stop_in_it_is_not(caplog: pytest.LogCaptureFixture) -> None:
    said, go = list[str](), threading.Event()
    hearing = Hearing(Scripted("go home", go), said.append)
    with caplog.at_level("WARNING"):
        for _ in range(50):
            hearing.put(PIECE)
        hearing.put(SUSPICION)
        go.set()
        hearing.close()
    assert "stop" in said
    assert said.count("go home") <= 5
    assert "say it again" in caplog.text


def test_a_recogniser_that_breaks_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    said = list[str]()
    hearing = Hearing(Scripted("broken"), said.append)
    hearing.put(PIECE)
    hearing.put(SUSPICION)
    hearing.close()
    assert said == ["stop"]
    assert "no such layer" in caplog.text


@needs_a_voice
@pytest.mark.parametrize("speaks", [True, False])
def test_its_own_voice_gives_no_order(ears: Ears, tmp_path: Path, speaks: bool) -> None:
    said = list[str]()
    recogniser = Scripted("go home")
    with open_sound(str(speak("put the red block on the plate", tmp_path)), ears.frame_bytes) as frames:
        listen(ears, Hearing(recogniser, said.append), frames, is_deaf=lambda: speaks)
    assert ("go home" in said) != speaks


# ------------------------------------------------------------------------------------------------- sound


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


def test_numbers_with_a_point_are_taken_and_those_that_are_none_refused(tmp_path: Path) -> None:
    def floats(samples: np.ndarray) -> Path:
        data = samples.astype("<f4").tobytes()
        form = struct.pack("<HHIIHH", 3, 1, RATE_HZ, 4 * RATE_HZ, 4, 32)
        head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form
        (tmp_path / "f.wav").write_bytes(head + b"data" + struct.pack("<I", len(data)) + data)
        return tmp_path / "f.wav"

    with open_sound(str(floats(np.array([0.5, -0.5, 7.0] * 1000))), 960) as frames:
        heard = np.frombuffer(next(iter(frames)), "<i2")
    assert heard[:3].tolist() == [16384, -16384, 32767]
    for bad in (np.nan, np.inf):
        file = floats(np.array([0.5, bad] * 1000))
        with pytest.raises(BadInputError, match="1000 samples are no finite number"), open_sound(str(file), 960):
            pass


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1), (8_000, 3)])
def test_raw_sound_of_any_rate_and_channels_streams(
    rate_hz: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("soxr", reason="the extra `voice` is not installed")
    tone = (np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz) * 16_000).astype("<i2")
    stream = io.TextIOWrapper(io.BytesIO(np.repeat(tone, channels).tobytes()))
    monkeypatch.setattr("sys.stdin", stream)
    with open_sound("-", 960, rate_hz, channels) as frames:
        heard = np.frombuffer(b"".join(frames), "<i2").astype(float)[:RATE_HZ]
    assert int(np.abs(np.fft.rfft(heard)).argmax()) == 440


def test_a_microphone_of_an_odd_rate_is_named() -> None:
    with pytest.raises(BadInputError, match="1 channels, 300 Hz; needed"), open_sound("-", 960, 300):
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
