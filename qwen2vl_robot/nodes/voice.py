"""Sound → transcripts for `voice_instruction`; pocketsphinx chooses among the sentences that the planner knows.

A transcript is only a proposal: the controller asks a person before a spoken instruction moves anything.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from qwen2vl_robot.bounds import SOUND_BYTES, VALUE_CHARS, shown
from qwen2vl_robot.documents import read_file
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.languages import ENGLISH, load_languages
from qwen2vl_robot.perception.labels import load_words

RATE_HZ = 16_000
_NOISE = 20  # of 32768, added to the sound: the recogniser fails on digital silence
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Without these a negated sentence would be forced into the command, and "stop" into whatever sounds most like it.
_DENIALS = ("do not", "don't", "never", "you must not")
_STOPS = ("stop", "halt", "freeze")
_SEARCH = "commands"


class SpeechRecogniser:
    """Turns frames of sound into sentences, one at the end of each utterance.

    Raises:
        BadInputError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        try:
            sphinx: Any = importlib.import_module("pocketsphinx")
        except ImportError as error:
            raise BadInputError("voice needs pocketsphinx; run: pip install 'qwen2vl-robot[voice]'") from error
        self._ends = sphinx.Endpointer(sample_rate=RATE_HZ)
        self._decoder = sphinx.Decoder(lm=None, samprate=RATE_HZ, loglevel="FATAL")
        self._decoder.add_jsgf_string(_SEARCH, grammar(lambda word: self._decoder.lookup_word(word) is not None))
        self._decoder.activate_search(_SEARCH)
        self._rng = np.random.default_rng(0)
        self.frame_bytes = int(self._ends.frame_bytes)

    def hear(self, frame: bytes) -> str | None:
        """Process one frame (s16le, mono, 16 kHz); return the sentence if an utterance ends with it, else None."""
        was_speech = self._ends.in_speech
        speech = self._ends.process(self._with_noise(frame))
        if speech is None:
            return None
        if not was_speech:
            self._decoder.start_utt()
        self._decoder.process_raw(speech)
        if self._ends.in_speech:
            return None
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return str(hypothesis.hypstr) if hypothesis is not None and hypothesis.hypstr else None

    def _with_noise(self, frame: bytes) -> bytes:
        samples = np.frombuffer(frame, dtype="<i2").astype(np.int32)
        samples += self._rng.integers(-_NOISE, _NOISE + 1, len(samples))
        return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


def grammar(is_known: Callable[[str], bool] = lambda word: True) -> str:
    """Write the sentences of sim/languages/en.yaml over the words of sim/objects/words.yaml as a JSGF grammar.

    Each sentence may be denied, and stop words stand alone; the controller reads what was heard as any other sentence.

    Args:
        is_known: whether the recogniser's dictionary has a word; unknown words and sentences with them are left out.
    """
    words, tasks = load_words(), load_languages()[ENGLISH].tasks
    sentences = [_sentence(t) for phrasing in tasks.values() for t in (*phrasing.seen, *phrasing.held_out)]
    known = [s for s in sentences if all(is_known(w) for w in s.split() if not w.startswith("<"))]
    colours, nouns = ([w for w in group if is_known(w)] for group in (words.colours, words.nouns))
    return "\n".join(
        [
            "#JSGF V1.0;",
            "grammar robot;",
            f"<number> = {' | '.join(_NUMBERS)};",
            f"<thing> = [the] [{' | '.join(colours)}] ({' | '.join(nouns)});",
            f"<deny> = {' | '.join(_DENIALS)};",
            f"<stop> = {' | '.join(w for w in _STOPS if is_known(w))};",
            f"<sentence> = {' | '.join(dict.fromkeys(known))};",
            "public <command> = <stop>+ | [please] [<deny>] <sentence>;",
        ]
    )


def _sentence(template: str) -> str:
    plain = re.sub(r"[^a-z{}' ]", " ", template.lower())
    filled = plain.replace("{a}", "<thing>").replace("{b}", "<thing>").replace("{n}", "<number>")
    return " ".join(filled.split())


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
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, ValueError, ArithmeticError, RuntimeError, struct.error) as error:
        raise BadInputError(f"--source {shown(path)}: not a WAV file ({shown(error, VALUE_CHARS)})") from error
    if kind != (1, 2, RATE_HZ):
        given = f"{kind[0]} channels, {8 * kind[1]} bit, {kind[2]} Hz"
        raise BadInputError(f"--source {path}: {given}; needed: 1 channel, 16 bit, {RATE_HZ} Hz")
    data += bytes(RATE_HZ * 2)  # a second of silence ends the last utterance
    return (data[i : i + frame_bytes] for i in range(0, len(data) - frame_bytes + 1, frame_bytes))


def transcribe(recogniser: SpeechRecogniser, frames: Iterable[bytes]) -> Iterator[str]:
    """Yield the sentences of a stream of sound."""
    for frame in frames:
        sentence = recogniser.hear(frame)
        if sentence is not None:
            yield sentence
