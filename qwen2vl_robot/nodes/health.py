"""Problems of a running node → /diagnostics at 1 Hz, one entry for each subject."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from qwen2vl_robot.graph import interface
from qwen2vl_robot.graph.conversions import stamp_from_ns
from qwen2vl_robot.perception.camera_check import CameraSeen

_log = logging.getLogger(__name__)
_SHOWN_S = 10.0  # a problem that is not reported again is shown this long
_MAX_TEXT = 300
_MAX_SUBJECTS = 50


class Level(IntEnum):
    """Levels of diagnostic_msgs/msg/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


_SEVERITY = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(frozen=True, slots=True)
class Problem:
    """The latest problem of one subject, such as "camera" or "instruction".

    Attributes:
        count: how often it was reported.
        seen_s: monotonic time of the latest report.
    """

    level: Level
    text: str
    count: int
    seen_s: float


class Health:
    """Collects problems from any thread and publishes them once a second."""

    def __init__(self, graph: interface.Graph, *, facts: Callable[[], dict[str, str]]) -> None:
        """Prepare the reports; `start` begins them.

        Args:
            facts: returns further keys and values of every report.
        """
        self._graph, self._facts = graph, facts
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}
        self._publisher = graph.publisher(interface.DIAGNOSTICS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="diagnostics", daemon=True)

    def start(self) -> None:
        """Start to publish."""
        self._thread.start()

    def warn(self, subject: str, text: str) -> None:
        """Note a problem with which the node keeps running."""
        self._note(subject, Level.WARN, text)

    def error(self, subject: str, text: str) -> None:
        """Note that something broke; this only reports it, the caller stops what moves."""
        self._note(subject, Level.ERROR, text)

    def on_camera(self, seen: CameraSeen) -> None:
        """Note whether the arm confirms the camera's pose."""
        if seen.is_off:
            self.error("camera check", seen.describe())
        elif not seen.is_checked:
            self.warn("camera check", seen.describe())
        else:
            self.fine("camera check")

    def fine(self, subject: str) -> None:
        """Clear the problem of a subject."""
        if subject in self._problems:
            with self._lock:
                self._problems.pop(subject, None)

    def problems(self) -> dict[str, Problem]:
        """Return the current problems by subject."""
        now_s = time.monotonic()
        with self._lock:
            self._problems = {s: t for s, t in self._problems.items() if now_s - t.seen_s < _SHOWN_S}
            return dict(self._problems)

    def close(self) -> None:
        """Stop publishing."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _note(self, subject: str, level: Level, text: str) -> None:
        with self._lock:
            before = self._problems.get(subject)
            if before is None and len(self._problems) >= _MAX_SUBJECTS:
                return
            count = 1 if before is None else before.count + 1
            self._problems[subject] = Problem(level, text[:_MAX_TEXT], count, time.monotonic())
        _log.log(_SEVERITY[level], "%s: %s", subject, text[:_MAX_TEXT])

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            for problem in self._graph.problems():
                self.warn("graph", problem)
            self._publisher.publish(self._report())

    def _report(self) -> interface.Message:
        make = self._graph.message
        problems = self.problems()
        facts = [make("diagnostic_msgs/msg/KeyValue")(key=k, value=v) for k, v in self._facts().items()]
        worst = max((t.level for t in problems.values()), default=Level.OK)
        entries = [self._status("controller", worst, "running" if worst is Level.OK else "see below", facts)]
        for subject, problem in sorted(problems.items()):
            times = make("diagnostic_msgs/msg/KeyValue")(key="times", value=str(problem.count))
            entries.append(self._status(subject, problem.level, problem.text, [times]))
        stamp = stamp_from_ns(make, self._graph.now_ns())
        head = make("std_msgs/msg/Header")(stamp=stamp, frame_id="")
        return make("diagnostic_msgs/msg/DiagnosticArray")(header=head, status=entries)

    def _status(self, subject: str, level: Level, text: str, values: list[interface.Message]) -> interface.Message:
        kind = self._graph.message("diagnostic_msgs/msg/DiagnosticStatus")
        ok = kind().level  # an int over DDS, one byte in rclpy
        value = bytes([level]) if isinstance(ok, bytes) else int(level)
        return kind(level=value, name=f"{self._graph.name}: {subject}", message=text, hardware_id="", values=values)
