"""Each recogniser of speech: what is said is heard, what is no command is not, and nothing is downloaded."""

from __future__ import annotations

import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen2vl_robot.bounds import UTTERANCE_S
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.hearing import SPHINX, WHISPER, Recogniser, open_recogniser
from qwen2vl_robot.nodes.sound import RATE_HZ, from_pcm, to_recogniser_rate
from qwen2vl_robot.reading import asks_to_stop, read

pytestmark = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module", params=[SPHINX, WHISPER])
def recogniser(request: pytest.FixtureRequest) -> Iterator[Recogniser]:
    for package in ("pocketsphinx", "soxr"):
        pytest.importorskip(package, reason="the extra `voice` is not installed")
    try:
        yield open_recogniser(request.param)
    except BadInputError as error:
        if request.param == SPHINX:
            raise
        pytest.skip(f"not on this machine: {error}")


def say(text: str, folder: Path) -> np.ndarray:
    file = folder / "said.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(file), text], check=True)
    with wave.open(str(file), "rb") as said:
        samples = from_pcm(said.readframes(said.getnframes())) / 2
        heard = to_recogniser_rate(samples, said.getframerate())
    quiet = np.zeros(RATE_HZ // 4, np.float32)
    return np.concatenate([quiet, heard, quiet])


@pytest.mark.parametrize("text", ["put the red block on the blue plate", "pick up the green cylinder"])
def test_an_order_is_heard_as_it_is_meant(recogniser: Recogniser, tmp_path: Path, text: str) -> None:
    heard = recogniser.recognise(say(text, tmp_path))
    assert heard is not None
    assert read(heard) == read(text)


def test_a_stop_is_heard(recogniser: Recogniser, tmp_path: Path) -> None:
    heard = recogniser.recognise(say("stop", tmp_path))
    assert heard is not None and asks_to_stop(heard)


@pytest.mark.parametrize("text", ["my computer is really slow today", "we need to talk about the budget"])
def test_other_speech_is_no_order_and_no_stop(recogniser: Recogniser, tmp_path: Path, text: str) -> None:
    heard = recogniser.recognise(say(text, tmp_path))
    assert heard is None or not (read(heard).asks_for_motion or asks_to_stop(heard))
    assert not recogniser.is_stop(say(text, tmp_path))


@pytest.mark.parametrize("loudness", [0.0, 0.3])
def test_silence_and_noise_are_nothing(recogniser: Recogniser, loudness: float) -> None:
    noise = np.random.default_rng(0).normal(0, loudness, 2 * RATE_HZ).astype(np.float32)
    assert recogniser.recognise(noise) is None
    assert recogniser.recognise(noise[:0]) is None


def test_what_is_too_long_is_nothing(recogniser: Recogniser, tmp_path: Path) -> None:
    said = say("stop", tmp_path)
    assert recogniser.recognise(np.resize(said, int((UTTERANCE_S + 1) * RATE_HZ))) is None


def test_weights_that_are_not_here_are_named_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(BadInputError, match="nobody/no-such-model.*nothing is downloaded"):
        open_recogniser("nobody/no-such-model")


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(BadInputError, match="no Whisper checkpoint"):
        open_recogniser(str(tmp_path))
