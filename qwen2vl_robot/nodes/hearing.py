"""What recognises an utterance, behind one seam, and which of what was recognised is worth an instruction."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.nodes.spoken import is_cut_off
from qwen2vl_robot.reading import Goal, asks_to_stop, read

_log = logging.getLogger(__name__)
AUTO, SPHINX, WHISPER = "auto", "pocketsphinx", "openai/whisper-base"
_DOWN = frozenset({"down", "drop", "release"})


class Recogniser(Protocol):
    """Turns one utterance into one sentence; `name` is what `open_recogniser` takes."""

    name: str

    def recognise(self, samples: npt.NDArray[np.float32]) -> str | None:
        """Return what was said (mono, 16 kHz, -1 to 1), None where it was nothing that the robot listens for."""
        ...

    def is_stop(self, samples: npt.NDArray[np.float32]) -> bool:
        """Return whether a second or two of running sound, in which a stop word may be, ask to stop."""
        ...


def open_recogniser(name: str) -> Recogniser:
    """Load a recogniser: "pocketsphinx", a Whisper checkpoint, or "auto".

    "auto" is Whisper where the weights of openai/whisper-base are in the local cache, else pocketsphinx.

    Raises:
        BadInputError: a package is missing, or the weights are not on this machine.
    """
    from qwen2vl_robot.nodes.sphinx import SphinxRecogniser  # what is not used is not loaded
    from qwen2vl_robot.nodes.whisper import WhisperRecogniser

    if name == SPHINX:
        return SphinxRecogniser()
    if name != AUTO:
        return WhisperRecogniser(name)
    try:
        return WhisperRecogniser(WHISPER)
    except BadInputError as error:
        _log.warning("pocketsphinx listens, which hears much less than Whisper: %s", error)
        return SphinxRecogniser()


def worth_saying(text: str | None) -> str | None:
    """Return a heard sentence that is whole: an order, a denial or a question without an unread word, or a stop.

    >>> worth_saying("put the red block on the blue plate"), worth_saying("put the red block"), worth_saying("stop")
    ('put the red block on the blue plate', None, 'stop')
    """
    if not text:
        return None
    if asks_to_stop(text):
        return text
    goal, words = read(text), text.lower().split()
    is_said = goal.is_understood and (bool(goal.steps) or goal.question is not None)
    return text if is_said and not is_cut_off(text) and not _lacks_a_place(goal, words) else None


def _lacks_a_place(goal: Goal, words: list[str]) -> bool:
    """Whether something is to be put nowhere: typed, that means down here; heard, the rest was probably lost."""
    return any(step.goes_nowhere for step in goal.steps) and not _DOWN & set(words)
