"""Sound → transcripts for `voice_instruction`; pocketsphinx chooses among the sentences that the planner knows.

A transcript is only a proposal: the controller asks a person before a spoken instruction moves anything.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from qwen2vl_robot.bounds import UTTERANCE_S
from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.languages import ENGLISH, load_languages
from qwen2vl_robot.nodes.sound import RATE_HZ
from qwen2vl_robot.perception.labels import load_words

_log = logging.getLogger(__name__)
_MOST_BYTES = int(UTTERANCE_S * RATE_HZ) * 2
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
        self._heard_bytes = 0  # of the utterance under way
        self.frame_bytes = int(self._ends.frame_bytes)

    def hear(self, frame: bytes) -> str | None:
        """Process one frame (s16le, mono, 16 kHz); return the sentence if an utterance ends with it, else None."""
        was_speech = self._ends.in_speech
        speech = self._ends.process(self._with_noise(frame))
        if speech is None:
            return None
        if not was_speech:
            self._decoder.start_utt()
            self._heard_bytes = 0
        self._heard_bytes += len(speech)
        is_long = self._heard_bytes > _MOST_BYTES
        if not is_long:  # what is longer is no order, and costs no more time
            self._decoder.process_raw(speech)
        if self._ends.in_speech:
            return None
        self._decoder.end_utt()
        if is_long:
            _log.warning("more than %g s were spoken without a pause; nothing is taken from that", UTTERANCE_S)
            return None
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


def transcribe(recogniser: SpeechRecogniser, frames: Iterable[bytes]) -> Iterator[str]:
    """Yield the sentences of a stream of sound."""
    for frame in frames:
        sentence = recogniser.hear(frame)
        if sentence is not None:
            yield sentence
