"""Frames of sound → sentences for `voice_instruction`.

A sentence is only a proposal: the controller asks a person before a spoken instruction moves anything.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.bounds import UTTERANCE_S
from qwen2vl_robot.nodes.hearing import Recogniser, worth_saying
from qwen2vl_robot.nodes.sound import RATE_HZ, from_pcm
from qwen2vl_robot.nodes.sphinx import StopSpotter, load_sphinx, with_noise

_log = logging.getLogger(__name__)
STOP = "stop"
_MOST_BYTES = int(UTTERANCE_S * RATE_HZ) * 2
_PIECE_BYTES = int(1.6 * RATE_HZ) * 2  # around a stop word
_ECHO_S = 0.7  # a room, and what is still in the buffers
_PAUSE_BYTES = int(0.5 * RATE_HZ) * 2  # between two suspicions, whose pieces overlap
_WAITING = 4  # utterances that wait for the recogniser
_CLIPPED = 0.02  # of an utterance's samples at full scale: a command out of that is a guess
_FULL_SCALE = 32766
_STRICTNESS = 2  # of the endpointer, 0 to 3: noise is less often taken for speech


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """Speech between two pauses, or a piece of running sound in which a stop word may be: mono, 16 kHz, -1 to 1."""

    samples: npt.NDArray[np.float32]
    is_suspicion: bool = False


class Ears:
    """Frames → suspicions of a stop word, at once, and whole utterances, when they end.

    Raises:
        BadInputError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        self._ends = load_sphinx().Endpointer(sample_rate=RATE_HZ, vad_mode=_STRICTNESS)
        self._spotter = StopSpotter()
        self._rng = np.random.default_rng(0)
        self._latest = bytearray()
        self._unsuspected_bytes = _PAUSE_BYTES
        self._speech = bytearray()
        self._heard_bytes = 0  # of the utterance under way, also of what is not kept of it
        self.frame_bytes = int(self._ends.frame_bytes)

    def hear(self, frame: bytes) -> Iterator[Utterance]:
        """Process one frame (s16le, mono, 16 kHz)."""
        self._latest += frame
        del self._latest[:-_PIECE_BYTES]
        self._unsuspected_bytes += len(frame)
        if self._spotter.hear(frame) and self._unsuspected_bytes >= _PAUSE_BYTES:
            self._unsuspected_bytes = 0
            yield Utterance(from_pcm(bytes(self._latest)), is_suspicion=True)
        was_speech = self._ends.in_speech
        speech = self._ends.process(with_noise(frame, self._rng))
        if speech is None:
            return
        if not was_speech:
            self._forget()
        self._heard_bytes += len(speech)
        if self._heard_bytes <= _MOST_BYTES:  # what is longer is no order, and takes no more memory
            self._speech += speech
        if not self._ends.in_speech and (found := self._end()):
            yield found

    def _forget(self) -> None:
        self._speech.clear()
        self._heard_bytes = 0

    def _end(self) -> Utterance | None:
        samples, is_long = np.frombuffer(bytes(self._speech), "<i2"), self._heard_bytes > _MOST_BYTES
        self._forget()
        if is_long:
            _log.warning("more than %g s were spoken without a pause; nothing is taken from that", UTTERANCE_S)
            return None
        clipped = float(np.mean(np.abs(samples.astype(np.int32)) >= _FULL_SCALE)) if len(samples) else 0.0
        if clipped > _CLIPPED:
            _log.warning("%.0f %% of the samples are clipped; nothing is taken from that: turn it down", 100 * clipped)
            return None
        return Utterance(from_pcm(samples.tobytes()))


def hear(recogniser: Recogniser, utterance: Utterance) -> str | None:
    """Return what is worth an instruction in an utterance: a whole sentence, or "stop" where that was suspected."""
    if utterance.is_suspicion:
        return STOP if recogniser.is_stop(utterance.samples) else None
    return worth_saying(recogniser.recognise(utterance.samples))


def transcribe(ears: Ears, recogniser: Recogniser, frames: Iterable[bytes]) -> Iterator[str]:
    """Yield what is worth an instruction, one after the other; the sound waits meanwhile, as a file can."""
    for frame in frames:
        for utterance in ears.hear(frame):
            if text := hear(recogniser, utterance):
                yield text


class Hearing:
    """Recognises in a thread of its own what a microphone, which does not wait, has heard; suspicions first.

    Args:
        say: is called with each sentence, in that thread.
    """

    def __init__(self, recogniser: Recogniser, say: Callable[[str], None]) -> None:
        self._recogniser, self._say = recogniser, say
        self._changed = threading.Condition()
        self._suspicions: deque[Utterance] = deque(maxlen=_WAITING)  # the oldest goes: it is heard again, if meant
        self._utterances: deque[Utterance] = deque()
        self._is_over = False
        self._worker = threading.Thread(target=self._work, name="recogniser", daemon=True)
        self._worker.start()

    def put(self, utterance: Utterance) -> None:
        """Take an utterance; where too many wait, it is left out, and that is said."""
        with self._changed:
            if utterance.is_suspicion:
                self._suspicions.append(utterance)
            elif len(self._utterances) < _WAITING:
                self._utterances.append(utterance)
            else:
                _log.warning("%d utterances wait to be recognised; this one is left out: say it again", _WAITING)
            self._changed.notify()

    def close(self) -> None:
        """Recognise what waits, then end."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while (utterance := self._next()) is not None:
            try:
                if text := hear(self._recogniser, utterance):
                    self._say(text)
            except Exception:  # noqa: BLE001 - the top of a thread; the next utterance has its own chance
                _log.exception("an utterance could not be recognised; nothing is taken from it")

    def _next(self) -> Utterance | None:
        with self._changed:
            self._changed.wait_for(lambda: self._suspicions or self._utterances or self._is_over)
            waiting = self._suspicions or self._utterances
            return waiting.popleft() if waiting else None


def is_live(source: str) -> bool:
    """Whether a source of sound goes on while something is recognised; a file waits."""
    return source in ("microphone", "-")


def listen(ears: Ears, hearing: Hearing, frames: Iterable[bytes], is_deaf: Callable[[], bool] = lambda: False) -> None:
    """Hear sound until it ends.

    Args:
        is_deaf: whether the robot itself speaks now; of what overlaps with that, only a stop word counts.
    """
    quiet_samples = sys.maxsize  # since the robot spoke
    for frame in frames:
        quiet_samples = 0 if is_deaf() else quiet_samples + len(frame) // 2
        for utterance in ears.hear(frame):
            if utterance.is_suspicion or quiet_samples > len(utterance.samples) + _ECHO_S * RATE_HZ:
                hearing.put(utterance)
            else:
                _log.info("the robot itself spoke meanwhile; nothing is taken from that")
    hearing.close()
