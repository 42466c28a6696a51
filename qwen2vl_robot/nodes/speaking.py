"""What `~/status` says of questions and refusals → the same aloud, by espeak-ng."""

from __future__ import annotations

import logging
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from qwen2vl_robot.errors import BadInputError
from qwen2vl_robot.graph.interface import STATUS, Graph, Message
from qwen2vl_robot.messages import OutcomeKind
from qwen2vl_robot.nodes.reports import StatusReport
from qwen2vl_robot.nodes.shell import own_topic
from qwen2vl_robot.reading.stopping import mentions_stop

_log = logging.getLogger(__name__)
_MOST_CHARS = 200  # some fifteen seconds
_MOST_S = 40.0
_WAITING = 3  # texts; what comes later than that is no answer any more
_COMMAND = ("espeak-ng", "--stdin")
_APPROVE = "A person must approve this by hand. My voice and yours cannot."
_SPOKEN = {OutcomeKind.ASKED: "", OutcomeKind.ANSWERED: "", OutcomeKind.REFUSED: "No. "}


class Speaker:
    """Says one text after the other, in a thread of its own.

    Args:
        command: reads a text from standard input and returns when it is said.

    Raises:
        BadInputError: the command is not installed.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        if shutil.which(command[0]) is None:
            raise BadInputError(
                f"speaks: true needs {command[0]}; run: apt-get install {command[0]}, or set it to false"
            )
        self._command = tuple(command)
        self._texts: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._work, name="speaker", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Say a text after those that wait; leave it out where too many wait, or where it could stop the robot."""
        text = text[:_MOST_CHARS].strip()
        if not text or mentions_stop(text):  # the microphone may hear it
            return
        try:
            self._texts.put_nowait(text)
        except queue.Full:
            _log.info("not said aloud, as others wait: %s", text)

    def is_speaking(self) -> bool:
        """Return whether something is being said, or is about to be."""
        return self._busy.is_set() or not self._texts.empty()

    def close(self) -> None:
        """End after what is being said; what waits is dropped."""
        while not self._texts.empty():
            self._texts.get_nowait()
        self._texts.put(None)
        self._thread.join(_MOST_S)

    def _work(self) -> None:
        while True:
            text = self._texts.get()
            if text is None:
                return
            self._busy.set()
            try:
                subprocess.run(self._command, input=text.encode(), capture_output=True, check=True, timeout=_MOST_S)
            except (OSError, subprocess.SubprocessError) as error:
                _log.warning("could not be said aloud (%s): %s", error, text)
            finally:
                self._busy.clear()


def talk_back(graph: Graph, speaker: Speaker) -> None:
    """Say aloud what the controller in this namespace asks, answers and refuses from now on."""
    news = News(speaker.say)
    graph.subscribe(own_topic(STATUS), news.take)


class News:
    """Finds in each status what is new and worth saying; the first one only says where things stand."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._before: StatusReport | None = None

    def take(self, message: Message) -> None:
        """Take a message of `~/status`; one that is none is left out."""
        try:
            now = StatusReport.model_validate_json(message.data)
        except ValidationError as error:
            _log.warning("~/status cannot be read: %d problems", error.error_count())
            return
        before, self._before = self._before, now
        if before is None:
            return
        if now.last_task is not None and now.tasks > before.tasks and now.last_task.outcome in _SPOKEN:
            self._say(_SPOKEN[now.last_task.outcome] + ". ".join(now.last_task.reasons[:2]))
        if now.last_refusal and now.refused_instructions > before.refused_instructions:
            self._say(f"No. {now.last_refusal}")
        if now.awaits and now.awaits != before.awaits:
            self._say(_APPROVE)
