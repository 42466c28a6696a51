"""What goes wrong while a node runs → /diagnostics at 1 Hz, each trouble under the name of what it concerns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import stamp_from_ns

_log = logging.getLogger(__name__)
_SHOWN_S = 10.0  # a trouble that does not come again is shown this long
_MAX_TEXT = 300
_MAX_SUBJECTS = 50


class Level(IntEnum):
    """Of diagnostic_msgs/msg/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


_SEVERITY = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(frozen=True, slots=True)
class Trouble:
    """One subject ("camera", "stop", "instruction") and its latest report."""

    level: Level
    text: str
    count: int
    seen_s: float


class Health:
    """Collects troubles from any thread and publishes them once a second."""

    def __init__(self, graph: interface.Graph, *, facts: Callable[[], dict[str, str]]) -> None:
        """Args:
        facts: what every report also tells, as key and value.
        """
        self._graph, self._facts = graph, facts
        self._lock = threading.Lock()
        self._troubles: dict[str, Trouble] = {}
        self._publisher = graph.publisher(interface.DIAGNOSTICS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="diagnostics", daemon=True)

    def start(self) -> None:
        """Report from now on."""
        self._thread.start()

    def warn(self, subject: str, text: str) -> None:
        """Something is not as it should be, and the node goes on without it."""
        self._note(subject, Level.WARN, text)

    def error(self, subject: str, text: str) -> None:
        """Something broke; no motion while it lasts."""
        self._note(subject, Level.ERROR, text)

    def fine(self, subject: str) -> None:
        """What was wrong with it is over."""
        if subject in self._troubles:
            with self._lock:
                self._troubles.pop(subject, None)

    def troubles(self) -> dict[str, Trouble]:
        """What is wrong now, by subject."""
        now_s = time.monotonic()
        with self._lock:
            self._troubles = {s: t for s, t in self._troubles.items() if now_s - t.seen_s < _SHOWN_S}
            return dict(self._troubles)

    def close(self) -> None:
        """End the reports."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _note(self, subject: str, level: Level, text: str) -> None:
        with self._lock:
            before = self._troubles.get(subject)
            if before is None and len(self._troubles) >= _MAX_SUBJECTS:
                return
            count = 1 if before is None else before.count + 1
            self._troubles[subject] = Trouble(level, text[:_MAX_TEXT], count, time.monotonic())
        _log.log(_SEVERITY[level], "%s: %s", subject, text[:_MAX_TEXT])

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            for told in self._graph.problems():
                self.warn("graph", told)
            self._publisher.publish(self._report())

    def _report(self) -> interface.Message:
        make = self._graph.message
        troubles = self.troubles()
        facts = [make("diagnostic_msgs/msg/KeyValue")(key=k, value=v) for k, v in self._facts().items()]
        worst = max((t.level for t in troubles.values()), default=Level.OK)
        entries = [self._status("controller", worst, "running" if worst is Level.OK else "see below", facts)]
        for subject, trouble in sorted(troubles.items()):
            times = make("diagnostic_msgs/msg/KeyValue")(key="times", value=str(trouble.count))
            entries.append(self._status(subject, trouble.level, trouble.text, [times]))
        stamp = stamp_from_ns(make, self._graph.now_ns())
        head = make("std_msgs/msg/Header")(stamp=stamp, frame_id="")
        return make("diagnostic_msgs/msg/DiagnosticArray")(header=head, status=entries)

    def _status(self, subject: str, level: Level, text: str, values: list[interface.Message]) -> interface.Message:
        kind = self._graph.message("diagnostic_msgs/msg/DiagnosticStatus")
        ok = kind().level  # an int over DDS, one byte in rclpy
        made = bytes([level]) if isinstance(ok, bytes) else int(level)
        return kind(level=made, name=f"{self._graph.name}: {subject}", message=text, hardware_id="", values=values)
