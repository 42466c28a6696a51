"""Pocketsphinx, as three things: where utterances begin and end, whether "stop" was just said, and what was said."""

from __future__ import annotations

import importlib
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import UTTERANCE_S
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.sound import RATE_HZ, to_pcm
from qwen2vl_robot.nodes.spoken import sentence, to_jsgf
from qwen2vl_robot.reading import asks_to_stop

_NOISE = 20  # of 32768, added to the sound: the recogniser fails on digital silence
_SEARCH, _GARBAGE = "commands", "sounds"
_STOP_WORDS = ("stop", "halt", "freeze")
# How much likelier a stop word must be than any sounds: for a suspicion, and where nothing better can confirm it.
_SUSPECTED, _SURE = "1e-20", "1e-3"
# How much less likely the sentence may be than any row of sounds (natural logarithm, per second), from forty sounds of
# `bench voice --seed 0`.
_MOST_WORSE_PER_S, _MOST_WORSE_STOP_PER_S = 0.012, 0.03
_BEAMS = {"beam": 1e-36, "pbeam": 1e-36, "wbeam": 1e-18}  # narrower than usual: the grammar is large


def load_sphinx() -> Any:
    """Import pocketsphinx.

    Raises:
        BadInputError: it is not installed.
    """
    try:
        return importlib.import_module("pocketsphinx")
    except ImportError as error:
        raise BadInputError("voice needs pocketsphinx; run: pip install 'qwen2vl-robot[voice]'") from error


class StopSpotter:
    """Suspects stop words in running sound, whatever else is being said or recognised.

    Args:
        least: how much likelier than any sounds a word must be; a smaller number suspects more.

    Raises:
        BadInputError: pocketsphinx is not installed.
    """

    def __init__(self, least: str = _SUSPECTED) -> None:
        sphinx = load_sphinx()
        with tempfile.TemporaryDirectory() as folder:
            words = Path(folder) / "words"
            words.write_text("".join(f"{word} /{least}/\n" for word in _STOP_WORDS), encoding="utf-8")
            self._decoder = sphinx.Decoder(kws=str(words), lm=None, samprate=RATE_HZ, loglevel="FATAL")
        self._rng = np.random.default_rng(0)
        self._decoder.start_utt()

    def hear(self, frame: bytes) -> bool:
        """Process a frame (s16le, mono, 16 kHz); return whether a stop word may have ended."""
        self._decoder.process_raw(with_noise(frame, self._rng))
        if self._decoder.hyp() is None:
            return False
        self._decoder.end_utt()
        self._decoder.start_utt()
        return True


class SphinxRecogniser:
    """Recognises utterances with a grammar, against a free row of sounds that takes up what is no command.

    Raises:
        BadInputError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        sphinx = load_sphinx()
        self.name = "pocketsphinx"
        self._decoder = sphinx.Decoder(
            lm=None, samprate=RATE_HZ, loglevel="FATAL", cmn="batch", bestpath=False, **_BEAMS
        )
        known = to_jsgf(sentence(), lambda word: self._decoder.lookup_word(word) is not None)
        self._decoder.add_jsgf_string(_SEARCH, f"#JSGF V1.0;\ngrammar robot;\npublic <command> = {known};")
        self._decoder.add_allphone_file(_GARBAGE, sphinx.get_model_path("en-us/en-us-phone.lm.bin"))
        self._rng = np.random.default_rng(0)
        self._sure = StopSpotter(_SURE)

    def is_stop(self, samples: npt.NDArray[np.float32]) -> bool:
        """Return whether a stop word is surely in a piece of running sound (mono, 16 kHz, -1 to 1)."""
        return self._sure.hear(to_pcm(np.concatenate([samples, np.zeros(RATE_HZ // 2, np.float32)])))

    def recognise(self, samples: npt.NDArray[np.float32]) -> str | None:
        """Return the sentence of an utterance (mono, 16 kHz, -1 to 1), None where it is none of the robot's."""
        found = self.candidates(samples)
        if found is None:
            return None
        most = _MOST_WORSE_STOP_PER_S if asks_to_stop(found[0]) else _MOST_WORSE_PER_S
        return found[0] if found[1] <= most else None

    def candidates(self, samples: npt.NDArray[np.float32]) -> tuple[str, float] | None:
        """Return the likeliest of the robot's sentences, and how much less likely it is than any sounds, per second."""
        if not len(samples) or len(samples) > UTTERANCE_S * RATE_HZ:
            return None
        sound = with_noise(to_pcm(samples), self._rng)
        command, score = self._decode(_SEARCH, sound)
        if not command:
            return None
        _, free = self._decode(_GARBAGE, sound)
        return command, math.log(free / score) / (len(samples) / RATE_HZ) if free and score else math.inf

    def _decode(self, search: str, sound: bytes) -> tuple[str, float]:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        self._decoder.process_raw(sound, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return ("", 0.0) if found is None else (str(found.hypstr), float(found.score))


def with_noise(frame: bytes, rng: np.random.Generator) -> bytes:
    """Add a faint noise, without which pocketsphinx fails on digital silence."""
    samples = np.frombuffer(frame, dtype="<i2").astype(np.int32)
    samples += rng.integers(-_NOISE, _NOISE + 1, len(samples))
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()
